//! Weights: frozen or trained, in full precision or in fp8.

use candle_core::Tensor;

/// A frozen weight's other half in fp8.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// The weight once more, transposed before it was rounded: `[in, out]`.
    pub transposed: Tensor,
    /// On a GPU a number is its value times the scale of its row; on the CPU the values are these products, in `f32`.
    pub scales: Option<Scales>,
}

/// Scales of rows, in `f32`.
#[derive(Clone, Debug)]
pub struct Scales {
    /// Scales of the weight's rows, `[out]`.
    pub by_output: Tensor,
    /// Scales of the transposed weight's rows, `[in]`.
    pub by_input: Tensor,
}

/// A tensor of the model: frozen, or trained with a place where its gradient is added.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The values; for a trained weight a view into the flat buffer of all of them, or into its copy of the type that is computed with.
    pub value: Tensor,
    /// Buffer that the gradient is added to; `None` for a frozen weight.
    pub gradient: Option<Tensor>,
    /// Second half of a weight in fp8.
    pub quantised: Option<Quantised>,
}

impl Weight {
    /// A weight that is not trained.
    pub fn frozen(value: Tensor) -> Self {
        Self {
            value,
            gradient: None,
            quantised: None,
        }
    }

    /// A weight that is trained.
    pub fn trained(value: Tensor, gradient: Tensor) -> Self {
        Self {
            value,
            gradient: Some(gradient),
            quantised: None,
        }
    }
}
