//! Results of resampling: an interval, a standard error, a p-value, and notes on their reliability.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use super::Resampling;
use super::distribution::student_p;
use super::distribution::student_quantile;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Number of clusters or seeds below which a note says that a percentile interval is too narrow.
pub const FEW: usize = 10;

/// A range of scores, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The range between two ends in either order; `None` if an end is not finite.
    pub fn new(low: f64, high: f64) -> Option<Self> {
        (low.is_finite() && high.is_finite()).then_some(Self {
            low: low.min(high),
            high: low.max(high),
        })
    }

    /// Returns whether the range holds `value`.
    pub fn holds(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// A note on the reliability of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Fewer than [`FEW`] of what was resampled.
    Few {
        /// Number of clusters or seeds.
        found: usize,
        /// `clusters` or `seeds`.
        what: &'static str,
    },
    /// One seed only.
    OneSeed,
    /// Resamples whose score was no number (no words drawn, a label missing): left out of the
    /// interval, counted against in p-values.
    Undefined {
        /// Number of resamples without a finite score.
        found: usize,
        /// Number of all resamples.
        resamples: usize,
    },
    /// Curves that never reached the score. They count as reaching it at the last evaluated step.
    Censored {
        /// Number of such curves of the first and of the second system.
        found: [usize; 2],
        /// Curves of each system.
        curves: usize,
        /// The last evaluated step.
        horizon: f64,
    },
}

impl Note {
    /// The note for a number of clusters or seeds, where there is one.
    pub(super) fn few(found: usize, what: &'static str) -> Option<Self> {
        (found < FEW).then_some(Self::Few { found, what })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Few { found, what } => write!(
                f,
                "only {found} {what}: the percentile interval is too narrow and its p-value too small, Student's are not"
            ),
            Self::OneSeed => write!(f, "one seed: nothing is known of the spread between seeds"),
            Self::Undefined { found, resamples } => {
                write!(f, "{found} of {resamples} resamples have no score")
            }
            Self::Censored {
                found: [first, second],
                curves,
                horizon,
            } => {
                write!(
                    f,
                    "{first} and {second} of {curves} curves never reach the score; they count as reaching it at step {horizon}"
                )
            }
        }
    }
}

impl Serialize for Note {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Student's t for a score whose spread was measured on few clusters or seeds.
///
/// A bootstrap of n things shrinks a variance by (n - 1) / n and knows nothing of the error of that
/// variance. Here the variance is restored part by part, and its degrees of freedom are
/// Satterthwaite's (1946).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Student {
    /// Standard error with the shrinking undone.
    pub standard_error: f64,
    /// Degrees of freedom, at least 1.
    pub degrees_of_freedom: f64,
}

impl Student {
    /// Combines parts of the variance, each with its degrees of freedom. A part may be below 0; the
    /// sum is at least the largest part.
    pub(super) fn of_parts(parts: &[(f64, f64)]) -> Self {
        let largest = parts.iter().map(|(part, _)| *part).fold(0.0, f64::max);
        let variance = parts.iter().map(|(part, _)| part).sum::<f64>().max(largest);
        let spread: f64 = parts.iter().map(|(part, df)| part * part / df).sum();
        // Without any spread, the fewest degrees of freedom are used; the result is the same for
        // all.
        let least = parts
            .iter()
            .map(|(_, df)| *df)
            .fold(f64::INFINITY, f64::min);
        let degrees_of_freedom = if spread > 0.0 {
            (variance * variance / spread).max(1.0)
        } else {
            least
        };
        Self {
            standard_error: variance.sqrt(),
            degrees_of_freedom,
        }
    }

    /// The interval around `value`.
    pub fn interval(&self, value: f64, confidence: f64) -> Interval {
        let reach =
            student_quantile(1.0 - confidence, self.degrees_of_freedom) * self.standard_error;
        Interval {
            low: value - reach,
            high: value + reach,
        }
    }

    /// Two-sided p-value of `value` against 0.
    pub fn p(&self, value: f64) -> f64 {
        if value == 0.0 {
            1.0
        } else {
            student_p(value / self.standard_error, self.degrees_of_freedom)
        }
    }
}

