//! `rows.jsonl` and `rejected.jsonl`: the state of every collected document, and reasons of
//! rejection.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::document::Document;
use crate::build::document::Rejection;
use crate::build::document::Step;
use crate::build::listen;
use crate::build::listen::Listened;
use crate::build::publish::row::Described;
use crate::build::publish::row::Hashes;
use crate::build::publish::row::rounded;
use crate::build::speak;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::build::verify;
use crate::build::workers::EarlierResults;
use crate::error::Error;
use crate::error::Result;
use crate::files;

/// One line of `rows.jsonl`.
#[derive(Serialize)]
struct RowState {
    id: String,
    row: usize,
    source: String,
    license: Option<String>,
    /// BLAKE3 of its text.
    text_hash: String,
    /// Split and group, unless it is rejected.
    #[serde(flatten)]
    place: Option<Place>,
    state: StateName,
    /// The step that rejected it, or the next one of a document that is not published yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    published: Option<PublishedState>,
}

/// Place of a document in the set.
#[derive(Serialize)]
struct Place {
    split: &'static str,
    group: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum StateName {
    Rejected,
    Pending,
    Published,
}

/// State of a published document.
#[derive(Serialize)]
struct PublishedState {
    voice: String,
    /// Seconds.
    duration: f64,
    audio_hash: String,
    /// Engine or model of the summaries.
    summaries: Value,
    /// Lowest grade of the judge, over all summaries.
    #[serde(skip_serializing_if = "Option::is_none")]
    grade: Option<f64>,
    /// Name and version of the engine that spoke.
    speech: Value,
    /// The recogniser.
    transcription: Value,
    listened: Listened,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// One line of `rejected.jsonl`.
#[derive(Serialize)]
struct RejectedRow {
    id: String,
    step: Step,
    reason: String,
    detail: String,
    source: String,
}

/// Writes both files, and returns the numbers of rejected rows by reason.
///
/// # Errors
/// The disk's.
pub(crate) fn accounts(
    folder: &Path,
    store: &Store,
    prepared: &Prepared,
    journals: &[Journal],
    published: Option<&Hashes>,
    engines: &Described,
) -> Result<BTreeMap<String, usize>> {
    let rows = EarlierResults {
        store,
        prepared,
        before: journals,
    };
    let mut rejected = String::new();
    let mut reasons = BTreeMap::new();
    files::write_atomic_with(&folder.join("rows.jsonl"), |file| {
        for row in 0..prepared.rows.len() {
            let document = rows.document(row)?;
            let state = match rejection(&rows, row, &document)? {
                Some(found) => {
                    let line = rejected_row(&document, &found);
                    rejected += &(to_line(&line)? + "\n");
                    *reasons.entry(line.reason).or_default() += 1;
                    rejected_state(row, document, found)
                }
                None => state(&rows, row, document, published, engines)?,
            };
            writeln!(file, "{}", to_line(&state)?)?;
        }
        Ok(())
    })?;
    files::write_atomic(&folder.join("rejected.jsonl"), rejected.as_bytes())?;
    Ok(reasons)
}

fn to_line(line: &impl Serialize) -> Result<String> {
    serde_json::to_string(line).map_err(Error::bug_from)
}

/// Rejection of a document, by the last step that rejected it.
fn rejection(rows: &EarlierResults, row: usize, document: &Document) -> Result<Option<Rejection>> {
    let mut rejection = document.rejected.clone();
    for (step, journal) in Step::ROW_BY_ROW.into_iter().zip(rows.before) {
        if let Some(found) = journal.rejected(row)? {
            rejection = Some(Rejection {
                step,
                reason: found.reason,
                detail: found.detail,
            });
        }
    }
    Ok(rejection)
}

fn rejected_row(document: &Document, rejection: &Rejection) -> RejectedRow {
    RejectedRow {
        id: document.id.clone(),
        step: rejection.step,
        reason: rejection.reason.clone(),
        detail: rejection.detail.clone(),
        source: document.source.clone(),
    }
}

fn rejected_state(row: usize, document: Document, rejection: Rejection) -> RowState {
    RowState {
        step: Some(rejection.step),
        reason: Some(rejection.reason),
        ..beginning(row, document, StateName::Rejected)
    }
}

/// State of a document that no step has rejected.
fn state(
    rows: &EarlierResults,
    row: usize,
    document: Document,
    published: Option<&Hashes>,
    engines: &Described,
) -> Result<RowState> {
    let prepared = &rows.prepared.rows[row];
    let place = Some(Place {
        split: SPLITS[usize::from(prepared.split)],
        group: prepared.group.clone(),
    });

    let Some(hash) = published.and_then(|hashes| hashes.get(&row)) else {
        return Ok(RowState {
            place,
            step: Some(next_step(rows, row)),
            ..beginning(row, document, StateName::Pending)
        });
    };

    let spoken = speak::of(rows, row)?;
    let verified = verify::of(rows, row)?;
    let published = PublishedState {
        voice: spoken.voice.clone(),
        duration: rounded(spoken.duration_s),
        audio_hash: hash.clone(),
        summaries: engine_of(&engines.summaries),
        grade: verified.grade,
        speech: spoken.engine.clone(),
        transcription: engines.transcription["recogniser"].clone(),
        listened: listen::of(rows, row)?,
        warnings: verified.warnings,
    };
    Ok(RowState {
        place,
        published: Some(published),
        ..beginning(row, document, StateName::Published)
    })
}

/// The step after the last one that passed a row on.
fn next_step(rows: &EarlierResults, row: usize) -> Step {
    let steps = Step::ROW_BY_ROW.into_iter().zip(rows.before);
    let passed = steps.filter(|(_, journal)| journal.is_passed(row)).last();
    let Some((step, _)) = passed else {
        return Step::Summarise;
    };
    let mut later = Step::ALL.into_iter().filter(|other| *other > step);
    later.next().unwrap_or(Step::Publish)
}

/// What every state begins with.
fn beginning(row: usize, document: Document, state: StateName) -> RowState {
    RowState {
        row,
        text_hash: blake3::hash(document.text.as_bytes()).to_hex().to_string(),
        id: document.id,
        source: document.source,
        license: document.licence,
        place: None,
        state,
        step: None,
        reason: None,
        published: None,
    }
}

/// Engine and model of the summaries, without prompts.
fn engine_of(summaries: &Value) -> Value {
    let model = &summaries["language_model"]["model"];
    match model.is_string() {
        true => model.clone(),
        false => summaries["engine"].clone(),
    }
}
