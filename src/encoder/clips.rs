//! The clips of manifests, each of them one example.

use std::path::PathBuf;

use crate::audio::SAMPLE_RATE;
use crate::data::Clip;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::headers::Headers;
use crate::data::lengths::clip_lengths;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::samples_of;
use crate::models::hubert::config::Config;
use crate::train::corpus::EntrySettings;

/// One clip with what its row says.
#[derive(Clone, Debug)]
pub struct Item {
    /// The audio.
    pub clip: Clip,
    /// Length in samples at 16 kHz.
    pub samples: usize,
    /// The row.
    pub row: Row,
    /// The manifest.
    pub manifest: PathBuf,
}

impl Item {
    /// Place of the clip in its manifest, for messages.
    pub fn place(&self) -> String {
        self.row.place(&self.manifest)
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / f64::from(SAMPLE_RATE)
    }

    /// Samples as an encoder of this configuration wants them.
    ///
    /// # Errors
    /// Audio that cannot be read, with the row's place.
    pub fn prepared(&self, config: &Config) -> Result<Vec<f32>> {
        let mut samples = samples_of(&self.clip).map_err(|e| e.at(self.place()))?;
        config.prepare(&mut samples);
        Ok(samples)
    }
}

/// All clips of some manifests that have at least one frame.
///
/// # Errors
/// Rows that cannot be used, clips too short for a frame, manifests without audio.
pub fn read(entries: &[EntrySettings], config: &Config) -> Result<Vec<Item>> {
    let headers = Headers::default();

    let mut items = Vec::new();
    for entry in entries {
        let manifest = read_manifest(
            &entry.manifest,
            entry.audio_root.as_deref(),
            OnBadRow::Error,
        )?;
        for row in manifest.rows {
            let place = row.place(&entry.manifest);
            let lengths = clip_lengths(&row, None, &headers).map_err(|e| e.at(&place))?;
            for (clip, samples) in row.clips.clone().into_iter().zip(lengths) {
                if config.num_frames(samples) == 0 {
                    return Err(Error::input(format!(
                        "{samples} samples are too short for one frame of this encoder"
                    ))
                    .at(&place)
                    .hint("remove the row"));
                }
                items.push(Item {
                    clip,
                    samples,
                    row: row.clone(),
                    manifest: entry.manifest.clone(),
                });
            }
        }
    }

    if items.is_empty() {
        return Err(
            Error::input("no row has audio").hint("name a manifest whose rows have `audio`")
        );
    }

    Ok(items)
}
