//! `maqam train`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::device::note_precision;
use crate::cli::arguments::leakage::LeakageArguments;
use crate::cli::arguments::model::MemoryArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::cli::screen::Screen;
use crate::cli::screen::tell_fit;
use crate::cli::screen::tell_skipped;
use crate::error::Error;
use crate::error::Result;
use crate::eval::table;
use crate::metrics;
use crate::models::AudioLlm;
use crate::ops::device::Choice;
use crate::recipe::Begun;
use crate::recipe::Opening;
use crate::recipe::Recipe;
use crate::records::checkpoint_state::State;
use crate::records::log;
use crate::records::log::Line;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::train;
use crate::train::Observer;
use crate::train::Run;
use crate::train::average;
use crate::train::checkpoint;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, a YAML file.
    recipe: PathBuf,
    /// Continue from the last checkpoint of the run, or from the beginning if there is none.
    #[arg(long)]
    resume: bool,
    /// Change a value of the recipe for this run. Entries of lists count from 0: data.0.weight=2.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print events as JSON lines: every step, evaluation and note, and the end. The final table is
    /// left out.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let begun = arguments.begin(&recipe, stop)?;
    tell_fit(&begun);
    let Begun {
        run,
        schedule,
        mut model,
        mut optimiser,
        mut state,
        fit: _,
        notes: _,
        lock: _lock,
    } = begun;
    tell_rows(&run);
    describe(&recipe, &run, &schedule, &model, &state);

    let mut screen = Screen::new(state.step, schedule.num_steps(), arguments.json);
    let outcome = train::train(
        &run,
        schedule,
        &mut model,
        &mut optimiser,
        &mut state,
        &mut screen,
        stop,
    );
    screen.finish();
    let last = checkpoint::folder(&run.checkpoints(), state.step);
    if let Err(error) = outcome {
        if last.is_dir() {
            print::message(format_args!(
                "{} finished steps are in {}",
                state.step,
                last.display()
            ));
        }
        return Err(error);
    }
    print::message(format_args!(
        "done: {} steps; trained weights in {}",
        state.step,
        last.display()
    ));
    arguments.show(&run, &state, &last, &mut screen)
}

impl Arguments {
    /// Reads everything that the recipe names, and opens the model.
    fn begin(&self, recipe: &Recipe, stop: &Stop) -> Result<Begun> {
        if let Some(encoder) = recipe.audio_encoder.folder()
            && self.device.choice() == Choice::Cuda
        {
            return Err(Error::input(
                "--device cuda: speech encoders compute on the CPU, and `audio_encoder.from` names one",
            )
            .at_path(encoder)
            .hint("leave --device out, or write --device cpu"));
        }
        let device = self.device.open()?;
        note_precision(recipe.model.precision, &device)?;
        let mut stages = Stages::new(stop);
        let begun = recipe.begin(Opening {
            resume: self.resume,
            device: &device,
            model_dir: &|| model_dir(&recipe.model.path),
            leakage: Some(&self.leakage.allowed()),
            ignore_memory: self.memory.ignore_memory,
            watch: &mut |what, done, total| stages.tell(what, done, total),
        });
        stages.clear();
        begun
    }

    /// Prints what a finished run leaves: its average, its best checkpoint and the table of its
    /// scores, or one event.
    fn show(&self, run: &Run, state: &State, last: &Path, screen: &mut Screen) -> Result<()> {
        let average = run.folder.join(average::FOLDER);
        if run.checkpoint.average > 0 && average.is_dir() {
            print::message(format_args!(
                "average of the last checkpoints: {}",
                average.display()
            ));
        }
        let best = run.folder.join("best");
        let mut best_step = None;
        if best.is_dir() {
            let kept = State::read(&best)?;
            let by = run
                .evaluate
                .as_ref()
                .map_or("", |(settings, _)| settings.keep_best.as_str());
            best_step = kept.evaluated;
            print::message(format_args!("best {by}: {}", best.display()));

            let before = score_before(&run.log_path(), by)?;
            if let Some(warning) = worse_than_base(by, before, kept.best) {
                screen.note(&warning);
            }
        }
        if self.json {
            screen.event(json!({
                "kind": "done",
                "step": state.step,
                "folder": run.folder.display().to_string(),
                "checkpoint": last.display().to_string(),
                "best": best.is_dir().then(|| best.display().to_string()),
            }));
        } else if run.evaluate.is_some()
            && let Some(table) = table::of_run(&run.folder, state.step, best_step)?
        {
            // The run is whole, and its table is in its folder: a printer that fails is no fault of
            // it.
            if let Err(error) = print::line(format_args!("\n{}", table.trim_end())) {
                print::message(format_args!("note: {}", error.message()));
            }
        }
        Ok(())
    }
}

