//! A pre-norm layer of a speech encoder: self-attention inside each window, then two linear layers
//! around GELU.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::gelu_mlp::MlpSaved;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::saving::Save;
use crate::nn::saving::or_again;
use crate::nn::saving::wanted;
use crate::nn::self_attention::AttentionSaved;
use crate::nn::self_attention::SelfAttention;
use crate::nn::windows::Windows;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::weight::Weight;

/// `a = x + Attention(Norm(x))`, then `y = a + MLP(Norm(a))`: the layer of Whisper's encoder and of
/// HuBERT-large.
#[derive(Clone, Debug)]
pub struct EncoderLayer {
    /// Norm before attention.
    pub attention_norm: LayerNorm,
    /// Attention inside each window.
    pub attention: SelfAttention,
    /// Norm before the MLP.
    pub mlp_norm: LayerNorm,
    /// Two linear layers around GELU.
    pub mlp: GeluMlp,
}

/// Tensors that a layer's backward needs.
pub struct Saved {
    x: Tensor,
    /// `None` where everything is computed again.
    activations: Option<Activations>,
    fc2_hidden: Option<Tensor>,
}

struct Activations {
    attention_statistics: LayerNormStatistics,
    attention_in: Option<Tensor>,
    attention: AttentionSaved,
    /// `a` in the formula of the layer.
    middle: Tensor,
    mlp_statistics: LayerNormStatistics,
    mlp_in: Option<Tensor>,
    mlp: MlpSaved,
    activated: Option<Tensor>,
}

impl EncoderLayer {
    /// `a = x + Attention(Norm(x))`, `y = a + MLP(Norm(a))`.
    ///
    /// # Shapes
    /// `x`: `[positions, dim]` -> the same
    pub fn forward(&self, x: &Tensor, windows: &Windows) -> Result<(Tensor, Saved)> {
        let (activated, activations) = self.activations(x, windows)?;
        let (y, fc2_hidden) = self.mlp.project(&activated, &activations.middle, windows)?;

        let saved = Saved {
            x: x.clone(),
            activations: (windows.save != Save::Layer).then_some(activations),
            fc2_hidden,
        };
        Ok((y, saved))
    }

    /// Everything up to the last linear layer: that layer's input, and what the backward needs.
    fn activations(&self, x: &Tensor, windows: &Windows) -> Result<(Tensor, Activations)> {
        let (attention_in, attention_statistics) = self.attention_norm.forward(x)?;
        let (middle, attention) = self.attention.forward(&attention_in, x, windows)?;
        let (mlp_in, mlp_statistics) = self.mlp_norm.forward(&middle)?;
        let (activated, mlp) = self.mlp.activate(&mlp_in, windows.dropout)?;

        let all = windows.save == Save::All;
        let activations = Activations {
            attention_statistics,
            attention_in: all.then_some(attention_in),
            attention,
            middle,
            mlp_statistics,
            mlp_in: all.then_some(mlp_in),
            mlp,
            activated: all.then(|| activated.clone()),
        };
        Ok((activated, activations))
    }

    /// `da = dy + Norm'(MLP'(dy))`, `dx = da + Norm'(Attention'(da))`, where a prime is the
    /// backward of the part; `dx` where it is wanted. Adds to the gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: `[positions, dim]` -> the same
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &Saved,
        windows: &Windows,
        want_input: bool,
    ) -> Result<Option<Tensor>> {
        let x = &saved.x;

        let again = match &saved.activations {
            Some(_) => None,
            None => Some(self.activations(x, windows)?.1),
        };

        let activations = wanted(saved.activations.as_ref().or(again.as_ref()))?;
        let Activations {
            attention_statistics,
            middle,
            mlp_statistics,
            ..
        } = activations;

        let activated = or_again(&activations.activated, || activations.mlp.activated())?;
        let mlp_in = or_again(&activations.mlp_in, || {
            self.mlp_norm.again(middle, mlp_statistics)
        })?;
        let d_mlp_in = self.mlp.backward(
            dy,
            &mlp_in,
            &activated,
            &activations.mlp,
            saved.fc2_hidden.as_ref(),
            windows,
        )?;
        let d_middle = self
            .mlp_norm
            .backward(&d_mlp_in, middle, mlp_statistics, Some(dy))?;

        let attention_in = or_again(&activations.attention_in, || {
            self.attention_norm.again(x, attention_statistics)
        })?;
        let Some(d_attention_in) = self.attention.backward(
            &d_middle,
            &attention_in,
            &activations.attention,
            windows,
            want_input || self.attention_norm.is_trained(),
        )?
        else {
            return Ok(None);
        };
        self.attention_norm
            .backward(&d_attention_in, x, attention_statistics, Some(&d_middle))
            .map(Some)
    }

    /// Whether a linear layer of it has something to train.
    pub fn is_trained(&self) -> bool {
        let linears = [
            &self.attention.qkv,
            &self.attention.output,
            &self.mlp.fc1,
            &self.mlp.fc2,
        ];
        linears.iter().any(|linear| linear.is_trained())
    }

    /// Linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.attention.qkv,
            &mut self.attention.output,
            &mut self.mlp.fc1,
            &mut self.mlp.fc2,
        ]
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let linears = [
            &mut self.attention.qkv,
            &mut self.attention.output,
            &mut self.mlp.fc1,
            &mut self.mlp.fc2,
        ];
        let norms = [&mut self.attention_norm, &mut self.mlp_norm];
        linears
            .into_iter()
            .flat_map(Linear::weights_mut)
            .chain(norms.into_iter().flat_map(LayerNorm::weights_mut))
            .collect()
    }
}
