//! JSON files of checkpoints and adapters.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::sniff;

/// Reads a JSON file of a checkpoint or an adapter.
///
/// # Errors
/// A file that cannot be read, a pipe or a device; one that is something else, by its name: a web
/// page, a Git LFS pointer.
pub fn read_json(path: &Path) -> Result<Value> {
    expect_file(path)?;
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head))
        .map_err(|e| Error::io(path, "read", e))?;

    if let Some(foreign) = sniff::foreign_file(&head) {
        return Err(Error::input(format!("{} in place of JSON", foreign.what))
            .at_path(path)
            .hint(foreign.hint));
    }

    let text = files::read_text(path)?;
    serde_json::from_str(&text).map_err(|e| {
        let constant = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|constant| {
                text.lines()
                    .nth(e.line().saturating_sub(1))
                    .is_some_and(|line| line.contains(constant))
            });
        let found = match constant {
            Some(constant) => Error::input(format!(
                "line {} holds {constant}, which JSON does not have",
                e.line()
            ))
            .hint("write a number or null in its place"),
            None => Error::input(format!("not JSON: {e}")).hint(
                "compare the file with the original; an interrupted download leaves it short",
            ),
        };
        found.at_path(path).caused_by(e)
    })
}

/// Refuses a pipe, a socket or a device, which may have no end or never begin; a folder is left to
/// the reader.
///
/// # Errors
/// A pipe, a socket or a device; the system's.
pub(super) fn expect_file(path: &Path) -> Result<()> {
    let metadata = path.metadata().map_err(|e| Error::io(path, "read", e))?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok(());
    }
    Err(
        Error::input("a pipe, socket or device where a file was expected")
            .at_path(path)
            .hint("put the file itself into the folder"),
    )
}
