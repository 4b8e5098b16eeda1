//! `maqam experiment`.

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::cli::arguments::MemoryArguments;
use crate::cli::device::DeviceArguments;
use crate::cli::device::note_precision;
use crate::cli::hub;
use crate::cli::leakage::LeakageArguments;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::cli::train::Screen;
use crate::cli::train::tell_fit;
use crate::cli::train::tell_skipped;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::experiment::compare::compare;
use crate::experiment::runner;
use crate::experiment::runner::Models;
use crate::experiment::runner::Watcher;
use crate::experiment::write;
use crate::featurise::rows::Pool;
use crate::featurise::rows::RowCheck;
use crate::featurise::rows::Watch;
use crate::files;
use crate::nn::precision::Precision;
use crate::recipe::Begun;
use crate::records::scores::Scores;
use crate::report;
use crate::report::experiment::Declared;
use crate::report::experiment::page;
use crate::train::Observer;

#[derive(Args)]
pub struct Arguments {
    /// Experiment, a YAML file. Started again, it continues where it stopped.
    experiment: PathBuf,
    /// Compare the finished runs and train nothing.
    #[arg(long)]
    compare_only: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, stop: &AtomicBool) -> Result<()> {
    let (experiment, planned) = Experiment::load(&arguments.experiment)?;
    let Some(first) = planned.first() else {
        return Err(Error::bug("an experiment without runs"));
    };
    let tasks = first.recipe.tasks()?;
    let headers = Headers::open(Path::new(headers::FOLDER));
    let mut stages = Stages::new(stop);
    let test = experiment
        .test
        .as_deref()
        .map(|path| test_suite(path, first, &headers, &mut stages))
        .transpose()?;
    let mut lengths = Vec::new();
    let mut notes: Vec<String> = test.iter().flat_map(|suite| suite.notes.clone()).collect();
    // Recipes often share manifests: a row or a note of several is named once.
    let mut skipped: Vec<String> = Vec::new();
    let mut is_told: HashSet<String> = HashSet::new();
    let of_test = test.iter().flat_map(|suite| &suite.skipped);
    add_new(of_test, &mut is_told, &mut skipped);
    for one in planned.iter().take(experiment.recipes.len()) {
        let watch: Watch = &mut |what, done, total| stages.tell(what, done, total);
        let rows = one.recipe.rows(&tasks, &headers, Pool::Fresh, watch)?;
        lengths.push(rows.schedule.num_steps());
        add_new(rows.skipped(), &mut is_told, &mut skipped);
        for note in rows.notes() {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let test = experiment.test.as_slice();
        for note in rows.check_leakage(test, &arguments.leakage.allowed(), &headers)? {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    stages.clear();
    headers.keep();
    tell_skipped(skipped.iter().map(String::as_str));
    notes
        .iter()
        .for_each(|note| print::message(format_args!("note: {note}")));
    experiment
        .check_budget(&lengths)
        .map_err(|e| e.at_path(&arguments.experiment))?;
    // Nothing that cannot be printed keeps the runs from being trained; the comparison at the end is the result.
    let announced = print::line(format_args!(
        "experiment {}: {} recipes, {} seeds, {} runs",
        experiment.name,
        experiment.recipes.len(),
        experiment.seeds.len(),
        planned.len()
    ));
    if let Err(error) = announced {
        print::message(format_args!("note: {}", error.message()));
    }
    if !arguments.compare_only {
        let device = arguments.device.open()?;
        let precisions: Vec<Precision> = planned
            .iter()
            .take(experiment.recipes.len())
            .map(|one| one.recipe.model.precision)
            .collect();
        let each_once = precisions
            .iter()
            .enumerate()
            .filter(|(i, precision)| !precisions[..*i].contains(precision));
        each_once
            .map(|(_, precision)| *precision)
            .try_for_each(|precision| note_precision(precision, &device))?;
        let mut watcher = Terminal {
            screen: Screen::new(0, 0),
        };
        let elsewhere = runner::run(
            &experiment,
            &planned,
            test.as_ref(),
            Models {
                device: &device,
                model_dir: &|model| hub::model_dir(model),
                ignore_memory: arguments.memory.ignore_memory,
            },
            &mut watcher,
            stop,
        )?;
        if elsewhere > 0 {
            print::line(format_args!(
                "{elsewhere} runs are still being trained by other processes; the last of them compares, or `--compare-only`"
            ))?;
            return Ok(());
        }
    }
    let Some(test) = test else {
        print::line(format_args!(
            "no `test` suite: nothing is compared; `maqam compare` shows runs side by side"
        ))?;
        return Ok(());
    };
    let outcome = compare(&experiment, &planned, &test)?;
    let text = experiment.folder().join("comparison.md");
    let markdown = write::markdown(&experiment, &outcome);
    files::write_atomic(&text, markdown.as_bytes())?;
    let numbers = outcome.write(&experiment.folder())?;
    let declared = Declared {
        name: &experiment.name,
        level: experiment.level,
    };
    let page = report::compare::write(
        &page(&declared, &outcome),
        &experiment.folder().join("report"),
    )?;
    print::line(format_args!(
        "{markdown}\nwritten: {}, {}, {}",
        text.display(),
        numbers.display(),
        page.display()
    ))?;
    Ok(())
}

/// Adds the messages of rows that are left out, as far as they are not told yet.
fn add_new<'a>(
    errors: impl Iterator<Item = &'a Error>,
    is_told: &mut HashSet<String>,
    skipped: &mut Vec<String>,
) {
    for error in errors {
        if is_told.insert(error.message().to_owned()) {
            skipped.push(error.message().to_owned());
        }
    }
}

/// The suite that every run is evaluated on, with the headers of its audio read: an experiment evaluates on it after hours.
fn test_suite(
    path: &Path,
    first: &Planned,
    headers: &Headers,
    stages: &mut Stages<'_>,
) -> Result<Suite> {
    let recipe = &first.recipe;
    let mut watch = |what, done, total| stages.tell(what, done, total);
    let mut check = RowCheck::new(
        headers,
        recipe.max_audio_s,
        recipe.on_bad_row,
        "`on_bad_row: skip` in every recipe",
        &mut watch,
    );
    let suite = Suite::load_checked(path, &recipe.tasks()?, &mut check)?;
    check.finish()?;
    Ok(suite)
}

struct Terminal {
    screen: Screen,
}

impl Watcher for Terminal {
    fn begins(&mut self, planned: &Planned, place: usize, total: usize, begun: &Begun) {
        self.screen.clear();
        print::message(format_args!(
            "run {} of {total}: {}, from step {}",
            place + 1,
            planned.recipe.name,
            begun.state.step
        ));
        tell_fit(begun);
        self.screen = Screen::new(begun.state.step, begun.schedule.num_steps());
    }

    fn observer(&mut self) -> &mut dyn Observer {
        &mut self.screen
    }

    fn tested(&mut self, scores: &Scores) {
        let listed = scores
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect::<Vec<_>>()
            .join("  ");
        self.screen.note(&format!("test: {listed}"));
    }

    fn note(&mut self, text: &str) {
        self.screen.note(text);
    }
}
