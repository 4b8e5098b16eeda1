//! `maqam bench`: speed and memory on work of a stated shape.

mod check;
mod compare;
mod data;
mod generate;
mod train;

use clap::Subcommand;

use crate::error::Result;
use crate::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    /// Time training steps with random weights and AdamW: LoRA on all linear layers of the decoder
    /// with a frozen encoder, or every weight.
    Train(train::Arguments),
    /// Read the rows that a recipe trains on, without a model: hours of audio per minute, rows per
    /// second.
    Data(data::Arguments),
    /// Prompts of random numbers, read and answered: tokens a second of both.
    Generate(generate::Arguments),
    /// Check every primitive at the widths of a model against f64, one JSON line each.
    Check(check::Arguments),
    /// Compare loss and gradients of one pass with the CPU's, for a model of full width and few
    /// layers; one JSON line.
    Compare(compare::Arguments),
}

pub fn run(command: Command, stop: &Stop) -> Result<()> {
    match command {
        Command::Train(arguments) => train::run(arguments),
        Command::Data(arguments) => data::run(&arguments, stop),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Compare(arguments) => compare::run(arguments),
    }
}
