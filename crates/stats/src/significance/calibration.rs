//! Coverage of intervals and false positives of tests, on simulated sets with a known truth.

use rayon::prelude::*;

use super::convergence::Better;
use super::convergence::Curve;
use super::convergence::steps_to_reach;
use super::*;

/// Resamples of each simulated set: an end of an interval is then off by a tenth of the standard
/// error.
const RESAMPLES: usize = 999;

fn rate(sum: &[f64]) -> f64 {
    sum[0] / sum[1]
}

fn resampling(set: u64) -> Resampling {
    Resampling {
        resamples: RESAMPLES,
        seed: set,
        ..Resampling::default()
    }
}

/// Standard normal numbers by Box and Muller.
fn normal(key: Key, position: u64) -> f64 {
    (-2.0 * (1.0 - key.uniform(2 * position)).ln()).sqrt()
        * (std::f64::consts::TAU * key.uniform(2 * position + 1)).cos()
}

/// A set of 5 utterances of ten words for each of `num_clusters` speakers; speakers differ in how
/// hard they are.
struct Speech {
    key: Key,
    num_clusters: usize,
}

impl Speech {
    const EACH: usize = 5;
    const WORDS: u64 = 10;
    const RATE: f64 = 0.2;

    fn clusters(&self) -> Clusters {
        Clusters::by(
            &(0..self.num_clusters * Self::EACH)
                .map(|i| (i / Self::EACH) as u32)
                .collect::<Vec<_>>(),
        )
    }

    /// Errors and words of a system; systems with different names have the same error rate, `RATE`
    /// on average over speakers.
    fn system(&self, name: &str) -> Vec<Vec<f64>> {
        let of_utterance = |i: usize| {
            let hardness = 2.0 * self.key.with((i / Self::EACH) as u64).uniform(0);
            let words = self.key.with_name(name).with(i as u64);
            let errors = (0..Self::WORDS)
                .filter(|&word| words.uniform(word) < Self::RATE * hardness)
                .count();
            vec![errors as f64, Self::WORDS as f64]
        };
        (0..self.num_clusters * Self::EACH)
            .map(of_utterance)
            .collect()
    }
}

/// The shares of simulated sets for which each of several conditions holds.
fn shares<const N: usize>(
    num_sets: u64,
    of_set: impl Fn(u64) -> [bool; N] + Sync + Send,
) -> [f64; N] {
    let found: Vec<[bool; N]> = (0..num_sets).into_par_iter().map(of_set).collect();
    std::array::from_fn(|i| found.iter().filter(|set| set[i]).count() as f64 / num_sets as f64)
}

/// Returns whether a share of simulated sets is near the expected one: within `slack` and 4
/// standard errors of a share.
fn is_near(share: f64, expected: f64, num_sets: u64, slack: f64) -> bool {
    (share - expected).abs() < 4.0 * (expected * (1.0 - expected) / num_sets as f64).sqrt() + slack
}

const SETS: u64 = 400;

/// Shares of sets whose intervals hold the true rate: percentile's and Student's by speaker, and
/// the percentile's by utterance.
fn coverage(num_clusters: usize) -> [f64; 3] {
    shares(SETS, |set| {
        let speech = Speech {
            key: Key::new(set, "speech"),
            num_clusters,
        };
        let system = speech.system("a");
        let each = Clusters::each(num_clusters * Speech::EACH);
        let found = bootstrap(&system, &speech.clusters(), &rate, &resampling(set)).unwrap();
        let by_utterance = bootstrap(&system, &each, &rate, &resampling(set)).unwrap();
        [
            found.interval,
            found.student_interval,
            by_utterance.interval,
        ]
        .map(|interval| interval.holds(Speech::RATE))
    })
}

#[test]
fn intervals_hold_the_true_rate() {
    let [percentile, student, by_utterance] = coverage(60);
    assert!(
        [percentile, student]
            .iter()
            .all(|share| (0.92..=0.975).contains(share)),
        "{percentile} {student}"
    );
    assert!(
        by_utterance < 0.88,
        "{by_utterance}: speakers that are not drawn whole make a narrow interval"
    );
    // What the note about few clusters is for.
    let [percentile, student, _] = coverage(5);
    assert!(
        percentile < 0.89 && (0.92..=0.975).contains(&student),
        "{percentile} {student}"
    );
}

