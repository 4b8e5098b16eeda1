//! Scores by name, and the files that hold them: `scores.json` and `controls.json` of an
//! evaluation, `suite.json` beside several.

use std::ops::Deref;
use std::path::Path;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde_json::Map;
use serde_json::Value;

use crate::by_name::ByName;
use crate::details::Details;
use crate::details::SuiteAbout;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;
use maqam_stats::significance::Interval;

/// The file of an evaluation's scores.
pub const SCORES_FILE: &str = "scores.json";
/// The file of the scores under controls, by control.
pub const CONTROLS_FILE: &str = "controls.json";
/// Name of the scores on training rows, which stand beside those under controls.
pub const TRAINING_ROWS: &str = "training-rows";
/// The file that says which suite the folder of an evaluation is about.
pub const SUITE_FILE: &str = "suite.json";
/// The key beside the scores of `scores.json`.
const DETAILS: &str = "details";
/// The name of the mean over sets.
pub const MEAN: &str = "mean";

/// Scores by name, in the order of the suite: `<set>.<metric>`, and `mean` at the end.
///
/// Rates, shares and F1 are fractions, chrF and BLEU run from 0 to 100, losses are nats per token.
/// `mean` is the mean over sets of the metric of their tasks, each brought to `[0, 1]`, higher
/// better: see [`maqam_metrics::Tally::goodness`].
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
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self::among(&Map::deserialize(deserializer)?))
    }
}

/// `scores.json`: scores by name and, of `maqam eval`, how sure they are and how they came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoresFile {
    /// The scores.
    pub scores: Scores,
    /// What is known of them beside their values.
    pub details: Option<Details>,
}

impl ScoresFile {
    /// Scores without details, as a training writes them.
    pub fn of(scores: Scores) -> Self {
        Self {
            scores,
            details: None,
        }
    }

    /// Reads the scores in the folder of an evaluation; `None` where it has none.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        read(&folder.join(SCORES_FILE))
    }

    /// Writes the scores into the folder of an evaluation.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write(&folder.join(SCORES_FILE), self)
    }

    /// The intervals among the details, by score.
    pub fn intervals(&self) -> Vec<(String, Interval)> {
        let details = self.details.iter();
        let scores = details.flat_map(|details| details.scores.iter());
        scores
            .filter_map(|(name, score)| Some((name.clone(), score.interval?)))
            .collect()
    }
}

impl Serialize for ScoresFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, score) in self.scores.iter() {
            map.serialize_entry(name, score)?;
        }
        if let Some(details) = &self.details {
            map.serialize_entry(DETAILS, details)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ScoresFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut written = Map::deserialize(deserializer)?;
        let details = written.remove(DETAILS).map(serde_json::from_value);
        Ok(Self {
            scores: Scores::among(&written),
            details: details.transpose().map_err(D::Error::custom)?,
        })
    }
}

/// Scores under controls, by control: `controls.json`.
pub type Controls = ByName<Scores>;

/// Reads the scores under controls in the folder of an evaluation; none where it has none.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn read_controls(folder: &Path) -> Result<Controls> {
    Ok(read(&folder.join(CONTROLS_FILE))?.unwrap_or_default())
}

/// Writes the scores under controls into the folder of an evaluation.
///
/// # Errors
/// A file that cannot be written.
pub fn write_controls(folder: &Path, controls: &Controls) -> Result<()> {
    write(&folder.join(CONTROLS_FILE), controls)
}

/// Reads which suite the folder of an evaluation is about; `None` where it does not say.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn read_suite(folder: &Path) -> Result<Option<SuiteAbout>> {
    read(&folder.join(SUITE_FILE))
}

/// Writes which suite the folder of an evaluation is about.
///
/// # Errors
/// A file that cannot be written.
pub fn write_suite(folder: &Path, suite: &SuiteAbout) -> Result<()> {
    write(&folder.join(SUITE_FILE), suite)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let found = json::parse(&files::read_text(path)?);
    found.map(Some).map_err(|e| e.at_path(path))
}

/// Writes JSON that is laid out to be read.
fn write(path: &Path, what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(what).map_err(Error::bug_from)?;
    files::write_atomic(path, text.as_bytes())
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
        let found: ScoresFile = serde_json::from_str(text).unwrap();
        let expected = Interval {
            low: 0.4,
            high: 0.6,
        };
        assert_eq!(found.scores.0, [("a.wer".to_owned(), 0.5)]);
        assert_eq!(found.intervals(), [("a.wer".to_owned(), expected)]);
    }

    #[test]
    fn a_folder_says_what_was_written_into_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ScoresFile::read(dir.path()).unwrap(), None);
        let scores = Scores(vec![("b.wer".to_owned(), 0.5), ("mean".to_owned(), 0.25)]);
        let written = ScoresFile {
            scores: scores.clone(),
            details: Some(Details::default()),
        };
        written.write(dir.path()).unwrap();
        assert_eq!(ScoresFile::read(dir.path()).unwrap(), Some(written));
        let controls: Controls = [("no-audio".to_owned(), scores)].into_iter().collect();
        write_controls(dir.path(), &controls).unwrap();
        assert_eq!(read_controls(dir.path()).unwrap(), controls);
    }
}
