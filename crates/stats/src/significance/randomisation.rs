//! Approximate randomisation: are two systems' outputs exchangeable? They are swapped by cluster.
//!
//! Sources: Fisher 1935; Noreen, *Computer-Intensive Methods for Testing Hypotheses*, 1989 (the
//! p-value with one added); Edgington and Onghena, *Randomization Tests*, 2007 (enumeration).

use serde::Serialize;

use super::Resampling;
use super::Score;
use super::clusters::Clusters;
use super::clusters::Table;
use super::replicates::replicates;
use super::score_of;
use maqam_base::error::Result;

/// Two differences that the same swaps give by other roads differ by rounding; this part of the
/// scores counts as equal.
const SAME: f64 = 1e-12;

/// Result of swapping for a difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Randomisation {
    /// Second system minus first, nothing swapped.
    pub difference: f64,
    /// Two-sided: the share of swaps whose difference is at least as far from 0;
    /// `(1 + count) / (1 + swaps)` where swaps are drawn.
    pub p: f64,
    /// True if all swaps were gone through rather than drawn.
    pub is_exact: bool,
    /// Number of swaps that were evaluated.
    pub num_swaps: usize,
    /// Clusters on which the two systems differ; swapping the others changes nothing.
    pub num_differing: usize,
}

/// Tests two systems on the same utterances; all swaps are gone through where there are no more
/// than `resampling.resamples`.
///
/// A swap whose score is no number counts as at least as far. Errors: as
/// [`super::paired_bootstrap`].
pub fn randomisation(
    first: &[Vec<f64>],
    second: &[Vec<f64>],
    clusters: &Clusters,
    score: &Score,
    resampling: &Resampling,
) -> Result<Randomisation> {
    resampling.check()?;
    let table = Table::of_clusters(&[first, second], clusters)?;
    let total = table.total();
    let (sum_first, sum_second) = total.split_at(total.len() / 2);
    let score_first = score_of(score, sum_first)?;
    let score_second = score_of(score, sum_second)?;
    let difference = score_second - score_first;

    let swaps = gains(&table);
    let num_differing = swaps.num_rows();
    let all = u32::try_from(num_differing)
        .ok()
        .and_then(|differing| 1usize.checked_shl(differing))
        .filter(|&all| all <= resampling.resamples);
    let num_swaps = all.unwrap_or(resampling.resamples);
    let key = resampling.key("swaps");
    let draw = |swap: u64, weights: &mut [u32]| {
        for (word, weights) in weights.chunks_mut(u64::BITS as usize).enumerate() {
            let bits = if all.is_some() {
                swap
            } else {
                key.with(swap).bits(word as u64)
            };
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = (bits >> i & 1) as u32;
            }
        }
    };
    let least = difference.abs() - SAME * score_first.abs().max(score_second.abs());
    let is_as_far = |_: u64, gained: &[f64], out: &mut [f64]| {
        let (swapped, other) = after_swap(sum_first, sum_second, gained);
        let found = (score(&other) - score(&swapped)).abs();
        out[0] = f64::from(u8::from(found.is_nan() || found >= least));
    };
    let count = if num_differing == 0 {
        num_swaps as f64
    } else {
        replicates(&swaps, num_swaps, 1, &draw, &is_as_far)
            .iter()
            .sum()
    };
    let p = if all.is_some() {
        count / num_swaps as f64
    } else {
        (1.0 + count) / (1.0 + num_swaps as f64)
    };
    Ok(Randomisation {
        difference,
        p,
        is_exact: all.is_some(),
        num_swaps,
        num_differing,
    })
}

/// The sums of both systems once clusters that change the first one's by `gained` are swapped.
fn after_swap(first: &[f64], second: &[f64], gained: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let swapped = first.iter().zip(gained).map(|(sum, gain)| sum + gain);
    let other = second.iter().zip(gained).map(|(sum, gain)| sum - gain);
    (swapped.collect(), other.collect())
}

/// Change of the first system's sum when a cluster is swapped: second minus first, for each cluster
/// with a change.
fn gains(table: &Table) -> Table {
    let width = table.width() / 2;
    let of_row = |row: &[f64]| -> Vec<f64> {
        let (first, second) = row.split_at(width);
        first
            .iter()
            .zip(second)
            .map(|(first, second)| second - first)
            .collect()
    };
    Table::of_rows(
        width,
        table
            .rows()
            .map(of_row)
            .filter(|gain| gain.iter().any(|&value| value != 0.0)),
    )
}
