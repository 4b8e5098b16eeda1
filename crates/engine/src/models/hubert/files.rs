//! The folder that an encoder is saved to, with Hugging Face's names.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

use crate::models::hubert::config::CONFIG_FILE;
use crate::models::hubert::config::FeatureNorm;
use crate::models::hubert::config::PREPROCESSOR_FILE;
use crate::models::hubert::encoder::Hubert;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Name of the weights' file.
const WEIGHTS_FILE: &str = "model.safetensors";

/// Class of transformers that a folder is saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `HubertModel` or `Wav2Vec2Model`.
    Encoder,
    /// The model with a CTC head: `lm_head`.
    Ctc,
    /// The model with a classifier of whole clips: `projector`, `classifier`, perhaps
    /// `layer_weights`.
    Classifier,
}

/// Writes an encoder as a folder that transformers reads, with the tensors of its head by their
/// names there.
///
/// # Errors
/// The disk's.
pub fn save(model: &Hubert, dir: &Path, class: Class, heads: Vec<(String, Tensor)>) -> Result<()> {
    let config = &model.config;
    let is_wav2vec2 = config.model_type == "wav2vec2";
    let family = if is_wav2vec2 { "Wav2Vec2" } else { "Hubert" };

    let (class, prefix) = match class {
        Class::Encoder => ("Model", ""),
        Class::Ctc if is_wav2vec2 => ("ForCTC", "wav2vec2."),
        Class::Ctc => ("ForCTC", "hubert."),
        Class::Classifier if is_wav2vec2 => ("ForSequenceClassification", "wav2vec2."),
        Class::Classifier => ("ForSequenceClassification", "hubert."),
    };

    let mut written = serde_json::to_value(config).map_err(Error::bug_from)?;
    written["architectures"] = json!([format!("{family}{class}")]);
    written["dtype"] = json!("float32");
    let is_masked = |key: &str, default: f64| written[key].as_f64().unwrap_or(default) > 0.0;
    // transformers has a mask embedding only where training would use it.
    let has_mask = is_masked("mask_time_prob", 0.05) || is_masked("mask_feature_prob", 0.0);

    files::create_dir(dir)?;
    write_json(&dir.join(CONFIG_FILE), &written)?;
    let preprocessor = json!({
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": maqam_audio::SAMPLE_RATE,
        "padding_value": 0.0,
        "do_normalize": config.do_normalize,
        "return_attention_mask": config.feat_extract_norm == FeatureNorm::Layer,
    });
    write_json(&dir.join(PREPROCESSOR_FILE), &preprocessor)?;

    let mut tensors = heads;
    for entry in model.encoder_entries() {
        if entry.name != "masked_spec_embed" || has_mask {
            tensors.push((
                format!("{prefix}{}", entry.name),
                model.parameters.value(entry)?,
            ));
        }
    }

    files::write_safetensors(&dir.join(WEIGHTS_FILE), tensors)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::bug_from)?;
    files::write_atomic(path, format!("{text}\n").as_bytes())
}
