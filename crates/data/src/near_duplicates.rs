//! Texts that say almost the same: exact keys, MinHash sketches and shared runs of eight words.
//!
//! Texts are compared as [`comparable`] writes them, without punctuation, case and Arabic spelling
//! variants. The data is never changed.
//!
//! - [`text_key`] is equal for texts that are equal after this.
//! - [`near_duplicates`] finds texts whose character 5-grams overlap those of an earlier one by at
//!   least a threshold (Jaccard index). [`Sketches`] is the same in two steps, for texts that come
//!   one after the other.
//! - [`Runs`] finds texts that share a run of eight words, the usual sign that an evaluation text
//!   was trained on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::path::Path;

use rayon::prelude::*;

use crate::minhash::NUM_HASHES;
use crate::minhash::RUN_WORDS;
use crate::minhash::Signature;
use crate::minhash::mixed;
use maqam_base::error::Result;
use maqam_base::files::Spill;
use maqam_metrics::Normaliser;

/// Characters of a shingle, the piece of text that two texts are compared by.
const SHINGLE_CHARS: usize = 5;

/// Smallest probability with which a pair exactly at the threshold is found.
const RECALL: f64 = 0.95;

/// Most earlier texts of one bucket that a text is compared with. It bounds the work where
/// thousands of texts share a sentence.
const MOST_COMPARED: usize = 8;

/// Pairs that are compared at once.
const PAIRS_AT_ONCE: usize = 1 << 16;

/// Jaccard index of character 5-grams from which two texts count as near-duplicates.
pub const DEFAULT_THRESHOLD: f64 = 0.8;

/// Returns a text as it is compared: lower case, words apart by one space, without punctuation and
/// marks, and with the folded letters of [`Normaliser::ArabicDialect`].
pub fn comparable(text: &str) -> String {
    let folded = Normaliser::ArabicDialect.apply(text);
    let mut compared = String::with_capacity(folded.len());
    for word in folded.split_whitespace() {
        if !compared.is_empty() {
            compared.push(' ');
        }
        compared.extend(word.chars().flat_map(char::to_lowercase));
    }
    compared
}

/// Returns the key of a text: 128 bits of BLAKE3 of its [`comparable`] form.
pub fn text_key(text: &str) -> u128 {
    key_of(comparable(text).as_bytes())
}

/// Returns 128 bits of BLAKE3 of anything, as a key of a map.
pub fn key_of(bytes: &[u8]) -> u128 {
    let hash = blake3::hash(bytes);
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(first)
}

/// A text that says almost the same as an earlier one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NearDuplicate {
    /// Position of the later text.
    pub index: usize,
    /// Position of an earlier text that it resembles.
    pub of: usize,
    /// Jaccard index of their character 5-grams, from the threshold to 1.
    pub similarity: f64,
}

/// Returns each text that resembles an earlier one by at least `threshold`, in order.
///
/// Every reported pair is compared exactly. A pair at the threshold is found with a probability of
/// at least 95 %, a more similar one with a greater one. Empty texts resemble nothing.
///
/// # Errors
/// None.
///
/// Source: Broder 1997; one permutation hashing after Li, Owen and Zhang 2012 with the
/// densification of Shrivastava 2017.
pub fn near_duplicates(texts: &[&str], threshold: f64) -> Result<Vec<NearDuplicate>> {
    let mut sketches = Sketches::new(threshold, None);
    for text in texts {
        sketches.push(sketches.sketch(text))?;
    }
    sketches.near_duplicates(|_| true, |index| Ok(texts[index as usize].into()))
}

/// Returns the Jaccard index of the character 5-grams of two texts; 0 where one is empty.
pub fn similarity(a: &str, b: &str) -> f64 {
    let a = shingles(a);
    let b = shingles(b);
    let mut shared = 0;
    let mut i = 0;
    let mut j = 0;
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (shared, i, j) = (shared + 1, i + 1, j + 1),
        }
    }
    match a.len() + b.len() - shared {
        0 => 0.0,
        all => f64::from(shared as u32) / all as f64,
    }
}

/// Sketches of many texts, on disk: 4 bytes per text and band, 72 bytes at the default threshold.
/// Memory takes one band at a time.
pub struct Sketches {
    threshold: f64,
    bins_per_band: usize,
    num_texts: u32,
    /// Hashes of all texts, for each band.
    bands: Vec<Spill>,
    /// Positions of empty texts.
    empty: Vec<u32>,
}

