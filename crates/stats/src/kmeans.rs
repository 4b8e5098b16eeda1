//! k-means: clusters of vectors, by seeded k-means++ and Lloyd's iteration.
//!
//! Sources: Arthur and Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007;
//! Lloyd, *Least Squares Quantization in PCM*, IEEE Transactions on Information Theory 28, 1982.

use maqam_base::seed::Key;

/// Clusters of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    /// `[k, dims]`.
    pub centres: Vec<f64>,
    /// The cluster of each vector: that of the nearest centre, the first of equals.
    pub assignments: Vec<u32>,
    /// Sum of squared distances of the vectors from their centres.
    pub inertia: f64,
}

/// First centres of `k` clusters: the first vector at random, each other one with a probability
/// proportional to its squared distance from the nearest centre so far. If all vectors coincide
/// with centres, any vector.
///
/// # Shapes
/// `values`: `[n, dims]` with n of at least 1 -> `[k, dims]`
pub fn plus_plus(values: &[f32], dims: usize, k: usize, key: Key) -> Vec<f64> {
    let n = values.len() / dims;
    let mut centres = Vec::with_capacity(k * dims);
    let mut nearest = vec![f64::INFINITY; n];
    for centre in 0..k as u64 {
        let total: f64 = nearest.iter().sum();
        let chosen = if total.is_finite() && total > 0.0 {
            weighted(&nearest, total * key.uniform(centre))
        } else {
            key.below(centre, n)
        };
        let start = centres.len();
        centres.extend(
            vector(values, dims, chosen)
                .iter()
                .map(|&value| f64::from(value)),
        );
        for (i, nearest) in nearest.iter_mut().enumerate() {
            *nearest = nearest.min(squared_distance(vector(values, dims, i), &centres[start..]));
        }
    }
    centres
}

/// Moves centres to the mean of their vectors until no vector changes its cluster, at most
/// `max_iterations` times.
///
/// A cluster that loses all its vectors gets the one that is farthest from its own centre.
///
/// # Shapes
/// `values`: `[n, dims]`, `centres`: `[k, dims]`
pub fn lloyd(values: &[f32], dims: usize, mut centres: Vec<f64>, max_iterations: usize) -> KMeans {
    let (mut assignments, mut distances) = assign(values, dims, &centres);
    for _ in 0..max_iterations {
        update(values, dims, &mut centres, &assignments, &distances);
        let before = assignments;
        (assignments, distances) = assign(values, dims, &centres);
        if assignments == before {
            break;
        }
    }
    KMeans {
        centres,
        assignments,
        inertia: distances.iter().sum(),
    }
}

/// Each vector's nearest centre, and its squared distance from it.
fn assign(values: &[f32], dims: usize, centres: &[f64]) -> (Vec<u32>, Vec<f64>) {
    let vectors = values.chunks(dims);
    vectors.map(|vector| nearest(vector, centres)).unzip()
}

/// The centre nearest to a vector, the first of equals, and its squared distance from it.
fn nearest(vector: &[f32], centres: &[f64]) -> (u32, f64) {
    let mut best = (0, f64::INFINITY);
    for (place, centre) in (0..).zip(centres.chunks(vector.len())) {
        let distance = squared_distance(vector, centre);
        if distance < best.1 {
            best = (place, distance);
        }
    }
    best
}

fn update(
    values: &[f32],
    dims: usize,
    centres: &mut [f64],
    assignments: &[u32],
    distances: &[f64],
) {
    let mut counts = vec![0.0; centres.len() / dims];
    let mut sums = vec![0.0; centres.len()];
    for (vector, &cluster) in values.chunks(dims).zip(assignments) {
        counts[cluster as usize] += 1.0;
        sums[cluster as usize * dims..]
            .iter_mut()
            .zip(vector)
            .for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let mut farthest: Vec<usize> = (0..distances.len()).collect();
    if counts.contains(&0.0) {
        farthest.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]));
    }
    let mut farthest = farthest.into_iter();
    for (cluster, centre) in centres.chunks_mut(dims).enumerate() {
        if counts[cluster] > 0.0 {
            centre
                .iter_mut()
                .zip(&sums[cluster * dims..])
                .for_each(|(centre, sum)| *centre = sum / counts[cluster]);
        } else if let Some(alone) = farthest.next() {
            centre
                .iter_mut()
                .zip(vector(values, dims, alone))
                .for_each(|(centre, &value)| *centre = f64::from(value));
        }
    }
}

