//! The projector between audio encoder and decoder: a linear layer, or two with GELU between them; forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;

/// `y = W x + b`, or `y = W_2 gelu(W_1 x + b_1) + b_2`.
#[derive(Debug)]
pub struct Projector {
    /// The first of two, as wide as the encoder.
    pub hidden: Option<Linear>,
    /// To the width of the decoder.
    pub output: Linear,
}

/// Tensors that the backward needs beside the input.
pub struct ProjectorSaved {
    /// Output of the first layer before GELU, and its adapter's hidden rows.
    hidden: Option<(Tensor, Option<Tensor>)>,
    output_hidden: Option<Tensor>,
}

impl Projector {
    /// Whether there is something to train.
    pub fn is_trained(&self) -> bool {
        self.output.is_trained() || self.hidden.as_ref().is_some_and(Linear::is_trained)
    }

    /// Its linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.hidden.iter_mut().chain([&mut self.output])
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        self.linears_mut().flat_map(Linear::weights_mut).collect()
    }

    /// `W x + b`, or `W_2 gelu(W_1 x + b_1) + b_2`.
    ///
    /// # Shapes
    /// `x`: `[audio tokens, d_model]` -> `[audio tokens, hidden]`
    pub fn forward(&self, x: &Tensor, dropout: AdapterDropout) -> Result<(Tensor, ProjectorSaved)> {
        let Some(first) = &self.hidden else {
            let (y, output_hidden) = self.output.forward(x, None, dropout)?;
            let saved = ProjectorSaved {
                hidden: None,
                output_hidden,
            };
            return Ok((y, saved));
        };
        let (before, hidden) = first.forward(x, None, dropout)?;
        let (y, output_hidden) = self.output.forward(&gelu(&before)?, None, dropout)?;
        let saved = ProjectorSaved {
            hidden: Some((before, hidden)),
            output_hidden,
        };
        Ok((y, saved))
    }

    /// Adds to the gradients of what is trained; returns the gradient of the input where it is wanted.
    pub fn backward(
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
