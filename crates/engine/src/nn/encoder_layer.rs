//! A pre-norm layer of a speech encoder: full attention inside each window, then two linear layers around GELU; forward and backward.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::layer_norm::LayerNorm;
use crate::nn::saving::Save;
use crate::nn::saving::or_again;
use crate::nn::saving::wanted;
use crate::ops::activation::gelu;
use crate::ops::activation::gelu_backward;
use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::attention;
use crate::ops::attention::attention_backward;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::norm::LayerNormStatistics;

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

impl EncoderLayer {
    /// Whether a linear layer of it has something to train.
    pub fn is_trained(&self) -> bool {
        [&self.qkv, &self.output, &self.fc1, &self.fc2]
            .iter()
            .any(|linear| linear.is_trained())
    }

    /// Its linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.qkv,
            &mut self.output,
            &mut self.fc1,
            &mut self.fc2,
        ]
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut found = Vec::new();
        for linear in [
            &mut self.qkv,
            &mut self.output,
            &mut self.fc1,
            &mut self.fc2,
        ] {
            found.extend(linear.weights_mut());
        }
        for norm in [&mut self.attention_norm, &mut self.mlp_norm] {
            found.extend([&mut norm.weight, &mut norm.bias]);
        }
        found
    }
}
