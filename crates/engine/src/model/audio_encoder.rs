//! The audio encoder of Qwen2.5-Omni (a Whisper encoder that hears 200 frames at a time), forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::attention;
use crate::ops::attention::attention_backward;
use crate::ops::convolution::unfold;
use crate::ops::convolution::unfold_backward;
use crate::ops::cpu::tensor;
use crate::ops::device::place_like;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::norm::layer_norm;
use crate::ops::norm::layer_norm_again;
use crate::ops::norm::layer_norm_backward;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::pool_pairs;
use crate::ops::rows::pool_pairs_backward;

use crate::model::decoder::Save;
use crate::model::decoder::or_again;
use crate::model::decoder::wanted;
use maqam_audio::MELS;

/// Added to the variance in layer norms.
const EPS: f64 = 1e-5;

/// Scale and shift of a layer norm.
#[derive(Debug)]
pub struct LayerNorm {
    /// `[dim]`.
    pub weight: Weight,
    /// `[dim]`.
    pub bias: Weight,
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<(Tensor, LayerNormStatistics)> {
        layer_norm(x, &self.weight.value, &self.bias.value, EPS)
    }

    fn again(&self, x: &Tensor, statistics: &LayerNormStatistics) -> Result<Tensor> {
        layer_norm_again(x, &self.weight.value, &self.bias.value, statistics)
    }

    fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        statistics: &LayerNormStatistics,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let gradients = self
            .weight
            .gradient
            .as_ref()
            .zip(self.bias.gradient.as_ref());
        layer_norm_backward(dy, x, &self.weight.value, statistics, residual, gradients)
    }
}

/// What all layers need to know of the packed windows.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    /// Starts of the windows, and the number of positions at the end.
    pub cu_positions: &'a [usize],
    /// Dropout of the adapters.
    pub dropout: AdapterDropout<'a>,
    /// What to keep for the backward.
    pub save: Save,
}

/// One pre-norm layer; attention stays inside each window.
#[derive(Debug)]
pub struct EncoderLayer {
    /// `self_attn_layer_norm`.
    pub attention_norm: LayerNorm,
    /// `q_proj`, `k_proj` (without bias), `v_proj`.
    pub qkv: Linear,
    /// `out_proj`.
    pub output: Linear,
    /// `final_layer_norm`.
    pub mlp_norm: LayerNorm,
    /// `fc1`.
    pub fc1: Linear,
    /// `fc2`.
    pub fc2: Linear,
    /// How the stacked projection divides.
    pub heads: Heads,
}

/// What a layer's backward needs.
pub struct Saved {
    x: Tensor,
    /// `None` where everything is computed again.
    activations: Option<Activations>,
    fc2_hidden: Option<Tensor>,
}

struct Activations {
    attention_statistics: LayerNormStatistics,
    attention_in: Option<Tensor>,
    qkv: Tensor,
    qkv_hidden: Option<Tensor>,
    attended: Tensor,
    log_sums: Tensor,
    output_hidden: Option<Tensor>,
    middle: Tensor,
    mlp_statistics: LayerNormStatistics,
    mlp_in: Option<Tensor>,
    before: Tensor,
    fc1_hidden: Option<Tensor>,
    activated: Option<Tensor>,
}

impl EncoderLayer {
    /// # Shapes
    /// `x`: `[positions, d_model]` -> the same
    pub fn forward(&self, x: &Tensor, windows: &Windows) -> Result<(Tensor, Saved)> {
        let (activations, activated) = self.activations(x, windows)?;
        let (y, fc2_hidden) =
            self.fc2
                .forward(&activated, Some(&activations.middle), windows.dropout)?;
        let activations = (windows.save != Save::Layer).then_some(activations);
        Ok((
            y,
            Saved {
                x: x.clone(),
                activations,
                fc2_hidden,
            },
        ))
    }

    /// Everything up to the last linear layer, and that layer's input.
    fn activations(&self, x: &Tensor, windows: &Windows) -> Result<(Activations, Tensor)> {
        let Windows {
            cu_positions,
            dropout,
            save,
        } = *windows;
        let (attention_in, attention_statistics) = self.attention_norm.forward(x)?;
        let (qkv, qkv_hidden) = self.qkv.forward(&attention_in, None, dropout)?;
        let (attended, log_sums) = attention(&qkv, cu_positions, self.heads, Mask::Full)?;
        let (middle, output_hidden) = self.output.forward(&attended, Some(x), dropout)?;

        let (mlp_in, mlp_statistics) = self.mlp_norm.forward(&middle)?;
        let (before, fc1_hidden) = self.fc1.forward(&mlp_in, None, dropout)?;
        let activated = gelu(&before)?;

        let all = save == Save::All;
        let activations = Activations {
            attention_statistics,
            attention_in: all.then_some(attention_in),
            qkv,
            qkv_hidden,
            attended,
            log_sums,
            output_hidden,
            middle,
            mlp_statistics,
            mlp_in: all.then_some(mlp_in),
            before,
            fc1_hidden,
            activated: all.then(|| activated.clone()),
        };
        Ok((activations, activated))
    }

