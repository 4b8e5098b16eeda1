//! Training: from a schedule's picks to an adapter, one optimiser step after the other; stops
//! cleanly, resumes exactly.

pub mod audio_gap;
pub mod average;
pub mod checkpoint;
pub mod corpus;
pub mod difficulty;
mod embedding_cache;
pub mod embeddings;
pub mod environment;
mod evaluate;
mod gradient_settings;
mod msft;
mod online;
pub mod optimiser;
mod probe;
mod run;
mod selection;
mod settings;
pub mod spelling;
mod step;
mod surgery;
mod task_gradients;
mod tensorboard;
mod trainer;
mod training_rows;
mod uds;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use gradient_settings::GradientSettings;
pub use gradient_settings::Method as GradientMethod;
pub use run::Observer;
pub use run::Run;
pub use run::learning_rate;
pub use settings::CheckpointSettings;
pub use settings::EmbeddingSettings;
pub use settings::EvaluateSettings;
pub use settings::MemorySettings;
pub use settings::NeftuneSettings;
pub use settings::ProbeSettings;
pub use trainer::check;

use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::models::AudioLlm;
use crate::ops::device;
use crate::records::checkpoint_state::State;
use crate::records::picks;
use crate::records::run_folder::PICKS_FILE;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::train::environment::Recorder;
use crate::train::optimiser::Optimiser;
use crate::train::selection::Selection;
use crate::train::tensorboard::Events;
use crate::train::trainer::Trainer;

/// Trains `model` from where `state` stands to the end of the schedule.
///
/// # Errors
/// [`Kind::Interrupted`] once `stop` is requested and [`Kind::Diverged`] before the weights take a
/// step that is not finite; everything before is in a checkpoint then, as it is when a row cannot
/// be read or the disk is full.
pub fn train(
    run: &Run,
    mut schedule: Schedule,
    model: &mut AudioLlm,
    optimiser: &mut Optimiser,
    state: &mut State,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<()> {
    files::truncate(&run.log_path(), state.log_bytes)?;
    device::begin_run(&model.device, &run.folder)?;
    // What is written from here on is of this run's steps, wherever the last one stopped.
    state.is_between = false;
    let log = files::AppendLog::open(&run.log_path())?;
    let logged = state.step;
    for (&stage, &steps) in &state.stage_ends {
        schedule.end_stage(stage, steps)?;
    }
    let picks = open_picks(run, &schedule, logged)?;
    let selection = Selection::resume(run, &schedule, logged)?;
    let schedule = Arc::new(schedule);
    let saved = (logged > 0).then_some(logged);
    let mut trainer = Trainer {
        run,
        schedule,
        model,
        optimiser,
        state,
        observer,
        stop,
        log,
        picks,
        events: None,
        logged,
        saved,
        told: BTreeSet::new(),
        recorded_clips: None,
        environment: Recorder::begin(&run.folder, logged, run.computes, &run.machine),
        gap: None,
        selection,
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

/// Opens the file of picks, cut back to the finished steps; `None` for a run whose picks a plan
/// knows. Stages that ended early have the steps that they had.
fn open_picks(run: &Run, schedule: &Schedule, finished: u64) -> Result<Option<files::AppendLog>> {
    let stages = schedule.stages().iter().enumerate();
    let mut dependent = stages.filter(|(stage, _)| schedule.depends_on_training(*stage));
    let Some((_, first)) = dependent.next() else {
        return Ok(None);
    };
    let path = run.folder.join(PICKS_FILE);
    picks::truncate(&path, first.start + 1, finished)?;
    files::AppendLog::open(&path).map(Some)
}
