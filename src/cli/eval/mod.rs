//! `maqam eval`: a suite put to a base and to what was trained of it, side by side.

mod judged;
mod leakage;
mod systems;
mod written;

use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use clap::Args;
use clap::ValueEnum;

use crate::cli::arguments::MemoryArguments;
use crate::cli::device::DeviceArguments;
use crate::cli::device::PrecisionArguments;
use crate::cli::eval::systems::Asked;
use crate::cli::eval::systems::Systems;
use crate::cli::eval::written::Folder;
use crate::cli::leakage::LeakageArguments;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::cli::progress::Stages;
use crate::cli::prompts;
use crate::cli::report;
use crate::data::MAX_BAD_ROWS_NAMED;
use crate::data::OnBadRow;
use crate::data::headers;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval;
use crate::eval::control;
use crate::eval::suite::Suite;
use crate::featurise::rows::RowCheck;
use crate::records::suite_file::Control;
use crate::report::resampled::Resampled;
use crate::stats::significance::Resampling;
use crate::task::Tasks;

#[derive(Args)]
pub struct Arguments {
    /// Suite, a YAML file.
    suite: PathBuf,
    /// Base model, evaluated first: folder of a Qwen2.5-Omni checkpoint, or its Hub id.
    #[arg(long)]
    model: String,
    /// Adapter to evaluate beside the base: a PEFT folder or a checkpoint of a run; may be repeated. NAME is its name in tables [default: that of its run].
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<String>,
    /// Leave the base out.
    #[arg(long, requires = "adapter")]
    no_base: bool,
    /// Folder of the results [default: runs/eval/SUITE].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder of task files that add to or replace the built-in ones [default: that of the adapters' runs].
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Resamples of each interval and test.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    resamples: u32,
    /// Cache of answers. Evaluating again does not run the model.
    #[arg(long, value_name = "DIR", default_value = "runs/.answers")]
    answers: PathBuf,
    /// What happens to rows that cannot be read: `error` answers the others and then lists what is wrong, `skip` scores without them.
    #[arg(long, value_enum, default_value_t = BadRows::Error)]
    on_bad_row: BadRows,
    /// Print one JSON object instead of a table: scores of every system by name, and the folder of the results.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    leakage: LeakageArguments,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BadRows {
    Error,
    Skip,
}

pub fn run(arguments: &Arguments, stop: &AtomicBool) -> Result<()> {
    let adapters = arguments
        .adapter
        .iter()
        .map(|written| systems::folder_of(written));
    let adapters: Vec<PathBuf> = adapters.collect();
    let prompts = prompts::of(
        arguments.prompts.as_deref(),
        adapters.iter().map(PathBuf::as_path),
    )?;
    let tasks = Tasks::load(prompts.as_deref())?;
    let headers = Headers::open(Path::new(headers::FOLDER));
    let mut suite = load(arguments, &tasks, &headers, stop)?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs/eval").join(&suite.name));
    let device = arguments.device.open()?;
    let computes = arguments.precision.on(&device)?;
    let systems = Systems::new(
        &arguments.model,
        &arguments.adapter,
        arguments.no_base,
        (device, computes),
    )?;
    systems.check_names(&suite)?;
    leakage::check(
        &arguments.suite,
        systems.adapters(),
        &arguments.leakage.allowed(),
        &headers,
    )?;
    headers.keep();
    let folder = Folder::claim(&out, &suite, prompts.as_deref())?;
    let resampling = Resampling {
        resamples: arguments.resamples as usize,
        ..Resampling::default()
    };
    let num_rows = suite.num_examples();
    let mut bad = Vec::new();
    loop {
        let suites = with_controls(&suite)?;
        let outcome = systems
            .interviews(&suites, &arguments.answers)
            .and_then(|mut asked| {
                ask(&systems, &mut asked, &suite, arguments.memory, stop)?;
                Ok(asked)
            });
        let asked = match outcome {
            Ok(asked) => asked,
            Err(error) if error.kind == Kind::Input => {
                // Some rows cannot be read: the others are asked without them, and every answer is kept.
                let found = suite.unreadable(&systems.loader)?;
                if found.is_empty() {
                    return Err(error);
                }
                suite = suite.without(&found)?;
                bad.extend(found.into_iter().map(|(.., error)| error));
                continue;
            }
            Err(error) => return Err(error),
        };
        if !bad.is_empty() && arguments.on_bad_row == BadRows::Error {
            return Err(eval::all_of(bad, num_rows).hint("the answers to all other rows are kept: mend these rows and evaluate again, or leave them out with --on-bad-row skip"));
        }
        for error in bad.iter().chain(&suite.skipped).take(MAX_BAD_ROWS_NAMED) {
            print::message(format_args!("skipped: {}", error.message()));
        }
        let num_skipped = bad.len() + suite.skipped.len();
        if num_skipped > 0 {
            print::message(format_args!(
                "note: scored without {num_skipped} rows that cannot be used"
            ));
        }
        let judged = judged::judge(&systems, &asked, &suite, &resampling)?;
        let text = judged::tables(&judged, &suite, &resampling);
        folder.write(&judged, &text)?;
        match arguments.json {
            true => print::line(written::summary(&judged, &out))?,
            false => print::line(text.trim_end())?,
        }
        for name in folder.outdated(&judged)? {
            print::message(format_args!(
                "note: {name} was evaluated with another version of this suite; evaluate it again beside the others"
            ));
        }
        print::message(format_args!(
            "predictions, scores and this table: {}",
            out.display()
        ));
        let page = report::page_in(&out);
        report::of_evaluation(&out, &page, false, &Resampled { resampling })?;
        print::message(format_args!("page: {}", page.display()));
        return Ok(());
    }
}

