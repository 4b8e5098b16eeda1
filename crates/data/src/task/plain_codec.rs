//! Plain text as the token ids of one checkpoint, and ids as text.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::task::special::SpecialNames;
use crate::task::vocabulary;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The tokenizer of a checkpoint.
pub struct PlainCodec {
    tokenizer: Tokenizer,
}

impl PlainCodec {
    /// Reads the tokenizer of a checkpoint's folder.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub fn load(model_dir: &Path) -> Result<Self> {
        Self::new(vocabulary::tokenizer(model_dir)?, model_dir)
    }

    /// Takes the contents of a `tokenizer.json` that another file holds.
    ///
    /// # Errors
    /// Contents that are no tokenizer.
    pub fn from_json(json: &Value, place: &Path) -> Result<Self> {
        let tokenizer =
            Tokenizer::from_bytes(json.to_string()).map_err(|error| unreadable(error, place))?;
        Self::new(tokenizer, place)
    }

    fn new(mut tokenizer: Tokenizer, place: &Path) -> Result<Self> {
        // Nothing is ever cut or padded here, whatever the file was saved with.
        tokenizer
            .with_truncation(None)
            .map_err(|error| unreadable(error, place))?
            .with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        Ok(Self { tokenizer })
    }

    /// Special tokens by their names.
    pub(crate) fn special_names(&self) -> Result<SpecialNames> {
        SpecialNames::of(&self.tokenizer)
    }

    /// Id of a token; none if the vocabulary lacks it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Returns whether the vocabulary has an id.
    pub(crate) fn has_id(&self, id: u32) -> bool {
        self.tokenizer.id_to_token(id).is_some()
    }

    /// Ids of a text, whose special tokens are plain text.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|error| {
            Error::input(format!("the tokenizer fails on {text:?}: {error}")).caused_by(error)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Only a decoder that is itself broken fails; the pieces as the vocabulary spells them are
        // the best left to show.
        self.tokenizer.decode(ids, true).unwrap_or_else(|_| {
            ids.iter()
                .filter_map(|&id| self.tokenizer.id_to_token(id))
                .collect()
        })
    }
}

fn unreadable(error: tokenizers::Error, place: &Path) -> Error {
    Error::input(format!("not a tokenizer we can read: {error}"))
        .caused_by(error)
        .at_path(place)
}
