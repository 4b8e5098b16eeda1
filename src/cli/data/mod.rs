//! `maqam data`: manifests made from other formats, checked, divided and described.

mod check;
mod export;
mod import;
mod normalise;
mod rows;
mod segment;
mod split;
mod stats;

use clap::Subcommand;

use crate::error::Result;
use crate::stop::Stop;

#[derive(Subcommand)]
pub enum Command {
    /// Read files of any format and write one manifest: JSON lines or Parquet.
    #[command(after_help = "Example:
  maqam data import cv/train.tsv --columns audio=path,text=sentence --out train.jsonl")]
    Import(import::Arguments),
    /// Write a manifest in the format of another tool, in a new folder.
    #[command(after_help = "Example:
  maqam data export train.jsonl --format lhotse --out cuts")]
    Export(export::Arguments),
    /// Look for faults: bad audio, empty targets, duplicates, what splits share.
    #[command(after_help = "Example:
  maqam data check train.jsonl dev.jsonl --json findings.json")]
    Check(check::Arguments),
    /// Change the spelling of Arabic texts by stated rules, or transliterate them.
    #[command(after_help = "Example:
  maqam data normalise train.jsonl --rules diacritics,tatweel --out plain.jsonl")]
    Normalise(normalise::Arguments),
    /// Divide a manifest into train, dev and test, so that no speaker (or other group) is in two of
    /// them.
    #[command(after_help = "Example:
  maqam data split all.jsonl --out split --stratify task,label")]
    Split(split::Arguments),
    /// Divide recordings into their stretches of speech, or trim them, by voice activity.
    #[command(after_help = "Example:
  maqam data segment programmes.jsonl --out segments.jsonl")]
    Segment(segment::Arguments),
    /// Describe manifests: hours, speakers, labels, lengths, estimated cost.
    #[command(after_help = "Example:
  maqam data stats train.jsonl dev.jsonl --html stats.html")]
    Stats(stats::Arguments),
}

pub fn run(command: &Command, stop: &Stop) -> Result<()> {
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
