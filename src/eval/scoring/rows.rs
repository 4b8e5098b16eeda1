//! Rows to score: predictions and references from their files.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::json;
use crate::jsonl;
use crate::jsonl::LastLine;
use crate::metrics::Pair;
use crate::metrics::TaskKind;
use crate::task::Task;

/// One answer and what it should be.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// The row's id.
    pub id: String,
    /// Its line in the predictions file.
    pub line: usize,
    /// What was said.
    pub prediction: String,
    /// What should have been said, one text at least.
    pub references: Vec<String>,
    /// Whether generation stopped at its limit, where the file says anything of how the answer came
    /// about.
    pub hit_limit: Option<bool>,
    /// Who speaks, where the file says it.
    pub speaker: Option<String>,
    /// What must not be split apart, where the file says it.
    pub group: Option<String>,
}

impl Row {
    /// The texts to compare.
    pub fn pair(&self) -> Pair<'_> {
        let mut references = self.references.iter();
        let first = Pair::new(
            references.next().map_or("", String::as_str),
            &self.prediction,
        );
        references.fold(first, |pair, other| pair.or(other))
    }
}

/// Reads predictions, each with its references: from its own row, or from the row of the same id in
/// a file of `references`.
///
/// # Errors
/// Lines that are no JSON objects, rows without an id, a prediction or a reference, ids that come
/// twice, rows of another task, and references of other ids than the predictions'; each with file
/// and line.
pub fn read(predictions: &Path, references: Option<&Path>, task: &Task) -> Result<Vec<Row>> {
    let said = read_lines(predictions, |fields| {
        Ok((Said::new(fields, task)?, targets(fields, task.kind)?))
    })?;
    let due = references
        .map(|path| {
            read_lines(path, |fields| {
                required(targets(fields, task.kind)?, task.kind)
            })
        })
        .transpose()?;
    if let (Some(due), Some(path)) = (&due, references) {
        expect_same_ids(&said, due, predictions, path)?;
    }
    let mut due: Option<HashMap<String, Vec<String>>> = due.map(|lines| {
        lines
            .into_iter()
            .map(|line| (line.id, line.found))
            .collect()
    });

    let mut rows = Vec::with_capacity(said.len());
    for line in said {
        let (said, own) = line.found;
        let references = match &mut due {
            Some(due) => due.remove(&line.id).unwrap_or_default(),
            None => required(own, task.kind)
                .map_err(|e| e.at(format!("{}:{}", predictions.display(), line.number)))?,
        };
        rows.push(Row {
            id: line.id,
            line: line.number,
            prediction: said.prediction,
            references,
            hit_limit: said.hit_limit,
            speaker: said.speaker,
            group: said.group,
        });
    }
    Ok(rows)
}

/// What a line of a file says.
struct Line<T> {
    id: String,
    number: usize,
    found: T,
}

/// The objects of a JSONL file by their ids, in its order; blank lines are passed over.
fn read_lines<T>(
    path: &Path,
    read: impl Fn(&Map<String, Value>) -> Result<T>,
) -> Result<Vec<Line<T>>> {
    let mut lines: Vec<Line<T>> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    jsonl::each_line(path, LastLine::Row, |number, line| {
        let fields = object(line)?;
        let id = id(&fields)?;
        if let Some(before) = seen.insert(id.clone(), number) {
            return Err(
                Error::input(format!("the id `{id}` stands on line {before} already"))
                    .hint("give each row an id of its own"),
            );
        }
        lines.push(Line {
            id,
            number,
            found: read(&fields)?,
        });
        Ok(())
    })?;
    if lines.is_empty() {
        return Err(Error::input("holds no rows")
            .at_path(path)
            .hint("a row is a JSON object on a line of its own"));
    }
    Ok(lines)
}

fn object(line: &[u8]) -> Result<Map<String, Value>> {
    match json::parse_slice(line)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Error::input("not a JSON object")
            .hint("a row is an object: {\"id\": ..., \"prediction\": ..., \"reference\": ...}")),
    }
}

fn id(fields: &Map<String, Value>) -> Result<String> {
    match fields.get("id") {
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        None | Some(Value::Null) => Err(Error::input("the row has no `id`")
            .hint("predictions are matched with references by id")),
        Some(other) => Err(Error::input(format!(
            "`id` is {other}, not a string or a whole number"
        ))),
    }
}

/// What a row of predictions says of its answer.
struct Said {
    prediction: String,
    hit_limit: Option<bool>,
    speaker: Option<String>,
    group: Option<String>,
}

