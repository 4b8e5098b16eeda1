//! The resampling methods against SciPy, NumPy and closed forms, and how often they are right on
//! simulated sets.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Goldens {
    intervals: Vec<IntervalCase>,
    pairs: Vec<PairCase>,
    hierarchy: Hierarchy,
    /// `(first, second, p, low, high)` of a paired t-test.
    paired_t: Vec<(Vec<f64>, Vec<f64>, f64, f64, f64)>,
}

#[derive(Deserialize)]
struct IntervalCase {
    score: String,
    ids: Vec<u32>,
    utterances: Vec<Vec<f64>>,
    expected: Expected,
}

#[derive(Deserialize)]
struct PairCase {
    ids: Vec<u32>,
    first: Vec<Vec<f64>>,
    second: Vec<Vec<f64>>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Hierarchy {
    ids: Vec<u32>,
    systems: Vec<Vec<Vec<Vec<f64>>>>,
    whole: OfHierarchy,
    resampled: OfHierarchy,
}

#[derive(Deserialize)]
struct OfHierarchy {
    first: Expected,
    difference: Expected,
}

#[derive(Deserialize)]
struct Expected {
    value: f64,
    low: f64,
    high: f64,
    standard_error: f64,
    resamples: usize,
    p: Option<f64>,
    randomisation_p: Option<f64>,
    swaps: Option<usize>,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!(
        "../../../../tests/fixtures/significance/resampling.json"
    ))
    .unwrap()
}

fn rate(sum: &[f64]) -> f64 {
    sum[0] / sum[1]
}

fn uar(sum: &[f64]) -> f64 {
    (0..3)
        .map(|label| sum[4 * label] / sum[3 * label..3 * label + 3].iter().sum::<f64>())
        .sum::<f64>()
        / 3.0
}

/// Standard errors by which two estimates of the same value may differ: all goldens together pass
/// with probability 0.999.
const APART: f64 = 4.5;

fn assert_near(what: &str, found: f64, expected: f64, error: f64) {
    assert!(
        (found - expected).abs() < APART * error,
        "{what}: {found}, expected {expected}, sampling error {error}"
    );
}

/// Compares with another implementation's resamples.
///
/// The quantile of share q of n resamples has standard error `sqrt(q (1 - q) / n) / density`, and
/// the density of nearly normal scores of deviation s is `phi(1.96) / s` there: 0.027 s for 10000.
/// A deviation has standard error `s / sqrt(2 n)`.
fn assert_same(found: &Estimate, expected: &Expected) {
    let scale = (1.0 / found.resamples as f64 + 1.0 / expected.resamples as f64).sqrt()
        * expected.standard_error;
    let of_end = (0.025f64 * 0.975).sqrt() / 0.058_445 * scale;
    assert!(
        (found.value - expected.value).abs() < 1e-12,
        "the same sums"
    );
    assert_near("lower end", found.interval.low, expected.low, of_end);
    assert_near("upper end", found.interval.high, expected.high, of_end);
    assert_near(
        "standard error",
        found.standard_error,
        expected.standard_error,
        scale / 2f64.sqrt(),
    );
}

/// A p-value of n resamples is twice a share, whose standard error is
/// `sqrt(p / 2 (1 - p / 2) / n)`.
fn assert_same_p(found: f64, resamples: usize, expected: f64, others: usize) {
    let scale = (1.0 / resamples as f64 + 1.0 / others as f64).sqrt();
    assert_near(
        "p",
        found,
        expected,
        2.0 * (expected / 2.0 * (1.0 - expected / 2.0)).sqrt() * scale,
    );
}

#[test]
fn intervals_are_those_of_scipy_and_numpy() {
    for case in goldens().intervals {
        let score: &Score = if case.score == "uar" { &uar } else { &rate };
        let found = bootstrap(
            &case.utterances,
            &Clusters::by(&case.ids),
            score,
            &Resampling::default(),
        )
        .unwrap();
        assert_same(&found, &case.expected);
        assert_eq!(found.notes, []);
    }
}

#[test]
fn paired_differences_are_those_of_numpy_and_scipy() {
    let mut exact = 0;
    for case in goldens().pairs {
        let clusters = Clusters::by(&case.ids);
        let resampling = Resampling::default();
        let found =
            paired_bootstrap(&case.first, &case.second, &clusters, &rate, &resampling).unwrap();
        assert_same(&found.estimate, &case.expected);
        assert_same_p(
            found.p,
            resampling.resamples,
            case.expected.p.unwrap(),
            case.expected.resamples,
        );
        let found =
            randomisation(&case.first, &case.second, &clusters, &rate, &resampling).unwrap();
        let expected = case.expected.randomisation_p.unwrap();
        let swaps = case.expected.swaps.unwrap();
        if found.is_exact {
            exact += 1;
            assert!(
                (found.p - expected).abs() < 1e-12,
                "both go through all swaps: {} and {expected}",
                found.p
            );
        } else {
            assert_same_p(found.p, found.num_swaps, expected, swaps);
        }
    }
    assert_eq!(exact, 2);
}

