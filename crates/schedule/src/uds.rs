//! `draw: uds`: the slots of `draw: balanced`, each filled by the best of several candidates under
//! the model as it stands. After arXiv 2510.16882 (2025); the scores are [`maqam_stats::uds`].
//!
//! A slot has the next few draws of its cell as candidates, so candidates are a function of the
//! step. Those that are not chosen are passed over until the cell's next epoch.

use serde::Deserialize;
use serde::Serialize;

use crate::draw::Pick;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_stats::uds::best;

/// Most candidates for a slot: draws of a stage stay far from the end of their numbers.
const MOST_CANDIDATES: u64 = 1024;

/// `uds:` of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UdsSettings {
    /// Candidates for each slot, from 1 to 1,024.
    pub candidates: u64,
    /// Factor of the distance, beside the nuclear norm.
    pub alpha: f64,
    /// Most chosen rows that candidates are compared with.
    pub queue: usize,
    /// Positions of projected logits.
    pub rows: usize,
    /// Tokens of projected logits.
    pub columns: usize,
    /// Positions that logits are padded to before they are projected.
    pub length: usize,
}

impl Default for UdsSettings {
    fn default() -> Self {
        Self {
            candidates: 4,
            alpha: 2.5e-3,
            queue: 1024,
            rows: 8,
            columns: 128,
            length: 512,
        }
    }
}

impl UdsSettings {
    /// Refuses numbers outside their range, by key.
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("candidates", self.candidates),
            ("queue", self.queue as u64),
            ("rows", self.rows as u64),
            ("columns", self.columns as u64),
            ("length", self.length as u64),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(Error::input(format!("`uds.{key}` is 0"))
                .hint("give a number of at least 1, or leave the key out"));
        }
        if self.candidates > MOST_CANDIDATES {
            let found = format!(
                "`uds.candidates` is {}, more than {MOST_CANDIDATES}",
                self.candidates
            );
            return Err(Error::input(found)
                .hint("give the rows that compete for each slot; 4 is the default"));
        }
        if !(self.alpha.is_finite() && self.alpha >= 0.0) {
            return Err(Error::input(format!("`uds.alpha` is {}", self.alpha))
                .hint("give the factor of the distance, at least 0"));
        }
        Ok(())
    }
}

/// Slots of a step that go to one cell, and the rows that compete for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellCandidates {
    /// Places of the slots in the step, rising.
    pub slots: Vec<usize>,
    /// Rows in the order of their draws, each once.
    pub picks: Vec<Pick>,
    /// Draws of rows that are among them already, in a cell of few rows.
    repeats: Vec<Pick>,
}

impl CellCandidates {
    /// Adds a slot, and the draws that compete for it.
    pub(super) fn add(&mut self, slot: usize, draws: impl Iterator<Item = Pick>) {
        self.slots.push(slot);
        for draw in draws {
            let is_known = self.picks.iter().any(|pick| pick.row == draw.row);
            match is_known {
                true => self.repeats.push(draw),
                false => self.picks.push(draw),
            }
        }
    }

    /// Picks of the slots by the scores of the candidates, `None` for one that could not be read:
    /// the highest scores in the order of draws, then rows that could not be read, then repeats.
    pub fn choose(&self, scores: &[Option<f64>]) -> Vec<Pick> {
        let mut readable = Vec::new();
        let mut others = Vec::new();
        let mut known = Vec::new();
        for (pick, score) in self.picks.iter().zip(scores) {
            match score {
                Some(score) => {
                    readable.push(*pick);
                    known.push(*score);
                }
                None => others.push(*pick),
            }
        }
        let places = best(&known, self.slots.len());
        let mut chosen: Vec<Pick> = places.into_iter().map(|place| readable[place]).collect();
        chosen.extend(others.into_iter().chain(self.repeats.iter().copied()));
        chosen.truncate(self.slots.len());
        chosen
    }

    /// Picks of the slots where nothing is known of the rows: the first of them.
    pub(super) fn first(&self) -> Vec<Pick> {
        self.choose(&vec![Some(0.0); self.picks.len()])
    }
}

/// Picks of a step, in the order of its slots, from those of each cell.
///
/// # Errors
/// A bug if the cells do not fill the slots.
pub fn in_slots(cells: &[CellCandidates], chosen: &[Vec<Pick>]) -> Result<Vec<Pick>> {
    let mut placed: Vec<(usize, Pick)> = Vec::new();
    for (cell, picks) in cells.iter().zip(chosen) {
        placed.extend(cell.slots.iter().copied().zip(picks.iter().copied()));
    }
    placed.sort_unstable();
    let is_full = placed.iter().enumerate().all(|(i, (slot, _))| i == *slot);
    if !is_full || placed.len() != cells.iter().map(|cell| cell.slots.len()).sum::<usize>() {
        return Err(Error::bug("candidates do not fill the slots of a step"));
    }
    Ok(placed.into_iter().map(|(_, pick)| pick).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(row: u32, epoch: u32) -> Pick {
        Pick { row, epoch }
    }

    /// Two slots of a cell with four candidates each, of which one comes twice.
    fn cell() -> CellCandidates {
        let mut cell = CellCandidates::default();
        let draws = [7, 3, 5, 9].map(|row| pick(row, 0));
        cell.add(0, draws.into_iter());
        let draws = [pick(1, 0), pick(3, 1), pick(8, 1), pick(2, 1)];
        cell.add(2, draws.into_iter());
        cell
    }

    #[test]
    fn the_best_candidates_are_chosen() {
        let cell = cell();
        let rows: Vec<u32> = cell.picks.iter().map(|pick| pick.row).collect();
        assert_eq!(rows, [7, 3, 5, 9, 1, 8, 2]);
        let choose = |scores: [f64; 7]| cell.choose(&scores.map(Some));
        // In the order of draws, and the first of equal ones.
        let found = choose([1.0, 2.0, 8.0, 3.0, 9.0, 4.0, 5.0]);
        assert_eq!(found, [pick(5, 0), pick(1, 0)]);
        let found = choose([1.0, 2.0, 2.0, 1.0, 2.0, 1.0, 1.0]);
        assert_eq!(found, [pick(3, 0), pick(5, 0)]);
        assert_eq!(cell.first(), [pick(7, 0), pick(3, 0)]);
        let mut scores = [None; 7];
        scores[5] = Some(-1.0);
        assert_eq!(cell.choose(&scores), [pick(8, 1), pick(7, 0)]);
    }

    #[test]
    fn a_cell_of_few_rows_repeats_them() {
        let mut cell = CellCandidates::default();
        let draws = |epoch| [4, 6].map(|row| pick(row, epoch)).into_iter();
        cell.add(0, draws(0));
        cell.add(1, draws(1));
        cell.add(2, draws(2));
        assert_eq!(cell.picks.len(), 2);
        let found = cell.choose(&[Some(1.0), Some(2.0)]);
        assert_eq!(found, [pick(4, 0), pick(6, 0), pick(4, 1)]);
    }

    #[test]
    fn picks_go_to_their_slots() {
        let first = cell();
        let mut second = CellCandidates::default();
        second.add(1, [pick(20, 0), pick(21, 0)].into_iter());
        let cells = [first, second];
        let chosen = [vec![pick(5, 0), pick(1, 0)], vec![pick(21, 0)]];
        let found = in_slots(&cells, &chosen).unwrap();
        assert_eq!(found, [pick(5, 0), pick(21, 0), pick(1, 0)]);
        assert!(in_slots(&cells[..1], &chosen[..1]).is_err());
        assert!(in_slots(&cells, &[vec![pick(5, 0)], vec![]]).is_err());
    }
}
