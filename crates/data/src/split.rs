//! Divides rows into train, dev and test so that no group is in two of them.
//!
//! The part of a group depends only on the seed and the group's name. Its hash is a number in
//! [0, 1): dev takes the low end and test the high end. So a split does not change when rows of other groups are added. In return, shares are met on average and not exactly. [`Splitter::assign`]
//! corrects two cases by means of the other groups.

use std::collections::HashMap;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SplitPart {
    /// Rows to train on.
    Train,
    /// Rows to choose a model by.
    Dev,
    /// Rows to report.
    Test,
}

impl SplitPart {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// Name of the part and of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// Sizes of dev and test; train is the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amounts {
    /// Shares of the groups, in [0, 1).
    Shares {
        /// Share of dev.
        dev: f64,
        /// Share of test.
        test: f64,
    },
    /// Hours of audio.
    Hours {
        /// Hours of dev.
        dev: f64,
        /// Hours of test.
        test: f64,
    },
}

impl Amounts {
    /// Refuses sizes that leave no training rows.
    ///
    /// # Errors
    /// A negative size; a sum of shares of 1 or more.
    pub fn check(self) -> Result<()> {
        let (dev, test, most) = match self {
            Self::Shares { dev, test } => (dev, test, 1.0),
            Self::Hours { dev, test } => (dev, test, f64::INFINITY),
        };
        if !(dev >= 0.0 && test >= 0.0 && dev + test < most) {
            return Err(Error::input(format!("dev is {dev} and test {test}"))
                .hint("give shares of 0 or more that are less than 1 together, or hours"));
        }
        Ok(())
    }
}

/// Fewest groups of a stratum that dev and test are both taken from.
const FEWEST_GROUPS: usize = 3;

/// Groups that a part should get from a stratum before one is chosen for it.
const EXPECTED_GROUPS: f64 = 0.5;

/// Groups of the rows that were added.
pub struct Splitter {
    key: Key,
    /// Node of each name of a group, by hash.
    nodes: HashMap<u64, u32>,
    /// The node that each was joined to; itself for the first of a group.
    joined_to: Vec<u32>,
    /// Least hash of the names that were joined.
    hashes: Vec<u64>,
    /// Least stratum of the rows, as a hash.
    strata: Vec<u64>,
    seconds: Vec<f32>,
    node_of_row: Vec<u32>,
}

/// Parts of all rows, in their order.
pub struct Assignment {
    parts: Vec<SplitPart>,
    node_of_row: Vec<u32>,
    /// Groups that were chosen for a stratum that dev or test would have missed.
    pub num_chosen: usize,
    /// Groups of each part, in the order of [`SplitPart::ALL`].
    pub num_groups: [usize; 3],
}

impl Assignment {
    /// Part of a row, by its index.
    pub fn part(&self, row: usize) -> SplitPart {
        self.parts[self.node_of_row[row] as usize]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.node_of_row.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.node_of_row.is_empty()
    }
}

impl Splitter {
    /// No groups. Another seed divides them differently.
    pub fn new(seed: u64) -> Self {
        Self {
            key: Key::new(seed, "split"),
            nodes: HashMap::new(),
            joined_to: Vec::new(),
            hashes: Vec::new(),
            strata: Vec::new(),
            seconds: Vec::new(),
            node_of_row: Vec::new(),
        }
    }

    /// Adds a row of `seconds` of audio. `name` and `others` are hashes of its group's names; rows
    /// that share one of them, directly or through others, form a group. `stratum` is the hash of
    /// the property that every part should have.
    pub fn add(&mut self, name: u64, others: &[u64], stratum: u64, seconds: f64) {
        let node = self.node(name);
        let mut root = self.root(node);
        for &other in others {
            let other = self.node(other);
            let other = self.root(other);
            root = self.join(root, other);
        }
        let at = root as usize;
        self.strata[at] = self.strata[at].min(stratum);
        self.seconds[at] += seconds as f32;
        self.node_of_row.push(root);
    }

    fn node(&mut self, name: u64) -> u32 {
        let next = self.joined_to.len() as u32;
        let node = *self.nodes.entry(name).or_insert(next);
        if node == next {
            self.joined_to.push(next);
            self.hashes.push(self.key.bits(name));
            self.strata.push(u64::MAX);
            self.seconds.push(0.0);
        }
        node
    }

    fn root(&mut self, node: u32) -> u32 {
        let mut at = node;
        while self.joined_to[at as usize] != at {
            let next = self.joined_to[at as usize];
            self.joined_to[at as usize] = self.joined_to[next as usize];
            at = next;
        }
        at
    }

    fn join(&mut self, a: u32, b: u32) -> u32 {
        if a != b {
            let root = a.min(b) as usize;
            let other = a.max(b) as usize;
            self.joined_to[other] = root as u32;
            self.hashes[root] = self.hashes[root].min(self.hashes[other]);
            self.strata[root] = self.strata[root].min(self.strata[other]);
            self.seconds[root] += self.seconds[other];
        }
        a.min(b)
    }

