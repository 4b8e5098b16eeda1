//! Which example fills a slot: a pool of rows and the seeded orders in which they are drawn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::schedule::population::Cell;
use crate::seed::Key;

/// A row drawn for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pick {
    /// Global row number.
    pub row: u32,
    /// How often all rows of its pool had been drawn before, over all stages.
    pub epoch: u32,
}

/// How many orders of a pool are kept: a batch crosses from one epoch into the next, and a reader ahead of the loop may too.
const KEPT_ORDERS: usize = 2;

/// Rows that are drawn together: nothing is repeated before all were drawn.
///
/// What a pool is lies in its rows alone. A stage that mixes the same rows as an earlier one goes on in their order where
/// that stage stopped; a stage that puts rows together differently (by task in one, by data entry in the other) has pools
/// of its own, with orders of their own, and may repeat what the other has drawn.
pub(super) struct Pool {
    rows: Vec<u32>,
    stream: Key,
    orders: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl Pool {
    fn new(mut rows: Vec<u32>, seed: u64) -> Self {
        rows.sort_unstable();
        let stream = rows.iter().fold(Key::new(seed, "shuffle").with(rows.len() as u64), |stream, &row| stream.with(u64::from(row)));
        Self { rows, stream, orders: Mutex::default() }
    }

    /// Number of rows, at least one.
    pub(super) fn num_rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The pool's draw number `position`, counted from 0 over all stages.
    pub(super) fn pick(&self, position: u64) -> Pick {
        let (epoch, place) = (position / self.num_rows(), position % self.num_rows());
        let order = self.order(epoch);
        Pick { row: self.rows[order[place as usize] as usize], epoch: u32::try_from(epoch).unwrap_or(u32::MAX) }
    }

    /// The order of an epoch, from the last few or made anew; the same either way.
    fn order(&self, epoch: u64) -> Arc<[u32]> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = orders.iter().position(|(of, _)| *of == epoch) {
            return orders[place].1.clone();
        }
        if orders.len() == KEPT_ORDERS {
            orders.remove(0);
        }
        let order: Arc<[u32]> = self.stream.with(epoch).permutation(self.rows.len()).into();
        orders.push((epoch, order.clone()));
        order
    }
}

/// All pools of a schedule, each made once however many stages draw from it.
pub(super) struct Pools<'a> {
    cells: &'a [Cell],
    seed: u64,
    known: HashMap<Vec<usize>, usize>,
    /// The pools so far, by number.
    pub(super) pools: Vec<Pool>,
}

impl<'a> Pools<'a> {
    /// No pools yet, over these cells.
    pub(super) fn new(cells: &'a [Cell], seed: u64) -> Self {
        Self { cells, seed, known: HashMap::new(), pools: Vec::new() }
    }

    /// The number of the pool that holds the rows of these cells (places in rising order, at least one).
    pub(super) fn of(&mut self, cells: Vec<usize>) -> usize {
        if let Some(&pool) = self.known.get(&cells) {
            return pool;
        }
        let rows = cells.iter().flat_map(|&cell| &self.cells[cell].rows).copied().collect();
        self.pools.push(Pool::new(rows, self.seed));
        self.known.insert(cells, self.pools.len() - 1);
        self.pools.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pool_is_its_rows_whatever_they_were_put_together_from() {
        let cell = |entry, rows: &[u32]| Cell { task: 0, entry, rows: rows.to_vec() };
        let (apart, whole) = ([cell(0, &[4, 5]), cell(1, &[1, 2, 3])], [cell(0, &[1, 2, 3, 4, 5])]);
        let (mut apart, mut whole) = (Pools::new(&apart, 7), Pools::new(&whole, 7));
        assert_eq!([apart.of(vec![0, 1]), apart.of(vec![1]), apart.of(vec![0, 1])], [0, 1, 0]);
        whole.of(vec![0]);
        let picks = |pool: &Pool| (0..20).map(|position| pool.pick(position)).collect::<Vec<_>>();
        assert_eq!(picks(&apart.pools[0]), picks(&whole.pools[0]));
        assert!(picks(&apart.pools[1]).iter().all(|pick| pick.row < 4));
    }

    proptest! {
        #[test]
        fn an_epoch_holds_every_row_once_in_an_order_of_its_own(len in 1usize..200, seed: u64) {
            let rows: Vec<u32> = (0..len as u32).map(|i| i * 3 + 1).collect();
            let pool = Pool::new(rows.clone(), seed);
            let order = |epoch: u64| -> Vec<u32> { (0..len as u64).map(|i| pool.pick(epoch * len as u64 + i)).inspect(|pick| assert_eq!(u64::from(pick.epoch), epoch)).map(|pick| pick.row).collect() };
            let orders: Vec<_> = [0, 5, 1, 0].map(order).into();
            for order in &orders {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &rows);
            }
            prop_assert_eq!(&orders[0], &orders[3], "made anew after it had been dropped");
            prop_assert!(len < 20 || (orders[0] != orders[1] && orders[0] != orders[2] && orders[0] != rows));
            prop_assert!(pool.orders.lock().unwrap().len() <= KEPT_ORDERS);
        }
    }
}