#[test]
fn a_hierarchy_is_resampled_as_numpy_does_it() {
    let hierarchy = goldens().hierarchy;
    let systems: Vec<System> = hierarchy
        .systems
        .into_iter()
        .map(|seeds| System { seeds })
        .collect();
    for (inside, expected) in [
        (Inside::Whole, hierarchy.whole),
        (Inside::Resampled, hierarchy.resampled),
    ] {
        let found = Hierarchical::new(
            &systems,
            &Clusters::by(&hierarchy.ids),
            inside,
            &rate,
            &Resampling::default(),
        )
        .unwrap();
        assert_same(&found.estimate(0).unwrap(), &expected.first);
        let difference = found.difference(0, 1).unwrap();
        assert_same(&difference.estimate, &expected.difference);
        assert_same_p(
            difference.p,
            difference.estimate.resamples,
            expected.difference.p.unwrap(),
            expected.difference.resamples,
        );
        assert_eq!(
            difference.estimate.notes,
            [Note::Few {
                found: 4,
                what: "seeds"
            }]
        );
    }
}

#[test]
fn students_interval_is_that_of_a_paired_t_test() {
    for (first, second, p, low, high) in goldens().paired_t {
        let of = |values: &[f64]| -> Vec<Vec<f64>> {
            values.iter().map(|&value| vec![value, 1.0]).collect()
        };
        let resampling = Resampling {
            resamples: 100_000,
            ..Resampling::default()
        };
        let found = paired_bootstrap(
            &of(&first),
            &of(&second),
            &Clusters::each(first.len()),
            &rate,
            &resampling,
        )
        .unwrap();
        // The standard error comes from 100000 resamples: 4.5 of its own standard errors are 1 %.
        let reach = (high - low) / 2.0;
        assert!(
            (found.estimate.student_interval.low - low).abs() < 0.01 * reach
                && (found.estimate.student_interval.high - high).abs() < 0.01 * reach
        );
        assert!(
            (found.student_p / p - 1.0).abs() < 0.08,
            "1 % of t, to the power of up to 8 in the tail: {} and {p}",
            found.student_p
        );
    }
}

