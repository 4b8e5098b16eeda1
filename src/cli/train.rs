//! `maqam train`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::arguments::MemoryArguments;
use crate::cli::device::DeviceArguments;
use crate::cli::device::note_precision;
use crate::cli::hub;
use crate::cli::leakage::LeakageArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::cli::progress::Stages;
use crate::error::Error;
use crate::error::Result;
use crate::eval::table;
use crate::models::AudioLlm;
use crate::recipe::Begun;
use crate::recipe::Opening;
use crate::recipe::Recipe;
use crate::records::log::Line;
use crate::records::log::StepRecord;
use crate::records::scores::Scores;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::train;
use crate::train::Observer;
use crate::train::Run;
use crate::train::checkpoint;
use crate::train::checkpoint::State;
use crate::train::environment::Pace;

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
    /// Print events as JSON lines: every step, evaluation and note, and the end. The final table is left out.
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
    let device = arguments.device.open()?;
    note_precision(recipe.model.precision, &device)?;
    let mut stages = Stages::new(stop);
    let begun = recipe.begin(Opening {
        resume: arguments.resume,
        device: &device,
        model_dir: &|| hub::model_dir(&recipe.model.path),
        leakage: Some(&arguments.leakage.allowed()),
        ignore_memory: arguments.memory.ignore_memory,
        watch: &mut |what, done, total| stages.tell(what, done, total),
    });
    stages.clear();
    let begun = begun?;
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
    let of_suite = run.evaluate.iter().flat_map(|(_, suite)| &suite.skipped);
    tell_skipped(
        run.corpus
            .skipped()
            .iter()
            .chain(of_suite)
            .map(Error::message),
    );
    let of_suite = run.evaluate.iter().flat_map(|(_, suite)| &suite.notes);
    for note in run.corpus.notes().iter().chain(of_suite) {
        print::message(format_args!("note: {note}"));
    }
    describe(&recipe, &run, &schedule, &model, &state);
    let mut screen = Screen::new(state.step, schedule.num_steps());
    screen.is_json = arguments.json;
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
    match outcome {
        Ok(()) => {
            print::message(format_args!(
                "done: {} steps; trained weights in {}",
                state.step,
                last.display()
            ));
            let best = run.folder.join("best");
            let mut best_step = None;
            if best.is_dir() {
                best_step = checkpoint::read_state(&best)?.evaluated;
                print::message(format_args!(
                    "best {}: {}",
                    run.evaluate
                        .as_ref()
                        .map_or("", |(settings, _)| &settings.keep_best),
                    best.display()
                ));
            }
            if arguments.json {
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
                // The run is whole, and its table is in its folder: a printer that fails is no fault of it.
                if let Err(error) = print::line(format_args!("\n{}", table.trim_end())) {
                    print::message(format_args!("note: {}", error.message()));
                }
            }
            Ok(())
        }
        Err(error) if last.is_dir() => {
            print::message(format_args!(
                "{} finished steps are in {}",
                state.step,
                last.display()
            ));
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Skipped rows that are named.
const MOST_NAMED: usize = 20;

/// Prints which rows are not used, and what is wrong with each.
pub(super) fn tell_skipped<'a>(skipped: impl Iterator<Item = &'a str>) {
    let skipped: Vec<&str> = skipped.collect();
    for message in skipped.iter().take(MOST_NAMED) {
        print::message(format_args!("skipped: {message}"));
    }
    if skipped.len() > MOST_NAMED {
        print::message(format_args!(
            "skipped: {} more rows",
            skipped.len() - MOST_NAMED
        ));
    }
}

/// Prints notes on the adapter that a run continues from, and how the training fills the GPU's memory if it is on one.
pub(super) fn tell_fit(begun: &Begun) {
    begun
        .notes
        .iter()
        .for_each(|note| print::message(format_args!("note: {note}")));
    if let Some(fit) = &begun.fit {
        print::message(format_args!("memory: {}", fit.line()));
        fit.note()
            .iter()
            .for_each(|note| print::message(format_args!("note: {note}")));
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

pub(super) struct Screen {
    progress: Progress,
    /// What goes on between two steps: an evaluation, a pass over the rows for their embeddings.
    part: Option<Progress>,
    stage: String,
    /// Whether events are printed as JSON lines on standard output.
    is_json: bool,
    /// Whether an event could not be printed, which is said once.
    is_unheard: bool,
}

impl Screen {
    /// A run that stands at `step` of `num_steps`.
    pub(super) fn new(step: u64, num_steps: u64) -> Self {
        Self {
            progress: Progress::new("training", step, num_steps),
            part: None,
            stage: String::new(),
            is_json: false,
            is_unheard: false,
        }
    }

    /// Prints an event. A printer that fails ends no training.
    fn event(&mut self, event: impl Serialize) {
        if !self.is_json || self.is_unheard {
            return;
        }
        let printed = serde_json::to_string(&event)
            .map_err(Error::bug_from)
            .and_then(print::line);
        if let Err(error) = printed {
            self.is_unheard = true;
            print::message(format_args!("note: {}", error.message()));
        }
    }

    /// Leaves the bar as it is.
    pub(super) fn finish(&self) {
        self.progress.finish();
    }

    /// Takes the bar off the terminal.
    pub(super) fn clear(&self) {
        self.progress.clear();
    }

    fn part(&mut self, name: &'static str, done: usize, total: usize) {
        let progress = &self.progress;
        self.part
            .get_or_insert_with(|| progress.part(name, total as u64))
            .update(done as u64, "");
        if done == total {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        if let Some(part) = self.part.take() {
            part.clear();
        }
    }
}

impl Observer for Screen {
    fn step(&mut self, record: &StepRecord, pace: Pace) {
        self.event(Line::Train(record.clone()));
        if record.stage != self.stage {
            self.stage.clone_from(&record.stage);
            self.progress.line(&format!("stage {}", record.stage));
        }
        self.progress.update(
            record.step,
            &format!(
                "loss {:.4}  gradient {:.3}  rate {:.2e}  waited {:.0} %",
                record.loss,
                record.grad_norm,
                record.learning_rate,
                100.0 * pace.waiting_share()
            ),
        );
    }

    fn embedding(&mut self, done: usize, total: usize) {
        self.part("embedding", done, total);
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        self.part("evaluating", done, total);
    }

    fn evaluated(&mut self, at_step: u64, scores: &Scores, is_best: bool) {
        self.end_part();
        self.event(json!({
            "kind": "eval",
            "at_step": at_step,
            "scores": scores.to_json(),
            "is_best": is_best,
        }));
        let listed = scores
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect::<Vec<_>>()
            .join("  ");
        self.progress.line(&format!(
            "step {at_step}: {listed}{}",
            if is_best { "  (best)" } else { "" }
        ));
    }

    fn note(&mut self, text: &str) {
        self.event(json!({ "kind": "note", "text": text }));
        self.progress.line(&format!("note: {text}"));
    }
}
