//! Groups of things by their pairwise affinities, and the tree of their merges.
//!
//! Spectral clustering after Ng, Jordan and Weiss, *On spectral clustering: analysis and an
//! algorithm*, NeurIPS 2001, with the normalised Laplacian and the rows scaled as Shi and Malik
//! 2000 (random walk) do. Hierarchy by average linkage (Sokal and Michener 1958).

use maqam_base::seed::Key;

use crate::eigen;
use crate::kmeans;

/// Seeds of k-means from which the best division is taken.
const STARTS: u64 = 32;

/// Iterations of k-means.
const MAX_ITERATIONS: usize = 100;

/// A division into groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// Group of each thing. Groups are numbered by their first members.
    pub assignments: Vec<usize>,
    /// Number of groups.
    pub count: usize,
    /// Eigenvalues of the Laplacian, rising. A large gap after the k-th speaks for k groups.
    pub eigenvalues: Vec<f64>,
}

/// Divides things by their affinities into `count` groups; without a number, into as many as the
/// largest gap between successive eigenvalues says, from 2 to one fewer than there are things (of
/// two things, each is a group).
///
/// The affinity of a thing with itself does not count. Affinities are at least 0.
///
/// # Shapes
/// `affinities`: `[n, n]`, symmetric
pub fn groups(affinities: &[f64], n: usize, count: Option<usize>) -> Groups {
    let degrees: Vec<f64> = (0..n)
        .map(|i| {
            let others = (0..n).filter(|&j| j != i);
            others.map(|j| affinities[i * n + j]).sum::<f64>()
        })
        .collect();
    let roots: Vec<f64> = degrees
        .iter()
        .map(|degree| if *degree > 0.0 { degree.sqrt() } else { 1.0 })
        .collect();
    let mut laplacian = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            laplacian[i * n + j] = match i == j {
                true => f64::from(u8::from(degrees[i] > 0.0)),
                false => -affinities[i * n + j] / (roots[i] * roots[j]),
            };
        }
    }
    let eigen::Eigen { values, vectors } = eigen::symmetric(laplacian, n);

    let count = count
        .unwrap_or_else(|| number_of_groups(&values))
        .clamp(1, n.max(1));
    // The vectors of the smallest values, divided by the root of the degree: coordinates in which a
    // random walk rarely leaves a group.
    let mut coordinates = Vec::with_capacity(n * count);
    for (i, root) in roots.iter().enumerate() {
        coordinates.extend((0..count).map(|k| (vectors[k * n + i] / root) as f32));
    }
    let assignments = match count {
        1 => vec![0; n],
        _ => divided(&coordinates, count),
    };
    let assignments = renumbered(&assignments);
    let count = assignments.iter().max().map_or(0, |last| last + 1);
    Groups {
        assignments,
        count,
        eigenvalues: values,
    }
}

/// Number of groups with the largest gap to the next eigenvalue, the smallest among equals.
fn number_of_groups(values: &[f64]) -> usize {
    let gap = |k: usize| values[k] - values[k - 1];
    let candidates = 2..values.len();
    candidates
        .reduce(|best, k| if gap(k) > gap(best) + 1e-12 { k } else { best })
        .unwrap_or(values.len())
}

/// Clusters of the best of several starts.
fn divided(coordinates: &[f32], count: usize) -> Vec<u32> {
    let runs = (0..STARTS).map(|start| {
        let key = Key::new(start, "spectral groups");
        let centres = kmeans::plus_plus(coordinates, count, count, key);
        kmeans::lloyd(coordinates, count, centres, MAX_ITERATIONS)
    });
    runs.reduce(|best, other| {
        if other.inertia < best.inertia - 1e-12 {
            other
        } else {
            best
        }
    })
    .map(|best| best.assignments)
    .unwrap_or_default()
}

/// The same clusters, numbered by their first members.
fn renumbered(assignments: &[u32]) -> Vec<usize> {
    let mut seen: Vec<u32> = Vec::new();
    let mut found = Vec::with_capacity(assignments.len());
    for cluster in assignments {
        let number = seen.iter().position(|known| known == cluster);
        found.push(number.unwrap_or_else(|| {
            seen.push(*cluster);
            seen.len() - 1
        }));
    }
    found
}

