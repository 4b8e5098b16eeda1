//! Training: from a schedule's picks to an adapter, one optimiser step after the other; stops
//! cleanly, resumes exactly.

pub mod checkpoint;
pub mod corpus;
pub mod difficulty;
mod embedding_cache;
pub mod embeddings;
pub mod environment;
mod evaluate;
mod msft;
pub mod optimiser;
mod probe;
mod run;
mod settings;
mod step;
mod tensorboard;
mod trainer;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use run::Observer;
pub use run::Run;
pub use run::learning_rate;
pub use settings::CheckpointSettings;
pub use settings::EmbeddingSettings;
pub use settings::EvaluateSettings;
pub use settings::MemorySettings;
pub use settings::ProbeSettings;
pub use trainer::check;

use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::models::AudioLlm;
use crate::records::checkpoint_state::State;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::train::environment::Recorder;
use crate::train::optimiser::Optimiser;
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
    schedule: Schedule,
    model: &mut AudioLlm,
    optimiser: &mut Optimiser,
    state: &mut State,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<()> {
    files::truncate(&run.log_path(), state.log_bytes)?;
    // What is written from here on is of this run's steps, wherever the last one stopped.
    state.is_between = false;
    let log = files::AppendLog::open(&run.log_path())?;
    let logged = state.step;
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
        events: None,
        logged,
        saved,
        told: BTreeSet::new(),
        recorded_clips: None,
        picks: None,
        environment: Recorder::begin(&run.folder, logged, run.computes, &run.machine),
    };
    trainer.record_environment();
    trainer.begin_picks()?;
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
