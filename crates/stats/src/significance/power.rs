//! The smallest difference that an experiment can resolve: from variances of differences between
//! two systems, by seed, cluster and utterance, to the power of Student's test over both.
//!
//! Sources: Westfall, Kenny and Judd 2014, *Statistical power and optimal design in experiments in
//! which samples of participants respond to samples of stimuli* (crossed random factors); Searle,
//! Casella and McCulloch, *Variance Components*, 1992 (estimates from sets of unequal sizes);
//! Satterthwaite 1946 (degrees of freedom); Bloom 1995 (the smallest detectable effect as a
//! multiple of the standard error).

use serde::Deserialize;
use serde::Serialize;

use super::Clusters;
use super::Inside;
use super::Student;
use super::distribution::student_quantile;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Variances of a difference between two systems. A row's difference with one seed is the mean
/// difference plus one draw of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// Between seeds: shared by all rows of a seed.
    pub seeds: f64,
    /// Between clusters: shared by the rows of a cluster with every seed.
    pub clusters: f64,
    /// Between pairs of a seed and a cluster, beyond both.
    pub interaction: f64,
    /// Between rows of a cluster: the same with every seed.
    pub rows: f64,
    /// Between rows with a seed, beyond all others.
    pub residual: f64,
}

/// What a set adds up to for a test: its rows, and how they are spread over clusters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Design {
    /// Number of seeds.
    pub seeds: usize,
    /// Number of clusters.
    pub clusters: usize,
    /// Number of rows.
    pub rows: usize,
    /// Sum over clusters of the square of their share of the rows: 1 / clusters for equal ones.
    pub concentration: f64,
}

impl Design {
    /// A test over these clusters with a number of seeds.
    pub fn new(seeds: usize, clusters: &Clusters) -> Self {
        let rows = clusters.num_utterances();
        let share = |cluster| clusters.span(cluster).len() as f64 / rows as f64;
        let shares = (0..clusters.num_clusters()).map(share);
        Self {
            seeds,
            clusters: clusters.num_clusters(),
            rows,
            concentration: shares.map(|share| share * share).sum(),
        }
    }

    /// The same test with `factor` times as many clusters of the same kinds.
    #[must_use]
    pub fn with_clusters(&self, factor: usize) -> Self {
        Self {
            clusters: self.clusters * factor,
            rows: self.rows * factor,
            concentration: self.concentration / factor as f64,
            ..*self
        }
    }

    /// The same test with another number of seeds.
    #[must_use]
    pub fn with_seeds(&self, seeds: usize) -> Self {
        Self { seeds, ..*self }
    }

    /// The smallest p-value that the clusters allow: that of a test of all flips of sign.
    pub fn least_p(&self) -> f64 {
        2f64.powf(1.0 - self.clusters as f64)
    }
}

/// Parts of the variance of a mean difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parts {
    /// Of the seeds.
    pub seeds: f64,
    /// Of the clusters.
    pub clusters: f64,
    /// Of rows within clusters.
    pub rows: f64,
}

