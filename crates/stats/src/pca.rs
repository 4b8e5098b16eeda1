//! Principal components: the directions in which vectors differ most, for figures of embeddings.
//!
//! Small problems are solved directly, from the covariance or from the products of the vectors with
//! each other. Large ones are solved by subspace iteration with Rayleigh-Ritz projection (Saad,
//! *Numerical Methods for Large Eigenvalue Problems*, 2011, section 5.2), which never computes the
//! covariance.

use crate::eigen;
use maqam_base::seed::Key;

/// Largest matrix that is decomposed directly.
const WHOLE_UP_TO: usize = 256;

/// Extra directions that iterate with the requested ones; they speed up the convergence of the
/// others.
const EXTRA: usize = 10;

/// Iterations stop when no explained variance changes by more than this part of the largest.
const SETTLED: f64 = 1e-12;

/// Most iterations; those directions that still move then are hardly larger than what follows them.
const MAX_ITERATIONS: usize = 300;

/// The principal components of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// `[dims]`.
    pub mean: Vec<f64>,
    /// `[k, dims]`: directions of length one, the most important first; the largest value of each
    /// is positive.
    pub components: Vec<f64>,
    /// Variance along each direction (divided by n - 1).
    pub variance: Vec<f64>,
    /// The variance as a share of that in all directions; 0 if all vectors are equal.
    pub variance_ratio: Vec<f64>,
}

impl Pca {
    /// The first `k` components, or as many as n vectors of `dims` values have: at most the smaller
    /// of n - 1 and `dims`.
    ///
    /// # Shapes
    /// `values`: `[n, dims]`
    pub fn new(values: &[f32], dims: usize, k: usize) -> Self {
        let n = values.len() / dims.max(1);
        let k = k.min(dims).min(n.saturating_sub(1));
        let mut mean = vec![0.0; dims];
        values.chunks(dims.max(1)).for_each(|vector| {
            mean.iter_mut()
                .zip(vector)
                .for_each(|(sum, &value)| *sum += f64::from(value) / n as f64)
        });
        let centred: Vec<f64> = values
            .chunks(dims.max(1))
            .flat_map(|vector| {
                vector
                    .iter()
                    .zip(&mean)
                    .map(|(&value, mean)| f64::from(value) - mean)
            })
            .collect();
        let vectors = Centred {
            values: &centred,
            n,
            dims,
        };
        let (mut components, variance) = match (dims <= WHOLE_UP_TO, n <= WHOLE_UP_TO) {
            _ if k == 0 => (Vec::new(), Vec::new()),
            (true, _) => vectors.by_covariance(k),
            (_, true) => vectors.by_products(k),
            _ => vectors.by_iteration(k),
        };
        components.chunks_mut(dims.max(1)).for_each(point);
        let total: f64 =
            centred.iter().map(|value| value * value).sum::<f64>() / (n.max(2) - 1) as f64;
        let variance_ratio = variance
            .iter()
            .map(|variance| if total > 0.0 { variance / total } else { 0.0 })
            .collect();
        Self {
            mean,
            components,
            variance,
            variance_ratio,
        }
    }

    /// Coordinates of vectors along the components: `[n, dims]` to `[n, k]`.
    pub fn project(&self, values: &[f32]) -> Vec<f64> {
        let dims = self.mean.len().max(1);
        let mut coordinates = Vec::with_capacity(values.len() / dims * self.variance.len());
        for vector in values.chunks(dims) {
            for component in self.components.chunks(dims) {
                let centred = vector.iter().zip(&self.mean);
                let centred = centred.map(|(&value, mean)| f64::from(value) - mean);
                coordinates.push(centred.zip(component).map(|(value, c)| value * c).sum());
            }
        }
        coordinates
    }
}

/// Vectors whose mean is zero.
struct Centred<'a> {
    values: &'a [f64],
    n: usize,
    dims: usize,
}

