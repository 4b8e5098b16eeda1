//! Training: from a schedule's picks to an adapter, one optimiser step after the other; stops cleanly, resumes exactly.

pub mod checkpoint;
pub mod corpus;
pub mod log;
pub mod loss;
pub mod optimiser;
mod step;
mod tensorboard;

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;

use serde::Deserialize;
use serde::Serialize;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval;
use crate::eval::Evaluation;
use crate::eval::Scores;
use crate::eval::suite::Suite;
use crate::eval::table;
use crate::files;
use crate::load::Loader;
use crate::load::OFFICIAL_MAX_AUDIO_S;
use crate::metrics;
use crate::model::AudioLlm;
use crate::model::Pass;
use crate::model::decoder::Save;
use crate::model::peft::Card;
use crate::parts::Part;
use crate::parts::Parts;
use crate::parts::PerPart;
use crate::parts::Training;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::train::checkpoint::State;
use crate::train::corpus::Corpus;
use crate::train::log::StepRecord;
use crate::train::optimiser::Optimiser;
use crate::train::optimiser::Update;
use crate::train::step::LoadedStep;
use crate::train::step::load_step;
use crate::train::tensorboard::Events;

/// `memory:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySettings {
    /// Most tokens of a micro-batch; a longer example gets one of its own.
    pub pack_tokens: usize,
    /// What layers keep for their backward.
    pub save: Save,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self { pack_tokens: 8192, save: Save::default() }
    }
}

/// `checkpoint:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps from one to the next; the last step always has one.
    pub every: u64,
    /// How many are kept, the best apart.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every: 200, keep: 3 }
    }
}

/// `evaluate:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// A suite of role `dev`.
    pub suite: PathBuf,
    /// Steps from one evaluation to the next; the last step always has one.
    #[serde(default = "default_every")]
    pub every: u64,
    /// The score whose best checkpoint is kept in `best/`.
    #[serde(default = "default_keep_best")]
    pub keep_best: String,
    /// Whether to evaluate before the first step too. What the model knew before training is never the `best`.
    #[serde(default)]
    pub at_start: bool,
}

fn default_every() -> u64 {
    200
}

fn default_keep_best() -> String {
    "mean".to_owned()
}

/// A run, resolved: everything that a step needs to know.
pub struct Run {
    /// Where the run's files go.
    pub folder: PathBuf,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Which rows each step sees.
    pub schedule: Schedule,
    /// The rows.
    pub corpus: Corpus,
    /// What reads them.
    pub loader: Loader,
    /// How each stage trains each part, stage by stage.
    pub parts: Vec<Parts>,
    /// What adapters are saved as.
    pub card: Card,
    /// Dropout of the adapters' inputs.
    pub dropout: f64,
    /// `optimiser:`.
    pub optimiser: optimiser::Settings,
    /// `loss:`.
    pub loss: loss::Settings,
    /// `memory:`.
    pub memory: MemorySettings,
    /// `checkpoint:`.
    pub checkpoint: CheckpointSettings,
    /// `evaluate:`, with its suite read.
    pub evaluate: Option<(EvaluateSettings, Suite)>,
    /// What happens to audio that cannot be read.
    pub on_bad_row: OnBadRow,
}

/// Who watches a run.
pub trait Observer {
    /// A step is finished; `step` of `num_steps`.
    fn step(&mut self, record: &StepRecord, num_steps: u64);
    /// An evaluation has answered `done` of `total` examples.
    fn evaluating(&mut self, done: usize, total: usize);
    /// An evaluation is finished.
    fn evaluated(&mut self, at_step: u64, scores: &Scores, is_best: bool);
    /// Something the user should know.
    fn note(&mut self, text: &str);
}

impl Run {
    /// The folder of the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// The run's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// How many updates each part has had after `step` (from 0), its own included; 0 for a part that is frozen in it.
    fn updates(&self, step: u64) -> PerPart<u64> {
        let (now, _) = self.schedule.stage_of(step);
        PerPart::from_fn(|part| {
            let is_trained = |stage: usize| self.parts[stage].of(part) != Training::Frozen;
            if !is_trained(now) {
                return 0;
            }
            let done = |stage: &Stage| (step + 1).min(stage.start + stage.steps) - stage.start;
            self.schedule.stages()[..=now].iter().enumerate().filter(|(i, _)| is_trained(*i)).map(|(_, stage)| done(stage)).sum()
        })
    }
}

