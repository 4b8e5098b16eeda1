//! Root-mean-square norm and layer norm over the last dimension, forward and backward.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::for_rows;
use crate::ops::cpu::for_rows2;
use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;

/// `x / rms(x) * weight` (Zhang and Sennrich 2019, equation 4).
///
/// # Shapes
/// `x`: `[tokens, dim]`, `weight`: `[dim]` -> `[tokens, dim]` and the inverse root mean squares `[tokens]`
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let (xs, w) = (slice::<T>(x)?, slice::<T>(weight)?);
        let (xs, w): (&[T], &[T]) = (&xs, &w);
        let mut y = vec![T::of(0.0); tokens * dim];
        let mut inverse = vec![T::of(0.0); tokens];
        for_rows2(&mut y, dim, &mut inverse, 1, |row, y, inverse| {
            let x = &xs[row * dim..][..dim];
            let mean = sum_over(dim, |i| x[i] * x[i]) / T::of(dim as f64);
            inverse[0] = T::of(1.0) / (mean + T::of(eps)).sqrt();
            for i in 0..dim {
                y[i] = x[i] * inverse[0] * w[i];
            }
        });
        Ok((tensor(y, (tokens, dim))?, tensor(inverse, tokens)?))
    })
}

/// The output of [`rms_norm`] once more, from its saved statistics.
pub fn rms_norm_again(x: &Tensor, weight: &Tensor, inverse: &Tensor) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let (xs, w, r) = (slice::<T>(x)?, slice::<T>(weight)?, slice::<T>(inverse)?);
        let (xs, w, r): (&[T], &[T], &[T]) = (&xs, &w, &r);
        let mut y = vec![T::of(0.0); tokens * dim];
        for_rows(&mut y, dim, |row, y| {
            let x = &xs[row * dim..][..dim];
            for i in 0..dim {
                y[i] = x[i] * r[row] * w[i];
            }
        });
        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`rms_norm`]'s input, with `residual` (the gradient that reaches the input past the norm) added; adds the
/// weight's gradient to `d_weight` where there is one.
///
/// With r = 1 / rms and g = weight * dy: dx = r g - x r^3 mean(g x); dw = sum over tokens of dy x r.
///
/// # Shapes
/// `dy`, `x`, `residual`: `[tokens, dim]`; `inverse`: `[tokens]`; `weight`, `d_weight`: `[dim]`
pub fn rms_norm_backward(dy: &Tensor, x: &Tensor, weight: &Tensor, inverse: &Tensor, residual: Option<&Tensor>, d_weight: Option<&Tensor>) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let (dys, xs, w, r) = (slice::<T>(dy)?, slice::<T>(x)?, slice::<T>(weight)?, slice::<T>(inverse)?);
        let (dys, xs, w, r): (&[T], &[T], &[T], &[T]) = (&dys, &xs, &w, &r);
        let past = residual.map(slice::<T>).transpose()?;
        let past: Option<&[T]> = past.as_deref();
        let mut dx = vec![T::of(0.0); tokens * dim];
        for_rows(&mut dx, dim, |row, dx| {
            let (dy, x, r) = (&dys[row * dim..][..dim], &xs[row * dim..][..dim], r[row]);
            let along = sum_over(dim, |i| dy[i] * w[i] * x[i]) * r * r * r / T::of(dim as f64);
            for i in 0..dim {
                dx[i] = dy[i] * w[i] * r - x[i] * along;
            }
            add_row(dx, past, row);
        });
        if let Some(d_weight) = d_weight {
            write::<T>(d_weight, |dw| column_sums(dw, tokens, |row, i| dys[row * dim + i] * xs[row * dim + i] * r[row]))?;
        }
        tensor(dx, (tokens, dim))
    })
}