/// P-values of two equal systems on a set: of the paired bootstrap, percentile's and Student's, and
/// of the randomisation.
fn p_values(set: u64, num_clusters: usize) -> [f64; 3] {
    let speech = Speech {
        key: Key::new(set, "speech"),
        num_clusters,
    };
    let first = speech.system("a");
    let second = speech.system("b");
    let clusters = speech.clusters();
    let resampling = resampling(set);
    let found = paired_bootstrap(&first, &second, &clusters, &rate, &resampling).unwrap();
    let randomised = randomisation(&first, &second, &clusters, &rate, &resampling).unwrap();
    [found.p, found.student_p, randomised.p]
}

#[test]
fn p_values_of_equal_systems_are_uniform() {
    const LEVELS: [f64; 5] = [0.05, 0.1, 0.25, 0.5, 0.75];
    let sets = (0..SETS).into_par_iter();
    let found: Vec<[f64; 3]> = sets.map(|set| p_values(set, 60)).collect();
    for (test, level) in (0..3).flat_map(|test| LEVELS.map(|level| (test, level))) {
        let share = found.iter().filter(|p| p[test] <= level).count() as f64 / SETS as f64;
        // Rates of 3000 words have ties, which make p-values a little too large.
        assert!(
            is_near(share, level, SETS, 0.01),
            "test {test}: {share} at or below {level}"
        );
    }
}

#[test]
fn few_clusters_are_no_licence_for_claims() {
    let [percentile, student, randomised] = shares(SETS, |set| p_values(set, 6).map(|p| p <= 0.05));
    assert!(
        percentile > 0.09,
        "{percentile}: too small, as its note says"
    );
    assert!(is_near(student, 0.05, SETS, 0.01), "{student}");
    assert!(
        randomised < 0.05,
        "{randomised}: 64 swaps have no p-value between 1/32 and 1/16"
    );
}

/// Standard deviations of the parts of a score: of seeds, of clusters, of seeds on clusters, each
/// as a share of the mean's.
struct Parts {
    seed: f64,
    cluster: f64,
    both: f64,
}

/// A system of 5 seeds on 20 clusters of 4 utterances, of mean `true_score`.
fn trained(key: Key, parts: &Parts, true_score: f64) -> System {
    const SEEDS: u64 = 5;
    const CLUSTERS: u64 = 20;
    let of_utterance = |seed: u64, utterance: u64| {
        let cluster = utterance / 4;
        let of_seed = parts.seed * (SEEDS as f64).sqrt() * normal(key.with(1), seed);
        let of_cluster = parts.cluster * (CLUSTERS as f64).sqrt() * normal(key.with(2), cluster);
        let of_both = parts.both
            * ((SEEDS * CLUSTERS) as f64).sqrt()
            * normal(key.with(3).with(seed), cluster);
        vec![true_score + of_seed + of_cluster + of_both, 1.0]
    };
    System {
        seeds: (0..SEEDS)
            .map(|seed| {
                (0..CLUSTERS * 4)
                    .map(|utterance| of_utterance(seed, utterance))
                    .collect()
            })
            .collect(),
    }
}

/// Shares of experiments that claim a difference at 0.05: by percentiles, by Student's t.
fn claims(parts: &Parts, inside: Inside, true_difference: f64) -> [f64; 2] {
    let clusters = Clusters::by(&(0..80).map(|utterance| utterance / 4).collect::<Vec<_>>());
    shares(SETS, |set| {
        let key = Key::new(set, "experiment");
        let systems = [
            trained(key.with(0), parts, 0.0),
            trained(key.with(1), parts, true_difference),
        ];
        let found = Hierarchical::new(&systems, &clusters, inside, &rate, &resampling(set))
            .unwrap()
            .difference(0, 1)
            .unwrap();
        [found.p, found.student_p]
            .map(|p| Verdict::of(found.estimate.value, p, 0.05) != Verdict::NotResolved)
    })
}

