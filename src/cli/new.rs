//! `maqam new`.

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
    /// File to write; it must not exist. Without it the text is printed.
    file: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let kind = SchemaKind::from(arguments.kind);
    let Some(path) = &arguments.file else {
        return print::result(kind.template());
    };
    if path.exists() {
        return Err(Error::input("exists already")
            .at_path(path)
            .hint("name a file that does not exist yet"));
    }
    files::write_atomic(path, kind.template().as_bytes())?;
    print::message(format_args!(
        "written: {}. `maqam schema {} --out {}` puts the schema for editors beside it",
        path.display(),
        kind.name(),
        path.with_file_name(format!("{}.schema.json", kind.name()))
            .display()
    ));
    Ok(())
}