impl Components {
    /// Estimates the variances from differences `[seeds][rows]` of two systems on the same rows:
    /// the mean squares of an analysis of variance with crossed seeds and clusters and rows within
    /// clusters, solved for the components. One below 0 counts as 0.
    ///
    /// # Errors
    /// Fewer than two seeds or clusters; seeds with different numbers of rows.
    pub fn estimate(differences: &[Vec<f64>], clusters: &Clusters) -> Result<Self> {
        let num_seeds = differences.len();
        let num_rows = clusters.num_utterances();
        let num_clusters = clusters.num_clusters();
        if num_seeds < 2 || num_clusters < 2 {
            return Err(Error::input(format!(
                "{num_seeds} seeds and {num_clusters} clusters: the spread between them is not known"
            ))
            .hint("pilot runs need two seeds and two speakers or more"));
        }
        if let Some(rows) = differences.iter().find(|rows| rows.len() != num_rows) {
            return Err(Error::bug(format!(
                "{} differences of {num_rows} rows",
                rows.len()
            )));
        }
        let means = Means::new(differences, clusters);
        let seeds = num_seeds as f64;
        let rows = num_rows as f64;
        let free_seeds = seeds - 1.0;
        let free_clusters = num_clusters as f64 - 1.0;
        let free_rows = rows - num_clusters as f64;
        let squares = means.squares(differences, clusters);

        // Rows that a cluster has on average, in the interaction and between seeds.
        let sum_of_squares: f64 = means.sizes.iter().map(|size| size * size).sum();
        let between = (rows - sum_of_squares / rows) / free_clusters;
        let along = sum_of_squares / rows;

        // Expected mean squares, from the innermost outwards. Without a second row in any cluster
        // rows are clusters, and their spread is counted there.
        let (residual, of_rows) = if free_rows > 0.0 {
            let residual = squares.residual / (free_seeds * free_rows);
            let mean_square = squares.rows / free_rows;
            (residual, ((mean_square - residual) / seeds).max(0.0))
        } else {
            (0.0, 0.0)
        };
        let mean_square = squares.interaction / (free_seeds * free_clusters);
        let interaction = ((mean_square - residual) / between).max(0.0);
        let mean_square = squares.clusters / free_clusters;
        let inner = residual + seeds * of_rows + between * interaction;
        let of_clusters = ((mean_square - inner) / (seeds * between)).max(0.0);
        let mean_square = squares.seeds / free_seeds;
        let of_seeds = ((mean_square - residual - along * interaction) / rows).max(0.0);
        Ok(Self {
            seeds: of_seeds,
            clusters: of_clusters,
            interaction,
            rows: of_rows,
            residual,
        })
    }

    /// The mean of several estimates.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Self {
            seeds: mean(|one| one.seeds),
            clusters: mean(|one| one.clusters),
            interaction: mean(|one| one.interaction),
            rows: mean(|one| one.rows),
            residual: mean(|one| one.residual),
        }
    }

    /// Parts of the variance of the mean difference in a design. The interaction and the residual
    /// shrink with seeds, and are counted to the clusters and the rows.
    pub fn parts(&self, design: &Design) -> Parts {
        let seeds = design.seeds as f64;
        Parts {
            seeds: self.seeds / seeds,
            clusters: design.concentration * (self.clusters + self.interaction / seeds),
            rows: (self.rows + self.residual / seeds) / design.rows as f64,
        }
    }

    /// Standard error of the mean difference.
    pub fn standard_error(&self, design: &Design) -> f64 {
        let parts = self.parts(design);
        (parts.seeds + parts.clusters + parts.rows).sqrt()
    }

    /// Standard error and degrees of freedom of the mean difference, as the test of
    /// [`super::Hierarchical`] finds them on average. [`Inside::Resampled`] counts the spread
    /// inside clusters again, but for the part that a cluster of n rows lacks, one n-th.
    pub fn student(&self, design: &Design, inside: Inside) -> Student {
        let rows = design.rows as f64;
        let counted = match inside {
            Inside::Whole => 1.0,
            Inside::Resampled => 2.0 - design.clusters as f64 / rows,
        };
        let parts = self.parts(design);
        let of_pairs = design.concentration * self.interaction / design.seeds as f64;
        let of_rest = self.residual / (rows * design.seeds as f64);
        let free_seeds = design.seeds as f64 - 1.0;
        let free_clusters = design.clusters as f64 - 1.0;
        Student::of_parts(&[
            (parts.seeds + of_pairs + of_rest, free_seeds),
            (parts.clusters + counted * parts.rows, free_clusters),
            (-of_pairs - counted * of_rest, free_seeds * free_clusters),
        ])
    }

    /// The smallest true difference that the test finds with a chance of `power` at the level of
    /// significance `level`, two-sided: t at the level times the standard error that the test
    /// finds, and t at the power times the true one. `None` where no difference of any size is
    /// significant, because the clusters are too few.
    ///
    /// # Errors
    /// Fewer than two seeds or clusters, which give no test.
    pub fn smallest_difference(
        &self,
        design: &Design,
        inside: Inside,
        level: f64,
        power: f64,
    ) -> Result<Option<f64>> {
        if design.seeds < 2 || design.clusters < 2 {
            return Err(Error::input(format!(
                "{} seeds and {} clusters give no test",
                design.seeds, design.clusters
            ))
            .hint("plan two seeds and two speakers or more, better five and ten"));
        }
        if design.least_p() > level {
            return Ok(None);
        }
        let Student {
            standard_error,
            degrees_of_freedom,
        } = self.student(design, inside);
        let of_level = student_quantile(level, degrees_of_freedom);
        // One-sided: below a power of a half, the quantile is negative.
        let of_power = if power < 0.5 {
            -student_quantile(2.0 * power, degrees_of_freedom)
        } else if power > 0.5 {
            student_quantile(2.0 * (1.0 - power), degrees_of_freedom)
        } else {
            0.0
        };
        let found = of_level * standard_error + of_power * self.standard_error(design);
        Ok(Some(found.max(0.0)))
    }
}

