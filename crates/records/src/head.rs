//! Files of an evaluation of a head on a speech encoder: `scores.json` and `predictions.jsonl`.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::scores::SCORES_FILE;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// The file of a head's predictions in the folder of an evaluation.
const PREDICTIONS_FILE: &str = "predictions.jsonl";

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