/// A score, or a difference of scores, with its resampling results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Value on the whole set, without resampling.
    pub value: f64,
    /// Percentile interval: quantiles of the resampled scores (Efron 1979), interpolated linearly.
    pub interval: Interval,
    /// Standard deviation of the resampled scores.
    pub standard_error: f64,
    /// The interval of Student's t: wider, and right where clusters or seeds are few.
    pub student_interval: Interval,
    /// Source of the interval under Student's t.
    pub student: Student,
    /// The confidence of both intervals.
    pub confidence: f64,
    /// Number of resamples.
    pub resamples: usize,
    /// Notes on the reliability.
    pub notes: Vec<Note>,
}

/// Difference of a second system from a first: second minus first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The difference and its intervals.
    pub estimate: Estimate,
    /// Two-sided p-value of the resampled differences: twice the smaller of the shares at or below
    /// and at or above 0, where one is added to the counts and to the number of resamples; at
    /// most 1. Up to one resample, it is below 0.05 where the 95 % percentile interval excludes 0.
    pub p: f64,
    /// Two-sided p-value of Student's t: the one to claim by where there are [`Note::Few`] clusters
    /// or seeds.
    pub student_p: f64,
    /// Smallest p-value to claim with n clusters: `2 / 2^n`, that of a test of all sign flips.
    pub least_p: f64,
}

impl Difference {
    /// The p-value of the resamples, not below what the number of clusters can support.
    pub fn supported_p(&self) -> f64 {
        self.p.max(self.least_p)
    }

    /// Student's p-value, not below what the number of clusters can support.
    pub fn supported_student_p(&self) -> f64 {
        self.student_p.max(self.least_p)
    }
}

/// Smallest two-sided p-value of a paired test over `num_clusters` clusters without an assumption
/// on their distribution.
///
/// Under the hypothesis of no difference, each cluster's difference is as likely with the other
/// sign (Fisher 1935). Of the 2^n ways to set the signs, two are as extreme as n equal signs. No
/// resampling of n clusters supports a smaller value, and Student's t does so only by its
/// assumption of normality: it gives 0 where all clusters differ equally.
pub(super) fn least_p(num_clusters: usize) -> f64 {
    0.5f64.powf(num_clusters as f64 - 1.0).min(1.0)
}

/// Scores of resamples, sorted; those that are no number are counted.
pub(super) struct Resampled {
    sorted: Vec<f64>,
    undefined: usize,
}

impl Resampled {
    /// An error where fewer than two resamples have a score.
    pub(super) fn new(scores: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut sorted = Vec::new();
        let mut undefined = 0;
        for score in scores {
            if score.is_finite() {
                sorted.push(score)
            } else {
                undefined += 1
            }
        }
        if sorted.len() < 2 {
            return Err(Error::input(format!(
                "{undefined} of {} resamples have no score",
                undefined + sorted.len()
            ))
            .hint("too few utterances carry words or labels"));
        }
        sorted.sort_unstable_by(f64::total_cmp);
        Ok(Self { sorted, undefined })
    }

    /// Sample variance, from the differences to the mean.
    pub(super) fn variance(&self) -> f64 {
        let count = self.sorted.len() as f64;
        let mean = self.sorted.iter().sum::<f64>() / count;
        self.sorted
            .iter()
            .map(|score| (score - mean) * (score - mean))
            .sum::<f64>()
            / (count - 1.0)
    }