impl Centred<'_> {
    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks(self.dims)
    }

    fn by_covariance(&self, k: usize) -> (Vec<f64>, Vec<f64>) {
        let mut covariance = vec![0.0; self.dims * self.dims];
        for vector in self.rows() {
            for (row, value) in covariance.chunks_mut(self.dims).zip(vector) {
                row.iter_mut()
                    .zip(vector)
                    .for_each(|(sum, other)| *sum += value * other / (self.n - 1) as f64);
            }
        }
        leading(&eigen::symmetric(covariance, self.dims), self.dims, k)
    }

    /// Eigenvectors u of the products X X' give components X' u.
    fn by_products(&self, k: usize) -> (Vec<f64>, Vec<f64>) {
        let products = self
            .rows()
            .flat_map(|a| self.rows().map(move |b| dot(a, b) / (self.n - 1) as f64))
            .collect();
        let (vectors, variance) = leading(&eigen::symmetric(products, self.n), self.n, k);
        let mut components = vec![0.0; k * self.dims];
        for (component, of) in components.chunks_mut(self.dims).zip(vectors.chunks(self.n)) {
            self.rows()
                .zip(of)
                .for_each(|(vector, &weight)| add(component, vector, weight));
        }
        orthonormalise(&mut components, self.dims);
        (components, variance)
    }

    fn by_iteration(&self, k: usize) -> (Vec<f64>, Vec<f64>) {
        let width = (k + EXTRA).min(self.dims).min(self.n - 1);
        let key = Key::new(0, "pca");
        let mut basis: Vec<f64> = (0..(width * self.dims) as u64)
            .map(|i| key.uniform(i) - 0.5)
            .collect();
        orthonormalise(&mut basis, self.dims);
        let mut variance = vec![0.0; k];
        for _ in 0..MAX_ITERATIONS {
            let (images, inside) = self.image(&basis, width);
            let eigen = eigen::symmetric(inside, width);
            // The images, turned so that the first is along what varies most.
            let turns: Vec<&[f64]> = eigen.vectors.chunks(width).rev().collect();
            basis = vec![0.0; width * self.dims];
            for (direction, turn) in basis.chunks_mut(self.dims).zip(&turns) {
                images
                    .chunks(self.dims)
                    .zip(*turn)
                    .for_each(|(image, &weight)| add(direction, image, weight));
            }
            orthonormalise(&mut basis, self.dims);
            let found: Vec<f64> = eigen.values.iter().rev().take(k).copied().collect();
            let moved = found
                .iter()
                .zip(&variance)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            variance = found;
            if moved <= SETTLED * variance[0] {
                break;
            }
        }
        basis.truncate(k * self.dims);
        (basis, variance)
    }

    /// The covariance times each direction, `[width, dims]`, and the covariance in the directions'
    /// coordinates, `[width, width]`.
    fn image(&self, basis: &[f64], width: usize) -> (Vec<f64>, Vec<f64>) {
        let mut images = vec![0.0; basis.len()];
        let mut inside = vec![0.0; width * width];
        for vector in self.rows() {
            let along: Vec<f64> = basis
                .chunks(self.dims)
                .map(|direction| dot(direction, vector))
                .collect();
            images
                .chunks_mut(self.dims)
                .zip(&along)
                .for_each(|(image, along)| add(image, vector, along / (self.n - 1) as f64));
            inside
                .chunks_mut(width)
                .zip(&along)
                .for_each(|(row, a)| add(row, &along, a / (self.n - 1) as f64));
        }
        (images, inside)
    }
}

/// The `k` largest, largest first.
pub(super) fn leading(eigen: &eigen::Eigen, n: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let vectors = eigen
        .vectors
        .chunks(n)
        .rev()
        .take(k)
        .flatten()
        .copied()
        .collect();
    (
        vectors,
        eigen
            .values
            .iter()
            .rev()
            .take(k)
            .map(|value| value.max(0.0))
            .collect(),
    )
}

/// Makes directions orthogonal and of length one, each against those before it, twice against
/// rounding.
fn orthonormalise(basis: &mut [f64], dims: usize) {
    for i in 0..basis.len() / dims {
        let (before, rest) = basis.split_at_mut(i * dims);
        let direction = &mut rest[..dims];
        for _ in 0..2 {
            for other in before.chunks(dims) {
                let inner = dot(direction, other);
                add(direction, other, -inner);
            }
        }
        let length = dot(direction, direction).sqrt();
        if length > 0.0 {
            direction.iter_mut().for_each(|x| *x /= length);
        }
    }
}

