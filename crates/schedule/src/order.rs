//! Seeded orders of any number of items. For many items, one place is computed without the rest.
//!
//! Up to [`LISTED_UP_TO`] items are sorted once by their hash. Above that the order is a computed
//! permutation: the generalised Feistel network with cycle walking of Black and Rogaway, *Ciphers
//! with Arbitrary Finite Domains*, CT-RSA 2002 (sections 3 and 4). A number below `left * right` is
//! written as two digits, `l + left * r`. Each round adds a hash of one digit to the other, modulo
//! its base, and exchanges them. Every round is invertible, so the whole is a permutation of
//! `0..left * right`. If the result is `len` or more, it is applied again, which makes it a
//! permutation of `0..len`. Both bases are about the root of `len`, so that happens rarely. The
//! round function is the counter hash of [`Key`]. The order has to be even, not secret.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use maqam_base::seed::Key;

/// Most things whose order is listed; with more it is computed place by place.
pub(super) const LISTED_UP_TO: u64 = 1 << 16;

/// Rounds of the network. Four give a permutation that few queries cannot distinguish from a random
/// one (Luby and Rackoff 1988). Two more are for safety, because here all places are queried.
const ROUNDS: u64 = 6;

/// Seeded orders of `0..len`, one for each epoch.
pub(super) struct Orders {
    len: u64,
    stream: Key,
    kind: Method,
}

enum Method {
    /// Orders by epoch, at most `num_cached` of them.
    Listed {
        num_cached: usize,
        made: Mutex<BTreeMap<u64, Vec<u32>>>,
    },
    Network(Network),
}

impl Orders {
    /// Orders of `len` items, at least one. Sorted orders are cached, up to `num_cached` of them.
    /// The first is computed at once, so that a step at which many pools start does not wait for
    /// all of them.
    pub(super) fn new(stream: Key, len: u64, num_cached: usize) -> Self {
        if len > LISTED_UP_TO {
            return Self {
                len,
                stream,
                kind: Method::Network(Network::new(len)),
            };
        }
        let first = listed(stream.with(0), len as usize);
        Self {
            len,
            stream,
            kind: Method::Listed {
                num_cached,
                made: Mutex::new(BTreeMap::from([(0, first)])),
            },
        }
    }

    /// Number of items.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The item at `place` in the order of `epoch`; it does not depend on earlier calls.
    pub(super) fn at(&self, epoch: u64, place: u64) -> u64 {
        match &self.kind {
            Method::Network(network) => network.at(self.stream.with(epoch), place),
            Method::Listed { num_cached, made } => {
                let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                if made.len() >= *num_cached && !made.contains_key(&epoch) {
                    made.pop_first();
                }
                let order = made
                    .entry(epoch)
                    .or_insert_with(|| listed(self.stream.with(epoch), self.len as usize));
                u64::from(order[place as usize])
            }
        }
    }

    #[cfg(test)]
    pub(super) fn num_remembered(&self) -> usize {
        match &self.kind {
            Method::Listed { made, .. } => made.lock().unwrap().len(),
            Method::Network(_) => 0,
        }
    }
}

/// The order of [`Key::permutation`], several times as fast through buckets by the leading bits of
/// the hash.
fn listed(stream: Key, len: usize) -> Vec<u32> {
    let shift = 64 - (len.max(2) as u64).ilog2();
    let bucket = |hash: u64| (hash >> shift) as usize;
    let mut ends = vec![0u32; bucket(u64::MAX) + 2];
    (0..len as u64).for_each(|i| ends[bucket(stream.bits(i)) + 1] += 1);
    (1..ends.len()).for_each(|bucket| ends[bucket] += ends[bucket - 1]);
    let mut order = vec![(0, 0); len];
    for i in 0..len as u32 {
        let hash = stream.bits(u64::from(i));
        let end = &mut ends[bucket(hash)];
        order[*end as usize] = (hash, i);
        *end += 1;
    }
    // Few share a bucket, so each is at most a few places from its own.
    for i in 1..len {
        let mut place = i;
        while place > 0 && order[place] < order[place - 1] {
            order.swap(place, place - 1);
            place -= 1;
        }
    }
    order.into_iter().map(|(_, i)| i).collect()
}

