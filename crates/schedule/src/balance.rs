//! Balanced slots: equal over tasks, then over labels, then over rows with and without audio, as
//! far as a cap on repeats allows.

use std::collections::BTreeMap;

use crate::draw::Pools;
use crate::population::Cell;
use crate::slots::Slots;

/// A cell of a stage's balance: the rows that compete for the same slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BalanceCell {
    /// Place of the task.
    pub(super) task: usize,
    /// Place of the label among the task's, or [`crate::NO_LABEL`].
    pub(super) label: u16,
    /// True if the rows have audio.
    pub(super) has_audio: bool,
    /// The pool they are drawn from.
    pub(super) pool: usize,
}

/// The cells of a stage as branches: tasks, their labels, and the forms of each.
pub(super) enum Tree {
    /// A cell with its number of rows.
    Leaf(BalanceCell, u64),
    /// Children that share slots equally; never empty.
    Branch(Vec<Tree>),
}

impl Tree {
    /// The cells of these tasks, over the population's cells that `is_drawn` lets in.
    pub(super) fn of(
        tasks: &[usize],
        cells: &[Cell],
        is_drawn: impl Fn(&Cell) -> bool,
        pools: &mut Pools<'_>,
    ) -> Self {
        let mut branches = Vec::with_capacity(tasks.len());
        for &task in tasks {
            branches.push(Self::of_task(task, cells, &is_drawn, pools));
        }
        Self::Branch(branches)
    }

    /// The cells of one task. Rows without a label come last, and rows with audio come before rows
    /// without.
    fn of_task(
        task: usize,
        cells: &[Cell],
        is_drawn: &impl Fn(&Cell) -> bool,
        pools: &mut Pools<'_>,
    ) -> Self {
        let mut labels: BTreeMap<u16, BTreeMap<bool, Vec<usize>>> = BTreeMap::new();
        for (place, cell) in cells.iter().enumerate() {
            if cell.task == task && is_drawn(cell) {
                let forms = labels.entry(cell.label).or_default();
                forms.entry(!cell.has_audio).or_default().push(place);
            }
        }

        let mut branches = Vec::with_capacity(labels.len());
        for (label, forms) in labels {
            let mut leaves = Vec::with_capacity(forms.len());
            for (is_text, places) in forms {
                let num_rows = places.iter().map(|&cell| pools.num_rows(cell)).sum();
                let cell = BalanceCell {
                    task,
                    label,
                    has_audio: !is_text,
                    pool: pools.of(places),
                };
                leaves.push(Self::Leaf(cell, num_rows));
            }
            branches.push(Self::Branch(leaves));
        }
        Self::Branch(branches)
    }

    /// The cells in the order of tasks, labels and forms.
    pub(super) fn cells(&self) -> Vec<BalanceCell> {
        match self {
            Self::Leaf(cell, _) => vec![*cell],
            Self::Branch(children) => children.iter().flat_map(Self::cells).collect(),
        }
    }

    /// Rows of all its cells.
    pub(super) fn num_rows(&self) -> u64 {
        match self {
            Self::Leaf(_, rows) => *rows,
            Self::Branch(children) => children.iter().map(Self::num_rows).sum(),
        }
    }

    /// Slots that are equal at every branch; remainders rotate among the children.
    pub(super) fn equal(&self) -> Slots {
        match self {
            Self::Leaf(cell, _) => Slots::Pool(cell.pool),
            Self::Branch(children) => {
                Slots::split(children.iter().map(|child| (1.0, child.equal())).collect())
            }
        }
    }

    /// Slots of which `quota` are assigned by the time each cell has had at most `max_repeats` for
    /// each of its rows, which must suffice for the quota. A cell has the same share of the quota
    /// throughout, so its slots are spread evenly.
    pub(super) fn capped(&self, quota: u64, max_repeats: u64) -> Slots {
        match self {
            Self::Leaf(cell, _) => Slots::Pool(cell.pool),
            Self::Branch(children) => {
                let capacities: Vec<u64> = children
                    .iter()
                    .map(|child| child.num_rows() * max_repeats)
                    .collect();
                let parts = children
                    .iter()
                    .zip(fill(quota, &capacities))
                    .filter(|(_, part)| *part > 0);
                Slots::split(
                    parts
                        .map(|(child, part)| (part as f64, child.capped(part, max_repeats)))
                        .collect(),
                )
            }
        }
    }
}

/// Divides `total` as equally as `capacities` allow, whose sum is at least `total`. A remainder
/// goes to the first cells with free capacity.
fn fill(total: u64, capacities: &[u64]) -> Vec<u64> {
    let mut by_capacity: Vec<usize> = (0..capacities.len()).collect();
    by_capacity.sort_by_key(|&i| capacities[i]);
    let mut parts = capacities.to_vec();
    let mut left = total;
    for (done, &smallest) in by_capacity.iter().enumerate() {
        let sharing = (by_capacity.len() - done) as u64;
        if capacities[smallest] > left / sharing {
            let mut with_room = by_capacity[done..].to_vec();
            with_room.sort_unstable();
            for (i, place) in with_room.into_iter().enumerate() {
                parts[place] = left / sharing + u64::from((i as u64) < left % sharing);
            }
            break;
        }
        left -= capacities[smallest];
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn divisions_by_hand() {
        assert_eq!(fill(10, &[100, 100, 100]), [4, 3, 3]);
        assert_eq!(fill(10, &[1, 100, 3]), [1, 6, 3]);
        assert_eq!(fill(11, &[100, 2, 100]), [5, 2, 4]);
        assert_eq!(fill(7, &[2, 2, 3]), [2, 2, 3]);
        assert_eq!(fill(2, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(fill(0, &[5, 5]), [0, 0]);
    }

    proptest! {
        #[test]
        fn divisions_are_complete_even_and_within_capacity(capacities in prop::collection::vec(0u64..50, 1..9), share in 0.0..=1.0f64) {
            let total = (capacities.iter().sum::<u64>() as f64 * share) as u64;
            let parts = fill(total, &capacities);
            prop_assert_eq!(parts.iter().sum::<u64>(), total);
            prop_assert!(parts.iter().zip(&capacities).all(|(part, capacity)| part <= capacity));
            let most = parts.iter().max().copied().unwrap_or(0);
            // A cell with at least two slots fewer than another has no free capacity.
            prop_assert!(parts.iter().zip(&capacities).all(|(part, capacity)| part + 1 >= most || part == capacity), "{:?} of {:?}", parts, capacities);
        }
    }
}
