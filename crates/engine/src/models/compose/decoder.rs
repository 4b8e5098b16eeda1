//! The decoder of a composition: a Qwen2 or Qwen2.5 text model in a Hugging Face folder, or in a
//! GGUF file.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;

use crate::models::compose::gguf::Gguf;
use crate::models::gguf::added_token;
use crate::nn::checkpoint;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::naming::NameForm;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// As in `Qwen2ForCausalLM`.
const CAUSAL: NameForm = NameForm {
    name: "named as in the text model",
    beginnings: &[
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ],
};

/// Fields of a text model's configuration that describe the model.
const FIELDS: [&str; 22] = [
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
];

/// A Qwen2 text model.
pub struct Decoder {
    /// The `text_config`.
    pub config: Value,
    /// The `tokenizer.json`.
    pub tokenizer: Value,
    /// The `generation_config.json`, as far as it says where texts end.
    pub generation: Value,
    pub(super) source: Source,
}

/// Source of the weights.
pub(super) enum Source {
    Folder(Checkpoint),
    File(Gguf),
}

impl Decoder {
    /// Opens a folder or a GGUF file.
    ///
    /// # Errors
    /// Another kind of model; missing or damaged files.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::of_file(path);
        }
        let gguf = |name: &Path| {
            name.extension()
                .is_some_and(|extension| extension == "gguf")
        };
        if !path.join("config.json").is_file() {
            let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, "list", e))?;
            let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            if let Some(file) = files.iter().find(|file| gguf(file)) {
                return Self::of_file(file);
            }
        }
        Self::of_folder(path)
    }

    fn of_folder(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            checkpoint::check_inside(dir, &path)?;
            checkpoint::read_json(&path)
        };
        let hint = "`--decoder` is the folder of a Qwen2 or Qwen2.5 text model, or a GGUF file";
        let root = read("config.json").map_err(|e| e.or_hint(hint))?;

        if root["model_type"] != "qwen2" {
            return Err(Error::input(format!(
                "`model_type` is {}, expected qwen2",
                root["model_type"]
            ))
            .at_path(&dir.join("config.json"))
            .hint(hint));
        }

        let mut config: Map<String, Value> = FIELDS
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), root.get(*field)?.clone())))
            .collect();
        config.retain(|_, value| !value.is_null());

        let generation = match dir.join("generation_config.json").is_file() {
            true => read("generation_config.json")?,
            false => root.clone(),
        };

        Ok(Self {
            config: config.into(),
            tokenizer: read("tokenizer.json")?,
            generation: ends(&generation),
            source: Source::Folder(Checkpoint::open(dir, &[CAUSAL])?),
        })
    }

    fn of_file(path: &Path) -> Result<Self> {
        let file = Gguf::open(path)?;
        let (ends, padding) = file.head.ends();
        let mut generation = Map::new();
        generation.insert("eos_token_id".to_owned(), ends.into());
        if let Some(padding) = padding {
            generation.insert("pad_token_id".to_owned(), padding.into());
        }
        Ok(Self {
            config: file.config()?,
            tokenizer: file.head.tokenizer()?,
            generation: generation.into(),
            source: Source::File(file),
        })
    }

    /// Value of a GGUF file's own key.
    pub fn said(&self, key: &str) -> Option<String> {
        match &self.source {
            Source::Folder(_) => None,
            Source::File(file) => file.head.text(key),
        }
    }

    /// The ids of some special tokens: those that the vocabulary has, and the next free ones for
    /// the others, which are added to it; and the first of the latter.
    ///
    /// # Errors
    /// A tokenizer.json without a vocabulary.
    pub fn add_tokens<const N: usize>(&mut self, texts: [&str; N]) -> Result<([usize; N], usize)> {
        let id_of = |token: &Value| token["id"].as_u64().unwrap_or_default() as usize;
        let vocab = self.tokenizer["model"]["vocab"]
            .as_object()
            .ok_or_else(|| Error::input("tokenizer.json has no `model.vocab`"))?;
        let largest = vocab
            .values()
            .filter_map(Value::as_u64)
            .map(|id| id as usize);
        let added = self.tokenizer["added_tokens"].as_array();
        let added = added.map_or(&[][..], Vec::as_slice);
        let first_new = largest.chain(added.iter().map(id_of)).max().unwrap_or(0) + 1;
        let mut next = first_new;
        let mut ids = [0; N];
        let mut fresh = Vec::new();
        for (id, text) in ids.iter_mut().zip(texts) {
            let known = added.iter().find(|token| token["content"] == text);
            *id = known.map_or(next, id_of);
            if known.is_none() {
                fresh.push(added_token(next, text, true));
                next += 1;
            }
        }
        match &mut self.tokenizer["added_tokens"] {
            Value::Array(added) => added.extend(fresh),
            other => *other = fresh.into(),
        }
        Ok((ids, first_new))
    }
}

/// The fields that say where texts end.
fn ends(config: &Value) -> Value {
    let fields = ["bos_token_id", "eos_token_id", "pad_token_id"];
    let said = fields.into_iter().filter_map(|field| {
        let value = config.get(field).filter(|value| !value.is_null())?;
        Some((field.to_owned(), value.clone()))
    });
    Value::Object(said.collect())
}
