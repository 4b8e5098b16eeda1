//! Products of a few rows with a large frozen matrix, as generation takes them: the matrix is read
//! once and never copied.
//!
//! General products first copy the matrix into blocks, which for a few rows takes longer than the
//! product. Every number is summed in one order whatever it is computed with, so a row's result
//! does not depend on its neighbours.
//!
//! Reading the matrix takes most of the time. Published checkpoints are in bf16, so [`HalfMatrix`]
//! holds the same values in half the bytes. Its products equal those of the matrix in `f32` to the
//! bit.

use pulp::Simd;
use pulp::WithSimd;
use rayon::prelude::*;

/// Most rows that are taken this way; more of them are worth a copy.
pub const MOST: usize = 32;

/// Rows of the matrix that are multiplied together.
const BLOCK: usize = 4;

/// Rows of the matrix that a thread takes at a time.
const CHUNK: usize = 64;

/// `x w^T`.
///
/// # Shapes
/// `x`: `[rows, dim]`, `w`: `[outputs, dim]` -> `[rows, outputs]`
pub fn product_few(x: &[f32], rows: usize, dim: usize, w: &[f32]) -> Vec<f32> {
    product(x, rows, dim, w, dim)
}

/// `x w^T`, where a row of the matrix has `width` elements.
fn product<T: Stored>(x: &[f32], rows: usize, dim: usize, w: &[T], width: usize) -> Vec<f32> {
    let outputs = w.len().checked_div(width).unwrap_or(0);
    let mut out = vec![0.0; outputs * rows];
    if out.is_empty() {
        return out;
    }
    let arch = pulp::Arch::new();
    // One column of the result after the other, so that threads write apart.
    let mut columns = vec![0.0; outputs * rows];
    columns
        .par_chunks_mut(CHUNK * rows)
        .zip(w.par_chunks(CHUNK * width))
        .for_each(|(columns, w)| {
            arch.dispatch(Chunk {
                x,
                dim,
                w,
                width,
                columns,
            });
        });
    for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
        for (out, column) in out.iter_mut().zip(columns.chunks_exact(rows)) {
            *out = column[row];
        }
    }
    out
}

/// A matrix whose values are exact in bf16, two values to a word.
///
/// The low half of word `lanes * i + j` of a row is value `2 * lanes * i + j`, and its high half
/// the value `lanes` further. One register of words thus holds two registers of `f32`, and each is
/// a shift or a mask away.
#[derive(Debug)]
pub struct HalfMatrix {
    words: Vec<u32>,
    dim: usize,
}

/// Bits of a word that hold its second value.
const HIGH: u32 = 0xffff_0000;

impl HalfMatrix {
    /// The matrix of a frozen weight; `None` if a value is not exact in bf16, or if a row does not
    /// fill its registers.
    ///
    /// # Shapes
    /// `w`: `[outputs, dim]`
    pub fn new(w: &[f32], dim: usize) -> Option<Self> {
        let lanes = pulp::Arch::new().dispatch(Lanes);
        if dim == 0 || !dim.is_multiple_of(2 * lanes) {
            return None;
        }
        let is_exact = w
            .par_chunks(CHUNK * dim)
            .all(|values| values.iter().all(|value| value.to_bits() & !HIGH == 0));
        if !is_exact {
            return None;
        }

        let mut words = vec![0; w.len() / 2];
        words
            .par_chunks_mut(CHUNK * dim / 2)
            .zip(w.par_chunks(CHUNK * dim))
            .for_each(|(words, values)| {
                let pairs = values.chunks_exact(2 * lanes);
                for (words, values) in words.chunks_exact_mut(lanes).zip(pairs) {
                    let (low, high) = values.split_at(lanes);
                    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                        *word = low.to_bits() >> 16 | high.to_bits() & HIGH;
                    }
                }
            });
        Some(Self { words, dim })
    }

    /// `x w^T`, equal to [`product_few`] to the bit.
    ///
    /// # Shapes
    /// `x`: `[rows, dim]` -> `[rows, outputs]`
    pub fn product_few(&self, x: &[f32], rows: usize) -> Vec<f32> {
        product(x, rows, self.dim, &self.words, self.dim / 2)
    }
}

