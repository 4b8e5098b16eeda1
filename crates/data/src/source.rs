//! A manifest as recipes, suites and commands name it.

use std::path::PathBuf;

use crate::Columns;
use crate::Format;

/// A manifest: its files, and the settings for reading them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// A file, a folder, a pattern (`train-*.parquet`, `{000..099}.tar`) or a list of shards.
    pub path: PathBuf,
    /// Folder from which relative audio paths start; by default that of the row's file.
    pub audio_root: Option<PathBuf>,
    /// The format; by default the files show it.
    pub format: Option<Format>,
    /// Foreign columns by the field that each becomes.
    pub columns: Columns,
}

impl Source {
    /// A manifest with default settings.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }
}
