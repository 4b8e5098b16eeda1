//! `clean:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::build::keys::in_range;
use crate::error::Result;

/// What counts as repeated and what must stay unseen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Jaccard similarity of five-word shingles from which a document repeats an earlier one; 1
    /// removes equal words alone.
    pub near_duplicates: f64,
    /// Files whose texts no document may share eight words in a row with: JSON lines, Parquet or
    /// tables.
    pub test_sets: Vec<PathBuf>,
    /// Fields of those files that are compared.
    pub test_fields: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            near_duplicates: 0.8,
            test_sets: Vec::new(),
            test_fields: ["text", "transcription", "summary"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        in_range("near_duplicates", self.near_duplicates, 0.3, 1.0)
    }
}