/// Number of `f32` in a register of the processor that the program runs on.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// A form in which the values of the matrix are stored.
trait Stored: Sized + Sync {
    /// Products of four rows of the matrix with some of the input.
    fn block<S: Simd, const ROWS: usize>(
        simd: S,
        w: [&[Self]; BLOCK],
        x: [&[f32]; ROWS],
    ) -> [[f32; ROWS]; BLOCK];
}

/// Some rows of the matrix, `width` elements each, with all rows of the input; `columns`:
/// `[rows of w, rows of x]`.
struct Chunk<'a, T> {
    x: &'a [f32],
    dim: usize,
    w: &'a [T],
    width: usize,
    columns: &'a mut [f32],
}

impl<T: Stored> WithSimd for Chunk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.x.len() / self.dim;
        let mut first = 0;
        // Sixteen sums and their factors fit 32 registers, eight fit 16.
        if S::REGISTER_COUNT >= 32 {
            while rows - first >= 4 {
                self.multiply::<S, 4>(simd, first);
                first += 4;
            }
        }
        while rows - first >= 2 {
            self.multiply::<S, 2>(simd, first);
            first += 2;
        }
        if first < rows {
            self.multiply::<S, 1>(simd, first);
        }
    }
}

impl<T: Stored> Chunk<'_, T> {
    /// Products of all rows of the matrix with `ROWS` of the input from `first` on.
    #[inline(always)]
    fn multiply<S: Simd, const ROWS: usize>(&mut self, simd: S, first: usize) {
        let rows = self.x.len() / self.dim;
        let mut x: [&[f32]; ROWS] = [&[]; ROWS];
        for (i, x) in x.iter_mut().enumerate() {
            *x = &self.x[(first + i) * self.dim..][..self.dim];
        }
        let blocks = self.w.chunks(BLOCK * self.width);
        for (w, columns) in blocks.zip(self.columns.chunks_mut(BLOCK * rows)) {
            let outputs = w.len() / self.width;
            // Rows beyond the last are the last once more, and what they give is left.
            let mut of_w: [&[T]; BLOCK] = [&[]; BLOCK];
            for (output, of_w) in of_w.iter_mut().enumerate() {
                *of_w = &w[output.min(outputs - 1) * self.width..][..self.width];
            }
            let sums = T::block(simd, of_w, x);
            for (sums, column) in sums.iter().zip(columns.chunks_exact_mut(rows)) {
                column[first..first + ROWS].copy_from_slice(sums);
            }
        }
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn block<S: Simd, const ROWS: usize>(
        simd: S,
        w: [&[f32]; BLOCK],
        x: [&[f32]; ROWS],
    ) -> [[f32; ROWS]; BLOCK] {
        let (of_w, rest) = registers_of::<S, BLOCK>(w);
        let (of_x, _) = registers_of::<S, ROWS>(x);
        let mut sums = [[simd.splat_f32s(0.0); ROWS]; BLOCK];

        for i in 0..of_w[0].len() {
            let mut w = [simd.splat_f32s(0.0); BLOCK];
            for (w, of_w) in w.iter_mut().zip(of_w) {
                *w = of_w[i];
            }
            multiply_add(simd, w, &of_x, i, &mut sums);
        }

        let mut found = reduced(simd, sums);
        for (rest, found) in rest.iter().zip(&mut found) {
            for (x, found) in x.iter().zip(found) {
                for (w, x) in rest.iter().zip(&x[x.len() - rest.len()..]) {
                    *found += w * x;
                }
            }
        }

        found
    }
}