/// A merge of two branches of a dendrogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The branches: things below `n`, and above it the merges in their order. The first has the
    /// smaller first member.
    pub branches: [usize; 2],
    /// Mean distance between the members of one and the other.
    pub height: f64,
}

/// Merges the two branches whose members are nearest on average, until one is left. Of equal pairs,
/// that of the first members comes first.
///
/// # Shapes
/// `distances`: `[n, n]`, symmetric -> `n - 1` merges
pub fn average_linkage(distances: &[f64], n: usize) -> Vec<Merge> {
    let mut open: Vec<(usize, Vec<usize>)> = (0..n).map(|i| (i, vec![i])).collect();
    let mut merges = Vec::with_capacity(n.saturating_sub(1));
    while open.len() > 1 {
        let mut best = (0, 1, f64::INFINITY);
        for a in 0..open.len() {
            for b in a + 1..open.len() {
                let sum: f64 = open[a]
                    .1
                    .iter()
                    .flat_map(|i| open[b].1.iter().map(move |j| distances[i * n + j]))
                    .sum();
                let mean = sum / (open[a].1.len() * open[b].1.len()) as f64;
                if mean < best.2 {
                    best = (a, b, mean);
                }
            }
        }
        let (a, b, height) = best;
        let (second, of_second) = open.remove(b);
        let number = n + merges.len();
        merges.push(Merge {
            branches: [open[a].0, second],
            height,
        });
        open[a].0 = number;
        open[a].1.extend(of_second);
        open[a].1.sort_unstable();
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Divisions of scikit-learn: `tests/reference/spectral_groups.py`.
    #[test]
    fn groups_are_those_of_scikit_learn() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../../tests/fixtures/spectral/groups.json"))
                .unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let n = case["n"].as_u64().unwrap() as usize;
            let list =
                |name: &str| -> Vec<f64> { serde_json::from_value(case[name].clone()).unwrap() };
            let k = case["k"].as_u64().unwrap() as usize;
            let found = groups(&list("affinities"), n, Some(k));
            let expected: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
            assert_eq!(found.assignments, renumbered(&expected), "{}", case["name"]);
            assert_eq!(found.count, k);
            for (value, expected) in found.eigenvalues.iter().zip(list("eigenvalues")) {
                assert!((value - expected).abs() < 1e-9, "{value} of {expected}");
            }
            let by_gap = groups(&list("affinities"), n, None);
            assert_eq!(Some(by_gap.count as u64), case["k_of_gap"].as_u64());

            let distances = list("distances");
            let merges = average_linkage(&distances, n);
            let expected: Vec<[f64; 3]> = serde_json::from_value(case["linkage"].clone()).unwrap();
            for (merge, [a, b, height]) in merges.iter().zip(expected) {
                let mut branches = merge.branches;
                branches.sort_unstable();
                assert_eq!(branches, [a as usize, b as usize], "{}", case["name"]);
                assert!((merge.height - height).abs() < 1e-9);
            }
        }
    }

    /// Four things on a line at 0, 1, 5 and 7: 1 apart, 2 apart, then (5 + 7 + 4 + 6) / 4 = 5.5.
    #[test]
    fn merges_by_hand() {
        let at = [0.0, 1.0, 5.0, 7.0f64];
        let distances: Vec<f64> = at
            .iter()
            .flat_map(|a| at.iter().map(move |b| (a - b).abs()))
            .collect();
        let merge = |branches, height| Merge { branches, height };
        assert_eq!(
            average_linkage(&distances, 4),
            [merge([0, 1], 1.0), merge([2, 3], 2.0), merge([4, 5], 5.5)]
        );
        assert_eq!(average_linkage(&[0.0], 1), []);
    }

    #[test]
    fn few_things_are_groups_too() {
        assert_eq!(groups(&[1.0], 1, None).assignments, [0]);
        assert_eq!(groups(&[1.0, 0.3, 0.3, 1.0], 2, None).assignments, [0, 1]);
        let apart = [1.0, 0.0, 0.0, 0.0, 1.0, 0.9, 0.0, 0.9, 1.0];
        assert_eq!(groups(&apart, 3, Some(2)).assignments, [0, 1, 1]);
    }
}
