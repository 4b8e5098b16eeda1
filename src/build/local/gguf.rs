//! A GGUF file of a language model: architecture, tokenizer and chat template.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file;

use crate::build::local::config::Architecture;
use crate::error::Error;
use crate::error::Result;
use crate::models::gguf::Head;
use crate::task::ChatCodec;
use crate::task::PlainCodec;

/// Type in which candle-transformers computes the rotation angles of Qwen3: f32. Without this key
/// it takes f16, which has no room for large angles.
const ANGLES: (&str, u32) = ("general.dtype", 0);

/// Checks that no position is scaled, which candle-transformers does not compute.
///
/// # Errors
/// Scaled positions.
fn check_positions(metadata: &HashMap<String, gguf_file::Value>, name: &str) -> Result<()> {
    let number = |key: &str| {
        let value = metadata.get(&format!("{name}.{key}"))?;
        value.to_f32().ok()
    };
    let key = format!("{name}.rope.scaling.type");
    let kind = metadata.get(&key).and_then(|value| value.to_string().ok());
    let is_scaled = match kind {
        Some(kind) => kind != "none",
        None => ["rope.scaling.factor", "rope.scale_linear"]
            .iter()
            .any(|key| number(key).is_some_and(|factor| factor != 1.0 && factor != 0.0)),
    };
    if is_scaled {
        return Err(
            Error::input(format!("`{name}.rope.scaling` scales positions"))
                .hint("take a file without it, or serve the model behind an endpoint"),
        );
    }
    Ok(())
}

/// A file with its metadata.
pub(super) struct Gguf {
    pub(super) head: Head,
    pub(super) architecture: Architecture,
}

impl Gguf {
    /// Reads the metadata of a file.
    ///
    /// # Errors
    /// A file that is missing, damaged, of another architecture, or with scaled positions.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut head = Head::open(path)
            .map_err(|e| e.or_hint("give the GGUF file of a Qwen2.5 or Qwen3 instruct model"))?;
        let name = head.text("general.architecture").unwrap_or_default();
        let architecture = Architecture::of(&name).map_err(|e| e.at_path(path))?;
        check_positions(&head.content.metadata, &name).map_err(|e| e.at_path(path))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_positions_are_refused() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local_engines/qwen2.gguf");
        let metadata = Gguf::open(&path).unwrap().head.content.metadata;
        let with = |key: &str, value: gguf_file::Value| {
            let mut metadata = metadata.clone();
            metadata.insert(format!("qwen2.{key}"), value);
            check_positions(&metadata, "qwen2")
        };
        let text = |text: &str| gguf_file::Value::String(text.to_owned());
        assert!(with("rope.scaling.type", text("none")).is_ok());
        assert!(with("rope.scaling.factor", gguf_file::Value::F32(1.0)).is_ok());
        for found in [
            with("rope.scaling.type", text("yarn")),
            with("rope.scaling.factor", gguf_file::Value::F32(4.0)),
            with("rope.scale_linear", gguf_file::Value::F32(2.0)),
        ] {
            let error = found.unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("scales positions"),
                "{error}"
            );
        }
    }
}