    /// Assigns every group to a part.
    ///
    /// By shares: if a stratum of at least three groups should give half a group or more to dev (or
    /// test) and gives none, its group with the smallest (or largest) hash is chosen. Such a group
    /// may return to train when groups of its stratum are added.
    ///
    /// By hours: each stratum gives groups in the order of their hashes until its portion of the
    /// hours is reached. Added groups move those at the end of the portion.
    ///
    /// # Errors
    /// More hours than there are.
    pub fn assign(mut self, amounts: Amounts) -> Result<Assignment> {
        amounts.check()?;
        let mut by_stratum: HashMap<u64, Vec<u32>> = HashMap::new();
        for node in 0..self.joined_to.len() as u32 {
            if self.joined_to[node as usize] == node {
                let stratum = self.strata[node as usize];
                by_stratum.entry(stratum).or_default().push(node);
            }
        }
        let mut parts = vec![SplitPart::Train; self.joined_to.len()];
        let mut num_chosen = 0;
        let total_s: f64 = by_stratum
            .values()
            .flatten()
            .map(|&group| f64::from(self.seconds[group as usize]))
            .sum();
        for groups in by_stratum.values_mut() {
            groups.sort_unstable_by_key(|&group| (self.hashes[group as usize], group));
            num_chosen += match amounts {
                Amounts::Shares { dev, test } => self.by_shares(groups, dev, test, &mut parts),
                Amounts::Hours { dev, test } => {
                    if (dev + test) * 3600.0 >= total_s {
                        let found = format!("{:.2} hours of audio", total_s / 3600.0);
                        return Err(Error::input(found).hint("ask for fewer hours of dev and test"));
                    }
                    self.by_seconds(
                        groups,
                        dev * 3600.0 / total_s,
                        test * 3600.0 / total_s,
                        &mut parts,
                    );
                    0
                }
            };
        }

        let mut num_groups = [0; 3];
        for &group in by_stratum.values().flatten() {
            num_groups[parts[group as usize] as usize] += 1;
        }
        for row in 0..self.node_of_row.len() {
            self.node_of_row[row] = self.root(self.node_of_row[row]);
        }
        Ok(Assignment {
            parts,
            node_of_row: self.node_of_row,
            num_chosen,
            num_groups,
        })
    }

    /// Divides the groups of a stratum, in the order of their hashes; returns the number of chosen
    /// groups.
    fn by_shares(&self, groups: &[u32], dev: f64, test: f64, parts: &mut [SplitPart]) -> usize {
        let mut num_of = [0; 3];
        for &group in groups {
            let at = self.hashes[group as usize] as f64 / 2f64.powi(64);
            let part = match at {
                at if at < dev => SplitPart::Dev,
                at if at >= 1.0 - test => SplitPart::Test,
                _ => SplitPart::Train,
            };
            parts[group as usize] = part;
            num_of[part as usize] += 1;
        }

        let is_missed = |part: SplitPart, share: f64| {
            let expected = share * groups.len() as f64;
            groups.len() >= FEWEST_GROUPS
                && num_of[part as usize] == 0
                && expected >= EXPECTED_GROUPS
        };
        let mut num_chosen = 0;
        for (part, share, at) in [
            (SplitPart::Dev, dev, 0),
            (SplitPart::Test, test, groups.len().saturating_sub(1)),
        ] {
            if is_missed(part, share) && parts[groups[at] as usize] == SplitPart::Train {
                parts[groups[at] as usize] = part;
                num_chosen += 1;
            }
        }
        num_chosen
    }

