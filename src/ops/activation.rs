//! SwiGLU and GELU, forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::for_rows;
use crate::ops::cpu::for_stretches;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;

/// `silu(gate) * up` (Shazeer 2020), gate and up side by side.
///
/// # Shapes
/// `gate_up`: `[tokens, 2 dim]` -> `[tokens, dim]`
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (tokens, width) = gate_up.dims2()?;
    let dim = width / 2;
    with_real!(gate_up, T => {
        let both = slice::<T>(gate_up)?;
        let both: &[T] = &both;
        let mut y = vec![T::of(0.0); tokens * dim];
        for_rows(&mut y, dim, |row, y| {
            let (gate, up) = both[row * width..][..width].split_at(dim);
            for i in 0..dim {
                y[i] = gate[i] * sigmoid(gate[i]) * up[i];
            }
        });
        tensor(y, (tokens, dim))
    })
}

/// Gradient of [`swiglu`]'s input: with s = sigmoid(gate), d gate = dy up s (1 + gate (1 - s)), d up = dy gate s.
///
/// # Shapes
/// `dy`: `[tokens, dim]`, `gate_up`: `[tokens, 2 dim]` -> `[tokens, 2 dim]`
pub fn swiglu_backward(dy: &Tensor, gate_up: &Tensor) -> Result<Tensor> {
    let (tokens, width) = gate_up.dims2()?;
    let dim = width / 2;
    with_real!(gate_up, T => {
        let (dys, both) = (slice::<T>(dy)?, slice::<T>(gate_up)?);
        let (dys, both): (&[T], &[T]) = (&dys, &both);
        let mut d_both = vec![T::of(0.0); tokens * width];
        for_rows(&mut d_both, width, |row, d_both| {
            let dy = &dys[row * dim..][..dim];
            let (gate, up) = both[row * width..][..width].split_at(dim);
            let (d_gate, d_up) = d_both.split_at_mut(dim);
            for i in 0..dim {
                let s = sigmoid(gate[i]);
                d_gate[i] = dy[i] * up[i] * s * (T::of(1.0) + gate[i] * (T::of(1.0) - s));
                d_up[i] = dy[i] * gate[i] * s;
            }
        });
        tensor(d_both, (tokens, width))
    })
}

/// The exact GELU, `x Phi(x)` (Hendrycks and Gimpel 2016), of any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    with_real!(x, T => {
        let xs = slice::<T>(x)?;
        let xs: &[T] = &xs;
        let mut y = vec![T::of(0.0); xs.len()];
        for_stretches(&mut y, |start, y| {
            for (y, &x) in y.iter_mut().zip(&xs[start..]) {
                *y = x * normal_cdf(x);
            }
        });
        tensor(y, x.shape())
    })
}

/// Gradient of [`gelu`]'s input: dy (Phi(x) + x phi(x)).
pub fn gelu_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    /// 1 / sqrt(2 pi), the normal density's factor.
    const DENSITY: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    with_real!(x, T => {
        let (dys, xs) = (slice::<T>(dy)?, slice::<T>(x)?);
        let (dys, xs): (&[T], &[T]) = (&dys, &xs);
        let mut dx = vec![T::of(0.0); xs.len()];
        for_stretches(&mut dx, |start, dx| {
            for ((dx, &dy), &x) in dx.iter_mut().zip(&dys[start..]).zip(&xs[start..]) {
                let density = (T::of(-0.5) * x * x).exp_lanes() * T::of(DENSITY);
                *dx = dy * (normal_cdf(x) + x * density);
            }
        });
        tensor(dx, x.shape())
    })
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::of(1.0) / (T::of(1.0) + (-x).exp_lanes())
}

#[inline(always)]
fn normal_cdf<T: Real>(x: T) -> T {
    T::of(0.5) * (T::of(1.0) + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf_lanes())
}
