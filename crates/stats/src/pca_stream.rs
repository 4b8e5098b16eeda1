//! Principal components of more vectors than fit in memory, from sums of products; and how many
//! directions vectors fill.

use crate::eigen;
use crate::pca::Pca;
use crate::pca::leading;
use crate::pca::point;
use crate::product::gram;

/// Vectors whose products are added in `f32` before they are added in `f64`.
const BLOCK: usize = 1024;

/// Sums over vectors in batches: `dims^2` values, independent of the number of vectors.
#[derive(Clone, Debug)]
pub struct Moments {
    dims: usize,
    count: f64,
    /// Mean of the first batch, which is subtracted before squaring.
    centre: Vec<f32>,
    sums: Vec<f64>,
    /// `[dims, dims]`.
    products: Vec<f64>,
}

impl Moments {
    /// Empty sums.
    pub fn new(dims: usize) -> Self {
        Self {
            dims,
            count: 0.0,
            centre: Vec::new(),
            sums: vec![0.0; dims],
            products: vec![0.0; dims * dims],
        }
    }

    /// Number of vectors so far.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Adds a batch, `[n, dims]`.
    pub fn add(&mut self, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        if self.centre.is_empty() {
            let n = (values.len() / self.dims) as f64;
            let mut sums = vec![0.0f64; self.dims];
            for vector in values.chunks(self.dims) {
                sums.iter_mut()
                    .zip(vector)
                    .for_each(|(sum, &x)| *sum += f64::from(x));
            }
            self.centre = sums.into_iter().map(|sum| (sum / n) as f32).collect();
        }
        for block in values.chunks(BLOCK * self.dims) {
            let centred: Vec<f32> = block
                .chunks(self.dims)
                .flat_map(|vector| vector.iter().zip(&self.centre).map(|(x, c)| x - c))
                .collect();
            for vector in centred.chunks(self.dims) {
                self.sums
                    .iter_mut()
                    .zip(vector)
                    .for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let products = gram(&centred, self.dims);
            self.products
                .iter_mut()
                .zip(products)
                .for_each(|(sum, x)| *sum += f64::from(x));
            self.count += (block.len() / self.dims) as f64;
        }
    }

    /// Covariance, `[dims, dims]`, divided by n - 1.
    fn covariance(&self) -> Vec<f64> {
        let n = self.count.max(1.0);
        let mut covariance = self.products.clone();
        for (row, a) in covariance.chunks_mut(self.dims.max(1)).zip(&self.sums) {
            for (value, b) in row.iter_mut().zip(&self.sums) {
                *value = (*value - a * b / n) / (n - 1.0).max(1.0);
            }
        }
        covariance
    }

    /// The first `k` components, at most the smaller of n - 1 and `dims`.
    pub fn components(&self, k: usize) -> Pca {
        let k = k.min(self.dims).min(self.count().saturating_sub(1));
        let covariance = self.covariance();
        let total: f64 = (0..self.dims).map(|i| covariance[i * self.dims + i]).sum();
        let (mut components, variance) =
            leading(&eigen::symmetric(covariance, self.dims), self.dims, k);
        components.chunks_mut(self.dims.max(1)).for_each(point);
        let mean = self.centre.iter().zip(&self.sums);
        let ratio = |variance: &f64| if total > 0.0 { variance / total } else { 0.0 };
        Pca {
            mean: mean
                .map(|(&c, sum)| f64::from(c) + sum / self.count.max(1.0))
                .collect(),
            components,
            variance_ratio: variance.iter().map(ratio).collect(),
            variance,
        }
    }

    /// e to the power of the entropy of the normalised singular values of the centred vectors:
    /// between 1 and `dims`, as in RankMe (Garrido et al. 2023). 0 if all vectors are equal.
    pub fn effective_rank(&self) -> f64 {
        let values = eigen::symmetric(self.covariance(), self.dims).values;
        let singular: Vec<f64> = values
            .into_iter()
            .map(|value| value.max(0.0).sqrt())
            .collect();
        let total: f64 = singular.iter().sum();
        if total == 0.0 {
            return 0.0;
        }
        let entropy: f64 = singular
            .iter()
            .map(|value| value / total)
            .filter(|share| *share > 0.0)
            .map(|share| -share * share.ln())
            .sum();
        entropy.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::seed::Key;

    #[test]
    fn components_equal_those_of_one_batch() {
        let n = 500;
        let dims = 12;
        let key = Key::new(2, "values");
        let values: Vec<f32> = (0..(n * dims) as u64)
            .map(|at| (5.0 + (1.0 + (at % dims as u64) as f64) * key.uniform(at)) as f32)
            .collect();
        let mut moments = Moments::new(dims);
        values
            .chunks(dims * 37)
            .for_each(|batch| moments.add(batch));
        let found = moments.components(4);
        let whole = Pca::new(&values, dims, 4);
        for (a, b) in found.components.iter().zip(&whole.components) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        for (a, b) in found.variance_ratio.iter().zip(&whole.variance_ratio) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        assert!(
            found
                .mean
                .iter()
                .zip(&whole.mean)
                .all(|(a, b)| (a - b).abs() < 1e-5)
        );
    }

    #[test]
    fn rank_counts_equal_directions() {
        // Two directions of equal variance, and one without variance.
        let mut moments = Moments::new(3);
        moments.add(&[1.0, 0.0, 5.0, -1.0, 0.0, 5.0, 0.0, 1.0, 5.0, 0.0, -1.0, 5.0]);
        assert!((moments.effective_rank() - 2.0).abs() < 1e-5);
        let mut same = Moments::new(2);
        same.add(&[3.0, 4.0, 3.0, 4.0]);
        assert_eq!(same.effective_rank(), 0.0);
    }
}
