//! The start of a run: its folder is taken, its recipe is compared with the one it began with, its
//! last checkpoint is read.

use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;

use crate::data::Source;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::eval::content;
use crate::eval::content::Contents;
use crate::featurise::rows::Pool;
use crate::featurise::rows::Watch;
use crate::files;
use crate::leakage::Allowed;
use crate::models::AudioLlm;
use crate::models::memory::Fit;
use crate::nn::lora::Masks;
use crate::recipe::Opened;
use crate::recipe::Recipe;
use crate::recipe::WeightsSource;
use crate::records::checkpoint_state::State;
use crate::records::inputs::Inputs;
use crate::schedule::Schedule;
use crate::train::Run;
use crate::train::checkpoint;
use crate::train::optimiser::Optimiser;

/// A run that is ready to train, from its first step or from its last checkpoint.
pub struct Begun {
    /// Inputs of every step.
    pub run: Run,
    /// Schedule of the rows.
    pub schedule: Schedule,
    /// The model, as the last checkpoint has it.
    pub model: AudioLlm,
    /// The optimiser, likewise.
    pub optimiser: Optimiser,
    /// State of the run.
    pub state: State,
    /// Memory of the training on a GPU, if it runs on one.
    pub fit: Option<Fit>,
    /// Notes for the user: the rows, the inputs, the adapter that the run continues from.
    pub notes: Vec<String>,
    /// Lock of the folder against other processes.
    pub lock: files::Lock,
}

/// Settings for opening a run, in addition to its recipe.
pub struct Opening<'a> {
    /// True if the run continues from its last checkpoint.
    pub resume: bool,
    /// Device of the computation.
    pub device: &'a Device,
    /// Finds the checkpoint's folder, after all other checks.
    pub model_dir: &'a dyn Fn() -> Result<PathBuf>,
    /// Overlap that training and evaluation may have; `None` if it was checked before.
    pub leakage: Option<&'a Allowed>,
    /// True if to begin although the memory of the machine is too small.
    pub ignore_memory: bool,
    /// Receives the progress of reading and comparing.
    pub watch: Watch<'a>,
}

impl Recipe {
    /// Takes the run's folder and reads all inputs of training onto the device.
    ///
    /// # Errors
    /// A run that exists without `resume`; with it a recipe or an input that has changed; rows that
    /// cannot be used; leakage that is not allowed; those of [`Recipe::open`].
    pub fn begin(&self, opening: Opening<'_>) -> Result<Begun> {
        let folder = self.folder();
        let stored = folder.join("recipe.yaml");
        let lock = files::Lock::claim(&folder)?;
        let is_begun = stored.is_file();
        last_checkpoint(&folder, is_begun)?;
        if is_begun && !opening.resume {
            return Err(Error::input("this run exists already")
                .at_path(&folder)
                .hint("continue it with --resume, start another with --set name=NAME, or remove the folder"));
        }
        let mut recipe = if is_begun {
            self.check_unchanged(&stored)?;
            self.with_defaults(Some(&Self::load(&stored, &[])?))
        } else {
            self.with_defaults(None)
        };
        // A refused folder does not change. Completing an interrupted exchange may restore a
        // checkpoint, so the last one is searched afterwards.
        lock.remove_leftovers();
        let last = last_checkpoint(&folder, is_begun)?;
        let mut notes = Vec::new();
        let saved = last
            .as_ref()
            .map(|(_, path)| State::read(path))
            .transpose()?;
        if let Some(saved) = &saved {
            check_files(saved)?;
        }
        let recorded = match &saved {
            Some(_) => Inputs::read(&folder)?,
            None => None,
        };
        let pool = match (&saved, &recorded) {
            (None, _) => Pool::Fresh,
            (Some(_), Some(recorded)) => Pool::Recorded(recorded.left_out.clone()),
            (Some(_), None) => Pool::Unrecorded,
        };

        let headers = Headers::open(Path::new(headers::FOLDER));
        let rows = recipe.rows(&recipe.tasks()?, &headers, pool, &mut *opening.watch)?;
        if let Some(allowed) = opening.leakage.filter(|_| saved.is_none()) {
            notes.extend(rows.check_leakage(&[], allowed, &headers)?);
        }
        headers.keep();
        let dir = (opening.model_dir)()?;
        let left_out = rows.left_out.clone();
        let prepared =
            recipe.prepare(&dir, rows, &headers, opening.device, opening.ignore_memory)?;
        let with_weights = recipe.model.weights == WeightsSource::Checkpoint;
        let model_files =
            Contents::open(Path::new(content::FOLDER))?.files_of_model(&dir, with_weights)?;
        let inputs = match (&saved, recorded) {
            (Some(saved), Some(mut recorded)) => {
                recorded.check_model(&model_files, &dir)?;
                recorded.forget_after(saved.step);
                let watch = &mut *opening.watch;
                recorded.check_clips(&mut |done, total| watch("comparing clips", done, total))?;
                recorded
            }
            (Some(_), None) => {
                notes.push("the run began before clips and model files were recorded: they are compared from here on".to_owned());
                Inputs::new(model_files, left_out)
            }
            (None, _) => Inputs::new(model_files, left_out),
        };

        let Opened {
            run,
            schedule,
            model,
            fit,
            notes: of_model,
        } = recipe.open(prepared, &dir, opening.device, inputs)?;
        notes.extend(of_model);
        let mut optimiser = Optimiser::new(run.optimiser.clone(), &model.parameters)?;
        let mut state = State::new(recipe.inputs(run.evaluate.as_ref().map(|(_, suite)| suite))?);
        match last {
            Some((_, path)) => {
                let saved = checkpoint::load(&path, &model, &mut optimiser)?;
                check_inputs(&saved, &state)?;
                state = saved;
            }
            None => {
                run.inputs().write(&run.folder)?;
                let asked = fit.as_ref().map(|fit| fit.asked);
                let pack_tokens = asked.unwrap_or_else(|| recipe.memory.pack_tokens());
                recipe.memory.pack_tokens = Some(pack_tokens);
                files::write_atomic(&stored, recipe.to_yaml()?.as_bytes())?;
            }
        }
        Ok(Begun {
            run,
            schedule,
            model,
            optimiser,
            state,
            fit,
            notes,
            lock,
        })
    }

