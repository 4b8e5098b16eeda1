//! Utility-Diversity Sampling: score of a row by its logits, after arXiv 2510.16882 (2025) and its
//! public code.
//!
//! A row's utility is the nuclear norm of its logits, the sum of their singular values. Its
//! diversity is the mean distance of a projection of the logits to those of rows chosen lately. The
//! publication uses the logits of all positions; here the caller says which.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::eigen;
use crate::product::rows_with_rows;
use maqam_base::seed::Key;

/// Partial sums of a product of two rows, which are added in the same order on every machine.
const LANES: usize = 8;

/// Sum of the singular values of a matrix: of the square roots of the eigenvalues of its Gram
/// matrix of rows, in `f64`.
///
/// # Shapes
/// `matrix`: `[rows, columns]`
pub fn nuclear_norm(matrix: &[f32], columns: usize) -> f64 {
    let rows: Vec<&[f32]> = matrix.chunks_exact(columns.max(1)).collect();
    let n = rows.len();
    let below: Vec<Vec<f64>> = (0..n)
        .into_par_iter()
        .map(|i| (0..=i).map(|j| dot(rows[i], rows[j])).collect())
        .collect();
    let mut gram = vec![0.0; n * n];
    for (i, of_row) in below.iter().enumerate() {
        for (j, &value) in of_row.iter().enumerate() {
            gram[i * n + j] = value;
            gram[j * n + i] = value;
        }
    }
    // Rounding makes eigenvalues of 0 slightly negative.
    let values = eigen::symmetric(gram, n).values;
    values.iter().map(|value| value.max(0.0).sqrt()).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let whole = a.chunks_exact(LANES).zip(b.chunks_exact(LANES));
    for (a, b) in whole {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest = a.len() - a.len() % LANES;
    let rest: f64 = a[rest..]
        .iter()
        .zip(&b[rest..])
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum();
    sums.iter().sum::<f64>() + rest
}

/// Sizes of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Size of the vocabulary, V.
    pub vocabulary: usize,
    /// Positions after the projection, R.
    pub rows: usize,
    /// Tokens after the projection, C.
    pub columns: usize,
    /// Positions that shorter logits are padded to, L. Longer ones begin again at the first.
    pub length: usize,
}

/// Random signs and frequencies of a projection.
struct Draws {
    /// Sign of each token, `[V]`.
    token_signs: Vec<f64>,
    /// Frequency of each column, below V.
    tokens: Vec<usize>,
    /// Sign of each position, `[L]`.
    position_signs: Vec<f64>,
    /// Frequency of each row, below L.
    positions: Vec<usize>,
}

/// Random bilinear projection of logits to R x C: real parts of a Fourier transform of randomly
/// signed tokens at C random frequencies, times sqrt(V / C), then the same of positions, times
/// sqrt(L / R). Distances grow by about sqrt(V L) / 2.
pub struct Projection {
    sizes: Sizes,
    /// `[R, L]`
    left: Vec<f64>,
    /// `[C, V]`
    right: Vec<f32>,
}

impl Projection {
    /// The projection of a key.
    pub fn new(sizes: Sizes, key: Key) -> Self {
        let draws = Draws {
            token_signs: signs(key.with_name("token signs"), sizes.vocabulary),
            tokens: frequencies(key.with_name("tokens"), sizes.columns, sizes.vocabulary),
            position_signs: signs(key.with_name("position signs"), sizes.length),
            positions: frequencies(key.with_name("positions"), sizes.rows, sizes.length),
        };
        Self::of(sizes, &draws)
    }

    fn of(sizes: Sizes, draws: &Draws) -> Self {
        let left = cosines(&draws.positions, &draws.position_signs);
        let right = cosines(&draws.tokens, &draws.token_signs);
        Self {
            sizes,
            left,
            right: right.into_iter().map(|value| value as f32).collect(),
        }
    }

    /// Projects logits.
    ///
    /// # Shapes
    /// `logits`: `[positions, V]` -> `[R C]`
    pub fn project(&self, logits: &[f32]) -> Vec<f32> {
        let Sizes {
            vocabulary,
            rows,
            columns,
            length,
        } = self.sizes;
        let by_column = rows_with_rows(logits, &self.right, vocabulary);
        let mut projected = vec![0.0; rows * columns];
        for (position, values) in by_column.chunks_exact(columns).enumerate() {
            for (row, sums) in projected.chunks_exact_mut(columns).enumerate() {
                let factor = self.left[row * length + position % length];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += factor * f64::from(*value);
                }
            }
        }
        projected.into_iter().map(|value| value as f32).collect()
    }
}

/// Random signs.
fn signs(key: Key, count: usize) -> Vec<f64> {
    (0..count as u64)
        .map(|place| 1.0 - 2.0 * (key.bits(place) & 1) as f64)
        .collect()
}

/// Random numbers below `end`.
fn frequencies(key: Key, count: usize, end: usize) -> Vec<usize> {
    (0..count as u64)
        .map(|place| key.below(place, end))
        .collect()
}

/// `sign[n] cos(2 pi k n / N) sqrt(N / K)` of K frequencies k and N places n, `[K, N]`.
fn cosines(frequencies: &[usize], signs: &[f64]) -> Vec<f64> {
    let places = signs.len();
    let scale = (places as f64 / frequencies.len() as f64).sqrt();
    let mut table = Vec::with_capacity(frequencies.len() * places);
    for &frequency in frequencies {
        let mut turn = 0;
        for sign in signs {
            let angle = 2.0 * std::f64::consts::PI * turn as f64 / places as f64;
            table.push(sign * scale * libm::cos(angle));
            turn = (turn + frequency) % places;
        }
    }
    table
}

