//! The tokenizer of a checkpoint: `tokenizer.json`, or the files that Qwen's slow tokenizer stores.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::task::template::read_json;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::qwen2_tokenizer;

/// Ids by piece and merged pieces. Original checkpoints of Qwen3-ASR have them in place of a
/// `tokenizer.json`.
const SLOW: [&str; 2] = ["vocab.json", "merges.txt"];

/// Reads the tokenizer of a checkpoint's folder.
///
/// # Errors
/// A missing or unreadable file.
pub fn tokenizer(model_dir: &Path) -> Result<Tokenizer> {
    let path = model_dir.join("tokenizer.json");
    if path.is_file() {
        return Tokenizer::from_file(&path).map_err(|error| unreadable(error, &path));
    }

    if SLOW.iter().all(|name| model_dir.join(name).is_file()) {
        let json = from_slow(model_dir)?.to_string();
        let place = model_dir.join(SLOW[0]);
        return Tokenizer::from_bytes(json.as_bytes()).map_err(|error| unreadable(error, &place));
    }

    Err(Error::input("there is no tokenizer")
        .at_path(&path)
        .hint("a checkpoint folder holds tokenizer.json beside config.json"))
}

fn unreadable(error: tokenizers::Error, path: &Path) -> Error {
    Error::input(format!("not a tokenizer we can read: {error}"))
        .caused_by(error)
        .at_path(path)
}

/// A `tokenizer.json` from the vocabulary, the merges and the tokens that `tokenizer_config.json`
/// adds.
fn from_slow(model_dir: &Path) -> Result<Value> {
    let [vocab, merges] = SLOW.map(|name| model_dir.join(name));
    let vocab: Map<String, Value> = match read_json(&vocab)? {
        Some(Value::Object(vocab)) => vocab,
        _ => return Err(Error::input("holds no ids by piece").at_path(&vocab)),
    };
    let text = files::read_text(&merges)?;
    let lines = text.lines().enumerate();
    // A later line may begin with `#` as well: it is a piece like any other.
    let lines =
        lines.filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    let pair = |(i, line): (usize, &str)| {
        let (first, second) = line.split_once(' ').ok_or_else(|| {
            let place = format!("{}:{}", merges.display(), i + 1);
            Error::input("not two pieces with a space between them").at(place)
        })?;
        Ok(Value::from(vec![first, second]))
    };
    let pairs = lines.map(pair).collect::<Result<Vec<_>>>()?;
    let config = read_json(&model_dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let mut added: Vec<(u64, Value)> = config["added_tokens_decoder"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| {
            let id = id.parse().ok()?;
            let mut token = token.clone();
            token
                .as_object_mut()?
                .insert("id".to_owned(), Value::from(id));
            Some((id, token))
        })
        .collect();
    added.sort_by_key(|(id, _)| *id);
    let added = added.into_iter().map(|(_, token)| token).collect();
    Ok(qwen2_tokenizer::json_of(vocab, pairs, added))
}
