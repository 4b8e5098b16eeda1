//! Rows that a schedule draws, step by step: the file of `maqam plan --picks`, and `picks.jsonl` of
//! a run whose picks depend on training.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPicks {
    /// Number of the step, from 1.
    pub step: u64,
    /// Name of its stage.
    pub stage: String,
    /// Ids of its rows, in the order of its slots.
    pub ids: Vec<String>,
    /// Whether training may draw other rows, because picks follow from it. The rows of a plan are
    /// then those that the weights before training give.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub depends_on_training: bool,
}

impl StepPicks {
    /// The line as it stands in the file, without its end.
    ///
    /// # Errors
    /// None but a bug of ours.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::bug_from)
    }
}

/// Cuts the picks of a run, whose first line is of step `first`, back to those of its first `steps`
/// steps. A missing or empty file, or one whose first line is of a later step, is that of a run
/// that began before its picks were recorded: the next line is of the next step.
///
/// # Errors
/// A file that ends before.
pub fn truncate(path: &Path, first: u64, steps: u64) -> Result<()> {
    let mut kept = 0;
    let mut last = None;
    let mut begins_late = true;
    if path.is_file() {
        let text = files::read_text(path)?;
        begins_late = text.is_empty();
        for line in text.split_inclusive('\n') {
            let whole = Some(line).filter(|line| line.ends_with('\n'));
            let found: Option<StepPicks> = whole.and_then(|line| serde_json::from_str(line).ok());
            let Some(found) = found.filter(|found| found.step <= steps) else {
                // A first line that a kill cut short is of no finished step.
                begins_late = last.is_none() && (whole.is_none() || is_after(line, steps));
                break;
            };
            kept += line.len() as u64;
            last = Some(found.step);
        }
    }
    let num_known = last.unwrap_or(0);
    if num_known < steps && steps >= first && !begins_late {
        return Err(Error::input(format!(
            "has the picks of {num_known} steps, the checkpoint was written after {steps}"
        ))
        .at_path(path)
        .hint("put the file back as it was"));
    }
    files::truncate(path, kept)
}

/// Whether a line is of a step after `steps`.
fn is_after(line: &str, steps: u64) -> bool {
    serde_json::from_str(line).is_ok_and(|found: StepPicks| found.step > steps)
}

/// Writes the file, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, steps: &[StepPicks]) -> Result<()> {
    let mut lines = String::new();
    for step in steps {
        lines += &step.to_text()?;
        lines.push('\n');
    }
    files::write_atomic(path, lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::jsonl;

    #[test]
    fn picks_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picks.jsonl");
        let steps = [
            StepPicks {
                step: 1,
                stage: "listen".into(),
                ids: vec!["b".into(), "a".into()],
                depends_on_training: false,
            },
            StepPicks {
                step: 2,
                stage: "discern".into(),
                ids: Vec::new(),
                depends_on_training: true,
            },
        ];
        write(&path, &steps).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1,\"stage\":\"listen\",\"ids\":[\"b\",\"a\"]}\n{\"step\":2,\"stage\":\"discern\",\"ids\":[],\"depends_on_training\":true}\n"
        );
        let read = jsonl::read::<StepPicks>(&path).unwrap();
        assert!(read.into_iter().map(|(_, step)| step).eq(steps));
    }

    #[test]
    fn picks_are_cut_back_to_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picks.jsonl");
        let step = |step| {
            let picks = StepPicks {
                step,
                stage: "listen".into(),
                ids: Vec::new(),
                depends_on_training: true,
            };
            picks.to_text().unwrap() + "\n"
        };
        let whole = step(3) + &step(4) + &step(5);
        std::fs::write(&path, format!("{whole}{{\"step\":6,\"sta")).unwrap();
        truncate(&path, 3, 5).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        truncate(&path, 3, 3).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), step(3));
        let error = truncate(&path, 3, 4).unwrap_err().to_string();
        assert!(error.contains("has the picks of 3 steps"), "{error}");
        truncate(&path, 3, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");

        // A run that began before picks were recorded, and resumed after 7 steps.
        std::fs::remove_file(&path).unwrap();
        truncate(&path, 3, 7).unwrap();
        for text in [String::new(), step(8) + &step(9), "{\"step\":8,".to_owned()] {
            std::fs::write(&path, text).unwrap();
            truncate(&path, 3, 7).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        }
        std::fs::write(&path, step(8) + &step(9)).unwrap();
        truncate(&path, 3, 8).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), step(8));
        assert!(truncate(&path, 3, 9).is_err());
        std::fs::write(&path, "no picks\n").unwrap();
        assert!(truncate(&path, 3, 7).is_err());
    }
}
