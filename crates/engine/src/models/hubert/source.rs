//! Sources of an encoder's weights: a folder of Hugging Face's, in both forms of weight norm, or a
//! seed.

use std::path::Path;

use candle_core::DType;
use candle_core::Tensor;

use crate::models::hubert::config::Config;
use crate::models::hubert::initial;
use crate::models::hubert::initial::Head;
use crate::nn::checkpoint::Checkpoint;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Prefixes of an encoder's names in models with a head.
const PREFIXES: [&str; 3] = ["", "hubert.", "wav2vec2."];

/// Names of weight norm's two tensors today, and in checkpoints written by PyTorch before 2.1.
const WEIGHT_NORM: [(&str, &str); 2] = [
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
];

/// Source of weights.
pub enum Source {
    /// A checkpoint folder.
    Files {
        /// Tensors.
        checkpoint: Checkpoint,
        /// Prefix of the encoder's names.
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
