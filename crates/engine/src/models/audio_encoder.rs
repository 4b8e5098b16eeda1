//! Whisper's encoder with pooling behind it: convolutions, layers over windows, pairs averaged; forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::encoder_layer::Saved;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::windows::Windows;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::convolution::unfold;
use crate::ops::convolution::unfold_backward;
use crate::ops::cpu::tensor;
use crate::ops::device::place_like;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::pool_pairs;
use crate::ops::rows::pool_pairs_backward;
use crate::ops::rows::spread;
use crate::ops::weight::Weight;

/// Convolutions, layers, and the pooling after them.
#[derive(Debug)]
pub struct AudioEncoder {
    /// `conv1` as a linear layer over unfolded frames, `[d_model, 3 mels]`.
    pub conv1: Linear,
    /// `conv2`, stride 2, `[d_model, 3 d_model]`.
    pub conv2: Linear,
    /// Vectors of the positions in a window, `[n_window, d_model]`; never trained.
    pub positions: Tensor,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// `ln_post`.
    pub final_norm: LayerNorm,
}

/// Tensors that the encoder's backward needs.
pub struct EncoderSaved {
    convolutions: Option<Convolved>,
    layers: Vec<Saved>,
    pooled: Tensor,
    statistics: LayerNormStatistics,
}

/// Tensors that the convolutions' backward needs.
struct Convolved {
    unfolded1: Tensor,
    before1: Tensor,
    unfolded2: Tensor,
    before2: Tensor,
    /// Rows that are positions, where not all are.
    position_rows: Option<Vec<u32>>,
}

impl AudioEncoder {
    /// Whether there is something to train: convolutions, which come before every layer, or adapters of a layer.
    pub fn is_trained(&self) -> bool {
        self.conv1.is_trained() || self.first_trained().is_some()
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
        [&mut self.conv1, &mut self.conv2]
            .into_iter()
            .chain(of_layers)
            .collect()
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut found = Vec::new();
        for linear in [&mut self.conv1, &mut self.conv2] {
            found.extend(linear.weights_mut());
        }
        for layer in &mut self.layers {
            found.extend(layer.weights_mut());
        }
        found.extend(self.final_norm.weights_mut());
        found
    }

    /// `x_0 = gelu(W_2 unfold(gelu(W_1 unfold(f) + b_1)) + b_2) + positions` of log-mel frames `f`, `x_(i + 1) = layer_i(x_i)`, and
    /// `y = norm(pairs averaged of x_n)`. `training` saves what the backward needs, from the first layer that is trained on.
    ///
    /// # Shapes
    /// -> `[audio tokens, d_model]`, clip after clip
    pub fn forward(
        &self,
        audio: &Audio,
        windows: &Windows,
        training: bool,
    ) -> Result<(Tensor, Option<EncoderSaved>)> {
        let frames = place_like(
            &audio.features,
            (audio.features.len() / audio.mels, audio.mels),
            &self.positions,
        )?;
        let unfolded1 = unfold(&frames, &audio.windows, 1)?;
        let (before1, _) = self.conv1.forward(&unfolded1, None, AdapterDropout::NONE)?;
        let unfolded2 = unfold(&gelu(&before1)?, &audio.windows, 2)?;
        let (before2, _) = self.conv2.forward(&unfolded2, None, AdapterDropout::NONE)?;
        let mut x = gelu(&before2)?;
        let position_rows = audio.position_rows();
        if let Some(rows) = &position_rows {
            x = gather(&x, rows)?;
        }

        let convolutions = (training && self.conv1.is_trained()).then_some(Convolved {
            unfolded1,
            before1,
            unfolded2,
            before2,
            position_rows,
        });
        let positions: Vec<u32> = audio
            .positions
            .iter()
            .flat_map(|&len| 0..len as u32)
            .collect();
        add_to(&x, &gather(&self.positions, &positions)?)?;

        let keep_from = match training {
            true if convolutions.is_some() => 0,
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

        let pooled = pool_pairs(&x, &audio.clip_positions)?;
        let (y, statistics) = self.final_norm.forward(&pooled)?;
        let saved = (!layers.is_empty() || convolutions.is_some()).then_some(EncoderSaved {
            convolutions,
            layers,
            pooled,
            statistics,
        });
        Ok((y, saved))
    }

    /// The steps of the forward from the last to the first: `dx_n = pairs'(norm'(dy))`, `dx_i = layer_i'(dx_(i + 1))` down to the first layer
    /// that is trained, then the convolutions. Adds to the gradients of what is trained.
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
        let mut dx = pool_pairs_backward(&d_pooled, &audio.clip_positions)?;
        let EncoderSaved {
            convolutions,
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
            match layer.backward(&dx, saved, windows, i > 0 || convolutions.is_some())? {
                Some(d) => dx = d,
                None => return Ok(()),
            }
        }

        match convolutions {
            Some(convolved) => self.convolutions_backward(&dx, convolved, audio),
            None => Ok(()),
        }
    }

    fn convolutions_backward(
        &self,
        dx: &Tensor,
        convolved: &Convolved,
        audio: &Audio,
    ) -> Result<()> {
        let dx = match &convolved.position_rows {
            Some(rows) => spread(dx, rows, convolved.before2.dim(0)?)?,
            None => dx.clone(),
        };
        let d_before2 = gelu_backward(&dx, &convolved.before2)?;
        let dropout = AdapterDropout::NONE;
        let d_unfolded2 =
            self.conv2
                .backward_to_input(&d_before2, &convolved.unfolded2, None, dropout)?;
        let d_before1 = gelu_backward(
            &unfold_backward(&d_unfolded2, &audio.windows, 2)?,
            &convolved.before1,
        )?;
        self.conv1
            .backward(&d_before1, &convolved.unfolded1, None, dropout, false)?;
        Ok(())
    }
}

/// Whisper's sinusoids: sines in the first half of the channels, cosines in the second, wavelengths from 2 pi to 10000 * 2 pi.
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
