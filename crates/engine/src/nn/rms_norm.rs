//! A root-mean-square norm with a scale.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::layout::Layout;
use crate::ops::norm::rms_norm;
use crate::ops::norm::rms_norm_again;
use crate::ops::norm::rms_norm_backward;
use crate::ops::weight::Weight;

/// `y = x / sqrt(mean(x^2) + eps) * w` (Zhang and Sennrich 2019), row by row.
///
/// Every result is laid out for its reader: the linear layer that multiplies it next.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Scale `w`, `[dim]`.
    pub weight: Weight,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// Normalises rows; returns `r = 1 / sqrt(mean(x^2) + eps)` beside them.
    ///
    /// # Shapes
    /// `x`: `[rows, dim]` -> `[rows, dim]` and `[rows]`
    pub fn forward(&self, x: &Tensor, reader: impl Into<Layout>) -> Result<(Tensor, Tensor)> {
        rms_norm(x, &self.weight.value, self.eps, reader)
    }

    /// Computes the same rows from the `r` of the forward.
    pub fn again(&self, x: &Tensor, r: &Tensor, reader: impl Into<Layout>) -> Result<Tensor> {
        rms_norm_again(x, &self.weight.value, r, reader)
    }

    /// `dx = r g - x r^3 mean(g x) + residual` with `g = w dy`, and
    /// `dw += sum over rows of dy x r`.
    ///
    /// # Shapes
    /// `dy`, `x`, `residual`: `[rows, dim]`, `r`: `[rows]` -> `[rows, dim]`
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        r: &Tensor,
        residual: Option<&Tensor>,
        reader: impl Into<Layout>,
    ) -> Result<Tensor> {
        rms_norm_backward(
            dy,
            x,
            &self.weight.value,
            r,
            residual,
            self.weight.gradient.as_ref(),
            reader,
        )
    }

    /// Whether the scale is trained.
    pub fn is_trained(&self) -> bool {
        self.weight.gradient.is_some()
    }
}
