//! The hierarchical bootstrap of an experiment: systems trained with several seeds, evaluated on
//! the same utterances.
//!
//! Sources: Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8
//! (nested resampling); Owen, *The pigeonhole bootstrap*, 2007 (crossed factors: seeds and clusters
//! are drawn independently of each other); Bouthillier et al., *Accounting for variance in machine
//! learning benchmarks*, 2021 (the reason to resample seeds).

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
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// A system as trained with each seed: what every utterance adds,
/// `[seeds][utterances][statistics]`.
#[derive(Clone, Debug)]
pub struct System {
    /// Statistics by seed, in the same order for all systems: the i-th seed of one is paired with
    /// the i-th of the others.
    pub seeds: Vec<Vec<Vec<f64>>>,
}

/// Treatment of the utterances inside a drawn cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// All utterances of the cluster, as in [`super::bootstrap`].
    Whole,
    /// As many utterances drawn with replacement, separately for each draw of the cluster. This
    /// counts most of the spread inside clusters twice.
    Resampled,
}

/// The resampled experiment, which gives estimates and differences.
///
/// A system's score is the mean over seeds of the score of the set. A resample draws seeds with
/// replacement, the same for all systems. It draws clusters, the same for all seeds and systems,
/// and utterances inside them as [`Inside`] specifies.
#[derive(Clone, Debug)]
pub struct Hierarchical {
    /// Scores on the whole set, `[systems][seeds]`.
    scores: Vec<Vec<f64>>,
    /// Scores on the drawn utterances, `[resamples, systems, seeds]`.
    resampled: Vec<f64>,
    num_clusters: usize,
    resampling: Resampling,
}

impl Hierarchical {
    /// Resamples all systems together.
    ///
    /// Errors: no system or seed, different numbers of seeds, and those of
    /// [`super::paired_bootstrap`].
    pub fn new(
        systems: &[System],
        clusters: &Clusters,
        inside: Inside,
        score: &Score,
        resampling: &Resampling,
    ) -> Result<Self> {
        resampling.check()?;
        let num_seeds = num_seeds(systems)?;
        let parts: Vec<&[Vec<f64>]> = systems
            .iter()
            .flat_map(|system| system.seeds.iter().map(Vec::as_slice))
            .collect();
        let table = match inside {
            Inside::Whole => Table::of_clusters(&parts, clusters)?,
            Inside::Resampled => Table::of_utterances(&parts, clusters)?,
        };
        let width = table.width() / parts.len();
        let total = table.total();
        let of_system = |sums: &[f64]| {
            sums.chunks_exact(width)
                .map(|sum| score_of(score, sum))
                .collect::<Result<Vec<f64>>>()
        };
        let scores = total
            .chunks_exact(width * num_seeds)
            .map(of_system)
            .collect::<Result<Vec<_>>>()?;

        let key = resampling.key("clusters");
        let draw = |resample: u64, weights: &mut [u32]| match inside {
            Inside::Whole => with_replacement(key.with(resample), weights),
            Inside::Resampled => two_stages(key.with(resample), clusters, weights),
        };
        let of_seeds = |_: u64, sums: &[f64], out: &mut [f64]| {
            out.iter_mut()
                .zip(sums.chunks_exact(width))
                .for_each(|(out, sum)| *out = score(sum))
        };
        let resampled = replicates(&table, resampling.resamples, parts.len(), &draw, &of_seeds);
        Ok(Self {
            scores,
            resampled,
            num_clusters: clusters.num_clusters(),
            resampling: *resampling,
        })
    }

    /// Number of systems.
    pub fn num_systems(&self) -> usize {
        self.scores.len()
    }

    /// The scores of a system by seed, on the whole set.
    pub fn scores(&self, system: usize) -> &[f64] {
        &self.scores[system]
    }

    /// A system's mean score over seeds, with its interval.
    pub fn estimate(&self, system: usize) -> Result<Estimate> {
        let resampled = self.of(system);
        let found = Resampled::new(self.over_seeds(&resampled))?;
        Ok(found.estimate(
            mean(&self.scores[system]),
            self.student(&self.scores[system], &resampled)?,
            &self.resampling,
            self.notes(),
        ))
    }

    /// The difference of two systems' mean scores, `second` minus `first`.
    pub fn difference(&self, first: usize, second: usize) -> Result<Difference> {
        let scores = minus(&self.scores[second], &self.scores[first]);
        let resampled = minus(&self.of(second), &self.of(first));
        let found = Resampled::new(self.over_seeds(&resampled))?;
        Ok(found.difference(
            mean(&scores),
            self.student(&scores, &resampled)?,
            self.num_clusters,
            &self.resampling,
            self.notes(),
        ))
    }

    /// The resampled scores of a system, `[resamples, seeds]`.
    fn of(&self, system: usize) -> Vec<f64> {
        let num_seeds = self.num_seeds();
        let of_resample =
            |scores: &[f64]| scores[system * num_seeds..(system + 1) * num_seeds].to_vec();
        self.resampled
            .chunks_exact(self.scores.len() * num_seeds)
            .flat_map(of_resample)
            .collect()
    }

    fn num_seeds(&self) -> usize {
        self.scores[0].len()
    }

    /// Means over seeds that are drawn as well, one a resample.
    fn over_seeds(&self, resampled: &[f64]) -> Vec<f64> {
        let num_seeds = self.num_seeds();
        let key = self.resampling.key("seeds");
        let of_resample = |(resample, scores): (usize, &[f64])| {
            let key = key.with(resample as u64);
            (0..num_seeds)
                .map(|draw| scores[key.below(draw as u64, num_seeds)])
                .sum::<f64>()
                / num_seeds as f64
        };
        resampled
            .chunks_exact(num_seeds)
            .enumerate()
            .map(of_resample)
            .collect()
    }

