//! What the rows of two sides are heard from, so that equal audio is found. Files are hashed whole
//! only where their size and some bytes of their middle are those of a file on the other side.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;

use crate::AudioSource;
use crate::Clip;
use crate::Row;
use crate::headers;
use crate::headers::Headers;
use crate::leakage::Heard;
use maqam_base::files;

/// Hashes of audio, by file.
pub struct Contents<'a> {
    prints: HashSet<u64>,
    hashes: HashMap<&'a Path, [u8; 32]>,
}

impl<'a> Contents<'a> {
    /// Hashes the files of either side that may equal a file of the other. A file that cannot be
    /// read is left out: whoever reads it for its samples says so.
    pub fn of(training: &[&'a Row], evaluation: &[&'a Row], known: &Headers) -> Self {
        let sides = [evaluation, training].map(|rows| Side::of(rows, known));
        let prints: HashSet<u64> = sides[0].prints().collect();
        let prints: HashSet<u64> = sides[1]
            .prints()
            .filter(|print| prints.contains(print))
            .collect();
        let wanted: BTreeSet<&Path> = sides
            .iter()
            .flat_map(|side| &side.files)
            .filter(|(_, print)| prints.contains(print))
            .map(|(path, _)| *path)
            .collect();
        let hash = |path: &'a Path| {
            let hash = blake3::Hash::from_hex(files::hash(path).ok()?).ok()?;
            Some((path, *hash.as_bytes()))
        };

        Self {
            hashes: wanted.into_par_iter().filter_map(hash).collect(),
            prints,
        }
    }

    /// What is heard in a row, as far as another row can hear it too.
    pub fn heard(&self, row: &Row) -> Vec<Heard> {
        let mut found = Vec::new();
        for clip in &row.clips {
            if let Some(content) = self.content(clip) {
                found.push(Heard {
                    content,
                    start_s: clip.span.start_s.unwrap_or(0.0),
                    end_s: clip.span.end_s.unwrap_or(f64::INFINITY),
                });
            }
        }
        found
    }

    /// Hash of a clip's file; `None` where no other row can have the same audio, and where the file
    /// cannot be read.
    fn content(&self, clip: &Clip) -> Option<[u8; 32]> {
        match &clip.source {
            AudioSource::File(path) => self.hashes.get(&**path).copied(),
            _ if self.prints.is_empty() => None,
            other => {
                let bytes = other.bytes().ok()?;
                let print = headers::print_of_bytes(&bytes);
                let is_shared = self.prints.contains(&print);
                is_shared.then(|| *blake3::hash(&bytes).as_bytes())
            }
        }
    }
}

/// Prints of all audio on one side: see [`Headers::print`].
struct Side<'a> {
    files: Vec<(&'a Path, u64)>,
    embedded: Vec<u64>,
}

impl<'a> Side<'a> {
    fn of(rows: &[&'a Row], known: &Headers) -> Self {
        let clips = || rows.iter().flat_map(|row| &row.clips);
        let paths: BTreeSet<&Path> = clips()
            .filter_map(|clip| match &clip.source {
                AudioSource::File(path) => Some(&**path),
                AudioSource::Range { .. } | AudioSource::Embedded { .. } => None,
            })
            .collect();
        let embedded = clips()
            .filter_map(|clip| match &clip.source {
                AudioSource::File(_) => None,
                AudioSource::Range { .. } => {
                    let (path, range) = clip.source.file()?;
                    known.print(path, range).ok()
                }
                AudioSource::Embedded { bytes, .. } => Some(headers::print_of_bytes(bytes)),
            })
            .collect();
        Self {
            files: paths
                .into_par_iter()
                .filter_map(|path| Some((path, known.print(path, None).ok()?)))
                .collect(),
            embedded,
        }
    }

    fn prints(&self) -> impl Iterator<Item = u64> + '_ {
        let files = self.files.iter().map(|(_, print)| *print);
        files.chain(self.embedded.iter().copied())
    }
}
