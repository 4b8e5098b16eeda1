//! `report.json` beside the targets of an encoder's iteration: the codebook that they were made
//! with.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// The file in the folder of a target.
const REPORT_FILE: &str = "report.json";

/// Properties of a codebook and of the codes that it gives training frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodebookReport {
    /// Layer whose features are clustered.
    pub layer: usize,
    /// Dimensions of these features.
    pub width: usize,
    /// Dimensions that are left after the reduction.
    pub dims: usize,
    /// Share of dimensions that the reduction removes.
    pub reduction: f64,
    /// Share of the variance that is left; none without a reduction, and where its directions are
    /// random.
    pub explained_variance: Option<f64>,
    /// Number of clusters.
    pub clusters: usize,
    /// Number of clusters that occur.
    pub active: usize,
    /// Perplexity of the codes.
    pub perplexity: f64,
    /// Mean squared distance from the nearest centre.
    pub inertia_per_frame: f64,
    /// Passes of Lloyd's algorithm.
    pub passes: usize,
    /// Frames that it was fitted on; none if these are all training frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FittedFrames>,
    /// Agreement of the codes with fields of rows, by field.
    pub against: BTreeMap<String, FieldAgreement>,
}

/// Training frames that a codebook was fitted on, and the codes of quiet frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedFrames {
    /// Number of frames.
    pub frames: usize,
    /// Share of all training frames that are quiet; none if quiet frames were not looked for.
    pub quiet_frames: Option<f64>,
    /// Share of the codes of which most training frames are quiet.
    pub quiet_codes: Option<f64>,
}

/// Agreement of codes with a field of rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldAgreement {
    /// Share of frames whose label is the commonest of their code.
    pub purity: f64,
    /// Share of frames whose code is the commonest of their label.
    pub cluster_purity: f64,
    /// Share of the labels' entropy that codes explain.
    pub pnmi: f64,
}

impl CodebookReport {
    /// Reads the report in a target's folder; `None` where there is none, as of targets without a
    /// codebook.
    ///
    /// # Errors
    /// A file of another form.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(REPORT_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        json::parse(&files::read_text(&path)?)
            .map(Some)
            .map_err(|e| e.at_path(&path))
    }

    /// Writes the report into a target's folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(REPORT_FILE), (text + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(CodebookReport::read(dir.path()).unwrap(), None);

        let agreement = FieldAgreement {
            purity: 0.75,
            cluster_purity: 0.5,
            pnmi: 0.25,
        };
        let report = CodebookReport {
            layer: 2,
            width: 8,
            dims: 4,
            reduction: 0.5,
            explained_variance: None,
            clusters: 3,
            active: 2,
            perplexity: 1.9,
            inertia_per_frame: 0.1,
            passes: 7,
            fit: Some(FittedFrames {
                frames: 90,
                quiet_frames: Some(0.25),
                quiet_codes: None,
            }),
            against: BTreeMap::from([("label".to_owned(), agreement)]),
        };
        report.write(dir.path()).unwrap();
        assert_eq!(CodebookReport::read(dir.path()).unwrap(), Some(report));

        std::fs::write(dir.path().join(REPORT_FILE), "{\"layer\": 2}").unwrap();
        let error = CodebookReport::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("report.json: `width` is missing"), "{error}");
    }
}