impl Sketches {
    /// No sketches, for pairs that are similar by at least `threshold`, which lies in (0, 1]. They
    /// are stored in `folder`, or in memory without one.
    pub fn new(threshold: f64, folder: Option<&Path>) -> Self {
        let (num_bands, bins_per_band) = shape_for(threshold);
        Self {
            threshold,
            bins_per_band,
            num_texts: 0,
            bands: (0..num_bands).map(|_| Spill::new(folder)).collect(),
            empty: Vec::new(),
        }
    }

    /// Returns what is stored of a text, so that texts can be sketched in parallel; `None` for an
    /// empty one.
    pub fn sketch(&self, text: &str) -> Option<Box<[u32]>> {
        let signature = Signature::by_bins(&shingles(text))?;
        let bands = signature
            .bands(self.bins_per_band)
            .take(self.bands.len())
            .map(|band| {
                let folded = band
                    .iter()
                    .fold(0, |hash, &bin| mixed(hash ^ u64::from(bin)).rotate_left(7));
                (folded >> 32) as u32
            });
        Some(bands.collect())
    }

    /// Adds the next text by its [`Sketches::sketch`].
    ///
    /// # Errors
    /// The disk's.
    pub fn push(&mut self, sketch: Option<Box<[u32]>>) -> Result<()> {
        if sketch.is_none() {
            self.empty.push(self.num_texts);
        }
        for (i, band) in self.bands.iter_mut().enumerate() {
            let hash = sketch.as_ref().map_or(0, |sketch| sketch[i]);
            band.append(&hash.to_le_bytes())?;
        }
        self.num_texts += 1;
        Ok(())
    }

    /// Returns each text that resembles an earlier one, in order, among those that `is_compared`
    /// selects by their positions. `text` gives the text at a position.
    ///
    /// # Errors
    /// The disk's, and those of `text`.
    pub fn near_duplicates<'a>(
        &self,
        is_compared: impl Fn(u32) -> bool,
        text: impl Fn(u32) -> Result<Cow<'a, str>> + Sync,
    ) -> Result<Vec<NearDuplicate>> {
        let mut found: Vec<NearDuplicate> = Vec::new();
        let mut is_found = vec![false; self.num_texts as usize];
        let mut order: Vec<u32> = (0..self.num_texts)
            .filter(|at| is_compared(*at) && self.empty.binary_search(at).is_err())
            .collect();
        for band in &self.bands {
            let hashes = band.records(u32::from_le_bytes)?;
            let hash = |&text: &u32| hashes[text as usize];
            order.par_sort_unstable_by_key(|text| (hash(text), *text));

            let mut pairs = Vec::new();
            for bucket in order.chunk_by(|a, b| hash(a) == hash(b)) {
                for (i, &later) in bucket.iter().enumerate().skip(1) {
                    if !is_found[later as usize] {
                        let earlier = bucket[..i.min(MOST_COMPARED)].iter();
                        pairs.extend(earlier.map(|&earlier| (later, earlier)));
                    }
                    if pairs.len() >= PAIRS_AT_ONCE {
                        self.compare(&mut pairs, &text, &mut is_found, &mut found)?;
                    }
                }
            }
            self.compare(&mut pairs, &text, &mut is_found, &mut found)?;
        }
        found.sort_unstable_by_key(|pair| pair.index);
        Ok(found)
    }

    /// Takes pairs of a later and an earlier text, and adds the similar ones.
    fn compare<'a>(
        &self,
        pairs: &mut Vec<(u32, u32)>,
        text: &(impl Fn(u32) -> Result<Cow<'a, str>> + Sync),
        is_found: &mut [bool],
        found: &mut Vec<NearDuplicate>,
    ) -> Result<()> {
        let compared = pairs.par_drain(..).map(|(later, earlier)| {
            Ok(NearDuplicate {
                index: later as usize,
                of: earlier as usize,
                similarity: similarity(&text(later)?, &text(earlier)?),
            })
        });
        // Pairs of one later text stand in the order of the earlier ones, and the first counts.
        for pair in compared.collect::<Result<Vec<_>>>()? {
            if pair.similarity >= self.threshold && !is_found[pair.index] {
                is_found[pair.index] = true;
                found.push(pair);
            }
        }
        Ok(())
    }
}

