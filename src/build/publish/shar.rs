//! Lhotse Shar: for each split a folder of cuts and of tar files with their audio, written as
//! `maqam data export` writes them.

use std::path::Path;

use crate::build::assign::SPLITS;
use crate::build::recipe::Recipe;
use crate::data;
use crate::data::Export;
use crate::data::Format;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::read_manifest;
use crate::error::Result;
use crate::files::StagedDir;
use crate::task::Tasks;

/// Writes the rows of a manifest into `folder`, a folder for each split. `num_bytes` is the size of
/// their audio.
///
/// # Errors
/// A manifest or audio that cannot be read; those of the disk.
pub(super) fn write(recipe: &Recipe, manifest: &Path, folder: &Path, num_bytes: u64) -> Result<()> {
    let read = read_manifest(manifest, None, OnBadRow::Error)?;
    let tasks = Tasks::load(None)?;
    let row_bytes = (num_bytes / read.rows.len().max(1) as u64).max(1);
    let shard_rows = ((recipe.publish.shard_mb << 20) / row_bytes).max(1) as usize;
    let staged = StagedDir::new(folder)?;
    for split in SPLITS {
        let is_of_split = |row: &&Row| row.split.as_deref() == Some(split);
        let rows: Vec<Row> = read.rows.iter().filter(is_of_split).cloned().collect();
        if rows.is_empty() {
            continue;
        }
        let export = Export {
            format: Format::LhotseShar,
            out: &staged.path().join(split),
            copy_audio: false,
            tarred: false,
            shard_rows,
            task: None,
            tasks: &tasks,
        };
        data::export(&rows, manifest, &export)?;
    }
    staged.commit()
}
