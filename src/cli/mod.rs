//! The command line: arguments in, one call, an exit code out. The only module that parses
//! arguments and prints.
//!
//! A command is the file of its name, and one with commands of its own a folder. `arguments` holds
//! what several commands take.

pub mod allocator;
mod arguments;
mod bench;
mod build;
mod command;
mod compare;
mod completions;
mod compose;
mod data;
mod embed;
mod encoder;
mod eval;
mod exit;
mod experiment;
mod export;
mod features;
mod generate;
mod instructions;
mod interrupt;
mod judge;
mod merge;
mod metrics;
mod new;
mod plan;
mod print;
mod progress;
mod prompts;
mod report;
mod schema;
mod score;
mod screen;
mod train;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::command::BenchCli;
use crate::cli::command::Cli;
use crate::stop::Stop;

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    print::set_level(cli.verbosity.level());
    let stop = Stop::new();
    exit::outcome(|| {
        interrupt::watch(stop.clone())?;
        cli.command.run(&stop)
    })
}

/// The same of `maqam bench`, by itself.
pub fn bench_main() -> ExitCode {
    match BenchCli::try_parse() {
        Ok(cli) => exit::outcome(|| bench::run(cli.command, &Stop::new())),
        Err(error) => exit::usage(&error),
    }
}
