//! The projector between audio encoder and decoder: a linear layer, or two with GELU between them,
//! perhaps behind a norm; forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::layer_norm::LayerNorm;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::weight::Weight;

/// `y = W x + b`, or `y = W_2 gelu(W_1 x + b_1) + b_2`; where there is a norm, of `norm(x)` in
/// place of `x`.
#[derive(Debug)]
pub struct Projector {
    /// The norm of the input.
    pub norm: Option<LayerNorm>,
    /// The first of two.
    pub hidden: Option<Linear>,
    /// To the width of the decoder.
    pub output: Linear,
}

/// Tensors that the backward needs beside the input.
pub struct ProjectorSaved {
    /// Output of the norm, and what it found.
    normed: Option<(Tensor, LayerNormStatistics)>,
    /// Output of the first layer before GELU, and its adapter's hidden rows.
    hidden: Option<(Tensor, Option<Tensor>)>,
    output_hidden: Option<Tensor>,
}

impl Projector {
    /// Whether there is something to train.
    pub fn is_trained(&self) -> bool {
        self.output.is_trained()
            || self.hidden.as_ref().is_some_and(Linear::is_trained)
            || self.is_norm_trained()
    }

    fn is_norm_trained(&self) -> bool {
        self.norm.as_ref().is_some_and(LayerNorm::is_trained)
    }

    /// Its linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.hidden.iter_mut().chain([&mut self.output])
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let Self {
            norm,
            hidden,
            output,
        } = self;
        let linears = hidden.iter_mut().chain([output]);
        let mut found: Vec<&mut Weight> = linears.flat_map(Linear::weights_mut).collect();
        found.extend(norm.iter_mut().flat_map(LayerNorm::weights_mut));
        found
    }

    /// The formula of the type.
    ///
    /// # Shapes
    /// `x`: `[audio tokens, d_model]` -> `[audio tokens, hidden]`
    pub fn forward(&self, x: &Tensor, dropout: AdapterDropout) -> Result<(Tensor, ProjectorSaved)> {
        let normed = self.norm.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().map_or(x, |(normed, _)| normed);

        let Some(first) = &self.hidden else {
            let (y, output_hidden) = self.output.forward(x, None, dropout)?;
            let saved = ProjectorSaved {
                normed,
                hidden: None,
                output_hidden,
            };
            return Ok((y, saved));
        };
        let (before, hidden) = first.forward(x, None, dropout)?;
        let (y, output_hidden) = self.output.forward(&gelu(&before)?, None, dropout)?;
        let saved = ProjectorSaved {
            normed,
            hidden: Some((before, hidden)),
            output_hidden,
        };
        Ok((y, saved))
    }

    /// `dx = norm'(W_1^T ((W_2^T dy) gelu'(W_1 norm(x) + b_1)))`, or without what there is not.
    /// Adds to the gradients of what is trained; returns the gradient of the input where it is
    /// wanted.
    ///
    /// # Shapes
    /// `dy`: `[audio tokens, hidden]`, `x`: `[audio tokens, d_model]` -> `[audio tokens, d_model]`
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        saved: &ProjectorSaved,
        dropout: AdapterDropout,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let (Some(norm), Some((normed, statistics))) = (&self.norm, &saved.normed) else {
            return self.linears_backward(dy, x, saved, dropout, want_input);
        };
        let below = want_input || norm.is_trained();
        let Some(d_normed) = self.linears_backward(dy, normed, saved, dropout, below)? else {
            return Ok(None);
        };
        let dx = norm.backward(&d_normed, x, statistics, None)?;
        Ok(want_input.then_some(dx))
    }

    /// The backward of the linear layers, whose input is `x`.
    fn linears_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        saved: &ProjectorSaved,
        dropout: AdapterDropout,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let output_hidden = saved.output_hidden.as_ref();
        let (Some(first), Some((before, hidden))) = (&self.hidden, &saved.hidden) else {
            return self
                .output
                .backward(dy, x, output_hidden, dropout, want_input);
        };
        let below = want_input || first.is_trained();
        let activated = gelu(before)?;
        let d_activated = self
            .output
            .backward(dy, &activated, output_hidden, dropout, below)?;
        let Some(d_activated) = d_activated else {
            return Ok(None);
        };

        let d_before = gelu_backward(&d_activated, before)?;
        first.backward(&d_before, x, hidden.as_ref(), dropout, want_input)
    }
}
