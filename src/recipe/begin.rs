//! The start of a run: its folder is taken, its recipe is compared with the one it began with, its last checkpoint is read.

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
use crate::records::inputs::Inputs;
use crate::schedule::Schedule;
use crate::train::Run;
use crate::train::checkpoint;
use crate::train::checkpoint::State;
use crate::train::optimiser::Optimiser;

/// A run that is ready to train, from its first step or from where it stood.
pub struct Begun {
    /// What every step needs to know.
    pub run: Run,
    /// Which rows each step sees.
    pub schedule: Schedule,
    /// The model, as the last checkpoint has it.
    pub model: AudioLlm,
    /// The optimiser, likewise.
    pub optimiser: Optimiser,
    /// Where the run stands.
    pub state: State,
    /// How the training fits the GPU, if it is on one.
    pub fit: Option<Fit>,
    /// What the user should know: the rows, the inputs, the adapter that the run goes on from.
    pub notes: Vec<String>,
    /// Nobody else writes to the folder while this is held.
    pub lock: files::Lock,
}

/// How a run is opened, beside what its recipe says.
pub struct Opening<'a> {
    /// Whether to go on with a run that has begun.
    pub resume: bool,
    /// What computes.
    pub device: &'a Device,
    /// Finds the checkpoint's folder, once nothing else stands in the way.
    pub model_dir: &'a dyn Fn() -> Result<PathBuf>,
    /// What training and evaluation may share; `None` where that was compared before.
    pub leakage: Option<&'a Allowed>,
    /// Whether to begin although the memory of the machine is too small.
    pub ignore_memory: bool,
    /// Told how reading and comparing goes on.
    pub watch: Watch<'a>,
}

impl Recipe {
    /// Takes the run's folder and reads all that training needs, onto the device.
    ///
    /// # Errors
    /// A run that exists without `resume`; with it a recipe or an input that has changed; rows that cannot be used; leakage that is not
    /// allowed; whatever [`Recipe::open`] refuses.
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
        let recipe = if is_begun {
            self.check_unchanged(&stored)?;
            self.with_masks(Some(&Self::load(&stored, &[])?))
        } else {
            self.with_masks(None)
        };
        // A folder that is refused stays as it is. An interrupted exchange may give back a checkpoint, so the last one is looked for
        // afterwards.
        lock.remove_leftovers();
        let last = last_checkpoint(&folder, is_begun)?;
        let mut notes = Vec::new();
        let saved = last
            .as_ref()
            .map(|(_, path)| checkpoint::read_state(path))
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

    /// The recipe with its dropout masks written out. A run that began before there was a choice shares them, and goes on so unless the
    /// recipe says otherwise.
    fn with_masks(&self, begun: Option<&Self>) -> Self {
        let before = begun.map(|begun| begun.lora.dropout_masks.unwrap_or(Masks::Shared));
        let mut recipe = self.clone();
        recipe.lora.dropout_masks = Some(match (self.lora.dropout_masks, before) {
            // Without dropout there is no mask, so a choice changes nothing.
            (Some(_), Some(before)) if self.lora.dropout == 0.0 => before,
            (Some(said), _) => said,
            (None, before) => before.unwrap_or_default(),
        });
        recipe
    }

    /// Compares with the recipe a run was started with.
    ///
    /// # Errors
    /// The first field that differs, evaluation and checkpoint cadence excepted.
    pub fn check_unchanged(&self, stored: &Path) -> Result<()> {
        let begun = Self::load(stored, &[])?;
        let now = self.with_masks(Some(&begun));
        let begun = begun.with_masks(Some(&begun));
        let Some((field, before, now)) = now.first_difference(&begun)? else {
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

/// The files that a run's last checkpoint was made from must be there as they were, before any of them is read again.
fn check_files(saved: &State) -> Result<()> {
    for (path, hash) in &saved.inputs {
        if Source::new(path.as_str()).hash()? != *hash {
            return Err(changed(path));
        }
    }
    Ok(())
}

fn changed(path: &str) -> Error {
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
        Some(path) => Err(changed(path)),
        None => Ok(()),
    }
}
