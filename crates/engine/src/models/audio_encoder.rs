//! An audio encoder: convolutions, layers over windows and, in Whisper's way, pairs averaged; forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::batch::Reduction;
use crate::models::front;
use crate::models::front::Front;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::encoder_layer::Saved;
use crate::nn::encoder_layer::Windows;
use crate::nn::layer_norm::LayerNorm;
use crate::ops::cpu::tensor;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::pool_pairs;
use crate::ops::rows::pool_pairs_backward;

/// Convolutions, layers, and the pooling after them.
#[derive(Debug)]
pub struct AudioEncoder {
    /// The convolutions.
    pub front: Front,
    /// Vectors of the positions in a window, `[positions, d_model]`; never trained.
    pub positions: Tensor,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// `ln_post`.
    pub final_norm: LayerNorm,
}

/// What the encoder's backward needs.
pub struct EncoderSaved {
    front: Option<front::Saved>,
    layers: Vec<Saved>,
    pooled: Tensor,
    statistics: LayerNormStatistics,
}

impl AudioEncoder {
    /// Whether there is something to train: convolutions, which come before every layer, or adapters of a layer.
    pub fn is_trained(&self) -> bool {
        self.front.is_trained() || self.first_trained().is_some()
    }

    fn first_trained(&self) -> Option<usize> {
        self.layers.iter().position(EncoderLayer::is_trained)
    }

    /// The convolutions and every layer's linears, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let of_layers = self.layers.iter_mut().flat_map(EncoderLayer::linears_mut);
        self.front
            .linears_mut()
            .into_iter()
            .chain(of_layers)
            .collect()
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut found = self.front.weights_mut();
        for layer in &mut self.layers {
            found.extend(layer.weights_mut());
        }
        found.extend([&mut self.final_norm.weight, &mut self.final_norm.bias]);
        found
    }

    /// # Shapes
    /// -> `[audio tokens, d_model]`, clip after clip
    pub fn forward(
        &self,
        audio: &Audio,
        windows: &Windows,
        training: bool,
    ) -> Result<(Tensor, Option<EncoderSaved>)> {
        let (mut x, front) =
            self.front
                .forward(audio, &self.positions, windows.dropout, training)?;
        let positions: Vec<u32> = audio
            .positions
            .iter()
            .flat_map(|&len| 0..len as u32)
            .collect();
        add_to(&x, &gather(&self.positions, &positions)?)?;

        let keep_from = match training {
            true if front.is_some() => 0,
            true => self.first_trained().unwrap_or(self.layers.len()),
            false => self.layers.len(),
        };
        let mut layers = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(&x, windows)?;
            if i >= keep_from {
                layers.push(saved);
            }
            x = y;
        }
        let pooled = match audio.framing.reduction {
            Reduction::Quarter => pool_pairs(&x, &audio.clip_positions)?,
            Reduction::Eighth { .. } => x,
        };
        let (y, statistics) = self.final_norm.forward(&pooled)?;
        let saved = (!layers.is_empty() || front.is_some()).then_some(EncoderSaved {
            front,
            layers,
            pooled,
            statistics,
        });
        Ok((y, saved))
    }

    /// Adds to the gradients of the layers, from the last to the first that is trained, and of the convolutions.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &EncoderSaved,
        audio: &Audio,
        windows: &Windows,
    ) -> Result<()> {
        let d_pooled = self
            .final_norm
            .backward(dy, &saved.pooled, &saved.statistics, None)?;
        let mut dx = match audio.framing.reduction {
            Reduction::Quarter => pool_pairs_backward(&d_pooled, &audio.clip_positions)?,
            Reduction::Eighth { .. } => d_pooled,
        };
        let EncoderSaved {
            front,
            layers: saved_layers,
            ..
        } = saved;
        let first = self.layers.len() - saved_layers.len();
        for (i, (layer, saved)) in self.layers[first..]
            .iter()
            .zip(saved_layers)
            .enumerate()
            .rev()
        {
            match layer.backward(&dx, saved, windows, i > 0 || front.is_some())? {
                Some(d) => dx = d,
                None => return Ok(()),
            }
        }
        match front {
            Some(saved) => self.front.backward(&dx, saved, audio, windows.dropout),
            None => Ok(()),
        }
    }
}

/// Whisper's sinusoids: sines in the first half of the channels, cosines in the second, wavelengths from 2 pi to 10000 * 2 pi.
pub fn sinusoids(positions: usize, channels: usize) -> Result<Tensor> {
    let half = channels / 2;
    let step = (10_000f64).ln() / (half as f64 - 1.0);
    let angle =
        |position: usize, i: usize| position as f64 * f64::from((-step * i as f64).exp() as f32);
    let rows = (0..positions).flat_map(|p| {
        (0..half)
            .map(move |i| angle(p, i).sin() as f32)
            .chain((0..half).map(move |i| angle(p, i).cos() as f32))
    });
    tensor(rows.collect::<Vec<f32>>(), (positions, channels))
}
