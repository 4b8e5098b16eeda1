//! The sections of a recipe that training owns: memory, checkpoints, evaluation, probes, embeddings.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::nn::saving::Save;

/// `memory:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Most tokens of a micro-batch; a longer example gets one of its own.
    pub pack_tokens: usize,
    /// What layers keep for their backward.
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
    /// Steps from one to the next; the last step always has one.
    pub every: u64,
    /// How many are kept, the best apart.
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
    /// Whether to evaluate before the first step too. What the model knew before training is never the `best`.
    #[serde(default)]
    pub at_start: bool,
}

fn default_every() -> u64 {
    200
}

fn default_keep_best() -> String {
    "mean".to_owned()
}

/// `probe:` of a recipe: the gradient of each task apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeSettings {
    /// Steps from one probe to the next; 0 for none. A probe computes its step's forward and backward a second time, task by task, so
    /// `every: 50` costs about 2 % of the training time and a copy of the trained numbers for each task. It changes nothing of the run.
    pub every: u64,
}

/// `embeddings:` of a recipe: what `draw: diverse` compares rows by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingSettings {
    /// Where embeddings are kept from one run to the next, by model and audio.
    pub cache: PathBuf,
}

impl Default for EmbeddingSettings {
    fn default() -> Self {
        Self {
            cache: "runs/.embeddings".into(),
        }
    }
}
