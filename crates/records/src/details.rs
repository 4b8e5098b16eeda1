//! What `scores.json` and `suite.json` of `maqam eval` say beside the scores: who answered, how
//! sure scores are, parts of sets, confusions.

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;
use serde_json::Value;

use crate::by_name::ByName;
use crate::numbers::number;
use maqam_metrics::Better;
use maqam_stats::significance::Difference;
use maqam_stats::significance::Estimate;
use maqam_stats::significance::Interval;
use maqam_stats::significance::Verdict;

/// A suite: `suite.json`, and the same in the scores of every system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SuiteAbout {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// What it is for: `dev` or `test`.
    pub role: String,
    /// One hash of all that it reads.
    pub hash: String,
    /// The folder of task files, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<String>,
}

/// What is known of the scores of a system beside their values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The suite that it answered.
    pub suite: Option<SuiteAbout>,
    /// Who answered.
    #[serde(flatten)]
    pub system: SystemAbout,
    /// How sure each score is.
    pub scores: ByName<ScoreDetails>,
    /// Confusions by set.
    pub labels: ByName<Confusions>,
    /// Scores of parts, by set, by what it is divided by, and by part.
    pub slices: ByName<ByName<ByName<SliceScores>>>,
}

/// What answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    /// A model.
    #[default]
    Model,
    /// A model that was asked without its audio or with another row's.
    Control,
    /// An answer that takes no model.
    Baseline,
}

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SystemAbout {
    /// Name of the system.
    pub system: Option<String>,
    /// What it is.
    pub kind: SystemKind,
    /// The control, as suites name it.
    pub control: Option<String>,
    /// Folder of the adapter; `None` for the untuned model.
    pub adapter: Option<String>,
    /// Hash of the model.
    pub model_hash: Option<String>,
    /// What readers must know of a baseline.
    pub notes: Vec<String>,
}

impl Serialize for SystemAbout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("system", &self.system)?;
        map.serialize_entry("kind", &self.kind)?;
        if self.kind == SystemKind::Baseline {
            map.serialize_entry("notes", &self.notes)?;
        } else {
            map.serialize_entry("control", &self.control)?;
            map.serialize_entry("adapter", &self.adapter)?;
            map.serialize_entry("model_hash", &self.model_hash)?;
        }
        map.end()
    }
}

/// How sure a score is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScoreDetails {
    /// The score.
    #[serde(deserialize_with = "number")]
    pub score: f64,
    /// Its interval.
    #[serde(deserialize_with = "interval")]
    pub interval: Option<Interval>,
    /// Number of rows.
    pub utterances: usize,
    /// Number of clusters of rows.
    pub clusters: usize,
    /// What rows were clustered by: `speaker`, `group` or `none`.
    pub cluster: String,
    /// Which way it is good.
    #[serde(serialize_with = "direction", skip_deserializing)]
    pub better: Option<Better>,
    /// How it was computed.
    pub signature: String,
    /// The resampled score.
    #[serde(skip_deserializing)]
    pub estimate: Option<Estimate>,
    /// Why there is no interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Its difference from the untuned model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against_base: Option<AgainstBase>,
}

impl Default for ScoreDetails {
    fn default() -> Self {
        Self {
            score: f64::NAN,
            interval: None,
            utterances: 0,
            clusters: 0,
            cluster: String::new(),
            better: None,
            signature: String::new(),
            estimate: None,
            note: None,
            against_base: None,
        }
    }
}

/// A score's difference from the untuned model's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgainstBase {
    /// The difference.
    #[serde(skip_deserializing)]
    pub difference: Option<Difference>,
    /// Its p-value, corrected over all scores of the system.
    pub adjusted_p: Option<f64>,
    /// What may be claimed.
    #[serde(skip_deserializing)]
    pub verdict: Option<Verdict>,
    /// Whether it is for the better; `None` where that is not resolved.
    pub is_better: Option<bool>,
}

/// Which label was taken for which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confusions {
    /// The labels, in the order of the inventory.
    pub labels: Vec<String>,
    /// A row for each reference label; a column for each predicted one, and the last for answers
    /// without any.
    pub counts: Vec<Vec<u64>>,
    /// How often each label was predicted, and none at the end.
    pub predicted: Vec<u64>,
}

/// Scores of a part of a set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SliceScores {
    /// Number of rows.
    pub utterances: usize,
    /// Number of clusters of rows.
    pub clusters: usize,
    /// The scores, by metric.
    pub scores: ByName<PartScore>,
    /// The instruction, where the part is a wording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
}

/// A score of a part of a set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartScore {
    /// The score.
    #[serde(deserialize_with = "number")]
    pub score: f64,
    /// Its interval.
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<Interval>,
}

/// An interval with both ends; `None` where one of them is missing.
fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Interval>, D::Error> {
    let found = Option::<Value>::deserialize(deserializer)?;
    let end = |which: &str| found.as_ref()?.get(which)?.as_f64();
    let ends = end("low").zip(end("high"));
    Ok(ends.and_then(|(low, high)| Interval::new(low, high)))
}

fn direction<S: Serializer>(better: &Option<Better>, serializer: S) -> Result<S::Ok, S::Error> {
    let name = better.map(|better| match better {
        Better::Lower => "lower",
        Better::Higher => "higher",
        Better::NearOne => "near-one",
    });
    name.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_as_they_were_written() {
        let text = r#"{"suite":{"name":"s","file":"s.yaml","role":"dev","hash":"00"},"system":"tuned","kind":"model","control":null,"adapter":"runs/a","model_hash":"ff","scores":{"b.wer":{"score":0.5,"interval":{"low":0.25,"high":0.75},"utterances":4,"clusters":2,"cluster":"speaker","better":null,"signature":"tok:words","estimate":null}},"labels":{"m":{"labels":["x"],"counts":[[1,0]],"predicted":[1,0]}},"slices":{"b":{"gender":{"f":{"utterances":2,"clusters":1,"scores":{"wer":{"score":1.0,"interval":null}}}}}}}"#;
        let found: Details = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&found).unwrap(), text);
        assert_eq!(found.system.adapter.as_deref(), Some("runs/a"));
    }

    #[test]
    fn a_baseline_says_what_to_know_of_it() {
        let text = r#"{"suite":null,"system":"majority","kind":"baseline","notes":["flattering"],"scores":{},"labels":{},"slices":{}}"#;
        let found: Details = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&found).unwrap(), text);
    }

    #[test]
    fn what_is_no_number_is_missing() {
        let text = r#"{"a.wer":{"score":null,"interval":{"low":null,"high":1.0}}}"#;
        let found: ByName<ScoreDetails> = serde_json::from_str(text).unwrap();
        let score = found.get("a.wer").unwrap();
        assert!(score.score.is_nan() && score.interval.is_none());
    }
}
