//! Files of a head on a speech encoder: `scores.json` and `predictions.jsonl` of an evaluation, and
//! `choice.json`.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::scores::SCORES_FILE;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// The file of a head's predictions in the folder of an evaluation.
const PREDICTIONS_FILE: &str = "predictions.jsonl";

/// The file of a cross-validation in the folder of a run.
const CHOICE_FILE: &str = "choice.json";

/// `scores.json`: scores on dev, and the weights of the layers that the head reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadScores {
    /// The scores.
    pub scores: Vec<HeadScore>,
    /// Share of each layer in the sum that the head reads.
    pub layer_shares: Vec<f64>,
}

/// A score on dev.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadScore {
    /// Name.
    pub name: String,
    /// Value.
    pub value: f64,
    /// Bounds of its 95 % interval, clustered by speaker; `None` where there is a single cluster.
    pub interval: Option<[f64; 2]>,
    /// Number of clusters.
    pub clusters: usize,
}

/// One line of `predictions.jsonl`. Readers of predictions take it as a
/// [`Prediction`](crate::prediction::Prediction).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadPrediction {
    /// The row's id.
    pub id: String,
    /// Text or label that the head gives.
    pub prediction: String,
    /// Text or label of the row.
    pub reference: String,
    /// Who speaks, where the row says it.
    pub speaker: Option<String>,
}

/// `choice.json`: outcome of a cross-validation over the training speakers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadChoice {
    /// Number of folds.
    pub folds: usize,
    /// Place of the chosen one in `candidates`, from 0.
    pub chosen: usize,
    /// All settings that were tried.
    pub candidates: Vec<HeadCandidate>,
}

/// Settings that were tried, with their score on rows that they did not learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadCandidate {
    /// Form of the classifier.
    pub classifier: String,
    /// Weight decay.
    pub weight_decay: f64,
    /// UAR over all training rows, each predicted by a head that did not learn its fold.
    pub uar: f64,
    /// UAR over the rows of each fold.
    pub fold_uar: Vec<f64>,
}

impl HeadChoice {
    /// Reads the outcome from the folder of a run; `None` if there is none yet.
    ///
    /// # Errors
    /// A file that cannot be read or is no outcome.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(CHOICE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        json::parse(&files::read_text(&path)?)
            .map(Some)
            .map_err(|e| e.at_path(&path))
    }

    /// Writes the outcome into the folder of a run.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(CHOICE_FILE), (text + "\n").as_bytes())
    }
}

impl HeadScores {
    /// Writes the scores into the folder of an evaluation.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(SCORES_FILE), (text + "\n").as_bytes())
    }
}

/// Writes predictions into the folder of an evaluation.
///
/// # Errors
/// A file that cannot be written.
pub fn write_predictions(folder: &Path, rows: &[HeadPrediction]) -> Result<()> {
    let mut lines = String::new();
    for row in rows {
        lines += &serde_json::to_string(row).map_err(Error::bug_from)?;
        lines.push('\n');
    }
    files::write_atomic(&folder.join(PREDICTIONS_FILE), lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction;
    use crate::scores::ScoresFile;

    #[test]
    fn readers_of_evaluations_take_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let row = HeadPrediction {
            id: "a".into(),
            prediction: "sad".into(),
            reference: "happy".into(),
            speaker: None,
        };
        write_predictions(dir.path(), &[row]).unwrap();
        let path = dir.path().join(PREDICTIONS_FILE);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"id\":\"a\",\"prediction\":\"sad\",\"reference\":\"happy\",\"speaker\":null}\n"
        );
        let rows = prediction::read(&path).unwrap();
        assert_eq!((rows.len(), rows[0].reference.as_str()), (1, "happy"));

        let scores = HeadScores {
            scores: vec![HeadScore {
                name: "wer".into(),
                value: 0.5,
                interval: Some([0.25, 0.75]),
                clusters: 2,
            }],
            layer_shares: vec![0.5, 0.5],
        };
        scores.write(dir.path()).unwrap();
        let found = ScoresFile::read(dir.path()).unwrap().unwrap();
        assert_eq!(
            found,
            ScoresFile::default(),
            "its scores are those of the log"
        );
    }
}