/// Trains `model` from where `state` stands to the end of the schedule.
///
/// # Errors
/// [`Kind::Interrupted`] once `stop` is set and [`Kind::Diverged`] before the weights take a step that is not finite;
/// everything before is in a checkpoint then, as it is when a row cannot be read or the disk is full.
pub fn train(run: &Run, model: &mut AudioLlm, optimiser: &mut Optimiser, state: &mut State, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<()> {
    files::truncate(&run.log_path(), state.log_bytes)?;
    let (log, logged) = (files::AppendLog::open(&run.log_path())?, state.step);
    let events = None;
    let mut trainer =
        Trainer { run, model, optimiser, state, observer, stop, log, events, logged, saved: (logged > 0).then_some(logged), said: BTreeSet::new() };
    let events = Events::start(&run.folder, &run.log_path());
    trainer.keep(events);
    let outcome = trainer.train();
    if let Err(error) = &outcome
        && error.kind != Kind::Bug
        && trainer.saved != Some(trainer.state.step)
        && trainer.logged == trainer.state.step
        && trainer.state.step > 0
        && let Err(second) = trainer.save()
        && second.message() != error.message()
    {
        trainer.observer.note(&format!("the last finished step could not be saved: {second}"));
    }
    outcome
}

struct Trainer<'a> {
    run: &'a Run,
    model: &'a mut AudioLlm,
    optimiser: &'a mut Optimiser,
    state: &'a mut State,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
    log: files::AppendLog,
    /// `None` once it could not be written: it is derived from the log, and no reason to stop.
    events: Option<Events>,
    /// The last step whose line is in the log; a checkpoint never holds a step that the log does not.
    logged: u64,
    saved: Option<u64>,
    /// What was said of rows that were left out: each is said once, however often it is drawn.
    said: BTreeSet<String>,
}

