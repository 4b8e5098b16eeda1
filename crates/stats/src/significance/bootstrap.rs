//! The cluster bootstrap: clusters are drawn with replacement, all utterances of one together.
//!
//! Sources: Efron 1979; Field and Welsh, *Bootstrapping clustered data*, 2007 (the randomised
//! cluster bootstrap); for word error rates and paired differences Bisani and Ney, *Bootstrap
//! estimates for confidence intervals in ASR performance evaluation*, 2004.

use super::Difference;
use super::Estimate;
use super::Resampling;
use super::Score;
use super::Student;
use super::clusters::Clusters;
use super::clusters::Table;
use super::estimate::Note;
use super::estimate::Resampled;
use super::replicates::replicates;
use super::replicates::with_replacement;
use super::score_of;
use maqam_base::error::Result;

/// The score of a set with its interval. `utterances` are vectors of one length,
/// `[utterances][statistics]`.
///
/// Errors: statistics that do not fit together, a single cluster, a score that is no number.
pub fn bootstrap(
    utterances: &[Vec<f64>],
    clusters: &Clusters,
    score: &Score,
    resampling: &Resampling,
) -> Result<Estimate> {
    let (value, resampled, student) = resample(&[utterances], clusters, score, resampling)?;
    Ok(resampled.estimate(value, student, resampling, notes(clusters)))
}

/// The difference of two systems' scores on the same utterances, second minus first; both are
/// scored on the same draws.
///
/// Errors: those of [`bootstrap`], and systems with different numbers of utterances.
pub fn paired_bootstrap(
    first: &[Vec<f64>],
    second: &[Vec<f64>],
    clusters: &Clusters,
    score: &Score,
    resampling: &Resampling,
) -> Result<Difference> {
    let difference = |sums: &[f64]| {
        let (first, second) = sums.split_at(sums.len() / 2);
        score(second) - score(first)
    };
    let (value, resampled, student) =
        resample(&[first, second], clusters, &difference, resampling)?;
    let num_clusters = clusters.num_clusters();
    Ok(resampled.difference(value, student, num_clusters, resampling, notes(clusters)))
}

fn resample(
    parts: &[&[Vec<f64>]],
    clusters: &Clusters,
    score: &Score,
    resampling: &Resampling,
) -> Result<(f64, Resampled, Student)> {
    resampling.check()?;
    let table = Table::of_clusters(parts, clusters)?;
    let value = score_of(score, &table.total())?;
    // One system and two use the same draws, so that the intervals of each and of their difference
    // come from the same resamples.
    let key = resampling.key("clusters");
    let draw = |resample: u64, weights: &mut [u32]| with_replacement(key.with(resample), weights);
    let found = Resampled::new(replicates(
        &table,
        resampling.resamples,
        1,
        &draw,
        &|_, sums, out| out[0] = score(sums),
    ))?;
    let num_clusters = clusters.num_clusters() as f64;
    let student = Student::of_parts(&[(
        found.variance() * num_clusters / (num_clusters - 1.0),
        num_clusters - 1.0,
    )]);
    Ok((value, found, student))
}

fn notes(clusters: &Clusters) -> Vec<Note> {
    Note::few(clusters.num_clusters(), "clusters")
        .into_iter()
        .collect()
}
