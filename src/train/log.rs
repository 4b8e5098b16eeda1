//! The lines of `log.jsonl`. They hold what a run computed and nothing of when or where, so that two runs of one seed log the same bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::eval::Scores;
use crate::model::precision::Computes;

/// One finished optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// `train`.
    pub kind: &'static str,
    /// Number of the step, from 1.
    pub step: u64,
    /// Name of its stage.
    pub stage: String,
    /// Weighted mean over target tokens of the (smoothed) negative log-likelihood, nats, before the update.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Number of examples.
    pub examples: usize,
    /// All tokens, audio tokens included.
    pub tokens: usize,
    /// Target tokens.
    pub target_tokens: usize,
    /// Length of the audio, in seconds.
    pub seconds: f64,
    /// Rows left out because they could not be read.
    pub skipped: usize,
    /// The same by task.
    pub tasks: BTreeMap<String, TaskRecord>,
}

/// What computes the steps after this line, where it is something else than before. A log begins on the CPU, in `f32`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRecord {
    /// `device`.
    pub kind: &'static str,
    /// Steps before it.
    pub at_step: u64,
    /// Device and type.
    #[serde(flatten)]
    pub computes: Computes,
}

/// One task's part of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TaskRecord {
    /// Number of examples.
    pub examples: usize,
    /// Length of the audio, in seconds.
    pub seconds: f64,
    /// Target tokens.
    pub target_tokens: usize,
    /// Mean over the task's target tokens of the negative log-likelihood, nats, before the update.
    pub loss: f64,
}

/// A stage that ended before its planned length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageEnd {
    /// `stage_end`.
    pub kind: &'static str,
    /// Its last step.
    pub at_step: u64,
    /// Its name.
    pub stage: String,
    /// Why it ended.
    pub reason: String,
}

impl StageEnd {
    /// The end of `stage` after `at_step` steps of the run.
    pub fn new(at_step: u64, stage: &str, reason: &str) -> Self {
        Self {
            kind: "stage_end",
            at_step,
            stage: stage.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// The line of an evaluation, under a control or as it is: `step` and `loss` never stand at its top, so that readers of training curves pass over it.
pub fn eval_line(at_step: u64, control: Option<&str>, scores: &Scores) -> Result<String> {
    let line = match control {
        None => {
            serde_json::json!({ "kind": "eval", "at_step": at_step, "scores": scores.to_json() })
        }
        Some(control) => {
            serde_json::json!({ "kind": "eval", "at_step": at_step, "control": control, "scores": scores.to_json() })
        }
    };
    serde_json::to_string(&line).map_err(Error::bug)
}
