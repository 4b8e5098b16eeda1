//! ROUGE (Lin 2004) over Unicode words, so that it works on Arabic: tokens are runs of letters,
//! marks and digits, lower-cased.
//!
//! Equal to rouge_score with such a tokenizer: F1 of precision and recall, the best reference for
//! each metric, no stemming; Lsum takes the lines of a text for its sentences.

use std::collections::HashMap;
use std::sync::LazyLock;

use rayon::prelude::*;
use regex::Regex;

use crate::ngrams::NGrams;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;

/// The four metrics, in the order of their tallies.
const NAMES: [&str; 4] = ["rouge1", "rouge2", "rougeL", "rougeLsum"];

/// Mean F1 over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Overlap of words.
    pub rouge1: f64,
    /// Overlap of pairs of neighbouring words.
    pub rouge2: f64,
    /// Longest common subsequence of words.
    pub rouge_l: f64,
    /// For each line of the reference the union of its longest common subsequences with the
    /// prediction's lines.
    pub rouge_lsum: f64,
}

/// What a text is folded to before its words are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fold {
    /// Nothing but case.
    #[default]
    None,
    /// Combining marks (Arabic's diacritics among them) and tatweel go; precomposed letters stay as
    /// they are.
    Diacritics,
}

impl Fold {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Diacritics => "diacritics+tatweel",
        }
    }

    /// The words of a text; see the head of this file.
    pub(crate) fn words(self, text: &str) -> Vec<String> {
        let text = text.to_lowercase();
        let text = match self {
            Self::None => text.into(),
            Self::Diacritics => FOLDED.replace_all(&text, ""),
        };
        WORD.find_iter(&text)
            .map(|word| word.as_str().to_owned())
            .collect()
    }
}

#[expect(
    clippy::unwrap_used,
    reason = "the pattern is a constant, compiled in every test of this file"
)]
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{M}\p{N}]+").unwrap());
#[expect(
    clippy::unwrap_used,
    reason = "the pattern is a constant, compiled in every test of this file"
)]
static FOLDED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{M}\x{0640}]+").unwrap());

/// Mean over pairs of reference and prediction; 0 without any.
pub fn mean<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Rouge {
    let pairs = pairs
        .into_iter()
        .map(|(reference, prediction)| Pair::new(reference, prediction))
        .collect();
    let [rouge1, rouge2, rouge_l, rouge_lsum] =
        tallies(&Texts::new(pairs, crate::Normaliser::None), Fold::None)
            .map(|tally| tally.corpus());
    Rouge {
        rouge1,
        rouge2,
        rouge_l,
        rouge_lsum,
    }
}

/// The tallies of `rouge1, rouge2, rougeL, rougeLsum`: an utterance adds its F1 against the
/// reference where that is highest, and 1.
pub fn tallies(texts: &Texts, fold: Fold) -> [Tally; 4] {
    let lines = texts.lines();
    let scores: Vec<[f64; 4]> = lines.par_iter().map(|pair| best_f1(pair, fold)).collect();
    std::array::from_fn(|i| {
        let units = scores.iter().map(|scores| vec![scores[i], 1.0]).collect();
        Tally::new(
            texts.normaliser.named(NAMES[i]),
            signature(NAMES[i], texts, fold),
            units,
            Formula::Share,
        )
    })
}

/// How a metric was computed.
fn signature(name: &str, texts: &Texts, fold: Fold) -> Signature {
    let signed = Signature::default()
        .with("nrefs", texts.num_references())
        .with("best", "f1")
        .with("tok", "unicode-words")
        .with("case", "lower")
        .with("fold", fold.name())
        .with("stem", "no")
        .with("norm", texts.normaliser);
    match name {
        "rougeLsum" => signed.with("sentences", "lines"),
        _ => signed,
    }
}