    /// Takes groups from both ends until each has its share of the stratum's seconds.
    fn by_seconds(&self, groups: &[u32], dev: f64, test: f64, parts: &mut [SplitPart]) {
        let seconds = |group: u32| f64::from(self.seconds[group as usize]);
        let all: f64 = groups.iter().map(|&group| seconds(group)).sum();
        let mut take = |groups: &mut dyn Iterator<Item = &u32>, part: SplitPart, wanted: f64| {
            let mut taken = 0.0;
            for &group in groups {
                // A group that misses the mark by less than its half is taken.
                if taken + seconds(group) / 2.0 > wanted
                    || parts[group as usize] != SplitPart::Train
                {
                    break;
                }
                parts[group as usize] = part;
                taken += seconds(group);
            }
        };
        take(&mut groups.iter(), SplitPart::Dev, dev * all);
        take(&mut groups.iter().rev(), SplitPart::Test, test * all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near_duplicates::key_of;

    fn hash(text: &str) -> u64 {
        key_of(text.as_bytes()) as u64
    }

    fn shares(dev: f64, test: f64) -> Amounts {
        Amounts::Shares { dev, test }
    }

    /// Parts of rows that are given as (names, stratum).
    fn parts(rows: &[(Vec<String>, String)], amounts: Amounts, seed: u64) -> Vec<SplitPart> {
        let mut splitter = Splitter::new(seed);
        for (names, stratum) in rows {
            let names: Vec<u64> = names.iter().map(|name| hash(name)).collect();
            splitter.add(names[0], &names[1..], hash(stratum), 3.6);
        }
        let assignment = splitter.assign(amounts).unwrap();
        (0..rows.len()).map(|row| assignment.part(row)).collect()
    }

    fn rows(range: std::ops::Range<usize>, per_speaker: usize) -> Vec<(Vec<String>, String)> {
        let row = |i: usize| {
            let speaker = i / per_speaker;
            (
                vec![format!("speaker {speaker}")],
                format!("label {}", speaker % 4),
            )
        };
        range.map(row).collect()
    }

    #[test]
    fn groups_stay_together_and_shares_are_met() {
        let rows = rows(0..20_000, 5);
        let parts = parts(&rows, shares(0.1, 0.2), 7);
        for five in parts.chunks(5) {
            assert!(five.iter().all(|part| *part == five[0]));
        }
        let share = |wanted: SplitPart| {
            parts.iter().filter(|&&part| part == wanted).count() as f64 / 20_000.0
        };
        // Four thousand groups: two standard deviations are 0.0095 and 0.0126.
        assert!(
            (share(SplitPart::Dev) - 0.1).abs() < 0.0095,
            "{}",
            share(SplitPart::Dev)
        );
        assert!(
            (share(SplitPart::Test) - 0.2).abs() < 0.0126,
            "{}",
            share(SplitPart::Test)
        );
    }

    #[test]
    fn added_rows_move_nothing() {
        let before = rows(0..1_000, 5);
        let first = parts(&before, shares(0.1, 0.1), 7);
        let mut more = rows(1_000..1_500, 5);
        more.extend(before.clone());
        let second = parts(&more, shares(0.1, 0.1), 7);
        assert_eq!(&second[500..], &first);
        assert_ne!(parts(&before, shares(0.1, 0.1), 8), first);
    }

    #[test]
    fn names_that_share_rows_are_one_group() {
        let row = |names: &[&str]| {
            (
                names.iter().map(|name| (*name).to_owned()).collect(),
                String::new(),
            )
        };
        for seed in 0..50 {
            let found = parts(
                &[
                    row(&["a", "x"]),
                    row(&["b", "y"]),
                    row(&["a", "y"]),
                    row(&["c", "z"]),
                ],
                shares(0.3, 0.3),
                seed,
            );
            assert!(
                found[0] == found[1] && found[1] == found[2],
                "{seed}: {found:?}"
            );
        }
    }

    #[test]
    fn no_stratum_is_missed() {
        // Ten speakers of each of four labels: by hash alone, one in three strata would have no
        // dev.
        for seed in 0..20 {
            let rows = rows(0..40, 1);
            let found = parts(&rows, shares(0.1, 0.1), seed);
            for label in 0..4 {
                let of_label: Vec<SplitPart> = (label..40).step_by(4).map(|i| found[i]).collect();
                assert!(
                    of_label.contains(&SplitPart::Dev),
                    "{seed} {label}: {of_label:?}"
                );
                assert!(
                    of_label.contains(&SplitPart::Test),
                    "{seed} {label}: {of_label:?}"
                );
                assert!(
                    of_label.contains(&SplitPart::Train),
                    "{seed} {label}: {of_label:?}"
                );
            }
        }
    }

    #[test]
    fn hours_are_met_in_every_stratum() {
        // One hour in 1,000 rows of 200 speakers, a quarter of each label.
        let rows = rows(0..1_000, 5);
        let found = parts(
            &rows,
            Amounts::Hours {
                dev: 0.1,
                test: 0.2,
            },
            3,
        );
        for label in 0..4 {
            let of = |wanted: SplitPart| {
                let of_label = (0..1_000).filter(|i| i / 5 % 4 == label);
                of_label.filter(|&i| found[i] == wanted).count() as f64 * 3.6
            };
            assert!(
                (of(SplitPart::Dev) - 90.0).abs() <= 18.0,
                "{}",
                of(SplitPart::Dev)
            );
            assert!(
                (of(SplitPart::Test) - 180.0).abs() <= 18.0,
                "{}",
                of(SplitPart::Test)
            );
        }
    }

    #[test]
    fn impossible_shares_are_refused() {
        for amounts in [
            shares(0.5, 0.5),
            shares(-0.1, 0.1),
            shares(f64::NAN, 0.1),
            Amounts::Hours {
                dev: 1.0,
                test: 0.0,
            },
        ] {
            let mut splitter = Splitter::new(0);
            splitter.add(1, &[], 0, 10.0);
            assert!(splitter.assign(amounts).is_err(), "{amounts:?}");
        }
    }
}
