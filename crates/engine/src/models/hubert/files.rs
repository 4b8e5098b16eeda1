//! Where an encoder's weights come from, and the folder it is saved to: Hugging Face's names, in both forms of weight norm.

use std::path::Path;

use candle_core::DType;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;

use crate::models::hubert::Head;
use crate::models::hubert::Hubert;
use crate::models::hubert::config::CONFIG_FILE;
use crate::models::hubert::config::Config;
use crate::models::hubert::config::PREPROCESSOR_FILE;
use crate::models::hubert::initial;
use crate::nn::checkpoint::Checkpoint;
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
        let checkpoint = Checkpoint::open(dir, &[])?;
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

/// What a folder is saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `HubertModel` or `Wav2Vec2Model`.
    Encoder,
    /// The model with a CTC head: `lm_head`.
    Ctc,
    /// The model with a classifier of whole clips: `projector`, `classifier`, perhaps `layer_weights`.
    Classifier,
}

/// Writes an encoder as a folder that transformers reads, with the tensors of its head by their names there.
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
        "return_attention_mask": config.feat_extract_norm == crate::models::hubert::config::FeatureNorm::Layer,
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
