//! `maqam data import`.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::data::AboutData;
use crate::cli::print;
use crate::data::text_import;
use crate::data::write_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::text_table::counted;

#[derive(Args)]
pub struct Arguments {
    /// What to read: files of any format, folders, patterns, lists of shards.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Manifest to write: OUT.jsonl names the audio where it is, OUT.parquet holds it.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    about: AboutData,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    files::expect_writable(&arguments.out)?;
    if let [source] = arguments.sources.as_slice()
        && let Some(imported) =
            text_import::import(&arguments.about.source(source)?, &arguments.out)?
    {
        for note in &imported.notes {
            print::message(format_args!("note: {note}"));
        }
        return report(imported.num_rows, &arguments.out);
    }
    let mut rows = Vec::new();
    for source in &arguments.sources {
        let manifest = arguments.about.read(source)?;
        rows.extend(manifest.rows);
    }
    let mut ids: Vec<&str> = match arguments.sources.len() {
        // The ids of one source are unique.
        1 => Vec::new(),
        _ => rows.iter().map(|row| &*row.id).collect(),
    };
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(
            Error::input(format!("the id `{}` stands in two of the sources", pair[0])).hint(
                "import them one by one, or name their files as one pattern: {a.jsonl,b.jsonl}",
            ),
        );
    }
    write_manifest(&rows, &arguments.out)?;
    report(rows.len(), &arguments.out)
}

fn report(num_rows: usize, out: &Path) -> Result<()> {
    print::line(format_args!(
        "{} in {}",
        counted(num_rows as u64, "row"),
        out.display()
    ))
}
