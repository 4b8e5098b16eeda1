//! `--data`: rows to work on.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::print;
use crate::data::Columns;
use crate::data::Format;
use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::Source;
use crate::error::Result;

/// Rows to work on.
#[derive(Args, Clone)]
pub struct DataArguments {
    /// Manifest of any format that is read, a folder, or a pattern; rows with `messages` are used
    /// as written.
    #[arg(long)]
    pub data: PathBuf,
    #[command(flatten)]
    pub about: AboutData,
}

/// How a manifest is read.
#[derive(Args, Clone)]
pub struct AboutData {
    /// Where relative audio paths start; by default the manifest's folder.
    #[arg(long)]
    pub audio_root: Option<PathBuf>,
    /// Format of the manifest, such as csv, lhotse or kaldi; by default the files tell it.
    #[arg(long)]
    pub format: Option<Format>,
    /// The file's own names for fields of its rows: FIELD=COLUMN, as in text=sentence; several by
    /// commas or repeated.
    #[arg(long, value_name = "FIELD=COLUMN")]
    pub columns: Vec<Columns>,
}

impl AboutData {
    /// A manifest that is read so.
    pub fn source(&self, path: &Path) -> Result<Source> {
        let pairs = self.columns.iter().flat_map(Columns::pairs);
        let pairs = pairs.map(|(field, column)| (field.to_owned(), column.to_owned()));
        Ok(Source {
            path: path.to_owned(),
            audio_root: self.audio_root.clone(),
            format: self.format,
            columns: Columns::new(pairs)?,
        })
    }

    /// Reads a manifest; every bad row is an error, and what the user should know is printed.
    pub fn read(&self, path: &Path) -> Result<Manifest> {
        let manifest = self.source(path)?.read(OnBadRow::Error)?;
        for note in &manifest.notes {
            print::message(format_args!("note: {note}"));
        }
        Ok(manifest)
    }
}

impl DataArguments {
    pub fn rows(&self) -> Result<Vec<Row>> {
        Ok(self.about.read(&self.data)?.rows)
    }
}
