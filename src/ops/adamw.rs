//! AdamW (Loshchilov and Hutter 2019) over one flat buffer, and the norm of a flat gradient.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::write;

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
    /// Its place in the buffer.
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
    /// The values in the type that a card computes with, written anew; `None` where values are computed with as they are.
    pub copy: Option<&'a Tensor>,
}

impl AdamW {
    /// One update of a gradient multiplied by `gradient_scale` (clipping) first.
    pub fn update(&self, buffers: Buffers, segments: &[Segment], gradient_scale: f64) -> Result<()> {
        on_cuda!(buffers.values.device(), crate::ops::cuda::adamw::update(self, buffers, segments, gradient_scale));
        let gradients = slice::<f32>(buffers.gradients)?;
        let gradients: &[f32] = &gradients;
        // The nested writes lock three buffers at once; what fails inside is carried out by hand.
        let (mut inner, mut innermost) = (Ok(()), Ok(()));
        write::<f32>(buffers.values, |values| {
            inner = write::<f32>(buffers.first, |first| {
                innermost = write::<f32>(buffers.second, |second| {
                    for segment in segments {
                        let range = segment.range.clone();
                        let (rate, keep, root) = self.factors(segment);
                        let (b1, b2, eps) = (self.beta1 as f32, self.beta2 as f32, self.eps as f32);
                        let (c1, c2, scale) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32, gradient_scale as f32);
                        values[range.clone()]
                            .par_chunks_mut(CHUNK)
                            .zip(first[range.clone()].par_chunks_mut(CHUNK))
                            .zip(second[range.clone()].par_chunks_mut(CHUNK))
                            .zip(gradients[range].par_chunks(CHUNK))
                            .for_each(|(((values, first), second), gradients)| {
                                vectorised(
                                    #[inline(always)]
                                    || {
                                        for (((p, m), v), &g) in values.iter_mut().zip(first).zip(second).zip(gradients) {
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

    /// Of a segment's update: the rate with the first moment's bias corrected, what decay leaves, and the second moment's correction.
    pub fn factors(&self, segment: &Segment) -> (f32, f32, f32) {
        let step = segment.step as i32;
        let (bias1, bias2) = (1.0 - self.beta1.powi(step), 1.0 - self.beta2.powi(step));
        let keep = if segment.decay { (1.0 - segment.learning_rate * self.weight_decay) as f32 } else { 1.0 };
        ((segment.learning_rate / bias1) as f32, keep, (1.0 / bias2.sqrt()) as f32)
    }
}

const CHUNK: usize = 1 << 14;

/// Euclidean norm of a flat `f32` tensor, summed in `f64` in an order that does not depend on the threads.
pub fn norm(flat: &Tensor) -> Result<f64> {
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
    Ok(sums.iter().sum::<f64>().sqrt())
}
