//! Checkpoints of an encoder's training: weights, moments and state in one folder, whole or not
//! there.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;

use crate::encoder::step::Moments;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::nn::checkpoint::read_safetensors;
use crate::nn::parameters::Parameters;
use crate::ops::device::to_host;
use crate::ops::device::write_stretch;
use crate::records::checkpoint_state::EncoderState;
use crate::train::checkpoint as steps;

const WEIGHTS_FILE: &str = "weights.safetensors";
const OPTIMISER_FILE: &str = "optimiser.safetensors";
/// What a run says that was stopped.
pub const STOPPED: &str = "stopped; go on with --resume";

const HINT: &str = "remove this checkpoint and resume from the one before";

/// Buffers that are trained, with their moments.
pub type Parts<'a> = [(&'a Parameters, &'a Moments)];

/// Writes a checkpoint.
///
/// # Errors
/// The disk's.
pub fn save(target: &Path, parts: &Parts, state: &EncoderState) -> Result<()> {
    let staged = StagedDir::new(target)?;
    let mut weights = Vec::new();
    let mut moments = Vec::new();
    for (i, (parameters, of_part)) in parts.iter().enumerate() {
        for entry in &parameters.entries {
            weights.push((entry.name.clone(), parameters.value(entry)?));
        }
        moments.push((format!("first.{i}"), of_part.first.clone()));
        moments.push((format!("second.{i}"), of_part.second.clone()));
    }
    files::write_safetensors(&staged.path().join(WEIGHTS_FILE), weights)?;
    files::write_safetensors(&staged.path().join(OPTIMISER_FILE), moments)?;
    state.write(staged.path())?;
    staged.commit()
}

/// Writes a checkpoint of a run into the folder of all of them, at the log's present end, and
/// removes all but the newest `keep`.
///
/// # Errors
/// The disk's.
pub fn save_newest(
    all: &Path,
    parts: &Parts,
    state: &mut EncoderState,
    log: &mut AppendLog,
    keep: usize,
) -> Result<()> {
    log.sync()?;
    state.log_bytes = log.num_bytes()?;
    save(&steps::folder(all, state.step), parts, state)?;

    let saved = steps::list(all)?;
    for (_, path) in &saved[..saved.len().saturating_sub(keep)] {
        files::remove_dir(path)?;
    }
    Ok(())
}

/// Takes a checkpoint's weights and moments over; returns its state.
///
/// # Errors
/// Files that are damaged or of another model.
pub fn load(dir: &Path, parts: &Parts) -> Result<EncoderState> {
    let state = EncoderState::read(dir)?;
    let weights_path = dir.join(WEIGHTS_FILE);
    let moments_path = dir.join(OPTIMISER_FILE);
    let weights = read_safetensors(&weights_path)?;
    let stored = read_safetensors(&moments_path)?;
    for (i, (parameters, moments)) in parts.iter().enumerate() {
        for entry in &parameters.entries {
            let value = named(&weights, &entry.name, &weights_path)?;
            parameters
                .set_tensor(entry, value)
                .map_err(|e| e.at_path(&weights_path))?;
        }
        for (name, moment) in [("first", &moments.first), ("second", &moments.second)] {
            let name = format!("{name}.{i}");
            let values = to_host(named(&stored, &name, &moments_path)?)?;
            if values.len() != moment.elem_count() {
                return Err(Error::input(format!("`{name}` has another length"))
                    .at_path(&moments_path)
                    .hint(HINT));
            }
            write_stretch(moment, 0..values.len(), &values)?;
        }
    }
    Ok(state)
}

fn named<'a>(tensors: &'a HashMap<String, Tensor>, name: &str, path: &Path) -> Result<&'a Tensor> {
    tensors.get(name).ok_or_else(|| {
        Error::input(format!("no tensor `{name}`"))
            .at_path(path)
            .hint(HINT)
    })
}
