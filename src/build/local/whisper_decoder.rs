//! Whisper's decoder with a cache of keys and values.
//!
//! The decoder of candle-transformers computes all earlier tokens again for each new one. A
//! transcript of 400 tokens, which a loop can have, takes 200 times as many.

use candle_core::Device;
use candle_core::IndexOp;
use candle_core::Module;
use candle_core::Result;
use candle_core::Tensor;
use candle_nn::LayerNorm;
use candle_nn::Linear;
use candle_nn::VarBuilder;
use candle_nn::layer_norm;
use candle_nn::linear;
use candle_nn::linear_no_bias;
use candle_nn::ops::softmax_last_dim;
use candle_transformers::models::whisper::Config;

/// Term of the variance in layer norms.
const EPSILON: f64 = 1e-5;

/// Decoder of a Whisper, with the recording and the text that it was given.
pub(super) struct Decoder {
    /// `[vocabulary, d_model]`, for tokens and for logits.
    embeddings: Tensor,
    /// `[max_target_positions, d_model]`.
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    /// Tokens of the text so far.
    num_tokens: usize,
}

impl Decoder {
    /// Reads the decoder from the weights of a checkpoint.
    ///
    /// # Errors
    /// Weights that are missing or of another shape.
    pub(super) fn load(weights: &VarBuilder, config: &Config) -> Result<Self> {
        let weights = weights.pp("model.decoder");
        let size = config.d_model;
        let shape = (config.vocab_size, size);
        let embeddings = weights.get(shape, "embed_tokens.weight")?;
        let shape = (config.max_target_positions, size);
        let positions = weights.get(shape, "embed_positions.weight")?;
        let layers = (0..config.decoder_layers)
            .map(|i| Layer::load(&weights.pp(format!("layers.{i}")), config))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            embeddings,
            positions,
            layers,
            norm: layer_norm(size, EPSILON, weights.pp("layer_norm"))?,
            num_tokens: 0,
        })
    }

    /// Takes the encoder's states of a recording, and forgets the recording and the text before.
    ///
    /// # Shapes
    /// `[1, frames, d_model]`
    /// # Errors
    /// None that input can cause.
    pub(super) fn begin(&mut self, states: &Tensor) -> Result<()> {
        for layer in &mut self.layers {
            layer.recording = Some(layer.cross_attention.keys_and_values(states)?);
        }
        self.restart();
        Ok(())
    }

    /// Forgets the text, and keeps the recording.
    pub(super) fn restart(&mut self) {
        self.num_tokens = 0;
        for layer in &mut self.layers {
            layer.text = None;
        }
    }

    /// Logits after each token of `ids` from `first` on. The tokens follow the text so far.
    ///
    /// # Shapes
    /// -> `[ids - first, vocabulary]`
    /// # Errors
    /// More tokens than the decoder has positions.
    pub(super) fn logits(&mut self, ids: &[u32], first: usize) -> Result<Tensor> {
        let tokens = Tensor::new(ids, &Device::Cpu)?;
        let positions = self.positions.narrow(0, self.num_tokens, ids.len())?;
        let embedded = self.embeddings.index_select(&tokens, 0)?;
        let mut states = (embedded + positions)?.unsqueeze(0)?;
        let mask = match ids.len() {
            1 => None,
            _ => Some(mask(self.num_tokens, ids.len())?),
        };
        for layer in &mut self.layers {
            states = layer.forward(&states, mask.as_ref())?;
        }
        self.num_tokens += ids.len();

        let states = states.i((0, first..))?.contiguous()?;
        self.norm.forward(&states)?.matmul(&self.embeddings.t()?)
    }
}

/// Mask of new tokens, which see all tokens before them and themselves.
///
/// # Shapes
/// -> `[num_new, num_before + num_new]`
fn mask(num_before: usize, num_new: usize) -> Result<Tensor> {
    let num = num_before + num_new;
    let values: Vec<f32> = (0..num_new)
        .flat_map(|i| (0..num).map(move |j| (i, j)))
        .map(|(i, j)| match j > num_before + i {
            true => f32::NEG_INFINITY,
            false => 0.0,
        })
        .collect();
    Tensor::from_vec(values, (num_new, num), &Device::Cpu)
}

