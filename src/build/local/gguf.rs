//! A GGUF file of a language model: architecture, tokenizer and chat template.

use std::path::Path;

use candle_core::quantized::gguf_file;

use crate::build::local::config::Architecture;
use crate::error::Result;
use crate::models::gguf::Head;
use crate::task::ChatCodec;
use crate::task::PlainCodec;

/// Type in which candle-transformers computes the rotation angles of Qwen3: f32. Without this key it takes f16, which has no room for large
/// angles.
const ANGLES: (&str, u32) = ("general.dtype", 0);

/// A file with its metadata.
pub(super) struct Gguf {
    pub(super) head: Head,
    pub(super) architecture: Architecture,
}

impl Gguf {
    /// Reads the metadata of a file.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another architecture.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut head = Head::open(path)
            .map_err(|e| e.or_hint("give the GGUF file of a Qwen2.5 or Qwen3 instruct model"))?;
        let name = head.text("general.architecture").unwrap_or_default();
        let architecture = Architecture::of(&name).map_err(|e| e.at_path(path))?;
        let (key, value) = ANGLES;
        let metadata = &mut head.content.metadata;
        metadata.insert(key.to_owned(), gguf_file::Value::U32(value));
        Ok(Self { head, architecture })
    }

    /// Longest sequence, in tokens.
    ///
    /// # Errors
    /// A file that does not state it.
    pub(super) fn context(&self) -> Result<usize> {
        let key = match self.architecture {
            Architecture::Qwen2 => "qwen2.context_length",
            Architecture::Qwen3 => "qwen3.context_length",
        };
        Ok(self.head.number(key)? as usize)
    }

    /// Tokenizer and chat template.
    ///
    /// # Errors
    /// A vocabulary of another kind than Qwen's.
    pub(super) fn codec(&self) -> Result<ChatCodec> {
        let path = &self.head.path;
        let (ends, _) = self.head.ends();
        ChatCodec::from_parts(
            PlainCodec::from_json(&self.head.tokenizer()?, path)?,
            self.head.text("tokenizer.chat_template"),
            ends.into_iter().map(|id| id as u32).collect(),
            path,
        )
    }
}
