//! `maqam schema`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::kind::KindName;
use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::schema::SchemaKind;

#[derive(Args)]
pub struct Arguments {
    /// Kind of file.
    #[arg(value_enum)]
    kind: KindName,
    /// Write the schema to this file instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let schema = SchemaKind::from(arguments.kind).schema()?;
    let text = serde_json::to_string_pretty(&schema).map_err(Error::bug_from)?;
    match &arguments.out {
        Some(path) => files::write_atomic(path, format!("{text}\n").as_bytes()),
        None => print::line(text),
    }
}
