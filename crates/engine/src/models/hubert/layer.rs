//! A layer of HuBERT's transformer, with norms before (HuBERT-large, XLS-R) or after (HuBERT-base)
//! attention and MLP.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::encoder_layer;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::gelu_mlp::MlpSaved;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::saving::wanted;
use crate::nn::self_attention::AttentionSaved;
use crate::nn::self_attention::SelfAttention;
use crate::nn::windows::Windows;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::weight::Weight;

/// One layer.
#[derive(Clone, Debug)]
pub enum Layer {
    /// Norms first (`do_stable_layer_norm`).
    PreNorm(EncoderLayer),
    /// Norms last.
    PostNorm(PostNormLayer),
}

/// Tensors that a layer's backward needs.
pub enum Saved {
    /// Tensors of [`Layer::PreNorm`].
    PreNorm(encoder_layer::Saved),
    /// Tensors of [`Layer::PostNorm`].
    PostNorm(PostNormSaved),
}

impl Layer {
    /// # Shapes
    /// `x`: `[frames, hidden]`, clips as windows of attention -> `[frames, hidden]`
    pub fn forward(&self, x: &Tensor, clips: &Windows) -> Result<(Tensor, Saved)> {
        match self {
            Self::PreNorm(layer) => {
                let (y, saved) = layer.forward(x, clips)?;
                Ok((y, Saved::PreNorm(saved)))
            }
            Self::PostNorm(layer) => {
                let (y, saved) = layer.forward(x, clips)?;
                Ok((y, Saved::PostNorm(saved)))
            }
        }
    }

    /// Adds to the gradients of the layer's weights; returns the gradient of its input.
    pub fn backward(&self, dy: &Tensor, saved: &Saved, clips: &Windows) -> Result<Tensor> {
        match (self, saved) {
            (Self::PreNorm(layer), Saved::PreNorm(saved)) => {
                wanted(layer.backward(dy, saved, clips, true)?)
            }
            (Self::PostNorm(layer), Saved::PostNorm(saved)) => layer.backward(dy, saved, clips),
            _ => candle_core::bail!("a layer was given what another one saved"),
        }
    }

    /// Whether it has something to train.
    pub fn is_trained(&self) -> bool {
        let (attention, mlp, norm) = match self {
            Self::PreNorm(layer) => (&layer.attention, &layer.mlp, &layer.attention_norm),
            Self::PostNorm(layer) => (&layer.attention, &layer.mlp, &layer.attention_norm),
        };
        let linears = [&attention.qkv, &attention.output, &mlp.fc1, &mlp.fc2];
        norm.is_trained() || linears.iter().any(|linear| linear.is_trained())
    }

    /// Linear layers, in the order of the data.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        match self {
            Self::PreNorm(layer) => layer.linears_mut(),
            Self::PostNorm(layer) => [
                &mut layer.attention.qkv,
                &mut layer.attention.output,
                &mut layer.mlp.fc1,
                &mut layer.mlp.fc2,
            ],
        }
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        match self {
            Self::PreNorm(layer) => layer.weights_mut(),
            Self::PostNorm(layer) => layer.weights_mut(),
        }
    }
}

/// `a = Norm(x + Attention(x))`, then `y = Norm(a + MLP(a))`.
#[derive(Clone, Debug)]
pub struct PostNormLayer {
    /// Attention inside each clip.
    pub attention: SelfAttention,
    /// Norm after attention and its residual.
    pub attention_norm: LayerNorm,
    /// Two linear layers around GELU.
    pub mlp: GeluMlp,
    /// Norm after the MLP and its residual.
    pub mlp_norm: LayerNorm,
}

/// Tensors that the backward of [`PostNormLayer`] needs.
pub struct PostNormSaved {
    x: Tensor,
    attention: AttentionSaved,
    /// `x + Attention(x)`.
    attention_sum: Tensor,
    attention_statistics: LayerNormStatistics,
    /// `a` in the formula of the layer.
    middle: Tensor,
    mlp: MlpSaved,
    activated: Tensor,
    /// What the forward of the second linear layer's adapter left.
    fc2_hidden: Option<Tensor>,
    /// `a + MLP(a)`.
    mlp_sum: Tensor,
    mlp_statistics: LayerNormStatistics,
}

impl PostNormLayer {
    /// `a = Norm(x + Attention(x))`, `y = Norm(a + MLP(a))`.
    ///
    /// # Shapes
    /// `x`: `[frames, hidden]` -> the same
    pub fn forward(&self, x: &Tensor, clips: &Windows) -> Result<(Tensor, PostNormSaved)> {
        let (attention_sum, attention) = self.attention.forward(x, x, clips)?;
        let (middle, attention_statistics) = self.attention_norm.forward(&attention_sum)?;
        let (activated, mlp) = self.mlp.activate(&middle, clips.dropout)?;
        let (mlp_sum, fc2_hidden) = self.mlp.project(&activated, &middle, clips)?;
        let (y, mlp_statistics) = self.mlp_norm.forward(&mlp_sum)?;

        let saved = PostNormSaved {
            x: x.clone(),
            attention,
            attention_sum,
            attention_statistics,
            middle,
            mlp,
            activated,
            fc2_hidden,
            mlp_sum,
            mlp_statistics,
        };
        Ok((y, saved))
    }

    /// With `s = Norm'(dy)`: `da = s + MLP'(s)`. With `t = Norm'(da)`: `dx = t + Attention'(t)`. A
    /// prime is the backward of the part. Adds to the gradients of the layer's weights.
    ///
    /// # Shapes
    /// `dy`: `[frames, hidden]` -> the same
    pub fn backward(&self, dy: &Tensor, saved: &PostNormSaved, clips: &Windows) -> Result<Tensor> {
        let d_mlp_sum = self
            .mlp_norm
            .backward(dy, &saved.mlp_sum, &saved.mlp_statistics, None)?;
        let d_middle = self.mlp.backward(
            &d_mlp_sum,
            &saved.middle,
            &saved.activated,
            &saved.mlp,
            saved.fc2_hidden.as_ref(),
            clips,
        )?;
        add_to(&d_middle, &d_mlp_sum)?;

        let d_attention_sum = self.attention_norm.backward(
            &d_middle,
            &saved.attention_sum,
            &saved.attention_statistics,
            None,
        )?;
        let dx = wanted(self.attention.backward(
            &d_attention_sum,
            &saved.x,
            &saved.attention,
            clips,
            true,
        )?)?;
        add_to(&dx, &d_attention_sum)?;
        Ok(dx)
    }

    fn weights_mut(&mut self) -> Vec<&mut Weight> {
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