    /// Adds to the gradients of what is trained; returns the gradient of the input where it is wanted.
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        windows: &Windows,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let Windows {
            cu_positions,
            dropout,
            ..
        } = *windows;
        let Saved {
            x,
            activations,
            fc2_hidden,
        } = saved;
        let again = match activations {
            Some(_) => None,
            None => Some(self.activations(x, windows)?.0),
        };
        let saved = wanted(activations.as_ref().or(again.as_ref()))?;
        let activated = or_again(&saved.activated, || gelu(&saved.before))?;
        let d_activated =
            wanted(
                self.fc2
                    .backward(dy, &activated, fc2_hidden.as_ref(), dropout, true)?,
            )?;
        let d_before = gelu_backward(&d_activated, &saved.before)?;
        let mlp_in = or_again(&saved.mlp_in, || {
            self.mlp_norm.again(&saved.middle, &saved.mlp_statistics)
        })?;
        let d_mlp_in = wanted(self.fc1.backward(
            &d_before,
            &mlp_in,
            saved.fc1_hidden.as_ref(),
            dropout,
            true,
        )?)?;
        let d_middle =
            self.mlp_norm
                .backward(&d_mlp_in, &saved.middle, &saved.mlp_statistics, Some(dy))?;

        let d_attended = wanted(self.output.backward(
            &d_middle,
            &saved.attended,
            saved.output_hidden.as_ref(),
            dropout,
            true,
        )?)?;
        let d_qkv = attention_backward(
            &d_attended,
            &saved.qkv,
            &saved.attended,
            &saved.log_sums,
            cu_positions,
            self.heads,
            Mask::Full,
        )?;
        let attention_in = or_again(&saved.attention_in, || {
            self.attention_norm.again(x, &saved.attention_statistics)
        })?;
        let want_norm = want_input || self.attention_norm.weight.gradient.is_some();
        let Some(d_attention_in) = self.qkv.backward(
            &d_qkv,
            &attention_in,
            saved.qkv_hidden.as_ref(),
            dropout,
            want_norm,
        )?
        else {
            return Ok(None);
        };
        self.attention_norm
            .backward(
                &d_attention_in,
                x,
                &saved.attention_statistics,
                Some(&d_middle),
            )
            .map(Some)
    }
}

/// Convolutions, layers, and the pooling after them.
#[derive(Debug)]
pub struct AudioEncoder {
    /// `conv1` as a linear layer over unfolded frames, `[d_model, 3 mels]`.
    pub conv1: Linear,
    /// `conv2`, stride 2, `[d_model, 3 d_model]`.
    pub conv2: Linear,
    /// Sinusoids of the positions in a window, `[n_window, d_model]`.
    pub sinusoids: Tensor,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// `ln_post`.
    pub final_norm: LayerNorm,
}

/// What the encoder's backward needs.
pub struct EncoderSaved {
    convolutions: Option<Convolved>,
    layers: Vec<Saved>,
    pooled: Tensor,
    statistics: LayerNormStatistics,
}

/// What the convolutions' backward needs.
struct Convolved {
    unfolded1: Tensor,
    before1: Tensor,
    unfolded2: Tensor,
    before2: Tensor,
}

impl AudioEncoder {
    /// Whether there is something to train: convolutions, which come before every layer, or adapters of a layer.
    pub fn is_trained(&self) -> bool {
        self.conv1.is_trained() || self.first_trained().is_some()
    }

    fn first_trained(&self) -> Option<usize> {
        self.layers.iter().position(|layer| {
            [&layer.qkv, &layer.output, &layer.fc1, &layer.fc2]
                .iter()
                .any(|linear| linear.is_trained())
        })
    }

    /// The convolutions and every layer's linears, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let of_layers = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.fc1,
                &mut layer.fc2,
            ]
        });
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
            for linear in [
                &mut layer.qkv,
                &mut layer.output,
                &mut layer.fc1,
                &mut layer.fc2,
            ] {
                found.extend(linear.weights_mut());
            }
            for norm in [&mut layer.attention_norm, &mut layer.mlp_norm] {
                found.extend([&mut norm.weight, &mut norm.bias]);
            }
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
        let none = AdapterDropout {
            probability: 0.0,
            tokens: &[],
        };
        let frames = place_like(
            &audio.features,
            (audio.features.len() / MELS, MELS),
            &self.sinusoids,
        )?;
        let unfolded1 = unfold(&frames, &audio.windows, 1)?;
        let (before1, _) = self.conv1.forward(&unfolded1, None, none)?;
        let unfolded2 = unfold(&gelu(&before1)?, &audio.windows, 2)?;
        let (before2, _) = self.conv2.forward(&unfolded2, None, none)?;
        let mut x = gelu(&before2)?;
        let convolutions = (training && self.conv1.is_trained()).then_some(Convolved {
            unfolded1,
            before1,
            unfolded2,
            before2,
        });
        let positions: Vec<u32> = audio
            .positions
            .iter()
            .flat_map(|&len| 0..len as u32)
            .collect();
        add_to(&x, &gather(&self.sinusoids, &positions)?)?;

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
        let none = AdapterDropout {
            probability: 0.0,
            tokens: &[],
        };
        let d_before2 = gelu_backward(dx, &convolved.before2)?;
        let d_unfolded2 =
            wanted(
                self.conv2
                    .backward(&d_before2, &convolved.unfolded2, None, none, true)?,
            )?;
        let d_before1 = gelu_backward(
            &unfold_backward(&d_unfolded2, &audio.windows, 2)?,
            &convolved.before1,
        )?;
        self.conv1
            .backward(&d_before1, &convolved.unfolded1, None, none, false)?;
        Ok(())
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
