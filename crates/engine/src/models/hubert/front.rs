//! From samples to frames: the convolutional feature extractor, its projection, and the positional
//! convolution.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::layer_norm::LayerNorm;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::cpu::slice;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::group_norm;
use crate::ops::group_norm::group_norm;
use crate::ops::group_norm::group_norm_backward;
use crate::ops::grouped_convolution;
use crate::ops::grouped_convolution::Groups;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::norm::add_rows;
use crate::ops::rows::add_to;
use crate::ops::strided_convolution::Window;
use crate::ops::strided_convolution::convolve;
use crate::ops::strided_convolution::convolve_backward;
use crate::ops::weight::Weight;
use crate::ops::weight_norm::WeightNorm;

/// Norm after a convolution.
#[derive(Clone, Debug)]
pub enum ConvolutionNorm {
    /// None.
    None,
    /// Each channel over the time of its clip.
    Group(LayerNorm),
    /// Each position over its channels.
    Layer(LayerNorm),
}

/// One convolution, its norm, and GELU.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// `[out, kernel * in]`, taps outermost.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
    /// Kernel and stride.
    pub window: Window,
    /// Norm before GELU.
    pub norm: ConvolutionNorm,
}

/// Tensors that a convolution's backward needs.
pub struct ConvolutionSaved {
    /// Input.
    x: Tensor,
    /// Rows of each clip of the input.
    lens: Vec<usize>,
    /// Input of the norm, and what it found.
    norm: NormSaved,
    /// Input of GELU.
    before: Tensor,
}

enum NormSaved {
    None,
    Group(Tensor, group_norm::Statistics),
    Layer(Tensor, LayerNormStatistics),
}

impl Convolution {
    /// # Shapes
    /// `x`: `[sum of lens, in]` -> `[sum of outputs, out]`
    pub fn forward(&self, x: Tensor, lens: &[usize]) -> Result<(Tensor, ConvolutionSaved)> {
        let y = convolve(&x, lens, &self.weight, self.bias.as_ref(), self.window)?;
        let (before, norm) = match &self.norm {
            ConvolutionNorm::None => (y, NormSaved::None),
            ConvolutionNorm::Group(norm) => {
                let outputs = self.outputs(lens);
                let (normed, statistics) =
                    group_norm(&y, &outputs, &norm.weight, &norm.bias, norm.eps)?;
                (normed, NormSaved::Group(y, statistics))
            }
            ConvolutionNorm::Layer(norm) => {
                let (normed, statistics) = norm.forward(&y)?;
                (normed, NormSaved::Layer(y, statistics))
            }
        };
        let y = gelu(&before)?;
        let saved = ConvolutionSaved {
            x,
            lens: lens.to_vec(),
            norm,
            before,
        };
        Ok((y, saved))
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut found = vec![&mut self.weight];
        found.extend(&mut self.bias);
        match &mut self.norm {
            ConvolutionNorm::None => {}
            ConvolutionNorm::Group(norm) | ConvolutionNorm::Layer(norm) => {
                found.extend(norm.weights_mut());
            }
        }
        found
    }

    /// Rows of each clip of the output.
    pub fn outputs(&self, lens: &[usize]) -> Vec<usize> {
        lens.iter()
            .map(|&len| self.window.num_outputs(len))
            .collect()
    }

    /// Adds to the gradients of the weights; returns the gradient of the input where it is wanted.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &ConvolutionSaved,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let d_before = gelu_backward(dy, &saved.before)?;
        let d_y = match (&self.norm, &saved.norm) {
            (ConvolutionNorm::Group(norm), NormSaved::Group(y, statistics)) => {
                let outputs = self.outputs(&saved.lens);
                group_norm_backward(&d_before, y, &outputs, &norm.weight, &norm.bias, statistics)?
            }
            (ConvolutionNorm::Layer(norm), NormSaved::Layer(y, statistics)) => {
                norm.backward(&d_before, y, statistics, None)?
            }
            _ => d_before,
        };
        convolve_backward(
            &d_y,
            &saved.x,
            &saved.lens,
            &self.weight,
            self.bias.as_ref(),
            self.window,
            want_input,
        )
    }
}

/// From the channels of the last convolution to the width of the transformer.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `feature_projection.layer_norm`.
    pub norm: Option<LayerNorm>,
    /// `feature_projection.projection`.
    pub linear: Linear,
}