/// Means of differences, by what they are over.
struct Means {
    /// Rows of each cluster.
    sizes: Vec<f64>,
    /// `[seeds][clusters]`.
    of_pairs: Vec<Vec<f64>>,
    /// `[clusters]`.
    of_clusters: Vec<f64>,
    /// `[seeds]`.
    of_seeds: Vec<f64>,
    whole: f64,
}

/// Sums of squares of an analysis of variance.
struct Squares {
    seeds: f64,
    clusters: f64,
    interaction: f64,
    rows: f64,
    residual: f64,
}

impl Means {
    fn new(differences: &[Vec<f64>], clusters: &Clusters) -> Self {
        let num_clusters = clusters.num_clusters();
        let sizes: Vec<f64> = (0..num_clusters)
            .map(|cluster| clusters.members(cluster).len() as f64)
            .collect();
        let of_pairs: Vec<Vec<f64>> = differences
            .iter()
            .map(|of_seed| {
                let mean = |cluster| {
                    mean(
                        clusters
                            .members(cluster)
                            .iter()
                            .map(|&row| of_seed[row as usize]),
                    )
                };
                (0..num_clusters).map(mean).collect()
            })
            .collect();
        Self {
            of_clusters: (0..num_clusters)
                .map(|cluster| mean(of_pairs.iter().map(|of_seed| of_seed[cluster])))
                .collect(),
            of_seeds: differences
                .iter()
                .map(|of_seed| mean(of_seed.iter().copied()))
                .collect(),
            whole: mean(differences.iter().flatten().copied()),
            of_pairs,
            sizes,
        }
    }

