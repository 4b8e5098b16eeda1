//! Shape of the model in `config.json` of Qwen2-Audio.

use std::path::PathBuf;

use serde_json::Value;

use crate::models::config::AudioConfig;
use crate::models::config::Config;
use crate::models::config::Fields;
use crate::models::config::TextConfig;
use crate::models::qwen2_audio::names::NAMES;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Reads the configuration. What it leaves out has the defaults of transformers'
/// `Qwen2AudioEncoderConfig` and `Qwen2Config`, as the checkpoints on the Hub need.
///
/// # Errors
/// If a field says something the model here does not do; the message names it.
pub fn from_json(root: &Value) -> Result<Config> {
    let audio = Fields(&root["audio_config"], "audio_config");
    let text = Fields(&root["text_config"], "text_config");
    let is_qwen2 = text.0["model_type"]
        .as_str()
        .is_none_or(|kind| kind == "qwen2");

    if !is_qwen2 {
        return Err(Error::input(format!(
            "`text_config.model_type` is {}; maqam has qwen2 there",
            text.0["model_type"]
        )));
    }

    audio.require("activation_function", "gelu")?;
    audio.require("scale_embedding", false)?;
    text.require("hidden_act", "silu")?;
    text.require("use_sliding_window", false)?;
    let rope_theta = text.rope_theta(&["default"], 1e4)?;

    let max_source_positions = audio.number_or("max_source_positions", 1500)?;
    let hidden_size = text.number_or("hidden_size", 4096)?;
    let num_attention_heads = text.number_or("num_attention_heads", 32)?;

    let found = Config {
        source: PathBuf::new(),
        names: &NAMES,
        audio: AudioConfig {
            d_model: audio.number_or("d_model", 1280)?,
            encoder_layers: audio.number_or("encoder_layers", 32)?,
            encoder_attention_heads: audio.number_or("encoder_attention_heads", 20)?,
            encoder_ffn_dim: audio.number_or("encoder_ffn_dim", 5120)?,
            num_mel_bins: audio.number_or("num_mel_bins", 128)?,
            // The encoder takes exactly as many frames as its stored positions serve.
            n_window: max_source_positions,
            max_source_positions,
            output_dim: hidden_size,
            chunks: None,
        },
        text: TextConfig {
            vocab_size: text.number_or("vocab_size", 151_936)?,
            hidden_size,
            intermediate_size: text.number_or("intermediate_size", 22_016)?,
            num_hidden_layers: text.number_or("num_hidden_layers", 32)?,
            num_attention_heads,
            num_key_value_heads: text.number_or("num_key_value_heads", 32)?,
            head_dim: text.number_or("head_dim", hidden_size / num_attention_heads)?,
            max_position_embeddings: text.number_or("max_position_embeddings", 32_768)?,
            rms_norm_eps: text.0["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta,
            tie_word_embeddings: root["tie_word_embeddings"] == true,
            qk_norm: false,
        },
        speech: None,
        audio_token: ["audio_token_index", "audio_token_id"]
            .into_iter()
            .find_map(|name| root[name].as_u64())
            .unwrap_or(151_646) as u32,
    };

    found.check()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_hub_leaves_out_is_known() {
        let hub = json!({
            "model_type": "qwen2_audio",
            "audio_config": {"model_type": "qwen2_audio_encoder"},
            "audio_token_index": 151_646,
            "text_config": {
                "intermediate_size": 11_008, "max_position_embeddings": 8192, "model_type": "qwen2",
                "rms_norm_eps": 1e-5, "rope_theta": 10_000, "sliding_window": 32_768, "vocab_size": 156_032
            }
        });
        let found = from_json(&hub).unwrap();
        assert_eq!(
            (found.audio.d_model, found.audio.window_frames()),
            (1280, 3000)
        );
        let text = &found.text;
        assert_eq!(
            (text.hidden_size, text.head_dim, text.rms_norm_eps),
            (4096, 128, 1e-5)
        );
        assert_eq!((text.num_key_value_heads, text.rope_theta), (32, 1e4));
    }

    #[test]
    fn another_decoder_is_refused_by_name() {
        let other = json!({"text_config": {"model_type": "llama"}});
        let error = from_json(&other).unwrap_err().to_string();
        assert!(
            error.contains("`text_config.model_type` is \"llama\""),
            "{error}"
        );
    }
}
