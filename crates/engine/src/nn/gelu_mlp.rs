//! The two linear layers around GELU in a layer of a speech encoder.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::windows::HiddenDropout;
use crate::nn::windows::Windows;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::rows::add_to;

/// `y = r + mask (W_2 gelu(W_1 x + b_1) + b_2)` with a residual `r` and the mask of the hidden
/// dropout, if any.
#[derive(Clone, Debug)]
pub struct GeluMlp {
    /// `W_1`, `b_1`.
    pub fc1: Linear,
    /// `W_2`, `b_2`.
    pub fc2: Linear,
}

/// Tensors of the first half of [`GeluMlp`] that its backward needs.
pub struct MlpSaved {
    /// `W_1 x + b_1`.
    before: Tensor,
    fc1_hidden: Option<Tensor>,
}

impl MlpSaved {
    /// `gelu(W_1 x + b_1)` once more.
    pub fn activated(&self) -> Result<Tensor> {
        gelu(&self.before)
    }
}

impl GeluMlp {
    /// The first half, `gelu(W_1 x + b_1)`.
    ///
    /// # Shapes
    /// `x`: `[positions, dim]` -> `[positions, ffn]`
    pub fn activate(&self, x: &Tensor, dropout: AdapterDropout) -> Result<(Tensor, MlpSaved)> {
        let (before, fc1_hidden) = self.fc1.forward(x, None, dropout)?;
        let activated = gelu(&before)?;
        Ok((activated, MlpSaved { before, fc1_hidden }))
    }

    /// The second half, `r + mask (W_2 activated + b_2)`, and what the backward of its adapters
    /// needs.
    ///
    /// # Shapes
    /// `activated`: `[positions, ffn]`, `residual`: `[positions, dim]` -> `[positions, dim]`
    pub fn project(
        &self,
        activated: &Tensor,
        residual: &Tensor,
        windows: &Windows,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if !windows.hidden.is_on() {
            return self.fc2.forward(activated, Some(residual), windows.dropout);
        }
        let (y, fc2_hidden) = self.fc2.forward(activated, None, windows.dropout)?;
        let y = windows.hidden.apply(&y, HiddenDropout::MLP)?;
        add_to(&y, residual)?;
        Ok((y, fc2_hidden))
    }

    /// `dx = W_1^T ((W_2^T mask dy) gelu'(W_1 x + b_1))`; adds to the gradients of both linear
    /// layers. The gradient of the residual is `dy`.
    ///
    /// # Shapes
    /// `dy`, `x`: `[positions, dim]`, `activated`: `[positions, ffn]` -> `[positions, dim]`
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        activated: &Tensor,
        saved: &MlpSaved,
        fc2_hidden: Option<&Tensor>,
        windows: &Windows,
    ) -> Result<Tensor> {
        let dropout = windows.dropout;
        let dy = &windows.hidden.apply(dy, HiddenDropout::MLP)?;
        let d_activated = self
            .fc2
            .backward_to_input(dy, activated, fc2_hidden, dropout)?;
        let d_before = gelu_backward(&d_activated, &saved.before)?;
        let hidden = saved.fc1_hidden.as_ref();
        self.fc1.backward_to_input(&d_before, x, hidden, dropout)
    }
}
