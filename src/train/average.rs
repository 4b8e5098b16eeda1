//! The average of a run's last checkpoints, in a folder of its own: a function of files, so that a
//! run that resumes has no other than one that was never stopped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::models::speech;
use crate::models::trained;
use crate::nn::checkpoint::read_safetensors;
use crate::nn::peft;
use crate::records::averaged::Averaged;
use crate::train::checkpoint;

/// Name of the folder in that of the run.
pub const FOLDER: &str = "average";

/// Files of values that are averaged.
const AVERAGED: [&str; 2] = [peft::TENSORS_FILE, trained::FILE];

/// Files that are taken over from the last checkpoint.
const COPIED: [&str; 2] = [peft::CONFIG_FILE, speech::FILE];

/// Writes the uniform average of the trained values of the last `count` checkpoints of a finished
/// run into its folder; returns their steps. The average of the same checkpoints is not computed
/// again. `rolled_back` has the steps that roll-backs went back over: see [`counted`].
///
/// It is one of parameters, as of weights in full fine-tuning (Izmailov et al. 2018,
/// arXiv 1803.05407): of A and of B, not of BA.
///
/// # Errors
/// Checkpoints that are damaged; an output that cannot be written.
pub(super) fn write(
    run: &Path,
    checkpoints: &Path,
    count: usize,
    rolled_back: &[Range<u64>],
) -> Result<Vec<u64>> {
    let mut last = checkpoint::list(checkpoints)?;
    let all: Vec<u64> = last.iter().map(|(step, _)| *step).collect();
    let counted = counted(&all, rolled_back);
    last.retain(|(step, _)| counted.contains(step));
    last.drain(..last.len().saturating_sub(count));
    let steps: Vec<u64> = last.iter().map(|(step, _)| *step).collect();
    let folders: Vec<PathBuf> = last.into_iter().map(|(_, path)| path).collect();
    let Some(newest) = folders.last() else {
        return Err(Error::bug("a finished run without a checkpoint"));
    };
    let target = run.join(FOLDER);
    let averaged = Averaged { steps };
    if Averaged::read(&target)?.as_ref() == Some(&averaged) {
        return Ok(averaged.steps);
    }

    let staged = StagedDir::new(&target)?;
    for name in AVERAGED {
        if newest.join(name).is_file() {
            let files: Vec<PathBuf> = folders.iter().map(|folder| folder.join(name)).collect();
            files::write_safetensors(&staged.path().join(name), mean(&files)?)?;
        }
    }
    for name in COPIED {
        if newest.join(name).is_file() {
            files::copy(&newest.join(name), &staged.path().join(name))?;
        }
    }
    averaged.write(staged.path())?;
    staged.commit()?;
    Ok(averaged.steps)
}

/// Steps, of these, whose checkpoints are of the way to the last parameters. A roll-back that began
/// at the end of a range restored the parameters of its start: checkpoints between them do not
/// count. Those of start and end have the same parameters, and the later one counts.
fn counted(steps: &[u64], rolled_back: &[Range<u64>]) -> Vec<u64> {
    let is_kept = |step: u64| {
        !rolled_back
            .iter()
            .any(|range| range.start < step && step < range.end)
    };
    let kept: Vec<u64> = steps
        .iter()
        .copied()
        .filter(|&step| is_kept(step))
        .collect();
    let is_restored = |step: u64| {
        let mut of_step = rolled_back.iter().filter(|range| range.start == step);
        of_step.any(|range| kept.contains(&range.end))
    };
    kept.iter()
        .copied()
        .filter(|&step| !is_restored(step))
        .collect()
}

/// The mean of the tensors of files, by name: summed in `f64` in the order of the files, in `f32`.
fn mean(paths: &[PathBuf]) -> Result<BTreeMap<String, Tensor>> {
    let mut sums: BTreeMap<String, (Vec<usize>, Vec<f64>)> = BTreeMap::new();
    for (place, path) in paths.iter().enumerate() {
        let stored = read_safetensors(path)?;
        if place > 0 && stored.len() != sums.len() {
            return Err(other_tensors(path));
        }
        for (name, tensor) in stored {
            let values = tensor
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1::<f64>()?;
            match sums.get_mut(&name) {
                None if place == 0 => {
                    sums.insert(name, (tensor.dims().to_vec(), values));
                }
                Some((shape, sum)) if shape.as_slice() == tensor.dims() => {
                    sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
                }
                _ => return Err(other_tensors(path)),
            }
        }
    }

    let count = paths.len() as f64;
    let mut means = BTreeMap::new();
    for (name, (shape, sum)) in sums {
        let values: Vec<f32> = sum.into_iter().map(|sum| (sum / count) as f32).collect();
        means.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(means)
}

fn other_tensors(path: &Path) -> Error {
    Error::input("holds other tensors than the checkpoint before it")
        .at_path(path)
        .hint("leave `checkpoint.average` out, or train the run again from its start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolled_back_checkpoints_do_not_count() {
        let of = |steps: &[u64], ranges: &[[u64; 2]]| {
            let ranges: Vec<Range<u64>> = ranges.iter().map(|[to, at]| *to..*at).collect();
            counted(steps, &ranges)
        };
        let all = [2, 4, 6, 8, 10];
        assert_eq!(of(&all, &[]), all);
        // After 8 steps back to the second: 8 has the parameters of 2.
        assert_eq!(of(&all, &[[2, 8]]), [8, 10]);
        // No checkpoint after 9 steps, where the roll-back began.
        assert_eq!(of(&all, &[[4, 9]]), [2, 4, 10]);
        // Twice back to the second step.
        assert_eq!(of(&all, &[[2, 6], [2, 10]]), [10]);
        assert_eq!(of(&[2, 6, 12], &[[2, 6], [2, 10]]), [2, 12]);
        assert_eq!(of(&all, &[[2, 4], [6, 8]]), [4, 8, 10]);
    }
}
