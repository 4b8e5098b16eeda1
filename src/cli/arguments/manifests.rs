//! `--audio-root`, `--format` and `--columns`: how manifests are read.

use std::path::PathBuf;

use clap::Args;

use crate::data::Columns;
use crate::data::Format;
use crate::data::manifests::Manifests;
use crate::error::Error;
use crate::error::Result;

/// How manifests are read.
#[derive(Args, Clone)]
pub struct SourceArguments {
    /// Where relative audio paths start; by default each manifest's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
    /// Format of the manifests; by default the files tell it.
    #[arg(long)]
    format: Option<Format>,
    /// Foreign names of columns, such as `text=sentence`; may be repeated.
    #[arg(long, value_name = "FIELD=COLUMN")]
    columns: Vec<String>,
}

impl SourceArguments {
    /// Manifests that are read so.
    ///
    /// # Errors
    /// Columns that are not named as pairs.
    pub fn manifests(&self, paths: &[PathBuf]) -> Result<Manifests> {
        let columns = match self.columns.is_empty() {
            true => Columns::default(),
            false => self
                .columns
                .join(",")
                .parse()
                .map_err(|e: Error| e.at("--columns"))?,
        };
        Ok(Manifests {
            paths: paths.to_vec(),
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns,
            is_plain: self.columns.is_empty()
                && self.format.is_none_or(|format| format == Format::Jsonl),
        })
    }
}
