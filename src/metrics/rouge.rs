//! ROUGE (Lin 2004) over Unicode words, so that it works on Arabic: tokens are runs of letters, marks and digits, lower-cased.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

/// Mean F1 over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Overlap of words.
    pub rouge1: f64,
    /// Overlap of pairs of neighbouring words.
    pub rouge2: f64,
    /// Longest common subsequence of words.
    pub rouge_l: f64,
}

#[expect(clippy::unwrap_used, reason = "the pattern is a constant, compiled in every test of this file")]
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{M}\p{N}]+").unwrap());

fn words(text: &str) -> Vec<String> {
    WORD.find_iter(&text.to_lowercase()).map(|word| word.as_str().to_owned()).collect()
}

/// Mean over pairs of reference and prediction; 0 without any.
pub fn mean<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Rouge {
    let (mut sum, mut count) = (Rouge::default(), 0.0);
    for (reference, prediction) in pairs {
        let (reference, prediction) = (words(reference), words(prediction));
        sum.rouge1 += overlap(&reference, &prediction, 1);
        sum.rouge2 += overlap(&reference, &prediction, 2);
        sum.rouge_l += f1(longest_common_subsequence(&reference, &prediction), reference.len(), prediction.len());
        count += 1.0;
    }
    if count == 0.0 { sum } else { Rouge { rouge1: sum.rouge1 / count, rouge2: sum.rouge2 / count, rouge_l: sum.rouge_l / count } }
}

fn overlap(reference: &[String], prediction: &[String], n: usize) -> f64 {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    reference.windows(n).for_each(|gram| *left.entry(gram).or_default() += 1);
    let hits = prediction
        .windows(n)
        .filter(|gram| match left.get_mut(*gram) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        })
        .count();
    f1(hits, reference.windows(n).count(), prediction.windows(n).count())
}

fn f1(hits: usize, references: usize, predictions: usize) -> f64 {
    if hits == 0 { 0.0 } else { 2.0 * hits as f64 / (references + predictions) as f64 }
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_follow_the_definition() {
        // Lin 2004, section 3.1: S2 has the longer common subsequence with S1 ("police the gunman" against "the gunman police").
        let lcs = |a: &str, b: &str| longest_common_subsequence(&words(a), &words(b));
        assert_eq!(lcs("police killed the gunman", "police kill the gunman"), 3);
        assert_eq!(lcs("police killed the gunman", "the gunman kill police"), 2);
        let found = mean([("police killed the gunman", "the gunman kill police")]);
        assert_eq!((found.rouge1, found.rouge2, found.rouge_l), (0.75, 1.0 / 3.0, 0.5));
    }

    #[test]
    fn arabic_counts() {
        let found = mean([("افتتاح ثلاثة مستشفيات", "افتتاح مستشفيات، ثلاثة!")]);
        assert_eq!((found.rouge1, found.rouge2), (1.0, 0.0));
        assert!((found.rouge_l - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn repeated_and_empty_words_are_counted_once() {
        assert_eq!(mean([("a b", "a a a a")]).rouge1, 2.0 / 6.0);
        assert_eq!(mean([("", "")]), Rouge::default());
        assert_eq!(mean([]), Rouge::default());
    }
}
