//! Where an encoder's weights come from, and the folder it is saved to: Hugging Face's names, in both forms of weight norm.

use std::path::Path;

use candle_core::DType;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

use crate::model::checkpoint::Checkpoint;
use crate::models::hubert::Head;
use crate::models::hubert::Hubert;
use crate::models::hubert::config::CONFIG_FILE;
use crate::models::hubert::config::Config;
use crate::models::hubert::config::PREPROCESSOR_FILE;
use crate::models::hubert::initial;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Name of the weights' file.
const WEIGHTS_FILE: &str = "model.safetensors";

/// What stands in front of an encoder's names in models with a head.
const PREFIXES: [&str; 3] = ["", "hubert.", "wav2vec2."];

/// Names of weight norm's two tensors today, and in checkpoints written by PyTorch before 2.1.
const WEIGHT_NORM: [(&str, &str); 2] = [
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
];

/// Where weights come from.
pub enum Source {
    /// A checkpoint folder.
    Files {
        /// Its tensors.
        checkpoint: Checkpoint,
        /// What stands in front of the encoder's names.
        prefix: &'static str,
        /// Seed of tensors that the folder does not hold: the mask embedding, and heads.
        seed: u64,
        /// Whether heads are read too.
        has_heads: bool,
    },
    /// A seed.
    Random {
        /// The seed.
        seed: u64,
    },
}

impl Source {
    /// The files of a folder, heads included where it has any.
    ///
    /// # Errors
    /// Files that are missing or damaged, or that hold no such encoder.
    pub fn open(dir: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let known = "feature_projection.projection.weight";
        let prefix = PREFIXES
            .into_iter()
            .find(|prefix| checkpoint.has(&format!("{prefix}{known}")));
        match prefix {
            Some(prefix) => Ok(Self::Files {
                checkpoint,
                prefix,
                seed: 0,
                has_heads: true,
            }),
            None => Err(Error::input(format!("no tensor `{known}`"))
                .at_path(dir)
                .hint("name the folder of a HuBERT or wav2vec 2.0 checkpoint")),
        }
    }

    /// The same source, its heads and what else it does not hold made from a seed.
    #[must_use]
    pub fn with_new_heads(self, new: u64) -> Self {
        match self {
            Self::Files {
                checkpoint, prefix, ..
            } => Self::Files {
                checkpoint,
                prefix,
                seed: new,
                has_heads: false,
            },
            Self::Random { .. } => Self::Random { seed: new },
        }
    }

    /// One tensor of exactly this shape, in `f32`.
    pub(super) fn get(
        &self,
        name: &str,
        shape: &[usize],
        head: Option<&Head>,
        config: &Config,
    ) -> Result<Tensor> {
        match self {
            Self::Random { seed } => initial::tensor(*seed, name, shape, head, config),
            Self::Files {
                checkpoint,
                prefix,
                seed,
                has_heads,
            } => {
                let stored = match head {
                    Some(_) => name.to_owned(),
                    None => format!("{prefix}{name}"),
                };
                let old = WEIGHT_NORM
                    .into_iter()
                    .find(|(today, _)| stored.ends_with(today))
                    .map(|(today, before)| stored.replace(today, before));
                let found = std::iter::once(stored.clone())
                    .chain(old)
                    .find(|stored| checkpoint.has(stored));
                let may_miss = name == "masked_spec_embed" || head.is_some();
                match found {
                    Some(stored) if head.is_none() || *has_heads => {
                        checkpoint.get(&stored, shape, DType::F32)
                    }
                    _ if may_miss => initial::tensor(*seed, name, shape, head, config),
                    _ => checkpoint.get(&stored, shape, DType::F32),
                }
            }
        }
    }
}

/// Writes an encoder as a folder that transformers reads: as `HubertModel` or `Wav2Vec2Model`, and with `ctc` as the model with a CTC
/// head, which then needs heads named `lm_head.weight` and `lm_head.bias`. Other heads are not written.
///
/// # Errors
/// The disk's.
pub fn save(model: &Hubert, dir: &Path, ctc: bool) -> Result<()> {
    let config = &model.config;
    let (class, prefix) = match (config.model_type.as_str(), ctc) {
        ("wav2vec2", false) => ("Wav2Vec2Model", ""),
        ("wav2vec2", true) => ("Wav2Vec2ForCTC", "wav2vec2."),
        (_, false) => ("HubertModel", ""),
        (_, true) => ("HubertForCTC", "hubert."),
    };
    let mut written = serde_json::to_value(config).map_err(Error::bug)?;
    written["architectures"] = json!([class]);
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
        "return_attention_mask": config.feat_extract_norm == crate::models::hubert::config::FeatureNorm::Layer,
    });
    write_json(&dir.join(PREPROCESSOR_FILE), &preprocessor)?;

    let num_heads = model.heads.len();
    let entries = &model.parameters.entries;
    let mut tensors = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let is_head = i >= entries.len() - num_heads;
        let name = match is_head {
            true if ctc && entry.name.starts_with("lm_head.") => entry.name.clone(),
            true => continue,
            false if entry.name == "masked_spec_embed" && !has_mask => continue,
            false => format!("{prefix}{}", entry.name),
        };
        tensors.push((name, model.parameters.value(entry)?));
    }
    files::write_safetensors(&dir.join(WEIGHTS_FILE), tensors)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::bug)?;
    files::write_atomic(path, format!("{text}\n").as_bytes())
}
