//! A matrix as a product of two of lower rank, with the smallest error: the singular value
//! decomposition, cut off.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use crate::seed::Key;
use crate::stats::eigen;

/// Shorter sides up to this are decomposed as a whole.
const WHOLE: usize = 256;

/// Columns of the random range beyond the rank.
const OVERSAMPLING: usize = 16;

/// Multiplications of the range with the matrix and its transpose, which bring it closer to the
/// singular vectors.
const POWERS: usize = 6;

/// Smallest share of the largest eigenvalue of a Gram matrix that counts as a direction.
const NOISE: f64 = 1e-14;

/// Two matrices of an adapter.
pub(super) struct Pair {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
}

impl Pair {
    /// `BA`, `[out, in]`.
    pub fn product(&self) -> Result<Tensor> {
        self.b.matmul(&self.a)
    }
}

/// A matrix `[out, in]` without any error: one of the two is the identity.
pub(super) fn exact(matrix: &Tensor) -> Result<Pair> {
    let (outputs, inputs) = matrix.dims2()?;
    let identity = |n| Tensor::eye(n, DType::F32, &Device::Cpu);
    if outputs < inputs {
        return Ok(Pair {
            a: matrix.clone(),
            b: identity(outputs)?,
        });
    }
    Ok(Pair {
        a: identity(inputs)?,
        b: matrix.clone(),
    })
}

/// A matrix `[out, in]` by its `rank` largest singular values, each shared by both sides.
///
/// Larger matrices are first projected on a random range with power iterations (Halko, Martinsson
/// and Tropp 2011, algorithm 4.4), from one seed. The result is `f32`, the work `f64`.
pub(super) fn truncated(matrix: &Tensor, rank: usize) -> Result<Pair> {
    let matrix = matrix.to_dtype(DType::F64)?;
    let (outputs, inputs) = matrix.dims2()?;
    let shorter = outputs.min(inputs);
    let range = rank + OVERSAMPLING;
    if shorter <= WHOLE || range >= shorter {
        return whole(&matrix, rank)?.to_f32();
    }

    let key = Key::new(0, "range of a merged adapter").with(outputs as u64);
    let random: Vec<f64> = (0..(inputs * range) as u64)
        .map(|place| key.uniform(place) - 0.5)
        .collect();
    let random = Tensor::from_vec(random, (inputs, range), &Device::Cpu)?;
    let transposed = matrix.t()?.contiguous()?;
    let mut basis = orthonormal(&matrix.matmul(&random)?)?;
    for _ in 0..POWERS {
        let other = orthonormal(&transposed.matmul(&basis)?)?;
        basis = orthonormal(&matrix.matmul(&other)?)?;
    }
    let projected = basis.t()?.contiguous()?.matmul(&matrix)?;
    let small = whole(&projected, rank)?;
    let pair = Pair {
        a: small.a,
        b: basis.matmul(&small.b)?,
    };
    pair.to_f32()
}

impl Pair {
    fn to_f32(&self) -> Result<Self> {
        Ok(Self {
            a: self.a.to_dtype(DType::F32)?,
            b: self.b.to_dtype(DType::F32)?,
        })
    }
}

/// A matrix by its largest singular values, from the eigenvectors of the Gram matrix of its shorter
/// side.
fn whole(matrix: &Tensor, rank: usize) -> Result<Pair> {
    let (outputs, inputs) = matrix.dims2()?;
    let transposed = matrix.t()?.contiguous()?;
    if outputs <= inputs {
        let (vectors, roots) = largest(&matrix.matmul(&transposed)?, rank)?;
        // A row of `vectors` is u, and u' M = sigma v'.
        let a = vectors.matmul(matrix)?.broadcast_mul(&inverse(&roots)?)?;
        let b = vectors.t()?.broadcast_mul(&row(&roots)?)?;
        return Ok(Pair {
            a,
            b: b.contiguous()?,
        });
    }
    let (vectors, roots) = largest(&transposed.matmul(matrix)?, rank)?;
    let b = matrix.matmul(&vectors.t()?.contiguous()?)?;
    let inverse = inverse(&roots)?.reshape((1, roots.len()))?;
    let column = row(&roots)?.reshape((roots.len(), 1))?;
    Ok(Pair {
        a: vectors.broadcast_mul(&column)?,
        b: b.broadcast_mul(&inverse)?,
    })
}

/// Eigenvectors of the largest eigenvalues of a Gram matrix, `[rank, n]`, and the roots of their
/// singular values, `[rank]`: 0 where there is only noise.
fn largest(gram: &Tensor, rank: usize) -> Result<(Tensor, Vec<f64>)> {
    let (values, vectors) = decomposed(gram)?;
    let n = values.len();
    let most = values.last().copied().unwrap_or(0.0);
    let mut kept = Vec::with_capacity(rank * n);
    let mut roots = Vec::with_capacity(rank);
    for place in (n - rank..n).rev() {
        kept.extend(upright(&vectors[place * n..(place + 1) * n]));
        let value = values[place];
        let is_noise = value <= most * NOISE;
        roots.push(if is_noise { 0.0 } else { value.powf(0.25) });
    }
    Ok((Tensor::from_vec(kept, (rank, n), &Device::Cpu)?, roots))
}

