//! `maqam encoder`: speech encoders, trained from scratch or distilled.

mod arguments;
mod distill;
mod finetune;
mod heads;
mod pretrain;
mod probe;
mod training;

use clap::Subcommand;

use crate::cli::encoder::arguments::RecipeArguments;
use crate::error::Result;
use crate::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    /// Train an encoder from nothing: masked prediction of cluster ids of MFCC, then of its own
    /// features.
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

pub fn run(command: &Command, stop: &Stop) -> Result<()> {
    match command {
        Command::Pretrain(arguments) => pretrain::run(arguments, stop),
        Command::Distill(arguments) => distill::run(arguments, stop),
        Command::Probe(arguments) => probe::run(arguments, stop),
        Command::Finetune(arguments) => finetune::run(arguments, stop),
    }
}
