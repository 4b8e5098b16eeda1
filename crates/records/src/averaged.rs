//! `average.json` beside the average of a run's checkpoints: which ones it is of.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// Name of the file.
pub const FILE: &str = "average.json";

/// Checkpoints that were averaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Averaged {
    /// Their steps, rising.
    pub steps: Vec<u64>,
}

impl Averaged {
    /// Reads the file in a folder; `None` where there is none.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let text = files::read_text(&path)?;
        let found = json::parse(&text).map_err(|e| {
            e.at_path(&path)
                .hint("remove the folder of the average and resume the run: it is written again")
        })?;
        Ok(Some(found))
    }

    /// Writes the file into a folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(FILE), format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Averaged::read(dir.path()).unwrap(), None);
        let averaged = Averaged {
            steps: vec![3, 6, 8],
        };
        averaged.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(text, "{\"steps\":[3,6,8]}\n");
        assert_eq!(Averaged::read(dir.path()).unwrap(), Some(averaged));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Averaged::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("hint: remove"), "{error}");
    }
}
