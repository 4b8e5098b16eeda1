//! The local models of a recipe, by their names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde_json::Value;
use serde_json::json;

use crate::build::local::chat::Chat;
use crate::build::local::whisper::Whisper;
use crate::error::Error;
use crate::error::Result;

/// Goes up whenever the same files would give other answers.
const FORMAT: u32 = 2;

/// Files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Folder of a checkpoint, or a GGUF file.
    pub path: PathBuf,
    /// Hash of all files that its answers depend on.
    pub hash: String,
}

/// Models that candle-transformers runs on the CPU.
pub struct Models {
    models: BTreeMap<String, Model>,
    chats: Mutex<BTreeMap<String, Arc<Chat>>>,
}

impl Models {
    /// No model.
    pub fn none() -> Self {
        Self::new(BTreeMap::new())
    }

    /// Models by their names in the recipe.
    pub fn new(models: BTreeMap<String, Model>) -> Self {
        Self {
            models,
            chats: Mutex::default(),
        }
    }

    fn model(&self, name: &str) -> Result<&Model> {
        self.models
            .get(name)
            .ok_or_else(|| Error::bug(format!("the local model `{name}` was not found")))
    }

    /// All that a model's answers depend on, except the question; null for a model that is not
    /// open.
    pub(crate) fn identity(&self, name: &str) -> Value {
        match self.models.get(name) {
            Some(model) => json!(["local", FORMAT, model.hash]),
            None => Value::Null,
        }
    }

    /// The language model of a name. Equal names share one model.
    ///
    /// # Errors
    /// As [`Chat::open`].
    pub(crate) fn chat(&self, name: &str) -> Result<Arc<Chat>> {
        let mut chats = self.chats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chat) = chats.get(name) {
            return Ok(chat.clone());
        }
        let chat = Arc::new(Chat::open(&self.model(name)?.path)?);
        chats.insert(name.to_owned(), chat.clone());
        Ok(chat)
    }

    /// The Whisper of a name.
    ///
    /// # Errors
    /// As [`Whisper::open`].
    pub(crate) fn whisper(&self, name: &str) -> Result<Whisper> {
        Whisper::open(&self.model(name)?.path)
    }
}
