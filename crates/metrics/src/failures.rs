//! How generation goes wrong whatever the reference says: answers that do not end, that go round in
//! circles, that are far too long, that are in another script, that say what nobody said.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::edit::Unit;
use crate::ngrams::NGrams;
use crate::rouge::Fold;
use crate::script;
use crate::tally::Formula;
use crate::tally::Signature;
use crate::tally::Tally;
use crate::texts::Pair;
use crate::texts::Texts;

/// Shortest phrase, in words, that makes a loop.
const LOOP_WORDS: usize = 3;
/// How often in a row a phrase stands in a loop.
const LOOP_TIMES: usize = 3;
/// Length of the n-grams whose repetition is measured.
const REPEATED_ORDER: u32 = 4;

/// The metrics of [`tallies`], in their order.
const NAMES: [&str; 5] = [
    "repetition",
    "seq_rep_4",
    "length_ratio",
    "wrong_script",
    "insertion_share",
];

/// The tallies of `repetition, seq_rep_4, length_ratio, wrong_script, insertion_share`. Texts are
/// looked at as they were written; words are runs of letters, marks and digits, lower-cased.
///
/// - `repetition`: share of answers with a loop, a phrase of at least 3 words that stands at least
///   3 times in a row, anywhere. A word said nine times is one. After Holtzman et al. 2020
///   (arXiv:1904.09751, table 1), who look at the end alone, for phrases of 2 words.
/// - `seq_rep_4`: share of the answers' 4-grams that an answer has said before, 1 - different / all
///   (Welleck et al. 2020, arXiv:1908.04319, there as a mean over answers): what a compressor would
///   save.
/// - `length_ratio`: words of the answers over words of the references, of several the nearest in
///   length, the shorter of equals.
/// - `wrong_script`: share of the answers' letters whose script no reference of theirs uses.
/// - `insertion_share`: share of the answers' words that are insertions in the alignment of the
///   word error rate.
pub fn tallies(texts: &Texts) -> [Tally; 5] {
    let rows: Vec<[[f64; 2]; 5]> = texts.written().par_iter().map(row).collect();
    let signed = |tok: &str| Signature::default().with("tok", tok);
    let compared = |tok: &str| {
        Signature::default()
            .with("nrefs", texts.num_references())
            .with("tok", tok)
    };
    let of = |i: usize, signature: Signature, formula: Formula| {
        let units = rows.iter().map(|row| row[i].to_vec()).collect();
        Tally::new(NAMES[i], signature, units, formula)
    };
    let looped = signed("unicode-words")
        .with("phrase", format!("{LOOP_WORDS}+words"))
        .with("times", format!("{LOOP_TIMES}+"));
    [
        of(0, looped, Formula::Share),
        of(
            1,
            signed("unicode-words").with("n", REPEATED_ORDER),
            Formula::Share,
        ),
        of(
            2,
            compared("unicode-words").with("best", "nearest"),
            Formula::Rate,
        ),
        of(3, compared("letters"), Formula::Share),
        of(4, compared("words").with("best", "rate"), Formula::Share),
    ]
}

/// The tally `hit_limit`: share of answers that stopped at the limit of new tokens and not of
/// themselves.
pub fn hit_limit(stopped: &[bool]) -> Tally {
    let units = stopped
        .iter()
        .map(|&stopped| vec![f64::from(u8::from(stopped)), 1.0])
        .collect();
    Tally::new(
        "hit_limit",
        Signature::default().with("limit", "new-tokens"),
        units,
        Formula::Share,
    )
}

/// What one answer adds to each metric, numerator and denominator.
fn row(pair: &Pair) -> [[f64; 2]; 5] {
    let said = numbered(Fold::None.words(&pair.prediction));
    let lengths = pair
        .references()
        .map(|reference| Fold::None.words(reference).len());
    let nearest = lengths
        .min_by_key(|&len| (len.abs_diff(said.len()), len))
        .unwrap_or(0);
    let grams = NGrams::new(&said, REPEATED_ORDER);
    let all = grams.count(REPEATED_ORDER);
    let different = grams.num_different(REPEATED_ORDER);
    let counts = Unit::Words.fewest_errors(pair);
    let count = |count: usize| count as f64;
    [
        [f64::from(u8::from(has_loop(&said))), 1.0],
        [count(all - different), count(all)],
        [count(said.len()), count(nearest)],
        wrong_script(pair),
        [counts.insertions as f64, counts.prediction_len() as f64],
    ]
}

/// Whether a text repeats a phrase of at least three words at least three times in a row.
pub fn has_loop_in(text: &str) -> bool {
    has_loop(&numbered(Fold::None.words(text)))
}