/// F1 of each metric against the reference that is best for it.
fn best_f1(pair: &Pair, fold: Fold) -> [f64; 4] {
    let mut numbers = HashMap::new();
    let prediction = Words::new(&pair.prediction, fold, &mut numbers);
    let mut best = [0.0f64; 4];
    for reference in pair.references() {
        let found = f1s(&Words::new(reference, fold, &mut numbers), &prediction);
        best.iter_mut()
            .zip(found)
            .for_each(|(best, found)| *best = best.max(found));
    }
    best
}

/// A text as numbers of its words, line by line; empty lines are none.
struct Words {
    lines: Vec<Vec<u32>>,
}

impl Words {
    fn new(text: &str, fold: Fold, numbers: &mut HashMap<String, u32>) -> Self {
        let mut number = |word| {
            let next = numbers.len() as u32;
            *numbers.entry(word).or_insert(next)
        };
        let lines = text.split('\n').filter(|line| !line.is_empty());
        Self {
            lines: lines
                .map(|line| fold.words(line).into_iter().map(&mut number).collect())
                .collect(),
        }
    }
}

fn f1s(reference: &Words, prediction: &Words) -> [f64; 4] {
    let [all_reference, all_prediction] = [reference, prediction].map(|words| words.lines.concat());
    let of_hits = |hits: usize, order: usize| {
        let count = |words: &[u32]| (words.len() + 1).saturating_sub(order);
        f1(hits, count(&all_reference), count(&all_prediction))
    };
    let [grams, predicted] = [&all_reference, &all_prediction].map(|words| NGrams::new(words, 2));
    let longest = longest_common_subsequence(&all_reference, &all_prediction);
    let union = if reference.lines.len() == 1 && prediction.lines.len() == 1 {
        longest
    } else {
        union_hits(&reference.lines, &prediction.lines)
    };
    [
        of_hits(predicted.shared(&[&grams], 1), 1),
        of_hits(predicted.shared(&[&grams], 2), 2),
        of_hits(longest, 1),
        of_hits(union, 1),
    ]
}

fn f1(hits: usize, references: usize, predictions: usize) -> f64 {
    if hits == 0 {
        0.0
    } else {
        2.0 * hits as f64 / (references + predictions) as f64
    }
}

