//! A file of tensors by the ids of rows, and the rows that gave none.

use std::path::Path;

use candle_core::Tensor;

use crate::data::Clip;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::bad_rows::BadRows;
use crate::files;

/// Rows whose features are in memory at a time.
pub const READ_AHEAD: usize = 16;

/// Tensors by the ids of rows.
pub struct NamedTensors<'a> {
    data: &'a Path,
    out: &'a Path,
    num_rows: usize,
    named: Vec<(String, Tensor)>,
    bad: BadRows,
}

impl<'a> NamedTensors<'a> {
    /// A file without tensors, of the rows of the manifest `data`.
    pub fn new(data: &'a Path, out: &'a Path, num_rows: usize) -> Self {
        Self {
            data,
            out,
            num_rows,
            named: Vec::with_capacity(num_rows),
            bad: BadRows::default(),
        }
    }

    /// The manifest.
    pub fn data(&self) -> &'a Path {
        self.data
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Returns whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Adds a tensor.
    pub fn add(&mut self, name: String, tensor: Tensor) {
        self.named.push((name, tensor));
    }

    /// As [`BadRows::check`].
    ///
    /// # Errors
    /// What is no fault of the row.
    pub fn check<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        self.bad.check(found)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Rows that cannot be used, once the others are written; the disk's.
    pub fn finish(self) -> Result<()> {
        if self.bad.leaves_some(self.num_rows) {
            files::write_safetensors(self.out, self.named)?;
        }
        self.bad.finish(self.num_rows, self.data, self.out)
    }
}

/// The clips of a row.
///
/// # Errors
/// A row without audio.
pub fn clips(row: &Row) -> Result<&[Clip]> {
    if row.clips.is_empty() {
        return Err(Error::input(format!("row `{}` has no audio", row.id)));
    }
    Ok(&row.clips)
}
