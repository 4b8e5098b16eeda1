//! Choice of the example for a slot: pools of rows with the seeded orders in which they are drawn.

use std::collections::HashMap;

use crate::order::Orders;
use crate::population::Cell;
use maqam_base::seed::Key;

/// A row drawn for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pick {
    /// Global row number.
    pub row: u32,
    /// Number of earlier passes over all rows of the pool, over all stages; or, of a row that was
    /// drawn by competence, a number that the draws of the pool count up.
    pub epoch: u32,
}

/// Rows that are drawn together: no row repeats before all were drawn.
///
/// Only its rows identify a pool. A stage that mixes the same rows as an earlier one continues in
/// their order where that stage stopped. A stage that groups rows differently (by task in one, by
/// data entry or by label in the other) has its own pools with their own orders, and may repeat
/// rows that the other has drawn.
pub(super) struct Pool {
    rows: Vec<u32>,
    orders: Orders,
}

impl Pool {
    fn new(mut rows: Vec<u32>, seed: u64, kept_orders: usize) -> Self {
        rows.sort_unstable();
        let stream = rows.iter().fold(
            Key::new(seed, "shuffle").with(rows.len() as u64),
            |stream, &row| stream.with(u64::from(row)),
        );
        let orders = Orders::new(stream, rows.len() as u64, kept_orders);
        Self { rows, orders }
    }

    /// Number of rows, at least one.
    pub(super) fn num_rows(&self) -> u64 {
        self.orders.len()
    }

    /// The rows, rising.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The epoch of the pool's draw number `position`, counted from 0 over all stages, and its
    /// place in that epoch's order.
    pub(super) fn place(&self, position: u64) -> (u64, u64) {
        (position / self.num_rows(), position % self.num_rows())
    }

    /// The row at a place of an epoch's order.
    pub(super) fn row(&self, epoch: u64, place: u64) -> u32 {
        self.rows[self.orders.at(epoch, place) as usize]
    }
}

/// All pools of a schedule, each made once for all stages that draw from it.
pub(super) struct Pools<'a> {
    cells: &'a [Cell],
    seed: u64,
    kept_orders: usize,
    known: HashMap<Vec<usize>, usize>,
    /// The pools so far, by number.
    pub(super) pools: Vec<Pool>,
}

impl<'a> Pools<'a> {
    /// No pools yet, over these cells. Of each pool's orders the last `kept_orders` are remembered.
    pub(super) fn new(cells: &'a [Cell], seed: u64, kept_orders: usize) -> Self {
        Self {
            cells,
            seed,
            kept_orders,
            known: HashMap::new(),
            pools: Vec::new(),
        }
    }

    /// The number of the pool that holds the rows of these cells (places in rising order, at least
    /// one).
    pub(super) fn of(&mut self, cells: Vec<usize>) -> usize {
        if let Some(&pool) = self.known.get(&cells) {
            return pool;
        }
        let rows = cells
            .iter()
            .flat_map(|&cell| &self.cells[cell].rows)
            .copied()
            .collect();
        self.pools
            .push(Pool::new(rows, self.seed, self.kept_orders));
        self.known.insert(cells, self.pools.len() - 1);
        self.pools.len() - 1
    }

    /// Number of rows in a cell.
    pub(super) fn num_rows(&self, cell: usize) -> u64 {
        self.cells[cell].rows.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::population::NO_LABEL;
    use proptest::prelude::*;

    fn picks(pool: &Pool, positions: std::ops::Range<u64>) -> Vec<u32> {
        let pick = |position| {
            let (epoch, place) = pool.place(position);
            pool.row(epoch, place)
        };
        positions.map(pick).collect()
    }

    #[test]
    fn a_pool_depends_only_on_its_rows() {
        let cell = |entry, rows: &[u32]| Cell {
            task: 0,
            entry,
            label: NO_LABEL,
            has_audio: true,
            rows: rows.to_vec(),
        };
        let apart = [cell(0, &[4, 5]), cell(1, &[1, 2, 3])];
        let whole = [cell(0, &[1, 2, 3, 4, 5])];
        let mut apart = Pools::new(&apart, 7, 2);
        let mut whole = Pools::new(&whole, 7, 2);
        assert_eq!(
            [
                apart.of(vec![0, 1]),
                apart.of(vec![1]),
                apart.of(vec![0, 1])
            ],
            [0, 1, 0]
        );
        whole.of(vec![0]);
        assert_eq!(picks(&apart.pools[0], 0..20), picks(&whole.pools[0], 0..20));
        assert!(picks(&apart.pools[1], 0..20).iter().all(|&row| row < 4));
    }

    proptest! {
        #[test]
        fn every_epoch_has_every_row_once_in_its_own_order(len in 1usize..200, seed: u64) {
            let rows: Vec<u32> = (0..len as u32).map(|i| i * 3 + 1).collect();
            let pool = Pool::new(rows.clone(), seed, 2);
            let order = |epoch: u64| picks(&pool, epoch * len as u64..(epoch + 1) * len as u64);
            let orders: Vec<_> = [0, 5, 1, 0].map(order).into();
            for order in &orders {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &rows);
            }
            prop_assert_eq!(&orders[0], &orders[3], "made anew after it had been dropped");
            prop_assert!(len < 20 || (orders[0] != orders[1] && orders[0] != orders[2] && orders[0] != rows));
            prop_assert!(pool.orders.num_remembered() <= 2);
        }
    }
}