    /// The variance of a mean over crossed factors: the seeds' part plus the clusters' part less
    /// their interaction, which is in both.
    ///
    /// That is the denominator of quasi-F (Clark, *The language-as-fixed-effect fallacy*, 1973) and
    /// two-way clustering (Cameron, Gelbach and Miller 2011). The bootstrap counts the interaction
    /// three times (Owen 2007): it is cautious where that is most of the spread.
    fn student(&self, scores: &[f64], resampled: &[f64]) -> Result<Student> {
        let num_seeds = scores.len() as f64;
        let free_seeds = scores.len() as f64 - 1.0;
        let free_clusters = self.num_clusters as f64 - 1.0;
        let restored =
            |scores: Resampled| scores.variance() * (free_clusters + 1.0) / free_clusters;
        let clusters = restored(Resampled::new(
            resampled.chunks_exact(scores.len()).map(mean),
        )?);
        if scores.len() == 1 {
            return Ok(Student::of_parts(&[(clusters, free_clusters)]));
        }
        let of_seed = |seed: usize| {
            Ok(restored(Resampled::new(
                resampled.iter().skip(seed).step_by(scores.len()).copied(),
            )?))
        };
        let alone = mean(&(0..scores.len()).map(of_seed).collect::<Result<Vec<_>>>()?);
        // With one seed the clusters' variance holds the whole interaction, with n seeds the n-th
        // part.
        let interaction = ((alone - clusters) / free_seeds).max(0.0);
        let centre = mean(scores);
        let seeds = scores
            .iter()
            .map(|score| (score - centre) * (score - centre))
            .sum::<f64>()
            / (num_seeds * free_seeds);
        Ok(Student::of_parts(&[
            (seeds, free_seeds),
            (clusters, free_clusters),
            (-interaction, free_seeds * free_clusters),
        ]))
    }

    fn notes(&self) -> Vec<Note> {
        let seeds = match self.num_seeds() {
            1 => Some(Note::OneSeed),
            several => Note::few(several, "seeds"),
        };
        seeds
            .into_iter()
            .chain(Note::few(self.num_clusters, "clusters"))
            .collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn num_seeds(systems: &[System]) -> Result<usize> {
    let num_seeds = systems.first().map_or(0, |system| system.seeds.len());
    if num_seeds == 0 {
        return Err(Error::input("no system or no seed to compare"));
    }
    for (i, system) in systems.iter().enumerate() {
        if system.seeds.len() != num_seeds {
            return Err(Error::input(format!(
                "system {i} has {} seeds where the first one has {num_seeds}",
                system.seeds.len()
            ))
            .hint("seeds are paired: train every system with the same ones"));
        }
    }
    Ok(num_seeds)
}

/// Draws clusters, then utterances inside each.
fn two_stages(key: Key, clusters: &Clusters, weights: &mut [u32]) {
    let num_clusters = clusters.num_clusters();
    let mut position = num_clusters as u64;
    for draw in 0..num_clusters {
        let span = clusters.span(key.below(draw as u64, num_clusters));
        for _ in 0..span.len() {
            weights[span.start + key.below(position, span.len())] += 1;
            position += 1;
        }
    }
}

/// Differences, place by place.
fn minus(second: &[f64], first: &[f64]) -> Vec<f64> {
    let pairs = second.iter().zip(first);
    pairs.map(|(second, first)| second - first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stage_draws_have_the_sizes_of_the_set() {
        // Clusters of 1, 2 and 3 utterances: the first stage is read back from the weights' sums, a
        // multiple of each size.
        let clusters = Clusters::by(&[0, 1, 1, 2, 2, 2]);
        let mut first_moments = [0.0; 6];
        let resamples = 20_000;
        for resample in 0..resamples {
            let mut weights = [0u32; 6];
            two_stages(
                Key::new(3, "stages").with(resample),
                &clusters,
                &mut weights,
            );
            let of_cluster = [0, 1, 2].map(|c| weights[clusters.span(c)].iter().sum::<u32>());
            assert!((0..3).all(|c| of_cluster[c] % (c as u32 + 1) == 0));
            assert_eq!(
                (0..3).map(|c| of_cluster[c] / (c as u32 + 1)).sum::<u32>(),
                3
            );
            first_moments
                .iter_mut()
                .zip(weights)
                .for_each(|(moment, weight)| *moment += f64::from(weight));
        }
        // Every utterance is drawn once on average; the variance of a weight is at most 3, so 5
        // standard errors are 0.06.
        assert!(
            first_moments
                .iter()
                .all(|moment| (moment / resamples as f64 - 1.0).abs() < 0.06),
            "{first_moments:?}"
        );
    }

    #[test]
    fn systems_that_are_not_paired_are_refused() {
        let system = |seeds: usize| System {
            seeds: vec![vec![vec![1.0], vec![2.0]]; seeds],
        };
        let run = |systems: &[System]| {
            Hierarchical::new(
                systems,
                &Clusters::each(2),
                Inside::Whole,
                &|sum: &[f64]| sum[0],
                &Resampling::default(),
            )
        };
        assert!(
            run(&[system(2), system(3)])
                .unwrap_err()
                .to_string()
                .contains("system 1 has 3 seeds where the first one has 2")
        );
        assert!(run(&[]).is_err() && run(&[system(0)]).is_err());
        assert_eq!(
            run(&[system(1)]).unwrap().estimate(0).unwrap().notes,
            [
                Note::OneSeed,
                Note::Few {
                    found: 2,
                    what: "clusters"
                }
            ]
        );
    }
}