/// Turns a direction so that its largest value is positive. Both signs are valid, but a figure
/// should not flip.
pub(super) fn point(direction: &mut [f64]) {
    let largest = direction.iter().fold(
        0.0f64,
        |most, &x| if x.abs() > most.abs() { x } else { most },
    );
    if largest < 0.0 {
        direction.iter_mut().for_each(|x| *x = -*x);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], vector: &[f64], weight: f64) {
    to.iter_mut()
        .zip(vector)
        .for_each(|(sum, value)| *sum += weight * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_equal_those_of_scikit_learn() {
        let cases: serde_json::Value = serde_json::from_str(include_str!(
            "../../../tests/fixtures/schedule/clusters.json"
        ))
        .unwrap();
        for case in cases["pca"].as_array().unwrap() {
            let read = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
            let n = case["n"].as_u64().unwrap() as usize;
            let dims = case["dims"].as_u64().unwrap() as usize;
            let k = case["k"].as_u64().unwrap() as usize;
            let values = made(n, dims);
            let found = Pca::new(&values, dims, k);
            let near = |found: &[f64], expected: &[f64], tolerance: f64| {
                let off = found
                    .iter()
                    .zip(expected)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f64::max);
                assert!(
                    found.len() == expected.len() && off < tolerance,
                    "n {n} dims {dims}: {off}"
                );
            };
            // Fixtures are rounded to nine digits; scikit-learn computes an exact singular value
            // decomposition of the same f32.
            near(&found.variance, &read("variance"), 1e-7);
            near(&found.variance_ratio, &read("variance_ratio"), 1e-7);
            // Directions settle with the root of what variances do.
            near(&found.components, &read("components"), 2e-5);
            near(
                &found.project(&values[..3 * dims]),
                &read("projected"),
                2e-5,
            );
        }
    }

    /// The same numbers as in the script: a few strong directions in noise.
    fn made(n: usize, dims: usize) -> Vec<f32> {
        let number = |purpose: &str, at: usize| Key::new(1, purpose).uniform(at as u64) - 0.5;
        let value = |i: usize, j: usize| {
            (0..4)
                .map(|d| {
                    2f64.powi(2 - d)
                        * number("along", i * 4 + d as usize)
                        * number("direction", d as usize * dims + j)
                })
                .sum::<f64>()
        };
        (0..n * dims)
            .map(|at| (value(at / dims, at % dims) + 0.1 * number("noise", at)) as f32)
            .collect()
    }

    #[test]
    fn all_ways_agree() {
        let n = 60;
        let dims = 50;
        let k = 3;
        let values: Vec<f64> = made(n, dims).into_iter().map(f64::from).collect();
        let mean: Vec<f64> = (0..dims)
            .map(|j| values.iter().skip(j).step_by(dims).sum::<f64>() / n as f64)
            .collect();
        let centred: Vec<f64> = values
            .iter()
            .enumerate()
            .map(|(at, value)| value - mean[at % dims])
            .collect();
        let vectors = Centred {
            values: &centred,
            n,
            dims,
        };
        let [a, b, c] = [
            vectors.by_covariance(k),
            vectors.by_products(k),
            vectors.by_iteration(k),
        ]
        .map(|(mut components, variance)| {
            components.chunks_mut(dims).for_each(point);
            [components, variance].concat()
        });
        for other in [b, c] {
            assert!(a.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn edges() {
        assert!(Pca::new(&[], 3, 2).components.is_empty());
        assert!(
            Pca::new(&[1.0, 2.0, 3.0], 3, 2).components.is_empty(),
            "one vector has no direction"
        );
        let line = Pca::new(&[0.0, 0.0, 3.0, 4.0, 6.0, 8.0], 2, 2);
        assert_eq!(line.mean, [3.0, 4.0]);
        assert!(
            (line.components[0] - 0.6).abs() < 1e-12
                && (line.components[1] - 0.8).abs() < 1e-12
                && (line.variance_ratio[0] - 1.0).abs() < 1e-12
        );
        assert_eq!(Pca::new(&[2.0; 12], 3, 2).variance_ratio, [0.0, 0.0]);
    }
}
