//! The layers of the decoder, one after the other.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::cache::Cache;
use crate::nn::decoder_layer::DecoderLayer;
use crate::nn::decoder_layer::Packing;
use crate::nn::decoder_layer::Saved;
use crate::nn::saving::wanted;
use crate::ops::layout::Layout;
use crate::ops::linear::Linear;
use crate::ops::rotary::Rotary;

/// `x_(i + 1) = layer_i(x_i)`.
#[derive(Debug)]
pub struct Decoder {
    /// The layers, in their order.
    pub layers: Vec<DecoderLayer>,
}

impl From<&Decoder> for Layout {
    /// The layout that the last layer wants for the gradient of its output.
    fn from(decoder: &Decoder) -> Self {
        decoder.layers.last().map_or(Self::DENSE, Self::from)
    }
}

impl Decoder {
    /// The output of the last layer, of the rows that `keep` names alone, and what each layer
    /// saves.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]` -> `[tokens, dim]`, or `[keep, dim]`
    pub fn forward(
        &self,
        mut x: Tensor,
        packing: &Packing,
        keep: Option<&[u32]>,
    ) -> Result<(Tensor, Vec<Saved>)> {
        let mut saved = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, of_layer) = layer.forward(&x, packing, keep.filter(|_| self.is_last(i)))?;
            saved.push(of_layer);
            x = y;
        }
        Ok((x, saved))
    }

    /// As [`Decoder::forward`] where no backward follows: nothing is kept.
    pub fn states(&self, mut x: Tensor, packing: &Packing, keep: Option<&[u32]>) -> Result<Tensor> {
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer
                .forward(&x, packing, keep.filter(|_| self.is_last(i)))?
                .0;
        }
        Ok(x)
    }

    /// `dx_i = layer_i'(dx_(i + 1))` from the last layer down to the first that is trained, or to
    /// the input where its gradient is wanted. Adds to the gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: as the forward's output -> `[tokens, dim]`
    pub fn backward(
        &self,
        dy: Tensor,
        mut saved: Vec<Saved>,
        packing: &Packing,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let mut dx = dy;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let Some(of_layer) = saved.pop() else { break };
            let before = &self.layers[..i];
            let is_wanted = want_input || before.iter().any(DecoderLayer::is_trained);
            let layout = before.last().map_or(Layout::DENSE, Layout::from);
            match layer.backward(&dx, &of_layer, packing, is_wanted.then_some(layout))? {
                Some(d) => dx = d,
                None => return Ok(None),
            }
        }
        Ok(Some(dx))
    }

    /// The forward of prompts, which fills a cache for each layer: the state of the rows of `keep`,
    /// `[keep, dim]`.
    ///
    /// # Shapes
    /// `x`: `[tokens, dim]`, `lens`: tokens of each prompt -> `[keep, dim]`
    pub fn prefill(
        &self,
        mut x: Tensor,
        packing: &Packing,
        keep: &[u32],
        caches: &mut [Cache],
        lens: &[usize],
    ) -> Result<Tensor> {
        for (i, (layer, cache)) in self.layers.iter().zip(caches).enumerate() {
            let (y, saved) = layer.forward(&x, packing, self.is_last(i).then_some(keep))?;
            cache.append(wanted(saved.qkv())?, lens.iter().copied().enumerate())?;
            x = y;
        }
        Ok(x)
    }

    /// The forward for one new token of each of some sequences of the caches, by rising number.
    ///
    /// # Shapes
    /// `x`: `[sequences, dim]` -> `[sequences, dim]`
    pub fn step(
        &self,
        mut x: Tensor,
        rotary: &Rotary,
        caches: &mut [Cache],
        sequences: &[usize],
    ) -> Result<Tensor> {
        for (layer, cache) in self.layers.iter().zip(caches) {
            x = layer.step(&x, rotary, cache, sequences)?;
        }
        Ok(x)
    }

    /// Linear layers that a plan may adapt, in the order of the data.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.gate_up,
                &mut layer.down,
            ]
        })
    }

    /// Adapters, and where copies of them lie beside the weights they adapt.
    pub fn copies(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let linears = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
        let copies = linears.map(Linear::copies).collect::<Result<Vec<_>>>()?;
        Ok(copies.concat())
    }

    fn is_last(&self, layer: usize) -> bool {
        layer + 1 == self.layers.len()
    }
}
