//! Settings of a benchmark of training steps.

use std::path::PathBuf;

use crate::bench::work::Work;
use crate::error::Error;
use crate::error::Result;
use crate::models::config::Config;
use crate::models::shapes;
use crate::nn::saving::Save;

/// A model of a stated shape, and the steps that it is timed on.
pub struct Settings {
    /// Name of the model's shape.
    pub shape: String,
    /// Checkpoint folder whose configuration is the shape instead.
    pub model: Option<PathBuf>,
    /// Number of layers that the decoder is cut to.
    pub layers: Option<usize>,
    /// Whether every weight is trained instead of adapters.
    pub full: bool,
    /// Kind of work.
    pub work: Work,
    /// Clips per step; by default as many as the work has.
    pub clips: Option<usize>,
    /// Steps that count.
    pub steps: usize,
    /// Steps before them that do not; by default 1, on a GPU 5.
    pub warm_up: Option<usize>,
    /// Rank of the adapters; alpha is twice that.
    pub rank: usize,
    /// What layers store for their backward.
    pub save: Save,
    /// Most tokens of a micro-batch.
    pub pack_tokens: usize,
    /// The part of a step that is measured, where it is not all of it.
    pub only: Option<Only>,
    /// Whether the time of every kernel and product is taken, for one step more.
    pub profile: bool,
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// The decoder's layers, from given states and gradients.
    Layers,
}

impl Settings {
    /// Returns the configuration of the model.
    ///
    /// # Errors
    /// Counts of 0, an unknown shape, a folder without a configuration.
    pub fn config(&self) -> Result<Config> {
        if self.steps == 0 || self.clips == Some(0) {
            return Err(Error::input("--steps and --clips count from 1"));
        }
        match &self.model {
            Some(dir) => {
                let config = Config::load(dir)?;
                config.refuse_speech()?;
                Ok(config)
            }
            None => shapes::by_name(&self.shape, self.layers),
        }
    }
}
