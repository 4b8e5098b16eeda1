//! chrF (Popović 2015) and chrF++ (Popović 2017): n-grams of characters, and of words, that a
//! prediction shares with its reference.
//!
//! Equal to sacreBLEU's defaults: character n-grams up to 6 without white space, word n-grams up to
//! 0 or 2, beta 2, case kept, precision and recall averaged over the orders that both sides have.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::characters::is_space;
use crate::ngrams::NGrams;
use crate::overlap;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;

/// Longest n-grams of characters.
const CHAR_ORDER: u32 = 6;
/// Longest n-grams of words that chrF++ looks at.
const WORD_ORDER: u32 = 2;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Characters alone: `chrf`.
    ChrF,
    /// Characters and words: `chrfpp`.
    ChrFPlusPlus,
}

impl Variant {
    fn word_order(self) -> u32 {
        match self {
            Self::ChrF => 0,
            Self::ChrFPlusPlus => WORD_ORDER,
        }
    }
}

/// The tally `chrf` or `chrfpp`, 0 to 100. An utterance adds for each order
/// `[n-grams of the prediction, of the reference, of both]` with the reference of the highest
/// score, the first of equals.
pub fn tally(texts: &Texts, variant: Variant) -> Tally {
    let units = texts
        .pairs()
        .par_iter()
        .map(|pair| unit(pair, variant))
        .collect();
    let signature = Signature::default()
        .with("nrefs", texts.num_references())
        .with("case", "mixed")
        .with("eff", "yes")
        .with("nc", CHAR_ORDER);
    let signature = signature
        .with("nw", variant.word_order())
        .with("space", "no")
        .with("norm", texts.normaliser);
    let name = if variant == Variant::ChrF {
        "chrf"
    } else {
        "chrfpp"
    };
    Tally::new(
        texts.normaliser.named(name),
        signature,
        units,
        Formula::ChrF,
    )
}

fn unit(pair: &Pair, variant: Variant) -> Vec<f64> {
    let mut numbers = HashMap::new();
    let prediction = Grams::new(&pair.prediction, variant, &mut numbers);
    pair.lowest(
        |reference| prediction.against(&Grams::new(reference, variant, &mut numbers), variant),
        |counts| -overlap::chrf(counts),
    )
}

/// The n-grams of one text.
struct Grams {
    chars: NGrams,
    words: NGrams,
}

impl Grams {
    fn new<'a>(text: &'a str, variant: Variant, numbers: &mut HashMap<&'a str, u32>) -> Self {
        let chars: Vec<u32> = text
            .chars()
            .filter(|c| !is_space(*c))
            .map(u32::from)
            .collect();
        let mut number = |word| {
            let next = numbers.len() as u32;
            *numbers.entry(word).or_insert(next)
        };
        let words: Vec<u32> = if variant.word_order() == 0 {
            Vec::new()
        } else {
            words(text).map(&mut number).collect()
        };
        Self {
            chars: NGrams::new(&chars, CHAR_ORDER),
            words: NGrams::new(&words, WORD_ORDER),
        }
    }

    fn against(&self, reference: &Self, variant: Variant) -> Vec<f64> {
        let chars = (1..=CHAR_ORDER).map(|order| (&self.chars, &reference.chars, order));
        let words = (1..=variant.word_order()).map(|order| (&self.words, &reference.words, order));
        let counts = chars
            .chain(words)
            .flat_map(|(predicted, reference, order)| {
                let num_reference = reference.count(order);
                // What the reference is too short for is not held against the prediction.
                let num_predicted = if num_reference == 0 {
                    0
                } else {
                    predicted.count(order)
                };
                [
                    num_predicted,
                    num_reference,
                    predicted.shared(&[reference], order),
                ]
            });
        counts.map(|count| count as f64).collect()
    }
}

/// Words, one sign of ASCII punctuation at the end of each, or else at its beginning, taken off as
/// a word of its own.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space)
        .filter(|word| !word.is_empty())
        .flat_map(|word| {
            let is_sign = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
            let mut chars = word.chars();
            let first = chars.next();
            let last = chars.next_back();
            match (first, last) {
                (Some(_), Some(last)) if is_sign(Some(last)) => {
                    let (stem, sign) = word.split_at(word.len() - last.len_utf8());
                    [Some(stem), Some(sign)]
                }
                (Some(first), Some(_)) if is_sign(Some(first)) => {
                    let (sign, stem) = word.split_at(first.len_utf8());
                    [Some(sign), Some(stem)]
                }
                _ => [Some(word), None],
            }
            .into_iter()
            .flatten()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;

    fn score(pair: Pair, variant: Variant) -> f64 {
        tally(&Texts::new(vec![pair], Normaliser::None), variant).corpus()
    }

    #[test]
    fn scores_follow_the_definition() {
        // Of "abc" in "abd": 1-grams 2 of 3, 2-grams 1 of 2, 3-grams 0 of 1 on both sides, so every
        // F is the mean of 2/3, 1/2 and 0.
        assert!(
            (score(Pair::new("abd", "a b c"), Variant::ChrF) - 100.0 * 7.0 / 18.0).abs() < 1e-9
        );
        // Words: 0 of 1 in common; there are no pairs of words.
        assert!(
            (score(Pair::new("abd", "abc"), Variant::ChrFPlusPlus) - 100.0 * 7.0 / 24.0).abs()
                < 1e-9
        );
        assert_eq!(score(Pair::new("", "abc"), Variant::ChrF), 0.0);
        assert_eq!(score(Pair::new("سلام", "سلام"), Variant::ChrFPlusPlus), 100.0);
        assert_eq!(score(Pair::new("x", "سلام").or("سلام"), Variant::ChrF), 100.0);
    }

    #[test]
    fn one_sign_is_taken_off_a_word() {
        assert_eq!(
            words(" (hi) yes, \"no ... ? a. ،نعم،").collect::<Vec<_>>(),
            [
                "(hi",
                ")",
                "yes",
                ",",
                "\"",
                "no",
                "..",
                ".",
                "?",
                "a",
                ".",
                "،نعم،"
            ]
        );
    }
}