/// Tensors that the projection's backward needs.
pub struct ProjectionSaved {
    x: Tensor,
    statistics: Option<LayerNormStatistics>,
    normed: Tensor,
}

impl Projection {
    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let norm = self.norm.iter_mut().flat_map(LayerNorm::weights_mut);
        norm.chain(self.linear.weights_mut()).collect()
    }

    /// # Shapes
    /// `x`: `[frames, channels]` -> `[frames, hidden]`
    pub fn forward(&self, x: Tensor) -> Result<(Tensor, ProjectionSaved)> {
        let (normed, statistics) = match &self.norm {
            Some(norm) => {
                let (normed, statistics) = norm.forward(&x)?;
                (normed, Some(statistics))
            }
            None => (x.clone(), None),
        };
        let (y, _) = self.linear.forward(&normed, None, AdapterDropout::NONE)?;
        let saved = ProjectionSaved {
            x,
            statistics,
            normed,
        };
        Ok((y, saved))
    }

    /// Adds to the gradients of the weights; returns the gradient of the input.
    pub fn backward(&self, dy: &Tensor, saved: &ProjectionSaved) -> Result<Tensor> {
        let d_normed =
            self.linear
                .backward_to_input(dy, &saved.normed, None, AdapterDropout::NONE)?;
        match (&self.norm, &saved.statistics) {
            (Some(norm), Some(statistics)) => norm.backward(&d_normed, &saved.x, statistics, None),
            _ => Ok(d_normed),
        }
    }
}

/// The positional convolution: `x + gelu(convolution(x) + bias)`.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Weights.
    pub weight: WeightNorm,
    /// `[hidden]`.
    pub bias: Weight,
    /// Sizes.
    pub groups: Groups,
}

/// Tensors that the positional convolution's backward needs.
pub struct PositionsSaved {
    x: Tensor,
    weight: Tensor,
    before: Tensor,
}

impl Positions {
    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> [&mut Weight; 3] {
        let Self { weight, bias, .. } = self;
        [&mut weight.length, &mut weight.direction, bias]
    }

    /// # Shapes
    /// `x`: `[sum of lens, hidden]` -> the same
    pub fn forward(&self, x: &Tensor, lens: &[usize]) -> Result<(Tensor, PositionsSaved)> {
        let weight = self.weight.weight()?;
        let before = grouped_convolution::convolve(x, lens, &weight, self.groups)?;
        add_bias(&before, &self.bias.value)?;
        let y = gelu(&before)?;
        add_to(&y, x)?;
        let saved = PositionsSaved {
            x: x.clone(),
            weight,
            before,
        };
        Ok((y, saved))
    }

    /// Adds to the gradients of the weights; returns the gradient of the input.
    pub fn backward(&self, dy: &Tensor, saved: &PositionsSaved, lens: &[usize]) -> Result<Tensor> {
        let d_before = gelu_backward(dy, &saved.before)?;
        if let Some(gradient) = &self.bias.gradient {
            let rows = d_before.dim(0)?;
            with_real!(d_before, T => {
                let d: &[T] = &slice::<T>(&d_before)?;
                write::<T>(gradient, |db| add_rows(db, rows, d))?;
            });
        }
        let d_weight = match &self.weight.direction.gradient {
            Some(_) => Some(saved.weight.zeros_like()?),
            None => None,
        };
        let dx = grouped_convolution::convolve_backward(
            &d_before,
            &saved.x,
            lens,
            &saved.weight,
            d_weight.as_ref(),
            self.groups,
        )?;
        if let Some(d_weight) = &d_weight {
            self.weight.backward(d_weight)?;
        }
        add_to(&dx, dy)?;
        Ok(dx)
    }
}

/// Adds a row to every row, in place.
fn add_bias(x: &Tensor, bias: &Tensor) -> Result<()> {
    let (_, dim) = x.dims2()?;
    with_real!(x, T => {
        let bias: &[T] = &slice::<T>(bias)?;
        write::<T>(x, |x| {
            crate::ops::cpu::for_rows(
                x,
                dim,
                #[inline(always)]
                |_, x: &mut [T]| x.iter_mut().zip(bias).for_each(|(x, &b)| *x += b),
            );
        })
    })
}
