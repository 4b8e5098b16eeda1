//! k-means of more vectors than fit in memory, in batches and any number of passes.
//!
//! A pass of [`Pass`] over all batches is one of Lloyd's iterations. [`Clusters::learn`] moves
//! centres batch by batch, each with its own rate (Sculley, *Web-Scale K-Means Clustering*, WWW
//! 2010), without a second pass.

use rayon::prelude::*;

use crate::product::rows_with_rows;

/// Vectors whose distances from all centres exist at a time.
const BLOCK: usize = 4096;

/// Centres of clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    dims: usize,
    /// `[k, dims]`.
    centres: Vec<f32>,
    /// Number of vectors that each centre has learnt from.
    counts: Vec<f64>,
}

impl Clusters {
    /// Clusters around given centres, `[k, dims]`.
    pub fn new(centres: Vec<f32>, dims: usize) -> Self {
        Self {
            counts: vec![0.0; centres.len() / dims.max(1)],
            dims,
            centres,
        }
    }

    /// The centres, `[k, dims]`.
    pub fn centres(&self) -> &[f32] {
        &self.centres
    }

    /// Number of clusters.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Returns whether there is no cluster.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The nearest centre of each vector, the first of equals, and its squared distance.
    ///
    /// # Shapes
    /// `values`: `[n, dims]`
    pub fn assign(&self, values: &[f32]) -> Vec<(u32, f32)> {
        let k = self.len();
        let lengths: Vec<f32> = self.centres.chunks(self.dims).map(square).collect();
        let mut found = Vec::with_capacity(values.len() / self.dims);
        for block in values.chunks(BLOCK * self.dims) {
            // |x - c|^2 = |x|^2 + |c|^2 - 2 x c; the first term is the same for all centres.
            let products = rows_with_rows(block, &self.centres, self.dims);
            found.par_extend(
                products
                    .par_chunks(k)
                    .zip(block.par_chunks(self.dims))
                    .map(|(products, vector)| nearest(vector, products, &lengths)),
            );
        }
        found
    }

    /// Moves each centre towards the mean of its vectors in this batch, by the batch's share of all
    /// vectors that it has learnt from.
    ///
    /// Returns the sum of squared distances before the move.
    pub fn learn(&mut self, values: &[f32]) -> f64 {
        let mut pass = Pass::new(self);
        pass.add(self, values);
        for cluster in 0..self.len() {
            let added = pass.counts[cluster];
            if added == 0.0 {
                continue;
            }
            self.counts[cluster] += added;
            let rate = added / self.counts[cluster];
            let range = cluster * self.dims..(cluster + 1) * self.dims;
            for (centre, sum) in self.centres[range.clone()]
                .iter_mut()
                .zip(&pass.sums[range])
            {
                let mean = sum / added;
                *centre += (rate * (mean - f64::from(*centre))) as f32;
            }
        }
        pass.inertia
    }
}

/// One of Lloyd's iterations: sums of the vectors of every cluster.
#[derive(Clone, Debug)]
pub struct Pass {
    sums: Vec<f64>,
    counts: Vec<f64>,
    inertia: f64,
    /// The vectors that fit worst, the worst first, one for each cluster at most: they replace
    /// centres that lose all vectors.
    worst: Vec<(f32, Vec<f32>)>,
}

impl Pass {
    /// A pass without vectors.
    pub fn new(clusters: &Clusters) -> Self {
        Self {
            sums: vec![0.0; clusters.centres.len()],
            counts: vec![0.0; clusters.len()],
            inertia: 0.0,
            worst: Vec::new(),
        }
    }

    /// Adds a batch, `[n, dims]`.
    pub fn add(&mut self, clusters: &Clusters, values: &[f32]) {
        let dims = clusters.dims;
        for ((cluster, distance), vector) in
            clusters.assign(values).into_iter().zip(values.chunks(dims))
        {
            let cluster = cluster as usize;
            self.counts[cluster] += 1.0;
            self.inertia += f64::from(distance);
            for (sum, &value) in self.sums[cluster * dims..].iter_mut().zip(vector) {
                *sum += f64::from(value);
            }
            self.remember(distance, vector, clusters.len());
        }
    }

    fn remember(&mut self, distance: f32, vector: &[f32], most: usize) {
        let most = most.min(16);
        let is_full = self.worst.len() == most;
        if is_full
            && self
                .worst
                .last()
                .is_none_or(|(least, _)| distance <= *least)
        {
            return;
        }
        let place = self.worst.partition_point(|(known, _)| *known >= distance);
        self.worst.insert(place, (distance, vector.to_vec()));
        self.worst.truncate(most);
    }

