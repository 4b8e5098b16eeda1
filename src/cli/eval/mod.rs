//! `maqam eval`: a suite put to a base and to what was trained of it, side by side.

mod judged;
mod systems;
mod written;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use clap::Args;

use crate::cli::device::DeviceArguments;
use crate::cli::device::PrecisionArguments;
use crate::cli::eval::systems::Asked;
use crate::cli::eval::systems::Systems;
use crate::cli::eval::written::Folder;
use crate::cli::print;
use crate::cli::progress::Progress;
use crate::cli::prompts;
use crate::cli::report;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::significance::Resampling;
use crate::eval::suite::Suite;
use crate::report::resampled::Resampled;
use crate::task::Tasks;

#[derive(Args)]
pub struct Arguments {
    /// Suite, YAML.
    suite: PathBuf,
    /// Folder of a Qwen2.5-Omni checkpoint, or its Hub id: the base, which is judged first.
    #[arg(long)]
    model: String,
    /// PEFT folder or checkpoint of a run, judged beside the base; may be repeated. NAME is its name in tables, by default that of its run.
    #[arg(long, value_name = "[NAME=]DIR")]
    adapter: Vec<String>,
    /// Leave the base itself out.
    #[arg(long, requires = "adapter")]
    no_base: bool,
    /// Folder of the results; by default runs/eval/SUITE.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder of task files that add to or override the built-in ones; by default that of the adapters' runs.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Resamples behind each interval and test.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    resamples: u32,
    /// Where answers are kept; a question that was answered before is not asked again.
    #[arg(long, value_name = "DIR", default_value = "runs/.answers")]
    answers: PathBuf,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    device: DeviceArguments,
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
    let suite = Suite::load(&arguments.suite, &Tasks::load(prompts.as_deref())?)?;
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
    let folder = Folder::claim(&out, &suite, prompts.as_deref())?;
    let controlled = suite
        .controls
        .iter()
        .map(|control| Ok((Some(*control), control.of(&suite)?)))
        .collect::<Result<Vec<_>>>()?;
    let suites: Vec<_> = std::iter::once((None, suite.clone()))
        .chain(controlled)
        .collect();
    let mut asked = systems.interviews(&suites, &arguments.answers)?;
    ask(&systems, &mut asked, &suite, stop)?;
    let resampling = Resampling {
        resamples: arguments.resamples as usize,
        ..Resampling::default()
    };
    let judged = judged::judge(&systems, &asked, &suite, &resampling)?;
    let text = judged::tables(&judged, &suite, &resampling);
    folder.write(&judged, &text)?;
    print::line(format_args!("{}", text.trim_end()))?;
    for name in folder.outdated(&judged)? {
        print::message(format_args!(
            "note: {name} was judged by another version of this suite; judge it again beside the others"
        ));
    }
    let page = report::page_in(&out);
    report::of_evaluation(&out, &page, false, &Resampled { resampling })?;
    print::message(format_args!(
        "predictions, scores and this table: {}",
        out.display()
    ));
    print::message(format_args!("page: {}", page.display()));
    Ok(())
}

/// Asks every system what it was not asked before.
fn ask(systems: &Systems, asked: &mut [Asked], suite: &Suite, stop: &AtomicBool) -> Result<()> {
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
                true => Err(Error::new(Kind::Interrupted, format!("stopped; {done} new answers are kept, the same command goes on from there"))),
                false => Ok(()),
            }
        })
    });
    progress.finish();
    outcome
}
