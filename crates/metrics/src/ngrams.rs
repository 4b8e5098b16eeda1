//! The n-grams of a sequence, sorted, for the metrics that count how many two texts share.

/// All n-grams of orders up to `max_order`, packed into one sorted list.
///
/// Each place of the sequence is one number: the `max_order` items that start there, first item
/// first, zeros where the sequence ends. Sorted by it, places are sorted by their first n items for
/// every n, so equal n-grams stand together at every order.
pub struct NGrams {
    starts: Vec<u128>,
    max_order: u32,
}

impl NGrams {
    /// The n-grams of `items` of orders up to `max_order`, 2 at least; each item is below
    /// `2^(128 / max_order) - 1`: characters fit six times, numbers of words four times.
    pub fn new(items: &[u32], max_order: u32) -> Self {
        let bits = u128::BITS / max_order;
        let at = |start: usize| {
            let mut packed = 0;
            for i in start..start + max_order as usize {
                packed = packed << bits | items.get(i).map_or(0, |&item| u128::from(item) + 1);
            }
            packed
        };
        let mut starts: Vec<u128> = (0..items.len()).map(at).collect();
        starts.sort_unstable();
        Self { starts, max_order }
    }

    /// Number of n-grams of an order, each as often as it occurs.
    pub fn count(&self, order: u32) -> usize {
        (self.starts.len() + 1).saturating_sub(order as usize)
    }

    /// Number of different n-grams of an order.
    pub fn num_different(&self, order: u32) -> usize {
        self.runs(order).count()
    }

    /// Number of n-grams of an order that these share with one of `others`: each as often as it
    /// occurs here, at most as often as in the one that has it most.
    pub fn shared(&self, others: &[&Self], order: u32) -> usize {
        let mut rests: Vec<_> = others
            .iter()
            .map(|other| other.runs(order).peekable())
            .collect();
        let mut shared = 0;
        for (gram, count) in self.runs(order) {
            let mut most = 0;
            for rest in &mut rests {
                while rest.next_if(|(other, _)| *other < gram).is_some() {}
                most = most.max(
                    rest.next_if(|(other, _)| *other == gram)
                        .map_or(0, |(_, count)| count),
                );
            }
            shared += count.min(most);
        }
        shared
    }

    /// The different n-grams of an order, sorted, with how often each occurs.
    fn runs(&self, order: u32) -> impl Iterator<Item = (u128, usize)> {
        let bits = u128::BITS / self.max_order;
        let rest = (self.max_order - order) * bits;
        let last_item = u128::MAX >> (u128::BITS - bits);
        // What runs over the end of the sequence is no n-gram.
        let grams = self
            .starts
            .iter()
            .map(move |start| start >> rest)
            .filter(move |gram| gram & last_item != 0);
        let mut grams = grams.peekable();
        std::iter::from_fn(move || {
            let gram = grams.next()?;
            let mut count = 1;
            while grams.next_if_eq(&gram).is_some() {
                count += 1;
            }
            Some((gram, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn counted(items: &[u32], order: usize) -> HashMap<&[u32], usize> {
        let mut counts = HashMap::new();
        items
            .windows(order)
            .for_each(|gram| *counts.entry(gram).or_default() += 1);
        counts
    }

    proptest! {
        #[test]
        fn as_a_table_counts_them(
            a in prop::collection::vec(0u32..4, 0..30),
            b in prop::collection::vec(0u32..4, 0..30),
            c in prop::collection::vec(0u32..4, 0..30),
            max_order in 2u32..7,
        ) {
            let [of_a, of_b, of_c] = [&a, &b, &c].map(|items| NGrams::new(items, max_order));
            for order in 1..=max_order {
                let [count_a, count_b, count_c] = [&a, &b, &c].map(|items| counted(items, order as usize));
                prop_assert_eq!(of_a.count(order), count_a.values().sum::<usize>());
                prop_assert_eq!(of_a.num_different(order), count_a.len());
                let at = |counts: &HashMap<&[u32], usize>, gram: &[u32]| counts.get(gram).copied().unwrap_or(0);
                let expected: usize = count_a.iter().map(|(gram, &count)| count.min(at(&count_b, gram).max(at(&count_c, gram)))).sum();
                prop_assert_eq!(of_a.shared(&[&of_b, &of_c], order), expected);
            }
        }
    }

    #[test]
    fn the_largest_characters_fit() {
        let items = [char::MAX as u32; 7];
        assert_eq!(
            NGrams::new(&items, 6).shared(&[&NGrams::new(&items[1..], 6)], 6),
            1
        );
        assert_eq!(NGrams::new(&items, 6).num_different(2), 1);
    }
}
