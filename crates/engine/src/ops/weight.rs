//! Weights: frozen or trained, in full precision or in fp8.

use std::sync::Arc;

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::slice;
use crate::ops::few_rows;
use crate::ops::few_rows::HalfMatrix;

/// A frozen weight's other half in fp8.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// The weight once more, transposed before it was rounded: `[in, out]`.
    pub transposed: Tensor,
    /// On a GPU a number is its value times the scale of its row; on the CPU the values are these
    /// products, in `f32`.
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
    /// The values; for a trained weight a view into the flat buffer of all of them, or into its
    /// copy of the type that is computed with.
    pub value: Tensor,
    /// Buffer that the gradient is added to; `None` for a frozen weight.
    pub gradient: Option<Tensor>,
    /// Second half of a weight in fp8.
    pub quantised: Option<Quantised>,
    /// The values once more in bf16, after [`Weight::add_half`].
    half: Option<Arc<HalfMatrix>>,
}

impl Weight {
    /// A weight that is not trained.
    pub fn frozen(value: Tensor) -> Self {
        Self {
            value,
            gradient: None,
            quantised: None,
            half: None,
        }
    }

    /// A weight that is trained.
    pub fn trained(value: Tensor, gradient: Tensor) -> Self {
        Self {
            value,
            gradient: Some(gradient),
            quantised: None,
            half: None,
        }
    }

    /// A frozen weight in fp8.
    pub fn quantised(value: Tensor, quantised: Quantised) -> Self {
        Self {
            quantised: Some(quantised),
            ..Self::frozen(value)
        }
    }

    /// Keeps the values of a frozen matrix once more, in bf16, for [`Weight::product_few`]. Does
    /// nothing if a value is not exact in bf16, for weights that are trained or quantised, and on a
    /// GPU.
    pub fn add_half(&mut self) -> Result<()> {
        let is_plain = self.gradient.is_none() && self.quantised.is_none();
        if is_plain && self.value.device().is_cpu() && self.value.dtype() == DType::F32 {
            let (_, dim) = self.value.dims2()?;
            self.half = HalfMatrix::new(&slice::<f32>(&self.value)?, dim).map(Arc::new);
        }
        Ok(())
    }

    /// `x w^T` for up to [`few_rows::MOST`] rows on the CPU, in `f32`.
    ///
    /// # Shapes
    /// `x`: `[rows, in]`, the weight: `[out, in]` -> `[rows, out]`
    pub fn product_few(&self, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        if let Some(half) = &self.half {
            return Ok(half.product_few(x, rows));
        }
        let (_, dim) = self.value.dims2()?;
        let w = slice::<f32>(&self.value)?;
        Ok(few_rows::product_few(x, rows, dim, &w))
    }
}