fn numbered(words: Vec<String>) -> Vec<u32> {
    let mut numbers = HashMap::new();
    let number = |word| {
        let next = numbers.len() as u32;
        *numbers.entry(word).or_insert(next)
    };
    words.into_iter().map(number).collect()
}

/// Whether a phrase of enough words stands often enough in a row.
fn has_loop(words: &[u32]) -> bool {
    (LOOP_WORDS..=words.len() / LOOP_TIMES).any(|len| {
        // A phrase stands k times in a row where k - 1 times its length of words equal the word one
        // phrase later.
        let mut equal = 0;
        words.iter().zip(&words[len..]).any(|(word, later)| {
            equal = if word == later { equal + 1 } else { 0 };
            equal == (LOOP_TIMES - 1) * len
        })
    })
}

/// Letters of the prediction in a script that no reference uses, and all of its letters.
fn wrong_script(pair: &Pair) -> [f64; 2] {
    let due: u32 = pair
        .references()
        .flat_map(str::chars)
        .filter_map(script::of_letter)
        .fold(0, |seen, script| seen | 1 << script);
    let said = pair.prediction.chars().filter_map(script::of_letter);
    let counts = said.fold([0u32, 0], |[wrong, all], script| {
        [wrong + u32::from(due >> script & 1 == 0), all + 1]
    });
    counts.map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normaliser;
    use proptest::prelude::*;

    fn sums(pair: Pair) -> [Vec<f64>; 5] {
        tallies(&Texts::new(vec![pair], Normaliser::None)).map(|tally| tally.sum())
    }

    #[test]
    fn loops_are_phrases_of_three_words_three_times() {
        let cases = [
            ("so it goes so it goes so it goes", true),
            ("well so it goes, so it goes. So it goes and on", true),
            ("so it goes so it goes so it", false),
            ("no no no no no no no no no", true),
            ("no no no no no no no no", false),
            ("a b a b a b a b", false),
            ("نعم يا سيدي نعم يا سيدي، نعم يا سيدي", true),
            ("", false),
        ];
        for (said, expected) in cases {
            assert_eq!(
                sums(Pair::new("x", said))[0],
                [f64::from(u8::from(expected)), 1.0],
                "{said}"
            );
        }
    }

    #[test]
    fn repetition_length_script_and_insertions_by_hand() {
        // Four-word phrases of "a b c d a b c d": abcd, bcda, cdab, dabc, abcd: one of five was
        // said before.
        let [_, repeated, length, _, inserted] =
            sums(Pair::new("a b c d", "a b c d a b c d").or("a b c d x y"));
        // Against the second reference the rate is 4/6 and two words of eight are inserted, against
        // the first 4/4.
        assert_eq!(
            (repeated, length, inserted),
            (vec![1.0, 5.0], vec![8.0, 6.0], vec![2.0, 8.0])
        );
        let [_, none, _, script, _] = sums(Pair::new("كتاب ok", "كتاب да no 5"));
        assert_eq!((none, script), (vec![0.0, 1.0], vec![2.0, 8.0]));
        assert_eq!(sums(Pair::new("", "سلام"))[3], [4.0, 4.0]);
        let tallies = tallies(&Texts::new(
            vec![Pair::new("a b", ""), Pair::new("", "a")],
            Normaliser::ArabicDialect,
        ));
        assert_eq!(
            tallies.map(|tally| tally.corpus()),
            [0.0, 0.0, 0.5, 1.0, 1.0]
        );
    }

    #[test]
    fn a_limit_is_a_share_of_answers() {
        let tally = hit_limit(&[true, false, false, true]);
        assert_eq!((tally.corpus(), tally.name.as_str()), (0.5, "hit_limit"));
        assert_eq!(hit_limit(&[]).corpus(), 0.0);
    }

    proptest! {
        #[test]
        fn a_loop_is_found_wherever_it_stands(before in prop::collection::vec(0u32..3, 0..6), phrase in prop::collection::vec(0u32..3, 3..7), after in prop::collection::vec(0u32..3, 0..6)) {
            let words = [before, phrase.repeat(3), after].concat();
            prop_assert!(has_loop(&words));
        }

        #[test]
        fn a_loop_is_three_equal_stretches(words in prop::collection::vec(0u32..2, 0..24)) {
            let expected = (3..=words.len()).any(|len| words.windows(3 * len).any(|w| w[..len] == w[len..2 * len] && w[..len] == w[2 * len..]));
            prop_assert_eq!(has_loop(&words), expected);
        }
    }
}