fn vector(values: &[f32], dims: usize, place: usize) -> &[f32] {
    &values[place * dims..(place + 1) * dims]
}

fn squared_distance(vector: &[f32], centre: &[f64]) -> f64 {
    // Four sums side by side, because a single sum would wait for its own result.
    let mut sums = [0.0f64; 4];
    let ((vector, rest), (centre, rest_of_centre)) =
        (vector.as_chunks::<4>(), centre.as_chunks::<4>());
    for (vector, centre) in vector.iter().zip(centre) {
        (0..4).for_each(|lane| sums[lane] += (f64::from(vector[lane]) - centre[lane]).powi(2));
    }
    sums.iter().sum::<f64>()
        + rest
            .iter()
            .zip(rest_of_centre)
            .map(|(&value, centre)| (f64::from(value) - centre).powi(2))
            .sum::<f64>()
}

/// The first index at which the running sum of `weights` exceeds `target`; never one with weight
/// zero.
pub(super) fn weighted(weights: &[f64], target: f64) -> usize {
    let mut sum = 0.0;
    for (place, weight) in weights.iter().enumerate() {
        sum += weight;
        if target < sum {
            return place;
        }
    }
    // Rounding has put the target at the end.
    weights
        .iter()
        .rposition(|weight| *weight > 0.0)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_equal_those_of_scikit_learn() {
        let cases: serde_json::Value = serde_json::from_str(include_str!(
            "../../../tests/fixtures/schedule/clusters.json"
        ))
        .unwrap();
        for case in cases["kmeans"].as_array().unwrap() {
            let read = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
            let values: Vec<f32> = read("values")
                .into_iter()
                .map(|value| value as f32)
                .collect();
            let dims = case["dims"].as_u64().unwrap() as usize;
            let found = lloyd(&values, dims, read("initial"), 300);
            assert_eq!(
                found.assignments,
                serde_json::from_value::<Vec<u32>>(case["assignments"].clone()).unwrap()
            );
            let inertia = case["inertia"].as_f64().unwrap();
            // Both sum in f64. scikit-learn expands distances into products, and the fixture is
            // rounded to nine digits.
            assert!(
                (found.inertia - inertia).abs() < 1e-7 * inertia,
                "{} {inertia}",
                found.inertia
            );
            let off = found
                .centres
                .iter()
                .zip(read("centres"))
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            assert!(off < 1e-7, "{off}");
        }
    }

    #[test]
    fn first_centres_are_drawn_by_squared_distance() {
        // From 0 the others are at 1 and 3: the second centre is 3 in nine of ten cases. Likewise 9
        // and 4 from 3, 4 and 1 from 1.
        let values = [0.0f32, 1.0, 3.0];
        let mut counts = [[0.0f64; 3]; 3];
        let draws = 30_000;
        for seed in 0..draws {
            let centres = plus_plus(&values, 1, 2, Key::new(seed, "test"));
            let place = |centre: f64| {
                values
                    .iter()
                    .position(|&value| f64::from(value) == centre)
                    .unwrap()
            };
            counts[place(centres[0])][place(centres[1])] += 1.0;
        }
        let expected = [
            [0.0, 0.1, 0.9],
            [0.2, 0.0, 0.8],
            [9.0 / 13.0, 4.0 / 13.0, 0.0],
        ];
        for (first, second) in (0..9).map(|i| (i / 3, i % 3)) {
            let share = expected[first][second] / 3.0;
            let error = (share * (1.0 - share) / draws as f64).sqrt();
            assert!(
                (counts[first][second] / draws as f64 - share).abs() <= 4.0 * error,
                "{first} {second}"
            );
        }
        assert_eq!(
            plus_plus(&[2.0; 6], 2, 3, Key::new(1, "test")),
            [2.0; 6],
            "all the same: any will do"
        );
    }

    #[test]
    fn an_empty_cluster_gets_the_vector_that_fits_worst() {
        // All three vectors are nearest to the first centre; the second gets 7, which is farthest
        // from it.
        let found = lloyd(&[0.0, 1.0, 7.0], 1, vec![2.0, 100.0], 50);
        assert_eq!((found.assignments, found.inertia), (vec![0, 0, 1], 0.5));
        let single = lloyd(&[5.0, 5.0], 1, vec![5.0, 5.0, 5.0], 50);
        assert_eq!((single.inertia, single.assignments), (0.0, vec![0, 0]));
    }
}
