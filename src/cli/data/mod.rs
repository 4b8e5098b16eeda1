//! `maqam data`: manifests made from other formats.

mod import;

use clap::Subcommand;

use crate::error::Result;

#[derive(Subcommand)]
pub enum Command {
    /// Read files of any format and write one manifest: JSON lines.
    Import(import::Arguments),
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Import(arguments) => import::run(arguments),
    }
}