/// The suite with the headers of its audio read.
fn load(
    arguments: &Arguments,
    tasks: &Tasks,
    headers: &Headers,
    stop: &AtomicBool,
) -> Result<Suite> {
    let on_bad_row = match arguments.on_bad_row {
        BadRows::Error => OnBadRow::Error,
        BadRows::Skip => OnBadRow::Skip,
    };
    let mut stages = Stages::new(stop);
    let mut watch = |what, done, total| stages.tell(what, done, total);
    let mut check = RowCheck::new(headers, None, on_bad_row, "`--on-bad-row skip`", &mut watch);
    let suite = Suite::load_checked(&arguments.suite, tasks, &mut check);
    let checked = check.finish();
    stages.clear();
    let suite = suite?;
    checked?;
    for note in &suite.notes {
        print::message(format_args!("note: {note}"));
    }
    Ok(suite)
}

/// The suite, and the suite under each of its controls.
fn with_controls(suite: &Suite) -> Result<Vec<(Option<Control>, Suite)>> {
    let controlled = suite
        .controls
        .iter()
        .map(|control| Ok((Some(*control), control::asked(*control, suite)?)));
    std::iter::once(Ok((None, suite.clone())))
        .chain(controlled)
        .collect()
}

/// Asks every system what it was not asked before.
fn ask(
    systems: &Systems,
    asked: &mut [Asked],
    suite: &Suite,
    memory: MemoryArguments,
    stop: &AtomicBool,
) -> Result<()> {
    let (total, open): (usize, usize) = asked.iter().fold((0, 0), |sum, asked| {
        (sum.0 + asked.num_questions(), sum.1 + asked.num_open())
    });
    let rows = suite.num_examples();
    print::message(format_args!(
        "suite {}: {} sets, {rows} rows, {} systems",
        suite.name,
        suite.sets.len(),
        asked.len()
    ));
    let kept = asked
        .iter()
        .map(|asked| asked.num_questions() - asked.num_left())
        .sum::<usize>();
    print::message(format_args!(
        "{total} questions: {kept} answers from the store, {open} to ask"
    ));
    if open == 0 {
        return Ok(());
    }
    systems.check_adapters(asked)?;
    systems.check_memory(memory)?;
    let mut progress = Progress::new("asking", 0, open as u64);
    let mut done = 0;
    let outcome = asked.iter_mut().filter(|asked| asked.num_open() > 0).try_for_each(|asked| {
        progress.line(&format!("loading {}", asked.name));
        let model = systems.open(asked)?;
        let name = asked.name.clone();
        asked.ask(systems, &model, &mut || {
            done += 1;
            progress.update(done, &name);
            match stop.load(Ordering::Relaxed) {
                true => Err(Error::new(Kind::Interrupted, format!("stopped; {done} new answers are cached, and the same command continues from there"))),
                false => Ok(()),
            }
        })
    });
    progress.finish();
    outcome
}
