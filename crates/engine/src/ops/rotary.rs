//! Rotary position embedding over the two halves of a head (Su et al. 2021; the layout of
//! GPT-NeoX).

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::for_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;

/// Cosines and sines of a batch's positions, `[tokens, head_dim / 2]` each, on a GPU in `f32`.
#[derive(Clone, Debug)]
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
}

impl Rotary {
    /// Cosines and sines of the angles `position * theta^(-2 i / head_dim)`, in the type of `like`.
    ///
    /// The angles are rounded to single precision where the reference (transformers) rounds them:
    /// the power, its inverse, and the product with the position. Exact angles would leave its
    /// cosines by 3e-3 at position 32767.
    pub fn new(positions: &[u32], head_dim: usize, theta: f64, like: &Tensor) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            candle_core::bail!(
                "a rotation turns pairs, so a head's width is even, found {head_dim}"
            );
        }
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64) as f32)
            .collect();
        let angles: Vec<f64> = positions
            .iter()
            .flat_map(|&p| frequencies.iter().map(move |&f| f64::from(f * p as f32)))
            .collect();
        Self::from_angles(&angles, head_dim, like)
    }

    /// Cosines and sines of given angles, `head_dim / 2` for each token, in radians.
    pub fn from_angles(angles: &[f64], head_dim: usize, like: &Tensor) -> Result<Self> {
        let half = head_dim / 2;
        if half == 0 || !angles.len().is_multiple_of(half) {
            candle_core::bail!("{} angles are not {half} for each token", angles.len());
        }
        on_cuda!(like.device(), {
            let (cos, sin) = crate::ops::cuda::rotary::tables(angles, half, like.device())?;
            Ok(Self { cos, sin, head_dim })
        });
        with_real!(like, T => {
            let table = |function: fn(f64) -> f64| tensor(angles.iter().map(|&a| T::of(function(a))).collect::<Vec<T>>(), (angles.len() / half, half));
            Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, head_dim })
        })
    }

    /// Rotates the first `num_heads` heads of every token in place.
    ///
    /// # Shapes
    /// `x`: `[tokens, width]` with `width >= num_heads * head_dim`; the rest of the width stays as
    /// it is
    pub fn apply(&self, x: &Tensor, num_heads: usize) -> Result<()> {
        self.rotate(x, num_heads, 1.0)
    }

    /// Turns a gradient back, in place: the rotation's transpose.
    pub fn apply_backward(&self, dx: &Tensor, num_heads: usize) -> Result<()> {
        self.rotate(dx, num_heads, -1.0)
    }

    fn rotate(&self, x: &Tensor, num_heads: usize, direction: f64) -> Result<()> {
        let (tokens, width) = x.dims2()?;
        let half = self.head_dim / 2;

        if tokens != self.cos.dims()[0] || num_heads * self.head_dim > width {
            let found = self.cos.dims()[0];
            candle_core::bail!(
                "cannot rotate {num_heads} heads of {} at {found} positions in a tensor of {tokens} tokens and width {width}",
                self.head_dim
            );
        }

        on_cuda!(
            x.device(),
            crate::ops::cuda::rotary::rotate(x, &self.cos, &self.sin, num_heads, direction)
        );

        with_real!(x, T => {
            let cos: &[T] = &slice::<T>(&self.cos)?;
            let sin: &[T] = &slice::<T>(&self.sin)?;
            write::<T>(x, |values| {
                for_rows(
                    values,
                    width,
                    #[inline(always)]
                    |row, values| {
                        let cos = &cos[row * half..][..half];
                        let sin = &sin[row * half..][..half];
                        for head in values[..num_heads * self.head_dim].chunks_exact_mut(self.head_dim) {
                            let (first, second) = head.split_at_mut(half);
                            for (((first, second), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                                let a = *first;
                                let b = *second;
                                let s = sin * T::of(direction);
                                *first = a * cos - b * s;
                                *second = b * cos + a * s;
                            }
                        }
                    },
                );
            })
        })
    }
}
