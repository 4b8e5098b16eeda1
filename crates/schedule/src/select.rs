//! Selection of a step's rows from the rest of its block in a diverse stage: cell by cell, by one
//! of three rules.

use crate::draw::Pick;
use crate::embeddings::cosine;
use crate::settings::Select;
use maqam_base::seed::Key;
use maqam_stats::kdpp;

/// Added to the diagonal of the k-DPP's kernel, so that any number of rows can be drawn, also equal
/// ones. Compared with the kernel's diagonal of one, it is too small to change a choice among rows
/// that differ.
const RIDGE: f64 = 1e-6;

/// The rows of one cell that a block can still draw.
pub(super) struct Candidates {
    /// The pool they are drawn from.
    pub(super) pool: usize,
    /// True if the rows have audio. Rows are compared only with those of the same form.
    pub(super) has_audio: bool,
    /// The draws of the block, by position in the pool.
    pub(super) picks: Vec<Pick>,
    /// `[picks, dims]`.
    pub(super) vectors: Vec<f32>,
    /// The cluster of each row, under `select: kmeans`, if the rows have audio.
    pub(super) clusters: Vec<u32>,
    /// Places in `picks` that were not drawn yet, rising.
    pub(super) left: Vec<usize>,
}

impl Candidates {
    fn vector(&self, candidate: usize) -> &[f32] {
        let dims = self.vectors.len() / self.picks.len();
        &self.vectors[candidate * dims..(candidate + 1) * dims]
    }

    /// Number of remaining rows, from the first, of the oldest epoch: they are used up before a
    /// newer one begins.
    fn num_oldest(&self) -> usize {
        self.left.partition_point(|&candidate| {
            self.picks[candidate].epoch == self.picks[self.left[0]].epoch
        })
    }
}

/// Rows of the batch so far.
pub(super) struct Batch {
    key: Key,
    /// Vectors of rows with audio and of rows without.
    vectors: [Vec<Vec<f32>>; 2],
    /// Number of draws from each cluster.
    clusters: Vec<u32>,
}

impl Batch {
    /// An empty batch; `key` is the step's.
    pub(super) fn new(key: Key, num_clusters: usize) -> Self {
        Self {
            key,
            vectors: Default::default(),
            clusters: vec![0; num_clusters],
        }
    }

    /// Draws `slots` of the cell's remaining candidates, in the order in which they are chosen.
    pub(super) fn draw(
        &mut self,
        cell: &mut Candidates,
        slots: usize,
        select: Select,
    ) -> Vec<Pick> {
        match select {
            Select::Farthest => self.farthest(cell, slots),
            Select::Kmeans => self.least_used_clusters(cell, slots),
            Select::Kdpp => self.kdpp(cell, slots),
            Select::Random => (0..slots)
                .map(|_| cell.picks[cell.left.remove(0)])
                .collect(),
        }
    }

    fn farthest(&mut self, cell: &mut Candidates, slots: usize) -> Vec<Pick> {
        let batch = &mut self.vectors[usize::from(!cell.has_audio)];
        // The cosine of each candidate with the nearest row of the batch: a lower one is farther.
        // Without such a row, all are equal.
        let closeness = |candidate: &usize| {
            batch
                .iter()
                .map(|taken| cosine(cell.vector(*candidate), taken))
                .fold(f32::NEG_INFINITY, f32::max)
        };
        let mut nearest: Vec<f32> = cell.left.iter().map(closeness).collect();
        let mut drawn = Vec::with_capacity(slots);
        for _ in 0..slots {
            let place =
                (1..cell.num_oldest()).fold(
                    0,
                    |best, i| if nearest[i] < nearest[best] { i } else { best },
                );
            let candidate = cell.left.remove(place);
            nearest.remove(place);
            let vector = cell.vector(candidate).to_vec();
            for (nearest, &other) in nearest.iter_mut().zip(&cell.left) {
                *nearest = nearest.max(cosine(cell.vector(other), &vector));
            }
            drawn.push(cell.picks[candidate]);
            batch.push(vector);
        }
        drawn
    }

    fn least_used_clusters(&mut self, cell: &mut Candidates, slots: usize) -> Vec<Pick> {
        let mut drawn = Vec::with_capacity(slots);
        for _ in 0..slots {
            let used = |place: usize| {
                cell.clusters
                    .get(cell.left[place])
                    .map_or(0, |&cluster| self.clusters[cluster as usize])
            };
            let place = (1..cell.num_oldest())
                .fold(0, |best, i| if used(i) < used(best) { i } else { best });
            let candidate = cell.left.remove(place);
            if let Some(&cluster) = cell.clusters.get(candidate) {
                self.clusters[cluster as usize] += 1;
            }
            drawn.push(cell.picks[candidate]);
        }
        drawn
    }

    fn kdpp(&mut self, cell: &mut Candidates, slots: usize) -> Vec<Pick> {
        let mut drawn = Vec::with_capacity(slots);
        let key = self.key.with(cell.pool as u64);
        // An epoch with no more rows than slots is drawn completely, and the next epoch fills the
        // rest.
        while drawn.len() < slots {
            let oldest = cell.num_oldest();
            let places = match slots - drawn.len() {
                needed if needed >= oldest => (0..oldest).collect(),
                needed => kdpp::sample(
                    &self.kernel(cell, oldest),
                    oldest,
                    needed,
                    key.with(drawn.len() as u64),
                ),
            };
            for &place in places.iter().rev() {
                let candidate = cell.left.remove(place);
                self.vectors[usize::from(!cell.has_audio)].push(cell.vector(candidate).to_vec());
                drawn.push(cell.picks[candidate]);
            }
            let of_epoch = drawn.len() - places.len();
            drawn[of_epoch..].reverse();
        }
        drawn
    }

