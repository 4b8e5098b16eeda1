//! Self-attention of speech encoders: every position attends to all positions of its window.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::windows::HiddenDropout;
use crate::nn::windows::Windows;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::attention;
use crate::ops::attention::attention_backward;
use crate::ops::linear::Linear;
use crate::ops::rows::add_to;

/// `y = r + mask (W_o attention(q, k, v) + b_o)` with `[q, k, v] = W_qkv x + b_qkv`, a residual `r`
/// and the mask of the hidden dropout, if any.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    /// Projections of queries, keys and values, stacked.
    pub qkv: Linear,
    /// Output projection.
    pub output: Linear,
    /// Division of the stacked projection into heads.
    pub heads: Heads,
}

/// Tensors that the backward of [`SelfAttention`] needs.
pub struct AttentionSaved {
    qkv: Tensor,
    qkv_hidden: Option<Tensor>,
    attended: Tensor,
    log_sums: Tensor,
    output_hidden: Option<Tensor>,
}

impl SelfAttention {
    /// Computes the formula of the type.
    ///
    /// # Shapes
    /// `x`, `residual`: `[positions, dim]` -> `[positions, dim]`
    pub fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        windows: &Windows,
    ) -> Result<(Tensor, AttentionSaved)> {
        let dropout = windows.dropout;

        let (qkv, qkv_hidden) = self.qkv.forward(x, None, dropout)?;
        let (attended, log_sums) = attention(&qkv, windows.cu_positions, self.heads, Mask::Full)?;
        let (y, output_hidden) = if windows.hidden.is_on() {
            let (y, hidden) = self.output.forward(&attended, None, dropout)?;
            let y = windows.hidden.apply(&y, HiddenDropout::ATTENTION)?;
            add_to(&y, residual)?;
            (y, hidden)
        } else {
            self.output.forward(&attended, Some(residual), dropout)?
        };

        let saved = AttentionSaved {
            qkv,
            qkv_hidden,
            attended,
            log_sums,
            output_hidden,
        };
        Ok((y, saved))
    }

    /// `dx = W_qkv^T d[q, k, v]` where it is wanted, with `d[q, k, v]` the gradient of attention
    /// for `W_o^T dy`; adds to the gradients of both projections. The gradient of the residual is
    /// `dy`.
    ///
    /// # Shapes
    /// `dy`, `x`: `[positions, dim]` -> `[positions, dim]`
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        saved: &AttentionSaved,
        windows: &Windows,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let dropout = windows.dropout;

        let dy = windows.hidden.apply(dy, HiddenDropout::ATTENTION)?;
        let d_attended = self.output.backward_to_input(
            &dy,
            &saved.attended,
            saved.output_hidden.as_ref(),
            dropout,
        )?;
        let d_qkv = attention_backward(
            &d_attended,
            &saved.qkv,
            &saved.attended,
            &saved.log_sums,
            windows.cu_positions,
            self.heads,
            Mask::Full,
        )?;
        let hidden = saved.qkv_hidden.as_ref();
        self.qkv.backward(&d_qkv, x, hidden, dropout, want_input)
    }
}
