//! A training pass over a batch: how it is computed, and its phases.

use crate::nn::saving::Save;

/// Settings of one training pass. All but `save` change a gradient.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// Amount that layers save for their backward.
    pub save: Save,
    /// Dropout of the adapters' inputs.
    pub dropout: f64,
    /// Share of each target's probability that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Noise on the decoder's input embeddings.
    pub noise: EmbeddingNoise,
}

/// Noise of NEFTune on the decoder's input embeddings.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddingNoise {
    /// Scale: noise is uniform up to `alpha / sqrt(tokens of the sequence * width)`. 0 is none.
    pub alpha: f64,
    /// Whether audio embeddings get noise, too.
    pub on_audio: bool,
}

/// The parts of a training pass, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Features to embeddings.
    Encoder,
    /// The decoder's layers.
    Forward,
    /// Head, loss, and the gradient of the last states.
    Head,
    /// The decoder's layers, backwards.
    Backward,
    /// Encoder and projector, backwards, as far as they are trained.
    EncoderBackward,
}
