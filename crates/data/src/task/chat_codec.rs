//! Conversations of text alone as the token ids of a language model, and its answers as text.

use std::path::Path;

use serde_json::Value;

use crate::Message;
use crate::task::plain_codec::PlainCodec;
use crate::task::special::Part;
use crate::task::special::SpecialNames;
use crate::task::template::ChatTemplate;
use crate::task::template::Piece;
use crate::task::template::read_json;
use maqam_base::error::Result;

/// The variable by which templates of Qwen3 leave out thoughts.
const THINKING: &str = "enable_thinking";

/// The tokenizer and chat template of a language model.
pub struct ChatCodec {
    codec: PlainCodec,
    template: ChatTemplate,
    special_names: SpecialNames,
    ends: Vec<u32>,
}

impl ChatCodec {
    /// Reads the tokenizer, the chat template and the end tokens of a checkpoint's folder.
    ///
    /// # Errors
    /// A missing or unreadable file; a checkpoint without an end token.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let config = read_json(&model_dir.join("config.json"))?.unwrap_or_default();
        let generation = read_json(&model_dir.join("generation_config.json"))?.unwrap_or_default();
        // transformers asks config.json only where generation_config.json says nothing.
        let ends = [&generation, &config]
            .into_iter()
            .map(|file| token_ids(&file["eos_token_id"]))
            .find(|ids| !ids.is_empty());
        Self::new(
            PlainCodec::load(model_dir)?,
            ChatTemplate::load(model_dir)?,
            ends.unwrap_or_default(),
        )
    }

    /// Takes a tokenizer, the source of a template and end tokens that another file holds. Without
    /// a source, the template is ChatML.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn from_parts(
        codec: PlainCodec,
        template: Option<String>,
        ends: Vec<u32>,
        place: &Path,
    ) -> Result<Self> {
        Self::new(codec, ChatTemplate::of_source(template, place)?, ends)
    }

    fn new(codec: PlainCodec, template: ChatTemplate, mut ends: Vec<u32>) -> Result<Self> {
        for name in ["<|im_end|>", "<|endoftext|>"] {
            ends.extend(codec.id_of(name));
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(Self {
            special_names: codec.special_names()?,
            template: template.with_variable(THINKING, Value::Bool(false)),
            codec,
            ends,
        })
    }

    /// Ids of a conversation, up to where the model answers.
    ///
    /// Special tokens of the template are special; those inside messages are plain text. Models
    /// that can think are told not to.
    ///
    /// # Errors
    /// A template that fails, or that does not say each message once, unchanged and in order.
    pub fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut run = String::new();
        for piece in self.template.render(messages, true)? {
            match &piece {
                Piece::Data { text, .. } => run.push_str(text),
                Piece::Template(text) => {
                    for part in self.special_names.split(text) {
                        match part {
                            Part::Plain(text) => run.push_str(text),
                            Part::Special(id) => {
                                self.flush(&mut run, &mut ids)?;
                                ids.push(id);
                            }
                        }
                    }
                }
            }
        }
        self.flush(&mut run, &mut ids)?;
        Ok(ids)
    }

    fn flush(&self, run: &mut String, ids: &mut Vec<u32>) -> Result<()> {
        if !run.is_empty() {
            ids.extend(self.codec.encode(run)?);
            run.clear();
        }
        Ok(())
    }

    /// The text of some ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.codec.decode(ids)
    }

    /// Tokens that end an answer, sorted.
    pub fn ids_that_end(&self) -> &[u32] {
        &self.ends
    }
}

/// One id, a list of them, or none.
fn token_ids(value: &Value) -> Vec<u32> {
    let ids = match value {
        Value::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    };
    ids.iter()
        .filter_map(Value::as_u64)
        .map(|id| id as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn ids_equal_hugging_faces() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/local_engines");
        let expected = read_json(&folder.join("expected.json")).unwrap().unwrap();
        for name in ["qwen2", "qwen3"] {
            let codec = ChatCodec::load(&folder.join(name)).unwrap();
            let expected = &expected[name];
            let said = |i: usize| expected["conversation"][i]["content"].as_str().unwrap();
            let messages = [
                Message::new(Role::System, said(0)),
                Message::new(Role::User, said(1)),
            ];
            let ids: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
            assert_eq!(codec.encode(&messages).unwrap(), ids, "{name}");
            let greedy: Vec<u32> = serde_json::from_value(expected["greedy"].clone()).unwrap();
            assert_eq!(codec.decode(&greedy), expected["greedy_text"], "{name}");
            assert_eq!(codec.ids_that_end().len(), 2);

            // Special tokens of a text are plain text: only the template ends turns.
            let sly = [Message::new(Role::User, "<|im_end|>")];
            let ids = codec.encode(&sly).unwrap();
            let end = codec.codec.id_of("<|im_end|>").unwrap();
            assert_eq!(ids.iter().filter(|id| **id == end).count(), 1);
        }
    }
}
