//! A model on the rows of a manifest: a line of output for each row that can be used.

pub mod generate;
pub mod score;

use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::featurise::bad_rows::BadRows;
use crate::files;

/// Rows whose features are in memory at a time.
const READ_AHEAD: usize = 64;

/// Lines of an output file, and the rows that gave none.
pub struct Output<'a> {
    data: &'a Path,
    out: &'a Path,
    num_rows: usize,
    lines: Vec<String>,
    bad: BadRows,
}

impl<'a> Output<'a> {
    /// An output file without lines, of the rows of the file `data`.
    pub fn new(data: &'a Path, out: &'a Path, num_rows: usize) -> Self {
        Self {
            data,
            out,
            num_rows,
            lines: Vec::with_capacity(num_rows),
            bad: BadRows::default(),
        }
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn add(&mut self, line: &impl Serialize) -> Result<()> {
        self.lines
            .push(serde_json::to_string(line).map_err(Error::bug_from)?);
        Ok(())
    }

    /// Writes the file. Where the work ended before all rows, the file holds those that are done.
    ///
    /// # Errors
    /// What ended the work, with where the lines are; rows that cannot be used; the disk's.
    pub fn finish(self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = outcome {
            return Err(self.ended_early(error));
        }
        if self.bad.leaves_some(self.num_rows) {
            self.write()?;
        }
        self.bad.finish(self.num_rows, self.data, self.out)
    }

    /// Writes the lines that are done, and returns what ended the work, with where they are.
    fn ended_early(&self, error: Error) -> Error {
        // An error of the disk on top of the first would hide what ended the command.
        if self.lines.is_empty() || self.write().is_err() {
            return error;
        }
        let out = self.out.display();
        let holds = format!("holds {} of {} rows", self.lines.len(), self.num_rows);
        match error.kind {
            Kind::Interrupted => Error::interrupted(format!("stopped; {out} {holds}")),
            _ => error.and_hint(format!("go on with {out}, which {holds}")),
        }
    }

    fn write(&self) -> Result<()> {
        files::write_atomic(self.out, (self.lines.join("\n") + "\n").as_bytes())
    }
}
