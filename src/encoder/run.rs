//! A run: iterations one after the other, each from its targets to an encoder that transformers
//! reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use candle_core::Device;

use crate::encoder::checkpoint;
use crate::encoder::clips;
use crate::encoder::measure::measure;
use crate::encoder::recipe::Origin;
use crate::encoder::recipe::Recipe;
use crate::encoder::recipe::encoder_folder;
use crate::encoder::recipe::iteration_folder;
use crate::encoder::step;
use crate::encoder::step::Moments;
use crate::encoder::step::Outcome;
use crate::encoder::step::Piece;
use crate::encoder::step::Work;
use crate::encoder::targets;
use crate::encoder::targets::target_folder;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::machine;
use crate::models::hubert;
use crate::models::hubert::Class;
use crate::models::hubert::Hubert;
use crate::models::hubert::Scope;
use crate::models::hubert::Source;
use crate::nn::precision::Precision;
use crate::ops::adamw::norm;
use crate::records::checkpoint_state::EncoderState;
use crate::records::codebook::CodebookReport;
use crate::records::inputs::EncoderInputs;
use crate::records::inputs::INPUTS_FILE;
use crate::records::log::EvalRecord;
use crate::records::log::Line;
use crate::records::log::StepRecord;
use crate::records::run_folder::LOG_FILE;
use crate::records::run_folder::RECIPE_FILE;
use crate::seed::Key;
use crate::stop::Stop;
use crate::train::checkpoint as steps;
use crate::train::environment::Pace;
use crate::train::environment::Recorder;

