//! The sections of a recipe that training owns: memory, checkpoints, evaluation, probes,
//! embeddings.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::nn::saving::Save;
use crate::records::scores::MEAN;

/// `memory:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Most tokens of a micro-batch; a longer example gets one of its own.
    pub pack_tokens: usize,
    /// Amount that layers save for the backward pass.
    pub save: Save,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            pack_tokens: 8192,
            save: Save::default(),
        }
    }
}

/// `checkpoint:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps from one checkpoint to the next. The last step is always saved.
    pub every: u64,
    /// Number of checkpoints kept beside `best/`.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every: 200,
            keep: 3,
        }
    }
}

/// `evaluate:` of a recipe, or its suite alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "suite")]
pub struct EvaluateSettings {
    /// A suite of role `dev`.
    pub suite: PathBuf,
    /// Steps from one evaluation to the next; the last step always has one.
    #[serde(default = "default_every")]
    pub every: u64,
    /// The score whose best checkpoint is kept in `best/`.
    #[serde(default = "default_keep_best")]
    pub keep_best: String,
    /// Whether to evaluate before the first step too. What the model knew before training is never
    /// the `best`.
    #[serde(default)]
    pub at_start: bool,
}

fn default_every() -> u64 {
    200
}

fn default_keep_best() -> String {
    MEAN.to_owned()
}

/// `probe:` of a recipe: gradients task by task, and the audio gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeSettings {
    /// Steps from one probe to the next; 0 for none. A probe computes its step's forward and
    /// backward a second time, task by task, so `every: 50` costs about 2 % of the training time
    /// and a copy of the trained parameters for each task. A probe does not change the run.
    pub every: u64,
    /// Steps from one measurement of the audio gap to the next; 0 for none. The model as the run
    /// starts is measured too. A measurement does not change the run.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_gap: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `embeddings:` of a recipe: the cache of embeddings that `draw: diverse` compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingSettings {
    /// Folder of the cache, shared by runs. Its key is a hash of model and audio.
    pub cache: PathBuf,
}

impl Default for EmbeddingSettings {
    fn default() -> Self {
        Self {
            cache: "runs/.embeddings".into(),
        }
    }
}
