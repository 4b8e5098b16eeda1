//! `split`: compares the splits that `clean` assigned with the requested shares, after all rejections.

use serde::Deserialize;
use serde::Serialize;

use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::recipe::Recipe;
use crate::build::recipe::in_range;
use crate::build::store::Journal;
use crate::error::Error;
use crate::error::Result;

/// Sizes of the splits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of documents in dev.
    pub dev: f64,
    /// Share of documents in test.
    pub test: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dev: 0.1,
            test: 0.1,
        }
    }
}

/// Smallest difference of shares for a note.
const DRIFT: f64 = 0.02;

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        in_range("dev", self.dev, 0.0, 1.0)?;
        in_range("test", self.test, 0.0, 1.0)?;
        if self.dev + self.test > 1.0 {
            return Err(Error::input("`dev` and `test` are more than 1 together")
                .hint("leave a share for train"));
        }
        Ok(())
    }

    /// Numbers of documents of dev and of test among `of` documents.
    pub fn counts(&self, of: usize) -> [usize; 2] {
        let test = (self.test * of as f64).round() as usize;
        let dev = (self.dev * of as f64).round() as usize;
        [dev.min(of - test.min(of)), test.min(of)]
    }
}

/// Rows that no step rejected, in the order of files: by split, then by number.
pub(crate) fn accepted(prepared: &Prepared, journals: &[Journal]) -> Vec<usize> {
    let mut rows = prepared.alive_before(journals);
    rows.sort_by_key(|row| (prepared.rows[*row].split, *row));
    rows
}

/// Notes for the user on the splits.
pub(crate) fn notes(recipe: &Recipe, prepared: &Prepared, rows: &[usize]) -> Vec<String> {
    let mut notes = Vec::new();
    let count = |split: usize, rows: &mut dyn Iterator<Item = usize>| {
        rows.filter(|row| usize::from(prepared.rows[*row].split) == split)
            .count()
    };
    let planned = prepared.alive_before(&[]);
    if recipe.collect.split.is_none() {
        for (split, name) in SPLITS.iter().enumerate() {
            let before = count(split, &mut planned.iter().copied());
            let after = count(split, &mut rows.iter().copied());
            let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
            let drift = share(after, rows.len()) - share(before, planned.len());
            if drift.abs() > DRIFT {
                notes.push(format!(
                    "{name} has {:.1} % of the published rows and was assigned {:.1} %: rejections are uneven",
                    100.0 * share(after, rows.len()),
                    100.0 * share(before, planned.len()),
                ));
            }
        }
    }
    for (split, name) in SPLITS.iter().enumerate() {
        let wanted = match split {
            1 => recipe.split.dev,
            2 => recipe.split.test,
            _ => 1.0 - recipe.split.dev - recipe.split.test,
        };
        if wanted > 0.0 && count(split, &mut rows.iter().copied()) == 0 {
            notes.push(format!("{name} is empty"));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_counts() {
        let counts = |dev, test, of| Settings { dev, test }.counts(of);
        assert_eq!(counts(0.2, 0.2, 100), [20, 20]);
        assert_eq!(counts(0.1, 0.1, 7), [1, 1]);
        assert_eq!(counts(1.0, 0.0, 3), [3, 0]);
        assert_eq!(counts(0.5, 0.5, 3), [1, 2]);
    }
}
