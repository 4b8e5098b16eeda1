//! Matrix products on slices: candle's own GEMM, with accumulation into a buffer that exists.

use gemm::Parallelism;

use crate::ops::cpu::Real;

/// A matrix over a slice: number of rows and columns, and the distance between neighbours in each
/// direction.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    values: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `[rows, cols]`, row-major, without gaps.
    pub fn new(values: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// `[rows, cols]`, row-major, rows `row_stride` apart: a range of columns of a wider matrix.
    pub fn strided(values: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride || rows <= 1, "rows overlap");
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= values.len(),
            "the matrix leaves its slice"
        );
        Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// `[rows, cols]` whose rows begin `row_stride` apart and may share values: the windows of a
    /// convolution over time. Only to be read.
    pub fn windows(values: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= values.len(),
            "the windows leave their slice"
        );
        Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Treatment of the values that the destination holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Replaces it.
    Fresh,
    /// Adds to it.
    Accumulate,
}

/// Whether a product may use all cores, or is one of many that run side by side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// All cores.
    All,
    /// The calling one.
    One,
}

/// `out = scale * lhs rhs`, or `out += ...`; `out` is `[lhs.rows, rhs.cols]` with rows `out_stride`
/// apart.
pub fn product<T: Real>(
    out: &mut [T],
    out_stride: usize,
    lhs: Matrix<T>,
    rhs: Matrix<T>,
    scale: f64,
    into: Into,
    threads: Threads,
) {
    let rows = lhs.rows;
    let cols = rhs.cols;
    assert!(
        rows == 0 || cols == 0 || (rows - 1) * out_stride + cols <= out.len(),
        "the product leaves its destination"
    );
    assert!(
        cols <= out_stride || rows <= 1,
        "rows of the destination overlap"
    );
    // SAFETY: the destination was just checked, and is exclusively ours.
    unsafe { product_at(out.as_mut_ptr(), out_stride, lhs, rhs, scale, into, threads) }
}

/// `scale * lhs rhs` in a vector of its own, `[lhs.rows, rhs.cols]`, which is written once and
/// never made of zeros first.
pub fn product_new<T: Real>(
    lhs: Matrix<T>,
    rhs: Matrix<T>,
    scale: f64,
    threads: Threads,
) -> Vec<T> {
    let len = lhs.rows * rhs.cols;
    let cols = rhs.cols;
    if lhs.cols == 0 {
        return vec![T::zero(); len];
    }
    let mut out = Vec::with_capacity(len);
    // SAFETY: there is room for all rows without gaps; a product that replaces reads none of it and
    // writes all of it, as the inner dimension is not zero.
    unsafe {
        product_at(
            out.as_mut_ptr(),
            cols,
            lhs,
            rhs,
            scale,
            Into::Fresh,
            threads,
        );
        out.set_len(len);
    }
    out
}

/// As [`product`], into a place that several tasks write to, each its own rows and columns.
///
/// # Safety
/// `out` must be valid for `[lhs.rows, rhs.cols]` values with rows `out_stride` apart, and nobody
/// else may touch these meanwhile.
pub unsafe fn product_at<T: Real>(
    out: *mut T,
    out_stride: usize,
    lhs: Matrix<T>,
    rhs: Matrix<T>,
    scale: f64,
    into: Into,
    threads: Threads,
) {
    assert_eq!(lhs.cols, rhs.rows, "the inner dimensions differ");
    let rows = lhs.rows;
    let inner = lhs.cols;
    let cols = rhs.cols;
    if rows == 0 || cols == 0 {
        return;
    }

    let parallelism = match threads {
        Threads::All if rows * cols * inner > 32 * 32 * 32 => {
            Parallelism::Rayon(rayon::current_num_threads())
        }
        _ => Parallelism::None,
    };

    let beta = T::of(scale);
    let accumulate = into == Into::Accumulate;
    let alpha = if accumulate { T::one() } else { T::zero() };

    // SAFETY: `Matrix` was checked against its slice when it was made; `out` is the caller's
    // promise.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            out,
            1,
            out_stride as isize,
            accumulate,
            lhs.values.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            alpha,
            beta,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_product_is_the_product() {
        let numbers: Vec<f64> = (0..12).map(|i| (i as f64).sin()).collect();
        for (m, k, n) in [(3, 4, 2), (2, 0, 3), (0, 4, 3), (3, 4, 0), (1, 1, 1)] {
            let a = Matrix::new(&numbers[..m * k], m, k);
            let b = Matrix::new(&numbers[..k * n], k, n);
            let mut out = vec![f64::NAN; m * n];
            product(&mut out, n, a, b, 0.5, Into::Fresh, Threads::All);
            if k == 0 {
                out.fill(0.0);
            }
            assert_eq!(product_new(a, b, 0.5, Threads::All), out);
        }
    }

    #[test]
    fn a_product_equals_the_sum_of_products_in_every_form() {
        let m = 5;
        let k = 7;
        let n = 3;
        let wide = 11;
        let a: Vec<f64> = (0..m * k).map(|i| (i as f64).sin()).collect();
        let b: Vec<f64> = (0..n * wide).map(|i| (i as f64 * 0.7).cos()).collect();
        for into in [Into::Fresh, Into::Accumulate] {
            let mut out = vec![1.0; m * wide];
            product(
                &mut out[2..],
                wide,
                Matrix::new(&a, m, k),
                Matrix::strided(&b[1..], n, k, wide).t(),
                0.5,
                into,
                Threads::All,
            );
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|x| a[i * k + x] * b[1 + j * wide + x]).sum();
                    let base = if into == Into::Accumulate { 1.0 } else { 0.0 };
                    assert!((out[2 + i * wide + j] - (base + 0.5 * sum)).abs() < 1e-12);
                }
                assert_eq!(out[2 + i * wide + n], 1.0, "the neighbour is untouched");
            }
        }
    }
}