impl Said {
    fn new(fields: &Map<String, Value>, task: &Task) -> Result<Self> {
        if let Some(Value::String(other)) =
            fields.get("task").filter(|of_row| **of_row != *task.name)
        {
            return Err(
                Error::input(format!("a row of task `{other}`, not of `{}`", task.name))
                    .hint("score each task by itself, with its own `--task`"),
            );
        }
        // NeMo's manifests call it `pred_text`.
        let prediction = match text(fields, "prediction")? {
            Some(prediction) => Some(prediction),
            None => text(fields, "pred_text")?,
        };
        let prediction = prediction.ok_or_else(|| {
            Error::input("the row has no `prediction`")
                .hint("an answer of nothing is written `\"prediction\": \"\"`")
        })?;
        let meta = fields.get("meta").and_then(Value::as_object);
        let of_row = |name: &str| fields.get(name).or_else(|| meta?.get(name));
        // Written only where it is true; a row that says its tokens or anything else of itself says
        // it by leaving it out.
        let says_how = meta.is_some() || fields.contains_key("tokens");
        let hit_limit = of_row("hit_limit")
            .and_then(Value::as_bool)
            .or(says_how.then_some(false));
        let name = |name: &str| of_row(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            prediction,
            hit_limit,
            speaker: name("speaker"),
            group: name("group"),
        })
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Error::input(format!("`{name}` is {other}, not a string"))),
    }
}

/// The references of a row: `reference`, `references`, or the field that a manifest keeps the
/// task's target in; none where it has none.
fn targets(fields: &Map<String, Value>, kind: TaskKind) -> Result<Vec<String>> {
    let listed = match fields.get("references") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(texts)) => texts
            .iter()
            .map(|text| {
                text.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| Error::input(format!("`references` holds {text}, not a string")))
            })
            .collect::<Result<Vec<_>>>()?,
        Some(other) => {
            return Err(Error::input(format!("`references` is {other}, not a list"))
                .hint("one reference is written `\"reference\": \"...\"`"));
        }
    };
    let one = text(fields, "reference")?;
    let found: Vec<String> = match one {
        Some(one) if !listed.contains(&one) => std::iter::once(one).chain(listed).collect(),
        _ => listed,
    };
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(text(fields, kind.target_field())?.into_iter().collect())
}

fn required(found: Vec<String>, kind: TaskKind) -> Result<Vec<String>> {
    match (kind, found.len()) {
        (_, 0) => {
            let hint = format!(
                "add `reference`, `references` or `{}` to the row, or name a file that has them: --references FILE",
                kind.target_field()
            );
            Err(Error::input("the row has no reference").hint(hint))
        }
        (TaskKind::Classify, 2..) => {
            Err(
                Error::input(format!("{} references: {}", found.len(), found.join(", ")))
                    .hint("a row has one right label"),
            )
        }
        _ => Ok(found),
    }
}

/// An error where the two files do not speak of the same rows.
fn expect_same_ids<A, B>(
    said: &[Line<A>],
    due: &[Line<B>],
    predictions: &Path,
    references: &Path,
) -> Result<()> {
    fn missing<'a, X, Y>(of: &'a [Line<X>], from: &[Line<Y>]) -> Vec<&'a Line<X>> {
        let known: HashSet<&str> = from.iter().map(|line| line.id.as_str()).collect();
        of.iter()
            .filter(|line| !known.contains(line.id.as_str()))
            .collect()
    }

    let unreferenced = missing(said, due);
    let unpredicted = missing(due, said);
    let mut faults = Vec::new();
    if let Some(first) = unreferenced.first() {
        faults.push(format!(
            "{} of {} predictions have no reference, the first is `{}` ({}:{})",
            unreferenced.len(),
            said.len(),
            first.id,
            predictions.display(),
            first.number
        ));
    }
    if let Some(first) = unpredicted.first() {
        faults.push(format!(
            "{} of {} references have no prediction, the first is `{}` (line {})",
            unpredicted.len(),
            due.len(),
            first.id,
            first.number
        ));
    }
    if faults.is_empty() {
        return Ok(());
    }

    let hint = if unreferenced.len() == said.len() {
        "not one id is in both files: these are references of another set"
    } else {
        "predict every row, or cut the references to the rows that were"
    };
    Err(Error::input(faults.join("; "))
        .at_path(references)
        .hint(hint))
}
