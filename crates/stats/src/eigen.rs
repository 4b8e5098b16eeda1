//! Eigenvalues and eigenvectors of a symmetric matrix.
//!
//! Householder reflections make it tridiagonal, then rotations make that diagonal: the implicit
//! symmetric QR iteration with Wilkinson's shift. Source: Golub and Van Loan, *Matrix
//! Computations*, 4th edition, section 8.3. Every operation is one of IEEE 754, in an order that
//! does not depend on the machine.

/// Most passes for each eigenvalue; two or three are usual.
const MAX_PASSES: usize = 60;

/// Eigenvalues with their vectors.
pub struct Eigen {
    /// Rising.
    pub values: Vec<f64>,
    /// `[n, n]`: a row is the vector of the value at its place, of length one.
    pub vectors: Vec<f64>,
}

/// Decomposes a symmetric matrix, `[n, n]`.
pub fn symmetric(mut matrix: Vec<f64>, n: usize) -> Eigen {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    (0..n.saturating_sub(2)).for_each(|column| reflect(&mut matrix, &mut vectors, n, column));
    let mut diagonal: Vec<f64> = (0..n).map(|i| matrix[i * n + i]).collect();
    let mut beside: Vec<f64> = (1..n).map(|i| matrix[i * n + i - 1]).collect();
    diagonalise(&mut diagonal, &mut beside, &mut vectors);

    let mut places: Vec<usize> = (0..n).collect();
    places.sort_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]));
    let values = places.iter().map(|&place| diagonal[place]).collect();
    Eigen {
        values,
        vectors: places
            .iter()
            .flat_map(|&place| &vectors[place * n..(place + 1) * n])
            .copied()
            .collect(),
    }
}

/// Reflects the rows and columns after `column` so that it holds zeros below the place under its
/// diagonal.
fn reflect(matrix: &mut [f64], vectors: &mut [f64], n: usize, column: usize) {
    // H = I - 2 v v', with v of length one and zero up to `column`.
    let mut v: Vec<f64> = (column..n)
        .map(|i| {
            if i == column {
                0.0
            } else {
                matrix[i * n + column]
            }
        })
        .collect();
    let length = norm(&v);
    if length == 0.0 {
        return;
    }
    v[1] += length.copysign(v[1]);
    let scale = norm(&v);
    v.iter_mut().for_each(|x| *x /= scale);

    // H A H = A - 2 v w' - 2 w v', with w = A v - (v' A v) v.
    let mut w: Vec<f64> = (column..n)
        .map(|i| dot(&v, &matrix[i * n + column..(i + 1) * n]))
        .collect();
    let inner = dot(&v, &w);
    w.iter_mut().zip(&v).for_each(|(w, v)| *w -= inner * v);
    for (i, (v_i, w_i)) in v.iter().zip(&w).enumerate() {
        let row = &mut matrix[(column + i) * n + column..(column + i + 1) * n];
        row.iter_mut()
            .zip(v.iter().zip(&w))
            .for_each(|(a, (v, w))| *a -= 2.0 * (v_i * w + w_i * v));
    }
    let mut along = vec![0.0; n];
    for (v, row) in v.iter().zip(vectors[column * n..].chunks(n)) {
        along.iter_mut().zip(row).for_each(|(sum, x)| *sum += v * x);
    }
    for (v, row) in v.iter().zip(vectors[column * n..].chunks_mut(n)) {
        row.iter_mut()
            .zip(&along)
            .for_each(|(x, along)| *x -= 2.0 * v * along);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

/// Rotates a tridiagonal matrix until its off-diagonal is zero, from the last eigenvalue to the
/// first.
fn diagonalise(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64]) {
    let is_zero = |diagonal: &[f64], beside: &[f64], i: usize| {
        beside[i].abs() <= f64::EPSILON * (diagonal[i].abs() + diagonal[i + 1].abs())
    };
    let mut last = diagonal.len().saturating_sub(1);
    let mut passes = 0;
    while last > 0 {
        if is_zero(diagonal, beside, last - 1) || passes == MAX_PASSES {
            (last, passes) = (last - 1, 0);
            continue;
        }
        let first = (0..last)
            .rev()
            .find(|&i| is_zero(diagonal, beside, i))
            .map_or(0, |i| i + 1);
        pass(diagonal, beside, vectors, first, last);
        passes += 1;
    }
}

/// One pass of rotations over the block `first..=last`. The first rotation makes a bulge beside the
/// three diagonals, and the others move it out at the end.
fn pass(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64], first: usize, last: usize) {
    let n = diagonal.len();
    let mut x = diagonal[first] - shift(diagonal[last - 1], beside[last - 1], diagonal[last]);
    let mut bulge = beside[first];
    for i in first..last {
        // The rotation that turns (x, bulge) into (length, 0).
        let length = norm(&[x, bulge]);
        let (c, s) = if length == 0.0 {
            (1.0, 0.0)
        } else {
            (x / length, bulge / length)
        };
        if i > first {
            beside[i - 1] = length;
        }
        let a = diagonal[i];
        let b = beside[i];
        let d = diagonal[i + 1];
        diagonal[i] = c * c * a + 2.0 * c * s * b + s * s * d;
        diagonal[i + 1] = s * s * a - 2.0 * c * s * b + c * c * d;
        beside[i] = c * s * (d - a) + (c * c - s * s) * b;
        x = beside[i];
        if i + 1 < last {
            bulge = s * beside[i + 1];
            beside[i + 1] *= c;
        }
        let (before, after) = vectors.split_at_mut((i + 1) * n);
        for (up, down) in before[i * n..].iter_mut().zip(&mut after[..n]) {
            (*up, *down) = (c * *up + s * *down, c * *down - s * *up);
        }
    }
}

