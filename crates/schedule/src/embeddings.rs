//! Vectors that diverse drawing compares: one for each row, centred, of length one, and projected
//! if there are very many.

use rand_distr::Distribution;
use rand_distr::StandardNormal;
use rayon::prelude::*;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Pools of more rows than this are projected to [`PROJECTED_DIMS`], so that a million rows need
/// 256 MB and not 14 GB.
pub const PROJECT_ABOVE: usize = 100_000;

/// Dimensions of random directions, and of large pools after projection.
pub const PROJECTED_DIMS: usize = 64;

/// Share of a vector's length below which the centred vector is rounding error: the row is the mean
/// of its pool.
const ROUNDING: f64 = 1e-6;

/// Vectors of rows in one space, from a model or prepared for comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// Global row numbers.
    pub rows: Vec<u32>,
    /// Length of a vector.
    pub dims: usize,
    /// `[rows, dims]`, one vector after the other.
    pub values: Vec<f32>,
}

impl Vectors {
    /// Vector of a row, for rows in rising order.
    fn of(&self, row: u32) -> Option<&[f32]> {
        let place = self.rows.binary_search(&row).ok()?;
        Some(&self.values[place * self.dims..(place + 1) * self.dims])
    }
}

/// The embeddings that a diverse stage compares: rows with audio in one space, rows without in
/// another.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    audio: Vectors,
    text: Vectors,
}

impl Embeddings {
    /// Prepares a model's embeddings. In each space the mean of the rows is subtracted, and vectors
    /// get length one. If there are more than [`PROJECT_ABOVE`] rows, they are projected before
    /// that ([`Projection`]). A zero vector has no information on its row. It does not count for
    /// the mean and stays zero, at a distance of one from all others. The same holds for a row that
    /// equals the mean.
    ///
    /// # Errors
    /// Sizes that do not match and rows that occur twice (bugs); values that are not finite, naming
    /// a row.
    pub fn new(audio: Vectors, text: Vectors, seed: u64) -> Result<Self> {
        Ok(Self {
            audio: prepare(audio, seed).map_err(|e| e.at("audio embeddings"))?,
            text: prepare(text, seed).map_err(|e| e.at("text embeddings"))?,
        })
    }

    /// Rows with audio, rising, with what is compared.
    pub fn audio(&self) -> &Vectors {
        &self.audio
    }

    /// Rows without audio, rising, with what is compared.
    pub fn text(&self) -> &Vectors {
        &self.text
    }

    /// The vector of a row; `None` if it has no embedding.
    pub fn of(&self, row: u32, has_audio: bool) -> Option<&[f32]> {
        if has_audio {
            self.audio.of(row)
        } else {
            self.text.of(row)
        }
    }
}

fn prepare(vectors: Vectors, seed: u64) -> Result<Vectors> {
    let mut vectors = sorted(vectors)?;
    if vectors.dims == 0 {
        return Ok(vectors);
    }
    if let Some(place) = vectors.values.iter().position(|value| !value.is_finite()) {
        return Err(Error::input(format!(
            "row {} has a value that is not finite",
            vectors.rows[place / vectors.dims]
        ))
        .hint("look for a clip that is damaged, or for a model whose weights are not finite"));
    }
    let is_large = vectors.rows.len() > PROJECT_ABOVE && vectors.dims > PROJECTED_DIMS;
    centre(&mut vectors);
    if is_large {
        vectors.values = Projection::new(vectors.dims, seed).apply(&vectors.values);
        vectors.dims = PROJECTED_DIMS;
    }
    let dims = vectors.dims;
    vectors.values.par_chunks_mut(dims).for_each(normalise);
    Ok(vectors)
}

/// The same vectors by rising row.
fn sorted(vectors: Vectors) -> Result<Vectors> {
    let Vectors { rows, dims, values } = &vectors;
    if values.len() != rows.len() * dims {
        return Err(Error::bug(format!(
            "{} values for {} rows of {dims}",
            values.len(),
            rows.len()
        )));
    }
    if rows.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(vectors);
    }
    let mut places: Vec<usize> = (0..rows.len()).collect();
    places.sort_unstable_by_key(|&place| rows[place]);
    if let Some(pair) = places
        .windows(2)
        .find(|pair| rows[pair[0]] == rows[pair[1]])
    {
        return Err(Error::bug(format!("row {} has two", rows[pair[0]])));
    }
    let moved = places
        .iter()
        .flat_map(|&place| &values[place * dims..(place + 1) * dims])
        .copied()
        .collect();
    Ok(Vectors {
        rows: places.iter().map(|&place| rows[place]).collect(),
        dims: *dims,
        values: moved,
    })
}

