//! Texts that repeat others: equal, nearly equal (MinHash), or sharing a long run of words with a
//! text that must stay unseen.
//!
//! Texts are compared as words: runs of letters and digits after NFKC, in lower case, without marks
//! (Arabic's diacritics among them) and tatweel. Memory does not depend on the length of a text: it
//! leaves a signature of 512 bytes, and 16 bands of about 20 bytes each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::minhash::NUM_HASHES;
use crate::minhash::RUN_WORDS;
use crate::minhash::Signature;
use maqam_base::seed::mix;

/// Words of a shingle.
const SHINGLE: usize = 5;
/// Bands of a signature; texts that agree in one of them are compared.
const NUM_BANDS: usize = 16;
/// Minima of a band. Two texts of similarity s share a band with probability `1 - (1 - s^8)^16`:
/// 0.95 at s = 0.8, 0.06 at s = 0.5.
const BAND: usize = NUM_HASHES / NUM_BANDS;
/// The words by which texts are compared.
pub fn words(text: &str) -> Vec<String> {
    let folded: String = text
        .nfkc()
        .filter(|c| !is_combining_mark(*c) && *c != 'ـ')
        .flat_map(char::to_lowercase)
        .collect();
    folded
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A number that stands for a run of words.
fn hash<'a>(words: impl IntoIterator<Item = &'a String>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for word in words {
        for byte in word.bytes().chain([0]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(state)
}

/// A number that stands for a text: equal for texts of the same words.
pub fn exact(words: &[String]) -> u64 {
    hash(words)
}

/// MinHash signature of a text's shingles of five words; a text of fewer words is one shingle.
fn signature(words: &[String]) -> Signature {
    let num = words.len().saturating_sub(SHINGLE - 1).max(1);
    Signature::by_permutations(
        (0..num).map(|start| hash(&words[start..words.len().min(start + SHINGLE)])),
    )
}

/// Keys of the bands of a signature: four bits of the band's number, 28 bits of its hash. Unequal
/// hashes that agree in 28 bits only cost a comparison.
fn bands(signature: &Signature) -> impl Iterator<Item = u32> {
    (0..).zip(signature.bands(BAND)).map(|(band, part)| {
        let hash = part
            .iter()
            .fold(0, |hash, least| mix(hash ^ u64::from(*least)));
        band << 28 | (hash >> 36) as u32
    })
}

/// A text that was kept.
struct Kept {
    number: u32,
    signature: Signature,
    /// For each band, the place of the last earlier text with the same key, or [`NO_TEXT`].
    earlier: [u32; NUM_BANDS],
}

/// End of a chain of texts with the same key of a band.
const NO_TEXT: u32 = u32::MAX;

/// A text that an earlier one repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeated {
    /// Number of the earlier text.
    pub of: usize,
    /// Estimated similarity; 1 where all words are equal.
    pub similarity: f64,
    /// Whether all words are equal.
    pub is_exact: bool,
}

/// Texts that were kept so far.
pub struct Texts {
    threshold: f64,
    exact: HashMap<u64, u32>,
    kept: Vec<Kept>,
    /// Place of the last text with each key of a band.
    by_band: HashMap<u32, u32>,
}

impl Texts {
    /// No texts; from `threshold` on, two texts are nearly equal.
    pub fn new(threshold: f64) -> Self {
        Self {
            threshold,
            exact: HashMap::new(),
            kept: Vec::new(),
            by_band: HashMap::new(),
        }
    }

    /// Keeps text `number`, unless it repeats one that was kept: the most similar of those.
    pub fn add(&mut self, number: usize, words: &[String]) -> Option<Repeated> {
        match self.exact.entry(exact(words)) {
            Entry::Occupied(first) => {
                return Some(Repeated {
                    of: *first.get() as usize,
                    similarity: 1.0,
                    is_exact: true,
                });
            }
            Entry::Vacant(place) => place.insert(number as u32),
        };
        let signature = signature(words);
        if let Some((similarity, of)) = self.nearest(&signature) {
            // A text equal to the one that goes now repeats the same.
            self.exact.insert(exact(words), of);
            return Some(Repeated {
                of: of as usize,
                similarity,
                is_exact: false,
            });
        }

        let at = self.kept.len() as u32;
        let mut earlier = [NO_TEXT; NUM_BANDS];
        for (band, key) in earlier.iter_mut().zip(bands(&signature)) {
            *band = self.by_band.insert(key, at).unwrap_or(NO_TEXT);
        }
        self.kept.push(Kept {
            number: number as u32,
            signature,
            earlier,
        });
        None
    }

    /// Similarity and number of the most similar text that is similar enough; of several the first.
    fn nearest(&self, signature: &Signature) -> Option<(f64, u32)> {
        let mut nearest: Option<(f64, u32)> = None;
        for (band, key) in bands(signature).enumerate() {
            let mut at = self.by_band.get(&key).copied().unwrap_or(NO_TEXT);
            while let Some(kept) = self.kept.get(at as usize) {
                let similarity = signature.similarity(&kept.signature);
                let is_nearer = nearest.is_none_or(|(most, number)| {
                    similarity > most || (similarity == most && kept.number < number)
                });
                if similarity >= self.threshold && is_nearer {
                    nearest = Some((similarity, kept.number));
                }
                at = kept.earlier[band];
            }
        }
        nearest
    }
}

/// Texts that must stay unseen, such as those of a test set.
#[derive(Default)]
pub struct Unseen {
    sets: Vec<String>,
    exact: HashMap<u64, u32>,
    runs: HashMap<u64, u32>,
}

/// A text that shares words with an unseen one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contamination {
    /// Name of the set.
    pub set: String,
    /// The shared run of words; none where whole texts are equal.
    pub run: Option<String>,
}