/// Told how a run goes on.
pub trait Observer {
    /// Work before the first step of an iteration; an error stops it.
    fn preparing(&mut self, what: &'static str, done: usize, total: usize) -> Result<()>;
    /// A finished step of a run of `num_steps`.
    fn step(&mut self, record: &StepRecord, num_steps: u64);
    /// A measurement.
    fn evaluated(&mut self, at_step: u64, scores: &BTreeMap<String, f64>);
}

/// Trains all iterations; with `resume` from where the run stood. Returns the folder of the last
/// encoder.
///
/// # Errors
/// A run that exists without `resume`; a recipe or input that has changed; rows that cannot be
/// used; a loss that is not finite; the disk's.
pub fn run(
    recipe: &Recipe,
    resume: bool,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<PathBuf> {
    let folder = recipe.folder();
    let lock = files::Lock::claim(&folder)?;
    begin(recipe, &folder, resume)?;
    lock.remove_leftovers();
    let state = newest_state(recipe, &folder)?;
    let log_path = folder.join(LOG_FILE);
    if log_path.exists() {
        files::truncate(&log_path, state.log_bytes)?;
    }
    let first = recipe.steps_before(state.iteration.min(recipe.iterations.len())) + state.step;
    let computes = Precision::Auto.on(&Device::Cpu)?;
    let mut recorder = Recorder::begin(&folder, first, computes, &machine::here(None));
    recorder.write()?;
    let mut log = AppendLog::open(&log_path)?;
    let outcome = (0..recipe.iterations.len()).try_for_each(|iteration| {
        if encoder_folder(&folder, iteration).is_dir() {
            return Ok(());
        }
        let session = Session {
            recipe,
            iteration,
            folder: &folder,
        };
        session.train(&mut log, &mut recorder, observer, stop)
    });
    recorder.end(&outcome)?;
    outcome?;
    Ok(encoder_folder(&folder, recipe.iterations.len() - 1))
}

/// Takes the folder: writes recipe and inputs of a new run, holds those of an old one against what
/// is there.
fn begin(recipe: &Recipe, folder: &Path, resume: bool) -> Result<()> {
    let text = yaml_serde::to_string(recipe).map_err(Error::bug_from)?;
    let text = format!("# Recipe of an encoder's run, with every default.\n{text}");
    take(
        folder,
        &[(INPUTS_FILE, inputs(recipe)?), (RECIPE_FILE, text)],
        resume,
    )
}

/// Writes the files of a new run, the recipe last; of one that is resumed holds them against what
/// is there.
///
/// # Errors
/// A run that exists without `resume`, or that began with other files.
pub(super) fn take(folder: &Path, written: &[(&str, String)], resume: bool) -> Result<()> {
    if !folder.join(RECIPE_FILE).is_file() {
        return written
            .iter()
            .try_for_each(|(name, text)| files::write_atomic(&folder.join(name), text.as_bytes()));
    }
    if !resume {
        return Err(Error::input("this run exists already").at_path(folder).hint(
            "go on with it with --resume, start another with --set name=NAME, or remove the folder",
        ));
    }
    for (name, now) in written {
        let path = folder.join(name);
        let before = files::read_text(&path)?;
        if before != *now {
            let changed = now
                .lines()
                .find(|line| !before.lines().any(|known| known == *line));
            let line = changed.unwrap_or_default().trim();
            return Err(
                Error::input(format!("the run began with another one; now `{line}`"))
                    .at_path(&path)
                    .hint("undo the change, or start another run with --set name=NAME"),
            );
        }
    }
    Ok(())
}

/// Hashes of manifests and of the weights of encoders that targets come from, as the text of a
/// file.
fn inputs(recipe: &Recipe) -> Result<String> {
    let mut hashes = BTreeMap::new();
    for entry in recipe.data.iter().chain(&recipe.dev) {
        hashes.insert(
            entry.manifest.display().to_string(),
            files::hash(&entry.manifest)?,
        );
    }
    for (i, iteration) in recipe.iterations.iter().enumerate() {
        for target in &iteration.targets {
            let Origin::Encoder(dir) = recipe.origin(i, target) else {
                continue;
            };
            if dir.starts_with(recipe.folder()) {
                continue;
            }
            for path in crate::nn::checkpoint::weight_files(&dir)? {
                hashes.insert(path.display().to_string(), files::hash(&path)?);
            }
        }
    }
    EncoderInputs { hashes }.to_text()
}

/// EncoderState of a run: that of the newest checkpoint of the newest iteration that has one, else
/// the beginning.
fn newest_state(recipe: &Recipe, folder: &Path) -> Result<EncoderState> {
    for iteration in (0..recipe.iterations.len()).rev() {
        let all = steps::list(&checkpoints(folder, iteration))?;
        if let Some((_, path)) = all.last() {
            return EncoderState::read(path);
        }
    }
    Ok(EncoderState::default())
}

fn checkpoints(folder: &Path, iteration: usize) -> PathBuf {
    iteration_folder(folder, iteration).join("checkpoints")
}

/// One iteration of a run.
struct Session<'a> {
    recipe: &'a Recipe,
    iteration: usize,
    folder: &'a Path,
}

impl Session<'_> {
    fn train(
        &self,
        log: &mut AppendLog,
        recorder: &mut Recorder,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        let recipe = self.recipe;
        let settings = &recipe.iterations[self.iteration];
        let config = recipe.encoder.or(&settings.encoder).config()?;
        let mut items = clips::read(&recipe.data, &config)?;
        let num_train = items.len();
        if !recipe.dev.is_empty() {
            items.extend(clips::read(&recipe.dev, &config)?);
        }

        let mut watch = |what: &'static str, done: usize, total: usize| {
            stop.check(checkpoint::STOPPED)?;
            observer.preparing(what, done, total)
        };

        let taught = targets::prepare(
            recipe,
            self.iteration,
            &items,
            num_train,
            &config,
            &mut watch,
        )?;

        let heads = step::heads(&settings.targets, &taught, config.hidden_size);
        let seed = Key::new(recipe.seed, "encoder weights")
            .with(self.iteration as u64)
            .state();
        let model = Hubert::new(config, &Source::Random { seed }, Scope::Full, &heads)?;
        let moments = Moments::new(&model.parameters)?;

        let mut state = EncoderState {
            iteration: self.iteration,
            ..EncoderState::default()
        };
        if let Some((_, path)) = steps::list(&checkpoints(self.folder, self.iteration))?.last() {
            state = checkpoint::load(path, &[(&model.parameters, &moments)])?;
        }

        let work = Work {
            recipe,
            iteration: self.iteration,
            items: &items,
            num_train,
            taught: &taught,
            model: &model,
        };
        while state.step < settings.steps {
            if let Err(stopped) = stop.check(checkpoint::STOPPED) {
                self.save(&model, &moments, &mut state, log)?;
                return Err(stopped);
            }

            let begin = Instant::now();
            let record = self.step(&work, &moments, state.step)?;
            log.line(&Line::Train(record.clone()).to_text()?)?;
            recorder.step(&record, pace_of(begin));
            let num_steps = recipe.steps_before(recipe.iterations.len());
            observer.step(&record, num_steps);

            state.step += 1;
            let every = recipe.evaluate.every;
            let is_last = state.step == settings.steps;
            if is_last || every > 0 && state.step.is_multiple_of(every) {
                let scores = measure(&work)?;
                log.line(&Line::Eval(eval_record(record.step, &scores)).to_text()?)?;
                observer.evaluated(record.step, &scores);
            }
            if is_last || state.step.is_multiple_of(recipe.checkpoint.every) {
                self.save(&model, &moments, &mut state, log)?;
                recorder.write()?;
            }
        }

