//! What embeddings know: how well the nearest neighbours of a row in their space tell what the row
//! is.
//!
//! A vote of nearest neighbours needs no training and no choice but their number (Cover and Hart,
//! *Nearest neighbor pattern classification*, 1967). Rows with the very same vector, one clip under
//! several tasks, say nothing of each other here.

use std::collections::BTreeMap;

use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product_new;

/// Neighbours that vote.
pub const NUM_NEIGHBOURS: usize = 5;

/// How well neighbours tell one of several values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Rows that have a value and a neighbour with one.
    pub num_rows: usize,
    /// Different values.
    pub num_values: usize,
    /// Share of the rows whose neighbours vote for their own value.
    pub accuracy: f64,
    /// The same for always saying the commonest value.
    pub commonest: f64,
    /// The mean over values of the share of their rows that are told right; chance is one over the
    /// number of values.
    pub balanced: f64,
}

/// Vectors of length one and their neighbours.
pub struct Space<'a> {
    values: &'a [f32],
    dims: usize,
    /// `[rows, rows]`.
    cosines: Vec<f32>,
}

impl<'a> Space<'a> {
    /// The space of vectors of length one.
    ///
    /// # Shapes
    /// `values`: `[rows, dims]`
    pub fn new(values: &'a [f32], dims: usize) -> Self {
        let rows = values.len() / dims.max(1);
        let matrix = Matrix::new(values, rows, dims);
        Self {
            values,
            dims,
            cosines: product_new(matrix, matrix.t(), 1.0, Threads::All),
        }
    }

    fn len(&self) -> usize {
        self.values.len() / self.dims.max(1)
    }

    fn vector(&self, row: usize) -> &[f32] {
        &self.values[row * self.dims..(row + 1) * self.dims]
    }

    /// The nearest rows for which `counts` holds, the nearest first; of equally near ones the
    /// first.
    fn nearest(&self, row: usize, counts: impl Fn(usize) -> bool) -> Vec<usize> {
        let cosines = &self.cosines[row * self.len()..(row + 1) * self.len()];
        let mut others: Vec<usize> = (0..self.len())
            .filter(|&other| {
                other != row && counts(other) && self.vector(other) != self.vector(row)
            })
            .collect();
        let before = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
        if others.len() > NUM_NEIGHBOURS {
            others.select_nth_unstable_by(NUM_NEIGHBOURS - 1, before);
            others.truncate(NUM_NEIGHBOURS);
        }
        others.sort_by(before);
        others
    }

    /// How well neighbours tell each row's value, among the rows that have one; `None` where fewer
    /// than two values are there.
    pub fn tell(&self, of: &[Option<u32>]) -> Option<Told> {
        let mut by_value: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (row, value) in of
            .iter()
            .enumerate()
            .filter_map(|(row, value)| Some((row, (*value)?)))
        {
            let nearest = self.nearest(row, |other| of[other].is_some());
            if let Some(said) = vote(nearest.iter().filter_map(|&other| of[other])) {
                let counts = by_value.entry(value).or_default();
                *counts = (counts.0 + 1, counts.1 + usize::from(said == value));
            }
        }
        let num_rows: usize = by_value.values().map(|(rows, _)| rows).sum();
        (by_value.len() > 1).then(|| Told {
            num_rows,
            num_values: by_value.len(),
            accuracy: by_value.values().map(|(_, right)| right).sum::<usize>() as f64
                / num_rows as f64,
            commonest: by_value.values().map(|(rows, _)| *rows).max().unwrap_or(0) as f64
                / num_rows as f64,
            balanced: by_value
                .values()
                .map(|(rows, right)| *right as f64 / *rows as f64)
                .sum::<f64>()
                / by_value.len() as f64,
        })
    }

