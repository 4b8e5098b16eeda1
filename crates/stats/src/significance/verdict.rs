//! Adjusted p-values of several tests, and the verdicts that they allow.

use std::fmt;

use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// P-values adjusted for several tests (Holm, *A simple sequentially rejective multiple test
/// procedure*, 1979), in the given order.
///
/// If differences with an adjusted value of at most alpha are claimed, the probability of any false
/// claim is at most alpha, however the tests depend on each other. Errors: a value that is no
/// probability.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    if let Some(p) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(
            Error::input(format!("{p} is no p-value")).hint("a p-value lies between 0 and 1")
        );
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, &test) in order.iter().enumerate() {
        largest = largest
            .max(p_values[test] * (p_values.len() - rank) as f64)
            .min(1.0);
        adjusted[test] = largest;
    }
    Ok(adjusted)
}

/// Significance and direction of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The second system's score is higher.
    Higher,
    /// The second system's score is lower.
    Lower,
    /// The difference is not significant.
    NotResolved,
}

impl Verdict {
    /// The verdict on a difference (second minus first) whose p-value, adjusted if there are
    /// several, is compared with `alpha`.
    pub fn of(difference: f64, p: f64, alpha: f64) -> Self {
        match p <= alpha {
            true if difference > 0.0 => Self::Higher,
            true if difference < 0.0 => Self::Lower,
            _ => Self::NotResolved,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
            Self::NotResolved => "not resolved",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_values_are_those_of_statsmodels() {
        let all: serde_json::Value = serde_json::from_str(include_str!(
            "../../../../tests/fixtures/significance/closed_forms.json"
        ))
        .unwrap();
        let cases: Vec<[Vec<f64>; 2]> = serde_json::from_value(all["holm"].clone()).unwrap();
        assert!(cases.len() >= 10);
        for [p_values, expected] in cases {
            for (found, expected) in holm(&p_values).unwrap().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-14, "{p_values:?}");
            }
        }
    }

    #[test]
    fn a_small_case_by_hand() {
        // Sorted 0.01 0.02 0.03 0.4, times 4 3 2 1: 0.04, 0.06, 0.06 (no smaller than the one
        // before), 0.4.
        assert_eq!(
            holm(&[0.4, 0.01, 0.03, 0.02]).unwrap(),
            [0.4, 0.04, 0.06, 0.06]
        );
        assert_eq!(holm(&[]).unwrap(), [0.0; 0]);
        assert!(holm(&[0.1, f64::NAN]).is_err() && holm(&[1.1]).is_err());
    }

    #[test]
    fn a_verdict_needs_a_direction_and_a_small_p() {
        assert_eq!(Verdict::of(0.1, 0.05, 0.05), Verdict::Higher);
        assert_eq!(Verdict::of(-0.1, 0.01, 0.05), Verdict::Lower);
        for (difference, p) in [(0.1, 0.051), (0.0, 0.0), (0.1, f64::NAN), (f64::NAN, 0.0)] {
            assert_eq!(Verdict::of(difference, p, 0.05), Verdict::NotResolved);
        }
        assert_eq!(Verdict::NotResolved.to_string(), "not resolved");
        assert_eq!(
            serde_json::to_string(&Verdict::NotResolved).unwrap(),
            "\"not-resolved\""
        );
    }
}
