//! Word and character errors: how many substitutions, deletions and insertions lead from a
//! reference to a prediction.
//!
//! Words and characters are jiwer's, and so is the alignment; see `levenshtein`.

use std::iter::Sum;
use std::ops::Add;
use std::ops::AddAssign;
use std::ops::Range;

use rayon::prelude::*;

use crate::Normaliser;
use crate::characters::is_space;
use crate::levenshtein::MAX_KEPT_WORDS;
use crate::levenshtein::Step;
use crate::levenshtein::walk_back;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;

/// Errors of one text, or summed over a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reference tokens that the prediction has as another token.
    pub substitutions: u64,
    /// Reference tokens that the prediction lacks.
    pub deletions: u64,
    /// Tokens that only the prediction has.
    pub insertions: u64,
    /// Tokens of the reference.
    pub reference_len: u64,
}

impl Counts {
    /// Errors of all three kinds.
    pub fn errors(self) -> u64 {
        self.substitutions + self.deletions + self.insertions
    }

    /// Reference tokens that the prediction has.
    pub fn hits(self) -> u64 {
        self.reference_len - self.substitutions - self.deletions
    }

    /// Tokens of the prediction.
    pub fn prediction_len(self) -> u64 {
        self.hits() + self.substitutions + self.insertions
    }

    /// Errors per reference token. Without reference tokens it is the number of insertions, as in
    /// jiwer 4: 0 for silence rightly left empty, and never a division by zero.
    pub fn rate(self) -> f64 {
        self.fraction(self.errors())
    }

    /// A count of errors (all, or of one kind) per reference token; see [`Counts::rate`].
    pub fn fraction(self, errors: u64) -> f64 {
        errors as f64 / self.reference_len.max(1) as f64
    }

    /// Counts one more step of an alignment.
    pub(crate) fn count(&mut self, step: Step) {
        match step {
            Step::Equal => {}
            Step::Substituted => self.substitutions += 1,
            Step::Deleted => self.deletions += 1,
            Step::Inserted => self.insertions += 1,
        }
        self.reference_len += u64::from(step != Step::Inserted);
    }

    /// As a tally's vector: `[substitutions, deletions, insertions, hits]`.
    pub(crate) fn unit(self) -> Vec<f64> {
        [
            self.substitutions,
            self.deletions,
            self.insertions,
            self.hits(),
        ]
        .map(|count| count as f64)
        .to_vec()
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
            reference_len: self.reference_len + other.reference_len,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::add)
    }
}

/// What errors are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// What stands between spaces or runs of white space, as it is: normalise first. As in jiwer, a
    /// single tab or line break between two words does not part them; two or more white-space
    /// characters do.
    Words,
    /// Unicode scalar values; spaces count, white space at the ends does not.
    Characters,
}

impl Unit {
    /// Errors of one prediction against one reference.
    pub fn errors(self, reference: &str, prediction: &str) -> Counts {
        let mut counts = Counts::default();
        let count = |step| counts.count(step);
        match self {
            Self::Words => walk_back(&words(reference), &words(prediction), MAX_KEPT_WORDS, count),
            Self::Characters => {
                walk_back(&chars(reference), &chars(prediction), MAX_KEPT_WORDS, count)
            }
        }
        counts
    }

    /// Errors against the reference with the lowest rate, the first of equals.
    pub fn fewest_errors(self, pair: &Pair) -> Counts {
        pair.lowest(
            |reference| self.errors(reference, &pair.prediction),
            |counts| counts.rate(),
        )
    }

    /// The rate's name, and those of its parts.
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Words => ["wer", "substitutions", "deletions", "insertions"],
            Self::Characters => [
                "cer",
                "char_substitutions",
                "char_deletions",
                "char_insertions",
            ],
        }
    }
}

/// Word errors; see [`Unit::Words`].
pub fn word_errors(reference: &str, prediction: &str) -> Counts {
    Unit::Words.errors(reference, prediction)
}

/// Character errors; see [`Unit::Characters`].
pub fn char_errors(reference: &str, prediction: &str) -> Counts {
    Unit::Characters.errors(reference, prediction)
}

/// The error rate and its parts per reference token: `wer, substitutions, deletions, insertions`,
/// or `cer` and `char_...`.
///
/// An utterance adds `[substitutions, deletions, insertions, hits]` of its reference with the
/// lowest rate, the first of equals.
pub fn tallies(texts: &Texts, unit: Unit) -> Vec<Tally> {
    let units: Vec<Vec<f64>> = texts
        .pairs()
        .par_iter()
        .map(|pair| unit.fewest_errors(pair).unit())
        .collect();
    let kinds: [Range<usize>; 4] = [0..3, 0..1, 1..2, 2..3];
    unit.names()
        .into_iter()
        .zip(kinds)
        .map(|(name, kinds)| {
            Tally::new(
                texts.normaliser.named(name),
                signature(texts, unit),
                units.clone(),
                Formula::Errors(kinds),
            )
        })
        .collect()
}

pub(crate) fn signature(texts: &Texts, unit: Unit) -> Signature {
    let tokens = match unit {
        Unit::Words => "words",
        Unit::Characters => "chars+spaces",
    };
    // Without a reference the insertions are the rate, as jiwer 4 has it.
    Signature::default()
        .with("nrefs", texts.num_references())
        .with("best", "rate")
        .with("tok", tokens)
        .with("case", case(texts.normaliser))
        .with("norm", texts.normaliser)
        .with("empty", "insertions")
}

