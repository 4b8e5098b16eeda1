//! An audio encoder: convolutions, layers over windows and, in Whisper's way, pairs averaged;
//! forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::batch::Reduction;
use crate::models::front;
use crate::models::front::Front;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::encoder_layer::Saved;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::windows::Windows;
use crate::ops::cpu::tensor;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::pool_pairs;
use crate::ops::rows::pool_pairs_backward;
use crate::ops::weight::Weight;

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

/// Tensors that the encoder's backward needs.
pub struct EncoderSaved {
    front: Option<front::Saved>,
    layers: Vec<Saved>,
    pooled: Tensor,
    statistics: LayerNormStatistics,
}

impl AudioEncoder {
    /// Whether there is something to train: convolutions, which come before every layer, or
    /// adapters of a layer.
    pub fn is_trained(&self) -> bool {
        self.front.is_trained() || self.first_trained().is_some()
    }

    /// Width of the output.
    pub fn dim(&self) -> Result<usize> {
        self.positions.dim(1)
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
        found.extend(self.final_norm.weights_mut());
        found
    }

    /// `x_0 = front(f) + positions` of log-mel frames `f`, `x_(i + 1) = layer_i(x_i)`, and
    /// `y = norm(pool(x_n))`, where `pool` averages pairs in Whisper's way and is the identity in
    /// Qwen3-ASR's. `training` saves what the backward needs, from the first layer that is trained
    /// on.
    ///
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
            Reduction::Eighth { .. } | Reduction::Samples { .. } => x,
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

    /// The steps of the forward from the last to the first: `dx_n = pool'(norm'(dy))`,
    /// `dx_i = layer_i'(dx_(i + 1))` down to the first layer that is trained, then the
    /// convolutions. Adds to the gradients of what is trained.
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
            Reduction::Eighth { .. } | Reduction::Samples { .. } => d_pooled,
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

/// Whisper's sinusoids: sines in the first half of the channels, cosines in the second, wavelengths
/// from 2 pi to 10000 * 2 pi.
pub fn sinusoids(positions: usize, channels: usize) -> Result<Tensor> {
    let half = channels / 2;
    let step = (10_000f64).ln() / (half as f64 - 1.0);
    let frequencies: Vec<f64> = (0..half)
        .map(|i| f64::from((-step * i as f64).exp() as f32))
        .collect();

    let mut rows: Vec<f32> = Vec::with_capacity(positions * channels);
    for position in 0..positions {
        let angles = frequencies.iter().map(|f| position as f64 * f);
        rows.extend(angles.clone().map(|angle| angle.sin() as f32));
        rows.extend(angles.map(|angle| angle.cos() as f32));
    }
    tensor(rows, (positions, channels))
}
