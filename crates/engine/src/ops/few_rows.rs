//! Products of a few rows with a large frozen matrix, as generation takes them: the matrix is read once and never copied.
//!
//! General products first copy the matrix into blocks, which for a few rows takes longer than the product. Every number is summed in one
//! order whatever it is computed with, so a row's result does not depend on its neighbours.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

/// Most rows that are taken this way; more of them are worth a copy.
pub const MOST: usize = 32;

/// Rows of the matrix, and of the input, that are multiplied together: as many sums as registers hold.
const BLOCK: usize = 4;

/// Rows of the matrix that a thread takes at a time.
const CHUNK: usize = 64;

/// `x w^T`.
///
/// # Shapes
/// `x`: `[rows, dim]`, `w`: `[outputs, dim]` -> `[rows, outputs]`
pub fn product_few(x: &[f32], rows: usize, dim: usize, w: &[f32]) -> Vec<f32> {
    let outputs = w.len().checked_div(dim).unwrap_or(0);
    let mut out = vec![0.0; outputs * rows];
    if out.is_empty() {
        return out;
    }
    let arch = pulp::Arch::new();
    // One column of the result after the other, so that threads write apart.
    let mut columns = vec![0.0; outputs * rows];
    columns
        .par_chunks_mut(CHUNK * rows)
        .zip(w.par_chunks(CHUNK * dim))
        .for_each(|(columns, w)| arch.dispatch(Chunk { x, dim, w, columns }));
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        for (out, column) in out.iter_mut().zip(columns.chunks_exact(rows)) {
            *out = column[row];
        }
    }
    out
}

/// Some rows of the matrix with all rows of the input; `columns`: `[rows of w, rows of x]`.
struct Chunk<'a> {
    x: &'a [f32],
    dim: usize,
    w: &'a [f32],
    columns: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, dim, w, columns } = self;
        let rows = x.len() / dim;
        for (w, columns) in w.chunks(BLOCK * dim).zip(columns.chunks_mut(BLOCK * rows)) {
            let outputs = w.len() / dim;
            for first in (0..rows).step_by(BLOCK) {
                let count = BLOCK.min(rows - first);
                // Rows beyond the last are the last once more, and what they give is left.
                let of_w = |o: usize| &w[o.min(outputs - 1) * dim..][..dim];
                let of_x = |r: usize| &x[(first + r.min(count - 1)) * dim..][..dim];
                let sums = block(
                    simd,
                    [of_w(0), of_w(1), of_w(2), of_w(3)],
                    [of_x(0), of_x(1), of_x(2), of_x(3)],
                );
                for (sums, column) in sums.iter().zip(columns.chunks_exact_mut(rows)) {
                    column[first..first + count].copy_from_slice(&sums[..count]);
                }
            }
        }
    }
}

/// Products of four rows with four.
#[inline(always)]
fn block<S: Simd>(simd: S, w: [&[f32]; BLOCK], x: [&[f32]; BLOCK]) -> [[f32; BLOCK]; BLOCK] {
    let (w0, rest0) = S::as_simd_f32s(w[0]);
    let (w1, rest1) = S::as_simd_f32s(w[1]);
    let (w2, rest2) = S::as_simd_f32s(w[2]);
    let (w3, rest3) = S::as_simd_f32s(w[3]);
    let (x0, _) = S::as_simd_f32s(x[0]);
    let (x1, _) = S::as_simd_f32s(x[1]);
    let (x2, _) = S::as_simd_f32s(x[2]);
    let (x3, _) = S::as_simd_f32s(x[3]);
    let mut sums = [[simd.splat_f32s(0.0); BLOCK]; BLOCK];
    let of_x = x0.iter().zip(x1).zip(x2.iter().zip(x3));
    let of_w = w0.iter().zip(w1).zip(w2.iter().zip(w3));

    for (((w0, w1), (w2, w3)), ((x0, x1), (x2, x3))) in of_w.zip(of_x) {
        let w = [*w0, *w1, *w2, *w3];
        let x = [*x0, *x1, *x2, *x3];
        for (w, sums) in w.iter().zip(&mut sums) {
            for (x, sum) in x.iter().zip(sums) {
                *sum = simd.mul_add_f32s(*w, *x, *sum);
            }
        }
    }

    let mut found = [[0.0; BLOCK]; BLOCK];
    for ((rest, sums), found) in [rest0, rest1, rest2, rest3]
        .iter()
        .zip(sums)
        .zip(&mut found)
    {
        for ((x, sum), found) in x.iter().zip(sums).zip(found) {
            *found = simd.reduce_sum_f32s(sum);
            for (w, x) in rest.iter().zip(&x[x.len() - rest.len()..]) {
                *found += w * x;
            }
        }
    }

    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::seed::Key;

    fn numbers(key: Key, count: usize) -> Vec<f32> {
        (0..count as u64)
            .map(|i| key.uniform(i) as f32 - 0.5)
            .collect()
    }

    #[test]
    fn every_number_is_the_sum_of_its_products() {
        for (rows, dim, outputs) in [
            (1, 1, 1),
            (3, 7, 5),
            (4, 16, 64),
            (5, 33, 130),
            (32, 40, 67),
        ] {
            let x = numbers(Key::new(1, "x"), rows * dim);
            let w = numbers(Key::new(2, "w"), outputs * dim);
            let found = product_few(&x, rows, dim, &w);
            for (row, found) in found.chunks_exact(outputs).enumerate() {
                for (output, found) in found.iter().enumerate() {
                    let pairs = x[row * dim..][..dim].iter().zip(&w[output * dim..][..dim]);
                    let exact: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let error = (f64::from(*found) - exact).abs();
                    assert!(error < 1e-5, "{rows} {dim} {outputs}: {error}");
                }
            }
        }
        assert!(product_few(&[], 0, 4, &[1.0; 8]).is_empty());
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let dim = 37;
        let outputs = 70;
        let x = numbers(Key::new(1, "x"), 9 * dim);
        let w = numbers(Key::new(2, "w"), outputs * dim);
        let together = product_few(&x, 9, dim, &w);
        for (x, together) in x.chunks_exact(dim).zip(together.chunks_exact(outputs)) {
            assert_eq!(product_few(x, 1, dim, &w), together);
        }
    }
}
