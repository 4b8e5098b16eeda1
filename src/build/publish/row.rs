//! What is published: of one row, and of the whole set.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::build::assign::Prepared;
use crate::build::cache::Cache;
use crate::build::document::Document;
use crate::build::listen::Listened;
use crate::build::recipe::Recipe;
use crate::build::speak::Sentence;
use crate::build::speak::Spoken;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::build::summarise::Summarised;
use crate::build::verify::Verified;

/// Everything that is published of one row.
pub(crate) struct Published {
    pub(crate) document: Document,
    pub(crate) summarised: Summarised,
    pub(crate) verified: Verified,
    pub(crate) spoken: Spoken,
    pub(crate) listened: Listened,
    pub(crate) split: &'static str,
    pub(crate) group: String,
    /// Path of its recording, from the folder of the data set.
    pub(crate) audio: String,
    /// BLAKE3 of its recording.
    pub(crate) hash: String,
}

/// Hashes of published recordings, by row.
pub(crate) type Hashes = HashMap<usize, String>;

/// What is published, and where.
pub(crate) struct Publishing<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) folder: &'a Path,
    pub(crate) store: &'a Store,
    pub(crate) prepared: &'a Prepared,
    pub(crate) journals: &'a [Journal],
    pub(crate) cache: &'a Cache,
    pub(crate) engines: &'a Described,
    /// Rows in the order of files.
    pub(crate) rows: &'a [usize],
    pub(crate) notes: &'a [String],
}

/// Names and versions of engines.
pub(crate) struct Described {
    pub(crate) summaries: serde_json::Value,
    /// The judge; null without one.
    pub(crate) judge: serde_json::Value,
    pub(crate) speech: serde_json::Value,
    pub(crate) transcription: serde_json::Value,
}

/// The fields of a manifest's row.
pub(super) fn manifest_fields(row: &Published) -> Map<String, Value> {
    let fields: [(&str, Value); 17] = [
        ("id", json!(row.document.id)),
        ("audio", json!(row.audio)),
        ("duration", json!(rounded(row.spoken.duration_s))),
        ("task", json!("summarization")),
        ("language", json!(row.summarised.language)),
        ("text", json!(row.summarised.text)),
        ("summary", json!(row.summarised.summaries.first())),
        (
            "references",
            json!(row.summarised.summaries.get(1..).unwrap_or_default()),
        ),
        ("speaker", json!(row.spoken.voice)),
        ("spoken_text", json!(row.spoken.read())),
        ("sentences", of_sentences(row, |s| json!(s.text))),
        (
            "sentence_start_s",
            of_sentences(row, |s| json!(rounded(s.start_s))),
        ),
        (
            "sentence_end_s",
            of_sentences(row, |s| json!(rounded(s.end_s))),
        ),
        ("group", json!(row.group)),
        ("split", json!(row.split)),
        ("source", json!(row.document.source)),
        ("license", json!(row.document.licence)),
    ];
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_null() && *value != json!([]))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn of_sentences(row: &Published, value: impl Fn(&Sentence) -> Value) -> Value {
    row.spoken.sentences.iter().map(value).collect()
}

/// Seconds to the millisecond.
pub(super) fn rounded(seconds: f64) -> f64 {
    (1000.0 * seconds).round() / 1000.0
}