impl Trainer<'_> {
    fn train(&mut self) -> Result<()> {
        let (run, first, last) = (self.run, self.state.step, self.run.schedule.num_steps());
        std::thread::scope(|scope| {
            // One step is read ahead while the one before it is computed; dropping the receiver ends the reader.
            let (send, receive) = sync_channel(0);
            scope.spawn(move || {
                for step in first..last {
                    let loaded = load_step(run, step);
                    let is_last = loaded.is_err();
                    if send.send(loaded).is_err() || is_last {
                        break;
                    }
                }
            });
            match &run.evaluate {
                Some((settings, suite)) if first == 0 && settings.at_start => self.evaluate(settings, suite)?,
                _ if first > 0 => self.finish_step()?,
                _ => {}
            }
            while self.state.step < last {
                self.check_stop()?;
                let loaded = receive.recv().map_err(|_| Error::bug("the reader of the next step ended early"))??;
                for error in &loaded.skipped {
                    if self.said.insert(error.message().to_owned()) {
                        self.observer.note(&format!("row left out: {}", error.message()));
                    }
                }
                self.warn_of_long_audio(&loaded);
                let record = self.step(loaded)?;
                let line = serde_json::to_string(&record).map_err(Error::bug)?;
                self.log.line(&line)?;
                self.logged = record.step;
                self.tell_tensorboard(&line);
                self.observer.step(&record, last);
                self.finish_step()?;
            }
            Ok(())
        })
    }

    /// Adds lines of the log to TensorBoard's file, as long as that can be written.
    fn tell_tensorboard(&mut self, lines: &str) {
        if let Some(mut events) = self.events.take() {
            let outcome = lines.lines().try_for_each(|line| events.line(line));
            self.keep(outcome.map(|()| events));
        }
    }

    fn keep(&mut self, events: Result<Events>) {
        self.events = events.map_err(|error| self.observer.note(&format!("no curves for TensorBoard until the run resumes: {error}"))).ok();
    }

    /// Forward, backward and update of one step; the weights do not move if anything is not finite.
    fn step(&mut self, loaded: LoadedStep) -> Result<StepRecord> {
        let (run, step) = (self.run, self.state.step);
        let pass = Pass { save: run.memory.save, dropout: run.dropout, label_smoothing: run.loss.label_smoothing };
        let mut tasks = loaded.tasks();
        let lengths: Vec<usize> = loaded.examples.iter().map(|example| example.sequence.tokens.len()).collect();

        let (stage, learning_rate) = learning_rate(&run.schedule, &run.optimiser, step);
        for part in Part::ALL {
            self.model.set_trained(part, run.parts[stage].of(part) != Training::Frozen);
        }
        let model = &*self.model;
        model.parameters.zero_gradients()?;
        let mut loss = 0.0;
        for range in micro_batches(&lengths, run.memory.pack_tokens) {
            self.check_stop()?;
            let examples = &loaded.examples[range.clone()];
            let sequences: Vec<&Sequence> = examples.iter().map(|example| &example.sequence).collect();
            let batch = Batch::pack(&sequences, model.config.audio.window_frames())?;
            let found = model.train(&batch, pass)?;
            loss += found.loss;
            for (log_probability, &sequence) in found.log_probabilities.iter().zip(&batch.target_sequences) {
                tasks.entry(loaded.task_names[range.start + sequence as usize].clone()).or_default().loss -= log_probability;
            }
        }
        let grad_norm = self.optimiser.grad_norm(&model.parameters)?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            let found = format!("step {}: the loss is {loss}, the length of the gradient {grad_norm}; the weights were not changed", step + 1);
            return Err(Error::new(Kind::Diverged, found)
                .hint("lower `optimiser.learning_rate` or lengthen `optimiser.warmup` in a new run (`--set name=NAME`); `lora.init: CHECKPOINT` starts it from a checkpoint of this one"));
        }
        self.optimiser.step(&model.parameters, Update { grad_norm, learning_rate, counts: run.updates(step) })?;
        self.state.step += 1;

        tasks.values_mut().for_each(|task| task.loss /= task.target_tokens.max(1) as f64);
        Ok(StepRecord {
            kind: "train",
            step: self.state.step,
            stage: run.schedule.stages()[stage].name.clone(),
            loss,
            grad_norm,
            learning_rate,
            examples: loaded.examples.len(),
            tokens: lengths.iter().sum(),
            target_tokens: tasks.values().map(|task| task.target_tokens).sum(),
            seconds: loaded.examples.iter().map(|example| example.seconds).sum(),
            skipped: loaded.skipped.len(),
            tasks,
        })
    }

    /// Says once that some audio is longer than what the official processor, and so other tools, would have heard.
    fn warn_of_long_audio(&mut self, loaded: &LoadedStep) {
        if let Some(longest) = loaded.examples.iter().map(|example| example.seconds).filter(|&seconds| seconds > OFFICIAL_MAX_AUDIO_S).reduce(f64::max)
            && self.said.insert("long audio".to_owned())
        {
            self.observer
                .note(&format!("{longest:.0} s of audio in one example; maqam hears all of it, the official processor cuts after {OFFICIAL_MAX_AUDIO_S} s"));
        }
    }

    /// Evaluation and checkpoint, where the finished step is due for one.
    fn finish_step(&mut self) -> Result<()> {
        let (step, last) = (self.state.step, self.run.schedule.num_steps());
        let is_due = |every: u64| step == last || (every > 0 && step.is_multiple_of(every));
        if let Some((settings, suite)) = &self.run.evaluate
            && is_due(settings.every)
            && self.state.evaluated != Some(step)
        {
            self.evaluate(settings, suite)?;
        }
        if is_due(self.run.checkpoint.every) {
            self.save()?;
        }
        Ok(())
    }

    fn evaluate(&mut self, settings: &EvaluateSettings, suite: &Suite) -> Result<()> {
        let (run, step, stop) = (self.run, self.state.step, self.stop);
        let observer = &mut *self.observer;
        let found = eval::evaluate(self.model, &run.loader, suite, &mut |done, total| {
            observer.evaluating(done, total);
            check(stop)
        })?;
        let score = found
            .scores
            .get(&settings.keep_best)
            .ok_or_else(|| Error::input(format!("`evaluate.keep_best`: there is no score `{}`; there are {}", settings.keep_best, names(&found.scores))))?;
        let is_best = step > 0 && self.state.best.is_none_or(|best| is_better(&settings.keep_best, score, best));
        let folder = table::folder(&run.folder, step);
        write_predictions(&folder, &found)?;
        write_json(&folder.join(table::SCORES_FILE), &found.scores.to_json())?;
        let mut line = log::eval_line(step, None, &found.scores)?;
        if step == run.schedule.num_steps() && !suite.controls.is_empty() {
            line = line + "\n" + &self.controls(suite, &folder)?;
        }
        let best = if is_best { Some(score) } else { self.state.best };
        if is_best {
            // Before the log and the state know of the evaluation: if this fails, a resumed run evaluates again.
            let log_bytes = self.log.num_bytes()? + line.len() as u64 + 1;
            let state = State { evaluated: Some(step), best, log_bytes, ..self.state.clone() };
            checkpoint::save(&run.folder.join("best"), self.model, self.optimiser, &state, &run.card)?;
        }
        self.log.line(&line)?;
        self.tell_tensorboard(&line);
        // A checkpoint of this step that was written before does not know of the evaluation.
        (self.state.evaluated, self.state.best, self.saved) = (Some(step), best, None);
        self.observer.evaluated(step, &found.scores, is_best);
        Ok(())
    }

    /// Asks the suite in the ways of its controls; returns their lines for the log.
    fn controls(&mut self, suite: &Suite, folder: &Path) -> Result<String> {
        let (run, step, stop) = (self.run, self.state.step, self.stop);
        let (mut lines, mut by_control) = (Vec::new(), serde_json::Map::new());
        for control in &suite.controls {
            let observer = &mut *self.observer;
            let found = eval::evaluate(self.model, &run.loader, &control.of(suite)?, &mut |done, total| {
                observer.evaluating(done, total);
                check(stop)
            })?;
            write_predictions(&folder.join(control.name()), &found)?;
            lines.push(log::eval_line(step, Some(control.name()), &found.scores)?);
            by_control.insert(control.name().to_owned(), found.scores.to_json().into());
        }
        write_json(&folder.join(table::CONTROLS_FILE), &by_control)?;
        Ok(lines.join("\n"))
    }

    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.state.step) {
            return Ok(());
        }
        self.log.sync()?;
        self.state.log_bytes = self.log.num_bytes()?;
        let folder = checkpoint::folder(&self.run.checkpoints(), self.state.step);
        checkpoint::save(&folder, self.model, self.optimiser, self.state, &self.run.card)?;
        self.saved = Some(self.state.step);
        checkpoint::rotate(&self.run.checkpoints(), self.run.checkpoint.keep)
    }

    fn check_stop(&self) -> Result<()> {
        check(self.stop)
    }
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::new(Kind::Interrupted, "stopped").hint("go on with `--resume`")) } else { Ok(()) }
}

