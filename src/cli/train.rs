//! `maqam train`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::cli::DeviceArguments;
use crate::cli::hub;
use crate::cli::progress::Progress;
use crate::error::Error;
use crate::error::Result;
use crate::eval::Scores;
use crate::eval::table;
use crate::files;
use crate::model::AudioLlm;
use crate::recipe::Dtype;
use crate::recipe::Recipe;
use crate::train;
use crate::train::Observer;
use crate::train::Run;
use crate::train::checkpoint;
use crate::train::checkpoint::State;
use crate::train::log::StepRecord;
use crate::train::optimiser::Optimiser;

#[derive(Args)]
pub struct Arguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Go on from the run's last checkpoint, from the beginning if there is none.
    #[arg(long)]
    resume: bool,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, stop: &AtomicBool) -> Result<()> {
    arguments.device.check()?;
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let stored = recipe.folder().join("recipe.yaml");
    let _lock = files::Lock::take(&recipe.folder())?;
    let is_begun = stored.is_file();
    let leftover = checkpoint::list(&recipe.folder().join("checkpoints"))?.pop();
    if let Some((_, path)) = leftover.filter(|_| !is_begun) {
        return Err(Error::input("a checkpoint of a run whose recipe.yaml is gone")
            .at_path(&path)
            .hint("put recipe.yaml back, choose another `name`, or remove the folder"));
    }
    if is_begun && !arguments.resume {
        return Err(Error::input("this run exists already")
            .at_path(&recipe.folder())
            .hint("go on with it with --resume, start another with --set name=NAME, or remove the folder"));
    }
    if is_begun {
        recipe.check_unchanged(&stored)?;
    }
    if recipe.model.dtype == Dtype::Bf16 {
        eprintln!("note: the CPU computes in f32; `model.dtype: bf16` takes effect on a GPU");
    }
    let dir = hub::model_dir(&recipe.model.path)?;
    let (run, mut model) = recipe.open(&dir)?;
    for error in run.corpus.skipped() {
        eprintln!("skipped: {}", error.message());
    }
    let mut optimiser = Optimiser::new(run.optimiser.clone(), &model.parameters)?;
    let mut state = State::new(recipe.inputs(run.evaluate.as_ref().map(|(_, suite)| suite))?);
    match checkpoint::list(&run.checkpoints())?.pop() {
        Some((_, path)) if is_begun => {
            let saved = checkpoint::load(&path, &model, &mut optimiser)?;
            check_inputs(&saved, &state)?;
            state = saved;
        }
        _ => files::write_atomic(&stored, recipe.to_yaml()?.as_bytes())?,
    }

    describe(&recipe, &run, &model, &state);
    let mut screen = Screen { progress: Progress::new("training", state.step, run.schedule.num_steps()), evaluation: None, stage: String::new() };
    let outcome = train::train(&run, &mut model, &mut optimiser, &mut state, &mut screen, stop);
    screen.progress.finish();
    let last = checkpoint::folder(&run.checkpoints(), state.step);
    match outcome {
        Ok(()) => {
            eprintln!("done: {} steps; trained weights in {}", state.step, last.display());
            let best = run.folder.join("best");
            let mut best_step = None;
            if best.is_dir() {
                best_step = checkpoint::read_state(&best)?.evaluated;
                eprintln!("best {}: {}", run.evaluate.as_ref().map_or("", |(settings, _)| &settings.keep_best), best.display());
            }
            if run.evaluate.is_some()
                && let Some(table) = table::of_run(&run.folder, state.step, best_step)?
            {
                println!("\n{}", table.trim_end());
            }
            Ok(())
        }
        Err(error) if last.is_dir() => {
            eprintln!("{} finished steps are in {}", state.step, last.display());
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// A resumed run must read what it read before.
fn check_inputs(saved: &State, now: &State) -> Result<()> {
    let paths = now.inputs.keys().chain(saved.inputs.keys());
    match paths.into_iter().find(|path| saved.inputs.get(*path) != now.inputs.get(*path)) {
        Some(path) => Err(Error::input("the file has changed since the run began")
            .at(path)
            .hint("put it back to go on with this run, or start another with `--set name=NAME`")),
        None => Ok(()),
    }
}

fn describe(recipe: &Recipe, run: &Run, model: &AudioLlm, state: &State) {
    let population = run.corpus.population();
    eprintln!(
        "run {}: {} rows, {} steps of {} examples, {} trained numbers",
        run.folder.display(),
        run.corpus.len(),
        run.schedule.num_steps(),
        run.schedule.batch(),
        model.parameters.count()
    );
    for (i, task) in population.tasks.iter().enumerate() {
        let rows = population.row_task.iter().filter(|&&of| usize::from(of) == i).count();
        eprintln!("  task {task}: {rows} rows");
    }
    for stage in run.schedule.stages() {
        let replayed = if stage.replayed.is_empty() { String::new() } else { format!(", replaying {}", stage.replayed.join(", ")) };
        eprintln!("  stage {}: steps {} to {}, {}{replayed}", stage.name, stage.start + 1, stage.start + stage.steps, stage.tasks.join(", "));
    }
    if state.step > 0 {
        eprintln!("  going on after step {}", state.step);
    }
    eprintln!("  seed {}, model {}", recipe.seed, recipe.model.path);
}

struct Screen {
    progress: Progress,
    evaluation: Option<Progress>,
    stage: String,
}

impl Observer for Screen {
    fn step(&mut self, record: &StepRecord, _num_steps: u64) {
        if record.stage != self.stage {
            self.stage.clone_from(&record.stage);
            self.progress.line(&format!("stage {}", record.stage));
        }
        self.progress.update(record.step, &format!("loss {:.4}  gradient {:.3}  rate {:.2e}", record.loss, record.grad_norm, record.learning_rate));
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        let progress = &self.progress;
        self.evaluation.get_or_insert_with(|| progress.part("evaluating", total as u64)).update(done as u64, "");
    }

    fn evaluated(&mut self, at_step: u64, scores: &Scores, is_best: bool) {
        if let Some(evaluation) = self.evaluation.take() {
            evaluation.clear();
        }
        let listed = scores.0.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join("  ");
        self.progress.line(&format!("step {at_step}: {listed}{}", if is_best { "  (best)" } else { "" }));
    }

    fn note(&mut self, text: &str) {
        self.progress.line(&format!("note: {text}"));
    }
}
