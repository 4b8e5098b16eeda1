//! `search.json` of `maqam prompts`: the score of a model with each instruction of its tasks.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Name of the file.
pub const FILE: &str = "search.json";

/// Instructions of a task in a language, tried on the rows of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Searched {
    /// The task.
    pub task: String,
    /// Language of the instructions.
    pub language: String,
    /// Number of rows that each was tried on.
    pub rows: usize,
    /// Place of the best one, from 0.
    pub best: usize,
    /// The instructions, in the order of the task's file.
    pub candidates: Vec<Candidate>,
}

/// An instruction with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The instruction, as the task's file has it.
    pub instruction: String,
    /// Mean over the task's sets of its metric as goodness in `[0, 1]`.
    pub score: f64,
}

/// Writes the file into a folder.
///
/// # Errors
/// A file that cannot be written.
pub fn write(folder: &Path, searched: &[Searched]) -> Result<()> {
    let text = serde_json::to_string_pretty(searched).map_err(Error::bug_from)?;
    files::write_atomic(&folder.join(FILE), format!("{text}\n").as_bytes())
}
