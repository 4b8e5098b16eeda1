//! Random subsets of a given size that avoid similar items: exact sampling from a k-DPP,
//! unconditionally or given items that are taken already.
//!
//! Source: Kulesza and Taskar, *k-DPPs: Fixed-Size Determinantal Point Processes*, ICML 2011
//! (algorithm 2; elementary symmetric polynomials by their equation 10), and *Determinantal Point
//! Processes for Machine Learning*, 2012, section 2.4.3 on conditioning. A subset S of k has a
//! probability that goes with det(L_S).

use crate::eigen;
use crate::kmeans::weighted;
use maqam_base::seed::Key;

/// Eigenvalues below this part of the largest are rounding.
const ROUNDING: f64 = 1e-14;

/// Draws `k` of `n` places, rising; `kernel` is symmetric and positive definite, `[n, n]`, and k at
/// most n.
pub fn sample(kernel: &[f64], n: usize, k: usize, key: Key) -> Vec<usize> {
    if k == 0 {
        return Vec::new();
    }
    let eigen = eigen::symmetric(kernel.to_vec(), n);
    let floor = eigen
        .values
        .last()
        .map_or(1.0, |largest| largest * ROUNDING)
        .max(f64::MIN_POSITIVE);
    let logs: Vec<f64> = eigen
        .values
        .iter()
        .map(|value| libm::log(value.max(floor)))
        .collect();
    let basis: Vec<&[f64]> = eigenvectors(&logs, k, key.with(0))
        .into_iter()
        .map(|i| &eigen.vectors[i * n..(i + 1) * n])
        .collect();
    let mut chosen = project(&basis, n, key.with(1));
    chosen.sort_unstable();
    chosen
}

/// Draws the k eigenvectors that span the subset: a set S with a probability proportional to the
/// product of its eigenvalues.
fn eigenvectors(logs: &[f64], k: usize, key: Key) -> Vec<usize> {
    let n = logs.len();
    // sums[l][m] is the log of the elementary symmetric polynomial of degree l of the first m
    // values.
    let mut sums = vec![vec![f64::NEG_INFINITY; n + 1]; k + 1];
    sums[0].fill(0.0);
    for l in 1..=k {
        for m in 1..=n {
            sums[l][m] = log_add(sums[l][m - 1], logs[m - 1] + sums[l - 1][m - 1]);
        }
    }
    let mut chosen = Vec::with_capacity(k);
    let mut left = k;
    for m in (1..=n).rev() {
        if left == 0 {
            break;
        }
        let share = logs[m - 1] + sums[left - 1][m - 1] - sums[left][m];
        if left == m || key.uniform(m as u64) < libm::exp(share) {
            chosen.push(m - 1);
            left -= 1;
        }
    }
    chosen
}

fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + libm::log1p(libm::exp(low - high))
    }
}

/// Draws from the projection onto orthonormal vectors: as many items as vectors, each by its
/// remaining projected length after the earlier items.
fn project(basis: &[&[f64]], n: usize, key: Key) -> Vec<usize> {
    let mut left: Vec<f64> = (0..n)
        .map(|i| basis.iter().map(|vector| vector[i] * vector[i]).sum())
        .collect();
    let mut chosen: Vec<usize> = Vec::with_capacity(basis.len());
    let mut taken: Vec<Vec<f64>> = Vec::with_capacity(basis.len());
    for draw in 0..basis.len() as u64 {
        let total: f64 = left.iter().sum();
        let place = weighted(&left, total * key.uniform(draw));
        // The part of every projected unit vector along the chosen one, less what earlier choices
        // took of it.
        let length = left[place].sqrt();
        let mut along: Vec<f64> = (0..n)
            .map(|i| basis.iter().map(|vector| vector[i] * vector[place]).sum())
            .collect();
        for before in &taken {
            along
                .iter_mut()
                .zip(before)
                .for_each(|(along, b)| *along -= b * before[place]);
        }
        along.iter_mut().for_each(|value| *value /= length);
        left.iter_mut()
            .zip(&along)
            .for_each(|(left, along)| *left = (*left - along * along).max(0.0));
        chosen.push(place);
        // Rounding leaves a chosen place a hair above zero.
        chosen.iter().for_each(|&place| left[place] = 0.0);
        taken.push(along);
    }
    chosen
}

/// The kernel of the free items, given the taken ones: `L - C T^-1 C'`, the Schur complement.
///
/// # Shapes
/// `free`: `[n, n]`, `cross`: `[n, taken]`, `among`: `[taken, taken]` -> `[n, n]`
pub fn given(free: &[f64], cross: &[f64], among: &[f64], n: usize, taken: usize) -> Vec<f64> {
    let factor = cholesky(among, taken);
    // Rows of C F'^-1, where T = F F': the complement is L minus the products of these.
    let mut reduced = cross.to_vec();
    for row in reduced.chunks_mut(taken.max(1)) {
        for j in 0..taken {
            let known: f64 = (0..j).map(|k| row[k] * factor[j * taken + k]).sum();
            row[j] = (row[j] - known) / factor[j * taken + j];
        }
    }
    let row = |i: usize| &reduced[i * taken..(i + 1) * taken];
    let less = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f64>();
    (0..n * n)
        .map(|at| free[at] - less(at / n, at % n))
        .collect()
}

