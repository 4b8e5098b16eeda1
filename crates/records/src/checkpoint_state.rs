//! `state.json` of a checkpoint: how far a run has come, of a model and of a speech encoder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;
use maqam_stats::msft::Progress;

/// The file in the folder of a checkpoint.
pub const STATE_FILE: &str = "state.json";

/// Number of the format of a model's checkpoint folder.
const FORMAT: u32 = 1;

/// State of the training of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Format of the folder.
    pub format: u32,
    /// Finished optimiser steps.
    pub step: u64,
    /// The last step whose evaluation is in the log.
    pub evaluated: Option<u64>,
    /// The best score so far, of `evaluate.keep_best`.
    pub best: Option<f64>,
    /// Length of the log, in bytes.
    pub log_bytes: u64,
    /// BLAKE3 of every file the run reads its rows from.
    pub inputs: BTreeMap<String, String>,
    /// Stages that ended before their planned length, by their place from 0, with the steps they
    /// had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stage_ends: BTreeMap<usize, u64>,
    /// Score that a stage with `early_stop` waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Weights of stages with `mix: {online: ...}`, by the stage's place from 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mixtures: BTreeMap<usize, Mixture>,
    /// Weights of tasks under `gradients: famo`, by name of the task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub famo: BTreeMap<String, FamoTask>,
    /// BLAKE3 of the snapshots of embeddings that stages draw by, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, String>,
    /// Rounds of stages that end by mSFT, by the place of the stage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub msft: BTreeMap<usize, Progress>,
    /// Whether it was written between two of the recipe's checkpoints, because the run stopped; the
    /// next one takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_between: bool,
    /// Whether the audio gap is measured after the last step, and is not in the log yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gap_due: bool,
    /// Device and precision of the last step, where that was not the CPU in `f32`.
    #[serde(default, skip_serializing_if = "Computed::is_default")]
    pub computes: Computed,
}

/// A stage that waits for a better score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The stage's place, from 0.
    pub stage: usize,
    /// Best score so far.
    pub best: f64,
    /// Evaluations since then.
    pub evaluations: u64,
}

/// Weights of a stage's tasks, in the order of its tasks, and what they follow from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// The first step that they hold for, counted from 0 in the stage.
    pub from: u64,
    /// Weight of each task.
    pub weights: Vec<f64>,
    /// Moving average of each task's reward.
    pub rewards: Vec<f64>,
    /// Slots of each task before `from`.
    pub counts: Vec<u64>,
    /// Number of updates so far.
    pub updates: u64,
}

/// Weight of a task under FAMO, with the state of its Adam.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FamoTask {
    /// Logit: the softmax over the tasks of a step gives weights.
    pub logit: f64,
    /// Running mean of the logit's gradient.
    pub first: f64,
    /// Running mean of its square.
    pub second: f64,
    /// Number of updates so far.
    pub updates: u64,
}

/// What computed a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// Kind of device: `cpu` or `cuda`.
    pub device: String,
    /// Type of frozen weights and activations, such as `f32`.
    pub precision: String,
}

impl Default for Computed {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            precision: "f32".to_owned(),
        }
    }
}

impl Computed {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl State {
    /// The state of a run that has not begun.
    pub fn new(inputs: BTreeMap<String, String>) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            evaluated: None,
            best: None,
            log_bytes: 0,
            inputs,
            stage_ends: BTreeMap::new(),
            waiting: None,
            mixtures: BTreeMap::new(),
            famo: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            msft: BTreeMap::new(),
            is_between: false,
            is_gap_due: false,
            computes: Computed::default(),
        }
    }

    /// Whether a roll-back is due before the next step.
    pub fn is_roll_back_pending(&self) -> bool {
        let mut all = self.msft.values();
        all.any(|progress| progress.pending.is_some())
    }

    /// Reads the state in the folder of a checkpoint.
    ///
    /// # Errors
    /// A file that is missing, or of another format.
    pub fn read(folder: &Path) -> Result<Self> {
        let state: Self = read(folder)?;
        if state.format != FORMAT {
            let found = format!("format {}, this maqam reads {FORMAT}", state.format);
            return Err(Error::input(found).at_path(&folder.join(STATE_FILE)));
        }
        Ok(state)
    }

    /// Writes the state into the folder of a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(STATE_FILE), text.as_bytes())
    }
}

/// State of the training of a speech encoder, or of a head on one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderState {
    /// The iteration, from 0.
    pub iteration: usize,
    /// Finished steps of it.
    pub step: u64,
    /// Bytes of the log at that point.
    pub log_bytes: u64,
}

impl EncoderState {
    /// Reads the state in the folder of a checkpoint.
    ///
    /// # Errors
    /// A file that is missing or no state.
    pub fn read(folder: &Path) -> Result<Self> {
        read(folder)
    }

    /// Writes the state into the folder of a checkpoint.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(STATE_FILE), (text + "\n").as_bytes())
    }
}

/// Hashes of the files that the run of a checkpoint reads its rows from; none where its state is
/// missing or names none.
///
/// # Errors
/// A file that is no JSON object.
pub fn inputs(folder: &Path) -> Result<BTreeMap<String, String>> {
    /// The state of either kind, and of other versions, as far as inputs go.
    #[derive(Deserialize)]
    struct Inputs {
        #[serde(default)]
        inputs: BTreeMap<String, String>,
    }

    if !folder.join(STATE_FILE).is_file() {
        return Ok(BTreeMap::new());
    }
    let state: Inputs = read(folder)?;
    Ok(state.inputs)
}

fn read<T: DeserializeOwned>(folder: &Path) -> Result<T> {
    let path = folder.join(STATE_FILE);
    json::parse(&files::read_text(&path)?)
        .map_err(|e| e.at("not a checkpoint's state").at_path(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(inputs(dir.path()).unwrap(), BTreeMap::new());

        let named = BTreeMap::from([("data/a.jsonl".to_owned(), "00ff".to_owned())]);
        let state = State::new(named.clone());
        state.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(STATE_FILE)).unwrap();
        assert!(!text.contains("computes"), "{text}");
        assert_eq!(State::read(dir.path()).unwrap(), state);
        assert_eq!(inputs(dir.path()).unwrap(), named);

        let on_gpu = State {
            step: 3,
            computes: Computed {
                device: "cuda".into(),
                precision: "bf16".into(),
            },
            ..state
        };
        on_gpu.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), on_gpu);

        let of_encoder = EncoderState {
            iteration: 1,
            step: 20,
            log_bytes: 300,
        };
        of_encoder.write(dir.path()).unwrap();
        assert_eq!(EncoderState::read(dir.path()).unwrap(), of_encoder);
        assert_eq!(inputs(dir.path()).unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_state_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = State {
            format: 2,
            ..State::new(BTreeMap::new())
        };
        state.write(dir.path()).unwrap();
        let error = State::read(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("state.json: format 2, this maqam reads 1"),
            "{error}"
        );
    }
}
