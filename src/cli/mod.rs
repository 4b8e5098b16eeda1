//! The command line: arguments in, one call, an exit code out. The only room that parses arguments and prints.

pub mod allocator;
mod bad_rows;
mod bench;
mod compose;
mod device;
mod eval;
mod experiment;
mod export;
mod hub;
mod inspect;
mod instructions;
mod interrupt;
mod judge;
mod judgement;
mod leakage;
mod metrics;
mod plan;
mod print;
mod progress;
mod prompts;
mod report;
mod train;

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use candle_core::Device;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::device::DeviceArguments;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::load::Loader;
use crate::machine;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::memory::HostNeed;
use crate::models::sizes::Sizes;
use crate::models::trained::Trained;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;
use crate::seed::Key;
use crate::task::AskedIn;
use crate::task::Example;
use crate::task::Tasks;
use crate::task::Wording;
use crate::task::example_without_task;

/// Fine-tunes audio language models on several speech tasks at once.
///
/// Exit codes: 0 done, 1 a fault of maqam, 2 bad input, 3 the loss diverged, 4 disk, memory or network, 130 interrupted.
#[derive(Parser)]
#[command(name = "maqam", version = machine::VERSION_AND_COMMIT, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train as a recipe says; the run's files go to runs/NAME.
    Train(train::Arguments),
    /// Show what a recipe will train on, step by step, without training.
    Plan(plan::Arguments),
    /// Train and compare several recipes with several seeds, over one data set and one budget.
    Experiment(experiment::Arguments),
    /// Ask a model, and what was trained of it, the questions of a suite; score the answers.
    Eval(eval::Arguments),
    /// Log-probabilities of the answers in a data file.
    Score(judge::ScoreArguments),
    /// Answers of a model to the questions in a data file.
    Generate(judge::GenerateArguments),
    /// Scores of answers against what they should be, whoever gave them.
    Metrics(metrics::Arguments),
    /// What the projector makes of each row's audio.
    Embed(inspect::EmbedArguments),
    /// Log-mel frames of each row's audio.
    Features(inspect::FeaturesArguments),
    /// Instructions about clips whose answers a program can judge: build a suite, score the answers.
    #[command(subcommand)]
    Instructions(instructions::Command),
    /// Grade summaries by a model behind an endpoint that speaks OpenAI's chat completions.
    Judge(judgement::Arguments),
    /// Show runs on a page: curves, scores, confusions, gradients, worst utterances.
    Report(report::ReportArguments),
    /// Compare runs judged on the same rows: tables and figures for a paper.
    Compare(report::CompareArguments),
    /// Merge an adapter into a checkpoint, or write it as PEFT reads it.
    Export(export::Arguments),
    /// Make an audio language model in Qwen2-Audio's layout of a Whisper encoder and a Qwen2 text model.
    Compose(compose::Arguments),
    /// Measure speed and memory.
    #[command(subcommand)]
    Bench(bench::Command),
}

/// A checkpoint, and perhaps an adapter.
#[derive(Args, Clone)]
struct ModelArguments {
    /// Folder of a Qwen2.5-Omni checkpoint, or its Hub id.
    #[arg(long)]
    model: String,
    /// PEFT folder or checkpoint of a run.
    #[arg(long)]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    memory: MemoryArguments,
}

/// Whether the memory of the machine is looked at.
#[derive(Args, Clone, Copy)]
struct MemoryArguments {
    /// Begin although the machine seems to have too little memory; the system may end the process.
    #[arg(long)]
    ignore_memory: bool,
}

impl MemoryArguments {
    /// Refuses a model that does not fit the memory of the machine, where that computes.
    fn check(
        self,
        config: &Config,
        plan: &Plan,
        precision: Precision,
        device: &Device,
    ) -> Result<()> {
        if self.ignore_memory || !device.is_cpu() {
            return Ok(());
        }
        HostNeed::answering(&Sizes::of(config, plan), precision)
            .check(machine::available().map(machine::Available::named))
    }
}

impl ModelArguments {
    /// The model with its adapter, and what reads rows for it.
    fn open(&self) -> Result<(AudioLlm, Loader)> {
        let device = self.device.open()?;
        let dir = hub::model_dir(&self.model)?;
        let config = Config::load(&dir)?;
        let loader = Loader::new(&dir, &config, None)?;
        let trained = self
            .adapter
            .as_deref()
            .map(|dir| Trained::load(dir, &config))
            .transpose()?
            .unwrap_or_default();
        note(&trained);
        let plan = trained
            .adapter
            .as_ref()
            .map_or_else(Plan::default, |adapter| adapter.plan.clone());
        self.memory
            .check(&config, &plan, Precision::Auto, &device)?;
        let weights = config.weights(&dir)?.with(trained.full);
        let model = AudioLlm::new(config, &weights, plan, false, &device)?;
        if let (Some(adapter), Some(dir)) = (&trained.adapter, &self.adapter) {
            model.load_adapter(adapter).map_err(|e| e.at_path(dir))?;
        }
        Ok((model, loader))
    }
}

/// Prints notes on what an adapter's folder says.
fn note(trained: &Trained) {
    for note in trained.notes() {
        crate::cli::print::message(format_args!("note: {note}"));
    }
}

/// Rows to work on.
#[derive(Args, Clone)]
struct DataArguments {
    /// Manifest, JSONL or Parquet; rows with `messages` are used as written.
    #[arg(long)]
    data: PathBuf,
    /// Where relative audio paths start; by default the manifest's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
}