/// Whether case counts.
fn case(normaliser: Normaliser) -> &'static str {
    if normaliser.lowers_case() {
        "lower"
    } else {
        "mixed"
    }
}

fn chars(text: &str) -> Vec<char> {
    text.trim_matches(is_space).chars().collect()
}

pub(crate) fn words(text: &str) -> Vec<&str> {
    let text = text.trim_matches(is_space);
    let mut words = Vec::with_capacity(text.len() / 6 + 1);
    let mut start = 0;
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        if !is_space(c) {
            continue;
        }
        let mut end = at + c.len_utf8();
        let mut parts = c == ' ';
        while let Some((at, c)) = rest.next_if(|(_, c)| is_space(*c)) {
            (end, parts) = (at + c.len_utf8(), true);
        }
        if parts {
            words.push(&text[start..at]);
            start = end;
        }
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(reference, prediction, [word substitutions, deletions, insertions, reference words], the same of characters)`.
    type Golden = (String, String, [u64; 4], [u64; 4]);

    fn goldens() -> Vec<Golden> {
        serde_json::from_str(include_str!("../../../tests/fixtures/metrics/edit.json")).unwrap()
    }

    fn as_array(counts: Counts) -> [u64; 4] {
        [
            counts.substitutions,
            counts.deletions,
            counts.insertions,
            counts.reference_len,
        ]
    }

    #[test]
    fn counts_are_those_of_jiwer() {
        let goldens = goldens();
        assert!(goldens.len() >= 500);
        for (reference, prediction, words, chars) in &goldens {
            assert_eq!(
                as_array(word_errors(reference, prediction)),
                *words,
                "words of {reference:?} and {prediction:?}"
            );
            assert_eq!(
                as_array(char_errors(reference, prediction)),
                *chars,
                "characters of {reference:?} and {prediction:?}"
            );
        }
    }

    #[test]
    fn memory_does_not_change_the_counts() {
        for (reference, prediction, _, expected) in goldens() {
            for max_kept in [1, 7, 40] {
                let mut counts = Counts::default();
                walk_back(&chars(&reference), &chars(&prediction), max_kept, |step| {
                    counts.count(step)
                });
                assert_eq!(as_array(counts), expected);
            }
        }
    }

    #[test]
    fn rates_are_of_sums_and_an_empty_reference_counts_insertions() {
        let corpus: Counts = [
            ("one two three", "one too three"),
            ("four", ""),
            ("", "five six"),
        ]
        .into_iter()
        .map(|(r, p)| word_errors(r, p))
        .sum();
        assert_eq!(as_array(corpus), [1, 1, 2, 4]);
        assert_eq!((corpus.hits(), corpus.prediction_len()), (2, 5));
        assert_eq!(corpus.rate(), 1.0);
        assert_eq!(corpus.fraction(corpus.insertions), 0.5);
        assert_eq!(word_errors("", " ").rate(), 0.0);
        assert_eq!(
            word_errors("", "one two three").rate(),
            3.0,
            "jiwer 4: as many as there are insertions"
        );
        assert_eq!(char_errors("ab", "").rate(), 1.0);
    }

    #[test]
    fn words_part_where_jiwer_parts_them() {
        assert_eq!(
            words("  one\ttwo \tthree\u{a0}four  five\n"),
            ["one\ttwo", "three\u{a0}four", "five"]
        );
        assert_eq!(words(" \t "), Vec::<&str>::new());
    }

    #[test]
    fn tallies_score_sums_against_the_nearest_reference() {
        let pairs = vec![
            Pair::new("one two three", "one too three"),
            Pair::new("a b c", "d e f").or("d e").or("d e f g"),
            Pair::new("", "x"),
        ];
        let found = tallies(&Texts::new(pairs, Normaliser::None), Unit::Words);
        // "d e f g" has rate 1/4, "d e" 1/2, "a b c" 1: [0, 1, 0, 3] is added.
        assert_eq!(
            found[0].units,
            [
                [1.0, 0.0, 0.0, 2.0],
                [0.0, 1.0, 0.0, 3.0],
                [0.0, 0.0, 1.0, 0.0]
            ]
        );
        let scores: Vec<(&str, f64)> = found
            .iter()
            .map(|tally| (tally.name.as_str(), tally.corpus()))
            .collect();
        assert_eq!(
            scores,
            [
                ("wer", 3.0 / 7.0),
                ("substitutions", 1.0 / 7.0),
                ("deletions", 1.0 / 7.0),
                ("insertions", 1.0 / 7.0)
            ]
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            found[0].signature,
            format!(
                "nrefs:var|best:rate|tok:words|case:mixed|norm:none|empty:insertions|version:maqam-{version}"
            )
        );
        assert_eq!(found[0].utterance(2), 1.0);
    }

    #[test]
    fn among_equally_near_references_the_first_counts() {
        let pair = Pair::new("a b", "a").or("a c").or("x y a b");
        assert_eq!(as_array(Unit::Words.fewest_errors(&pair)), [0, 1, 0, 2]);
        let pair = Pair::new("a b", "a x").or("a");
        assert_eq!(
            as_array(Unit::Words.fewest_errors(&pair)),
            [1, 0, 0, 2],
            "half wrong, while one insertion on one word is all wrong"
        );
    }
}