    /// How much of the variance of a number the mean over neighbours explains: 1 all of it, 0 as
    /// little as always saying the mean, less where it misleads. `None` where the number is the
    /// same for all.
    pub fn explain(&self, numbers: &[f64]) -> Option<f64> {
        let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
        let mut missed = 0.0;
        let mut variance = 0.0;
        for (row, number) in numbers.iter().enumerate() {
            let nearest = self.nearest(row, |_| true);
            if !nearest.is_empty() {
                let said =
                    nearest.iter().map(|&other| numbers[other]).sum::<f64>() / nearest.len() as f64;
                (missed, variance) = (
                    missed + (number - said).powi(2),
                    variance + (number - mean).powi(2),
                );
            }
        }
        (variance > 0.0).then(|| 1.0 - missed / variance)
    }
}

/// The value that most say; of several the one that is said first.
fn vote(values: impl Iterator<Item = u32>) -> Option<u32> {
    let mut counts: Vec<(u32, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Key;

    /// Directions around the circle, in degrees.
    fn circle(degrees: &[f32]) -> Vec<f32> {
        degrees
            .iter()
            .flat_map(|d| [d.to_radians().cos(), d.to_radians().sin()])
            .collect()
    }

    #[test]
    fn clusters_are_told_and_the_commonest_is_what_it_is() {
        // Seven around 0 degrees, six around 180: everybody's five nearest are of its own kind.
        let values = circle(&[
            0.0, 1.0, 2.5, 4.5, 7.0, 10.0, 13.5, 180.0, 181.0, 182.5, 184.5, 187.0, 190.0,
        ]);
        let of: Vec<Option<u32>> = (0..13).map(|i| Some(u32::from(i >= 7))).collect();
        let told = Space::new(&values, 2).tell(&of).unwrap();
        assert_eq!(
            (told.num_rows, told.num_values, told.accuracy, told.balanced),
            (13, 2, 1.0, 1.0)
        );
        assert!((told.commonest - 7.0 / 13.0).abs() < 1e-12);
        // One row of the other kind among seven: its neighbours outvote it, and balance sees that.
        let mut one_wrong = of.clone();
        (7..13).for_each(|i| one_wrong[i] = None);
        one_wrong[3] = Some(1);
        let told = Space::new(&values, 2).tell(&one_wrong).unwrap();
        assert!(
            (told.accuracy - 6.0 / 7.0).abs() < 1e-12 && told.balanced == 0.5 && told.num_rows == 7
        );
        assert_eq!(
            Space::new(&values, 2).tell(&[Some(4); 13]),
            None,
            "one value alone tells nothing"
        );
    }

    #[test]
    fn the_same_vector_is_no_neighbour() {
        // Each clip stands there twice, under two tasks: without the exclusion the twin would
        // always vote.
        let values = circle(&[0.0, 0.0, 110.0, 110.0, 240.0, 240.0]);
        let space = Space::new(&values, 2);
        assert_eq!(space.nearest(0, |_| true), [2, 3, 4, 5]);
        assert_eq!(space.nearest(2, |other| other % 2 == 0), [0, 4]);
    }

    #[test]
    fn a_smooth_number_is_explained_and_noise_is_not() {
        let n = 400;
        let degrees: Vec<f32> = (0..n).map(|i| i as f32 * 0.4).collect();
        let values = circle(&degrees);
        let space = Space::new(&values, 2);
        let smooth: Vec<f64> = degrees.iter().map(|&d| f64::from(d)).collect();
        assert!(space.explain(&smooth).unwrap() > 0.999);
        let key = Key::new(9, "noise");
        let noise: Vec<f64> = (0..n as u64).map(|i| key.uniform(i)).collect();
        // A mean of five others adds a fifth of the variance to the row's own: R^2 is -0.2, with a
        // standard error below 0.1 at 400 rows.
        assert!(
            (space.explain(&noise).unwrap() + 0.2).abs() < 0.2,
            "{:?}",
            space.explain(&noise)
        );
        assert_eq!(space.explain(&vec![3.0; n]), None);
    }
}
