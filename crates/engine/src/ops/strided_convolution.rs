//! Convolution over time without padding, of any kernel and stride, inside each clip of a packed
//! batch.
//!
//! Rows are positions in time and columns are channels, so the window of an output is one
//! contiguous stretch of its clip. A convolution is then a matrix product over overlapping rows,
//! and nothing is unfolded. Computed on the CPU.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::for_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::norm::add_rows;
use crate::ops::weight::Weight;

/// Kernel and stride of a convolution, both in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows that an output sees.
    pub kernel: usize,
    /// Rows from one output's window to the next one's.
    pub stride: usize,
}

impl Window {
    /// Number of outputs of a clip of `len` rows: 0 where it is shorter than the kernel.
    pub fn num_outputs(self, len: usize) -> usize {
        match len.checked_sub(self.kernel) {
            Some(rest) => rest / self.stride + 1,
            None => 0,
        }
    }
}

/// `y[t] = bias + sum over j of weight[:, j, :] x[stride t + j]` in every clip.
///
/// # Shapes
/// `x`: `[sum of lens, in]`, `lens`: rows of each clip, `weight`: `[out, kernel * in]`, taps
/// outermost, `bias`: `[out]` -> `[sum of num_outputs(len), out]`
pub fn convolve(
    x: &Tensor,
    lens: &[usize],
    weight: &Weight,
    bias: Option<&Weight>,
    window: Window,
) -> Result<Tensor> {
    let (inputs, outputs) = check(x, lens, weight, window)?;
    if let Some(bias) = bias {
        expect_shape("the bias of a convolution", &bias.value, &[outputs])?;
    }
    let total: usize = lens.iter().map(|&len| window.num_outputs(len)).sum();
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(&weight.value)?;
        let taps = Matrix::new(w, outputs, window.kernel * inputs).t();

        let mut y = vec![T::of(0.0); total * outputs];
        let mut from = 0;
        let mut to = 0;
        for &len in lens {
            let rows = window.num_outputs(len);
            let clip = &xs[from * inputs..][..len * inputs];
            let seen = Matrix::windows(clip, rows, window.kernel * inputs, window.stride * inputs);
            product(&mut y[to * outputs..][..rows * outputs], outputs, seen, taps, 1.0, Into::Fresh, Threads::All);
            from += len;
            to += rows;
        }

        if let Some(bias) = bias {
            let bias: &[T] = &slice::<T>(&bias.value)?;
            for_rows(
                &mut y,
                outputs,
                #[inline(always)]
                |_, y: &mut [T]| y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b),
            );
        }

        tensor(y, (total, outputs))
    })
}

/// Adds to the gradients of weight and bias where they are trained; returns the gradient of
/// [`convolve`]'s input where it is wanted.
///
/// # Shapes
/// `dy`: `[sum of num_outputs(len), out]`, `x`: `[sum of lens, in]` -> `[sum of lens, in]`
pub fn convolve_backward(
    dy: &Tensor,
    x: &Tensor,
    lens: &[usize],
    weight: &Weight,
    bias: Option<&Weight>,
    window: Window,
    want_input: bool,
) -> Result<Option<Tensor>> {
    let (inputs, outputs) = check(x, lens, weight, window)?;
    let total: usize = lens.iter().map(|&len| window.num_outputs(len)).sum();
    expect_shape("the gradient of a convolution", dy, &[total, outputs])?;
    let Window { kernel, stride } = window;
    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let w: &[T] = &slice::<T>(&weight.value)?;
        if let Some(gradient) = bias.and_then(|bias| bias.gradient.as_ref()) {
            write::<T>(gradient, |db| add_rows(db, total, dys))?;
        }

        if let Some(gradient) = &weight.gradient {
            write::<T>(gradient, |dw| {
                for (clip, d_out) in clips(lens, window, xs, inputs, dys, outputs) {
                    let rows = d_out.len() / outputs;
                    let seen = Matrix::windows(clip, rows, kernel * inputs, stride * inputs);
                    let d_out = Matrix::new(d_out, rows, outputs);
                    product(dw, kernel * inputs, d_out.t(), seen, 1.0, Into::Accumulate, Threads::All);
                }
            })?;
        }

        if !want_input {
            return Ok(None);
        }

        let mut dx = vec![T::of(0.0); xs.len()];
        let mut start = 0;
        for (clip, d_out) in clips(lens, window, xs, inputs, dys, outputs) {
            let rows = d_out.len() / outputs;
            let d_out = Matrix::new(d_out, rows, outputs);
            let dx = &mut dx[start..start + clip.len()];
            // The first `stride` taps of all windows touch every row once, the next `stride` taps
            // too, and so on.
            for first in (0..kernel).step_by(stride).filter(|_| rows > 0) {
                let taps = stride.min(kernel - first);
                let part = Matrix::strided(&w[first * inputs..], outputs, taps * inputs, kernel * inputs);
                product(&mut dx[first * inputs..], stride * inputs, d_out, part, 1.0, Into::Accumulate, Threads::All);
            }
            start += clip.len();
        }

        tensor(dx, x.shape()).map(Some)
    })
}

/// Values of each clip, and of its outputs.
fn clips<'a, T>(
    lens: &'a [usize],
    window: Window,
    mut xs: &'a [T],
    inputs: usize,
    mut ys: &'a [T],
    outputs: usize,
) -> impl Iterator<Item = (&'a [T], &'a [T])> {
    lens.iter().map(move |&len| {
        let (x, later) = xs.split_at(len * inputs);
        let (y, later_y) = ys.split_at(window.num_outputs(len) * outputs);
        xs = later;
        ys = later_y;
        (x, y)
    })
}

/// Number of input and output channels.
fn check(x: &Tensor, lens: &[usize], weight: &Weight, window: Window) -> Result<(usize, usize)> {
    let (rows, inputs) = x.dims2()?;
    let (outputs, width) = weight.value.dims2()?;
    if window.kernel == 0 || window.stride == 0 {
        candle_core::bail!("a convolution has a kernel and a stride above 0, found {window:?}");
    }
    if lens.iter().sum::<usize>() != rows {
        candle_core::bail!("clips of {lens:?} rows do not cover {rows}");
    }
    if width != window.kernel * inputs {
        candle_core::bail!(
            "a convolution of {window:?} over {inputs} channels has weights of width {}, found {width}",
            window.kernel * inputs
        );
    }
    Ok((inputs, outputs))
}
