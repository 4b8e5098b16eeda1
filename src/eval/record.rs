//! `scores.json` of a system: its scores by name, as a training writes them, and under `details` how sure they are and how they came about.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::error::Result;
use crate::eval::confidence::Answered;
use crate::eval::confidence::Compared;
use crate::eval::confidence::Confident;
use crate::eval::confidence::Slice;
use crate::eval::confidence::System;
use crate::metrics::Better;
use crate::metrics::Confusion;
use crate::metrics::Kind;
use crate::records::scores::DETAILS;

/// What is known of a system's scores beside their values.
pub struct Details<'a> {
    /// Who was judged on what: names, files and hashes, as they are to be written.
    pub about: Map<String, Value>,
    /// The scores with their intervals.
    pub scores: &'a [Confident],
    /// Their differences from another system's.
    pub compared: &'a [Compared],
    /// The scores of slices.
    pub slices: &'a [Slice],
}

/// The object of `scores.json`.
///
/// # Errors
/// A reference outside the inventory of its set.
pub fn scores_json(system: &System, details: &Details) -> Result<Map<String, Value>> {
    let mut object = system.scores().to_json();
    let mut written = details.about.clone();
    let scores = details.scores.iter().map(|score| {
        let compared = details
            .compared
            .iter()
            .find(|compared| compared.name == score.name);
        (score.name.clone(), confident(score, compared))
    });
    written.insert("scores".to_owned(), Value::Object(scores.collect()));
    let mut labels = Map::new();
    for answered in system
        .sets
        .iter()
        .filter(|answered| answered.set.task.kind == Kind::Classify)
    {
        labels.insert(answered.set.name.clone(), confusion(answered)?);
    }
    written.insert("labels".to_owned(), labels.into());
    written.insert("slices".to_owned(), slices(details.slices).into());
    object.insert(DETAILS.to_owned(), written.into());
    Ok(object)
}

fn confident(score: &Confident, compared: Option<&Compared>) -> Value {
    let better = match score.better {
        Better::Lower => "lower",
        Better::Higher => "higher",
        Better::NearOne => "near-one",
    };
    let mut object = json!({
        "score": score.value,
        "interval": score.interval(),
        "utterances": score.num_utterances,
        "clusters": score.num_clusters,
        "cluster": score.cluster,
        "better": better,
        "signature": score.signature,
        "estimate": score.estimate,
    });
    if let Some(note) = &score.note {
        object["note"] = note.as_str().into();
    }
    if let Some(compared) = compared {
        object["against_base"] = json!({
            "difference": compared.difference,
            "adjusted_p": compared.adjusted_p,
            "verdict": compared.verdict,
            "is_better": compared.is_better,
        });
    }
    object
}

/// The confusion matrix of a set: a row for each reference label, a column for each predicted one and the last for answers without any.
fn confusion(answered: &Answered) -> Result<Value> {
    let pairs = answered
        .said
        .iter()
        .map(|row| (row.reference.as_str(), row.answer.as_deref()));
    let found = Confusion::new(pairs, &answered.set.inventory())?;
    Ok(json!({"labels": found.labels, "counts": found.counts, "predicted": found.predicted()}))
}

/// Set > what it is sliced by > value > its rows and scores.
fn slices(slices: &[Slice]) -> Map<String, Value> {
    let mut by_set = Map::new();
    for slice in slices {
        let scores = slice.scores.iter().map(|score| {
            (
                score.name.clone(),
                json!({"score": score.value, "interval": score.interval()}),
            )
        });
        let rows = slice
            .scores
            .first()
            .map_or((0, 0), |score| (score.num_utterances, score.num_clusters));
        let mut value = json!({"utterances": rows.0, "clusters": rows.1, "scores": Value::Object(scores.collect())});
        if let Some(instruction) = &slice.instruction {
            value["instruction"] = instruction.as_str().into();
        }
        let below = |map: &mut Map<String, Value>, key: &str| {
            map.entry(key).or_insert_with(|| Map::new().into()).clone()
        };
        let mut of_set = below(&mut by_set, &slice.set);
        of_set[slice.by.as_str()][slice.value.as_str()] = value;
        by_set.insert(slice.set.clone(), of_set);
    }
    by_set
}
