//! SwiGLU and GELU, forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::new_stretches;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::layout::Layout;

/// `silu(gate) * up` (Shazeer 2020), gate and up side by side.
///
/// # Shapes
/// `gate_up`: `[tokens, 2 dim]` -> `[tokens, dim]`, laid out for the layer that reads it
pub fn swiglu(gate_up: &Tensor, reader: impl Into<Layout>) -> Result<Tensor> {
    let layout = reader.into();
    let (tokens, width) = gate_up.dims2()?;
    let dim = half(width)?;
    on_cuda!(
        gate_up.device(),
        crate::ops::cuda::activation::swiglu(gate_up, layout.padding)
    );
    let _ = layout; // Rows on the CPU have no padding.
    with_real!(gate_up, T => {
        let both: &[T] = &slice::<T>(gate_up)?;
        let y = new_rows(
            tokens,
            dim,
            #[inline(always)]
            |row, y: &mut [T]| {
                let (gate, up) = both[row * width..][..width].split_at(dim);
                for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * sigmoid(gate) * up;
                }
            },
        );
        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`swiglu`]'s input: with s = sigmoid(gate), d gate = dy up s (1 + gate (1 - s)), d
/// up = dy gate s.
///
/// # Shapes
/// `dy`: `[tokens, dim]`, `gate_up`: `[tokens, 2 dim]` -> `[tokens, 2 dim]`, laid out for the layer
/// that reads it
pub fn swiglu_backward(dy: &Tensor, gate_up: &Tensor, reader: impl Into<Layout>) -> Result<Tensor> {
    let layout = reader.into();
    let (tokens, width) = gate_up.dims2()?;
    let dim = half(width)?;
    expect_shape("the gradient of swiglu", dy, &[tokens, dim])?;

    on_cuda!(
        dy.device(),
        crate::ops::cuda::activation::swiglu_backward(dy, gate_up, layout.padding)
    );

    let _ = layout; // Rows on the CPU have no padding.
    with_real!(gate_up, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let both: &[T] = &slice::<T>(gate_up)?;

        let d_both = new_rows(
            tokens,
            width,
            #[inline(always)]
            |row, d_both: &mut [T]| {
                let dy = &dys[row * dim..][..dim];
                let (gate, up) = both[row * width..][..width].split_at(dim);
                let (d_gate, d_up) = d_both.split_at_mut(dim);
                for ((((d_gate, d_up), &dy), &gate), &up) in d_gate.iter_mut().zip(d_up).zip(dy).zip(gate).zip(up) {
                    let s = sigmoid(gate);
                    *d_gate = dy * up * s * (T::of(1.0) + gate * (T::of(1.0) - s));
                    *d_up = dy * gate * s;
                }
            },
        );

        tensor(d_both, (tokens, width))
    })
}

/// The exact GELU, `x Phi(x)` (Hendrycks and Gimpel 2016), of any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x.device(), crate::ops::cuda::activation::gelu(x));
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let y = new_stretches(
            xs.len(),
            #[inline(always)]
            |start, y: &mut [T]| {
                for (y, &x) in y.iter_mut().zip(&xs[start..]) {
                    *y = x * x.normal_lanes().0;
                }
            },
        );
        tensor(y, x.shape())
    })
}

/// Gradient of [`gelu`]'s input: dy (Phi(x) + x phi(x)).
pub fn gelu_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    /// 1 / sqrt(2 pi), the normal density's factor.
    const DENSITY: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    expect_shape("the gradient of gelu", dy, x.dims())?;
    on_cuda!(
        x.device(),
        crate::ops::cuda::activation::gelu_backward(dy, x)
    );
    with_real!(x, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let xs: &[T] = &slice::<T>(x)?;
        let dx = new_stretches(
            xs.len(),
            #[inline(always)]
            |start, dx: &mut [T]| {
                for ((dx, &dy), &x) in dx.iter_mut().zip(&dys[start..]).zip(&xs[start..]) {
                    let (probability, density) = x.normal_lanes();
                    *dx = dy * (probability + x * (density * T::of(DENSITY)));
                }
            },
        );
        tensor(dx, x.shape())
    })
}

fn half(width: usize) -> Result<usize> {
    if !width.is_multiple_of(2) {
        candle_core::bail!("gate and up are side by side, so their width is even, found {width}");
    }
    Ok(width / 2)
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::of(1.0) / (T::of(1.0) + (-x).exp_lanes())
}
