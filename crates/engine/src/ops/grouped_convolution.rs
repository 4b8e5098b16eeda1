//! Grouped convolution over time that keeps the number of rows, inside each clip of a packed batch:
//! HuBERT's positions.
//!
//! A window reaches `kernel / 2` rows back and the rest forward, over zeros outside the clip. Each
//! group of channels of a clip is one matrix product over overlapping rows. Computed on the CPU.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;

/// Sizes of a grouped convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Channels of the input, and of the output.
    pub channels: usize,
    /// Number of groups; a group's outputs see the group's inputs alone.
    pub groups: usize,
    /// Rows that an output sees.
    pub kernel: usize,
}

impl Groups {
    /// Channels of a group.
    pub fn width(self) -> usize {
        self.channels / self.groups
    }

    /// Zeros before a clip.
    fn before(self) -> usize {
        self.kernel / 2
    }

    fn check(self, x: &Tensor, lens: &[usize], weight: &Tensor) -> Result<()> {
        if self.groups == 0 || self.kernel == 0 || !self.channels.is_multiple_of(self.groups) {
            candle_core::bail!("channels divide into groups evenly, found {self:?}");
        }
        let rows: usize = lens.iter().sum();
        expect_shape(
            "the input of a grouped convolution",
            x,
            &[rows, self.channels],
        )?;
        expect_shape(
            "the weight of a grouped convolution",
            weight,
            &[self.channels, self.kernel * self.width()],
        )
    }
}

/// `y[t] = sum over j of weight[:, j, :] x[t + j - kernel / 2]`, group by group, in every clip.
///
/// # Shapes
/// `x`: `[sum of lens, channels]`, `weight`: `[channels, kernel * width]`, taps outermost ->
/// `[sum of lens, channels]`
pub fn convolve(x: &Tensor, lens: &[usize], weight: &Tensor, groups: Groups) -> Result<Tensor> {
    groups.check(x, lens, weight)?;
    let channels = groups.channels;
    let width = groups.width();
    let kernel = groups.kernel;
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;
        let parts: Vec<Vec<T>> = tasks(lens, groups.groups)
            .par_iter()
            .map(|&(start, len, group)| {
                let seen = padded(xs, channels, start, len, group * width..(group + 1) * width, (groups.before(), kernel - 1 - groups.before()));
                let taps = Matrix::new(&w[group * width * kernel * width..], width, kernel * width);
                let mut y = vec![T::of(0.0); len * width];
                product(&mut y, width, Matrix::windows(&seen, len, kernel * width, width), taps.t(), 1.0, Into::Fresh, Threads::One);
                y
            })
            .collect();
        tensor(join(&parts, lens, groups), x.shape())
    })
}

/// Adds the weight's gradient to `d_weight` where it is given, and returns the gradient of
/// [`convolve`]'s input.
///
/// # Shapes
/// `dy`, `x`: `[sum of lens, channels]`, `weight`, `d_weight`: `[channels, kernel * width]` ->
/// `[sum of lens, channels]`
pub fn convolve_backward(
    dy: &Tensor,
    x: &Tensor,
    lens: &[usize],
    weight: &Tensor,
    d_weight: Option<&Tensor>,
    groups: Groups,
) -> Result<Tensor> {
    groups.check(x, lens, weight)?;
    expect_shape("the gradient of a grouped convolution", dy, x.dims())?;
    let channels = groups.channels;
    let width = groups.width();
    let kernel = groups.kernel;
    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(weight)?;

        if let Some(d_weight) = d_weight {
            write::<T>(d_weight, |dw| {
                dw.par_chunks_mut(width * kernel * width).enumerate().for_each(|(group, dw)| {
                    let columns = group * width..(group + 1) * width;
                    let mut start = 0;
                    for &len in lens {
                        let seen = padded(xs, channels, start, len, columns.clone(), (groups.before(), kernel - 1 - groups.before()));
                        let seen = Matrix::windows(&seen, len, kernel * width, width);
                        let d_out = padded(dys, channels, start, len, columns.clone(), (0, 0));
                        product(dw, kernel * width, Matrix::new(&d_out, len, width).t(), seen, 1.0, Into::Accumulate, Threads::One);
                        start += len;
                    }
                });
            })?;
        }

        let turned: Vec<Vec<T>> = (0..groups.groups).into_par_iter().map(|group| turned(&w[group * width * kernel * width..], width, kernel)).collect();
        let parts: Vec<Vec<T>> = tasks(lens, groups.groups)
            .par_iter()
            .map(|&(start, len, group)| {
                // Input u is seen by outputs u - j + before, through tap j: a convolution with the
                // taps in reverse.
                let before = kernel - 1 - groups.before();
                let d_seen = padded(dys, channels, start, len, group * width..(group + 1) * width, (before, groups.before()));
                let mut dx = vec![T::of(0.0); len * width];
                let seen = Matrix::windows(&d_seen, len, kernel * width, width);
                product(&mut dx, width, seen, Matrix::new(&turned[group], kernel * width, width), 1.0, Into::Fresh, Threads::One);
                dx
            })
            .collect();
        tensor(join(&parts, lens, groups), x.shape())
    })
}

/// First row, number of rows and group of each part of the work, clip by clip.
fn tasks(lens: &[usize], groups: usize) -> Vec<(usize, usize, usize)> {
    let mut start = 0;
    let mut tasks = Vec::new();
    for &len in lens {
        tasks.extend((0..groups).map(|group| (start, len, group)));
        start += len;
    }
    tasks
}

/// Some columns of a clip's rows as a matrix of their own, with rows of zeros before and behind.
fn padded<T: Real>(
    values: &[T],
    stride: usize,
    start: usize,
    len: usize,
    columns: std::ops::Range<usize>,
    (before, behind): (usize, usize),
) -> Vec<T> {
    let width = columns.len();
    let mut out = Vec::with_capacity((before + len + behind) * width);
    out.resize(before * width, T::of(0.0));
    for row in start..start + len {
        out.extend_from_slice(&values[row * stride..][columns.clone()]);
    }
    out.resize((before + len + behind) * width, T::of(0.0));
    out
}

/// A group's weights `[out, tap, in]` as `[tap from the last, out, in]`.
fn turned<T: Real>(weights: &[T], width: usize, kernel: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(kernel * width * width);
    for tap in (0..kernel).rev() {
        for output in 0..width {
            out.extend_from_slice(&weights[(output * kernel + tap) * width..][..width]);
        }
    }
    out
}

/// The parts of [`tasks`] as the columns and rows of one matrix.
fn join<T: Real>(parts: &[Vec<T>], lens: &[usize], groups: Groups) -> Vec<T> {
    let width = groups.width();
    let mut out = Vec::with_capacity(lens.iter().sum::<usize>() * groups.channels);
    for (&len, parts) in lens.iter().zip(parts.chunks(groups.groups)) {
        for row in 0..len {
            for part in parts {
                out.extend_from_slice(&part[row * width..][..width]);
            }
        }
    }
    out
}
