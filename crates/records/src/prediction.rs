//! Predictions of a set, one line per row: what was asked, said and due, and what is known of the
//! row.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::files::Lines;
use maqam_base::json;
use maqam_base::jsonl;
use maqam_base::jsonl::LastLine;
use maqam_metrics::Answers;
use maqam_metrics::Pair;

/// One line of a predictions file. Readers need `id`, `prediction` and `reference` alone: other
/// programs write no more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The row's id.
    pub id: String,
    /// What was asked.
    #[serde(default)]
    pub task: String,
    /// What the model said.
    pub prediction: String,
    /// What it should have said.
    pub reference: String,
    /// What the answer was understood as; `null` where it names no label.
    #[serde(default)]
    pub answer: Option<String>,
    /// The tokens the model said.
    #[serde(default)]
    pub tokens: Vec<u32>,
    /// All that it could have said, `reference` first, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// What is known of the row:
    /// `speaker, group, dialect, gender, language, wording, seconds, label`, and the fields that
    /// the set is sliced by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub meta: Map<String, Value>,
    /// Whether it stopped at the limit of new tokens and not of itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hit_limit: bool,
    /// Number of tokens that it should have said, the end included; unknown without a model's
    /// tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_tokens: Option<usize>,
    /// Mean negative log-likelihood of these tokens, in nats, where the set asks for its loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Mean log-likelihood of each label's answer, in nats per token, the end included, where the
    /// set asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihoods: Option<BTreeMap<String, f64>>,
}

/// The length of a row's audio, in what is known of it.
pub const SECONDS: &str = "seconds";

impl Prediction {
    /// The same with the tokens of what was said.
    #[must_use]
    pub fn with_tokens(self, tokens: Vec<u32>) -> Self {
        Self { tokens, ..self }
    }

    /// The references in their order; one at least.
    pub fn all_references(&self) -> impl Iterator<Item = &str> {
        let only = self
            .references
            .is_empty()
            .then_some(self.reference.as_str());
        only.into_iter()
            .chain(self.references.iter().map(String::as_str))
    }

    /// The label the answer should have been.
    pub fn label(&self) -> &str {
        self.meta
            .get("label")
            .and_then(Value::as_str)
            .unwrap_or(&self.reference)
    }

    /// What is known of the row under a name, as text.
    pub fn known(&self, name: &str) -> Option<String> {
        match self.meta.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Length of the audio, in seconds.
    pub fn seconds(&self) -> Option<f64> {
        self.meta
            .get(SECONDS)?
            .as_f64()
            .filter(|seconds| seconds.is_finite())
    }

    /// The row as metrics take it.
    pub fn pair(&self) -> Pair<'_> {
        let mut references = self.all_references();
        let first = Pair::new(
            references.next().unwrap_or(&self.reference),
            &self.prediction,
        );
        references.fold(first, Pair::or)
    }
}

/// What predictions say of their rows without a set: texts, limits, and losses where every row has
/// one. How answers are read as labels is not theirs to say.
pub fn answers(rows: &[Prediction]) -> Answers<'_> {
    let losses = rows.iter().map(|row| {
        let tokens = row.target_tokens? as f64;
        Some([row.loss? * tokens, tokens])
    });
    Answers {
        pairs: rows.iter().map(Prediction::pair).collect(),
        labels: None,
        stopped: Some(rows.iter().map(|row| row.hit_limit).collect()),
        losses: losses.collect(),
    }
}

/// Reads the predictions of a set, passing each row to `visit` with its line.
///
/// # Errors
/// A line that is no prediction; the message names file and line.
pub fn each(path: &Path, mut visit: impl FnMut(usize, Prediction) -> Result<()>) -> Result<()> {
    jsonl::each_line(path, LastLine::Row, |number, text| {
        let row = json::parse_slice(text).map_err(|e| e.at("not a prediction"))?;
        visit(number, row)
    })?;
    Ok(())
}

/// The task that the first row of a set's predictions names; `None` where it names none or is no
/// prediction.
///
/// # Errors
/// A file that cannot be read.
pub fn first_task(path: &Path) -> Result<Option<String>> {
    let mut lines = Lines::open(path)?;
    let first = lines.next_line()?;
    let row = first.and_then(|(_, line)| serde_json::from_slice::<Prediction>(line).ok());
    Ok(row.map(|row| row.task).filter(|task| !task.is_empty()))
}

/// Reads the predictions of a set.
///
/// # Errors
/// As [`each`]; an id that comes twice.
pub fn read(path: &Path) -> Result<Vec<Prediction>> {
    let mut rows: Vec<Prediction> = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    each(path, |line, row| {
        if let Some(first) = lines.insert(row.id.clone(), line) {
            return Err(
                Error::input(format!("the id `{}` is that of line {first}", row.id))
                    .hint("a set has every row once"),
            );
        }
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// Writes the predictions of a set, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, rows: &[Prediction]) -> Result<()> {
    let lines = rows
        .iter()
        .map(|row| serde_json::to_string(row).map_err(Error::bug_from))
        .collect::<Result<Vec<_>>>()?;
    files::write_atomic(path, (lines.join("\n") + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Prediction>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words.jsonl");
        files::write_atomic(&path, text.as_bytes()).unwrap();
        read(&path)
    }

    #[test]
    fn rows_with_and_without_meta_are_read() {
        let plain = r#"{"id":"a","task":"asr","prediction":"x","reference":"y","answer":null,"tokens":[1,2]}"#;
        let full = r#"{"id":"b","task":"emotion","prediction":"sad","reference":"sad","answer":"sad","tokens":[],"meta":{"speaker":"s","seconds":1.5,"label":"sad","age":40,"x":null},"hit_limit":true,"target_tokens":3,"loss":0.5}"#;
        let rows = read_text(&format!("{plain}\n\n{full}\n")).unwrap();
        assert_eq!(
            (
                rows[0].hit_limit,
                rows[1].hit_limit,
                rows[1].seconds(),
                rows[1].label()
            ),
            (false, true, Some(1.5), "sad")
        );
        assert_eq!(
            (
                rows[1].known("age").as_deref(),
                rows[1].known("x"),
                rows[0].known("age")
            ),
            (Some("40"), None, None)
        );
    }

    #[test]
    fn a_broken_row_and_a_second_one_are_named() {
        let row = r#"{"id":"a","prediction":"x","reference":"y"}"#;
        let error = read_text(&format!("{row}\n{row}\n"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("words.jsonl:2: the id `a` is that of line 1"),
            "{error}"
        );
        let error = read_text("{\"id\":\"a\"}\n").unwrap_err().to_string();
        assert!(
            error.contains("words.jsonl:1: not a prediction") && error.contains("prediction"),
            "{error}"
        );
    }
}
