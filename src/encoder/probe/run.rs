//! A run of a head: steps, measurements, checkpoints, and the trained files at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::Device;

use crate::encoder::checkpoint;
use crate::encoder::probe::choose::choose;
use crate::encoder::probe::choose::with_choice;
use crate::encoder::probe::evaluate::evaluate;
use crate::encoder::probe::export::export;
use crate::encoder::probe::recipe::Recipe;
use crate::encoder::probe::work::Work;
use crate::encoder::run::pace_of;
use crate::encoder::run::take;
use crate::encoder::step::Moments;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::machine;
use crate::nn::parameters::Parameters;
use crate::nn::precision::Precision;
use crate::ops::adamw::norm;
use crate::ops::scalar::Scalar;
use crate::records::checkpoint_state::EncoderState;
use crate::records::head::HeadChoice;
use crate::records::head::HeadScore;
use crate::records::log::Line;
use crate::records::log::StepRecord;
use crate::stop::Stop;
use crate::train::checkpoint as steps;
use crate::train::environment::Recorder;

/// Told how a run goes on.
pub trait Observer {
    /// The outcome of a cross-validation.
    fn chosen(&mut self, choice: &HeadChoice);
    /// A finished step of `num_steps`.
    fn step(&mut self, record: &StepRecord, num_steps: u64);
    /// A measurement: name, value, and interval where there is one.
    fn evaluated(&mut self, at_step: u64, scores: &[HeadScore]);
}