fn longest_common_subsequence(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Words of the reference's lines that stand in the union of their common subsequences with the
/// prediction's lines, each as often as both texts have it at most (Lin 2004, section 3.2, with
/// ROUGE-1.5.5's guard against counting twice).
fn union_hits(reference: &[Vec<u32>], prediction: &[Vec<u32>]) -> usize {
    let mut left: HashMap<u32, [usize; 2]> = HashMap::new();
    for (side, lines) in [reference, prediction].into_iter().enumerate() {
        lines
            .iter()
            .flatten()
            .for_each(|&word| left.entry(word).or_default()[side] += 1);
    }
    let mut hits = 0;
    for line in reference {
        let mut is_in_union = vec![false; line.len()];
        prediction
            .iter()
            .for_each(|other| mark_common_subsequence(line, other, &mut is_in_union));
        for (word, _) in line
            .iter()
            .zip(is_in_union)
            .filter(|(_, is_in_union)| *is_in_union)
        {
            if let Some([of_reference, of_prediction]) = left.get_mut(word)
                && *of_reference > 0
                && *of_prediction > 0
            {
                *of_reference -= 1;
                *of_prediction -= 1;
                hits += 1;
            }
        }
    }
    hits
}

/// Marks the places of `line` in its longest common subsequence with `other`. Of several, the one
/// that rouge_score reads back: from the end, a match where there is one, else along `other` where
/// that keeps more.
fn mark_common_subsequence(line: &[u32], other: &[u32], marks: &mut [bool]) {
    let width = other.len() + 1;
    let mut longest = vec![0u32; (line.len() + 1) * width];
    for (i, word) in line.iter().enumerate() {
        for (j, said) in other.iter().enumerate() {
            let here = (i + 1) * width + j + 1;
            longest[here] = if word == said {
                longest[here - width - 1] + 1
            } else {
                longest[here - width].max(longest[here - 1])
            };
        }
    }
    let mut i = line.len();
    let mut j = other.len();
    while i > 0 && j > 0 {
        let here = i * width + j;
        if line[i - 1] == other[j - 1] {
            marks[i - 1] = true;
            (i, j) = (i - 1, j - 1);
        } else if longest[here - 1] > longest[here - width] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;

    fn numbered(texts: [&str; 2]) -> [Vec<u32>; 2] {
        let mut numbers = HashMap::new();
        texts.map(|text| Words::new(text, Fold::None, &mut numbers).lines.concat())
    }

    #[test]
    fn scores_follow_the_definition() {
        // Lin 2004, section 3.1: S2 has the longer common subsequence with S1 ("police the gunman"
        // against "the gunman police").
        let lcs = |a: &str, b: &str| {
            let [a, b] = numbered([a, b]);
            longest_common_subsequence(&a, &b)
        };
        assert_eq!(lcs("police killed the gunman", "police kill the gunman"), 3);
        assert_eq!(lcs("police killed the gunman", "the gunman kill police"), 2);
        let found = mean([("police killed the gunman", "the gunman kill police")]);
        assert_eq!(
            (found.rouge1, found.rouge2, found.rouge_l, found.rouge_lsum),
            (0.75, 1.0 / 3.0, 0.5, 0.5)
        );
    }

    #[test]
    fn the_union_of_lines_follows_the_definition() {
        // Lin 2004, section 3.2: r = w1 w2 w3 w4 w5; c1 = w1 w2 w6 w7 w8, c2 = w1 w3 w8 w9 w5; the
        // union w1 w2 w3 w5 has 4 of 5 words.
        let found = mean([("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\n\nw1 w3 w8 w9 w5")]);
        assert_eq!(found.rouge_lsum, 2.0 * 4.0 / 15.0);
        assert_eq!(mean([("\n\n", "a"), ("!\n?", "a\nb")]), Rouge::default());
    }

    #[test]
    fn arabic_counts() {
        let found = mean([("افتتاح ثلاثة مستشفيات", "افتتاح مستشفيات، ثلاثة!")]);
        assert_eq!((found.rouge1, found.rouge2), (1.0, 0.0));
        assert!((found.rouge_l - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn diacritics_and_tatweel_count_unless_they_are_folded() {
        let texts = Texts::new(
            vec![Pair::new("كِتَابٌ جميـــل", "كتاب جميل")],
            Normaliser::None,
        );
        let score = |fold| tallies(&texts, fold)[0].corpus();
        assert_eq!((score(Fold::None), score(Fold::Diacritics)), (0.0, 1.0));
        assert!(tallies(&texts, Fold::Diacritics)[0].signature.starts_with(
            "nrefs:1|best:f1|tok:unicode-words|case:lower|fold:diacritics+tatweel|stem:no|"
        ));
    }

    #[test]
    fn each_metric_takes_its_best_reference_and_lines_outlive_a_normaliser() {
        let pair = || Pair::new("b a", "a b x").or("a b c d e f");
        let [one, two, longest, _] =
            tallies(&Texts::new(vec![pair()], Normaliser::None), Fold::None)
                .map(|tally| tally.corpus());
        assert_eq!((one, two, longest), (0.8, 2.0 / 7.0, 4.0 / 9.0));
        let texts = Texts::new(
            vec![Pair::new(
                "w1 w2 w3 w4 w5",
                "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5",
            )],
            Normaliser::ArabicLeaderboard,
        );
        let lsum = &tallies(&texts, Fold::None)[3];
        assert_eq!(
            (lsum.name.as_str(), lsum.corpus()),
            ("rougeLsum@arabic-leaderboard", 2.0 * 4.0 / 15.0)
        );
    }

    #[test]
    fn repeated_and_empty_words_are_counted_once() {
        assert_eq!(mean([("a b", "a a a a")]).rouge1, 2.0 / 6.0);
        assert_eq!(mean([("", "")]), Rouge::default());
        assert_eq!(mean([]), Rouge::default());
    }
}
