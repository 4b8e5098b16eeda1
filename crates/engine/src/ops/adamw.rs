//! AdamW (Loshchilov and Hutter 2019) over one flat buffer, and the norm of a flat gradient.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::write;
use crate::ops::scalar::Scalar;

/// The settings of one update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

/// A stretch of the flat buffer that is updated alike.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Place in the buffer.
    pub range: Range<usize>,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Whether weights decay; 1-D tensors never do.
    pub decay: bool,
    /// Which update of this stretch it is, from 1.
    pub step: u64,
}

/// The flat buffers of an update, `[parameters]` each, in `f32`.
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// The trained values, changed.
    pub values: &'a Tensor,
    /// Their gradient.
    pub gradients: &'a Tensor,
    /// Running mean of the gradient, changed.
    pub first: &'a Tensor,
    /// Running mean of its square, changed.
    pub second: &'a Tensor,
    /// The values in the type that a GPU computes with, written anew; `None` where values are
    /// computed with as they are.
    pub copy: Option<&'a Tensor>,
}

/// Numbers that an update checks first: whether the step is finite, and how long its gradient is.
#[derive(Clone, Copy)]
pub struct Clip<'a> {
    /// The step's loss.
    pub loss: &'a Scalar,
    /// The gradient's [`norm`].
    pub norm: &'a Scalar,
    /// A longer gradient is shortened to it; 0 for never.
    pub max_norm: f64,
}

impl Clip<'_> {
    /// Factor of the gradient; `None` where the step is not finite.
    fn factor(&self) -> Result<Option<f64>> {
        let loss = self.loss.value()?;
        let norm = self.norm.value()?;
        // PyTorch's clip_grad_norm_: the norm has 1e-6 added before the division.
        let factor = if self.max_norm > 0.0 {
            (self.max_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        Ok((loss.is_finite() && norm.is_finite()).then_some(factor))
    }
}

impl AdamW {
    /// One update of a gradient that is clipped first. Where the loss or the norm is not finite,
    /// values and moments stay as they are.
    ///
    /// On a GPU nothing is waited for.
    pub fn update(&self, buffers: Buffers, segments: &[Segment], clip: Clip) -> Result<()> {
        on_cuda!(
            buffers.values.device(),
            crate::ops::cuda::adamw::update(self, buffers, segments, clip)
        );

        let Some(factor) = clip.factor()? else {
            return Ok(());
        };
        let gradients: &[f32] = &slice::<f32>(buffers.gradients)?;
        // The nested writes lock three buffers at once; what fails inside is carried out by hand.
        let mut inner = Ok(());
        let mut innermost = Ok(());
        write::<f32>(buffers.values, |values| {
            inner = write::<f32>(buffers.first, |first| {
                innermost = write::<f32>(buffers.second, |second| {
                    for segment in segments {
                        let range = segment.range.clone();
                        let (rate, keep, root) = self.factors(segment);
                        let b1 = self.beta1 as f32;
                        let b2 = self.beta2 as f32;
                        let eps = self.eps as f32;
                        let c1 = (1.0 - self.beta1) as f32;
                        let c2 = (1.0 - self.beta2) as f32;
                        let scale = factor as f32;
                        values[range.clone()]
                            .par_chunks_mut(CHUNK)
                            .zip(first[range.clone()].par_chunks_mut(CHUNK))
                            .zip(second[range.clone()].par_chunks_mut(CHUNK))
                            .zip(gradients[range].par_chunks(CHUNK))
                            .for_each(|(((values, first), second), gradients)| {
                                vectorised(
                                    #[inline(always)]
                                    || {
                                        for (((p, m), v), &g) in
                                            values.iter_mut().zip(first).zip(second).zip(gradients)
                                        {
                                            let g = g * scale;
                                            *m = *m * b1 + g * c1;
                                            *v = *v * b2 + g * g * c2;
                                            *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
                                        }
                                    },
                                );
                            });
                    }
                });
            });
        })?;
        inner.and(innermost)
    }

    /// Factors of a segment's update: the rate with the first moment's bias corrected, what decay
    /// leaves, and the second moment's correction.
    pub fn factors(&self, segment: &Segment) -> (f32, f32, f32) {
        let step = segment.step as i32;
        let bias1 = 1.0 - self.beta1.powi(step);
        let bias2 = 1.0 - self.beta2.powi(step);
        let keep = if segment.decay {
            (1.0 - segment.learning_rate * self.weight_decay) as f32
        } else {
            1.0
        };
        (
            (segment.learning_rate / bias1) as f32,
            keep,
            (1.0 / bias2.sqrt()) as f32,
        )
    }
}

const CHUNK: usize = 1 << 14;

/// Euclidean norm of a flat `f32` tensor, summed in `f64` in an order that does not depend on the
/// threads.
pub fn norm(flat: &Tensor) -> Result<Scalar> {
    on_cuda!(flat.device(), crate::ops::cuda::adamw::norm(flat));
    let values = slice::<f32>(flat)?;
    let sums: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| {
            vectorised(
                #[inline(always)]
                || sum_over(chunk.len(), |i| f64::from(chunk[i]) * f64::from(chunk[i])),
            )
        })
        .collect();
    Scalar::new(sums.iter().sum::<f64>().sqrt(), flat.device())
}
