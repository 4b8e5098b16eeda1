//! Summaries from a file of predictions, with the texts that they are of, and their grades as a
//! file.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::eval::judge::Outcome;
use crate::eval::judge::Verdicts;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Rubric;
use crate::files;
use crate::jsonl;
use crate::records::grades::GradedSummary;
use crate::records::grades::Grading;
use crate::records::grades::JudgeTokens;
use crate::records::grades::UngradedSummary;

/// A row of predictions with whatever else it holds.
type Fields = Map<String, Value>;

/// Reads the summaries to grade, in the order of the predictions. `sources` is a manifest, or a
/// field of the predictions.
///
/// # Errors
/// Rows without an id, a prediction or a source, and ids that come twice; each with file and line.
pub fn read(predictions: &Path, sources: &str) -> Result<Vec<Item>> {
    let sources = Sources::open(sources)?;
    let rows: Vec<(usize, Fields)> = jsonl::read(predictions)?;
    let mut lines = HashMap::new();
    rows.iter()
        .map(|(line, row)| {
            let place = format!("{}:{line}", predictions.display());
            let item = sources.item(row).map_err(|e| e.at(&place))?;
            match lines.insert(item.id.clone(), line) {
                Some(first) => Err(Error::input(format!(
                    "id `{}` was predicted before, in line {first}",
                    item.id
                ))
                .at(place)),
                None => Ok(item),
            }
        })
        .collect()
}

/// Where the texts are that were summarised.
struct Sources<'a> {
    written: &'a str,
    /// Texts of a manifest by id; none where `written` is a field.
    texts: Option<HashMap<String, String>>,
}

impl<'a> Sources<'a> {
    fn open(written: &'a str) -> Result<Self> {
        let path = Path::new(written);
        let is_file = path.is_file()
            || path
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        let texts = if is_file { Some(texts(path)?) } else { None };
        Ok(Self { written, texts })
    }

    fn item(&self, row: &Fields) -> Result<Item> {
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let needed = |name: &str| {
            text(name).ok_or_else(|| Error::input(format!("`{name}` is missing or no text")))
        };
        let id = needed("id")?;
        let source = match &self.texts {
            Some(texts) => texts.get(&id).cloned().ok_or_else(|| {
                Error::input(format!("row `{id}` has no source in {}", self.written))
                    .hint("give the manifest that the predictions were made from")
            })?,
            None => self.of_field(row)?,
        };
        Ok(Item {
            id,
            source,
            summary: needed("prediction")?,
            reference: text("reference").filter(|text| !text.is_empty()),
        })
    }

    /// The text that a row has itself.
    fn of_field(&self, row: &Fields) -> Result<String> {
        let mut path = self.written.split('.');
        let value = path
            .next()
            .and_then(|name| row.get(name))
            .and_then(|first| path.try_fold(first, |value, name| value.get(name)));
        value
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| {
                Error::input(format!("the row has no text under `{}`", self.written))
                    .hint("--sources is a file, or a field of the predictions")
            })
    }
}

/// The texts of a manifest by id; its audio is not looked for.
fn texts(path: &Path) -> Result<HashMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Source {
        id: String,
        text: String,
    }
    Ok(jsonl::read::<Source>(path)?
        .into_iter()
        .map(|(_, row)| (row.id, row.text))
        .collect())
}

/// Writes the grades as JSON lines; `model` gave them.
///
/// # Errors
/// The disk's.
pub fn write(
    path: &Path,
    items: &[Item],
    verdicts: &Verdicts,
    rubric: &Rubric,
    model: &str,
) -> Result<()> {
    let mut text = String::new();
    for (item, outcome) in items.iter().zip(&verdicts.outcomes) {
        let line = line(item, outcome, rubric, model);
        text += &(serde_json::to_string(&line).map_err(Error::bug_from)? + "\n");
    }
    files::write_atomic(path, text.as_bytes())
}

fn line(item: &Item, outcome: &Outcome, rubric: &Rubric, model: &str) -> Grading {
    let judged = match outcome {
        Outcome::Judged(judged) => judged,
        Outcome::Unusable(fault) => {
            return Grading::Ungraded(UngradedSummary {
                id: item.id.clone(),
                grades: None,
                fault: fault.clone(),
                rubric: rubric.name.clone(),
                model: model.to_owned(),
            });
        }
    };
    let scales = rubric.scales.iter().map(|scale| scale.name.clone());
    Grading::Graded(GradedSummary {
        id: item.id.clone(),
        grades: scales.zip(judged.verdict.grades.iter().copied()).collect(),
        reason: judged.verdict.reason.clone(),
        rubric: rubric.name.clone(),
        model: model.to_owned(),
        tokens: judged.usage.map(|usage| JudgeTokens {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
        }),
    })
}