    /// The quantile of a share in `[0, 1]`, between the two nearest scores (Hyndman and Fan 1996,
    /// definition 7; NumPy's default).
    fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.sorted.len() - 1) as f64;
        let below = place.floor() as usize;
        let part = place.fract();
        let above = (below + 1).min(self.sorted.len() - 1);
        self.sorted[below] + part * (self.sorted[above] - self.sorted[below])
    }

    /// The estimate around `value`; the notes get one more where scores are undefined.
    pub(super) fn estimate(
        &self,
        value: f64,
        student: Student,
        resampling: &Resampling,
        mut notes: Vec<Note>,
    ) -> Estimate {
        let outside = (1.0 - resampling.confidence) / 2.0;
        if self.undefined > 0 {
            notes.push(Note::Undefined {
                found: self.undefined,
                resamples: resampling.resamples,
            });
        }
        Estimate {
            value,
            interval: Interval {
                low: self.quantile(outside),
                high: self.quantile(1.0 - outside),
            },
            standard_error: self.variance().sqrt(),
            student_interval: student.interval(value, resampling.confidence),
            student,
            confidence: resampling.confidence,
            resamples: resampling.resamples,
            notes,
        }
    }

    /// The result of [`Resampled::estimate`] for a difference over `num_clusters` clusters.
    pub(super) fn difference(
        &self,
        value: f64,
        student: Student,
        num_clusters: usize,
        resampling: &Resampling,
        notes: Vec<Note>,
    ) -> Difference {
        Difference {
            estimate: self.estimate(value, student, resampling, notes),
            p: self.two_sided_p(),
            student_p: student.p(value),
            least_p: least_p(num_clusters),
        }
    }

    /// See [`Difference::p`]; undefined scores count on both sides.
    fn two_sided_p(&self) -> f64 {
        let at_or_below = self.sorted.partition_point(|&score| score <= 0.0);
        let at_or_above = self.sorted.len() - self.sorted.partition_point(|&score| score < 0.0);
        let tail = (1 + self.undefined + at_or_below.min(at_or_above)) as f64;
        (2.0 * tail / (1 + self.undefined + self.sorted.len()) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0, 0.025, 0.5, 0.9, 1]).
        let found = Resampled::new([8.0, 1.0, 4.0, 2.0]).unwrap();
        for (share, expected) in [
            (0.0, 1.0),
            (0.025, 1.075),
            (0.5, 3.0),
            (0.9, 6.8),
            (1.0, 8.0),
        ] {
            assert!((found.quantile(share) - expected).abs() < 1e-12);
        }
        // statistics.variance([1, 2, 4, 8]).
        assert!((found.variance() - 115.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn ties_and_undefined_scores_raise_p_values() {
        let p = |scores: &[f64]| {
            Resampled::new(scores.iter().copied())
                .unwrap()
                .two_sided_p()
        };
        assert_eq!(p(&[1.0; 9]), 0.2, "2 (1 + 0) / (1 + 9)");
        assert_eq!(
            p(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, -1.0]),
            0.6,
            "2 (1 + 2) / (1 + 9)"
        );
        assert_eq!(
            p(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f64::NAN, 1.0]),
            0.4,
            "2 (1 + 1) / (1 + 9)"
        );
        assert_eq!(p(&[0.0; 9]), 1.0);
        assert!(Resampled::new([f64::NAN, 1.0]).is_err());
    }

    #[test]
    fn satterthwaite_by_hand() {
        // Welch's test of variances 2 and 8 of means over 5 and 10: parts 0.4 and 0.8, (1.2)^2 /
        // (0.16/4 + 0.64/9) = 12.96.
        let student = Student::of_parts(&[(0.4, 4.0), (0.8, 9.0)]);
        assert!(
            (student.degrees_of_freedom - 12.96).abs() < 1e-12
                && (student.standard_error - 1.2f64.sqrt()).abs() < 1e-12
        );
        let less = Student::of_parts(&[(0.4, 4.0), (0.8, 9.0), (-1.0, 36.0)]);
        assert!(
            (less.standard_error - 0.8f64.sqrt()).abs() < 1e-12,
            "no less than the largest part"
        );
        let still = Student::of_parts(&[(0.0, 4.0)]);
        assert_eq!(
            (still.p(0.0), still.p(1.0), still.degrees_of_freedom),
            (1.0, 0.0, 4.0)
        );
        assert_eq!(
            still.interval(2.0, 0.95),
            Interval {
                low: 2.0,
                high: 2.0
            }
        );
    }

    #[test]
    fn notes_read_as_sentences() {
        assert_eq!(
            Note::few(9, "clusters").unwrap().to_string(),
            "only 9 clusters: the percentile interval is too narrow and its p-value too small, Student's are not"
        );
        assert_eq!(Note::few(10, "clusters"), None);
        let note = Note::Censored {
            found: [0, 2],
            curves: 5,
            horizon: 400.0,
        };
        assert_eq!(
            serde_json::to_string(&note).unwrap(),
            "\"0 and 2 of 5 curves never reach the score; they count as reaching it at step 400\""
        );
    }
}
