//! A manifest: the usable rows, and the faults of the others.

use std::path::PathBuf;

use crate::Row;
use maqam_base::error::Error;

/// The rows of one manifest, in the order of its files.
#[derive(Debug)]
pub struct Manifest {
    /// The path that names it: a file, a folder or a pattern.
    pub path: PathBuf,
    /// The rows that can be used.
    pub rows: Vec<Row>,
    /// Faults of the other rows; empty unless they were to be skipped.
    pub skipped: Vec<Error>,
    /// The lines of those, in the same order.
    pub skipped_lines: Vec<u32>,
    /// Notes for the user: unread fields, normalised spellings.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests;