    /// Sum of squared distances of all vectors from the centres that the pass began with.
    pub fn inertia(&self) -> f64 {
        self.inertia
    }

    /// Number of clusters that some vector belongs to.
    pub fn num_active(&self) -> usize {
        self.counts.iter().filter(|&&count| count > 0.0).count()
    }

    /// Moves every centre to the mean of its vectors. A centre without vectors becomes one of the
    /// vectors with the largest distance.
    pub fn finish(self, clusters: &mut Clusters) {
        let mut worst = self.worst.into_iter();
        for cluster in 0..clusters.len() {
            let range = cluster * clusters.dims..(cluster + 1) * clusters.dims;
            let count = self.counts[cluster];
            let centre = &mut clusters.centres[range.clone()];
            if count > 0.0 {
                for (centre, sum) in centre.iter_mut().zip(&self.sums[range]) {
                    *centre = (sum / count) as f32;
                }
            } else if let Some((_, vector)) = worst.next() {
                centre.copy_from_slice(&vector);
            }
        }
        clusters.counts = self.counts;
    }
}

/// The centre nearest to a vector, the first of equals, and its squared distance. `products` and
/// `lengths` are those of the centres: products with the vector, and squared lengths.
fn nearest(vector: &[f32], products: &[f32], lengths: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::INFINITY);
    for (place, (length, product)) in (0..).zip(lengths.iter().zip(products)) {
        let score = length - 2.0 * product;
        if score < best.1 {
            best = (place, score);
        }
    }
    (best.0, (best.1 + square(vector)).max(0.0))
}

fn square(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::lloyd;
    use maqam_base::seed::Key;

    /// Points around eight corners.
    fn points(n: usize) -> Vec<f32> {
        let key = Key::new(4, "points");
        (0..n as u64 * 3)
            .map(|at| {
                let corner = key.with(1).below(at / 3, 8);
                let side = f32::from(u8::from(corner >> (at % 3) & 1 == 1));
                10.0 * side + key.with(2).uniform(at) as f32
            })
            .collect()
    }

    #[test]
    fn passes_over_batches_are_lloyds_iterations() {
        let values = points(1000);
        let start: Vec<f32> = values[..5 * 3].to_vec();
        let mut clusters = Clusters::new(start.clone(), 3);
        for _ in 0..4 {
            let mut pass = Pass::new(&clusters);
            values
                .chunks(3 * 77)
                .for_each(|batch| pass.add(&clusters, batch));
            pass.finish(&mut clusters);
        }
        let whole = lloyd(&values, 3, start.iter().map(|&x| f64::from(x)).collect(), 4);
        for (a, b) in clusters.centres().iter().zip(&whole.centres) {
            assert!((f64::from(*a) - b).abs() < 1e-4, "{a} {b}");
        }
        let found: Vec<u32> = clusters
            .assign(&values)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(found, whole.assignments);
        let mut pass = Pass::new(&clusters);
        pass.add(&clusters, &values);
        assert!((pass.inertia() / whole.inertia - 1.0).abs() < 1e-3);
        assert_eq!(pass.num_active(), 5);
    }

    #[test]
    fn batches_find_the_corners() {
        let values = points(4000);
        let corners: Vec<f32> = (0..24)
            .map(|i| {
                if ((i / 3) >> (i % 3)) & 1 == 1 {
                    8.0
                } else {
                    2.0
                }
            })
            .collect();
        let mut clusters = Clusters::new(corners, 3);
        let first = clusters.learn(&values[..300]);
        values[300..].chunks(300).for_each(|batch| {
            clusters.learn(batch);
        });
        // The spread around a corner is uniform of variance 1/12 in three directions.
        let mean = clusters
            .assign(&values)
            .iter()
            .map(|(_, d)| f64::from(*d))
            .sum::<f64>()
            / 4000.0;
        assert!((mean - 0.25).abs() < 0.01 && first / 100.0 > 2.0, "{mean}");
    }

    #[test]
    fn a_centre_without_vectors_gets_the_worst_one() {
        let mut clusters = Clusters::new(vec![2.0, 100.0], 1);
        let mut pass = Pass::new(&clusters);
        pass.add(&clusters, &[0.0, 1.0, 7.0]);
        pass.finish(&mut clusters);
        assert_eq!(clusters.centres()[1], 7.0);
    }
}
