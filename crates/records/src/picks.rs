//! Rows that a schedule draws, step by step: the file of `maqam plan --picks`.

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
}

/// Writes the file, whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, steps: &[StepPicks]) -> Result<()> {
    let mut lines = String::new();
    for step in steps {
        lines += &serde_json::to_string(step).map_err(Error::bug_from)?;
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
            },
            StepPicks {
                step: 2,
                stage: "discern".into(),
                ids: Vec::new(),
            },
        ];
        write(&path, &steps).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1,\"stage\":\"listen\",\"ids\":[\"b\",\"a\"]}\n{\"step\":2,\"stage\":\"discern\",\"ids\":[]}\n"
        );
        let read = jsonl::read::<StepPicks>(&path).unwrap();
        assert!(read.into_iter().map(|(_, step)| step).eq(steps));
    }
}
