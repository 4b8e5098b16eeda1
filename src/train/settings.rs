//! The sections of a recipe that training owns: memory, checkpoints, evaluation, probes,
//! embeddings.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::models::EmbeddingNoise;
use crate::models::memory::PACK_TOKENS;
use crate::nn::saving::Save;
use crate::records::scores::MEAN;

/// `memory:` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Most tokens of a micro-batch; a longer example gets one of its own. The recipe that is
    /// stored with a run has it always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack_tokens: Option<usize>,
    /// Amount that layers save for the backward pass.
    pub save: Save,
}

impl MemorySettings {
    /// Most tokens of a micro-batch, as the recipe has it or by default where no GPU computes.
    pub fn pack_tokens(&self) -> usize {
        self.pack_tokens.unwrap_or(PACK_TOKENS)
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
    /// Number of last checkpoints whose average is written as the run ends; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub average: usize,
}

/// Whether a number is 0.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl CheckpointSettings {
    /// Checks the settings; the message names the key.
    ///
    /// # Errors
    /// No checkpoint to resume from; an average of fewer than two checkpoints, or of more than are
    /// kept.
    pub fn check(&self) -> Result<()> {
        if self.keep == 0 {
            return Err(Error::input("`checkpoint.keep` is 0")
                .hint("write 1 or more: the last checkpoint is needed to resume from"));
        }
        if self.average == 1 {
            return Err(Error::input("`checkpoint.average` is 1").hint(
                "write the number of last checkpoints to average, 2 or more, or leave it out",
            ));
        }
        if self.average > self.keep {
            return Err(Error::input(format!(
                "`checkpoint.average` is {}, and `checkpoint.keep` only {}",
                self.average, self.keep
            ))
            .hint("set `keep` to at least the number of checkpoints that are averaged"));
        }
        Ok(())
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every: 200,
            keep: 3,
            average: 0,
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
    /// Number of training rows of each set's task that are evaluated like the set's own, after the
    /// last step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub train_rows: usize,
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

/// `neftune:` of a recipe: noise on embeddings in training (Jain et al. 2023, arXiv 2310.05914).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeftuneSettings {
    /// Scale: the noise of a sequence of L tokens of width d is uniform in +- alpha / sqrt(L d).
    pub alpha: f64,
    /// Whether audio embeddings get noise, too.
    #[serde(default)]
    pub audio: bool,
}

impl NeftuneSettings {
    /// Checks the settings; the message names the key.
    ///
    /// # Errors
    /// A scale that is not above 0.
    pub fn check(&self) -> Result<()> {
        if self.alpha > 0.0 && self.alpha.is_finite() {
            return Ok(());
        }
        Err(Error::input(format!(
            "`neftune.alpha` is {}, expected a number above 0",
            self.alpha
        ))
        .hint("write 5, the smallest of the paper's values, or leave `neftune` out"))
    }

    /// The noise of a training pass.
    pub fn noise(&self) -> EmbeddingNoise {
        EmbeddingNoise {
            alpha: self.alpha,
            on_audio: self.audio,
        }
    }
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
