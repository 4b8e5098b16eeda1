//! `comparison.json` of an experiment: every recipe's test scores over its seeds with intervals,
//! the declared contrasts, what was seen and how it went.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_stats::significance::Difference;
use maqam_stats::significance::Estimate;
use maqam_stats::significance::Verdict;
use maqam_stats::significance::convergence::Convergence;

/// Name of the file in an experiment's folder.
pub const COMPARISON_FILE: &str = "comparison.json";

/// What is compared of an experiment.
#[derive(Serialize)]
pub struct Comparison {
    /// Names of the recipes, in the experiment's order.
    pub recipes: Vec<String>,
    /// Number of seeds that every recipe was trained with.
    pub num_seeds: usize,
    /// What each recipe saw, by recipe; the mean over seeds.
    pub budgets: Vec<Budget>,
    /// Scores of the last checkpoints.
    pub last: Vec<ScoreTable>,
    /// Scores of the checkpoints that were best on dev.
    pub best: Vec<ScoreTable>,
    /// The declared contrasts, at the last checkpoints.
    pub contrasts: Vec<Contrasted>,
    /// How runs went on the way.
    pub dynamics: Dynamics,
    /// What to know before believing any of it.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Writes the comparison into the folder of its experiment, and returns the path.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(COMPARISON_FILE);
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&path, text.as_bytes())?;
        Ok(path)
    }
}

/// One score of every recipe.
#[derive(Serialize)]
pub struct ScoreTable {
    /// The score, as the suite names it.
    pub score: String,
    /// How it was computed.
    pub signature: String,
    /// By recipe.
    pub estimates: Vec<Estimate>,
    /// The score of each single seed, by recipe and seed.
    pub seeds: Vec<Vec<f64>>,
}

/// A contrast with what was found.
#[derive(Serialize)]
pub struct Contrasted {
    /// What was declared.
    pub contrast: Contrast,
    /// The recipe's score minus that of what it is held against.
    pub difference: Difference,
    /// The p-value before correction: Student's, which is right with few seeds and clusters.
    pub p: f64,
    /// Holm's correction over all contrasts of the experiment.
    pub adjusted_p: f64,
    /// What may be claimed.
    pub verdict: Verdict,
}

/// A difference between two recipes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contrast {
    /// The recipe that is expected to differ.
    pub recipe: String,
    /// The recipe that it is compared with.
    pub against: String,
    /// The score, as the test suite names it.
    pub score: String,
}

/// What a run saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Optimiser steps.
    pub steps: f64,
    /// Examples.
    pub examples: f64,
    /// Audio, in hours.
    pub audio_hours: f64,
    /// Tokens learned.
    pub target_tokens: f64,
    /// Examples by task.
    pub examples_by_task: BTreeMap<String, f64>,
}

/// What happened on the way, the mean over seeds.
#[derive(Serialize)]
pub struct Dynamics {
    /// Dev scores by recipe, score and step.
    pub curves: Vec<BTreeMap<String, BTreeMap<u64, f64>>>,
    /// The same of each seed: by recipe, score and step, the seeds in their order.
    pub seed_curves: Vec<SeedCurves>,
    /// For each pair of recipes of the contrasts: when the one reaches the dev `mean` that the
    /// other ends with.
    pub convergence: Vec<Reached>,
    /// By recipe: failures of transcripts and summaries by step of the evaluation.
    pub failures: Vec<BTreeMap<u64, BTreeMap<String, f64>>>,
    /// By recipe: mean cosine between two tasks' gradients over all probes, and mean length of each
    /// task's gradient.
    pub gradients: Vec<Gradients>,
}

/// The values of several seeds, by score and step.
pub type SeedCurves = BTreeMap<String, BTreeMap<u64, Vec<f64>>>;

/// Steps to the score that another recipe ends with.
#[derive(Serialize)]
pub struct Reached {
    /// The recipe.
    pub recipe: String,
    /// The one whose last score is to be reached.
    pub against: String,
    /// Both recipes' steps by seed, and the difference, the recipe's minus the other's.
    pub found: Convergence,
}

/// What a recipe's probes found.
#[derive(Default, Serialize)]
pub struct Gradients {
    /// By `first|second`.
    pub cosines: BTreeMap<String, f64>,
    /// By task.
    pub norms: BTreeMap<String, f64>,
    /// Standard deviation over mean of the gradient's length over the steps of a run; not a number
    /// for a merge.
    pub volatility: f64,
}
