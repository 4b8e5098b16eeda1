//! Slots and shares: the pool of the slot with a given number, without going through earlier slots.
//!
//! Source: Webster's divisor method (Sainte-Laguë), Balinski and Young, *Fair Representation*,
//! 1982, chapter 5 and appendix A. The j-th slot (from 0) of a share `w` has rank `(j + 0.5) / w`,
//! and slots are assigned by rising rank. The method is house-monotone (a longer stage begins with
//! the slots of a shorter one) and the closest to the shares pair by pair.
//!
//! With n shares, the count of a share s (of the total) differs from its exact part by at most
//! `1/2 + s (n - 2) / 2` slots. Each count is `w x` rounded, for one x, so it is off by at most a
//! half, and the errors of the other counts change x. For up to three shares, or for equal shares,
//! the difference is at most one slot.

/// Shares that compete for slots.
#[derive(Clone, Debug)]
pub(super) struct Webster {
    weights: Vec<f64>,
}

impl Webster {
    /// Shares in any unit; all finite and above zero.
    pub(super) fn new(weights: Vec<f64>) -> Self {
        Self { weights }
    }

    /// Number of slots of each share among the first `slots` slots.
    ///
    /// Rounding the exact parts is off by a few slots in total. Those are added or removed by rank.
    /// A last pass makes sure that no assigned slot has a higher rank than one that was not
    /// assigned, whatever the rounding of the estimate.
    pub(super) fn counts(&self, slots: u64) -> Vec<u64> {
        let scale = slots as f64 / self.weights.iter().sum::<f64>();
        let mut counts: Vec<u64> = self
            .weights
            .iter()
            .map(|weight| (weight * scale + 0.5) as u64)
            .collect();
        let mut handed_out: u64 = counts.iter().sum();
        while handed_out < slots {
            let next = self.next(&counts);
            counts[next] += 1;
            handed_out += 1;
        }
        while handed_out > slots {
            let last = self.last(&counts);
            counts[last] -= 1;
            handed_out -= 1;
        }
        if slots > 0 {
            let mut next = self.next(&counts);
            let mut last = self.last(&counts);
            while self
                .rank(next, counts[next], last, counts[last] - 1)
                .is_lt()
            {
                counts[next] += 1;
                counts[last] -= 1;
                (next, last) = (self.next(&counts), self.last(&counts));
            }
        }
        counts
    }

    /// The share that gets the next slot when `counts` were handed out.
    pub(super) fn next(&self, counts: &[u64]) -> usize {
        (1..counts.len()).fold(0, |best, i| {
            if self.rank(i, counts[i], best, counts[best]).is_lt() {
                i
            } else {
                best
            }
        })
    }

    /// The share that got the last slot.
    fn last(&self, counts: &[u64]) -> usize {
        let mut shares = (0..counts.len()).filter(|&i| counts[i] > 0);
        let first = shares.next().unwrap_or(0);
        shares.fold(first, |worst, i| {
            if self
                .rank(i, counts[i] - 1, worst, counts[worst] - 1)
                .is_gt()
            {
                i
            } else {
                worst
            }
        })
    }

    /// Compares the rank of slot `i` of share `a` with that of slot `j` of share `b`; equal ranks
    /// go by the shares' order.
    fn rank(&self, a: usize, i: u64, b: usize, j: u64) -> std::cmp::Ordering {
        let of = |share: usize, slot: u64| (slot as f64 + 0.5) / self.weights[share];
        of(a, i).total_cmp(&of(b, j)).then(a.cmp(&b))
    }
}

/// Slots split among groups, tasks and pools, level by level.
#[derive(Clone, Debug)]
pub(super) enum Slots {
    /// All slots go to this pool.
    Pool(usize),
    /// Slots are split by weight.
    Split(Webster, Vec<Slots>),
}

impl Slots {
    /// Splits slots among children of the given weights; a single child needs no level.
    pub(super) fn split(mut children: Vec<(f64, Slots)>) -> Self {
        if children.len() == 1 {
            return children.remove(0).1;
        }
        let (weights, children) = children.into_iter().unzip();
        Self::Split(Webster::new(weights), children)
    }

    /// The slots without some pools, whose slots are passed over; `None` if no pool is left.
    pub(super) fn without(&self, leaves: &impl Fn(usize) -> bool) -> Option<Self> {
        match self {
            Self::Pool(pool) => (!leaves(*pool)).then(|| self.clone()),
            Self::Split(webster, children) => {
                let mut left = Vec::with_capacity(children.len());
                for (weight, child) in webster.weights.iter().zip(children) {
                    left.extend(child.without(leaves).map(|child| (*weight, child)));
                }
                (!left.is_empty()).then(|| Self::split(left))
            }
        }
    }

    /// Adds each pool's share of the slots, of which all pools get `whole`, to `shares`.
    pub(super) fn add_shares(&self, whole: f64, shares: &mut [f64]) {
        match self {
            Self::Pool(pool) => shares[*pool] += whole,
            Self::Split(webster, children) => {
                let total: f64 = webster.weights.iter().sum();
                for (weight, child) in webster.weights.iter().zip(children) {
                    child.add_shares(whole * weight / total, shares);
                }
            }
        }
    }

    /// Numbers of the pools that get slots, rising.
    pub(super) fn pools(&self) -> Vec<usize> {
        let mut pools = match self {
            Self::Pool(pool) => vec![*pool],
            Self::Split(_, children) => children.iter().flat_map(Self::pools).collect(),
        };
        pools.sort_unstable();
        pools.dedup();
        pools
    }