impl Unseen {
    /// Adds a text of a set.
    pub fn add(&mut self, set: &str, words: &[String]) {
        if words.is_empty() {
            return;
        }
        if self.sets.last().is_none_or(|last| last != set) {
            self.sets.push(set.to_owned());
        }
        let number = self.sets.len() as u32 - 1;
        self.exact.entry(exact(words)).or_insert(number);
        for run in words.windows(RUN_WORDS) {
            self.runs.entry(hash(run)).or_insert(number);
        }
    }

    /// Returns whether there is nothing to compare with.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty()
    }

    /// Finds what a text shares: all of its words, or `RUN_WORDS` in a row.
    pub fn find(&self, words: &[String]) -> Option<Contamination> {
        let of = |number: &u32, run| Contamination {
            set: self.sets[*number as usize].clone(),
            run,
        };
        if let Some(number) = self.exact.get(&exact(words)) {
            return Some(of(number, None));
        }
        words
            .windows(RUN_WORDS)
            .find_map(|run| Some(of(self.runs.get(&hash(run))?, Some(run.join(" ")))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A text of so many words, drawn by a number.
    fn text(seed: u64, len: u64) -> Vec<String> {
        (0..len)
            .map(|i| format!("w{}", mix(seed << 32 | i) % 5000))
            .collect()
    }

    /// Jaccard similarity of two texts' shingles, by their sets.
    fn jaccard(a: &[String], b: &[String]) -> f64 {
        let set = |words: &[String]| {
            words
                .windows(SHINGLE)
                .map(<[String]>::to_vec)
                .collect::<BTreeSet<_>>()
        };
        let a = set(a);
        let b = set(b);
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn words_are_compared_without_marks_and_case() {
        assert_eq!(
            words("قالَ: «مُحَمَّد» الجمـيل، ﻻ U.S.A 2017"),
            ["قال", "محمد", "الجميل", "لا", "u", "s", "a", "2017"]
        );
    }

    #[test]
    fn signatures_estimate_the_jaccard_similarity() {
        for (changed, seed) in [(1, 1), (5, 2), (20, 3), (60, 4)] {
            let a = text(seed, 300);
            let mut b = a.clone();
            for i in 0..changed {
                b[(i * 300 / changed) as usize] = "other".into();
            }
            let found = signature(&a).similarity(&signature(&b));
            let expected = jaccard(&a, &b);
            // Three standard errors of 128 minima.
            assert!((found - expected).abs() < 0.133, "{found} for {expected}");
        }
        assert_eq!(
            signature(&text(1, 300)).similarity(&signature(&text(2, 300))),
            0.0
        );
    }

    #[test]
    fn repeated_texts_are_found_and_others_are_kept() {
        let mut texts = Texts::new(0.8);
        for number in 0..200 {
            assert_eq!(texts.add(number, &text(number as u64, 120)), None);
        }
        let again = texts.add(200, &text(7, 120)).unwrap();
        assert_eq!((again.of, again.is_exact), (7, true));
        let mut near = text(9, 120);
        near[60] = "changed".into();
        let found = texts.add(201, &near).unwrap();
        assert_eq!((found.of, found.is_exact), (9, false));
        // Five of 116 shingles differ: 111 / 121.
        assert!((found.similarity - 111.0 / 121.0).abs() < 0.1, "{found:?}");
        // What repeats a text that was dropped repeats the kept one.
        assert_eq!(texts.add(202, &near).unwrap().of, 9);
        let mut half = text(11, 120);
        half[..60].clone_from_slice(&text(5000, 60));
        assert_eq!(texts.add(203, &half), None);
    }

    #[test]
    fn short_texts_are_compared_whole() {
        let mut texts = Texts::new(0.8);
        assert_eq!(texts.add(0, &words("نعم")), None);
        assert_eq!(texts.add(1, &words("لا")), None);
        assert_eq!(texts.add(2, &words("نَعَم!")).unwrap().of, 0);
    }

    #[test]
    fn eight_shared_words_are_contamination() {
        let mut unseen = Unseen::default();
        unseen.add("test", &text(1, 40));
        unseen.add("other", &words("نص قصير"));
        let mut shares = text(2, 40);
        shares[10..18].clone_from_slice(&text(1, 40)[20..28]);
        let found = unseen.find(&shares).unwrap();
        assert_eq!(
            (found.set.as_str(), found.run),
            ("test", Some(text(1, 40)[20..28].join(" ")))
        );
        shares[17] = "other".into();
        assert_eq!(unseen.find(&shares), None);
        let exact = unseen.find(&words("نص قصير")).unwrap();
        assert_eq!((exact.set.as_str(), exact.run), ("other", None));
    }
}
