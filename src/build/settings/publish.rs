//! `publish:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;

/// What is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Forms of the data.
    pub formats: Vec<Format>,
    /// Approximate size of a file of the data, in MB.
    pub shard_mb: u64,
    /// Rows of `review.html`.
    pub review_rows: usize,
    /// Licence of the set; by default that of the sources.
    pub licence: Option<String>,
    /// Manifest of real recordings that dev and test are used with, whose `split` fields are
    /// counted on the card.
    pub real: Option<PathBuf>,
    /// Files whose summaries are written by people, to compare copied spans and compression with;
    /// JSON lines or tables.
    pub compare: Vec<Compared>,
}

/// A file of human summaries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// The file.
    pub file: PathBuf,
    /// Field with the text.
    pub text: String,
    /// Field with the summary.
    pub summary: String,
}

/// A form of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet files with the audio inside, as `datasets` reads them.
    Parquet,
    /// Tar files with a `.flac` and a `.json` for each row.
    WebDataset,
    /// Folders of cuts and tar files, as Lhotse reads them.
    Shar,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            formats: vec![Format::Parquet],
            shard_mb: 250,
            review_rows: 50,
            licence: None,
            real: None,
            compare: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        if self.shard_mb == 0 {
            return Err(Error::input("`shard_mb` is 0").hint("give a size in MB, such as 250"));
        }
        for path in self
            .compare
            .iter()
            .map(|compared| &compared.file)
            .chain(&self.real)
        {
            if !path.is_file() {
                return Err(Error::input("there is no such file").at_path(path));
            }
        }
        Ok(())
    }
}
