//! Root-mean-square norm and layer norm over the last dimension, forward and backward.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::for_rows2;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::tensor;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::layout::Layout;

/// `x / rms(x) * weight` (Zhang and Sennrich 2019, equation 4).
///
/// # Shapes
/// `x`: `[tokens, dim]`, `weight`: `[dim]` -> `[tokens, dim]`, laid out for the layer that reads
/// it, and the inverse root mean squares `[tokens]`
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    reader: impl Into<Layout>,
) -> Result<(Tensor, Tensor)> {
    let (tokens, dim) = x.dims2()?;
    let layout = reader.into();
    expect_shape("the weight of the norm", weight, &[dim])?;

    on_cuda!(
        x.device(),
        crate::ops::cuda::norm::rms_norm(x, weight, eps, layout.padding)
    );

    let _ = layout; // Rows on the CPU have no padding.
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let mut y = vec![T::of(0.0); tokens * dim];
        let mut inverse = vec![T::of(0.0); tokens];
        for_rows2(
            &mut y,
            dim,
            &mut inverse,
            1,
            #[inline(always)]
            |row, y, inverse| {
                let x = &xs[row * dim..][..dim];
                let mean = sum_over(dim, |i| x[i] * x[i]) / T::of(dim as f64);
                let r = T::of(1.0) / (mean + T::of(eps)).sqrt();
                inverse[0] = r;
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                    *y = x * r * w;
                }
            },
        );
        Ok((tensor(y, (tokens, dim))?, tensor(inverse, tokens)?))
    })
}

/// The output of [`rms_norm`] once more, from its saved statistics. The reader of the forward
/// multiplies it in the same way, so that gradients have the same bits.
pub fn rms_norm_again(
    x: &Tensor,
    weight: &Tensor,
    inverse: &Tensor,
    reader: impl Into<Layout>,
) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    let layout = reader.into();
    expect_shape("the weight of the norm", weight, &[dim])?;
    expect_shape("the statistics of the norm", inverse, &[tokens])?;

    on_cuda!(
        x.device(),
        crate::ops::cuda::norm::rms_norm_again(x, weight, inverse, layout.padding)
    );

    let _ = layout; // Rows on the CPU have no padding.
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let r: &[T] = &slice::<T>(inverse)?;

        let y = new_rows(
            tokens,
            dim,
            #[inline(always)]
            |row, y: &mut [T]| {
                let r = r[row];
                for ((y, &x), &w) in y.iter_mut().zip(&xs[row * dim..]).zip(w) {
                    *y = x * r * w;
                }
            },
        );

        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`rms_norm`]'s input, with `residual` (the gradient that reaches the input past the
/// norm) added; adds the weight's gradient to `d_weight` where there is one.
///
/// With r = 1 / rms and g = weight * dy: dx = r g - x r^3 mean(g x); dw = sum over tokens of dy x
/// r.
///
/// # Shapes
/// `dy`, `x`, `residual`: `[tokens, dim]`; `inverse`: `[tokens]`; `weight`, `d_weight`: `[dim]` ->
/// `[tokens, dim]`, laid out for the layer that reads it
pub fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    inverse: &Tensor,
    residual: Option<&Tensor>,
    d_weight: Option<&Tensor>,
    reader: impl Into<Layout>,
) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    let layout = reader.into();
    check_backward(dy, x, weight, residual, d_weight)?;
    expect_shape("the statistics of the norm", inverse, &[tokens])?;

    on_cuda!(
        x.device(),
        crate::ops::cuda::norm::rms_norm_backward(
            dy,
            x,
            weight,
            inverse,
            residual,
            d_weight,
            layout.padding
        )
    );

    let _ = layout; // Rows on the CPU have no padding.
    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let r: &[T] = &slice::<T>(inverse)?;
        let past = residual.map(slice::<T>).transpose()?;
        let past: Option<&[T]> = past.as_deref();

        let dx = new_rows(
            tokens,
            dim,
            #[inline(always)]
            |row, dx: &mut [T]| {
                let dy = &dys[row * dim..][..dim];
                let x = &xs[row * dim..][..dim];
                let w = &w[..dim];
                let r = r[row];
                let along = sum_over(dim, |i| dy[i] * w[i] * x[i]) * r * r * r / T::of(dim as f64);
                for (((dx, &dy), &x), &w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
                    *dx = dy * w * r - x * along;
                }
                add_row(dx, past, row);
            },
        );

        if let Some(d_weight) = d_weight {
            write::<T>(d_weight, |dw| {
                column_sums(
                    dw,
                    tokens,
                    #[inline(always)]
                    |row, columns, dw| {
                        let dy = &dys[row * dim..][columns.clone()];
                        let x = &xs[row * dim..][columns];
                        let r = r[row];
                        for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
                            *dw += dy * x * r;
                        }
                    },
                );
            })?;
        }

        tensor(dx, (tokens, dim))
    })
}

