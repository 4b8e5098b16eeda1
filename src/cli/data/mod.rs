//! `maqam data`: manifests made from other formats, checked, divided and described.

mod check;
mod export;
mod import;
mod normalise;
mod rows;
mod segment;
mod split;
mod stats;

use std::sync::atomic::AtomicBool;

use clap::Subcommand;

use crate::error::Result;

#[derive(Subcommand)]
pub enum Command {
    /// Read files of any format and write one manifest: JSON lines or Parquet.
    Import(import::Arguments),
    /// Write a manifest in the format of another tool, in a new folder.
    Export(export::Arguments),
    /// Look for faults: bad audio, empty targets, duplicates, what splits share.
    Check(check::Arguments),
    /// Change the spelling of Arabic texts by stated rules, or transliterate them.
    Normalise(normalise::Arguments),
    /// Divide a manifest into train, dev and test, so that no speaker (or other group) is in two of them.
    Split(split::Arguments),
    /// Divide recordings into their stretches of speech, or trim them, by voice activity.
    Segment(segment::Arguments),
    /// Describe manifests: hours, speakers, labels, lengths, estimated cost.
    Stats(stats::Arguments),
}

pub fn run(command: &Command, stop: &AtomicBool) -> Result<()> {
    match command {
        Command::Import(arguments) => import::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Check(arguments) => check::run(arguments, stop),
        Command::Normalise(arguments) => normalise::run(arguments, stop),
        Command::Split(arguments) => split::run(arguments, stop),
        Command::Segment(arguments) => segment::run(arguments, stop),
        Command::Stats(arguments) => stats::run(arguments, stop),
    }
}
