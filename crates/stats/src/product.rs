//! Matrix products of plain arrays, in `f32`, on all cores.

use gemm::Parallelism;

/// `a b'` of `a: [rows, inner]` and `b: [cols, inner]`, both row-major without gaps,
/// `[rows, cols]`.
///
/// # Panics
/// If a matrix is shorter than its sizes require.
pub(super) fn rows_with_rows(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let rows = a.len() / inner;
    let cols = b.len() / inner;
    let mut out = vec![0.0f32; rows * cols];
    multiply(&mut out, (rows, inner, cols), (a, inner, 1), (b, 1, inner));
    out
}

/// `a' a` of `a: [rows, width]`, `[width, width]`.
pub(super) fn gram(a: &[f32], width: usize) -> Vec<f32> {
    let rows = a.len() / width;
    let mut out = vec![0.0f32; width * width];
    multiply(&mut out, (width, rows, width), (a, 1, width), (a, width, 1));
    out
}

/// `out = lhs rhs`, each given with the distances between rows and between columns.
fn multiply(
    out: &mut [f32],
    (rows, inner, cols): (usize, usize, usize),
    (lhs, lhs_rows, lhs_cols): (&[f32], usize, usize),
    (rhs, rhs_rows, rhs_cols): (&[f32], usize, usize),
) {
    let end = |n: usize, m: usize, by_row: usize, by_col: usize| {
        (n.max(1) - 1) * by_row + (m.max(1) - 1) * by_col
    };
    if rows == 0 || cols == 0 || inner == 0 {
        return;
    }
    assert!(
        end(rows, inner, lhs_rows, lhs_cols) < lhs.len()
            && end(inner, cols, rhs_rows, rhs_cols) < rhs.len()
            && out.len() == rows * cols,
        "the product leaves its slices"
    );
    // SAFETY: the sizes were just checked, and no one else refers to the destination.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            out.as_mut_ptr(),
            1,
            cols as isize,
            false,
            lhs.as_ptr(),
            lhs_cols as isize,
            lhs_rows as isize,
            rhs.as_ptr(),
            rhs_cols as isize,
            rhs_rows as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_by_hand() {
        let a = [1.0, 2.0, 3.0, 4.0];
        let b = [5.0, 6.0, 7.0, 8.0, 9.0, 1.0];
        assert_eq!(
            rows_with_rows(&a, &b, 2),
            [17.0, 23.0, 11.0, 39.0, 53.0, 31.0]
        );
        assert_eq!(gram(&a, 2), [10.0, 14.0, 14.0, 20.0]);
        assert_eq!(gram(&[], 2), [0.0; 4]);
    }
}