/// Subtracts the mean of all nonzero vectors; rounding errors become zero.
fn centre(vectors: &mut Vectors) {
    let dims = vectors.dims;
    let mut mean = vec![0.0f64; dims];
    let mut count = 0.0;
    for vector in vectors
        .values
        .chunks(dims)
        .filter(|vector| vector.iter().any(|&value| value != 0.0))
    {
        mean.iter_mut()
            .zip(vector)
            .for_each(|(sum, &value)| *sum += f64::from(value));
        count += 1.0;
    }
    mean.iter_mut().for_each(|sum| *sum /= f64::max(count, 1.0));
    vectors.values.par_chunks_mut(dims).for_each(|vector| {
        let before = length(vector);
        if before == 0.0 {
            return;
        }
        vector
            .iter_mut()
            .zip(&mean)
            .for_each(|(value, mean)| *value = (f64::from(*value) - mean) as f32);
        if length(vector) <= ROUNDING * before {
            vector.fill(0.0);
        }
    });
}

fn length(vector: &[f32]) -> f64 {
    vector
        .iter()
        .map(|&value| f64::from(value) * f64::from(value))
        .sum::<f64>()
        .sqrt()
}

/// Scales a vector to length one; a zero vector stays unchanged.
fn normalise(vector: &mut [f32]) {
    let length = length(vector);
    if length > 0.0 {
        vector
            .iter_mut()
            .for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// A seeded Gaussian random projection to [`PROJECTED_DIMS`] dimensions. It preserves cosines up to
/// about `1/8`, the inverse root of the number of dimensions (Johnson and Lindenstrauss 1984;
/// Dasgupta and Gupta 2003).
///
/// The projection is linear, so vectors may be projected before their mean is known.
/// [`Embeddings::new`] then centres the projected vectors, with the same result up to rounding.
pub struct Projection {
    dims: usize,
    /// `[dims, PROJECTED_DIMS]`.
    matrix: Vec<f32>,
}

impl Projection {
    /// The projection of vectors of `dims` values.
    pub fn new(dims: usize, seed: u64) -> Self {
        let mut generator = Key::new(seed, "projection").with(dims as u64).generator();
        let scale = 1.0 / (PROJECTED_DIMS as f64).sqrt();
        let draw = |_| {
            (scale * <StandardNormal as Distribution<f64>>::sample(&StandardNormal, &mut generator))
                as f32
        };
        Self {
            dims,
            matrix: (0..dims * PROJECTED_DIMS).map(draw).collect(),
        }
    }

    /// Projects vectors, `[rows, dims]` to `[rows, PROJECTED_DIMS]`.
    pub fn apply(&self, values: &[f32]) -> Vec<f32> {
        let mut projected = vec![0.0; values.len() / self.dims.max(1) * PROJECTED_DIMS];
        projected
            .par_chunks_mut(PROJECTED_DIMS)
            .zip(values.par_chunks(self.dims.max(1)))
            .for_each(|(projected, vector)| {
                for (value, row) in vector.iter().zip(self.matrix.chunks(PROJECTED_DIMS)) {
                    projected
                        .iter_mut()
                        .zip(row)
                        .for_each(|(sum, weight)| *sum += value * weight);
                }
            });
        projected
    }
}

/// Appends the random direction of a row: [`PROJECTED_DIMS`] normal values, scaled to length one.
pub(super) fn random_direction(key: Key, row: u32, vectors: &mut Vec<f32>) {
    let start = vectors.len();
    let mut generator = key.with(u64::from(row)).generator();
    vectors.extend((0..PROJECTED_DIMS).map(|_| {
        <StandardNormal as Distribution<f64>>::sample(&StandardNormal, &mut generator) as f32
    }));
    normalise(&mut vectors[start..]);
}

/// Number of sums that [`cosine`] computes side by side, so that it uses vector instructions with a
/// fixed order of additions.
const LANES: usize = 16;

/// The cosine of two vectors of length one (or zero): their product, the same on every machine.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        (0..LANES).for_each(|lane| sums[lane] += a[lane] * b[lane]);
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(dims: usize, values: &[f32]) -> Vectors {
        Vectors {
            rows: (0..(values.len() / dims) as u32).collect(),
            dims,
            values: values.to_vec(),
        }
    }

    #[test]
    fn vectors_are_centred_and_of_length_one() {
        // The mean of the three nonzero vectors is (2, 2), and the centred vectors are (-2, 0), (0,
        // -2), (2, 2).
        let embeddings = Embeddings::new(
            vectors(2, &[0.0, 2.0, 2.0, 0.0, 0.0, 0.0, 4.0, 4.0]),
            Vectors::default(),
            1,
        )
        .unwrap();
        let half = 0.5f32.sqrt();
        assert_eq!(
            embeddings.audio().values,
            [-1.0, 0.0, 0.0, -1.0, 0.0, 0.0, half, half]
        );
        assert_eq!(
            (
                embeddings.of(3, true),
                embeddings.of(3, false),
                embeddings.of(9, true)
            ),
            (Some(&[half, half][..]), None, None)
        );
        let same = Embeddings::new(
            vectors(3, &[0.1, 0.7, 0.3].repeat(7)),
            vectors(1, &[3.0]),
            1,
        )
        .unwrap();
        assert!(
            same.audio().values.iter().all(|&value| value == 0.0),
            "rows that are all the same say nothing"
        );
        assert_eq!(same.text().values, [0.0]);
    }

    #[test]
    fn rows_come_in_any_order_and_once() {
        let shuffled = Vectors {
            rows: vec![7, 2, 4],
            dims: 1,
            values: vec![1.0, -1.0, 3.0],
        };
        let embeddings = Embeddings::new(shuffled, Vectors::default(), 1).unwrap();
        assert_eq!(
            (&embeddings.audio().rows[..], &embeddings.audio().values[..]),
            (&[2, 4, 7][..], &[-1.0, 1.0, 0.0][..])
        );
        let twice = Vectors {
            rows: vec![7, 2, 7],
            dims: 1,
            values: vec![1.0; 3],
        };
        assert_eq!(
            Embeddings::new(twice, Vectors::default(), 1)
                .unwrap_err()
                .message(),
            "audio embeddings: row 7 has two"
        );
        let short = Vectors {
            rows: vec![1],
            dims: 2,
            values: vec![1.0],
        };
        assert_eq!(
            Embeddings::new(Vectors::default(), short, 1)
                .unwrap_err()
                .exit_code(),
            1
        );
        let wrong = Embeddings::new(
            vectors(2, &[0.0, 1.0, f32::NAN, 1.0]),
            Vectors::default(),
            1,
        )
        .unwrap_err();
        assert!(
            wrong.exit_code() == 2
                && wrong
                    .message()
                    .contains("row 1 has a value that is not finite"),
            "{wrong}"
        );
    }

    #[test]
    fn many_rows_are_projected_and_keep_their_cosines() {
        let rows = PROJECT_ABOVE + 1;
        let dims = 80;
        let key = Key::new(5, "test");
        // Every row is one of 20 directions with some noise.
        let value = |i: usize| {
            key.with((i / dims % 20) as u64).uniform((i % dims) as u64) - 0.5
                + 0.02 * key.uniform(i as u64)
        };
        let given = vectors(
            dims,
            &(0..rows * dims)
                .map(|i| value(i) as f32)
                .collect::<Vec<_>>(),
        );
        let early = Vectors {
            dims: PROJECTED_DIMS,
            values: Projection::new(dims, 3).apply(&given.values),
            ..given.clone()
        };
        let [whole, early] = [given.clone(), early]
            .map(|given| Embeddings::new(given, Vectors::default(), 3).unwrap().audio);
        assert_eq!((whole.dims, early.dims), (PROJECTED_DIMS, PROJECTED_DIMS));
        let mut exact = given;
        centre(&mut exact);
        exact.values.chunks_mut(dims).for_each(normalise);
        for pair in 0..20u32 {
            let a = pair;
            let b = pair * 7 + 1;
            let cosine_in = |vectors: &Vectors| {
                f64::from(cosine(vectors.of(a).unwrap(), vectors.of(b).unwrap()))
            };
            // Projected cosines err with a standard deviation of at most 1/8; four of them.
            assert!(
                (cosine_in(&whole) - cosine_in(&exact)).abs() < 0.5,
                "{} {}",
                cosine_in(&whole),
                cosine_in(&exact)
            );
            // Products of f32 over 80 values of order one.
            assert!((cosine_in(&whole) - cosine_in(&early)).abs() < 1e-4);
        }
    }

    #[test]
    fn random_directions_depend_only_on_the_row() {
        let key = Key::new(1, "random embeddings");
        let mut all = Vec::new();
        (0..500).for_each(|row| random_direction(key, row, &mut all));
        let mut one = Vec::new();
        random_direction(key, 321, &mut one);
        assert_eq!(one, all[321 * PROJECTED_DIMS..322 * PROJECTED_DIMS]);
        let cosines: Vec<f64> = (0..499)
            .map(|i| {
                f64::from(cosine(
                    &all[i * 64..(i + 1) * 64],
                    &all[(i + 1) * 64..(i + 2) * 64],
                ))
            })
            .collect();
        // Cosines of random directions in 64 dimensions have mean 0 and variance 1/64; four
        // standard errors of 499.
        assert!((cosines.iter().sum::<f64>() / 499.0).abs() < 4.0 / (64.0 * 499.0f64).sqrt());
        let variance = cosines.iter().map(|c| c * c).sum::<f64>() / 499.0;
        assert!(
            (variance * 64.0 - 1.0).abs() < 0.26,
            "{variance}: four standard errors, the root of 8 / 499 each, are 0.25"
        );
    }

    #[test]
    fn a_cosine_is_the_sum_of_products() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..37).map(|i| (i % 5) as f32).collect();
        assert_eq!(
            cosine(&a, &b),
            (0..37).map(|i| (i * (i % 5)) as f32).sum::<f32>()
        );
    }
}
