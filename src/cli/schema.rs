//! `maqam schema`, `maqam new` and `maqam completions`: help for editors, first files and shells.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::schema::Kind;

#[derive(Args)]
pub struct SchemaArguments {
    /// Kind of file.
    #[arg(value_enum)]
    kind: KindName,
    /// Write the schema to this file instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub struct NewArguments {
    /// Kind of file.
    #[arg(value_enum)]
    kind: KindName,
    /// File to write; it must not exist. Without it the text is printed.
    file: Option<PathBuf>,
}

#[derive(Args)]
pub struct CompletionsArguments {
    /// Shell to complete in.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// A training run.
    Recipe,
    /// The sets that a model is evaluated on.
    Suite,
    /// What is asked of a model.
    Task,
    /// Recipes times seeds.
    Experiment,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Recipe => Self::Recipe,
            KindName::Suite => Self::Suite,
            KindName::Task => Self::Task,
            KindName::Experiment => Self::Experiment,
        }
    }
}

/// Prints a schema or writes it to a file.
pub fn schema(arguments: &SchemaArguments) -> Result<()> {
    let schema = Kind::from(arguments.kind).schema()?;
    let text = serde_json::to_string_pretty(&schema).map_err(Error::bug_from)?;
    match &arguments.out {
        Some(path) => files::write_atomic(path, format!("{text}\n").as_bytes()),
        None => print::line(text),
    }
}

/// Prints a first file or writes it.
///
/// # Errors
/// A file that exists.
pub fn new(arguments: &NewArguments) -> Result<()> {
    let kind = Kind::from(arguments.kind);
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

/// Prints a completion script.
pub fn completions(arguments: &CompletionsArguments, mut program: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "maqam", &mut script);
    print::result(String::from_utf8(script).map_err(Error::bug_from)?)
}
