//! Scores by name, and the files that hold them: `scores.json` and `controls.json` of an evaluation, `suite.json` beside several.

use std::ops::Deref;
use std::path::Path;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde_json::Map;
use serde_json::Value;

use maqam_base::error::Error;
use maqam_base::files;
use maqam_stats::significance::Interval;

/// The file of an evaluation's scores.
pub const SCORES_FILE: &str = "scores.json";
/// The file of the scores under controls, by control.
pub const CONTROLS_FILE: &str = "controls.json";
/// The file that says which suite the folder of an evaluation is about.
pub const SUITE_FILE: &str = "suite.json";
/// The key beside the scores of `scores.json`.
pub const DETAILS: &str = "details";
/// The name of the mean over sets.
pub const MEAN: &str = "mean";

/// Scores by name, in the order of the suite: `<set>.<metric>`, and `mean` at the end.
///
/// Rates, shares and F1 are fractions, chrF and BLEU run from 0 to 100, losses are nats per token. `mean` is the mean over sets of the
/// metric of their tasks, each brought to `[0, 1]`, higher better: see [`maqam_metrics::Tally::goodness`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(pub Vec<(String, f64)>);

impl Scores {
    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
    }

    /// The scores as a JSON object in their order.
    pub fn to_json(&self) -> Map<String, Value> {
        self.0
            .iter()
            .map(|(name, value)| (name.clone(), (*value).into()))
            .collect()
    }

    /// The numbers among the values of an object, in their order.
    pub fn among(object: &Map<String, Value>) -> Self {
        object
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect()
    }
}

impl Deref for Scores {
    type Target = Vec<(String, f64)>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, f64)> for Scores {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(scores: I) -> Self {
        Self(scores.into_iter().collect())
    }
}

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::among(&Map::deserialize(deserializer)?))
    }
}

/// Writes an object of scores, laid out to be read.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, object: &Map<String, Value>) -> maqam_base::error::Result<()> {
    let text = serde_json::to_string_pretty(object).map_err(Error::bug_from)?;
    files::write_atomic(path, text.as_bytes())
}

/// The intervals among the details of `scores.json`, by score.
pub fn intervals(written: &Map<String, Value>) -> Vec<(String, Interval)> {
    let of_score = |(name, score): (&String, &Value)| {
        let end = |which: &str| score.get("interval")?.get(which)?.as_f64();
        Some((name.clone(), Interval::new(end("low")?, end("high")?)?))
    };
    let scores = written
        .get(DETAILS)
        .and_then(|details| details.get("scores")?.as_object());
    scores.into_iter().flatten().filter_map(of_score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_keep_their_order_and_lose_what_is_no_number() {
        let text = r#"{"b.wer":0.5,"a.loss":null,"mean":0.25,"details":{}}"#;
        let scores: Scores = serde_json::from_str(text).unwrap();
        assert_eq!(
            scores.0,
            [("b.wer".to_owned(), 0.5), ("mean".to_owned(), 0.25)]
        );
        let written = serde_json::to_string(&scores).unwrap();
        assert_eq!(written, r#"{"b.wer":0.5,"mean":0.25}"#);
    }

    #[test]
    fn intervals_with_both_ends_are_found() {
        let text = r#"{"a.wer":0.5,"details":{"scores":{"a.wer":{"interval":{"low":0.4,"high":0.6}},"a.cer":{"interval":{"low":null,"high":1.0}}}}}"#;
        let found = intervals(&serde_json::from_str(text).unwrap());
        let expected = Interval {
            low: 0.4,
            high: 0.6,
        };
        assert_eq!(found, [("a.wer".to_owned(), expected)]);
    }
}