        let staged = StagedDir::new(&encoder_folder(self.folder, self.iteration))?;
        hubert::save(&model, staged.path(), Class::Encoder, Vec::new())?;
        staged.commit()
    }

    /// One step of the iteration, from 0.
    fn step(&self, work: &Work, moments: &Moments, step: u64) -> Result<StepRecord> {
        let recipe = self.recipe;
        let settings = &recipe.iterations[self.iteration];
        let optimiser = &recipe.optimiser;
        let pieces = work.pieces(step);
        work.model.parameters.zero_gradients()?;
        let outcome = work.compute(&pieces, true)?;

        let learning_rate = optimiser.learning_rate * optimiser.factor(step, settings.steps);
        let parameters = &work.model.parameters;
        let grad_norm = norm(&parameters.gradients)?;
        let of_step = (outcome.loss, &grad_norm);
        moments.update(
            parameters,
            optimiser,
            |_| true,
            of_step,
            learning_rate,
            step + 1,
        )?;

        let number = recipe.steps_before(self.iteration) + step + 1;
        let mut record = record(self.iteration, number, &pieces, &outcome);
        record.grad_norm = grad_norm.value()?;
        record.learning_rate = learning_rate;
        if settings.loss.unmasked > 0.0 {
            record.target_tokens = record.tokens;
        }
        Ok(record)
    }

    fn save(
        &self,
        model: &Hubert,
        moments: &Moments,
        state: &mut EncoderState,
        log: &mut AppendLog,
    ) -> Result<()> {
        checkpoint::save_newest(
            &checkpoints(self.folder, self.iteration),
            &[(&model.parameters, moments)],
            state,
            log,
            self.recipe.checkpoint.keep,
        )
    }
}

/// The line of a step, its optimiser's numbers still to come.
fn record(iteration: usize, step: u64, pieces: &[Piece], outcome: &Outcome) -> StepRecord {
    let masked = pieces
        .iter()
        .flat_map(|piece| &piece.masked)
        .filter(|&&masked| masked)
        .count();
    let cosines: Vec<f64> = outcome
        .cosines
        .iter()
        .copied()
        .filter(|&cosine| cosine != 0.0)
        .collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;

    StepRecord {
        step,
        stage: format!("iteration-{}", iteration + 1),
        loss: outcome.loss,
        grad_norm: 0.0,
        learning_rate: 0.0,
        examples: pieces.len(),
        tokens: outcome.frames as usize,
        target_tokens: masked,
        seconds: outcome.seconds,
        skipped: 0,
        tasks: BTreeMap::new(),
        ctc: None,
        difficulty: None,
        masked_accuracy: outcome.masked_accuracy(),
        unmasked_accuracy: outcome.unmasked_accuracy(),
        cosine: (!cosines.is_empty()).then_some(mean),
    }
}

/// The line of an evaluation.
pub(super) fn eval_record(at_step: u64, scores: &BTreeMap<String, f64>) -> EvalRecord {
    EvalRecord {
        at_step,
        control: None,
        selecting: None,
        scores: scores
            .iter()
            .map(|(name, value)| (name.clone(), *value))
            .collect(),
    }
}

/// The reports on the codebooks of a run, iteration by iteration.
///
/// # Errors
/// A file that is no report.
pub fn reports(recipe: &Recipe) -> Result<Vec<CodebookReport>> {
    let mut reports = Vec::new();
    for (i, iteration) in recipe.iterations.iter().enumerate() {
        for target in 0..iteration.targets.len() {
            let folder = target_folder(&iteration_folder(&recipe.folder(), i), target);
            reports.extend(CodebookReport::read(&folder)?);
        }
    }
    Ok(reports)
}

/// Time of a step that began at `begin`; its clips lie in memory, so none of it is waited.
pub(super) fn pace_of(begin: Instant) -> Pace {
    Pace {
        took: begin.elapsed(),
        waited: Duration::ZERO,
    }
}
