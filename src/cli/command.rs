//! The commands as clap reads them, and what runs each.

use clap::Args;
use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;

use crate::cli::bench;
use crate::cli::build;
use crate::cli::compare;
use crate::cli::completions;
use crate::cli::compose;
use crate::cli::data;
use crate::cli::embed;
use crate::cli::encoder;
use crate::cli::eval;
use crate::cli::experiment;
use crate::cli::export;
use crate::cli::features;
use crate::cli::generate;
use crate::cli::instructions;
use crate::cli::judge;
use crate::cli::merge;
use crate::cli::metrics;
use crate::cli::new;
use crate::cli::plan;
use crate::cli::print;
use crate::cli::prompts;
use crate::cli::report;
use crate::cli::schema;
use crate::cli::score;
use crate::cli::train;
use crate::error::Result;
use crate::machine;
use crate::stop::Stop;

/// Fine-tunes audio language models on several speech tasks at once.
///
/// Exit codes: 0 done, 1 a bug of maqam, 2 bad input, 3 the loss diverged, 4 disk, memory or
/// network, 130 interrupted.
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
pub struct Cli {
    #[command(flatten)]
    pub verbosity: Verbosity,
    #[command(subcommand)]
    pub command: Command,
}

/// How much a command prints beside its result.
#[derive(Args, Clone, Copy)]
pub struct Verbosity {
    /// Print only results and errors: no progress and no notes.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print a line for every unit of progress, such as every training step.
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Verbosity {
    /// The level that is meant.
    pub fn level(self) -> print::Level {
        match (self.quiet, self.verbose) {
            (true, _) => print::Level::Quiet,
            (false, true) => print::Level::Verbose,
            (false, false) => print::Level::Normal,
        }
    }
}

/// A command with its arguments.
#[derive(Subcommand)]
pub enum Command {
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
  maqam experiment order.yaml --power
  maqam experiment order.yaml --compare-only")]
    Experiment(experiment::Arguments),
    /// Evaluate a model and its adapters on a suite.
    #[command(after_help = "Examples:
  maqam eval eval/test.yaml --model Qwen/Qwen2.5-Omni-3B --adapter runs/mine/best
  maqam eval eval/test.yaml --model M --adapter a=runs/a/best --adapter b=runs/b/best --no-base")]
    Eval(eval::Arguments),
    /// Find the instruction of each task that a model answers best, on a dev suite.
    #[command(after_help = "Examples:
  maqam prompts eval/dev.yaml --model M --out best-prompts
  maqam eval eval/test.yaml --model M --prompts best-prompts --out runs/eval/base-best")]
    Prompts(prompts::Arguments),
    /// Compute loss and log-probabilities of the targets in a manifest.
    #[command(after_help = "Example:
  maqam score --model M --adapter runs/mine/best --data dev.jsonl --task asr --out scores.jsonl")]
    Score(score::Arguments),
    /// Generate answers to the rows of a manifest.
    #[command(after_help = "Example:
  maqam generate --model M --adapter runs/mine/best --data clips.jsonl --task asr --out answers.jsonl")]
    Generate(generate::Arguments),
    /// Score the predictions of any system.
    #[command(after_help = "Examples:
  maqam metrics --task asr --predictions answers.jsonl --normaliser arabic-leaderboard
  maqam metrics --task emotion --predictions a.jsonl --against b.jsonl --json")]
    Metrics(metrics::Arguments),
    /// Write the projector's embeddings of each row's audio.
    Embed(embed::Arguments),
    /// Write the log-mel frames of each row's audio.
    Features(features::Arguments),
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
    Judge(judge::Arguments),
    /// Write an HTML page of runs: curves, scores, confusions, gradients, worst utterances.
    #[command(after_help = "Examples:
  maqam report runs/mine
  maqam report runs/eval/test --audio")]
    Report(report::Arguments),
    /// Compare runs that were evaluated on the same rows: tables and figures for a paper.
    #[command(after_help = "Example:
  maqam compare runs/uniform runs/tpc --test --out comparison")]
    Compare(compare::Arguments),
    /// Speech encoders: train from scratch, distil into smaller ones.
    #[command(subcommand)]
    Encoder(encoder::Command),
    /// Merge an adapter into a checkpoint, or write it as a PEFT folder.
    #[command(after_help = "Examples:
  maqam export --model M --adapter runs/mine/best --out merged --dtype bf16
  maqam export --model M --adapter runs/mine/best --out adapter --form peft")]
    Export(export::Arguments),
    /// Merge adapters that were trained apart into one adapter.
    #[command(after_help = "Examples:
  maqam merge --model M --adapter runs/only-asr/best --adapter runs/only-emotion/best --out merged
  maqam merge --model M --adapter a --adapter b --method ties --density 0.2 --rank 64 --out merged")]
    Merge(merge::Arguments),
    /// Read, write and look at manifests.
    #[command(subcommand)]
    Data(data::Command),
    /// Make an audio language model in Qwen2-Audio's layout of a Whisper encoder and a Qwen2 text
    /// model.
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
    Schema(schema::Arguments),
    /// Write a commented recipe, suite, task or experiment to start from.
    #[command(after_help = "Example:
  maqam new recipe mine.yaml")]
    New(new::Arguments),
    /// Print the completion script of a shell.
    #[command(after_help = "Examples:
  maqam completions bash > ~/.local/share/bash-completion/completions/maqam
  maqam completions zsh > ~/.zfunc/_maqam
  maqam completions fish > ~/.config/fish/completions/maqam.fish")]
    Completions(completions::Arguments),
}

/// `maqam bench` alone, a small program to measure a GPU with.
#[derive(Parser)]
#[command(
    name = "bench",
    version = machine::VERSION_AND_COMMIT,
    about = "Speed and memory on work of a stated shape",
    max_term_width = 120
)]
pub struct BenchCli {
    #[command(subcommand)]
    pub command: bench::Command,
}

impl Command {
    /// Runs the command until its end or until the user asks to stop.
    pub fn run(self, stop: &Stop) -> Result<()> {
        match self {
            Self::Train(arguments) => train::run(&arguments, stop),
            Self::Plan(arguments) => plan::run(&arguments, stop),
            Self::Experiment(arguments) => experiment::run(&arguments, stop),
            Self::Eval(arguments) => eval::run(&arguments, stop),
            Self::Prompts(arguments) => prompts::run(&arguments, stop),
            Self::Score(arguments) => score::run(&arguments, stop),
            Self::Generate(arguments) => generate::run(&arguments, stop),
            Self::Metrics(arguments) => metrics::run(&arguments),
            Self::Embed(arguments) => embed::run(&arguments, stop),
            Self::Features(arguments) => features::run(&arguments, stop),
            Self::Build(arguments) => build::run(&arguments, stop),
            Self::Instructions(command) => instructions::run(&command),
            Self::Judge(arguments) => judge::run(&arguments, stop),
            Self::Report(arguments) => report::run(&arguments),
            Self::Compare(arguments) => compare::run(&arguments),
            Self::Encoder(command) => encoder::run(&command, stop),
            Self::Compose(arguments) => compose::run(&arguments),
            Self::Export(arguments) => export::run(&arguments),
            Self::Merge(arguments) => merge::run(&arguments, stop),
            Self::Data(command) => data::run(&command, stop),
            Self::Bench(command) => bench::run(command, stop),
            Self::Schema(arguments) => schema::run(&arguments),
            Self::New(arguments) => new::run(&arguments),
            Self::Completions(arguments) => completions::run(&arguments, Cli::command()),
        }
    }
}
