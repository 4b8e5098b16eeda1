//! Training: from a schedule's picks to an adapter, one optimiser step after the other; stops cleanly, resumes exactly.

pub mod checkpoint;
pub mod corpus;
mod embedding_cache;
pub mod embeddings;
pub mod environment;
mod evaluate;
pub mod inputs;
pub mod log;
pub mod optimiser;
mod probe;
mod settings;
mod step;
mod tensorboard;
mod trainer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

pub use evaluate::write_json;
pub use evaluate::write_predictions;
pub use settings::CheckpointSettings;
pub use settings::EmbeddingSettings;
pub use settings::EvaluateSettings;
pub use settings::MemorySettings;
pub use settings::ProbeSettings;
pub use trainer::check;

use crate::data::OnBadRow;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::Scores;
use crate::eval::suite::Suite;
use crate::files;
use crate::load::Loader;
use crate::loss;
use crate::machine::Machine;
use crate::model::AudioLlm;
use crate::model::peft::Card;
use crate::model::precision::Computes;
use crate::parts::Parts;
use crate::schedule::Schedule;
use crate::train::checkpoint::State;
use crate::train::corpus::Corpus;
use crate::train::environment::Recorder;
use crate::train::inputs::Inputs;
use crate::train::log::StepRecord;
use crate::train::optimiser::Optimiser;
use crate::train::tensorboard::Events;
use crate::train::trainer::Trainer;

/// A resolved run: everything that a step needs beside the schedule.
pub struct Run {
    /// Where the run's files go.
    pub folder: PathBuf,
    /// Seed of everything that is random but the order of the data.
    pub seed: u64,
    /// Seed of the order of the data.
    pub order_seed: u64,
    /// What computes it.
    pub computes: Computes,
    /// The machine that it runs on.
    pub machine: Machine,
    /// Model files and clips that it was computed from so far.
    pub inputs: Mutex<Inputs>,
    /// The rows.
    pub corpus: Corpus,
    /// What reads them.
    pub loader: Loader,
    /// Frames that the encoder attends to at once.
    pub window: usize,
    /// How each stage trains each part, stage by stage.
    pub parts: Vec<Parts>,
    /// `loss:`, stage by stage.
    pub loss: Vec<loss::Settings>,
    /// What adapters are saved as.
    pub card: Card,
    /// Dropout of the adapters' inputs.
    pub dropout: f64,
    /// `optimiser:`.
    pub optimiser: optimiser::Settings,
    /// `memory:`.
    pub memory: MemorySettings,
    /// `checkpoint:`.
    pub checkpoint: CheckpointSettings,
    /// `evaluate:`, with its suite read.
    pub evaluate: Option<(EvaluateSettings, Suite)>,
    /// `probe:`.
    pub probe: ProbeSettings,
    /// `embeddings:`.
    pub embeddings: EmbeddingSettings,
    /// What happens to audio that cannot be read.
    pub on_bad_row: OnBadRow,
}

/// Receiver of the events of a run.
pub trait Observer {
    /// A step is finished; `step` of `num_steps`.
    fn step(&mut self, record: &StepRecord, num_steps: u64);
    /// `done` of `total` rows have their embedding.
    fn embedding(&mut self, done: usize, total: usize);
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

    /// What the run was computed from so far.
    pub fn inputs(&self) -> MutexGuard<'_, Inputs> {
        // What a panicking thread left is a record like any other.
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }
}

/// Trains `model` from where `state` stands to the end of the schedule.
///
/// # Errors
/// [`Kind::Interrupted`] once `stop` is set and [`Kind::Diverged`] before the weights take a step that is not finite;
/// everything before is in a checkpoint then, as it is when a row cannot be read or the disk is full.
pub fn train(
    run: &Run,
    schedule: Schedule,
    model: &mut AudioLlm,
    optimiser: &mut Optimiser,
    state: &mut State,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<()> {
    files::truncate(&run.log_path(), state.log_bytes)?;
    // What is written from here on is of this run's steps, wherever the last one stopped.
    state.is_between = false;
    let (log, logged) = (files::AppendLog::open(&run.log_path())?, state.step);
    let (schedule, saved) = (Arc::new(schedule), (logged > 0).then_some(logged));
    let mut trainer = Trainer {
        run,
        schedule,
        model,
        optimiser,
        state,
        observer,
        stop,
        log,
        events: None,
        logged,
        saved,
        said: BTreeSet::new(),
        recorded_clips: None,
        environment: Recorder::begin(&run.folder, logged, run.computes, &run.machine),
    };
    trainer.record_environment();
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
        trainer.observer.note(&format!(
            "the last finished step could not be saved: {second}"
        ));
    }
    let written = trainer.environment.end(&outcome);
    trainer.tell_environment(written);
    outcome
}

/// The stage of a step, and its learning rate: the stage's own peak or the optimiser's, shaped over all planned steps.
pub fn learning_rate(
    schedule: &Schedule,
    settings: &optimiser::Settings,
    step: u64,
) -> (usize, f64) {
    let (stage, _) = schedule.stage_of(step);
    let peak = schedule.stages()[stage]
        .learning_rate
        .unwrap_or(settings.learning_rate);
    (
        stage,
        peak * settings.factor(schedule.planned_step(step), schedule.num_planned_steps()),
    )
}
