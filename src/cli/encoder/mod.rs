//! `maqam encoder`: speech encoders, trained from scratch or distilled.

mod distill;
mod finetune;
mod heads;
mod pretrain;
mod probe;
mod training;

use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use crate::error::Result;
use crate::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    /// Train an encoder from nothing: masked prediction of cluster ids of MFCC, then of its own features.
    #[command(after_help = "Example:
  maqam encoder pretrain encoders/sample-teacher.yaml")]
    Pretrain(RecipeArguments),
    /// Train a smaller encoder to predict cluster ids of a teacher's features.
    #[command(after_help = "Example:
  maqam encoder distill encoders/sample-student.yaml")]
    Distill(RecipeArguments),
    /// Train a head, CTC or a classifier, on a frozen encoder or on MFCC.
    #[command(after_help = "Example:
  maqam encoder probe mine.yaml")]
    Probe(RecipeArguments),
    /// Train a head together with the encoder.
    #[command(after_help = "Example:
  maqam encoder finetune mine.yaml")]
    Finetune(RecipeArguments),
}

/// Arguments of every command.
#[derive(Args)]
pub struct RecipeArguments {
    /// Recipe, YAML.
    recipe: PathBuf,
    /// Go on from the run's last checkpoint, from the beginning if there is none.
    #[arg(long)]
    resume: bool,
    /// Change a value of the recipe; lists count from 0.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(command: &Command, stop: &Stop) -> Result<()> {
    match command {
        Command::Pretrain(arguments) => pretrain::run(arguments, stop),
        Command::Distill(arguments) => distill::run(arguments, stop),
        Command::Probe(arguments) => probe::run(arguments, stop),
        Command::Finetune(arguments) => finetune::run(arguments, stop),
    }
}
