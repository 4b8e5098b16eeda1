//! Dropout whose mask is a hash of what is dropped, so that it is never stored and never depends on
//! the packing.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use maqam_base::seed::Key;

/// The mask of one use of dropout: a share of the numbers becomes zero, the others grow by
/// `1 / (1 - probability)`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Share that is dropped, in `[0, 1)`.
    pub probability: f64,
    /// One key for every token of the batch: step, example and position.
    pub tokens: &'a [Key],
    /// Tells the uses of dropout in one model apart.
    pub site: u64,
}

impl Dropout<'_> {
    /// `mask * x`, for the forward and, applied to a gradient, for the backward.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]` -> `[tokens, dim]`
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, dim) = x.dims2()?;

        if self.tokens.len() != tokens {
            candle_core::bail!(
                "dropout has keys for {} tokens, the tensor {tokens}",
                self.tokens.len()
            );
        }

        if !(0.0..1.0).contains(&self.probability) {
            candle_core::bail!(
                "the share that dropout drops is in [0, 1), found {}",
                self.probability
            );
        }

        let kept = 1.0 / (1.0 - self.probability);
        // `uniform` is 53 random bits over 2^53, so comparing the bits with the next whole number
        // is the same, and faster.
        let dropped = (self.probability * (1u64 << 53) as f64).ceil() as u64;

        on_cuda!(x.device(), {
            let keys: Vec<u64> = self
                .tokens
                .iter()
                .map(|key| key.with(self.site).state())
                .collect();
            crate::ops::cuda::dropout::dropout(x, &keys, dropped, kept)
        });

        with_real!(x, T => {
            let xs: &[T] = &slice::<T>(x)?;

            let y = new_rows(
                tokens,
                dim,
                #[inline(always)]
                |row, y: &mut [T]| {
                    let key = self.tokens[row].with(self.site);
                    for (i, (y, &x)) in y.iter_mut().zip(&xs[row * dim..]).enumerate() {
                        *y = if key.bits(i as u64) >> 11 >= dropped { x * T::of(kept) } else { T::of(0.0) };
                    }
                },
            );

            tensor(y, (tokens, dim))
        })
    }
}
