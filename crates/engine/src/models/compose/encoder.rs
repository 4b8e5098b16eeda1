//! The encoder of a Whisper checkpoint: its shape, and its tensors under the names that Qwen2-Audio
//! gives them.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::models::config::Fields;
use crate::models::qwen2_audio::names::NAMES;
use crate::nn::checkpoint;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::naming::NameForm;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// As in `WhisperForConditionalGeneration`.
const WHOLE: NameForm = NameForm {
    name: "named as in the whole model",
    beginnings: &[("audio_tower.", "model.encoder.")],
};

/// As in `WhisperModel`.
const INNER: NameForm = NameForm {
    name: "named as in the inner model",
    beginnings: &[("audio_tower.", "encoder.")],
};

/// A Whisper encoder in a folder.
pub struct Encoder {
    /// The `audio_config`.
    pub config: Value,
    /// Weights.
    pub checkpoint: Checkpoint,
}

impl Encoder {
    /// Reads the configuration of a Whisper checkpoint of any size, and maps its weights.
    ///
    /// # Errors
    /// Another kind of checkpoint; missing or damaged files.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        checkpoint::check_inside(dir, &path)?;
        let root = checkpoint::read_json(&path)
            .map_err(|e| e.or_hint("`--encoder` is the folder of a Whisper checkpoint"))?;
        if root["model_type"] != "whisper" {
            return Err(Error::input(format!(
                "`model_type` is {}, expected whisper",
                root["model_type"]
            ))
            .at_path(&path)
            .hint("`--encoder` is the folder of a Whisper checkpoint, of any size"));
        }
        Ok(Self {
            config: audio_config(&root).map_err(|e| e.at_path(&path))?,
            checkpoint: Checkpoint::open(dir, &[WHOLE, INNER])?,
        })
    }
}

/// Whisper's configuration of its encoder, as Qwen2-Audio writes it.
fn audio_config(root: &Value) -> Result<Value> {
    let fields = Fields(root, "config");
    fields.require("activation_function", "gelu")?;
    fields.require("scale_embedding", false)?;
    let mut config = json!({
        "model_type": "qwen2_audio_encoder",
        "activation_function": "gelu",
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "scale_embedding": false,
    });
    for (field, usual) in [
        ("d_model", None),
        ("encoder_layers", None),
        ("encoder_attention_heads", None),
        ("encoder_ffn_dim", None),
        ("num_mel_bins", Some(80)),
        ("max_source_positions", Some(1500)),
    ] {
        let number = match usual {
            Some(usual) => fields.number_or(field, usual)?,
            None => fields.number(field)?,
        };
        config[field] = number.into();
    }
    Ok(config)
}

/// Whether a tensor under its new name belongs to the encoder.
pub fn is_encoders(name: &str) -> bool {
    name.strip_prefix(NAMES.encoder)
        .is_some_and(|rest| rest.starts_with('.'))
}