    /// The recipe with its dropout masks written out, and with the size of micro-batches of the run
    /// that it continues. A run from before the choice of masks shares them, and continues so
    /// unless the recipe has another value.
    fn with_defaults(&self, original: Option<&Self>) -> Self {
        let before = original.map(|original| original.lora.dropout_masks.unwrap_or(Masks::Shared));
        let mut recipe = self.clone();
        recipe.lora.dropout_masks = Some(match (self.lora.dropout_masks, before) {
            // Without dropout there is no mask, so the choice has no effect.
            (Some(_), Some(before)) if self.lora.dropout == 0.0 => before,
            (Some(written), _) => written,
            (None, before) => before.unwrap_or_default(),
        });
        let pack_tokens = &mut recipe.memory.pack_tokens;
        *pack_tokens = pack_tokens.or(original.map(|original| original.memory.pack_tokens()));
        recipe
    }

    /// Compares with the recipe a run was started with.
    ///
    /// # Errors
    /// The first field that differs, evaluation and checkpoint cadence excepted.
    pub fn check_unchanged(&self, stored: &Path) -> Result<()> {
        let original = Self::load(stored, &[])?;
        let now = self.with_defaults(Some(&original));
        let original = original.with_defaults(Some(&original));
        let Some((field, before, now)) = now.first_difference(&original)? else {
            return Ok(());
        };
        Err(Error::input(format!(
            "`{field}` was {before} when the run began and is {now} now"
        ))
        .at_path(stored)
        .hint("put it back to continue this run, or start another with `--set name=NAME`"))
    }
}

/// The last checkpoint in a run's folder, with its step.
///
/// # Errors
/// A checkpoint of a run that has no recipe any more.
fn last_checkpoint(folder: &Path, is_begun: bool) -> Result<Option<(u64, PathBuf)>> {
    let last = checkpoint::list(&folder.join("checkpoints"))?.pop();
    if let Some((_, path)) = last.as_ref().filter(|_| !is_begun) {
        return Err(
            Error::input("a checkpoint of a run whose recipe.yaml is gone")
                .at_path(path)
                .hint("put recipe.yaml back, choose another `name`, or remove the folder"),
        );
    }
    Ok(last)
}

/// Checks that the files of a run's last checkpoint are unchanged, before any of them is read
/// again.
fn check_files(saved: &State) -> Result<()> {
    for (path, hash) in &saved.inputs {
        if Source::new(path.as_str()).hash()? != *hash {
            return Err(changed_file(path));
        }
    }
    Ok(())
}

fn changed_file(path: &str) -> Error {
    Error::input("the file has changed since the run began")
        .at(path)
        .hint("put it back to continue this run, or start another with `--set name=NAME`")
}

/// A resumed run must read what it read before.
fn check_inputs(saved: &State, now: &State) -> Result<()> {
    let paths = now.inputs.keys().chain(saved.inputs.keys());
    match paths
        .into_iter()
        .find(|path| saved.inputs.get(*path) != now.inputs.get(*path))
    {
        Some(path) => Err(changed_file(path)),
        None => Ok(()),
    }
}
