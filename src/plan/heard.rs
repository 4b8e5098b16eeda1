//! What the rows of two sides are heard from, so that equal audio is found: contents are hashed only where files are equally long.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;

use crate::data::AudioSource;
use crate::data::Clip;
use crate::data::Row;
use crate::files;
use crate::plan::leakage::Heard;

/// Hashes of audio, by file.
pub struct Contents<'a> {
    sizes: HashSet<u64>,
    hashes: HashMap<&'a Path, [u8; 32]>,
}

impl<'a> Contents<'a> {
    /// Hashes the files of either side whose length a file of the other has too: no other can be equal. A file that cannot be read is
    /// left out; who hears it says so.
    pub fn of(training: &'a [&'a Row], evaluation: &'a [&'a Row]) -> Self {
        let sides = [training, evaluation].map(|rows| {
            let paths: BTreeSet<&Path> = rows
                .iter()
                .flat_map(|row| &row.clips)
                .filter_map(path)
                .collect();
            paths
                .into_par_iter()
                .filter_map(|path| Some((path, path.metadata().ok()?.len())))
                .collect::<Vec<_>>()
        });
        let [training_sizes, evaluation_sizes] = [(&sides[0], training), (&sides[1], evaluation)]
            .map(|(files, rows)| {
                let embedded = rows
                    .iter()
                    .flat_map(|row| &row.clips)
                    .filter_map(embedded_len);
                files
                    .iter()
                    .map(|(_, size)| *size)
                    .chain(embedded)
                    .collect::<HashSet<u64>>()
            });
        let sizes: HashSet<u64> = training_sizes
            .intersection(&evaluation_sizes)
            .copied()
            .collect();
        let wanted: BTreeSet<&Path> = sides
            .iter()
            .flatten()
            .filter(|(_, size)| sizes.contains(size))
            .map(|(path, _)| *path)
            .collect();
        let hash = |path: &'a Path| {
            Some((
                path,
                *blake3::Hash::from_hex(files::hash(path).ok()?)
                    .ok()?
                    .as_bytes(),
            ))
        };
        Self {
            hashes: wanted.into_par_iter().filter_map(hash).collect(),
            sizes,
        }
    }

    /// What is heard in a row, as far as another row can hear it too.
    pub fn heard(&self, row: &Row) -> Vec<Heard> {
        let content = |clip: &Clip| match &clip.source {
            AudioSource::File(path) => self.hashes.get(&**path).copied(),
            AudioSource::Embedded { bytes, .. } => self
                .sizes
                .contains(&(bytes.len() as u64))
                .then(|| *blake3::hash(bytes).as_bytes()),
        };
        let heard = |clip: &Clip| {
            let (start_s, end_s) = (
                clip.span.start_s.unwrap_or(0.0),
                clip.span.end_s.unwrap_or(f64::INFINITY),
            );
            content(clip).map(|content| Heard {
                content,
                start_s,
                end_s,
            })
        };
        row.clips.iter().filter_map(heard).collect()
    }
}

fn path(clip: &Clip) -> Option<&Path> {
    match &clip.source {
        AudioSource::File(path) => Some(path),
        AudioSource::Embedded { .. } => None,
    }
}

fn embedded_len(clip: &Clip) -> Option<u64> {
    match &clip.source {
        AudioSource::File(_) => None,
        AudioSource::Embedded { bytes, .. } => Some(bytes.len() as u64),
    }
}
