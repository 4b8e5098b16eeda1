//! Checkpoints of a run: what was trained, moments and position, in a folder that is there whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::json;
use crate::models::AudioLlm;
use crate::models::on_host;
use crate::models::trained;
use crate::nn::peft::Metadata;
use crate::nn::precision::Computes;
use crate::ops::device::to_host;
use crate::ops::device::write_stretch;
use crate::train::optimiser::Optimiser;

/// Number of the format of a checkpoint folder.
const FORMAT: u32 = 1;
const STATE_FILE: &str = "state.json";
/// Hint for a checkpoint that is not whole.
const DAMAGED_HINT: &str = "remove the checkpoint's folder to continue from the one before";
const OPTIMISER_FILE: &str = "optimiser.safetensors";

/// State of a run.
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
    /// Stages that ended before their planned length, by their place from 0, with the steps they had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stage_ends: BTreeMap<usize, u64>,
    /// Score that a stage with `early_stop` waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// BLAKE3 of the snapshots of embeddings that stages draw by, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<String, String>,
    /// Whether it was written between two of the recipe's checkpoints, because the run stopped; the next one takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_between: bool,
    /// Device and precision of the last step, where that was not the CPU in `f32`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub computes: Computes,
}

fn is_default(computes: &Computes) -> bool {
    *computes == Computes::default()
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

impl State {
    /// The state of a run that has not begun.
    pub fn new(inputs: BTreeMap<String, String>) -> Self {
        let stage_ends = BTreeMap::new();
        let waiting = None;
        let snapshots = BTreeMap::new();
        let computes = Computes::default();
        Self {
            format: FORMAT,
            step: 0,
            evaluated: None,
            best: None,
            log_bytes: 0,
            inputs,
            stage_ends,
            waiting,
            snapshots,
            is_between: false,
            computes,
        }
    }
}

/// Writes a checkpoint folder: adapter and wholly trained parts, the optimiser's moments, the state.
pub fn save(
    target: &Path,
    model: &AudioLlm,
    optimiser: &Optimiser,
    state: &State,
    metadata: &Metadata,
) -> Result<()> {
    let staged = StagedDir::new(target)?;
    trained::save(staged.path(), model, metadata)?;
    let moments = [
        ("first", on_host(&optimiser.first)?),
        ("second", on_host(&optimiser.second)?),
    ];
    files::write_safetensors(&staged.path().join(OPTIMISER_FILE), moments)?;
    let text = serde_json::to_string_pretty(state).map_err(Error::bug_from)?;
    files::write_atomic(&staged.path().join(STATE_FILE), text.as_bytes())?;
    staged.commit()
}

/// Takes a checkpoint's weights and moments over; returns its state.
///
/// # Errors
/// A folder of another format or of another model.
pub fn load(dir: &Path, model: &AudioLlm, optimiser: &mut Optimiser) -> Result<State> {
    let state = read_state(dir)?;
    trained::load_into(dir, model).map_err(|e| e.at_path(dir))?;
    let path = dir.join(OPTIMISER_FILE);
    let stored = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| {
        Error::from(e)
            .in_input()
            .at("damaged")
            .at_path(&path)
            .hint(DAMAGED_HINT)
    })?;
    for (name, moment) in [("first", &optimiser.first), ("second", &optimiser.second)] {
        let Some(values) = stored
            .get(name)
            .filter(|values| values.dims() == moment.dims())
        else {
            return Err(
                Error::input(format!("`{name}` is missing or of another length"))
                    .at_path(&path)
                    .hint(DAMAGED_HINT),
            );
        };
        write_stretch(moment, 0..values.elem_count(), &to_host(values)?)?;
    }
    Ok(state)
}

/// A checkpoint's state.
pub fn read_state(dir: &Path) -> Result<State> {
    let path = dir.join(STATE_FILE);
    let state: State = json::parse(&files::read_text(&path)?)
        .map_err(|e| e.at("not a checkpoint's state").at_path(&path))?;
    if state.format != FORMAT {
        return Err(Error::input(format!(
            "format {}, this maqam reads {FORMAT}",
            state.format
        ))
        .at_path(&path));
    }
    Ok(state)
}

/// The folder of a step's checkpoint.
pub fn folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:06}"))
}

/// The checkpoints of a run, oldest first. A folder that was not finished has another name.
pub fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(Error::io(checkpoints, "list", e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(checkpoints, "list", e))?;
        if let Some(step) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix("step-"))
            .and_then(|step| step.parse().ok())
        {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes checkpoints that a stopped run left between those of the recipe, the newest apart, then the oldest until `keep` are left.
pub fn rotate(checkpoints: &Path, keep: usize) -> Result<()> {
    let mut all = list(checkpoints)?;
    let newest = all.pop();
    let is_between = |path: &Path| read_state(path).is_ok_and(|state| state.is_between);
    let (between, mut regular): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, path)| is_between(path));
    regular.extend(newest);
    let num_old = regular.len().saturating_sub(keep);
    for (_, path) in between.iter().chain(&regular[..num_old]) {
        files::remove_dir(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_leaves_no_checkpoint_beside_the_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let save = |step: u64, is_between: bool| {
            let state = State {
                step,
                is_between,
                ..State::new(BTreeMap::new())
            };
            let text = serde_json::to_string(&state).unwrap();
            let path = folder(dir.path(), step).join(STATE_FILE);
            files::write_atomic(&path, text.as_bytes()).unwrap();
            rotate(dir.path(), 3).unwrap();
            let left = list(dir.path()).unwrap();
            left.into_iter().map(|(step, _)| step).collect::<Vec<_>>()
        };
        assert_eq!(save(2, false), [2]);
        assert_eq!(save(4, false), [2, 4]);
        assert_eq!(save(5, true), [2, 4, 5]);
        assert_eq!(save(6, false), [2, 4, 6]);
        assert_eq!(save(7, true), [4, 6, 7]);
        assert_eq!(save(8, false), [4, 6, 8]);
        assert_eq!(save(10, false), [6, 8, 10]);
    }
}
