//! A layer norm with a scale and a shift.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::linear::Weight;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::norm::layer_norm;
use crate::ops::norm::layer_norm_again;
use crate::ops::norm::layer_norm_backward;

/// Added to the variance.
const EPS: f64 = 1e-5;

/// Scale and shift of a layer norm.
#[derive(Debug)]
pub struct LayerNorm {
    /// `[dim]`.
    pub weight: Weight,
    /// `[dim]`.
    pub bias: Weight,
}

impl LayerNorm {
    /// Normalises rows, `[rows, dim]`; returns what the backward needs beside them.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, LayerNormStatistics)> {
        layer_norm(x, &self.weight.value, &self.bias.value, EPS)
    }

    /// The same rows from the statistics of the forward.
    pub fn again(&self, x: &Tensor, statistics: &LayerNormStatistics) -> Result<Tensor> {
        layer_norm_again(x, &self.weight.value, &self.bias.value, statistics)
    }

    /// Adds to the gradients of scale and shift where they have one; returns the gradient of the input, `residual` added.
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