/// A computed permutation of `0..len`.
struct Network {
    len: u64,
    left: u64,
    right: u64,
}

impl Network {
    fn new(len: u64) -> Self {
        let left = len.isqrt();
        Self {
            len,
            left,
            right: len.div_ceil(left),
        }
    }

    fn at(&self, stream: Key, place: u64) -> u64 {
        let mut found = self.once(stream, place);
        while found >= self.len {
            found = self.once(stream, found);
        }
        found
    }

    fn once(&self, stream: Key, place: u64) -> u64 {
        let mut low = place % self.left;
        let mut high = place / self.left;
        for round in 0..ROUNDS {
            let base = if round.is_multiple_of(2) {
                self.left
            } else {
                self.right
            };
            let sum = low + stream.with(round).below(high, base as usize) as u64;
            (low, high) = (high, if sum >= base { sum - base } else { sum });
        }
        low + self.left * high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_network_is_a_permutation(len in 1u64..3_000, seed: u64) {
            let network = Network::new(len);
            let mut order: Vec<u64> = (0..len).map(|place| network.at(Key::new(seed, "order"), place)).collect();
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..len));
        }

        #[test]
        fn a_listed_order_is_that_of_sorted_hashes(len in 1usize..3_000, seed: u64) {
            prop_assert_eq!(listed(Key::new(seed, "order"), len), Key::new(seed, "order").permutation(len));
        }
    }

    #[test]
    fn beyond_the_limit_orders_are_computed() {
        let stream = Key::new(1, "order");
        let [listed, computed] =
            [LISTED_UP_TO, LISTED_UP_TO + 1].map(|len| Orders::new(stream, len, 2));
        assert!(matches!(
            (&listed.kind, &computed.kind),
            (Method::Listed { .. }, Method::Network(_))
        ));
        let permutation = stream.with(3).permutation(LISTED_UP_TO as usize);
        assert!(
            (0..LISTED_UP_TO)
                .all(|place| listed.at(3, place) == u64::from(permutation[place as usize]))
        );
        let mut all: Vec<u64> = (0..computed.len())
            .map(|place| computed.at(3, place))
            .collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..=LISTED_UP_TO));
    }

    /// The mean behaviour of random permutations, over 400 networks of 1,000 items: no pair of
    /// place and item is preferred.
    #[test]
    fn networks_are_as_even_as_random_permutations() {
        const LEN: u64 = 1000;
        let mut fixed = 0.0;
        let mut follows = 0.0;
        let mut inversions = 0.0;
        let mut cells = [[0.0f64; 10]; 10];
        let networks = 400;
        for seed in 0..networks {
            let network = Network::new(LEN);
            let order: Vec<u64> = (0..LEN)
                .map(|place| network.at(Key::new(seed, "even"), place))
                .collect();
            for (place, &found) in order.iter().enumerate() {
                fixed += f64::from(u8::from(found == place as u64));
                cells[place / 100][found as usize / 100] += 1.0;
            }
            follows += order
                .windows(2)
                .filter(|pair| pair[1] == pair[0] + 1)
                .count() as f64;
            inversions += order.windows(2).filter(|pair| pair[1] < pair[0]).count() as f64;
        }
        // Fixed points and successors are both Poisson of mean 1 for each permutation; four
        // standard errors of 400 are 0.2.
        let each = networks as f64;
        assert!(
            (fixed / each - 1.0).abs() < 0.2 && (follows / each - 1.0).abs() < 0.2,
            "{} {}",
            fixed / each,
            follows / each
        );
        // Descents have mean 999 / 2 and variance 1001 / 12.
        assert!(
            (inversions / each - 499.5).abs() < 4.0 * (1001.0f64 / 12.0 / each).sqrt(),
            "{}",
            inversions / each
        );
        // Each of 100 cells has 4,000 of 400,000; the chi-square of 81 degrees of freedom is below
        // 131 in 99.97 % of cases.
        let chi_square: f64 = cells
            .iter()
            .flatten()
            .map(|count| (count - 4000.0).powi(2) / 4000.0)
            .sum();
        assert!(chi_square < 131.0, "{chi_square}");
    }
}
