//! Named shapes of Qwen3-ASR, for benchmarks with random weights and plans of models that are not
//! downloaded.

use std::path::PathBuf;

use crate::models::config::AudioConfig;
use crate::models::config::Chunks;
use crate::models::config::Config;
use crate::models::config::TextConfig;
use crate::models::qwen3_asr::names;

/// The names of the shapes.
pub const NAMES: [&str; 2] = ["qwen3-asr-0.6b", "qwen3-asr-1.7b"];

/// A shape by name; `None` for other names.
pub fn by_name(name: &str) -> Option<Config> {
    let (d_model, encoder_layers, hidden_size, intermediate_size) = match name {
        "qwen3-asr-0.6b" => (896, 18, 1024, 3072),
        "qwen3-asr-1.7b" => (1024, 24, 2048, 6144),
        _ => return None,
    };
    Some(Config {
        source: PathBuf::new(),
        names: &names::NAMES,
        audio: AudioConfig {
            d_model,
            encoder_layers,
            encoder_attention_heads: d_model / 64,
            encoder_ffn_dim: 4 * d_model,
            num_mel_bins: 128,
            n_window: 50,
            max_source_positions: 13,
            output_dim: hidden_size,
            chunks: Some(Chunks {
                downsample_hidden_size: 480,
                n_window_infer: 800,
                min_samples: 8000,
            }),
        },
        text: TextConfig {
            vocab_size: 151_936,
            hidden_size,
            intermediate_size,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            max_position_embeddings: 65_536,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            tie_word_embeddings: true,
            qk_norm: true,
        },
        speech: None,
        audio_token: 151_676,
    })
}

/// The shape that a Hub id names, such as `Qwen/Qwen3-ASR-0.6B` or `Qwen/Qwen3-ASR-0.6B-hf`; `None`
/// for other names.
pub fn of_hub_id(id: &str) -> Option<Config> {
    let name = id.rsplit('/').next()?.to_lowercase();
    NAMES
        .into_iter()
        .find(|shape| name == *shape || name.starts_with(&format!("{shape}-")))
        .and_then(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_says_its_shape() {
        let width = |id| of_hub_id(id).map(|config| config.text.hidden_size);
        assert_eq!(width("Qwen/Qwen3-ASR-0.6B"), Some(1024));
        assert_eq!(width("Qwen/Qwen3-ASR-1.7B-hf"), Some(2048));
        assert_eq!(width("Qwen/Qwen3-ASR-0.6Bx"), None);
        assert_eq!(width("Qwen/Qwen3-1.7B"), None);
        for name in NAMES {
            by_name(name).unwrap().check().unwrap();
        }
    }
}