/// Statistics of a layer norm that its backward needs: the mean and the inverse standard deviation
/// of each token, `[tokens]`.
#[derive(Clone, Debug)]
pub struct LayerNormStatistics {
    mean: Tensor,
    inverse: Tensor,
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` (Ba et al. 2016), the variance without
/// Bessel's correction.
///
/// # Shapes
/// `x`: `[tokens, dim]`; `weight`, `bias`: `[dim]` -> `[tokens, dim]`
pub fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, LayerNormStatistics)> {
    let (tokens, dim) = x.dims2()?;

    on_cuda!(x.device(), {
        expect_shape("the weight of the norm", weight, &[dim])?;
        expect_shape("the bias of the norm", bias, &[dim])?;
        let (y, mean, inverse) = crate::ops::cuda::norm::layer_norm(x, weight, bias, eps)?;
        Ok((y, LayerNormStatistics { mean, inverse }))
    });

    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let mut mean = vec![T::of(0.0); tokens];
        let mut inverse = vec![T::of(0.0); tokens];
        mean.par_iter_mut().zip(&mut inverse).enumerate().for_each(|(row, (mean, inverse))| {
            vectorised(
                #[inline(always)]
                || {
                    let x = &xs[row * dim..][..dim];
                    let n = T::of(dim as f64);
                    let centre = sum_over(dim, |i| x[i]) / n;
                    let variance = sum_over(dim, |i| (x[i] - centre) * (x[i] - centre)) / n;
                    *mean = centre;
                    *inverse = T::of(1.0) / (variance + T::of(eps)).sqrt();
                },
            );
        });
        let statistics = LayerNormStatistics { mean: tensor(mean, tokens)?, inverse: tensor(inverse, tokens)? };
        Ok((layer_norm_again(x, weight, bias, &statistics)?, statistics))
    })
}

/// The output of [`layer_norm`] once more, from its saved statistics.
pub fn layer_norm_again(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    statistics: &LayerNormStatistics,
) -> Result<Tensor> {
    let (tokens, dim) = x.dims2()?;
    expect_shape("the weight of the norm", weight, &[dim])?;
    expect_shape("the bias of the norm", bias, &[dim])?;
    expect_shape("the statistics of the norm", &statistics.mean, &[tokens])?;

    on_cuda!(
        x.device(),
        crate::ops::cuda::norm::layer_norm_again(
            x,
            weight,
            bias,
            &statistics.mean,
            &statistics.inverse
        )
    );

    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let b: &[T] = &slice::<T>(bias)?;
        let mean: &[T] = &slice::<T>(&statistics.mean)?;
        let r: &[T] = &slice::<T>(&statistics.inverse)?;

        let y = new_rows(
            tokens,
            dim,
            #[inline(always)]
            |row, y: &mut [T]| {
                let mean = mean[row];
                let r = r[row];
                for (((y, &x), &w), &b) in y.iter_mut().zip(&xs[row * dim..]).zip(w).zip(b) {
                    *y = (x - mean) * r * w + b;
                }
            },
        );

        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`layer_norm`]'s input, with `residual` added; adds to the gradients of weight and
/// bias where there are any.
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
    check_backward(
        dy,
        x,
        weight,
        residual,
        gradients.map(|(d_weight, _)| d_weight),
    )?;
    expect_shape("the statistics of the norm", &statistics.mean, &[tokens])?;
    if let Some((_, d_bias)) = gradients {
        expect_shape("the gradient of the norm's bias", d_bias, &[dim])?;
    }

    on_cuda!(
        x.device(),
        crate::ops::cuda::norm::layer_norm_backward(
            dy,
            x,
            weight,
            (&statistics.mean, &statistics.inverse),
            residual,
            gradients
        )
    );

    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let mean: &[T] = &slice::<T>(&statistics.mean)?;
        let r: &[T] = &slice::<T>(&statistics.inverse)?;
        let past = residual.map(slice::<T>).transpose()?;
        let past: Option<&[T]> = past.as_deref();

        let dx = new_rows(
            tokens,
            dim,
            #[inline(always)]
            |row, dx: &mut [T]| {
                let dy = &dys[row * dim..][..dim];
                let x = &xs[row * dim..][..dim];
                let w = &w[..dim];
                let mean = mean[row];
                let r = r[row];
                let n = T::of(dim as f64);
                let level = sum_over(dim, |i| dy[i] * w[i]) / n;
                let along = sum_over(dim, |i| dy[i] * w[i] * (x[i] - mean)) * r / n;
                for (((dx, &dy), &x), &w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
                    *dx = r * (dy * w - level - (x - mean) * r * along);
                }
                add_row(dx, past, row);
            },
        );

        if let Some((d_weight, d_bias)) = gradients {
            write::<T>(d_weight, |dw| {
                column_sums(
                    dw,
                    tokens,
                    #[inline(always)]
                    |row, columns, dw| {
                        let dy = &dys[row * dim..][columns.clone()];
                        let x = &xs[row * dim..][columns];
                        let mean = mean[row];
                        let r = r[row];
                        for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
                            *dw += dy * (x - mean) * r;
                        }
                    },
                );
            })?;
            write::<T>(d_bias, |db| add_rows(db, tokens, dys))?;
        }

        tensor(dx, (tokens, dim))
    })
}

fn check_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    residual: Option<&Tensor>,
    d_weight: Option<&Tensor>,
) -> Result<()> {
    expect_shape("the gradient of the norm's output", dy, x.dims())?;
    expect_shape("the weight of the norm", weight, &x.dims()[1..])?;
    residual.map_or(Ok(()), |residual| {
        expect_shape("the residual's gradient", residual, x.dims())
    })?;
    d_weight.map_or(Ok(()), |d_weight| {
        expect_shape("the gradient of the norm's weight", d_weight, weight.dims())
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

/// Adds the rows of `rows`, each as wide as `out`, to `out`, one after the other.
pub fn add_rows<T: Real>(out: &mut [T], tokens: usize, rows: &[T]) {
    let width = out.len();
    column_sums(
        out,
        tokens,
        #[inline(always)]
        |row, columns, out| {
            for (sum, &term) in out.iter_mut().zip(&rows[row * width..][columns]) {
                *sum += term;
            }
        },
    );
}

/// Calls `add(token, columns, sums)` for every token in turn, ranges of columns in parallel; `sums`
/// are the columns' places in `out`.
#[inline(always)]
fn column_sums<T: Real>(
    out: &mut [T],
    tokens: usize,
    add: impl Fn(usize, Range<usize>, &mut [T]) + Sync,
) {
    /// Enough to vectorise, and as many cache lines of a row as the processor fetches ahead.
    const COLUMNS: usize = 256;
    out.par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(chunk, out)| {
            let columns = chunk * COLUMNS..chunk * COLUMNS + out.len();
            vectorised(
                #[inline(always)]
                || {
                    for token in 0..tokens {
                        add(token, columns.clone(), out);
                    }
                },
            );
        });
}
