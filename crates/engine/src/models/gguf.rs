//! Head of a GGUF file: its metadata, and its vocabulary as a `tokenizer.json`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::gguf_file::Value as Stored;
use serde_json::Value;
use serde_json::json;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::panics;
use maqam_base::qwen2_tokenizer;

/// Kinds of tokens.
const NORMAL: i64 = 1;
/// Added to the vocabulary without being special.
const USER_DEFINED: i64 = 4;
/// Never appears in texts.
const UNUSED: i64 = 5;

/// An opened file.
pub struct Head {
    /// The file.
    pub path: PathBuf,
    /// Metadata and places of tensors.
    pub content: Content,
}

impl Head {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// A file that is not GGUF.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(|e| Error::io(path, "read", e))?);
        let content = contained(|| Content::read(&mut file))
            .map_err(|e| e.at("not a GGUF file").at_path(path))?;
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// A text of the head.
    pub fn text(&self, key: &str) -> Option<String> {
        let found = self.content.metadata.get(key)?;
        found.to_string().ok().cloned()
    }

    /// A number of the head.
    ///
    /// # Errors
    /// A number that is missing.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.content
            .metadata
            .get(key)
            .and_then(as_number)
            .ok_or_else(|| Error::input(format!("there is no number `{key}`")).at_path(&self.path))
    }

    fn list(&self, key: &str) -> Result<&[Stored]> {
        let found = self.content.metadata.get(key);
        found
            .and_then(|value| value.to_vec().ok())
            .map(Vec::as_slice)
            .ok_or_else(|| Error::input(format!("there is no list `{key}`")).at_path(&self.path))
    }

    /// The vocabulary as a `tokenizer.json` of Qwen2: byte-level BPE, added tokens apart, padding
    /// left out.
    ///
    /// # Errors
    /// A vocabulary of another kind.
    pub fn tokenizer(&self) -> Result<Value> {
        let kind = self.text("tokenizer.ggml.model").unwrap_or_default();
        let splitting = self
            .text("tokenizer.ggml.pre")
            .unwrap_or_else(|| "qwen2".to_owned());

        if kind != "gpt2" || splitting != "qwen2" {
            return Err(Error::input(format!(
                "its vocabulary is `{kind}` split as `{splitting}`, expected gpt2 and qwen2"
            ))
            .at_path(&self.path)
            .hint("give the Hugging Face folder of the model, which holds a tokenizer.json"));
        }

        let texts = self.list("tokenizer.ggml.tokens")?;
        let kinds = self.list("tokenizer.ggml.token_type")?;

        let mut vocab = serde_json::Map::new();
        let mut added = Vec::new();
        for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
            let text = text.to_string().map_err(|e| Error::from(e).in_input())?;
            match as_number(kind).unwrap_or_default() as i64 {
                NORMAL => {
                    vocab.insert(text.clone(), id.into());
                }
                UNUSED => {}
                kind => added.push(added_token(id, text, kind != USER_DEFINED)),
            }
        }

        let merges: Vec<Value> = self
            .list("tokenizer.ggml.merges")?
            .iter()
            .filter_map(|merge| merge.to_string().ok()?.split_once(' '))
            .map(|(a, b)| json!([a, b]))
            .collect();

        Ok(qwen2_tokenizer::json_of(vocab, merges, added))
    }

    /// Ids of the tokens that end a text, and of padding.
    pub fn ends(&self) -> (Vec<u64>, Option<u64>) {
        let id = |key: &str| self.number(key).ok().map(|id| id as u64);
        let end = id("tokenizer.ggml.eos_token_id");
        (
            end.into_iter().collect(),
            id("tokenizer.ggml.padding_token_id"),
        )
    }
}

/// Runs candle's reader on a file that may be damaged; a panic of it is an error like any other.
///
/// # Errors
/// The error or panic of the reader.
pub fn contained<T>(read: impl FnOnce() -> candle_core::Result<T>) -> Result<T> {
    match panics::contain(read) {
        Ok(read) => read.map_err(|e| Error::from(e).in_input()),
        Err(panic) => Err(Error::input(panic.message)),
    }
}

/// An entry of `added_tokens`.
pub fn added_token(id: usize, text: &str, is_special: bool) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": is_special
    })
}

fn as_number(value: &Stored) -> Option<f64> {
    Some(match value {
        Stored::U8(n) => f64::from(*n),
        Stored::I8(n) => f64::from(*n),
        Stored::U16(n) => f64::from(*n),
        Stored::I16(n) => f64::from(*n),
        Stored::U32(n) => f64::from(*n),
        Stored::I32(n) => f64::from(*n),
        Stored::U64(n) => *n as f64,
        Stored::I64(n) => *n as f64,
        Stored::F32(n) => f64::from(*n),
        Stored::F64(n) => *n,
        _ => return None,
    })
}
