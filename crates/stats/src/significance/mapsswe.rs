//! The matched-pair sentence-segment word error test: do two recognisers make the same number of
//! errors per segment?
//!
//! Sources: Gillick and Cox, *Some statistical issues in the comparison of speech recognition
//! algorithms*, 1989; Pallett, Fisher and Fiscus, *Tools for the analysis of benchmark speech
//! recognition tests*, 1990. An utterance is cut where both systems have at least two correct words
//! in a row, with nothing inserted between them. The pieces with errors are the segments. Their
//! errors count as independent, and the mean difference as normal. SCTK's `sc_stats -t mapsswe`
//! counts and decides in the same way (it reads its p-value from a table at two digits of z).

use serde::Serialize;

use super::distribution::normal_p;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Words that both systems have right between two segments.
const BOUNDARY_WORDS: usize = 2;

/// A word of an alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A reference word that was recognised.
    Correct,
    /// A reference word that was substituted or deleted.
    Wrong,
    /// A word that is not in the reference.
    Inserted,
}

/// The outcome of the test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mapsswe {
    /// Segments in which either system errs.
    pub num_segments: usize,
    /// Mean over segments of the second system's errors less the first's.
    pub mean: f64,
    /// Standard deviation of that difference.
    pub deviation: f64,
    /// `mean / (deviation / sqrt(segments))`; 0 if the deviation is 0, because the segments then
    /// have no information on chance.
    pub z: f64,
    /// Two-sided p-value of `z` under the normal distribution: rough with fewer than some fifty
    /// segments.
    pub p: f64,
}

/// Tests two systems on the same utterances, each given as its two alignments to the same
/// reference, first system first.
///
/// Errors: alignments to references of different length.
pub fn mapsswe(utterances: &[(&[Token], &[Token])]) -> Result<Mapsswe> {
    let mut differences = Vec::new();
    for (utterance, (first, second)) in utterances.iter().enumerate() {
        let first = slots(first);
        let second = slots(second);
        if first.len() != second.len() {
            return Err(Error::input(format!(
                "utterance {utterance} has {} words in one alignment and {} in the other",
                first.len() / 2,
                second.len() / 2
            ))
            .hint("both systems are aligned to the same normalised reference"));
        }
        segments(&first, &second, &mut differences);
    }
    Ok(outcome(&differences))
}

/// Errors at each place of the reference: before the first word, on it, between it and the next,
/// and so on; `[2 words + 1]`.
fn slots(alignment: &[Token]) -> Vec<u32> {
    let mut slots = vec![0];
    for token in alignment {
        match token {
            Token::Inserted => *slots.last_mut().unwrap_or(&mut 0) += 1,
            Token::Correct => slots.extend([0, 0]),
            Token::Wrong => slots.extend([1, 0]),
        }
    }
    slots
}

/// Adds the difference in errors of each segment of an utterance.
fn segments(first: &[u32], second: &[u32], differences: &mut Vec<f64>) {
    let mut difference = 0.0;
    let mut is_open = false;
    let mut right = 0;
    for (place, (&a, &b)) in first.iter().zip(second).enumerate() {
        if a + b == 0 {
            // Odd places are words, even ones the gaps between them.
            right += place % 2;
            continue;
        }
        if is_open && right >= BOUNDARY_WORDS {
            differences.push(difference);
            difference = 0.0;
        }
        difference += f64::from(b) - f64::from(a);
        (is_open, right) = (true, 0);
    }
    if is_open {
        differences.push(difference);
    }
}

fn outcome(differences: &[f64]) -> Mapsswe {
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = differences
        .iter()
        .map(|difference| (difference - mean) * (difference - mean))
        .sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    let z = if deviation > 0.0 {
        mean / (deviation / count.sqrt())
    } else {
        0.0
    };
    Mapsswe {
        num_segments: differences.len(),
        mean,
        deviation,
        z,
        p: normal_p(z),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    fn tokens(letters: &str) -> Vec<Token> {
        letters
            .chars()
            .map(|letter| {
                if letter == 'C' {
                    Token::Correct
                } else if letter == 'I' {
                    Token::Inserted
                } else {
                    Token::Wrong
                }
            })
            .collect()
    }

    fn run(pairs: &[(String, String)]) -> Mapsswe {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(first, second)| (tokens(first), tokens(second)))
            .collect();
        mapsswe(
            &pairs
                .iter()
                .map(|(first, second)| (first.as_slice(), second.as_slice()))
                .collect::<Vec<_>>(),
        )
        .unwrap()
    }

    #[derive(Deserialize)]
    struct Golden {
        /// Both systems' alignments in sclite's letters: correct, substituted, deleted, inserted.
        utterances: Vec<(String, String)>,
        segments: usize,
        mean: f64,
        deviation: f64,
        z: f64,
    }

    #[test]
    fn segments_and_z_are_those_of_sctk() {
        let goldens: Vec<Golden> = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/significance/mapsswe.json"
        ))
        .unwrap();
        assert!(goldens.len() >= 20);
        for golden in goldens {
            let found = run(&golden.utterances);
            assert_eq!(found.num_segments, golden.segments);
            // sc_stats prints three digits, and subtracts the second system from the first.
            for (found, expected) in [
                (-found.mean, golden.mean),
                (found.deviation, golden.deviation),
                (-found.z, golden.z),
            ] {
                assert!(
                    (found - expected).abs() < 0.000501,
                    "{found} and {expected}"
                );
            }
        }
    }

    #[test]
    fn a_case_by_hand() {
        // Errors of the two systems by segment: [1, 0] and [0, 2], separated by two words. In the
        // second utterance the insertion prevents the cut, so [2, 1]. In the third [0, 1].
        // Differences -1, 2, -1, 1: mean 1/4, deviation 3/2, z = 1/3.
        let found = run(&[
            ("SCCCC".into(), "CCCSD".into()),
            ("SCCS".into(), "CCICC".into()),
            ("CC".into(), "CIC".into()),
        ]);
        assert_eq!(
            (found.num_segments, found.mean, found.deviation),
            (4, 0.25, 1.5)
        );
        assert!((found.z - 1.0 / 3.0).abs() < 1e-15);
        assert!(
            (found.p - 0.738_882_680_363_527_3).abs() < 1e-14,
            "2 scipy.stats.norm.sf(1/3)"
        );
    }

    #[test]
    fn segments_without_spread_have_z_of_zero() {
        for (first, second) in [("CCC", "CCC"), ("SCCS", "CCCC"), ("", "")] {
            let found = run(&[(first.into(), second.into())]);
            assert_eq!((found.z, found.p), (0.0, 1.0), "as sc_stats has it");
        }
    }

    #[test]
    fn other_references_are_refused() {
        let error = mapsswe(&[(&tokens("CCS"), &tokens("CCI"))]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("utterance 0 has 3 words in one alignment and 2 in the other"),
            "{error}"
        );
    }
}