fn write_predictions(folder: &Path, found: &Evaluation) -> Result<()> {
    for (set, predictions) in &found.predictions {
        let lines = predictions.iter().map(|row| serde_json::to_string(row).map_err(Error::bug)).collect::<Result<Vec<_>>>()?;
        files::write_atomic(&folder.join(format!("{set}.jsonl")), (lines.join("\n") + "\n").as_bytes())?;
    }
    Ok(())
}

fn write_json(path: &Path, object: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    files::write_atomic(path, serde_json::to_string_pretty(object).map_err(Error::bug)?.as_bytes())
}

fn names(scores: &Scores) -> String {
    scores.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether a score beats the best so far; losses, error rates and failures are better low.
fn is_better(name: &str, score: f64, best: f64) -> bool {
    let better = metrics::better(name.rsplit('.').next().unwrap_or(name));
    better.rank(score) > better.rank(best)
}

/// The stage of a step, and its learning rate: the stage's own peak or the optimiser's, shaped over all planned steps.
pub fn learning_rate(schedule: &Schedule, settings: &optimiser::Settings, step: u64) -> (usize, f64) {
    let (stage, _) = schedule.stage_of(step);
    let peak = schedule.stages()[stage].learning_rate.unwrap_or(settings.learning_rate);
    (stage, peak * settings.factor(step, schedule.num_steps()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_rates_and_losses_are_better_low() {
        assert!(is_better("words.wer", 0.1, 0.2) && is_better("words.cer@arabic-leaderboard", 0.1, 0.2) && is_better("words.loss", 0.1, 0.2));
        assert!(is_better("words.hit_limit", 0.1, 0.2) && is_better("words.length_ratio", 1.1, 0.5) && is_better("gist.chrf", 60.0, 50.0));
        assert!(is_better("mean", 0.3, 0.2) && is_better("emotions.uar", 0.3, 0.2) && !is_better("mean", 0.2, 0.2));
    }
}
