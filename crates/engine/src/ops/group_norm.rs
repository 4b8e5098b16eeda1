//! Group norm with one channel per group (Wu and He 2018): each channel over the time of its clip,
//! forward and backward.
//!
//! Computed on the CPU.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::for_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::weight::Weight;

/// Means and inverse standard deviations that the backward needs, `[clips, channels]` each.
#[derive(Clone, Debug)]
pub struct Statistics {
    mean: Tensor,
    inverse: Tensor,
}

/// Rows whose sums are added in the numbers' own type before they are added in `f64`.
const BLOCK: usize = 128;

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance over the rows of a clip,
/// channel by channel.
///
/// # Shapes
/// `x`: `[sum of lens, channels]`, `lens`: rows of each clip, `weight`, `bias`: `[channels]` ->
/// `[sum of lens, channels]`
pub fn group_norm(
    x: &Tensor,
    lens: &[usize],
    weight: &Weight,
    bias: &Weight,
    eps: f64,
) -> Result<(Tensor, Statistics)> {
    let (rows, channels) = x.dims2()?;
    check(rows, lens)?;
    expect_shape("the weight of the norm", &weight.value, &[channels])?;
    expect_shape("the bias of the norm", &bias.value, &[channels])?;
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(&weight.value)?;
        let b: &[T] = &slice::<T>(&bias.value)?;

        let mut means = Vec::with_capacity(lens.len() * channels);
        let mut inverses = Vec::with_capacity(lens.len() * channels);
        for clip in clips(lens) {
            let len = clip.len() as f64;
            let values = &xs[clip.start * channels..clip.end * channels];
            let mean: Vec<T> = column_sums(values, channels, #[inline(always)] |x, sums: &mut [T]| {
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
            })
            .into_iter()
            .map(|sum| T::of(sum / len))
            .collect();
            let squares = column_sums(values, channels, #[inline(always)] |x, sums: &mut [T]| {
                for ((sum, &x), &mean) in sums.iter_mut().zip(x).zip(&mean) {
                    *sum += (x - mean) * (x - mean);
                }
            });
            inverses.extend(squares.into_iter().map(|sum| T::of(1.0 / (sum / len + eps).sqrt())));
            means.extend(mean);
        }

        let mut y = xs.to_vec();
        for (i, clip) in clips(lens).enumerate() {
            let mean = &means[i * channels..][..channels];
            let r = &inverses[i * channels..][..channels];
            for_rows(
                &mut y[clip.start * channels..clip.end * channels],
                channels,
                #[inline(always)]
                |_, y: &mut [T]| {
                    for ((((y, &mean), &r), &w), &b) in y.iter_mut().zip(mean).zip(r).zip(w).zip(b) {
                        *y = (*y - mean) * r * w + b;
                    }
                },
            );
        }

        let shape = (lens.len(), channels);
        let statistics = Statistics { mean: tensor(means, shape)?, inverse: tensor(inverses, shape)? };
        Ok((tensor(y, (rows, channels))?, statistics))
    })
}

/// Gradient of [`group_norm`]'s input; adds to the gradients of weight and bias where they are
/// trained.
///
/// With h = (x - mean) r and g = weight * dy: dx = r (g - mean(g) - h mean(g h)), means over the
/// rows of a clip.
///
/// # Shapes
/// `dy`, `x`: `[sum of lens, channels]` -> the same
pub fn group_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    lens: &[usize],
    weight: &Weight,
    bias: &Weight,
    statistics: &Statistics,
) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    check(rows, lens)?;
    expect_shape("the gradient of the norm", dy, &[rows, channels])?;
    expect_shape(
        "the statistics of the norm",
        &statistics.mean,
        &[lens.len(), channels],
    )?;
    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(&weight.value)?;
        let mean: &[T] = &slice::<T>(&statistics.mean)?;
        let r: &[T] = &slice::<T>(&statistics.inverse)?;

        let mut dx = dys.to_vec();
        for (i, clip) in clips(lens).enumerate() {
            let len = clip.len() as f64;
            let mean = &mean[i * channels..][..channels];
            let r = &r[i * channels..][..channels];
            let range = clip.start * channels..clip.end * channels;
            let dy = &dys[range.clone()];
            let x = &xs[range.clone()];
            let levels = column_sums(dy, channels, #[inline(always)] |dy, sums: &mut [T]| {
                sums.iter_mut().zip(dy).for_each(|(sum, &dy)| *sum += dy);
            });
            let alongs = column_sums_of(dy, x, channels, #[inline(always)] |dy, x, sums: &mut [T]| {
                for ((((sum, &dy), &x), &mean), &r) in sums.iter_mut().zip(dy).zip(x).zip(mean).zip(r) {
                    *sum += dy * (x - mean) * r;
                }
            });
            for (weight, sums) in [(weight, &alongs), (bias, &levels)] {
                if let Some(gradient) = &weight.gradient {
                    write::<T>(gradient, |d| d.iter_mut().zip(sums).for_each(|(d, &sum)| *d += T::of(sum)))?;
                }
            }
            let level: Vec<T> = levels.iter().map(|sum| T::of(sum / len)).collect();
            let along: Vec<T> = alongs.iter().map(|sum| T::of(sum / len)).collect();
            for_rows(
                &mut dx[range],
                channels,
                #[inline(always)]
                |row, dx: &mut [T]| {
                    let x = &x[row * channels..][..channels];
                    for c in 0..channels {
                        dx[c] = r[c] * w[c] * (dx[c] - level[c] - (x[c] - mean[c]) * r[c] * along[c]);
                    }
                },
            );
        }

        tensor(dx, (rows, channels))
    })
}

fn check(rows: usize, lens: &[usize]) -> Result<()> {
    if lens.iter().sum::<usize>() != rows {
        candle_core::bail!("clips of {lens:?} rows do not cover {rows}");
    }
    Ok(())
}

/// Rows of each clip.
fn clips(lens: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    lens.iter().map(move |&len| {
        end += len;
        end - len..end
    })
}

/// Sums over rows of what `add` adds to the sums of a block, in `f64`, in an order that does not
/// depend on the threads.
#[inline(always)]
fn column_sums<T: Real>(
    values: &[T],
    channels: usize,
    add: impl Fn(&[T], &mut [T]) + Sync,
) -> Vec<f64> {
    column_sums_of(
        values,
        values,
        channels,
        #[inline(always)]
        |x, _, sums| add(x, sums),
    )
}

/// As [`column_sums`], over the rows of two matrices side by side.
#[inline(always)]
fn column_sums_of<T: Real>(
    a: &[T],
    b: &[T],
    channels: usize,
    add: impl Fn(&[T], &[T], &mut [T]) + Sync,
) -> Vec<f64> {
    let blocks: Vec<Vec<T>> = a
        .par_chunks(BLOCK * channels)
        .zip(b.par_chunks(BLOCK * channels))
        .map(|(a, b)| {
            let mut sums = vec![T::of(0.0); channels];
            vectorised(
                #[inline(always)]
                || {
                    for (a, b) in a.chunks_exact(channels).zip(b.chunks_exact(channels)) {
                        add(a, b, &mut sums);
                    }
                },
            );
            sums
        })
        .collect();
    let mut sums = vec![0.0f64; channels];
    for block in blocks {
        for (sum, part) in sums.iter_mut().zip(block) {
            *sum += part.wide();
        }
    }
    sums
}