/// A vector with the sign that makes its largest value positive.
fn upright(vector: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let largest = vector
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let sign = largest.map_or(1.0, f64::signum);
    vector.iter().map(move |value| value * sign)
}

/// Eigenvalues of a symmetric matrix, rising, and their vectors, row by row.
fn decomposed(gram: &Tensor) -> Result<(Vec<f64>, Vec<f64>)> {
    let n = gram.dim(0)?;
    let found = eigen::symmetric(gram.flatten_all()?.to_vec1::<f64>()?, n);
    Ok((found.values, found.vectors))
}

/// `[1, rank]`.
fn row(roots: &[f64]) -> Result<Tensor> {
    Tensor::from_vec(roots.to_vec(), (1, roots.len()), &Device::Cpu)
}

/// One over each, `[rank, 1]`; 0 of 0.
fn inverse(roots: &[f64]) -> Result<Tensor> {
    let inverse: Vec<f64> = roots
        .iter()
        .map(|&root| if root == 0.0 { 0.0 } else { 1.0 / root })
        .collect();
    Tensor::from_vec(inverse, (roots.len(), 1), &Device::Cpu)
}

/// An orthonormal basis of the columns of a matrix `[n, columns]`. Columns that others span already
/// become zero.
fn orthonormal(columns: &Tensor) -> Result<Tensor> {
    // The second pass takes away what rounding left in the first.
    let mut basis = columns.clone();
    for _ in 0..2 {
        let gram = basis.t()?.contiguous()?.matmul(&basis)?;
        let n = gram.dim(0)?;
        let (values, mut vectors) = decomposed(&gram)?;
        let most = values.last().copied().unwrap_or(0.0);
        for (row, value) in vectors.chunks_mut(n.max(1)).zip(values) {
            let is_noise = value <= most * NOISE;
            let factor = if is_noise { 0.0 } else { 1.0 / value.sqrt() };
            row.iter_mut().for_each(|x| *x *= factor);
        }
        let vectors = Tensor::from_vec(vectors, (n, n), &Device::Cpu)?;
        basis = basis.matmul(&vectors.t()?.contiguous()?)?;
    }
    Ok(basis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with the given singular values, `[outputs, inputs]`.
    fn with_values(values: &[f64], outputs: usize, inputs: usize) -> Tensor {
        let random = |name: &str, n: usize| {
            let key = Key::new(1, name);
            let numbers: Vec<f64> = (0..(n * values.len()) as u64)
                .map(|place| key.uniform(place) - 0.5)
                .collect();
            let columns = Tensor::from_vec(numbers, (n, values.len()), &Device::Cpu).unwrap();
            orthonormal(&columns).unwrap()
        };
        let left = random("left", outputs)
            .broadcast_mul(&row(values).unwrap())
            .unwrap();
        let right = random("right", inputs).t().unwrap().contiguous().unwrap();
        left.matmul(&right).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        let a = a.to_dtype(DType::F64).unwrap();
        let b = b.to_dtype(DType::F64).unwrap();
        let squares = (a - b).unwrap().sqr().unwrap().sum_all().unwrap();
        squares.to_scalar::<f64>().unwrap().sqrt()
    }

    #[test]
    fn the_error_is_that_of_the_values_left_out() {
        // Slowly falling values, in a whole decomposition both ways round and by a random range.
        let values: Vec<f64> = (0..60).map(|i| 10.0 * 0.9f64.powi(i)).collect();
        for (outputs, inputs) in [(80, 70), (70, 80), (400, 300), (300, 400)] {
            let matrix = with_values(&values, outputs, inputs);
            for rank in [1, 8, 30] {
                let pair = truncated(&matrix, rank).unwrap();
                assert_eq!(pair.a.dims(), [rank, inputs]);
                assert_eq!(pair.b.dims(), [outputs, rank]);
                let best: f64 = values[rank..].iter().map(|x| x * x).sum::<f64>().sqrt();
                let found = distance(&pair.product().unwrap(), &matrix);
                // Rounding to f32 is 1e-7 of the largest value.
                assert!(
                    found < best * 1.0001 + 1e-4,
                    "{outputs} x {inputs}, rank {rank}: {found}, best {best}"
                );
                assert!(found > best * 0.9999);
            }
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_or_of_zeros_is_kept() {
        let matrix = with_values(&[3.0, 1.0], 20, 30);
        let pair = truncated(&matrix, 5).unwrap();
        assert!(distance(&pair.product().unwrap(), &matrix) < 1e-5);
        let zeros = Tensor::zeros((300, 310), DType::F32, &Device::Cpu).unwrap();
        let pair = truncated(&zeros, 4).unwrap();
        assert_eq!(distance(&pair.product().unwrap(), &zeros), 0.0);
    }

    #[test]
    fn full_rank_keeps_every_bit() {
        for (outputs, inputs) in [(3, 5), (5, 3), (4, 4)] {
            let key = Key::new(3, "matrix");
            let values: Vec<f32> = (0..(outputs * inputs) as u64)
                .map(|place| key.uniform(place) as f32 - 0.5)
                .collect();
            let matrix = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap();
            let pair = exact(&matrix).unwrap();
            assert_eq!(pair.a.dim(0).unwrap(), outputs.min(inputs));
            assert_eq!(distance(&pair.product().unwrap(), &matrix), 0.0);
        }
    }
}