impl DataArguments {
    fn rows(&self) -> Result<Vec<Row>> {
        let manifest = read_manifest(&self.data, self.audio_root.as_deref(), OnBadRow::Error)?;
        for note in &manifest.notes {
            print::message(format_args!("note: {note}"));
        }
        Ok(manifest.rows)
    }
}

/// How rows become questions.
#[derive(Args, Clone)]
struct TaskArguments {
    /// Task of rows that neither say one nor bring `messages`.
    #[arg(long)]
    task: Option<String>,
    /// Folder of task files that add to or override the built-in ones; by default that of the adapter's run.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Which of the task's instructions are asked.
    #[arg(long, value_enum, default_value_t = WordingName::Test)]
    wording: WordingName,
    /// The language of the task's instructions: row (each row's own), both, or a language such as ar or en.
    #[arg(long, value_name = "LANGUAGE", default_value_t = AskedIn::Row)]
    instructions: AskedIn,
}

#[derive(Clone, Copy, ValueEnum)]
enum WordingName {
    Train,
    Dev,
    Test,
}

impl TaskArguments {
    /// The examples of a manifest's rows, in order; with each the task's limit of new tokens, where it has a task. `adapter` is what
    /// answers them.
    fn examples(
        &self,
        rows: &[Row],
        path: &Path,
        adapter: Option<&Path>,
    ) -> Result<Vec<(Example, Option<usize>)>> {
        let prompts = prompts::of(self.prompts.as_deref(), adapter)?;
        let tasks = Tasks::load(prompts.as_deref())?.asked_in(&self.instructions);
        let wording = match self.wording {
            WordingName::Train => Wording::Train,
            WordingName::Dev => Wording::Dev,
            WordingName::Test => Wording::Test,
        };
        if let Some(name) = &self.task {
            tasks.get(name).map_err(|e| e.at("--task"))?;
        }
        let instruction = Key::new(0, "evaluation instruction");
        let example = |(i, row): (usize, &Row)| {
            let name = row.task.as_deref().or(self.task.as_deref());
            match name {
                _ if !row.messages.is_empty() => Ok((
                    example_without_task(row)?,
                    name.and_then(|name| tasks.get(name).ok())
                        .map(|task| task.answer.max_new_tokens),
                )),
                Some(name) => {
                    let task = tasks.get(name)?;
                    Ok((
                        task.example(row, wording, instruction.with(i as u64))?,
                        Some(task.answer.max_new_tokens),
                    ))
                }
                None if row.instruction.is_some() => Ok((example_without_task(row)?, None)),
                None => Err(Error::input("no task")
                    .hint("add --task NAME, or a `task` or `messages` to each row")),
            }
        };
        rows.iter()
            .enumerate()
            .map(|(i, row)| example((i, row)).map_err(|e| e.at(row.place(path))))
            .collect()
    }
}

/// `maqam bench` alone: what a card is measured with is a small program.
#[derive(Parser)]
#[command(
    name = "bench",
    version = machine::VERSION_AND_COMMIT,
    about = "Speed and memory on work of a stated shape",
    max_term_width = 120
)]
struct BenchCli {
    #[command(subcommand)]
    command: bench::Command,
}

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    match Cli::try_parse() {
        Ok(cli) => {
            outcome(|| interrupt::watch(stop.clone()).and_then(|()| run(cli.command, &stop)))
        }
        Err(error) => usage(&error),
    }
}

/// The same of `maqam bench`, by itself.
pub fn bench_main() -> ExitCode {
    match BenchCli::try_parse() {
        Ok(cli) => outcome(|| bench::run(cli.command)),
        Err(error) => usage(&error),
    }
}

/// Prints a help text, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        return ExitCode::from(Error::input("").exit_code());
    }
    // A help text is a result, and the last of it may be in a buffer still.
    outcome(|| match printed {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::resource(format!(
            "standard output: cannot print the help: {e}"
        ))),
        _ => print::result(""),
    })
}

fn outcome(work: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(of_panic(payload.as_ref())));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::message(format_args!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error that a panic stands for; the panic itself has printed where it was.
fn of_panic(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    // The standard library and rayon panic where the system gives no more threads.
    if text.contains("failed to spawn thread") || text.contains("ThreadPoolBuildError") {
        return Error::resource("the system gives this process no more threads")
            .hint("raise the limit of processes or of memory (`ulimit -u`, `ulimit -v`)");
    }
    Error::bug("maqam stopped at a fault of its own")
}

fn run(command: Command, stop: &AtomicBool) -> Result<()> {
    match command {
        Command::Train(arguments) => train::run(&arguments, stop),
        Command::Plan(arguments) => plan::run(&arguments, stop),
        Command::Experiment(arguments) => experiment::run(&arguments, stop),
        Command::Eval(arguments) => eval::run(&arguments, stop),
        Command::Score(arguments) => judge::score(&arguments, stop),
        Command::Generate(arguments) => judge::generate(&arguments, stop),
        Command::Metrics(arguments) => metrics::run(&arguments),
        Command::Embed(arguments) => inspect::embed(&arguments, stop),
        Command::Features(arguments) => inspect::features(&arguments, stop),
        Command::Instructions(command) => instructions::run(&command),
        Command::Judge(arguments) => judgement::run(&arguments, stop),
        Command::Report(arguments) => report::report(&arguments),
        Command::Compare(arguments) => report::compare(&arguments),
        Command::Compose(arguments) => compose::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Bench(command) => bench::run(command),
    }
}

/// Whether the user asked to stop.
fn check_stop(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        Err(Error::new(
            crate::error::Kind::Interrupted,
            "stopped; nothing was written",
        ))
    } else {
        Ok(())
    }
}
