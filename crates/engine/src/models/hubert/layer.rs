//! One transformer layer of HuBERT, with norms before (HuBERT-large, XLS-R) or after (HuBERT-base) attention and MLP.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::attention;
use crate::ops::attention::attention_backward;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::norm::layer_norm;
use crate::ops::norm::layer_norm_backward;
use crate::ops::rows::add_to;

/// Encoders have no adapters, so nothing is dropped in their linear layers.
pub(super) const NO_DROPOUT: AdapterDropout<'static> = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

/// A layer norm with its weights.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Scale, `[dim]`.
    pub weight: Weight,
    /// Shift, `[dim]`.
    pub bias: Weight,
    /// Added to the variance.
    pub eps: f64,
}

impl Norm {
    /// # Shapes
    /// `x`: `[positions, dim]` -> the same
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, LayerNormStatistics)> {
        layer_norm(x, &self.weight.value, &self.bias.value, self.eps)
    }

    /// Adds to the gradients of scale and shift; returns the gradient of the input, `residual` added.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        statistics: &LayerNormStatistics,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let gradients = self
            .weight
            .gradient
            .as_ref()
            .zip(self.bias.gradient.as_ref());
        layer_norm_backward(dy, x, &self.weight.value, statistics, residual, gradients)
    }
}

/// A linear layer's backward, whose input's gradient is always there.
pub(super) fn linear_backward(linear: &Linear, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    match linear.backward(dy, x, None, NO_DROPOUT, true)? {
        Some(dx) => Ok(dx),
        None => candle_core::bail!("a linear layer's backward returned no gradient of its input"),
    }
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `attention.q_proj`, `k_proj` and `v_proj`, stacked.
    pub qkv: Linear,
    /// `attention.out_proj`.
    pub output: Linear,
    /// `layer_norm`: before attention, or after it and the residual.
    pub attention_norm: Norm,
    /// `feed_forward.intermediate_dense`.
    pub fc1: Linear,
    /// `feed_forward.output_dense`.
    pub fc2: Linear,
    /// `final_layer_norm`: before the MLP, or after it and the residual.
    pub mlp_norm: Norm,
    /// How the stacked projection divides.
    pub heads: Heads,
    /// Whether norms come first (`do_stable_layer_norm`).
    pub norms_first: bool,
}

/// What a layer's backward needs.
pub struct Saved {
    /// Input of the attention norm, and what it found: the layer's input, or attention with the residual.
    attention_norm: (Tensor, LayerNormStatistics),
    /// Input of the stacked projection.
    attention_in: Tensor,
    qkv: Tensor,
    attended: Tensor,
    log_sums: Tensor,
    /// Input of the MLP norm, and what it found.
    mlp_norm: (Tensor, LayerNormStatistics),
    /// Input of the MLP.
    mlp_in: Tensor,
    before: Tensor,
    activated: Tensor,
}

impl Layer {
    /// # Shapes
    /// `x`: `[frames, hidden]`, `cu_frames`: starts of the clips, and the number of frames -> `[frames, hidden]`
    pub fn forward(&self, x: &Tensor, cu_frames: &[usize]) -> Result<(Tensor, Saved)> {
        let (attention_in, first) = if self.norms_first {
            let (normed, statistics) = self.attention_norm.forward(x)?;
            (normed, Some((x.clone(), statistics)))
        } else {
            (x.clone(), None)
        };
        let (qkv, _) = self.qkv.forward(&attention_in, None, NO_DROPOUT)?;
        let (attended, log_sums) = attention(&qkv, cu_frames, self.heads, Mask::Full)?;
        let (middle, _) = self.output.forward(&attended, Some(x), NO_DROPOUT)?;

        // In the form with norms last the MLP reads and adds to what the first norm leaves.
        let (mlp_in, attention_norm, mlp_first) = match first {
            Some(saved) => {
                let (normed, statistics) = self.mlp_norm.forward(&middle)?;
                (normed, saved, Some((middle.clone(), statistics)))
            }
            None => {
                let (normed, statistics) = self.attention_norm.forward(&middle)?;
                (normed, (middle.clone(), statistics), None)
            }
        };
        let (before, _) = self.fc1.forward(&mlp_in, None, NO_DROPOUT)?;
        let activated = gelu(&before)?;
        let residual = if self.norms_first { &middle } else { &mlp_in };
        let (sum, _) = self.fc2.forward(&activated, Some(residual), NO_DROPOUT)?;

        let (y, mlp_norm) = match mlp_first {
            Some(saved) => (sum, saved),
            None => {
                let (y, statistics) = self.mlp_norm.forward(&sum)?;
                (y, (sum, statistics))
            }
        };
        let saved = Saved {
            attention_norm,
            attention_in,
            qkv,
            attended,
            log_sums,
            mlp_norm,
            mlp_in,
            before,
            activated,
        };
        Ok((y, saved))
    }

    /// Adds to the gradients of the layer's weights; returns the gradient of its input.
    pub fn backward(&self, dy: &Tensor, saved: &Saved, cu_frames: &[usize]) -> Result<Tensor> {
        let (mlp_norm_in, mlp_statistics) = &saved.mlp_norm;
        let (attention_norm_in, attention_statistics) = &saved.attention_norm;

        // Gradient of the sum of MLP and residual.
        let d_sum = if self.norms_first {
            dy.clone()
        } else {
            self.mlp_norm
                .backward(dy, mlp_norm_in, mlp_statistics, None)?
        };
        let d_activated = linear_backward(&self.fc2, &d_sum, &saved.activated)?;
        let d_before = gelu_backward(&d_activated, &saved.before)?;
        let d_mlp_in = linear_backward(&self.fc1, &d_before, &saved.mlp_in)?;

        // Gradient of the sum of attention and residual.
        let d_middle = if self.norms_first {
            self.mlp_norm
                .backward(&d_mlp_in, mlp_norm_in, mlp_statistics, Some(&d_sum))?
        } else {
            add_to(&d_mlp_in, &d_sum)?;
            self.attention_norm.backward(
                &d_mlp_in,
                attention_norm_in,
                attention_statistics,
                None,
            )?
        };
        let d_attended = linear_backward(&self.output, &d_middle, &saved.attended)?;
        let d_qkv = attention_backward(
            &d_attended,
            &saved.qkv,
            &saved.attended,
            &saved.log_sums,
            cu_frames,
            self.heads,
            Mask::Full,
        )?;
        let d_attention_in = linear_backward(&self.qkv, &d_qkv, &saved.attention_in)?;
        if self.norms_first {
            return self.attention_norm.backward(
                &d_attention_in,
                attention_norm_in,
                attention_statistics,
                Some(&d_middle),
            );
        }
        add_to(&d_attention_in, &d_middle)?;
        Ok(d_attention_in)
    }
}
