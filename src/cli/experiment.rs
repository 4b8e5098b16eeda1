//! `maqam experiment`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::device::note_precision;
use crate::cli::arguments::leakage::LeakageArguments;
use crate::cli::arguments::model::MemoryArguments;
use crate::cli::arguments::model::model_dir;
use crate::cli::print;
use crate::cli::progress::Stages;
use crate::cli::screen::Screen;
use crate::cli::screen::in_words;
use crate::cli::screen::tell_fit;
use crate::cli::screen::tell_skipped;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::experiment::compare::compare;
use crate::experiment::power;
use crate::experiment::power::Pilot;
use crate::experiment::prepare::check_contrasts;
use crate::experiment::prepare::prepare;
use crate::experiment::prepare::test_suite;
use crate::experiment::runner;
use crate::experiment::runner::Models;
use crate::experiment::runner::Watcher;
use crate::experiment::write;
use crate::featurise::rows::Watch;
use crate::files;
use crate::nn::precision::Precision;
use crate::recipe::Begun;
use crate::records::power::Power;
use crate::records::scores::Scores;
use crate::report;
use crate::report::experiment::Declared;
use crate::report::experiment::page;
use crate::stop::Stop;
use crate::train::Observer;

#[derive(Args)]
pub struct Arguments {
    /// Experiment, a YAML file. Started again, it continues where it stopped.
    experiment: PathBuf,
    /// Compare the finished runs and train nothing.
    #[arg(long)]
    compare_only: bool,
    /// Say how large a difference the planned seeds, speakers and rows can resolve, from finished
    /// runs or stated deviations (`power`), and train nothing.
    #[arg(long, conflicts_with = "compare_only")]
    power: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let (experiment, planned) = Experiment::load(&arguments.experiment)?;
    let headers = Headers::open(Path::new(headers::FOLDER));
    let mut stages = Stages::new(stop);
    if arguments.power {
        let watch = &mut |what, done, total| stages.tell(what, done, total);
        let found = resolution(&experiment, &planned, &headers, watch);
        stages.clear();
        headers.keep();
        return tell_power(
            &experiment,
            &found.map_err(|e| e.at_path(&arguments.experiment))?,
        );
    }
    let prepared = prepare(
        &experiment,
        &planned,
        &arguments.leakage.allowed(),
        &headers,
        &mut |what, done, total| stages.tell(what, done, total),
    )?;
    stages.clear();
    headers.keep();
    tell_skipped(prepared.skipped.iter().map(String::as_str));
    for note in &prepared.notes {
        print::message(format_args!("note: {note}"));
    }
    if let Some(test) = &prepared.test {
        check_contrasts(&experiment, test).map_err(|e| e.at_path(&arguments.experiment))?;
    }
    experiment
        .check_budget(&prepared.num_steps)
        .map_err(|e| e.at_path(&arguments.experiment))?;
    announce(&experiment, planned.len());

    if !arguments.compare_only {
        let test = prepared.test.as_ref();
        let elsewhere = arguments.train(&experiment, &planned, test, stop)?;
        if elsewhere > 0 {
            return print::line(format_args!(
                "{elsewhere} runs are still being trained by other processes; the last of them compares, or `--compare-only`"
            ));
        }
    }
    match &prepared.test {
        Some(test) => compare_runs(&experiment, &planned, test),
        None => print::line(
            "no `test` suite: nothing is compared; `maqam compare` shows runs side by side",
        ),
    }
}

/// The smallest differences that an experiment can resolve.
fn resolution(
    experiment: &Experiment,
    planned: &[Planned],
    headers: &Headers,
    watch: Watch,
) -> Result<Power> {
    let test = suite_of(experiment, planned, headers, &mut *watch)?;
    let settings = experiment.power.as_ref();
    let Some(path) = settings.and_then(|settings| settings.pilot.as_ref()) else {
        let own = Pilot {
            experiment,
            planned,
            test: &test,
        };
        return power::of_experiment(experiment, &test, &own);
    };
    let (pilot, runs) = Experiment::load(path)?;
    let pilot_test = suite_of(&pilot, &runs, headers, watch)?;
    let pilot = Pilot {
        experiment: &pilot,
        planned: &runs,
        test: &pilot_test,
    };
    power::of_experiment(experiment, &test, &pilot)
}

/// The test suite of an experiment.
fn suite_of(
    experiment: &Experiment,
    planned: &[Planned],
    headers: &Headers,
    watch: Watch,
) -> Result<Suite> {
    match (&experiment.test, planned.first()) {
        (Some(path), Some(first)) => test_suite(path, first, headers, watch),
        _ => Err(
            Error::input(format!("`{}` has no `test` suite", experiment.name))
                .hint("name the suite whose rows differences are measured on under `test`"),
        ),
    }
}

/// Prints and writes what an experiment can resolve.
fn tell_power(experiment: &Experiment, found: &Power) -> Result<()> {
    let written = found.write(&experiment.folder())?;
    print::line(format_args!(
        "{}\nwritten: {}",
        power::markdown(experiment, found),
        written.display()
    ))
}

/// Nothing that cannot be printed keeps the runs from being trained; the comparison at the end is
/// the result.
fn announce(experiment: &Experiment, num_runs: usize) {
    let announced = print::line(format_args!(
        "experiment {}: {} recipes, {} seeds, {num_runs} runs",
        experiment.name,
        experiment.recipes.len(),
        experiment.seeds.len(),
    ));
    if let Err(error) = announced {
        print::message(format_args!("note: {}", error.message()));
    }
}

impl Arguments {
    /// Trains and evaluates the runs; returns how many are being trained by other processes.
    fn train(
        &self,
        experiment: &Experiment,
        planned: &[Planned],
        test: Option<&Suite>,
        stop: &Stop,
    ) -> Result<usize> {
        let device = self.device.open()?;
        let mut told: Vec<Precision> = Vec::new();
        for one in planned.iter().take(experiment.recipes.len()) {
            let precision = one.recipe.model.precision;
            if !told.contains(&precision) {
                note_precision(precision, &device)?;
                told.push(precision);
            }
        }
        let mut watcher = Terminal {
            screen: Screen::new(0, 0, false),
        };
        runner::run(
            experiment,
            planned,
            test,
            Models {
                device: &device,
                model_dir: &|model| model_dir(model),
                ignore_memory: self.memory.ignore_memory,
            },
            &mut watcher,
            stop,
        )
    }
}

/// Compares the finished runs, and prints and writes the comparison.
fn compare_runs(experiment: &Experiment, planned: &[Planned], test: &Suite) -> Result<()> {
    let outcome = compare(experiment, planned, test)?;
    let text = experiment.folder().join("comparison.md");
    let markdown = write::markdown(experiment, &outcome);
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
    ))
}

/// An experiment on the terminal.
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
        self.screen = Screen::new(begun.state.step, begun.schedule.num_steps(), false);
    }

    fn merges(&mut self, planned: &Planned, place: usize, total: usize) {
        self.screen.clear();
        let sources = planned.merged.iter().flat_map(|merged| &merged.sources);
        let names: Vec<&str> = sources.map(|source| source.name.as_str()).collect();
        print::message(format_args!(
            "run {} of {total}: {}, merged of {}",
            place + 1,
            planned.recipe.name,
            names.join(", ")
        ));
        self.screen = Screen::new(0, 0, false);
    }

    fn observer(&mut self) -> &mut dyn Observer {
        &mut self.screen
    }

    fn tested(&mut self, scores: &Scores) {
        self.screen.note(&format!("test: {}", in_words(scores)));
    }

    fn note(&mut self, text: &str) {
        self.screen.note(text);
    }
}
