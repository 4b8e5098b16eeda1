//! Recordings of a manifest divided into their stretches of speech.

use std::path::Path;

use rayon::prelude::*;

use crate::Note;
use crate::Row;
use crate::copied::copied_row;
use crate::copied::folder_of;
use crate::manifests::Manifests;
use crate::manifests::Watcher;
use crate::segment::Segmented;
use crate::segment::segment;
use maqam_audio::vad::Speech;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::stop::Stop;

/// Rows whose audio is examined together.
const CHUNK: usize = 64;

/// Counts of what became of rows.
#[derive(Default)]
pub struct Counts {
    /// Rows of the recordings.
    pub read: u64,
    /// Rows that were written.
    pub written: u64,
    /// Recordings without speech, which are left out.
    pub without_speech: u64,
    /// Rows with no clip or several, which stay as they are.
    pub untouched: u64,
    /// What the user should know of the manifest.
    pub notes: Vec<Note>,
}

/// Writes a manifest of the stretches of speech.
///
/// # Errors
/// A row or its audio that cannot be read; the disk's; the user asked to stop.
pub fn segment_manifests(
    manifests: &Manifests,
    speech: &Speech,
    is_trimmed: bool,
    out: &Path,
    stop: &Stop,
    watcher: &mut dyn Watcher,
) -> Result<Counts> {
    let mut writing = Writing {
        speech,
        is_trimmed,
        folder: folder_of(out),
        draft: Draft::new(out)?,
        counts: Counts::default(),
        chunk: Vec::with_capacity(CHUNK),
    };
    let mut notes = Vec::new();
    for manifest in &manifests.paths {
        watcher.begin(manifest);
        let found = manifests.source(manifest).stream(&mut |streamed| {
            let place = format!("{}:{}", streamed.file.display(), streamed.line);
            let row = streamed.row.map_err(|bad| {
                bad.error.at(&place).and_hint(
                    "leave such rows out first: `maqam data check MANIFEST --fix drop --out FILE`",
                )
            })?;
            writing.chunk.push((place, row));
            if writing.chunk.len() == CHUNK {
                stop.check_unwritten()?;
                writing.flush()?;
                watcher.rows(writing.counts.read);
            }
            Ok(())
        })?;
        for note in found {
            note.add_to(&mut notes);
        }
        stop.check_unwritten()?;
        writing.flush()?;
        watcher.rows(writing.counts.read);
        watcher.end(Vec::new());
    }
    writing.draft.commit()?;
    Ok(Counts {
        notes,
        ..writing.counts
    })
}

/// The new manifest while it is written.
struct Writing<'a> {
    speech: &'a Speech,
    is_trimmed: bool,
    folder: &'a Path,
    draft: Draft,
    counts: Counts,
    /// Rows with their places that are examined next.
    chunk: Vec<(String, Row)>,
}

impl Writing<'_> {
    /// Examines the rows of the chunk and writes what they become.
    fn flush(&mut self) -> Result<()> {
        let found: Vec<Result<Segmented>> = self
            .chunk
            .par_iter()
            .map(|(place, row)| segment(row, self.speech, self.is_trimmed).map_err(|e| e.at(place)))
            .collect();
        for ((_, row), found) in self.chunk.drain(..).zip(found) {
            self.counts.read += 1;
            let rows = match found? {
                Segmented::Rows(rows) => rows,
                Segmented::NoSpeech => {
                    self.counts.without_speech += 1;
                    continue;
                }
                Segmented::Untouched => {
                    self.counts.untouched += 1;
                    vec![row]
                }
            };
            self.counts.written += rows.len() as u64;
            for row in &rows {
                self.draft.append(&copied_row(row, self.folder)?)?;
            }
        }
        Ok(())
    }
}
