//! Widths and lengths that primitives are checked at.

use crate::models::config::Config;
use crate::ops::attention::Heads;

/// Widths of a model, and the token counts and sequence lengths of its training.
pub struct Sizes {
    /// Width of the decoder.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Heads of the decoder.
    pub heads: Heads,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the audio encoder.
    pub tower: usize,
    /// Width inside the encoder's feed-forward part.
    pub tower_inside: usize,
    /// Heads of the audio encoder.
    pub tower_heads: Heads,
    /// Frames of a window of the encoder's convolutions.
    pub window: usize,
    /// Windows of a batch.
    pub windows: usize,
    /// Mel bands.
    pub mels: usize,
    /// Tokens of two packed batches.
    pub tokens: [usize; 2],
    /// Lengths of sequences.
    pub lengths: [usize; 3],
    /// Target rows of a batch: more than the logits of one block.
    pub targets: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Trained numbers.
    pub trained: usize,
    /// Rows that are checked.
    pub rows: usize,
}

impl Sizes {
    /// Those of a model: batches of 16 clips of 10 s and of 5 clips of 60 s.
    pub fn of(config: &Config) -> Self {
        Self {
            hidden: config.text.hidden_size,
            intermediate: config.text.intermediate_size,
            heads: config.text.heads(),
            vocab: config.text.vocab_size,
            tower: config.audio.d_model,
            tower_inside: config.audio.encoder_ffn_dim,
            tower_heads: config.audio.heads(),
            window: config.audio.window_frames(),
            windows: 80,
            mels: config.audio.num_mel_bins,
            tokens: [5440, 8100],
            lengths: [340, 1620, 15_000],
            targets: 1280,
            rank: 16,
            trained: 40_370_176,
            rows: 64,
        }
    }

    /// Small ones, no multiples of a kernel's tiles.
    pub fn tiny() -> Self {
        Self {
            hidden: 128,
            intermediate: 208,
            heads: Heads {
                num_heads: 4,
                num_kv_heads: 2,
                head_dim: 32,
            },
            vocab: 1003,
            tower: 64,
            tower_inside: 112,
            tower_heads: Heads {
                num_heads: 2,
                num_kv_heads: 2,
                head_dim: 32,
            },
            window: 20,
            windows: 5,
            mels: 16,
            tokens: [96, 131],
            lengths: [20, 70, 150],
            targets: 37,
            rank: 4,
            trained: 10_007,
            rows: 24,
        }
    }
}
