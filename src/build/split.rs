//! `split`: compares the splits that `clean` assigned with the requested shares, after all
//! rejections.

use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::recipe::Recipe;
use crate::build::store::Journal;

/// Smallest difference of shares for a note.
const DRIFT: f64 = 0.02;

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
