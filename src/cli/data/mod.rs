//! `maqam data`: manifests of other formats read, and ours written as theirs.

mod export;
mod import;

use clap::Subcommand;

use crate::error::Result;

#[derive(Subcommand)]
pub enum Command {
    /// Read files of any format and write one manifest: JSON lines or Parquet.
    Import(import::Arguments),
    /// Write a manifest in the format of another tool, in a new folder.
    Export(export::Arguments),
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Import(arguments) => import::run(arguments),
        Command::Export(arguments) => export::run(arguments),
    }
}