/// The eigenvalue of `[a b; b d]` that is closer to `d`.
fn shift(a: f64, b: f64, d: f64) -> f64 {
    let half = (a - d) / 2.0;
    let distance = half.abs() + (half * half + b * b).sqrt();
    if distance == 0.0 {
        d
    } else {
        d - (b / distance).copysign(half) * b.copysign(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_matrices() {
        let eigen = symmetric(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((eigen.values[0] - 1.0).abs() < 1e-15 && (eigen.values[1] - 3.0).abs() < 1e-15);
        // The second difference of n points has eigenvalues 2 - 2 cos(pi k / (n + 1)).
        let n = 40;
        let second = |i: usize, j: usize| {
            if i == j {
                2.0
            } else if i.abs_diff(j) == 1 {
                -1.0
            } else {
                0.0
            }
        };
        let eigen = symmetric((0..n * n).map(|at| second(at / n, at % n)).collect(), n);
        for (k, value) in eigen.values.iter().enumerate() {
            let exact = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64).cos();
            assert!((value - exact).abs() < 1e-13, "{value} {exact}");
        }
        assert_eq!(symmetric(vec![7.0], 1).values, [7.0]);
        assert!(symmetric(Vec::new(), 0).values.is_empty());
        assert_eq!(
            symmetric(vec![1.0; 9], 3)
                .values
                .iter()
                .map(|value| (value * 1e12).round())
                .collect::<Vec<_>>(),
            [0.0, 0.0, 3e12],
            "of rank one"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn vectors_are_orthonormal_and_solve(n in 1usize..24, seed: u64, rank in 1usize..24) {
            let key = maqam_base::seed::Key::new(seed, "matrix");
            let factor = |i: usize, k: usize| key.uniform((i * 32 + k) as u64) - 0.5;
            // A sum of `rank` products: often singular, with many equal eigenvalues.
            let matrix: Vec<f64> = (0..n * n).map(|at| (0..rank).map(|k| factor(at / n, k) * factor(at % n, k)).sum()).collect();
            let eigen = symmetric(matrix.clone(), n);
            prop_assert!(eigen.values.is_sorted());
            let vector = |i: usize| &eigen.vectors[i * n..(i + 1) * n];
            for i in 0..n {
                for j in 0..n {
                    let inner: f64 = vector(i).iter().zip(vector(j)).map(|(a, b)| a * b).sum();
                    prop_assert!((inner - f64::from(u8::from(i == j))).abs() < 1e-12);
                    let image: f64 = matrix[j * n..(j + 1) * n].iter().zip(vector(i)).map(|(a, b)| a * b).sum();
                    prop_assert!((image - eigen.values[i] * vector(i)[j]).abs() < 1e-12 * n as f64);
                }
            }
        }
    }
}