#[test]
fn the_bootstrap_of_a_share_is_binomial() {
    // 30 right answers of 100: the resampled number of right ones is binomial(100, 0.3), whose
    // tails are summed here.
    let answers: Vec<Vec<f64>> = (0..100)
        .map(|i| vec![f64::from(u8::from(i < 30)), 1.0])
        .collect();
    let mut log_choose = 0.0;
    let mut probability = vec![];
    let mut below = vec![0.0];
    for k in 0..=100u32 {
        probability.push(
            (log_choose + f64::from(k) * 0.3f64.ln() + f64::from(100 - k) * 0.7f64.ln()).exp(),
        );
        below.push(below[k as usize] + probability[k as usize]);
        log_choose += (f64::from(100 - k) / f64::from(k + 1)).ln();
    }
    assert!((below[101] - 1.0).abs() < 1e-12);
    let found = bootstrap(
        &answers,
        &Clusters::each(100),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    // The ends are the numbers at which the tail exceeds 2.5 %. No tail is within its sampling
    // error (0.0016) of that, so the ends are certain.
    let low = (0..=100).find(|&k| below[k + 1] > 0.025).unwrap();
    let high = (0..=100).find(|&k| below[k + 1] >= 0.975).unwrap();
    assert!(
        (below[low + 1] - 0.025).min(0.025 - below[low]) > 0.0035
            && (below[high + 1] - 0.975).min(0.975 - below[high]) > 0.0035
    );
    assert_eq!(
        (found.interval.low, found.interval.high),
        (low as f64 / 100.0, high as f64 / 100.0)
    );
    assert_near(
        "standard error",
        found.standard_error,
        (0.3f64 * 0.7 / 100.0).sqrt(),
        found.standard_error / 20_000f64.sqrt(),
    );
}

#[test]
fn whole_clusters_spread_more_than_utterances() {
    // Ten copies of each of 40 values: by cluster the standard error is that of 40 values, by
    // utterance that of 400.
    let key = Key::new(2, "copies");
    let values: Vec<f64> = (0..40).map(|i| key.uniform(i)).collect();
    let utterances: Vec<Vec<f64>> = (0..400).map(|i| vec![values[i / 10], 1.0]).collect();
    let ids: Vec<u32> = (0..400).map(|i| i / 10).collect();
    let by_cluster = bootstrap(
        &utterances,
        &Clusters::by(&ids),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    let by_utterance = bootstrap(
        &utterances,
        &Clusters::each(400),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    // The quotient of two deviations of 10000 resamples each: standard error 1 %.
    assert!(
        (by_cluster.standard_error / by_utterance.standard_error / 10f64.sqrt() - 1.0).abs()
            < 0.045
    );
}

#[test]
fn equal_systems_differ_by_0_and_sides_are_symmetric() {
    let case = goldens().pairs.remove(0);
    let clusters = Clusters::by(&case.ids);
    let resampling = Resampling::default();
    let same = paired_bootstrap(&case.first, &case.first, &clusters, &rate, &resampling).unwrap();
    assert_eq!(
        (same.estimate.value, same.p, same.student_p),
        (0.0, 1.0, 1.0)
    );
    let same = randomisation(&case.first, &case.first, &clusters, &rate, &resampling).unwrap();
    assert_eq!((same.p, same.num_differing, same.is_exact), (1.0, 0, true));
    let forth = paired_bootstrap(&case.first, &case.second, &clusters, &rate, &resampling).unwrap();
    let back = paired_bootstrap(&case.second, &case.first, &clusters, &rate, &resampling).unwrap();
    assert_eq!(forth.p, back.p);
    assert!(
        (forth.estimate.interval.low + back.estimate.interval.high).abs() < 1e-15,
        "interpolated from the other side"
    );
    let swapped = |first, second| {
        randomisation(first, second, &clusters, &rate, &resampling)
            .unwrap()
            .p
    };
    assert_eq!(
        swapped(&case.first, &case.second),
        swapped(&case.second, &case.first)
    );
}

#[test]
fn a_drawn_swap_test_never_gives_a_p_value_of_0() {
    // Worse on each of 40 clusters: of 2^40 swaps only two are as far, none of which is met in
    // 10000, and one is added.
    let [first, second] = [1.0, 2.0].map(|errors| vec![vec![errors, 10.0]; 40]);
    let found = randomisation(
        &first,
        &second,
        &Clusters::each(40),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    assert_eq!(
        (found.p, found.is_exact, found.num_differing),
        (1.0 / 10_001.0, false, 40)
    );
    // And on each of 5: the two are two of all 32.
    let found = randomisation(
        &first[..5],
        &second[..5],
        &Clusters::each(5),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    assert_eq!(
        (found.p, found.is_exact, found.num_swaps),
        (2.0 / 32.0, true, 32)
    );
}

#[test]
fn few_clusters_support_no_small_p() {
    // Worse by the same amount on every cluster: nothing varies, so Student's p is 0 and the
    // resamples give 2 / 10001.
    for num_clusters in [2usize, 3, 5, 6, 9, 10, 11, 14] {
        let [first, second] = [1.0, 2.0].map(|errors| vec![vec![errors, 10.0]; num_clusters]);
        let clusters = Clusters::each(num_clusters);
        let resampling = Resampling::default();
        let found = paired_bootstrap(&first, &second, &clusters, &rate, &resampling).unwrap();
        let swapped = randomisation(&first, &second, &clusters, &rate, &resampling).unwrap();
        assert!(found.student_p < 1e-6 && found.p < 0.001);

        // The witness goes through all swaps where there are at most 10000 of them, up to 13
        // clusters.
        assert_eq!(swapped.is_exact, num_clusters < 14);
        if swapped.is_exact {
            assert_eq!(found.supported_p(), swapped.p.max(found.p));
            assert_eq!(found.supported_student_p(), swapped.p);
        }
        assert_eq!(found.supported_student_p() <= 0.05, num_clusters >= 6);
        assert_eq!(found.supported_p() < 0.001, num_clusters >= 11);
    }
}

#[test]
fn students_error_of_an_experiment_is_that_of_quasi_f() {
    // Crossed two-way analysis of variance without repetition, 4 seeds on 30 clusters of one
    // utterance each, a mean as the score.
    let key = Key::new(4, "crossed");
    let num_seeds = 4u64;
    let num_clusters = 30u64;
    let cell = |seed: u64, cluster: u64| {
        key.uniform(seed)
            + 3.0 * key.with(1).uniform(cluster)
            + 4.0 * key.with(2).with(seed).uniform(cluster)
    };
    let s = num_seeds as f64;
    let c = num_clusters as f64;
    let of_seed = |seed: u64| {
        (0..num_clusters)
            .map(|cluster| cell(seed, cluster))
            .sum::<f64>()
            / c
    };
    let of_cluster = |cluster: u64| (0..num_seeds).map(|seed| cell(seed, cluster)).sum::<f64>() / s;
    let whole = (0..num_seeds).map(of_seed).sum::<f64>() / s;
    let seeds = c
        * (0..num_seeds)
            .map(|seed| (of_seed(seed) - whole).powi(2))
            .sum::<f64>()
        / (s - 1.0);
    let clusters = s
        * (0..num_clusters)
            .map(|cluster| (of_cluster(cluster) - whole).powi(2))
            .sum::<f64>()
        / (c - 1.0);
    let cells =
        (0..num_seeds).flat_map(|seed| (0..num_clusters).map(move |cluster| (seed, cluster)));
    let rest: f64 = cells
        .map(|(seed, cluster)| {
            (cell(seed, cluster) - of_seed(seed) - of_cluster(cluster) + whole).powi(2)
        })
        .sum();
    let both = rest / ((s - 1.0) * (c - 1.0));
    let squares = seeds.powi(2) / (s - 1.0)
        + clusters.powi(2) / (c - 1.0)
        + both.powi(2) / ((s - 1.0) * (c - 1.0));

    let system = System {
        seeds: (0..num_seeds)
            .map(|seed| {
                (0..num_clusters)
                    .map(|cluster| vec![cell(seed, cluster), 1.0])
                    .collect()
            })
            .collect(),
    };
    let resampling = Resampling {
        resamples: 100_000,
        ..Resampling::default()
    };
    let found = Hierarchical::new(
        &[system],
        &Clusters::each(30),
        Inside::Whole,
        &rate,
        &resampling,
    )
    .unwrap()
    .estimate(0)
    .unwrap();
    assert!((found.value - whole).abs() < 1e-12);
    // Variances of 100000 resamples have a relative standard error of 0.45 %; those of the parts
    // add up to more than the whole.
    let variance = found.student.standard_error.powi(2);
    let expected = (seeds + clusters - both) / (s * c);
    assert!(
        (variance / expected - 1.0).abs() < 0.04,
        "{variance} and {expected}"
    );
    let expected = (seeds + clusters - both).powi(2) / squares;
    assert!(
        (found.student.degrees_of_freedom / expected - 1.0).abs() < 0.08,
        "{} and {expected}",
        found.student.degrees_of_freedom
    );
}

#[test]
fn one_seed_and_whole_clusters_equal_the_bootstrap() {
    let case = goldens().pairs.remove(0);
    let clusters = Clusters::by(&case.ids);
    let resampling = Resampling::default();
    let systems = [case.first.clone(), case.second.clone()].map(|utterances| System {
        seeds: vec![utterances],
    });
    let hierarchical =
        Hierarchical::new(&systems, &clusters, Inside::Whole, &rate, &resampling).unwrap();
    let found = hierarchical.difference(0, 1).unwrap();
    let plain = paired_bootstrap(&case.first, &case.second, &clusters, &rate, &resampling).unwrap();
    assert_eq!(
        (found.p, found.estimate.interval, found.student_p),
        (plain.p, plain.estimate.interval, plain.student_p)
    );
}

#[test]
fn undefined_resamples_are_left_out_with_a_note() {
    // One utterance of three has words: 8 of 27 resamples draw none.
    let utterances = vec![vec![1.0, 2.0], vec![0.0, 0.0], vec![0.0, 0.0]];
    let found = bootstrap(
        &utterances,
        &Clusters::each(3),
        &rate,
        &Resampling::default(),
    )
    .unwrap();
    let Some(Note::Undefined {
        found,
        resamples: 10_000,
    }) = found.notes.last()
    else {
        panic!("{:?}", found.notes)
    };
    assert!(
        (*found as f64 / 1e4 - 8.0 / 27.0).abs() < 0.02,
        "4.5 standard errors of a share of 10000"
    );
    let nothing = vec![vec![0.0, 0.0]; 3];
    let error = bootstrap(&nothing, &Clusters::each(3), &rate, &Resampling::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the score of the whole set is NaN"),
        "{error}"
    );
}

#[test]
fn settings_that_give_no_interval_are_refused() {
    let utterances = vec![vec![1.0, 2.0]; 3];
    for (wrong, said) in [
        (
            Resampling {
                resamples: 1,
                ..Resampling::default()
            },
            "1 resamples give no interval",
        ),
        (
            Resampling {
                confidence: 95.0,
                ..Resampling::default()
            },
            "a confidence of 95 lies outside 0 to 1",
        ),
    ] {
        assert!(
            bootstrap(&utterances, &Clusters::each(3), &rate, &wrong)
                .unwrap_err()
                .to_string()
                .starts_with(said)
        );
    }
}
