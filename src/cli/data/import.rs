//! `maqam data import`.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::cli::print;
use crate::data::OnBadRow;
use crate::data::read_manifest;
use crate::error::Result;
use crate::files;

#[derive(Args)]
pub struct Arguments {
    /// Files to read.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Manifest to write: OUT.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Where relative audio paths start; by default each source's folder.
    #[arg(long)]
    audio_root: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    let folder = arguments.out.parent().unwrap_or(Path::new(""));
    let mut lines = Vec::new();
    let mut num_rows = 0;
    for source in &arguments.sources {
        let manifest = read_manifest(source, arguments.audio_root.as_deref(), OnBadRow::Error)?;
        for note in &manifest.notes {
            print::message(format_args!("note: {note}"));
        }
        num_rows += manifest.rows.len();
        for row in &manifest.rows {
            let fields = row
                .to_json(|clip| clip.source.to_json(folder))
                .map_err(|e| e.at(row.place(source)))?;
            lines.extend(Value::Object(fields).to_string().into_bytes());
            lines.push(b'\n');
        }
    }
    files::write_atomic_with(&arguments.out, |file| file.write_all(&lines))?;
    print::line(format_args!(
        "{num_rows} rows in {}",
        arguments.out.display()
    ))
}