    /// The kernel `(1 + cos) / 2` of the first `n` remaining candidates, given the rows of the
    /// batch.
    fn kernel(&self, cell: &Candidates, n: usize) -> Vec<f64> {
        let free: Vec<&[f32]> = cell.left[..n]
            .iter()
            .map(|&candidate| cell.vector(candidate))
            .collect();
        let taken: Vec<&[f32]> = self.vectors[usize::from(!cell.has_audio)]
            .iter()
            .map(Vec::as_slice)
            .collect();
        kdpp::given(
            &kernel(&free, &free, true),
            &kernel(&free, &taken, false),
            &kernel(&taken, &taken, true),
            n,
            taken.len(),
        )
    }
}

/// `(1 + cos) / 2` of rows and columns. If rows and columns are the same rows, the diagonal is 1,
/// even for zero vectors.
fn kernel(rows: &[&[f32]], columns: &[&[f32]], are_same: bool) -> Vec<f64> {
    let mut kernel = Vec::with_capacity(rows.len() * columns.len());
    for (i, row) in rows.iter().enumerate() {
        for (j, column) in columns.iter().enumerate() {
            kernel.push(match are_same && i == j {
                true => 1.0 + RIDGE,
                false => (1.0 + f64::from(cosine(row, column))) / 2.0,
            });
        }
    }
    kernel
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Rows of a cell from `first` on, with these angles in a plane.
    fn cell(pool: usize, first: u32, angles: &[f64]) -> Candidates {
        let picks = (0..angles.len() as u32)
            .map(|i| Pick {
                row: first + i,
                epoch: 0,
            })
            .collect();
        let vectors = angles
            .iter()
            .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
            .collect();
        Candidates {
            pool,
            has_audio: true,
            picks,
            vectors,
            clusters: Vec::new(),
            left: (0..angles.len()).collect(),
        }
    }

    #[test]
    fn a_k_dpp_is_drawn_given_the_batch() {
        let angles = [0.0, 0.5, 2.0, 0.1, 1.2, 3.0f64];
        let similarity = |i: usize, j: usize| {
            (1.0 + (angles[i] - angles[j]).cos()) / 2.0 + if i == j { RIDGE } else { 0.0 }
        };
        // Two of the first cell, one of the second. Determinants by Sarrus.
        let pair =
            |i: usize, j: usize| similarity(i, i) * similarity(j, j) - similarity(i, j).powi(2);
        let triple = |i: usize, j: usize, k: usize| {
            similarity(i, i) * pair(j, k)
                + 2.0 * similarity(i, j) * similarity(j, k) * similarity(i, k)
                - similarity(j, j) * similarity(i, k).powi(2)
                - similarity(k, k) * similarity(i, j).powi(2)
        };
        let pairs = [(0, 1), (0, 2), (1, 2)];
        let total: f64 = pairs.iter().map(|&(i, j)| pair(i, j)).sum();
        let mut counts: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
        let draws = 40_000;
        for draw in 0..draws {
            let mut batch = Batch::new(Key::new(draw, "test"), 0);
            let mut first = cell(0, 0, &angles[..3]);
            let mut second = cell(1, 3, &angles[3..]);
            let picks = [
                batch.draw(&mut first, 2, Select::Kdpp),
                batch.draw(&mut second, 1, Select::Kdpp),
            ]
            .concat();
            assert_eq!((first.left.len(), second.left.len()), (1, 2));
            *counts
                .entry(picks.iter().map(|pick| pick.row).collect())
                .or_default() += 1.0;
        }
        let mut chi_square = 0.0;
        for (i, j) in pairs {
            let of_pair: f64 = (3..6).map(|k| triple(i, j, k)).sum();
            for k in 3..6 {
                let expected = draws as f64 * pair(i, j) / total * triple(i, j, k) / of_pair;
                let found = counts
                    .get(&vec![i as u32, j as u32, k as u32])
                    .copied()
                    .unwrap_or(0.0);
                chi_square += (found - expected).powi(2) / expected;
            }
        }
        assert!(
            chi_square < 8.0 + 4.0 * 4.0,
            "{chi_square}: of eight degrees of freedom, four standard deviations above"
        );
    }

    #[test]
    fn an_older_epoch_is_used_up_before_a_newer_one() {
        for select in [
            Select::Farthest,
            Select::Kmeans,
            Select::Kdpp,
            Select::Random,
        ] {
            let mut of_two = cell(0, 0, &[0.0, 0.1, 0.2, 3.0, 1.5]);
            of_two.picks[3..].iter_mut().for_each(|pick| pick.epoch = 1);
            let mut batch = Batch::new(Key::new(1, "test"), 0);
            let drawn = [
                batch.draw(&mut of_two, 1, select),
                batch.draw(&mut of_two, 3, select),
                batch.draw(&mut of_two, 1, select),
            ]
            .concat();
            assert_eq!(
                drawn.iter().map(|pick| pick.epoch).collect::<Vec<_>>(),
                [0, 0, 0, 1, 1],
                "{select:?}"
            );
        }
    }
}