    /// Position after the first `taken` slots.
    pub(super) fn at(&self, taken: u64) -> Cursor<'_> {
        match self {
            Self::Pool(pool) => Cursor::Pool { pool: *pool, taken },
            Self::Split(webster, children) => {
                let counts = webster.counts(taken);
                let children = children
                    .iter()
                    .zip(&counts)
                    .map(|(child, &count)| child.at(count))
                    .collect();
                Cursor::Split {
                    webster,
                    counts,
                    children,
                }
            }
        }
    }
}

/// A place in the sequence of slots.
pub(super) enum Cursor<'a> {
    /// A pool that all slots go to, with the number of slots so far.
    Pool {
        /// The pool's number.
        pool: usize,
        /// Number of slots so far.
        taken: u64,
    },
    /// Slots are split.
    Split {
        /// The rule.
        webster: &'a Webster,
        /// Slots so far, by child.
        counts: Vec<u64>,
        /// Positions of the children.
        children: Vec<Cursor<'a>>,
    },
}

impl Cursor<'_> {
    /// The pool of the next slot, with the number of slots that it had before; advances by one
    /// slot.
    pub(super) fn next(&mut self) -> (usize, u64) {
        match self {
            Self::Pool { pool, taken } => {
                *taken += 1;
                (*pool, *taken - 1)
            }
            Self::Split {
                webster,
                counts,
                children,
            } => {
                let child = webster.next(counts);
                counts[child] += 1;
                children[child].next()
            }
        }
    }

    /// Adds each pool's slots so far to `totals`, indexed by pool.
    pub(super) fn add_counts(&self, totals: &mut [u64]) {
        match self {
            Self::Pool { pool, taken } => totals[*pool] += taken,
            Self::Split { children, .. } => {
                children.iter().for_each(|child| child.add_counts(totals))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The method as its definition has it: all ranks, sorted.
    fn by_definition(weights: &[f64], slots: usize) -> Vec<u64> {
        let mut ranks: Vec<(f64, usize)> = Vec::new();
        for (share, weight) in weights.iter().enumerate() {
            ranks.extend((0..slots).map(|j| ((j as f64 + 0.5) / weight, share)));
        }
        ranks.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut counts = vec![0; weights.len()];
        for (_, share) in ranks.into_iter().take(slots) {
            counts[share] += 1;
        }
        counts
    }

    #[test]
    fn seats_are_those_of_the_textbook() {
        // Quotients by 1, 3, 5 worked by hand; the first is the usual example of eight seats for
        // four lists.
        assert_eq!(
            Webster::new(vec![100_000.0, 80_000.0, 30_000.0, 20_000.0]).counts(8),
            [3, 3, 1, 1]
        );
        assert_eq!(
            Webster::new(vec![53_000.0, 24_000.0, 23_000.0]).counts(7),
            [3, 2, 2]
        );
        assert_eq!(
            Webster::new(vec![2.0, 6.0]).counts(2),
            [1, 1],
            "the tie of 0.5/2 and 1.5/6 goes to the first"
        );
    }

    #[test]
    fn far_slots_need_no_replay() {
        let webster = Webster::new(vec![1.0, 2.0, 4.0]);
        assert_eq!(webster.counts(7 * (1 << 40)), [1 << 40, 2 << 40, 4 << 40]);
        assert_eq!(webster.counts(0), [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_definition(weights in prop::collection::vec(prop_oneof![1e-3..1e3f64, (1u32..9).prop_map(f64::from)], 1..8), slots in 0usize..200) {
            prop_assert_eq!(Webster::new(weights.clone()).counts(slots as u64), by_definition(&weights, slots));
        }

        #[test]
        fn one_slot_more_is_the_next_slot(weights in prop::collection::vec(0.01..100f64, 1..7), slots in 0u64..1_000_000) {
            let webster = Webster::new(weights);
            let mut counts = webster.counts(slots);
            let next = webster.next(&counts);
            counts[next] += 1;
            prop_assert_eq!(webster.counts(slots + 1), counts);
        }

        #[test]
        fn counts_keep_to_the_shares(weights in prop::collection::vec(0.01..100f64, 1..9), slots in 0u64..100_000) {
            let total: f64 = weights.iter().sum();
            let counts = Webster::new(weights.clone()).counts(slots);
            prop_assert_eq!(counts.iter().sum::<u64>(), slots);
            for (count, weight) in counts.iter().zip(&weights) {
                let share = weight / total;
                let bound = 0.5 + share * (weights.len() as f64 - 2.0).max(0.0) / 2.0;
                let off = (*count as f64 - share * slots as f64).abs();
                prop_assert!(off <= bound + 1e-6, "{} slots off with a bound of {}", off, bound);
                prop_assert!(weights.len() > 3 || off < 1.0);
            }
        }

        #[test]
        fn a_tree_of_splits_resumes_at_any_slot(inner in prop::collection::vec(0.1..9f64, 1..4), share in 0.05..0.95f64, slots in 0u64..5_000) {
            let pools = inner.len();
            let listed = Slots::split(inner.iter().enumerate().map(|(i, &weight)| (weight, Slots::Pool(i))).collect());
            let tree = Slots::split(vec![(1.0 - share, listed), (share, Slots::Pool(pools))]);
            let mut walked = tree.at(0);
            let mut taken = vec![0; pools + 1];
            for _ in 0..slots {
                let (pool, before) = walked.next();
                prop_assert_eq!(taken[pool], before);
                taken[pool] += 1;
            }
            let mut counted = vec![0; pools + 1];
            tree.at(slots).add_counts(&mut counted);
            prop_assert_eq!(&counted, &taken);
            prop_assert_eq!(tree.at(slots).next(), walked.next());
        }
    }
}
