//! Rows that a schedule draws, step by step: the file of `maqam plan --picks`, and that of a run
//! whose draws follow from its training.

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
    /// Whether the picks follow from the training, so that no plan knows them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub depends_on_training: bool,
}

impl StepPicks {
    /// The line of the file, without its end.
    ///
    /// # Errors
    /// A bug alone.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::bug_from)
    }
}

/// Removes the lines of steps after `step`, those that a killed run half wrote among them; there may
/// be no file.
///
/// # Errors
/// A file that cannot be read or written.
pub fn forget_after(path: &Path, step: u64) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let text = files::read_text(path)?;
    let is_kept =
        |line: &str| serde_json::from_str::<StepPicks>(line).is_ok_and(|picks| picks.step <= step);
    let mut kept = 0;
    for line in text.split_inclusive('\n') {
        if !line.ends_with('\n') || !is_kept(line) {
            break;
        }
        kept += line.len();
    }
    files::truncate(path, kept as u64)
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
        forget_after(&path, 1).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        std::fs::write(&path, text.clone() + "{\"step\":2,\"st").unwrap();
        forget_after(&path, 2).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        write(&path, &steps).unwrap();
        let read = jsonl::read::<StepPicks>(&path).unwrap();
        assert!(read.into_iter().map(|(_, step)| step).eq(steps));
    }
}