/// The lower factor F of a positive definite matrix F F'.
fn cholesky(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut factor = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| factor[i * n + k] * factor[j * n + k]).sum();
            let left = matrix[i * n + j] - known;
            factor[i * n + j] = if i == j {
                left.max(f64::MIN_POSITIVE).sqrt()
            } else {
                left / factor[j * n + j]
            };
        }
    }
    factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn golden() -> (Vec<f64>, usize, Vec<serde_json::Value>) {
        let cases: serde_json::Value = serde_json::from_str(include_str!(
            "../../../tests/fixtures/schedule/clusters.json"
        ))
        .unwrap();
        let kdpp = &cases["kdpp"];
        let kernel = serde_json::from_value(kdpp["kernel"].clone()).unwrap();
        (
            kernel,
            kdpp["n"].as_u64().unwrap() as usize,
            kdpp["cases"].as_array().unwrap().clone(),
        )
    }

    fn part(kernel: &[f64], n: usize, rows: &[usize], columns: &[usize]) -> Vec<f64> {
        rows.iter()
            .flat_map(|&i| columns.iter().map(move |&j| kernel[i * n + j]))
            .collect()
    }

    #[test]
    fn subset_frequencies_equal_the_enumeration() {
        let (kernel, n, cases) = golden();
        for case in cases {
            let k = case["k"].as_u64().unwrap() as usize;
            let taken: Vec<usize> = serde_json::from_value(case["given"].clone()).unwrap();
            let probabilities: Vec<(Vec<usize>, f64)> =
                serde_json::from_value(case["probabilities"].clone()).unwrap();
            let free: Vec<usize> = (0..n).filter(|place| !taken.contains(place)).collect();
            let among_free = part(&kernel, n, &free, &free);
            let cross = part(&kernel, n, &free, &taken);
            let among = part(&kernel, n, &taken, &taken);
            let conditioned = given(&among_free, &cross, &among, free.len(), taken.len());
            let draws = 60_000;
            let mut counts: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
            for draw in 0..draws {
                let chosen = sample(&conditioned, free.len(), k, Key::new(draw, "test"));
                *counts
                    .entry(chosen.into_iter().map(|i| free[i]).collect())
                    .or_default() += 1.0;
            }
            let cells = probabilities.len() as f64;
            let chi_square: f64 = probabilities
                .iter()
                .map(|(subset, probability)| {
                    let expected = probability * draws as f64;
                    (counts.get(subset).copied().unwrap_or(0.0) - expected).powi(2) / expected
                })
                .sum();
            // Mean cells - 1, variance twice that; four standard deviations above.
            let bound = cells - 1.0 + 4.0 * (2.0 * (cells - 1.0)).sqrt();
            assert!(
                chi_square < bound,
                "k {k} given {taken:?}: {chi_square} over {bound}"
            );
            assert_eq!(counts.values().sum::<f64>(), draws as f64);
            assert!(
                counts
                    .keys()
                    .all(|subset| probabilities.iter().any(|(known, _)| known == subset)),
                "of the right size, rising, without what is given"
            );
        }
    }

    #[test]
    fn edges() {
        let identity: Vec<f64> = (0..16)
            .map(|at| f64::from(u8::from(at / 4 == at % 4)))
            .collect();
        assert_eq!(
            sample(&identity, 4, 0, Key::new(1, "test")),
            Vec::<usize>::new()
        );
        assert_eq!(sample(&identity, 4, 4, Key::new(1, "test")), [0, 1, 2, 3]);
        // Two items are equal except for a ridge, and one is different: the two equal items are
        // almost never drawn together.
        let alike = [
            1.0 + 1e-9,
            1.0,
            0.0,
            1.0,
            1.0 + 1e-9,
            0.0,
            0.0,
            0.0,
            1.0 + 1e-9,
        ];
        assert!((0..200).all(|seed| sample(&alike, 3, 2, Key::new(seed, "test")).contains(&2)));
        // All items are equal: the rank is one, but the sample still has the requested size without
        // repeats.
        let ones: Vec<f64> = (0..900)
            .map(|at| 1.0 + if at / 30 == at % 30 { 1e-6 } else { 0.0 })
            .collect();
        let chosen = sample(&ones, 30, 20, Key::new(3, "test"));
        assert!(chosen.len() == 20 && chosen.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
