//! The rows that suites evaluate on, held against those of a training.

use crate::Role;
use crate::Row;
use crate::headers::Headers;
use crate::leakage;
use crate::leakage::Facts;
use crate::leakage::Leak;
use crate::leakage::SharedKind;
use crate::leakage::contents::Contents;
use maqam_base::error::Result;

/// What a training and an evaluation may share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(pub Vec<SharedKind>);

impl Allowed {
    /// Everything.
    pub fn all() -> Self {
        Self(SharedKind::ALL.to_vec())
    }
}

/// The rows of a training.
pub struct Training<'a> {
    /// The rows, manifest after manifest.
    pub rows: Vec<&'a Row>,
    /// Where a row is written, by its place among them.
    pub place: &'a dyn Fn(usize) -> String,
}

/// A row of a suite, and how a message names it.
pub struct Evaluated {
    /// The row.
    pub row: Row,
    /// Its set, place and id.
    pub name: String,
}

/// Compares a training with the rows of suites. Returns what a user should know: one line where
/// nothing is shared, else what is shared and was allowed, or is no error by itself.
///
/// # Errors
/// Every kind of leakage that was found and is not allowed, each with a row of either side. A text
/// that both sides have is no error: read speech and commands share texts by design.
pub fn check(
    training: &Training<'_>,
    evaluated: &[Evaluated],
    allowed: &Allowed,
    known: &Headers,
) -> Result<Vec<String>> {
    let evaluation: Vec<&Row> = evaluated.iter().map(|evaluated| &evaluated.row).collect();
    let contents = Contents::of(&training.rows, &evaluation, known);
    let leaks = leakage::find(
        &facts_of(&training.rows, &contents),
        &facts_of(&evaluation, &contents),
    );
    let name = |leak: &Leak| {
        (
            format!(
                "{} (`{}`)",
                (training.place)(leak.training),
                training.rows[leak.training].id
            ),
            evaluated[leak.evaluation].name.clone(),
        )
    };
    if let Some(refusal) = leakage::refusal(&leaks, &allowed.0, name) {
        return Err(refusal);
    }
    if leaks.is_empty() {
        return Ok(vec![NONE.to_owned()]);
    }

    Ok(leaks
        .iter()
        .map(|leak| leakage::note(leak, evaluation.len(), name(leak)))
        .collect())
}

/// What is said where nothing is shared.
pub const NONE: &str = "no leakage by id, audio, speaker, group or text";

fn facts_of<'a>(rows: &[&'a Row], contents: &Contents<'_>) -> Vec<Facts<'a>> {
    let facts = |row: &&'a Row| Facts {
        id: Some(&*row.id).filter(|id| *id != row.line.to_string()),
        speaker: row.speaker.as_deref(),
        group: row.group.as_deref(),
        audio: contents.heard(row),
        text: text_of(row).filter(|text| is_telling(text)),
    };
    rows.iter().map(facts).collect()
}

/// What is said, summarised or answered in a row.
fn text_of(row: &Row) -> Option<&str> {
    let stated = row.text.as_deref().or(row.target.as_deref());
    if let Some(text) = stated.or(row.summary.as_deref()) {
        return Some(text);
    }
    let mut answers = row.messages.iter().rev();
    let answer = answers.find(|message| message.role == Role::Assistant);
    answer.map(|message| message.content.as_str())
}

/// Fewest words of a text that two rows are compared by: shorter ones, such as commands, are the
/// same by chance.
const TELLING_WORDS: usize = 5;

fn is_telling(text: &str) -> bool {
    text.split_whitespace().nth(TELLING_WORDS - 1).is_some()
}
