//! Uncertainty of scores: intervals and paired tests over clusters of utterances.
//!
//! Everything here is a pure function of plain numbers. An utterance is a vector of additive
//! statistics (errors and words; a confusion matrix, flattened), a [`Score`] is a function of the
//! sum over utterances, and utterances of one speaker, group or document form a cluster
//! ([`Clusters`]). A mean over several sets is a score as well: concatenate the sets' vectors.
//!
//! - [`bootstrap`], [`paired_bootstrap`]: intervals by resampling clusters.
//! - [`randomisation`]: two systems' outputs swapped by cluster.
//! - [`mapsswe`]: the matched-pair sentence-segment word error test.
//! - [`mcnemar`]: the exact test of rows on which only one of two systems is correct.
//! - [`Hierarchical`]: systems trained with several seeds; seeds, clusters and utterances
//!   resampled.
//! - [`holm`], [`Verdict`]: significance after several tests.
//! - [`power`]: the smallest difference that an experiment can resolve.
//! - [`convergence`]: the step at which a learning curve reaches a score.
//!
//! Randomness is a counter hash, so results do not depend on the number of threads.

mod bootstrap;
mod clusters;
pub mod convergence;
mod distribution;
mod estimate;
mod hierarchical;
mod mapsswe;
mod mcnemar;
pub mod power;
mod randomisation;
mod replicates;
mod verdict;

#[cfg(test)]
mod calibration;
#[cfg(test)]
mod tests;

pub use bootstrap::bootstrap;
pub use bootstrap::paired_bootstrap;
pub use clusters::Clusters;
pub use estimate::Difference;
pub use estimate::Estimate;
pub use estimate::FEW;
pub use estimate::Interval;
pub use estimate::Note;
pub use estimate::Student;
pub use hierarchical::Hierarchical;
pub use hierarchical::Inside;
pub use hierarchical::System;
pub use mapsswe::Mapsswe;
pub use mapsswe::Token;
pub use mapsswe::mapsswe;
pub use mcnemar::mcnemar;
pub use randomisation::Randomisation;
pub use randomisation::randomisation;
pub use verdict::Verdict;
pub use verdict::holm;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// A score of a set: a function of the sum of what its utterances add.
pub type Score<'a> = dyn Fn(&[f64]) -> f64 + Sync + 'a;

/// Settings of resampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampling {
    /// Number of resamples.
    pub resamples: usize,
    /// Share of repeated experiments whose interval should hold the true value, in `(0, 1)`.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Self {
            resamples: 10_000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Resampling {
    /// Refuses what gives no interval: fewer than two resamples, a confidence outside `(0, 1)`.
    fn check(&self) -> Result<()> {
        if self.resamples < 2 {
            return Err(
                Error::input(format!("{} resamples give no interval", self.resamples))
                    .hint("10000 are usual"),
            );
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::input(format!(
                "a confidence of {} lies outside 0 to 1",
                self.confidence
            ))
            .hint("0.95 is usual"));
        }
        Ok(())
    }

    fn key(&self, purpose: &str) -> Key {
        Key::new(self.seed, "significance").with_name(purpose)
    }
}

/// The score of a whole set; an error where it is not a number.
fn score_of(score: &Score, sum: &[f64]) -> Result<f64> {
    let value = score(sum);
    if value.is_finite() {
        Ok(value)
    } else {
        Err(
            Error::input(format!("the score of the whole set is {value}"))
                .hint("a set without words or labels has no score; leave it out"),
        )
    }
}
