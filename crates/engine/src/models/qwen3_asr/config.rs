//! From `config.json` of Qwen3-ASR to the shape of the model.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::models::config::AudioConfig;
use crate::models::config::Chunks;
use crate::models::config::Config;
use crate::models::config::Fields;
use crate::models::config::TextConfig;
use crate::models::qwen3_asr::names::NAMES;
use crate::models::qwen3_asr::names::ORIGINAL_NAMES;
use crate::nn::checkpoint;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Samples up to which the processor fills shorter clips, without a setting of its own: half a
/// second.
const MIN_SAMPLES: usize = 8000;

/// Reads the configuration of either layout. Fields that are not there have the defaults of
/// transformers' `Qwen3ASREncoderConfig` and `Qwen3Config`, or in the original layout those of
/// `qwen_asr`.
///
/// # Errors
/// A field with a value that maqam does not compute; the message names it.
pub fn from_json(root: &Value) -> Result<Config> {
    let model = model_of(root);
    let is_original = root["thinker_config"].is_object();
    if !model["classify_num"].is_null() || !root["num_labels"].is_null() {
        return Err(
            Error::input("the checkpoint is a forced aligner: it classifies time stamps")
                .hint("take a Qwen3-ASR checkpoint that transcribes"),
        );
    }
    let audio = Fields(&model["audio_config"], "audio_config");
    let text = Fields(&model["text_config"], "text_config");
    let is_qwen3 = text.0["model_type"]
        .as_str()
        .is_none_or(|kind| ["qwen3", "qwen3_asr_text"].contains(&kind));
    if !is_qwen3 {
        return Err(Error::input(format!(
            "`text_config.model_type` is {}; maqam has qwen3 there",
            text.0["model_type"]
        )));
    }
    audio.require("activation_function", "gelu")?;
    audio.require("scale_embedding", false)?;
    text.require("hidden_act", "silu")?;
    text.require("use_sliding_window", false)?;
    text.require("attention_bias", false)?;
    // Positions of audio and text are equal on all three axes, so that an interleaved rotation is a
    // plain one.
    let rope_theta = text.rope_theta(&["default", "mrope"], if is_original { 5e6 } else { 1e4 })?;

    let n_window = audio.number_or("n_window", if is_original { 100 } else { 50 })?;
    let positions = (2 * n_window).div_ceil(8);
    let usual = |of_original: usize, of_transformers: usize| match is_original {
        true => of_original,
        false => of_transformers,
    };
    let found = Config {
        source: PathBuf::new(),
        names: if is_original { &ORIGINAL_NAMES } else { &NAMES },
        audio: AudioConfig {
            d_model: either(&audio, ["d_model", "hidden_size"], usual(1280, 1024))?,
            encoder_layers: either(
                &audio,
                ["encoder_layers", "num_hidden_layers"],
                usual(32, 24),
            )?,
            encoder_attention_heads: either(
                &audio,
                ["encoder_attention_heads", "num_attention_heads"],
                usual(20, 16),
            )?,
            encoder_ffn_dim: either(
                &audio,
                ["encoder_ffn_dim", "intermediate_size"],
                usual(5120, 4096),
            )?,
            num_mel_bins: audio.number_or("num_mel_bins", 128)?,
            n_window,
            max_source_positions: either(
                &audio,
                ["max_position_embeddings", "max_source_positions"],
                usual(1500, positions),
            )?,
            output_dim: audio.number_or("output_dim", 3584)?,
            chunks: Some(Chunks {
                downsample_hidden_size: audio.number_or("downsample_hidden_size", 480)?,
                n_window_infer: audio.number_or("n_window_infer", usual(400, 800))?,
                min_samples: MIN_SAMPLES,
            }),
        },
        text: TextConfig {
            vocab_size: text.number_or("vocab_size", 151_936)?,
            hidden_size: text.number_or("hidden_size", 4096)?,
            intermediate_size: text.number_or("intermediate_size", 22_016)?,
            num_hidden_layers: text.number_or("num_hidden_layers", 32)?,
            num_attention_heads: text.number_or("num_attention_heads", 32)?,
            num_key_value_heads: text.number_or("num_key_value_heads", 32)?,
            head_dim: text.number_or("head_dim", 128)?,
            max_position_embeddings: text
                .number_or("max_position_embeddings", usual(128_000, 32_768))?,
            rms_norm_eps: text.0["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta,
            tie_word_embeddings: is_tied(root),
            qk_norm: true,
        },
        speech: None,
        audio_token: model["audio_token_id"]
            .as_u64()
            .unwrap_or(usual(151_646, 151_676) as u64) as u32,
    };
    found.check()?;
    Ok(found)
}

/// Takes the settings for clips of the checkpoint's processor, where the folder has them.
///
/// # Errors
/// Settings of frames that maqam does not compute; a damaged file.
pub fn take_processor(config: &mut Config, dir: &Path) -> Result<()> {
    let path = dir.join("processor_config.json");
    if !path.is_file() {
        return Ok(());
    }
    let written = checkpoint::read_json(&path)?;
    let settings = Fields(&written["feature_extractor"], "feature_extractor");
    let at = |e: Error| e.at_path(&path);
    for (name, expected) in [
        ("n_fft", 400),
        ("hop_length", 160),
        ("sampling_rate", 16_000),
        ("feature_size", config.audio.num_mel_bins),
        ("n_window", config.audio.n_window),
    ] {
        settings.require(name, expected).map_err(at)?;
    }
    if let Some(chunks) = &mut config.audio.chunks
        && let Some(min_samples) = settings.0["min_length"].as_u64()
    {
        chunks.min_samples = min_samples as usize;
    }
    Ok(())
}

/// The section that describes the model of audio and text.
pub fn model_of(root: &Value) -> &Value {
    match root["thinker_config"].is_object() {
        true => &root["thinker_config"],
        false => root,
    }
}

/// Whether the configuration asks for a head that is the embedding table. It does so too where it
/// says nothing.
pub fn is_tied(root: &Value) -> bool {
    let model = model_of(root);
    let places = [
        &root["tie_word_embeddings"],
        &model["tie_word_embeddings"],
        &model["text_config"]["tie_word_embeddings"],
    ];
    places.into_iter().find_map(Value::as_bool).unwrap_or(true)
}

/// A number that transformers writes under one of two names.
fn either(fields: &Fields, names: [&str; 2], usual: usize) -> Result<usize> {
    let written = names.into_iter().find(|name| !fields.0[*name].is_null());
    fields.number_or(written.unwrap_or(names[0]), usual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The configuration of the 0.6B in the original layout, without what is not read.
    fn original() -> Value {
        json!({"model_type": "qwen3_asr", "thinker_config": {
            "audio_token_id": 151_676,
            "audio_config": {"num_mel_bins": 128, "encoder_layers": 18, "encoder_attention_heads": 14, "encoder_ffn_dim": 3584,
                "d_model": 896, "n_window": 50, "n_window_infer": 800, "output_dim": 1024, "max_source_positions": 1500,
                "downsample_hidden_size": 480},
            "text_config": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 65_536,
                "rope_theta": 1_000_000, "rope_scaling": {"mrope_interleaved": true, "mrope_section": [24, 20, 20], "rope_type": "default"},
                "tie_word_embeddings": true}}})
    }

    #[test]
    fn both_layouts_have_one_shape() {
        let original = original();
        let mut flat = original["thinker_config"].clone();
        flat["model_type"] = "qwen3_asr".into();
        let audio = flat["audio_config"].as_object_mut().unwrap();
        audio.remove("max_source_positions");
        audio.insert("max_position_embeddings".into(), 13.into());
        let heads = audio.remove("encoder_attention_heads").unwrap();
        audio.insert("num_attention_heads".into(), heads);
        let a = from_json(&original).unwrap();
        let b = from_json(&flat).unwrap();
        assert_eq!(a.text, b.text);
        assert_eq!(a.audio_tokens(160_000), 130);
        assert_eq!(b.audio_tokens(160_000), 130);
        assert_eq!(a.audio.framing().attended(), 104);
        assert_eq!(
            a.audio.encoder_attention_heads,
            b.audio.encoder_attention_heads
        );
        assert_eq!(
            a.names.adapters[0].name,
            "named as in the original checkpoint"
        );
        assert!(a.text.tie_word_embeddings && b.text.qk_norm);
    }

    #[test]
    fn settings_of_the_processor_are_taken_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |settings: Value| {
            let text = json!({"feature_extractor": settings}).to_string();
            std::fs::write(dir.path().join("processor_config.json"), text).unwrap();
            let mut config = from_json(&original()).unwrap();
            take_processor(&mut config, dir.path()).map(|()| config.audio_tokens(100))
        };
        assert_eq!(
            write(json!({"min_length": 16_000, "hop_length": 160})).unwrap(),
            13
        );
        assert_eq!(write(json!({})).unwrap(), 7);
        let error = write(json!({"feature_size": 80})).unwrap_err().to_string();
        assert!(
            error.contains("`feature_extractor.feature_size` is 80"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut config = original();
            change(&mut config["thinker_config"]);
            from_json(&config).unwrap_err().to_string()
        };
        let error = refused(&|config| config["text_config"]["attention_bias"] = true.into());
        assert!(
            error.contains("`text_config.attention_bias` is true"),
            "{error}"
        );
        let error = refused(&|config| config["audio_config"]["n_window_infer"] = 99.into());
        assert!(
            error.contains("`audio_config.n_window_infer` (99)"),
            "{error}"
        );
        let error = refused(&|config| config["audio_config"]["max_source_positions"] = 12.into());
        assert!(error.contains("a window has 13 positions"), "{error}");
        let error = refused(&|config| config["classify_num"] = 5000.into());
        assert!(error.contains("forced aligner"), "{error}");
        let error = refused(&|config| config["text_config"]["model_type"] = "qwen3_moe".into());
        assert!(error.contains("qwen3_moe"), "{error}");
    }
}
