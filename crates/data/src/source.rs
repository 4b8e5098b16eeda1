//! A manifest as recipes, suites and commands name it.

use std::path::PathBuf;

use crate::Columns;
use crate::Format;

/// A manifest: where its files are, and what must be said of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// A file, a folder, a pattern (`train-*.parquet`, `{000..099}.tar`) or a list of shards.
    pub path: PathBuf,
    /// Where relative audio paths start; by default the folder of the file with the row.
    pub audio_root: Option<PathBuf>,
    /// The format; by default the files tell it.
    pub format: Option<Format>,
    /// Foreign columns by the field that each becomes.
    pub columns: Columns,
}

impl Source {
    /// A manifest of which nothing need be said.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }
}