/// Keys and values of attention, `[1, heads, tokens, d_model / heads]` each.
type KeysAndValues = (Tensor, Tensor);

/// One layer with its cache.
struct Layer {
    attention: Attention,
    attention_norm: LayerNorm,
    cross_attention: Attention,
    cross_attention_norm: LayerNorm,
    first: Linear,
    second: Linear,
    norm: LayerNorm,
    /// Those of the text so far.
    text: Option<KeysAndValues>,
    /// Those of the recording.
    recording: Option<KeysAndValues>,
}

impl Layer {
    fn load(weights: &VarBuilder, config: &Config) -> Result<Self> {
        let size = config.d_model;
        let num_heads = config.decoder_attention_heads;
        let norm = |name: &str| layer_norm(size, EPSILON, weights.pp(name));
        Ok(Self {
            attention: Attention::load(&weights.pp("self_attn"), size, num_heads)?,
            attention_norm: norm("self_attn_layer_norm")?,
            cross_attention: Attention::load(&weights.pp("encoder_attn"), size, num_heads)?,
            cross_attention_norm: norm("encoder_attn_layer_norm")?,
            first: linear(size, 4 * size, weights.pp("fc1"))?,
            second: linear(4 * size, size, weights.pp("fc2"))?,
            norm: norm("final_layer_norm")?,
            text: None,
            recording: None,
        })
    }

    /// # Shapes
    /// `[1, tokens, d_model]` -> the same
    fn forward(&mut self, states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let normed = self.attention_norm.forward(states)?;
        let (mut keys, mut values) = self.attention.keys_and_values(&normed)?;
        if let Some((earlier_keys, earlier_values)) = &self.text {
            keys = Tensor::cat(&[earlier_keys, &keys], 2)?;
            values = Tensor::cat(&[earlier_values, &values], 2)?;
        }
        let text = self.text.insert((keys, values));
        let mut states = (states + self.attention.attend(&normed, text, mask)?)?;

        if let Some(recording) = &self.recording {
            let normed = self.cross_attention_norm.forward(&states)?;
            states = (&states + self.cross_attention.attend(&normed, recording, None)?)?;
        }

        let normed = self.norm.forward(&states)?;
        // The approximation by tanh, as in candle-transformers' encoder.
        let wide = self.first.forward(&normed)?.gelu()?;
        &states + self.second.forward(&wide)?
    }
}

/// Attention of several heads.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    num_heads: usize,
}

impl Attention {
    fn load(weights: &VarBuilder, size: usize, num_heads: usize) -> Result<Self> {
        Ok(Self {
            query: linear(size, size, weights.pp("q_proj"))?,
            key: linear_no_bias(size, size, weights.pp("k_proj"))?,
            value: linear(size, size, weights.pp("v_proj"))?,
            out: linear(size, size, weights.pp("out_proj"))?,
            num_heads,
        })
    }

    /// # Shapes
    /// `[1, tokens, d_model]` -> `[1, heads, tokens, d_model / heads]`
    fn heads(&self, states: &Tensor) -> Result<Tensor> {
        let (batch, num_tokens, size) = states.dims3()?;
        let shape = (batch, num_tokens, self.num_heads, size / self.num_heads);
        states.reshape(shape)?.transpose(1, 2)?.contiguous()
    }

    fn keys_and_values(&self, states: &Tensor) -> Result<KeysAndValues> {
        let keys = self.heads(&self.key.forward(states)?)?;
        let values = self.heads(&self.value.forward(states)?)?;
        Ok((keys, values))
    }

    fn attend(
        &self,
        states: &Tensor,
        (keys, values): &KeysAndValues,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let queries = self.heads(&self.query.forward(states)?)?;
        let width = queries.dim(3)?;
        let queries = (queries * (width as f64).powf(-0.5))?;
        let mut scores = queries.matmul(&keys.t()?)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mixed = softmax_last_dim(&scores)?.matmul(values)?;
        self.out.forward(&mixed.transpose(1, 2)?.flatten_from(2)?)
    }
}