/// Number of bands and bins per band: the longest bands with which a pair at the threshold is still
/// found as often as [`RECALL`] says.
fn shape_for(threshold: f64) -> (usize, usize) {
    let finds = |bins_per_band: usize| {
        let num_bands = (NUM_HASHES / bins_per_band) as i32;
        1.0 - (1.0 - threshold.powi(bins_per_band as i32)).powi(num_bands)
    };
    let bins_per_band = (1..=NUM_HASHES)
        .take_while(|&bins_per_band| finds(bins_per_band) >= RECALL)
        .last()
        .unwrap_or(1);
    (NUM_HASHES / bins_per_band, bins_per_band)
}

/// Hashes of the different character 5-grams of a text, sorted; a shorter text is one shingle.
fn shingles(text: &str) -> Vec<u64> {
    let chars: Vec<char> = comparable(text).chars().collect();
    if chars.is_empty() {
        return Vec::new();
    }
    let windows = chars.windows(SHINGLE_CHARS.min(chars.len()));
    let mut hashes: Vec<u64> = windows
        .map(|window| {
            window
                .iter()
                .fold(0, |hash, &c| mixed(hash ^ u64::from(u32::from(c))))
        })
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Runs of `RUN_WORDS` words of some texts, each with the first of other texts that has it.
#[derive(Default)]
pub struct Runs {
    first: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
}

/// No text.
const NONE: u32 = u32::MAX;

impl Runs {
    /// Adds the runs of a text.
    pub fn add(&mut self, text: &str) {
        for run in runs(text) {
            self.first.insert(run, NONE);
        }
    }

    /// Number of different runs.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Returns whether no text had a run.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Returns the runs of another text that are among these.
    pub fn shared(&self, text: &str) -> Vec<u64> {
        let runs = runs(text).into_iter();
        runs.filter(|run| self.first.contains_key(run)).collect()
    }

    /// Records that another text, of this number, has runs that [`Runs::shared`] returned.
    pub fn set(&mut self, shared: &[u64], number: u32) {
        for run in shared {
            if let Some(first) = self.first.get_mut(run) {
                *first = number.min(*first);
            }
        }
    }

    /// Returns the least number of a text that shares a run with one of those that were added.
    pub fn first(&self, text: &str) -> Option<u32> {
        let runs = runs(text).into_iter();
        let first = runs.filter_map(|run| self.first.get(&run)).min().copied();
        first.filter(|&first| first != NONE)
    }
}

/// Hashes of the runs of a text, in its order; none where it has fewer words.
fn runs(text: &str) -> Vec<u64> {
    let compared = comparable(text);
    let words: Vec<u64> = compared
        .split(' ')
        .map(|word| {
            word.bytes()
                .fold(1, |hash, byte| mixed(hash ^ u64::from(byte)))
        })
        .collect();
    words
        .windows(RUN_WORDS)
        .map(|run| run.iter().fold(0, |hash, &word| mixed(hash ^ word)))
        .collect()
}

/// Hasher of numbers that are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use maqam_base::seed::Key;

    /// The Jaccard index by sets of strings.
    fn jaccard(a: &str, b: &str) -> f64 {
        let grams = |text: &str| -> HashSet<String> {
            let chars: Vec<char> = comparable(text).chars().collect();
            chars
                .windows(5)
                .map(|window| window.iter().collect())
                .collect()
        };
        let a = grams(a);
        let b = grams(b);
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    /// A text of random words of lower-case letters, of which a share is replaced by others.
    fn text(seed: u64, num_words: u64, replaced: f64) -> String {
        let word = |key: Key| -> String {
            (0..3 + key.below(0, 5) as u64)
                .map(|i| char::from(b'a' + key.below(1 + i, 26) as u8))
                .collect()
        };
        let key = Key::new(seed, "words");
        let words: Vec<String> = (0..num_words)
            .map(|i| {
                let is_replaced = key.with_name("whether").uniform(i) < replaced;
                word(key.with(i).with(u64::from(is_replaced)))
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn comparable_texts_ignore_spelling_habits() {
        let a = comparable("  قَالَ أحمدُ: «هذه مدرسةٌ»!  ");
        assert_eq!(a, comparable("قال احمد هذه مدرسه"));
        assert_eq!(comparable("Hello, World!"), "hello world");
        assert_eq!(text_key("Hello, World!"), text_key("hello world"));
        assert_ne!(text_key("hello world"), text_key("hello words"));
    }

    #[test]
    fn similarity_is_the_jaccard_index() {
        // abcdef: abcde, bcdef. abcdeg: abcde, bcdeg. One of three is shared.
        assert_eq!(similarity("abcdef", "abcdeg"), 1.0 / 3.0);
        assert_eq!(similarity("abc", "abc"), 1.0);
        assert_eq!(similarity("", ""), 0.0);
        for seed in 0..20 {
            let a = text(seed, 30, 0.0);
            let b = text(seed, 30, 0.2);
            assert!((similarity(&a, &b) - jaccard(&a, &b)).abs() < 1e-12);
        }
    }

    #[test]
    fn bins_agree_as_often_as_shingles_are_shared() {
        // The mean over texts of the share of bins that agree, against the Jaccard index. Short
        // texts leave most bins empty.
        for (num_words, replaced) in [(4, 0.2), (40, 0.1), (40, 0.3), (400, 0.05)] {
            let mut estimate = 0.0;
            let mut exact = 0.0;
            for seed in 0..300 {
                let a = text(seed, num_words, 0.0);
                let b = text(seed, num_words, replaced);
                let [of_a, of_b] =
                    [&a, &b].map(|text| Signature::by_bins(&shingles(text)).unwrap());
                estimate += of_a.similarity(&of_b) / 300.0;
                exact += jaccard(&a, &b) / 300.0;
            }
            assert!(
                (estimate - exact).abs() < 0.02,
                "{num_words} words: {estimate} for {exact}"
            );
        }
    }

    #[test]
    fn planted_pairs_are_found_and_nothing_else() {
        let mut texts: Vec<String> = (0..400).map(|seed| text(seed, 25, 0.0)).collect();
        texts.extend((0..200).map(|seed| text(seed, 25, 0.03)));
        let views: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found = near_duplicates(&views, 0.8).unwrap();
        let expected: Vec<(usize, usize)> = (0..200)
            .filter(|&i| jaccard(&texts[i], &texts[400 + i]) >= 0.8)
            .map(|i| (400 + i, i))
            .collect();
        assert!(expected.len() > 100 && expected.len() < 200);
        let pairs: Vec<(usize, usize)> = found.iter().map(|pair| (pair.index, pair.of)).collect();
        let num_missed = expected.iter().filter(|pair| !pairs.contains(pair)).count();
        assert!(
            num_missed * 20 <= expected.len(),
            "{num_missed} of {} are missed",
            expected.len()
        );
        assert!(pairs.iter().all(|pair| expected.contains(pair)));
        for pair in &found {
            let exact = jaccard(&texts[pair.index], &texts[pair.of]);
            assert!((pair.similarity - exact).abs() < 1e-12);
        }
    }

    #[test]
    fn the_shape_finds_pairs_at_the_threshold() {
        for threshold in [0.3, 0.5, 0.8, 0.9, 1.0] {
            let (num_bands, bins_per_band) = shape_for(threshold);
            assert!(num_bands * bins_per_band <= NUM_HASHES && num_bands > 0);
            let finds = 1.0 - (1.0 - threshold.powi(bins_per_band as i32)).powi(num_bands as i32);
            assert!(finds >= RECALL, "{threshold}: {finds}");
        }
        assert_eq!(shape_for(0.8), (18, 7));
    }

    #[test]
    fn empty_and_equal_texts() {
        let found = near_duplicates(&["", "one two", "", "One, two!", "one two"], 0.8).unwrap();
        let pairs: Vec<(usize, usize)> = found.iter().map(|pair| (pair.index, pair.of)).collect();
        assert_eq!(pairs, [(3, 1), (4, 1)]);
    }

    #[test]
    fn runs_of_eight_words_are_shared() {
        let mut runs = Runs::default();
        runs.add("a b c d e f g h i");
        runs.add("z b c d e f g h i");
        runs.add("only seven words are not a run");
        assert_eq!(runs.len(), 3);
        let others = ["x y A b, c d e f g h z", "b c d e f g h i", "b c d e f g h"];
        for (number, other) in [(7, others[0]), (5, others[1]), (3, others[2])] {
            let shared = runs.shared(other);
            assert_eq!(shared.len(), usize::from(number != 3));
            runs.set(&shared, number);
        }
        assert_eq!(runs.first("a b c d e f g h"), Some(7));
        assert_eq!(runs.first("a b c d e f g h i"), Some(5));
        assert_eq!(runs.first("z b c d e f g h"), None);
        assert_eq!(runs.first("only seven words are not a run"), None);
    }
}
