//! The command line: arguments in, one call, an exit code out. The only room that parses arguments and prints.

pub mod allocator;
mod arguments;
mod bad_rows;
mod bench;
mod build;
mod compose;
mod data;
mod device;
mod encoder;
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

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use clap::Subcommand;

use crate::error::Error;
use crate::error::Result;
use crate::machine;

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
    /// Build a speech-summarization data set from text.
    Build(build::Arguments),
    /// Instructions about clips whose answers a program can judge: build a suite, score the answers.
    #[command(subcommand)]
    Instructions(instructions::Command),
    /// Grade summaries by a model behind an endpoint that speaks OpenAI's chat completions.
    Judge(judgement::Arguments),
    /// Show runs on a page: curves, scores, confusions, gradients, worst utterances.
    Report(report::ReportArguments),
    /// Compare runs judged on the same rows: tables and figures for a paper.
    Compare(report::CompareArguments),
    /// Speech encoders: train from scratch, distil into smaller ones.
    #[command(subcommand)]
    Encoder(encoder::Command),
    /// Merge an adapter into a checkpoint, or write it as PEFT reads it.
    Export(export::Arguments),
    /// Read, write and look at manifests.
    #[command(subcommand)]
    Data(data::Command),
    /// Make an audio language model in Qwen2-Audio's layout of a Whisper encoder and a Qwen2 text model.
    Compose(compose::Arguments),
    /// Measure speed and memory.
    #[command(subcommand)]
    Bench(bench::Command),
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
        Command::Build(arguments) => build::run(&arguments, stop),
        Command::Instructions(command) => instructions::run(&command),
        Command::Judge(arguments) => judgement::run(&arguments, stop),
        Command::Report(arguments) => report::report(&arguments),
        Command::Compare(arguments) => report::compare(&arguments),
        Command::Encoder(command) => encoder::run(&command, stop),
        Command::Compose(arguments) => compose::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Data(command) => data::run(&command, stop),
        Command::Bench(command) => bench::run(command),
    }
}
