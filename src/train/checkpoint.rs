//! Checkpoints of a run: what was trained, moments and position, in a folder that is there whole or
//! not at all.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::models::AudioLlm;
use crate::models::on_host;
use crate::models::trained;
use crate::nn::peft::Metadata;
use crate::ops::device::to_host;
use crate::ops::device::write_stretch;
use crate::records::checkpoint_state::State;
use crate::records::run_folder;
use crate::stats::uds::Queue;
use crate::train::optimiser::Optimiser;

/// Hint for a checkpoint that is not whole.
const DAMAGED_HINT: &str = "remove the checkpoint's folder to continue from the one before";
const OPTIMISER_FILE: &str = "optimiser.safetensors";
/// Head of the auxiliary CTC loss. It is no part of the model: adapters and exports have none.
const CTC_FILE: &str = "ctc_head.safetensors";
/// Projections of the rows that `draw: uds` chose lately.
const QUEUE_FILE: &str = "uds_queue.safetensors";
const PROJECTIONS: &str = "projections";

/// Writes a checkpoint folder: adapter and wholly trained parts, the optimiser's moments, the
/// state.
pub fn save(
    target: &Path,
    model: &AudioLlm,
    optimiser: &Optimiser,
    state: &State,
    metadata: &Metadata,
) -> Result<()> {
    save_with_queue(target, model, optimiser, state, metadata, None)
}

/// As [`save`], with the rows that a stage with `draw: uds` chose lately.
pub fn save_with_queue(
    target: &Path,
    model: &AudioLlm,
    optimiser: &Optimiser,
    state: &State,
    metadata: &Metadata,
    queue: Option<&Queue>,
) -> Result<()> {
    let staged = StagedDir::new(target)?;
    trained::save(staged.path(), model, metadata)?;
    let head = model.ctc_tensors()?;
    if !head.is_empty() {
        files::write_safetensors(&staged.path().join(CTC_FILE), head)?;
    }
    let moments = [
        ("first", on_host(&optimiser.first)?),
        ("second", on_host(&optimiser.second)?),
    ];
    files::write_safetensors(&staged.path().join(OPTIMISER_FILE), moments)?;
    if let Some(queue) = queue {
        let projections: Vec<f32> = queue.projections().flatten().copied().collect();
        let count = queue.projections().len();
        let dims = projections.len() / count.max(1);
        let tensor = Tensor::from_vec(projections, (count, dims), &Device::Cpu)?;
        files::write_safetensors(&staged.path().join(QUEUE_FILE), [(PROJECTIONS, tensor)])?;
    }
    state.write(staged.path())?;
    staged.commit()
}

/// The rows that a stage with `draw: uds` chose lately, of a checkpoint inside of it.
///
/// # Errors
/// A folder without them.
pub fn load_queue(dir: &Path) -> Result<Queue> {
    let path = dir.join(QUEUE_FILE);
    let damaged = |found: String| Error::input(found).at_path(&path).hint(DAMAGED_HINT);
    if !path.is_file() {
        return Err(damaged("is missing".to_owned()));
    }
    let stored = read(&path)?;
    let Some(projections) = stored.get(PROJECTIONS) else {
        return Err(damaged(format!("`{PROJECTIONS}` is missing")));
    };
    let mut queue = Queue::default();
    for projection in projections.to_vec2::<f32>()? {
        queue.push(projection, usize::MAX);
    }
    Ok(queue)
}

/// Takes a checkpoint's weights and moments over; returns its state.
///
/// # Errors
/// A folder of another format or of another model.
pub fn load(dir: &Path, model: &AudioLlm, optimiser: &mut Optimiser) -> Result<State> {
    let state = State::read(dir)?;
    trained::load_into(dir, model).map_err(|e| e.at_path(dir))?;
    if !model.plan.ctc.is_empty() {
        let path = dir.join(CTC_FILE);
        let damaged = |e: Error| e.at_path(&path).hint(DAMAGED_HINT);
        model.load_ctc(&read(&path)?).map_err(damaged)?;
    }
    let path = dir.join(OPTIMISER_FILE);
    let stored = read(&path)?;
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

/// The tensors of a file of a checkpoint.
fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| {
        Error::from(e)
            .in_input()
            .at("damaged")
            .at_path(path)
            .hint(DAMAGED_HINT)
    })
}

/// The folder of a step's checkpoint.
pub fn folder(checkpoints: &Path, step: u64) -> PathBuf {
    run_folder::step_folder(checkpoints, step)
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
        let path = entry.path();
        if let Some(step) = run_folder::step_of(&path) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes checkpoints that a stopped run left between those of the recipe, the newest apart, then
/// the oldest until `keep` are left.
pub fn rotate(checkpoints: &Path, keep: usize) -> Result<()> {
    let mut all = list(checkpoints)?;
    let newest = all.pop();
    let is_between = |path: &Path| State::read(path).is_ok_and(|state| state.is_between);
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
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_queue_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_queue(dir.path()).unwrap_err().to_string();
        assert!(error.contains(QUEUE_FILE), "{error}");
        assert!(error.contains(DAMAGED_HINT), "{error}");
    }

    #[test]
    fn a_stop_leaves_no_checkpoint_beside_the_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let save = |step: u64, is_between: bool| {
            let state = State {
                step,
                is_between,
                ..State::new(BTreeMap::new())
            };
            state.write(&folder(dir.path(), step)).unwrap();
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
