//! Where a run begins or goes on: its folder taken, its recipe held against the one it began with, its last checkpoint read.

use std::path::Path;

use candle_core::Device;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::model::AudioLlm;
use crate::model::lora::Masks;
use crate::model::memory::Fit;
use crate::recipe::Opened;
use crate::recipe::Recipe;
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
    /// How the training fits the card, if it is on one.
    pub fit: Option<Fit>,
    /// Notes on the adapter that the run goes on from.
    pub notes: Vec<String>,
    /// Nobody else writes to the folder while this is held.
    pub lock: files::Lock,
}

impl Recipe {
    /// Takes the run's folder and reads all that training needs, onto the device; `model_dir` is asked for the checkpoint's folder once nothing stands in the way.
    ///
    /// # Errors
    /// A run that exists without `resume`; with it a recipe or an input that has changed; whatever [`Recipe::open`] refuses.
    pub fn begin(
        &self,
        resume: bool,
        device: &Device,
        model_dir: impl FnOnce() -> Result<std::path::PathBuf>,
    ) -> Result<Begun> {
        let stored = self.folder().join("recipe.yaml");
        let lock = files::Lock::take(&self.folder())?;
        let is_begun = stored.is_file();
        let leftover = checkpoint::list(&self.folder().join("checkpoints"))?.pop();
        if let Some((_, path)) = leftover.filter(|_| !is_begun) {
            return Err(
                Error::input("a checkpoint of a run whose recipe.yaml is gone")
                    .at_path(&path)
                    .hint("put recipe.yaml back, choose another `name`, or remove the folder"),
            );
        }
        if is_begun && !resume {
            return Err(Error::input("this run exists already")
                .at_path(&self.folder())
                .hint("go on with it with --resume, start another with --set name=NAME, or remove the folder"));
        }
        let recipe = if is_begun {
            self.check_unchanged(&stored)?;
            self.with_masks(Some(&Self::load(&stored, &[])?))
        } else {
            self.with_masks(None)
        };
        let Opened {
            run,
            schedule,
            model,
            fit,
            notes,
        } = recipe.open(&model_dir()?, device)?;
        let mut optimiser = Optimiser::new(run.optimiser.clone(), &model.parameters)?;
        let mut state = State::new(self.inputs(run.evaluate.as_ref().map(|(_, suite)| suite))?);
        match checkpoint::list(&run.checkpoints())?.pop() {
            Some((_, path)) if is_begun => {
                let saved = checkpoint::load(&path, &model, &mut optimiser)?;
                check_inputs(&saved, &state)?;
                state = saved;
            }
            _ => files::write_atomic(&stored, recipe.to_yaml()?.as_bytes())?,
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
        .hint("put it back to go on with this run, or start another with `--set name=NAME`"))
    }
}

/// A resumed run must read what it read before.
fn check_inputs(saved: &State, now: &State) -> Result<()> {
    let paths = now.inputs.keys().chain(saved.inputs.keys());
    match paths
        .into_iter()
        .find(|path| saved.inputs.get(*path) != now.inputs.get(*path))
    {
        Some(path) => Err(Error::input("the file has changed since the run began")
            .at(path)
            .hint("put it back to go on with this run, or start another with `--set name=NAME`")),
        None => Ok(()),
    }
}
