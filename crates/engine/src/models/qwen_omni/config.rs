//! Shape of the thinker in `config.json` of Qwen2.5-Omni.

use std::path::PathBuf;

use serde_json::Value;

use crate::models::config::AudioConfig;
use crate::models::config::Config;
use crate::models::config::Fields;
use crate::models::config::TextConfig;
use crate::models::qwen_omni::names::NAMES;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Reads the configuration of a full or a thinker-only checkpoint.
///
/// # Errors
/// If a field is missing, or says something the model here does not do; the message names it.
pub fn from_json(root: &Value) -> Result<Config> {
    let thinker = thinker_of(root);
    let audio = Fields(&thinker["audio_config"], "audio_config");
    let text = Fields(&thinker["text_config"], "text_config");
    audio.require("activation_function", "gelu")?;
    audio.require("scale_embedding", false)?;
    text.require("hidden_act", "silu")?;
    text.require("use_sliding_window", false)?;
    let rope_theta = text.rope_theta(&["default", "mrope"], 1e6)?;
    let hidden_size = text.number("hidden_size")?;
    let num_attention_heads = text.number("num_attention_heads")?;

    let found = Config {
        source: PathBuf::new(),
        names: &NAMES,
        audio: AudioConfig {
            d_model: audio.number("d_model")?,
            encoder_layers: audio.number("encoder_layers")?,
            encoder_attention_heads: audio.number("encoder_attention_heads")?,
            encoder_ffn_dim: audio.number("encoder_ffn_dim")?,
            num_mel_bins: audio.number("num_mel_bins")?,
            n_window: audio.number("n_window")?,
            max_source_positions: audio.number("max_source_positions")?,
            output_dim: audio.number("output_dim")?,
            chunks: None,
        },
        text: TextConfig {
            vocab_size: text.number("vocab_size")?,
            hidden_size,
            intermediate_size: text.number("intermediate_size")?,
            num_hidden_layers: text.number("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: text.number("num_key_value_heads")?,
            head_dim: text.0["head_dim"]
                .as_u64()
                .map_or(hidden_size / num_attention_heads, |n| n as usize),
            max_position_embeddings: text.number("max_position_embeddings")?,
            rms_norm_eps: text.0["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta,
            tie_word_embeddings: [
                &thinker["tie_word_embeddings"],
                &text.0["tie_word_embeddings"],
                &root["tie_word_embeddings"],
            ]
            .into_iter()
            .find_map(Value::as_bool)
            .unwrap_or(false),
            qk_norm: false,
        },
        speech: None,
        audio_token: ["audio_token_index", "audio_token_id"]
            .into_iter()
            .find_map(|name| thinker[name].as_u64())
            .ok_or_else(|| Error::input("`thinker_config` has no `audio_token_index`"))?
            as u32,
    };

    found.check()?;
    Ok(found)
}

/// The part of a configuration that describes the thinker.
pub fn thinker_of(root: &Value) -> &Value {
    if root["model_type"] == "qwen2_5_omni" {
        &root["thinker_config"]
    } else {
        root
    }
}