/// Statistics of a layer norm that its backward needs: the mean and the inverse standard deviation of each token, `[tokens]`.
#[derive(Clone, Debug)]
pub struct LayerNormStatistics {
    mean: Tensor,
    inverse: Tensor,
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` (Ba et al. 2016), the variance without Bessel's correction.
///
/// # Shapes
/// `x`: `[tokens, dim]`; `weight`, `bias`: `[dim]` -> `[tokens, dim]`
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(Tensor, LayerNormStatistics)> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let xs = slice::<T>(x)?;
        let xs: &[T] = &xs;
        let mut mean = vec![T::of(0.0); tokens];
        let mut inverse = vec![T::of(0.0); tokens];
        mean.par_iter_mut().zip(&mut inverse).enumerate().for_each(|(row, (mean, inverse))| {
            let x = &xs[row * dim..][..dim];
            let n = T::of(dim as f64);
            *mean = sum_over(dim, |i| x[i]) / n;
            let centre = *mean;
            let variance = sum_over(dim, |i| (x[i] - centre) * (x[i] - centre)) / n;
            *inverse = T::of(1.0) / (variance + T::of(eps)).sqrt();
        });
        let statistics = LayerNormStatistics { mean: tensor(mean, tokens)?, inverse: tensor(inverse, tokens)? };
        Ok((layer_norm_again(x, weight, bias, &statistics)?, statistics))
    })
}

/// The output of [`layer_norm`] once more, from its saved statistics.
pub fn layer_norm_again(x: &Tensor, weight: &Tensor, bias: &Tensor, statistics: &LayerNormStatistics) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let (xs, w, b) = (slice::<T>(x)?, slice::<T>(weight)?, slice::<T>(bias)?);
        let (mean, r) = (slice::<T>(&statistics.mean)?, slice::<T>(&statistics.inverse)?);
        let (xs, w, b, mean, r): (&[T], &[T], &[T], &[T], &[T]) = (&xs, &w, &b, &mean, &r);
        let mut y = vec![T::of(0.0); tokens * dim];
        for_rows(&mut y, dim, |row, y| {
            let x = &xs[row * dim..][..dim];
            for i in 0..dim {
                y[i] = (x[i] - mean[row]) * r[row] * w[i] + b[i];
            }
        });
        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`layer_norm`]'s input, with `residual` added; adds to the gradients of weight and bias where there are any.
///
/// With h = (x - mean) r and g = weight * dy: dx = r (g - mean(g) - h mean(g h)).
pub fn layer_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    statistics: &LayerNormStatistics,
    residual: Option<&Tensor>,
    gradients: Option<(&Tensor, &Tensor)>,
) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    with_real!(x, T => {
        let (dys, xs, w) = (slice::<T>(dy)?, slice::<T>(x)?, slice::<T>(weight)?);
        let (mean, r) = (slice::<T>(&statistics.mean)?, slice::<T>(&statistics.inverse)?);
        let (dys, xs, w, mean, r): (&[T], &[T], &[T], &[T], &[T]) = (&dys, &xs, &w, &mean, &r);
        let past = residual.map(slice::<T>).transpose()?;
        let past: Option<&[T]> = past.as_deref();
        let mut dx = vec![T::of(0.0); tokens * dim];
        for_rows(&mut dx, dim, |row, dx| {
            let (dy, x, mean, r) = (&dys[row * dim..][..dim], &xs[row * dim..][..dim], mean[row], r[row]);
            let n = T::of(dim as f64);
            let level = sum_over(dim, |i| dy[i] * w[i]) / n;
            let along = sum_over(dim, |i| dy[i] * w[i] * (x[i] - mean)) * r / n;
            for i in 0..dim {
                dx[i] = r * (dy[i] * w[i] - level - (x[i] - mean) * r * along);
            }
            add_row(dx, past, row);
        });
        if let Some((d_weight, d_bias)) = gradients {
            write::<T>(d_weight, |dw| column_sums(dw, tokens, |row, i| dys[row * dim + i] * (xs[row * dim + i] - mean[row]) * r[row]))?;
            write::<T>(d_bias, |db| column_sums(db, tokens, |row, i| dys[row * dim + i]))?;
        }
        tensor(dx, (tokens, dim))
    })
}

#[inline(always)]
fn add_row<T: Real>(dx: &mut [T], past: Option<&[T]>, row: usize) {
    if let Some(past) = past {
        let width = dx.len();
        for (dx, &p) in dx.iter_mut().zip(&past[row * width..][..width]) {
            *dx += p;
        }
    }
}

/// Adds to `out[i]` the sum over tokens of `term(token, i)`, token by token.
pub fn column_sums<T: Real>(out: &mut [T], tokens: usize, term: impl Fn(usize, usize) -> T + Sync) {
    const COLUMNS: usize = 256;
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, out)| {
        for token in 0..tokens {
            for (i, sum) in out.iter_mut().enumerate() {
                *sum += term(token, chunk * COLUMNS + i);
            }
        }
    });
}