/// Projections of the rows that were chosen lately, the oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue(VecDeque<Vec<f32>>);

impl Queue {
    /// Mean Euclidean distance of a projection to those of the queue; 0 if it is empty.
    pub fn mean_distance(&self, projection: &[f32]) -> f64 {
        if self.is_empty() {
            return 0.0;
        }
        let distance = |other: &Vec<f32>| {
            let squares = projection.iter().zip(other).map(|(a, b)| {
                let difference = f64::from(*a) - f64::from(*b);
                difference * difference
            });
            squares.sum::<f64>().sqrt()
        };
        self.0.iter().map(distance).sum::<f64>() / self.0.len() as f64
    }

    /// Appends a projection; the oldest ones leave a queue of more than `capacity`.
    pub fn push(&mut self, projection: Vec<f32>, capacity: usize) {
        self.0.push_back(projection);
        while self.0.len() > capacity {
            self.0.pop_front();
        }
    }

    /// Returns whether no row was chosen yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The projections, the oldest first.
    pub fn projections(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Places of the `count` highest scores, rising; of equal scores those that come first. All places
/// if there are fewer.
pub fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places.truncate(count);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Singular values of numpy and Fourier transforms: `tests/reference/uds.py`.
    #[test]
    fn scores_are_those_of_numpy() {
        let known: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/uds/scores.json")).unwrap();
        let floats = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        let places =
            |value: &Value| -> Vec<usize> { serde_json::from_value(value.clone()).unwrap() };
        let draws = Draws {
            token_signs: floats(&known["token_signs"]),
            tokens: places(&known["tokens"]),
            position_signs: floats(&known["position_signs"]),
            positions: places(&known["positions"]),
        };
        let vocabulary = known["vocabulary"].as_u64().unwrap() as usize;
        let sizes = Sizes {
            vocabulary,
            rows: draws.positions.len(),
            columns: draws.tokens.len(),
            length: draws.position_signs.len(),
        };
        let projection = Projection::of(sizes, &draws);
        let cases = known["cases"].as_array().unwrap();
        let logits: Vec<Vec<f32>> = cases
            .iter()
            .map(|case| {
                let values = floats(&case["logits"]).into_iter();
                values.map(|value| value as f32).collect()
            })
            .collect();
        let mut queue = Queue::default();
        assert_eq!(queue.mean_distance(&projection.project(&logits[0])), 0.0);
        let queued = known["queued"].as_u64().unwrap() as usize;
        // The one before them leaves the queue.
        for of_row in [&logits[2..3], &logits[..queued]].concat() {
            queue.push(projection.project(&of_row), queued);
        }
        assert_eq!(queue.projections().len(), queued);

        let close = |found: f64, expected: &Value, tolerance: f64| {
            let expected = expected.as_f64().unwrap();
            (found - expected).abs() <= tolerance * expected.abs().max(1.0)
        };
        let mut scores = Vec::new();
        for (case, logits) in cases.iter().zip(&logits) {
            let norm = nuclear_norm(logits, vocabulary);
            // A singular value of 0 has the square root of the rounding of the largest square.
            assert!(close(norm, &case["norm"], 1e-6), "{norm}: {case}");
            let projected = projection.project(logits);
            let expected = floats(&case["projection"]);
            assert_eq!(projected.len(), expected.len());
            for (found, expected) in projected.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-3, "{case}");
            }
            let distance = queue.mean_distance(&projected);
            assert!(
                close(distance, &case["distance"], 1e-5),
                "{distance}: {case}"
            );
            scores.push(norm + known["alpha"].as_f64().unwrap() * distance);
            assert!(close(scores[scores.len() - 1], &case["score"], 1e-6));
        }
        assert_eq!(best(&scores, 3), places(&known["best"]));
    }

    /// Rows of length 3 and 4 at a right angle: singular values 3 and 4. Two equal rows: one of
    /// 5 sqrt(2).
    #[test]
    fn nuclear_norms_by_hand() {
        assert!((nuclear_norm(&[0.0, 3.0, 4.0, 0.0], 2) - 7.0).abs() < 1e-12);
        let equal = nuclear_norm(&[3.0, 4.0, 3.0, 4.0], 2);
        assert!((equal - 50f64.sqrt()).abs() < 1e-6, "{equal}");
        assert!((nuclear_norm(&[1.0; 19], 19) - 19f64.sqrt()).abs() < 1e-12);
        assert_eq!(nuclear_norm(&[], 5), 0.0);
    }

    #[test]
    fn the_first_of_equal_scores_is_chosen() {
        assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, 3.0], 2), [1, 3]);
        assert_eq!(best(&[1.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(best(&[1.0, 3.0], 4), [0, 1]);
    }

    #[test]
    fn a_projection_follows_from_its_key() {
        let sizes = Sizes {
            vocabulary: 11,
            rows: 2,
            columns: 3,
            length: 4,
        };
        let logits: Vec<f32> = (0..22).map(|i| (i % 7) as f32).collect();
        let project = |seed| Projection::new(sizes, Key::new(seed, "test")).project(&logits);
        assert_eq!(project(1), project(1));
        assert_ne!(project(1), project(2));
        assert!(project(1).iter().any(|value| *value != 0.0));
        // Positions beyond the length begin again: the fifth is projected like the first.
        let mut padded = vec![0.0; 44];
        padded.extend_from_slice(&logits[..11]);
        let wrapped = Projection::new(sizes, Key::new(1, "test"));
        let found = wrapped.project(&padded);
        for (found, expected) in found.iter().zip(wrapped.project(&logits[..11])) {
            assert!((found - expected).abs() < 1e-3, "{found} {expected}");
        }
    }
}
