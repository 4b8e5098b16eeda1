//! Numbers in fp8, as a GPU rounds to them, computed on the CPU in `f32`: what `fp8` does to a loss
//! can be seen without a GPU.
//!
//! The type is e4m3: a sign, 4 bits of exponent, 3 of mantissa, no infinity, 448 its largest number
//! (Micikevicius et al. 2022, "FP8 formats for deep learning", table 1). A row is divided by a
//! scale of its own first. Here a number is kept in `f32` as the product of both, so that any
//! matrix product can take it: that is slower than `f32` alone, and differs from a GPU in the order
//! of sums.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::weight::Quantised;
use crate::ops::weight::Weight;

/// The largest number of e4m3.
pub const MOST: f32 = 448.0;
/// The least number of e4m3 with a leading one; those below are `2^-9` apart.
const LEAST_NORMAL: f32 = 1.0 / 64.0;

/// Bits of an `f32`'s mantissa that e4m3 and bf16 have no room for.
const BEYOND_E4M3: u32 = 20;
const BEYOND_BF16: u32 = 16;

/// The number of e4m3 nearest to `x`; half ways the even one, beyond 448 the largest. NaN stays
/// NaN, zero keeps its sign.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    // Numbers of f32 from 2^14 to 2^15 are 2^-9 apart as well: the addition rounds.
    const SHIFT: f32 = 16384.0;
    let size = x.abs();
    let small = (size + SHIFT) - SHIFT;
    let rounded = if size < LEAST_NORMAL {
        small
    } else {
        shortened::<BEYOND_E4M3>(size)
    };
    // A comparison with NaN is false, so NaN passes.
    let held = if rounded > MOST { MOST } else { rounded };
    held.copysign(x)
}

/// `x` without the last bits of its mantissa, to nearest even. NaN stays NaN.
#[inline(always)]
fn shortened<const BITS: u32>(x: f32) -> f32 {
    let bits = x.to_bits();
    let below_half = (1 << (BITS - 1)) - 1;
    let is_odd = (bits >> BITS) & 1;
    let rounded = f32::from_bits(bits.wrapping_add(below_half + is_odd) & !((1 << BITS) - 1));
    if x.is_nan() { x } else { rounded }
}

/// The scale of a row, the largest magnitude over 448, or 1 where the row is of zeros. NaN is
/// passed over.
#[inline(always)]
fn scale_of(row: &[f32]) -> f32 {
    const MAGNITUDE: u32 = 0x7fff_ffff;
    const INFINITY: u32 = f32::INFINITY.to_bits();
    // Magnitudes are in the order of their bits, and the largest of whole numbers is found in
    // lanes.
    let most = row.iter().fold(0, |most: u32, value| {
        let size = value.to_bits() & MAGNITUDE;
        most.max(if size > INFINITY { 0 } else { size })
    });
    let most = shortened::<BEYOND_BF16>(f32::from_bits(most));
    if most > 0.0 { most / MOST } else { 1.0 }
}

/// Turns a row into numbers of e4m3 and returns the scale that they are of.
///
/// The row is rounded to bf16 first, which is what a GPU has of it. An infinity makes its row's
/// scale infinite and itself NaN.
#[inline(always)]
pub fn quantise_row(row: &mut [f32]) -> f32 {
    let scale = scale_of(row);
    for value in row.iter_mut() {
        *value = nearest(shortened::<BEYOND_BF16>(*value) / scale);
    }
    scale
}

/// The rows of `x` as fp8 holds them, each number times its row's scale.
///
/// # Shapes
/// `x`: `[rows, width]`, `f32` on the CPU -> the same
///
/// # Errors
/// Numbers of another type: `f64` is for finite differences, which see no slope in a rounding.
pub fn rounded(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let xs: &[f32] = &slice::<f32>(x)?;
    let values = new_rows(
        rows,
        width,
        #[inline(always)]
        |i, row: &mut [f32]| {
            row.copy_from_slice(&xs[i * width..][..width]);
            let scale = quantise_row(row);
            row.iter_mut().for_each(|value| *value *= scale);
        },
    );
    tensor(values, (rows, width))
}

/// A frozen weight `[out, in]` as fp8 holds it, by rows and, for the backward, by columns. Both
/// stay in `f32`: twice its memory.
///
/// # Errors
/// A weight that is not in `f32`.
pub fn quantise(weight: &Tensor) -> Result<Weight> {
    let quantised = Quantised {
        transposed: rounded(&weight.t()?.contiguous()?)?,
        scales: None,
    };
    Ok(Weight::quantised(rounded(weight)?, quantised))
}
