//! Named shapes of models, for benchmarks with random weights.

use std::path::PathBuf;

use crate::models::config::AudioConfig;
use crate::models::config::Config;
use crate::models::config::TextConfig;
use crate::models::qwen_omni::names;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The names of the shapes.
pub const NAMES: [&str; 4] = ["tiny", "0.5b", "3b", "7b"];

/// The audio encoder of Qwen2.5-Omni, both sizes.
const OMNI_TOWER: AudioConfig = AudioConfig {
    d_model: 1280,
    encoder_layers: 32,
    encoder_attention_heads: 20,
    encoder_ffn_dim: 5120,
    num_mel_bins: 128,
    n_window: 100,
    max_source_positions: 1500,
    output_dim: 0,
    chunks: None,
};

const OMNI_TEXT: TextConfig = TextConfig {
    vocab_size: 151_936,
    hidden_size: 0,
    intermediate_size: 0,
    num_hidden_layers: 0,
    num_attention_heads: 0,
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    tie_word_embeddings: false,
    qk_norm: false,
};

/// A shape by name, its decoder cut to `layers` where that is said.
///
/// `3b` and `7b` are the thinkers of Qwen2.5-Omni. `0.5b` has the decoder of Qwen2.5-0.5B behind a
/// small encoder; `tiny` is for trying things out.
pub fn by_name(name: &str, layers: Option<usize>) -> Result<Config> {
    let (audio, text) = match name {
        "tiny" => (
            AudioConfig {
                d_model: 128,
                encoder_layers: 2,
                encoder_attention_heads: 4,
                encoder_ffn_dim: 512,
                ..OMNI_TOWER
            },
            TextConfig {
                vocab_size: 2048,
                hidden_size: 128,
                intermediate_size: 384,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                head_dim: 32,
                tie_word_embeddings: true,
                ..OMNI_TEXT
            },
        ),
        "0.5b" => (
            AudioConfig {
                d_model: 512,
                encoder_layers: 4,
                encoder_attention_heads: 8,
                encoder_ffn_dim: 2048,
                ..OMNI_TOWER
            },
            TextConfig {
                hidden_size: 896,
                intermediate_size: 4864,
                num_hidden_layers: 24,
                num_attention_heads: 14,
                head_dim: 64,
                tie_word_embeddings: true,
                ..OMNI_TEXT
            },
        ),
        "3b" => (
            OMNI_TOWER,
            TextConfig {
                hidden_size: 2048,
                intermediate_size: 11_008,
                num_hidden_layers: 36,
                num_attention_heads: 16,
                ..OMNI_TEXT
            },
        ),
        "7b" => (
            OMNI_TOWER,
            TextConfig {
                vocab_size: 152_064,
                hidden_size: 3584,
                intermediate_size: 18_944,
                num_hidden_layers: 28,
                num_attention_heads: 28,
                num_key_value_heads: 4,
                ..OMNI_TEXT
            },
        ),
        other => {
            return Err(Error::input(format!(
                "no shape `{other}`; there are {}",
                NAMES.join(", ")
            )));
        }
    };

    let text = TextConfig {
        num_hidden_layers: layers.unwrap_or(text.num_hidden_layers),
        ..text
    };

    Ok(Config {
        source: PathBuf::new(),
        names: &names::NAMES,
        audio: AudioConfig {
            output_dim: text.hidden_size,
            ..audio
        },
        text,
        speech: None,
        audio_token: text_audio_token(name),
    })
}

/// The shape that a Hub id says, such as `Qwen/Qwen2.5-Omni-7B` or a copy of it by another owner;
/// `None` for other names.
pub fn of_hub_id(id: &str) -> Option<Config> {
    let name = id.rsplit('/').next()?.to_lowercase();
    let size = name.strip_prefix("qwen2.5-omni-")?;
    let size = size.split('-').next()?;
    ["3b", "7b"]
        .contains(&size)
        .then(|| by_name(size, None).ok())?
}

/// The audio token of the real vocabularies; the tiny one has room for any.
fn text_audio_token(name: &str) -> u32 {
    if name == "tiny" { 0 } else { 151_646 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_says_its_shape() {
        let layers = |id| of_hub_id(id).map(|config| config.text.num_hidden_layers);
        assert_eq!(layers("Qwen/Qwen2.5-Omni-7B"), Some(28));
        assert_eq!(layers("Qwen/Qwen2.5-Omni-3B"), Some(36));
        assert_eq!(layers("somebody/qwen2.5-omni-7b-thinker"), Some(28));
        for other in [
            "Qwen/Qwen2.5-7B",
            "Qwen/Qwen2.5-Omni-72B",
            "Qwen/Qwen2.5-Omni",
            "me/tiny",
        ] {
            assert_eq!(layers(other), None, "{other}");
        }
    }
}