/// A score before training, as the log has it: on the half of dev that selects, where a half does.
fn score_before(path: &Path, score: &str) -> Result<Option<f64>> {
    let mut found = None;
    log::each(path, |line| {
        if let Line::Eval(record) = line
            && record.at_step == 0
            && record.control.is_none()
        {
            found = record.selecting.or(record.scores.get(score));
        }
        Ok(())
    })?;
    Ok(found)
}

/// A warning where the best checkpoint scores worse by `score` than the model did before training,
/// as far as both are known.
fn worse_than_base(score: &str, before: Option<f64>, best: Option<f64>) -> Option<String> {
    let (before, best) = before.zip(best)?;
    let better = metrics::better(score);
    (better.rank(best) < better.rank(before)).then(|| {
        format!(
            "best is worse than the base: {score} is {best:.4}, and was {before:.4} before training"
        )
    })
}

/// Prints which rows are not used, and notes on the manifests.
fn tell_rows(run: &Run) {
    let of_suite = run.evaluate.iter().flat_map(|(_, suite)| &suite.skipped);
    let skipped = run.corpus.skipped().iter().chain(of_suite);
    tell_skipped(skipped.map(Error::message));
    let of_suite = run.evaluate.iter().flat_map(|(_, suite)| &suite.notes);
    for note in run.corpus.notes().iter().chain(of_suite) {
        print::message(format_args!("note: {note}"));
    }
}

fn describe(recipe: &Recipe, run: &Run, schedule: &Schedule, model: &AudioLlm, state: &State) {
    let population = run.corpus.population();
    print::message(format_args!(
        "run {}: {} rows, {} steps of {} examples, {} trained parameters",
        run.folder.display(),
        run.corpus.len(),
        schedule.num_steps(),
        schedule.batch(),
        model.parameters.count()
    ));
    for (i, task) in population.tasks.iter().enumerate() {
        let rows = population
            .row_task
            .iter()
            .filter(|&&of| usize::from(of) == i)
            .count();
        print::message(format_args!("  task {task}: {rows} rows"));
    }
    for stage in schedule.stages() {
        let replayed = if stage.replayed.is_empty() {
            String::new()
        } else {
            format!(", replaying {}", stage.replayed.join(", "))
        };
        print::message(format_args!(
            "  stage {}: steps {} to {}, {}{replayed}",
            stage.name,
            stage.start + 1,
            stage.start + stage.steps,
            stage.tasks.join(", ")
        ));
    }
    if state.step > 0 {
        print::message(format_args!("  continuing after step {}", state.step));
    }
    print::message(format_args!(
        "  seed {}, model {}",
        recipe.seed, recipe.model.path
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_before_training_is_that_of_the_half_that_selects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let before = |first: &str| {
            let later = r#"{"kind":"eval","at_step":2,"selecting":0.75,"scores":{"mean":0.75}}"#;
            std::fs::write(&path, format!("{first}\n{later}\n")).unwrap();
            score_before(&path, "mean").unwrap()
        };
        let whole = r#"{"kind":"eval","at_step":0,"scores":{"mean":0.5}}"#;
        let half = r#"{"kind":"eval","at_step":0,"selecting":0.25,"scores":{"mean":0.5}}"#;
        assert_eq!(before(whole), Some(0.5));
        assert_eq!(before(half), Some(0.25));
        assert_eq!(before(""), None);
    }

    #[test]
    fn only_a_best_below_the_base_is_warned_of() {
        let worse = worse_than_base("mean", Some(0.5), Some(0.4)).unwrap();
        assert_eq!(
            worse,
            "best is worse than the base: mean is 0.4000, and was 0.5000 before training"
        );
        assert!(worse_than_base("words.wer", Some(0.4), Some(0.5)).is_some());
        for (score, before, best) in [
            ("mean", Some(0.4), Some(0.5)),
            ("mean", Some(0.4), Some(0.4)),
            ("words.wer", Some(0.5), Some(0.4)),
            ("mean", None, Some(0.4)),
            ("mean", Some(0.4), None),
        ] {
            assert_eq!(worse_than_base(score, before, best), None, "{score}");
        }
    }
}