/// Two values of bf16, as in [`HalfMatrix`].
impl Stored for u32 {
    #[inline(always)]
    fn block<S: Simd, const ROWS: usize>(
        simd: S,
        w: [&[u32]; BLOCK],
        x: [&[f32]; ROWS],
    ) -> [[f32; ROWS]; BLOCK] {
        let mut of_w: [&[S::u32s]; BLOCK] = [&[]; BLOCK];
        for (of_w, w) in of_w.iter_mut().zip(w) {
            *of_w = S::as_simd_u32s(w).0;
        }
        let (of_x, _) = registers_of::<S, ROWS>(x);
        let shift = simd.splat_u32s(16);
        let high = simd.splat_u32s(HIGH);
        let mut sums = [[simd.splat_f32s(0.0); ROWS]; BLOCK];

        for i in 0..of_w[0].len() {
            let mut even = [simd.splat_f32s(0.0); BLOCK];
            let mut odd = [simd.splat_f32s(0.0); BLOCK];
            for ((even, odd), of_w) in even.iter_mut().zip(&mut odd).zip(of_w) {
                let words = of_w[i];
                *even = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(words, shift));
                *odd = simd.transmute_f32s_u32s(simd.and_u32s(words, high));
            }
            multiply_add(simd, even, &of_x, 2 * i, &mut sums);
            multiply_add(simd, odd, &of_x, 2 * i + 1, &mut sums);
        }

        reduced(simd, sums)
    }
}

/// Whole registers of each row, and the values behind the last of them.
#[inline(always)]
fn registers_of<S: Simd, const N: usize>(rows: [&[f32]; N]) -> ([&[S::f32s]; N], [&[f32]; N]) {
    let mut registers: [&[S::f32s]; N] = [&[]; N];
    let mut rests: [&[f32]; N] = [&[]; N];
    for ((registers, rest), row) in registers.iter_mut().zip(&mut rests).zip(rows) {
        (*registers, *rest) = S::as_simd_f32s(row);
    }
    (registers, rests)
}

/// `sums[a][b] += w[a] * x[b][i]`, lane by lane.
#[inline(always)]
fn multiply_add<S: Simd, const ROWS: usize>(
    simd: S,
    w: [S::f32s; BLOCK],
    x: &[&[S::f32s]; ROWS],
    i: usize,
    sums: &mut [[S::f32s; ROWS]; BLOCK],
) {
    for (row, x) in x.iter().enumerate() {
        let x = x[i];
        for (w, sums) in w.iter().zip(sums.iter_mut()) {
            sums[row] = simd.mul_add_f32s(*w, x, sums[row]);
        }
    }
}

/// Sums over the lanes.
#[inline(always)]
fn reduced<S: Simd, const ROWS: usize>(
    simd: S,
    sums: [[S::f32s; ROWS]; BLOCK],
) -> [[f32; ROWS]; BLOCK] {
    let mut found = [[0.0; ROWS]; BLOCK];
    for (sums, found) in sums.iter().zip(&mut found) {
        for (sum, found) in sums.iter().zip(found) {
            *found = simd.reduce_sum_f32s(*sum);
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

    #[test]
    fn bf16_gives_the_bits_of_f32() {
        for (rows, dim, outputs) in [(1, 32, 1), (3, 64, 5), (4, 96, 130), (17, 896, 67)] {
            let x = numbers(Key::new(1, "x"), rows * dim);
            let w: Vec<f32> = numbers(Key::new(2, "w"), outputs * dim)
                .iter()
                .map(|w| f32::from_bits(w.to_bits() & HIGH))
                .collect();
            let half = HalfMatrix::new(&w, dim).unwrap();
            assert_eq!(half.product_few(&x, rows), product_few(&x, rows, dim, &w));
        }
    }

    #[test]
    fn values_that_bf16_would_change_stay_in_f32() {
        let mut w = vec![0.5; 64 * 32];
        assert!(HalfMatrix::new(&w, 32).is_some());
        w[1000] = 0.1;
        assert!(HalfMatrix::new(&w, 32).is_none());
        assert!(HalfMatrix::new(&[0.5; 66], 33).is_none());
    }
}