/// Trains a head; with `resume` from where the run stood. Returns the last scores.
///
/// # Errors
/// A run that exists without `resume`; a recipe that has changed; rows that cannot be used; a loss
/// that is not finite; the disk's.
pub fn run(
    recipe: &Recipe,
    resume: bool,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Vec<HeadScore>> {
    let folder = recipe.folder();
    let lock = files::Lock::claim(&folder)?;
    let text = yaml_serde::to_string(recipe).map_err(Error::bug_from)?;
    let text = format!("# Recipe of a head's run, with every default.\n{text}");
    take(&folder, &[("recipe.yaml", text)], resume)?;
    lock.remove_leftovers();

    let work = Work::open(recipe)?;
    let chosen = recipe_of_choice(&work, &folder, observer, stop)?;
    let work = work.with_recipe(&chosen)?;
    let mut session = Session::open(&work, &folder)?;
    let computes = Precision::Auto.on(&Device::Cpu)?;
    let here = machine::here(None);
    let mut recorder = Recorder::begin(&folder, session.state.step, computes, &here);
    let outcome = session.train(&mut recorder, observer, stop);
    recorder.end(&outcome)?;
    let scores = outcome?;

    let staged = StagedDir::new(&folder.join("model"))?;
    export(&work, staged.path())?;
    staged.commit()?;
    Ok(scores)
}

/// The recipe that is trained: under `choose` with the outcome of the cross-validation, which is
/// read from the run's folder if it is there.
fn recipe_of_choice(
    work: &Work,
    folder: &Path,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Recipe> {
    let Some(settings) = &work.recipe.choose else {
        return Ok(work.recipe.clone());
    };
    let choice = match HeadChoice::read(folder)? {
        Some(choice) => choice,
        None => {
            let choice = choose(work, settings, stop)?;
            choice.write(folder)?;
            choice
        }
    };
    let chosen = with_choice(work.recipe, settings, &choice)?;
    observer.chosen(&choice);
    Ok(chosen)
}

/// A run that is under way.
struct Session<'a> {
    work: &'a Work<'a>,
    folder: &'a Path,
    parameters: Vec<&'a Parameters>,
    /// Moments of each of `parameters`.
    moments: Vec<Moments>,
    state: EncoderState,
    log: AppendLog,
}

impl<'a> Session<'a> {
    /// Goes on from the newest checkpoint, if there is one.
    fn open(work: &'a Work<'a>, folder: &'a Path) -> Result<Self> {
        let parameters = work.trained();
        let moments = parameters
            .iter()
            .map(|parameters| Moments::new(parameters))
            .collect::<Result<Vec<_>>>()?;
        let parts: Vec<(&Parameters, &Moments)> =
            parameters.iter().copied().zip(&moments).collect();
        let state = match steps::list(&folder.join("checkpoints"))?.last() {
            Some((_, path)) => checkpoint::load(path, &parts)?,
            None => EncoderState::default(),
        };

        let log_path = folder.join("log.jsonl");
        if log_path.exists() {
            files::truncate(&log_path, state.log_bytes)?;
        }
        Ok(Self {
            work,
            folder,
            log: AppendLog::open(&log_path)?,
            parameters,
            moments,
            state,
        })
    }

    /// Trains to the last step; returns the last scores.
    fn train(
        &mut self,
        recorder: &mut Recorder,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<Vec<HeadScore>> {
        let recipe = self.work.recipe;
        let every = recipe.evaluate_every;

        let mut scores = Vec::new();
        while self.state.step < recipe.steps {
            if let Err(stopped) = stop.check(checkpoint::STOPPED) {
                self.save()?;
                return Err(stopped);
            }
            let begin = Instant::now();
            let record = self.step(self.state.step)?;
            self.log.line(&Line::Train(record.clone()).to_text()?)?;
            recorder.step(&record, pace_of(begin));
            observer.step(&record, recipe.steps);

            self.state.step += 1;
            let step = self.state.step;
            let is_last = step == recipe.steps;
            if is_last || every > 0 && step.is_multiple_of(every) {
                scores = evaluate(self.work, self.folder, step, &mut self.log)?;
                observer.evaluated(step, &scores);
            }
            if is_last || step.is_multiple_of(recipe.checkpoint.every) {
                self.save()?;
                recorder.write()?;
            }
        }

        Ok(scores)
    }

    /// One step, from 0.
    fn step(&self, step: u64) -> Result<StepRecord> {
        let recipe = self.work.recipe;
        let rows = &self.work.rows;
        let drawn = rows.drawn(recipe, step);
        for parameters in &self.parameters {
            parameters.zero_gradients()?;
        }
        let (loss, frames) = self.work.compute(step, &drawn)?;

        let squares = self
            .parameters
            .iter()
            .map(|parameters| Ok(norm(&parameters.gradients)?.value()?.powi(2)))
            .collect::<Result<Vec<f64>>>()?;
        let grad_norm = Scalar::new(squares.iter().sum::<f64>().sqrt(), &Device::Cpu)?;
        let rate = recipe.optimiser.learning_rate * recipe.optimiser.factor(step, recipe.steps);
        self.update(step, (loss, &grad_norm), rate)?;

        Ok(StepRecord {
            step: step + 1,
            stage: "head".to_owned(),
            loss,
            grad_norm: grad_norm.value()?,
            learning_rate: rate,
            examples: drawn.len(),
            tokens: frames,
            target_tokens: drawn.iter().map(|&row| rows.targets[row].len()).sum(),
            seconds: drawn.iter().map(|&row| rows.items[row].seconds()).sum(),
            skipped: 0,
            tasks: BTreeMap::new(),
            ctc: None,
            difficulty: None,
            masked_accuracy: None,
            unmasked_accuracy: None,
            cosine: None,
        })
    }

    /// Moves the head by `rate`, and the encoder by its factor of it.
    fn update(&self, step: u64, of_step: (f64, &Scalar), rate: f64) -> Result<()> {
        let recipe = self.work.recipe;
        let encoder = self.work.reader.encoder.as_ref();
        for (i, (parameters, moments)) in self.parameters.iter().zip(&self.moments).enumerate() {
            let is_head = i == 0;
            let is_trained = |entry: usize| match encoder {
                Some(model) if !is_head => model.is_trained(entry, recipe.scope()),
                _ => true,
            };
            let rate = if is_head {
                rate
            } else {
                rate * recipe.encoder_rate
            };
            let settings = &recipe.optimiser;
            moments.update(parameters, settings, is_trained, of_step, rate, step + 1)?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        let parameters = self.parameters.iter().copied();
        let parts: Vec<(&Parameters, &Moments)> = parameters.zip(&self.moments).collect();
        checkpoint::save_newest(
            &self.folder.join("checkpoints"),
            &parts,
            &mut self.state,
            &mut self.log,
            self.work.recipe.checkpoint.keep,
        )
    }
}
