//! Faults of a data set: of single rows, of their audio, and between rows.
//!
//! The caller adds rows, and a callback gets each finding at once. The comparison of rows keeps
//! ids, texts and hashes in temporary files, and about 40 bytes per row in memory.
//!
//! - `finding`: kinds of findings, and settings.
//! - `rows`: fields of a row against its task and its language.
//! - `clips`: audio.
//! - `across`: duplicates, and overlap between splits.
//! - `known`: cached facts about audio, so that a check can continue.

mod across;
mod clips;
mod finding;
pub mod findings;
mod known;
mod rows;
pub mod run;

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

pub use clips::STATED_TOLERANCE_S;
pub use clips::agree;
pub use finding::Finding;
pub use finding::FindingKind;
pub use finding::Placed;
pub use finding::Settings;
pub use finding::Severity;
pub use finding::Sink;
pub use known::Known;

use crate::check::across::Across;
use crate::check::clips::Heard;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// A check of one data set, which may be several manifests.
pub struct Check<'a> {
    settings: Settings<'a>,
    known: &'a Known,
    across: Across,
    num_rows: u64,
}

impl<'a> Check<'a> {
    /// A check without rows. `known` is its cache of facts about audio.
    pub fn new(settings: Settings<'a>, known: &'a Known) -> Self {
        Self {
            across: Across::new(settings.similarity, settings.scratch),
            settings,
            known,
            num_rows: 0,
        }
    }

    /// Number of rows so far, those that cannot be read among them.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Adds a row that cannot be read.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn bad_row(
        &mut self,
        file: &Arc<Path>,
        line: u32,
        id: Option<String>,
        error: &Error,
        found: Sink<'_>,
    ) -> Result<()> {
        self.num_rows += 1;
        found(Finding {
            kind: rows::kind_of(error),
            file: file.clone(),
            line,
            id: id.unwrap_or_default().into(),
            message: error.message().to_owned(),
        })
    }

    /// Adds rows. Their audio is examined in parallel.
    ///
    /// # Errors
    /// Those of `found` and of the disk.
    pub fn rows(&mut self, rows: &[Placed], found: Sink<'_>) -> Result<()> {
        let looked_at: Vec<(Vec<(FindingKind, String)>, Vec<Heard>, across::TextFacts)> = rows
            .par_iter()
            .map(|placed| {
                let row = &placed.row;
                let heard = clips::listen(row, self.settings.decode, self.known);
                let mut findings = rows::check(row, &self.settings);
                findings.extend(clips::check(row, &heard, &self.settings));
                (findings, heard, self.across.text_facts(row))
            })
            .collect();
        self.known.keep()?;

        for (placed, (findings, heard, text)) in rows.iter().zip(looked_at) {
            self.num_rows += 1;
            for (kind, message) in findings {
                found(placed.finding(kind, message))?;
            }
            self.across.add(placed, &heard, text)?;
        }
        Ok(())
    }

    /// Compares the rows with each other.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn finish(self, found: Sink<'_>) -> Result<()> {
        self.across.finish(found)
    }
}

#[cfg(test)]
mod tests;