#[test]
fn student_intervals_hold_with_five_seeds() {
    let by_seed = Parts {
        seed: 1.0,
        cluster: 0.0,
        both: 0.0,
    };
    let [percentile, student] = claims(&by_seed, Inside::Whole, 0.0);
    assert!(
        percentile > 0.1 && is_near(student, 0.05, SETS, 0.01),
        "where only seeds differ: {percentile} {student}"
    );
    let by_cluster = Parts {
        seed: 0.0,
        cluster: 1.0,
        both: 0.0,
    };
    let [percentile, student] = claims(&by_cluster, Inside::Whole, 0.0);
    assert!(
        is_near(percentile, 0.07, SETS, 0.01) && is_near(student, 0.05, SETS, 0.01),
        "where only clusters differ: {percentile} {student}"
    );
    let mixed = Parts {
        seed: 1.0,
        cluster: 1.0,
        both: 1.0,
    };
    for inside in [Inside::Whole, Inside::Resampled] {
        let [percentile, student] = claims(&mixed, inside, 0.0);
        assert!(
            percentile < 0.06 && (0.005..0.08).contains(&student),
            "where all do: {percentile} {student}"
        );
    }
    // A difference of 8 parts' deviations is 8 / sqrt(6) = 3.3 standard errors.
    let [percentile, student] = claims(&mixed, Inside::Whole, 8.0);
    assert!(
        percentile > 0.75 && student > 0.75,
        "a true difference is found: {percentile} {student}"
    );
}

#[test]
fn curves_of_equal_systems_are_equally_soon() {
    let curve = |key: Key| {
        let end = 400 + (200.0 * normal(key, 0)).clamp(-300.0, 300.0) as u64;
        let scores = (0..=20).map(|i| (i * 40, (i as f64 * 40.0 / end as f64).min(1.2)));
        Curve::new(scores.collect()).unwrap()
    };
    let [student] = shares(SETS, |set| {
        let key = Key::new(set, "curves");
        let curves = |system: u64| {
            (0..5)
                .map(|seed| curve(key.with(system).with(seed)))
                .collect::<Vec<_>>()
        };
        let found = steps_to_reach(
            &curves(0),
            &curves(1),
            &[0.9; 5],
            Better::Higher,
            &resampling(set),
        )
        .unwrap();
        [found.difference.student_p <= 0.05]
    });
    assert!(
        is_near(student, 0.05, SETS, 0.02),
        "{student}: a t-test of five differences that are not quite normal"
    );
}

#[test]
fn equal_recognisers_give_uniform_p_values() {
    const LEVELS: [f64; 4] = [0.05, 0.1, 0.25, 0.5];
    let found: [f64; 4] = shares(SETS, |set| {
        let key = Key::new(set, "words");
        let alignment = |system: u64, utterance: u64| -> Vec<Token> {
            let words = key.with(system).with(utterance);
            (0..12)
                .map(|word| {
                    if words.uniform(word) < 0.1 {
                        Token::Wrong
                    } else {
                        Token::Correct
                    }
                })
                .collect()
        };
        let pairs: Vec<_> = (0..100)
            .map(|utterance| (alignment(0, utterance), alignment(1, utterance)))
            .collect();
        let found = mapsswe(
            &pairs
                .iter()
                .map(|(first, second)| (first.as_slice(), second.as_slice()))
                .collect::<Vec<_>>(),
        )
        .unwrap();
        LEVELS.map(|level| found.p <= level)
    });
    // Whole numbers of errors make p-values jump by several hundredths in the middle.
    assert!(
        found
            .iter()
            .zip(LEVELS)
            .all(|(&share, level)| is_near(share, level, SETS, 0.02)),
        "{found:?}"
    );
}

#[test]
fn holm_keeps_the_rate_of_false_claims_over_a_family() {
    let [any] = shares(20_000, |set| {
        let p_values: Vec<f64> = (0..6)
            .map(|test| Key::new(set, "family").uniform(test))
            .collect();
        [holm(&p_values).unwrap().iter().any(|&p| p <= 0.05)]
    });
    // Independent tests: 1 - (1 - 0.05 / 6)^6.
    assert!(is_near(any, 0.0490, 20_000, 0.0), "{any}");
}
