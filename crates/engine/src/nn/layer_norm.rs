//! A layer norm with a scale and a shift.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::norm::LayerNormStatistics;
use crate::ops::norm::layer_norm;
use crate::ops::norm::layer_norm_again;
use crate::ops::norm::layer_norm_backward;
use crate::ops::weight::Weight;

/// `y = (x - mean) / sqrt(variance + eps) * w + b` (Ba et al. 2016), row by row.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Scale `w`, `[dim]`.
    pub weight: Weight,
    /// Shift `b`, `[dim]`.
    pub bias: Weight,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// PyTorch's default for [`LayerNorm::eps`].
    pub const EPS: f64 = 1e-5;

    /// Normalises rows; returns mean and inverse standard deviation of each beside them.
    ///
    /// # Shapes
    /// `x`: `[rows, dim]` -> the same
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, LayerNormStatistics)> {
        layer_norm(x, &self.weight.value, &self.bias.value, self.eps)
    }

    /// Computes the same rows from the statistics of the forward.
    pub fn again(&self, x: &Tensor, statistics: &LayerNormStatistics) -> Result<Tensor> {
        layer_norm_again(x, &self.weight.value, &self.bias.value, statistics)
    }

    /// `dx = r (g - mean(g) - h mean(g h)) + residual` with `h = (x - mean) r` and `g = w dy`;
    /// `dw += sum over rows of dy h` and `db += sum over rows of dy` where they are trained.
    ///
    /// # Shapes
    /// `dy`, `x`, `residual`: `[rows, dim]` -> `[rows, dim]`
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

    /// Whether scale and shift are trained.
    pub fn is_trained(&self) -> bool {
        self.weight.gradient.is_some()
    }

    /// Scale and shift.
    pub fn weights_mut(&mut self) -> [&mut Weight; 2] {
        [&mut self.weight, &mut self.bias]
    }
}
