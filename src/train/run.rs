//! A run, resolved, and who watches it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::batch::Framing;
use crate::data::OnBadRow;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::featurise::augment::Augmentation;
use crate::loss_weights;
use crate::models::EmbeddingNoise;
use crate::models::memory::Fit;
use crate::nn::peft::Metadata;
use crate::nn::precision::Computes;
use crate::parts::Parts;
use crate::records::environment::Machine;
use crate::records::inputs::Inputs;
use crate::records::log::StepRecord;
use crate::records::run_folder::CHECKPOINTS;
use crate::records::run_folder::LOG_FILE;
use crate::records::scores::Scores;
use crate::schedule::Schedule;
use crate::train::audio_gap::AudioGap;
use crate::train::corpus::Corpus;
use crate::train::environment::Pace;
use crate::train::gradient_settings::GradientSettings;
use crate::train::optimiser;
use crate::train::settings::CheckpointSettings;
use crate::train::settings::EmbeddingSettings;
use crate::train::settings::EvaluateSettings;
use crate::train::settings::MemorySettings;
use crate::train::settings::ProbeSettings;
use crate::train::spelling::Spelling;

/// A resolved run: everything that a step needs beside schedule, model and optimiser.
pub struct Run {
    /// Folder of the run.
    pub folder: PathBuf,
    /// Seed of everything that is random but the order of the data.
    pub seed: u64,
    /// Seed of the order of the data.
    pub order_seed: u64,
    /// Device and precision.
    pub computes: Computes,
    /// The machine that it runs on.
    pub machine: Machine,
    /// Model files and clips that it was computed from so far.
    pub inputs: Mutex<Inputs>,
    /// The rows.
    pub corpus: Corpus,
    /// Reader of examples.
    pub loader: Loader,
    /// Changes of the clips that are trained on.
    pub augmentation: Option<Augmentation>,
    /// Windows of the audio encoder.
    pub framing: Framing,
    /// Training of each part, stage by stage.
    pub parts: Vec<Parts>,
    /// `loss:`, stage by stage.
    pub loss: Vec<loss_weights::Settings>,
    /// Units of the auxiliary CTC loss, if a stage has one.
    pub spelling: Option<Spelling>,
    /// Fields of `adapter_config.json` that adapters are saved with.
    pub metadata: Metadata,
    /// Dropout of the adapters' inputs.
    pub dropout: f64,
    /// `neftune:`, or none.
    pub noise: EmbeddingNoise,
    /// `optimiser:`.
    pub optimiser: optimiser::Settings,
    /// `gradients:`.
    pub gradients: Option<GradientSettings>,
    /// `memory:`.
    pub memory: MemorySettings,
    /// Memory of the training on a GPU, if it runs on one.
    pub fit: Option<Fit>,
    /// `checkpoint:`.
    pub checkpoint: CheckpointSettings,
    /// `evaluate:`, with its suite read.
    pub evaluate: Option<(EvaluateSettings, Suite)>,
    /// `probe:`.
    pub probe: ProbeSettings,
    /// Rows that the audio gap is measured on, if it is.
    pub audio_gap: Option<AudioGap>,
    /// `embeddings:`.
    pub embeddings: EmbeddingSettings,
    /// Treatment of audio that cannot be read.
    pub on_bad_row: OnBadRow,
}

/// Receiver of the events of a run.
pub trait Observer {
    /// A step is finished; `pace` is its time.
    fn step(&mut self, record: &StepRecord, pace: Pace);
    /// `done` of `total` rows have what `work` names, such as their embedding.
    fn preparing(&mut self, work: &'static str, done: usize, total: usize);
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
        self.folder.join(CHECKPOINTS)
    }

    /// Files that the run was computed from so far.
    pub fn inputs(&self) -> MutexGuard<'_, Inputs> {
        // What a panicking thread left is a record like any other.
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run's log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join(LOG_FILE)
    }
}

/// Learning rate of a step: the peak of its stage, else the optimiser's, shaped over all planned
/// steps, or with `restart` over those of its stage.
pub fn learning_rate(schedule: &Schedule, settings: &optimiser::Settings, step: u64) -> f64 {
    let (number, _) = schedule.stage_of(step);
    let stage = &schedule.stages()[number];
    let peak = stage.learning_rate.unwrap_or(settings.learning_rate);
    let planned = schedule.planned_step(step);

    let factor = if settings.restart {
        settings.factor(planned - stage.planned_start, stage.planned_steps)
    } else {
        settings.factor(planned, schedule.num_planned_steps())
    };
    peak * factor
}
