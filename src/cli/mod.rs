//! The command line: arguments in, one call, an exit code out. The only module that parses arguments and prints.

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
mod schema;
mod train;

use std::process::ExitCode;

use clap::Args;
use clap::Parser;
use clap::Subcommand;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::machine;
use crate::stop::Stop;

/// Fine-tunes audio language models on several speech tasks at once.
///
/// Exit codes: 0 done, 1 a bug of maqam, 2 bad input, 3 the loss diverged, 4 disk, memory or network, 130 interrupted.
#[derive(Parser)]
#[command(
    name = "maqam",
    version = machine::VERSION_AND_COMMIT,
    max_term_width = 120,
    after_help = "Examples:
  maqam new recipe mine.yaml                             write a commented recipe
  maqam plan mine.yaml                                   show what it trains on
  maqam train mine.yaml                                  train it
  maqam eval eval/test.yaml --model M --adapter runs/mine/best
  maqam export --model M --adapter runs/mine/best --out merged"
)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

/// How much a command prints beside its result.
#[derive(Args, Clone, Copy)]
struct Verbosity {
    /// Print only results and errors: no progress and no notes.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print a line for every unit of progress, such as every training step.
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Verbosity {
    fn level(self) -> print::Level {
        match (self.quiet, self.verbose) {
            (true, _) => print::Level::Quiet,
            (false, true) => print::Level::Verbose,
            (false, false) => print::Level::Normal,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Train a recipe. The files of the run go to runs/NAME.
    #[command(after_help = "Examples:
  maqam train curricula/quickstart.yaml
  maqam train mine.yaml --set optimiser.learning_rate=5e-5 --set name=mine-lower
  maqam train mine.yaml --resume")]
    Train(train::Arguments),
    /// Show what a recipe will train on and what it costs, without training.
    #[command(after_help = "Examples:
  maqam plan mine.yaml
  maqam plan mine.yaml --gpu-memory 80 --html plan.html
  maqam plan mine.yaml --json | jq .stages")]
    Plan(plan::Arguments),
    /// Train several recipes with several seeds over one data set and one budget, and compare them.
    #[command(after_help = "Examples:
  maqam experiment order.yaml
  maqam experiment order.yaml --compare-only")]
    Experiment(experiment::Arguments),
    /// Evaluate a model and its adapters on a suite.
    #[command(after_help = "Examples:
  maqam eval eval/test.yaml --model Qwen/Qwen2.5-Omni-3B --adapter runs/mine/best
  maqam eval eval/test.yaml --model M --adapter a=runs/a/best --adapter b=runs/b/best --no-base")]
    Eval(eval::Arguments),
    /// Compute loss and log-probabilities of the targets in a manifest.
    #[command(after_help = "Example:
  maqam score --model M --adapter runs/mine/best --data dev.jsonl --task asr --out scores.jsonl")]
    Score(judge::ScoreArguments),
    /// Generate answers to the rows of a manifest.
    #[command(after_help = "Example:
  maqam generate --model M --adapter runs/mine/best --data clips.jsonl --task asr --out answers.jsonl")]
    Generate(judge::GenerateArguments),
    /// Score the predictions of any system.
    #[command(after_help = "Examples:
  maqam metrics --task asr --predictions answers.jsonl --normaliser arabic-leaderboard
  maqam metrics --task emotion --predictions a.jsonl --against b.jsonl --json")]
    Metrics(metrics::Arguments),
    /// Write the projector's embeddings of each row's audio.
    Embed(inspect::EmbedArguments),
    /// Write the log-mel frames of each row's audio.
    Features(inspect::FeaturesArguments),
    /// Build a speech-summarization data set from text.
    #[command(after_help = "Example:
  maqam build builds/from-text-files.yaml --dry-run")]
    Build(build::Arguments),
    /// Build a suite of instructions that a program can check, and score the answers.
    #[command(subcommand)]
    Instructions(instructions::Command),
    /// Grade summaries with a language model behind an OpenAI-compatible endpoint.
    #[command(after_help = "Example:
  OPENAI_API_KEY=... maqam judge --predictions answers.jsonl --sources test.jsonl \\
    --endpoint https://api.openai.com/v1 --out grades.jsonl --max-cost 5 --price-in 2.5 --price-out 10")]
    Judge(judgement::Arguments),
    /// Write an HTML page of runs: curves, scores, confusions, gradients, worst utterances.
    #[command(after_help = "Examples:
  maqam report runs/mine
  maqam report runs/eval/test --audio")]
    Report(report::ReportArguments),
    /// Compare runs that were evaluated on the same rows: tables and figures for a paper.
    #[command(after_help = "Example:
  maqam compare runs/uniform runs/tpc --test --out comparison")]
    Compare(report::CompareArguments),
    /// Speech encoders: train from scratch, distil into smaller ones.
    #[command(subcommand)]
    Encoder(encoder::Command),
    /// Merge an adapter into a checkpoint, or write it as a PEFT folder.
    #[command(after_help = "Examples:
  maqam export --model M --adapter runs/mine/best --out merged --dtype bf16
  maqam export --model M --adapter runs/mine/best --out adapter --form peft")]
    Export(export::Arguments),
    /// Read, write and look at manifests.
    #[command(subcommand)]
    Data(data::Command),
    /// Make an audio language model in Qwen2-Audio's layout of a Whisper encoder and a Qwen2 text model.
    #[command(after_help = "Example:
  maqam compose --encoder whisper-base --decoder Qwen2.5-0.5B-Instruct --out base")]
    Compose(compose::Arguments),
    /// Measure speed and memory.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print the JSON Schema of a kind of file, for completion and checks in editors.
    #[command(after_help = "Example:
  maqam schema recipe --out recipe.schema.json
  then, as a comment in a recipe:  # yaml-language-server: $schema=recipe.schema.json")]
    Schema(schema::SchemaArguments),
    /// Write a commented recipe, suite, task or experiment to start from.
    #[command(after_help = "Example:
  maqam new recipe mine.yaml")]
    New(schema::NewArguments),
    /// Print the completion script of a shell.
    #[command(after_help = "Examples:
  maqam completions bash > ~/.local/share/bash-completion/completions/maqam
  maqam completions zsh > ~/.zfunc/_maqam
  maqam completions fish > ~/.config/fish/completions/maqam.fish")]
    Completions(schema::CompletionsArguments),
}

/// `maqam bench` alone, a small program to measure a GPU with.
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
    let stop = Stop::new();
    match Cli::try_parse() {
        Ok(cli) => {
            print::set_level(cli.verbosity.level());
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
        return ExitCode::from(Kind::Input.exit_code());
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
            print::error(format_args!("error: {error}"));
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

fn run(command: Command, stop: &Stop) -> Result<()> {
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
        Command::Schema(arguments) => schema::schema(&arguments),
        Command::New(arguments) => schema::new(&arguments),
        Command::Completions(arguments) => {
            schema::completions(&arguments, <Cli as clap::CommandFactory>::command())
        }
    }
}
