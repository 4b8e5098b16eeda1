//! `maqam instructions`: a suite of instructions built from any manifest, and the score of a
//! model's answers to it.

mod build;
mod score;

use clap::Subcommand;

use crate::error::Result;

#[derive(Subcommand)]
pub enum Command {
    /// Build a suite from manifests: instructions about their clips that a program can check.
    Build(build::Arguments),
    /// Score the answers to a suite; `maqam generate --data SUITE` makes them.
    Score(score::Arguments),
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Build(arguments) => build::run(arguments),
        Command::Score(arguments) => score::run(arguments),
    }
}