    fn squares(&self, differences: &[Vec<f64>], clusters: &Clusters) -> Squares {
        let num_seeds = differences.len() as f64;
        let square = |x: f64| x * x;
        let mut found = Squares {
            seeds: 0.0,
            clusters: 0.0,
            interaction: 0.0,
            rows: 0.0,
            residual: 0.0,
        };
        for (seed, of_seed) in self.of_seeds.iter().enumerate() {
            found.seeds += differences[seed].len() as f64 * square(of_seed - self.whole);
        }
        for (cluster, &size) in self.sizes.iter().enumerate() {
            let of_cluster = self.of_clusters[cluster];
            found.clusters += num_seeds * size * square(of_cluster - self.whole);
            for (seed, of_seed) in self.of_seeds.iter().enumerate() {
                let pair = self.of_pairs[seed][cluster];
                found.interaction += size * square(pair - of_seed - of_cluster + self.whole);
            }
            for &row in clusters.members(cluster) {
                let row = row as usize;
                let of_row = mean(differences.iter().map(|of_seed| of_seed[row]));
                found.rows += num_seeds * square(of_row - of_cluster);
                for (seed, of_seed) in differences.iter().enumerate() {
                    let pair = self.of_pairs[seed][cluster];
                    found.residual += square(of_seed[row] - pair - of_row + of_cluster);
                }
            }
        }
        found
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let mut sum = 0.0;
    let mut count = 0u64;
    for value in values {
        sum += value;
        count += 1;
    }
    sum / count as f64
}

/// What each row adds to a score that is a function of sums: the score plus the row's deviation, by
/// the jackknife (Efron and Stein 1981). Their mean is close to the score, and exact where the
/// score is a mean.
pub fn pseudo_values(units: &[Vec<f64>], score: &super::Score) -> Vec<f64> {
    let width = units.first().map_or(0, Vec::len);
    let mut total = vec![0.0; width];
    for unit in units {
        total.iter_mut().zip(unit).for_each(|(sum, x)| *sum += x);
    }
    let whole = score(&total);
    let others = units.len() as f64 - 1.0;
    let mut rest = vec![0.0; width];
    units
        .iter()
        .map(|unit| {
            for ((rest, sum), x) in rest.iter_mut().zip(&total).zip(unit) {
                *rest = sum - x;
            }
            whole + others * (whole - score(&rest))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::significance::Hierarchical;
    use crate::significance::Resampling;
    use crate::significance::System;
    use maqam_base::seed::Key;

    fn normal(key: Key) -> f64 {
        (-2.0 * (1.0 - key.uniform(0)).ln()).sqrt() * (std::f64::consts::TAU * key.uniform(1)).cos()
    }

    /// Clusters of 2, 4 and 6 rows, in turn.
    fn clusters(count: usize) -> Clusters {
        let ids = (0..count as u32).flat_map(|cluster| {
            let size = 2 + 2 * (cluster as usize % 3);
            std::iter::repeat_n(cluster, size)
        });
        Clusters::by(&ids.collect::<Vec<_>>())
    }

    /// Differences drawn with known components around a true difference, `[seeds][rows]`.
    fn drawn(
        components: &Components,
        seeds: usize,
        clusters: &Clusters,
        centre: f64,
        key: Key,
    ) -> Vec<Vec<f64>> {
        let draw = |variance: f64, name: &str, of: &[u64]| {
            let key = of.iter().fold(key.with_name(name), |key, &at| key.with(at));
            variance.sqrt() * normal(key)
        };
        let mut found = vec![vec![0.0; clusters.num_utterances()]; seeds];
        for (seed, of_seed) in found.iter_mut().enumerate() {
            let seed = seed as u64;
            for cluster in 0..clusters.num_clusters() {
                let at = cluster as u64;
                for &row in clusters.members(cluster) {
                    of_seed[row as usize] = centre
                        + draw(components.seeds, "seed", &[seed])
                        + draw(components.clusters, "cluster", &[at])
                        + draw(components.interaction, "pair", &[seed, at])
                        + draw(components.rows, "row", &[u64::from(row)])
                        + draw(components.residual, "rest", &[seed, u64::from(row)]);
                }
            }
        }
        found
    }

    const TRUE: Components = Components {
        seeds: 0.04,
        clusters: 0.3,
        interaction: 0.2,
        rows: 1.0,
        residual: 2.0,
    };

    #[test]
    fn components_are_recovered_on_average() {
        let clusters = clusters(30);
        let all: Vec<Components> = (0..400u64)
            .into_par_iter()
            .map(|set| {
                let key = Key::new(set, "components");
                Components::estimate(&drawn(&TRUE, 12, &clusters, 0.3, key), &clusters).unwrap()
            })
            .collect();
        let found = Components::mean(&all);
        // Cutting at 0 raises the small ones a little.
        for (found, expected) in [
            (found.seeds, TRUE.seeds),
            (found.clusters, TRUE.clusters),
            (found.interaction, TRUE.interaction),
            (found.rows, TRUE.rows),
            (found.residual, TRUE.residual),
        ] {
            assert!(
                (found / expected - 1.0).abs() < 0.12,
                "{found}, expected {expected}"
            );
        }
    }

    /// The share of simulated experiments whose test finds a true difference.
    fn found_by_test(
        (design, inside): (&Design, Inside),
        clusters: &Clusters,
        difference: f64,
        level: f64,
    ) -> f64 {
        const SETS: u64 = 600;
        let found = (0..SETS)
            .into_par_iter()
            .filter(|&set| {
                let key = Key::new(set, "power");
                let rows = drawn(&TRUE, design.seeds, clusters, difference, key);
                let none = vec![vec![vec![0.0, 1.0]; design.rows]; design.seeds];
                let second = rows
                    .iter()
                    .map(|rows| rows.iter().map(|&x| vec![x, 1.0]).collect())
                    .collect();
                let systems = [System { seeds: none }, System { seeds: second }];
                let resampling = Resampling {
                    resamples: 300,
                    seed: set,
                    ..Resampling::default()
                };
                let score = |sum: &[f64]| sum[0] / sum[1];
                Hierarchical::new(&systems, clusters, inside, &score, &resampling)
                    .unwrap()
                    .difference(0, 1)
                    .unwrap()
                    .supported_student_p()
                    <= level
            })
            .count();
        found as f64 / SETS as f64
    }

    #[test]
    fn the_test_finds_the_smallest_difference_as_often_as_said() {
        for (seeds, num_clusters, inside, level, power) in [
            (5, 12, Inside::Whole, 0.05, 0.8),
            (5, 12, Inside::Resampled, 0.05, 0.8),
            (3, 20, Inside::Resampled, 0.05, 0.8),
            (8, 15, Inside::Whole, 0.01, 0.5),
        ] {
            let clusters = clusters(num_clusters);
            let design = Design::new(seeds, &clusters);
            let difference = TRUE
                .smallest_difference(&design, inside, level, power)
                .unwrap()
                .unwrap();
            let test = (&design, inside);
            let found = found_by_test(test, &clusters, difference, level);
            // 600 simulations: a share of 0.8 has a standard error of 0.016. The rest is that
            // degrees of freedom are estimated from the set.
            assert!(
                (found - power).abs() < 0.08,
                "{seeds} seeds, {num_clusters} clusters: {found}, planned {power}"
            );
            let halved = found_by_test(test, &clusters, difference / 2.0, level);
            assert!(halved < power - 0.2, "{halved}");
        }
    }

    #[test]
    fn a_balanced_design_by_hand() {
        // 4 seeds and 10 clusters of one row: the variance is S/4 + C/10 + SC/40.
        let components = Components {
            seeds: 0.4,
            clusters: 2.0,
            interaction: 8.0,
            ..Components::default()
        };
        let design = Design::new(4, &Clusters::each(10));
        let student = components.student(&design, Inside::Resampled);
        assert!((student.standard_error - 0.5f64.sqrt()).abs() < 1e-12);
        // Parts 0.1 + 0.2 of 3, 0.2 + 0.2 of 9, -0.2 of 27 degrees of freedom.
        let free = 0.25 / (0.09 / 3.0 + 0.16 / 9.0 + 0.04 / 27.0);
        assert!((student.degrees_of_freedom - free).abs() < 1e-9);
        let more = design.with_clusters(2).with_seeds(8);
        assert!((components.standard_error(&more) - 0.2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn too_few_clusters_find_nothing() {
        let of = |clusters: usize, level: f64| {
            let design = Design::new(5, &Clusters::each(clusters));
            TRUE.smallest_difference(&design, Inside::Whole, level, 0.8)
                .unwrap()
        };
        assert_eq!(of(5, 0.05), None);
        assert!(of(6, 0.05).is_some());
        assert_eq!(of(6, 0.01), None, "0.031 is the least");
        let one = Design::new(1, &Clusters::each(9));
        assert!(
            TRUE.smallest_difference(&one, Inside::Whole, 0.05, 0.8)
                .is_err()
        );
    }

    #[test]
    fn pseudo_values_of_a_mean_are_its_values() {
        let units = [[3.0, 1.0], [5.0, 1.0], [1.0, 1.0]].map(|unit| unit.to_vec());
        let score = |sum: &[f64]| sum[0] / sum[1];
        for (found, unit) in pseudo_values(&units, &score).iter().zip(&units) {
            assert!((found - unit[0]).abs() < 1e-12);
        }
        // A rate over words: the mean deviation of the rows is 0 to the first order.
        let units: Vec<Vec<f64>> = (0..50)
            .map(|i| vec![f64::from(i % 3), f64::from(3 + i % 5)])
            .collect();
        let found = pseudo_values(&units, &score);
        let whole = score(&[
            units.iter().map(|unit| unit[0]).sum(),
            units.iter().map(|unit| unit[1]).sum(),
        ]);
        assert!((mean(found.into_iter()) - whole).abs() < 1e-3);
    }
}
