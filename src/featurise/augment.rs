//! `augment:` of a recipe: what is done to the clips of a training example, drawn anew in each
//! epoch.
//!
//! A draw is a function of (seed, epoch, row, clip), so that a resumed run and `maqam plan` know
//! it. Embeddings and evaluations use the clips as they are.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::audio::LogMel;
use crate::audio::augment;
use crate::audio::augment::Masks;
use crate::audio::augment::SPEEDS;
use crate::audio::num_audio_tokens;
use crate::audio::num_frames;
use crate::data::Clip;
use crate::data::Source;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::rows::RowCheck;
use crate::seed::Key;

/// Largest gain and ratio of speech to noise, in dB.
const MOST_DB: f64 = 60.0;

/// `augment:` of a recipe. Everything is off by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Factors of speed, of which each clip gets one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speed: Vec<f64>,
    /// Noise added to clips.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// Lowest and highest gain, in dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain_db: Option<[f64; 2]>,
    /// Masks of the log-mel spectrogram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_augment: Option<SpecAugment>,
}

/// `augment.noise`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Lowest and highest ratio of speech to noise, in dB.
    pub snr_db: [f64; 2],
    /// Share of the clips that get noise.
    #[serde(default = "all")]
    pub share: f64,
    /// Recordings of noise; white noise without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PathBuf>,
}

fn all() -> f64 {
    1.0
}

/// `augment.spec_augment`. The defaults are the widths of the policy LD of Park et al. 2019, with
/// the shorter masks of its policy SM for clips of a few seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpecAugment {
    /// Masks along time.
    pub time_masks: usize,
    /// Most frames of a mask along time, 10 ms each.
    pub time_frames: usize,
    /// Largest share of a clip under one mask along time.
    pub time_share: f64,
    /// Masks along frequency.
    pub mel_masks: usize,
    /// Most mel bands of a mask along frequency.
    pub mel_bands: usize,
}

impl Default for SpecAugment {
    fn default() -> Self {
        Self {
            time_masks: 2,
            time_frames: 100,
            time_share: 0.2,
            mel_masks: 2,
            mel_bands: 27,
        }
    }
}

impl SpecAugment {
    fn masks(&self) -> Masks {
        Masks {
            time_masks: self.time_masks,
            time_frames: self.time_frames,
            time_share: self.time_share,
            mel_masks: self.mel_masks,
            mel_bands: self.mel_bands,
        }
    }
}

impl Settings {
    /// Whether clips stay as they are.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// Values outside their range.
    pub fn check(&self) -> Result<()> {
        if let Some(factor) = self.speed.iter().find(|factor| !SPEEDS.contains(factor)) {
            return Err(
                Error::input(format!("`augment.speed` holds {factor}")).hint(format!(
                    "write factors from {} to {}, such as [0.9, 1.0, 1.1]",
                    SPEEDS.start(),
                    SPEEDS.end()
                )),
            );
        }
        if let Some(range) = self.gain_db {
            check_db("augment.gain_db", range)?;
        }
        if let Some(noise) = &self.noise {
            check_db("augment.noise.snr_db", noise.snr_db)?;
            check_share("augment.noise.share", noise.share)?;
        }
        if let Some(masks) = &self.spec_augment {
            check_share("augment.spec_augment.time_share", masks.time_share)?;
        }
        Ok(())
    }
}

fn check_db(key: &str, [low, high]: [f64; 2]) -> Result<()> {
    let is_in_range = |db: f64| db.abs() <= MOST_DB;
    if is_in_range(low) && is_in_range(high) && low <= high {
        return Ok(());
    }
    Err(
        Error::input(format!("`{key}` is [{low}, {high}]")).hint(format!(
            "write the lowest and the highest value, from -{MOST_DB} to {MOST_DB} dB"
        )),
    )
}

fn check_share(key: &str, share: f64) -> Result<()> {
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    Err(Error::input(format!("`{key}` is {share}")).hint("write a share above 0 and up to 1"))
}

/// The settings of a run with its recordings of noise.
pub struct Augmentation {
    settings: Settings,
    recordings: Vec<Clip>,
    seed: u64,
}

impl Augmentation {
    /// Reads the manifest of noise, if there is one; `None` where nothing is augmented.
    ///
    /// # Errors
    /// A manifest that cannot be read; rows without audio.
    pub fn open(settings: &Settings, check: &mut RowCheck<'_>, seed: u64) -> Result<Option<Self>> {
        if settings.is_off() {
            return Ok(None);
        }
        let manifest = settings
            .noise
            .as_ref()
            .and_then(|noise| noise.manifest.as_ref());
        let mut recordings = Vec::new();
        if let Some(manifest) = manifest {
            let rows = check
                .read("augment.noise", &Source::new(manifest), usize::MAX)?
                .rows;
            for row in rows {
                let place = row.place(manifest);
                let clip = row.clips.into_iter().next();
                recordings.push(
                    clip.ok_or_else(|| Error::input("a row of noise without audio").at(place))?,
                );
            }
            if recordings.is_empty() {
                return Err(Error::input("no recording of noise can be used").at_path(manifest));
            }
        }
        Ok(Some(Self {
            settings: settings.clone(),
            recordings,
            seed,
        }))
    }

    /// What is done to the clips of a row in an epoch.
    pub fn draw(&self, row: u32, epoch: u32) -> ExampleAugmentation<'_> {
        let key = Key::new(self.seed, "augment")
            .with(u64::from(epoch))
            .with(u64::from(row));
        ExampleAugmentation {
            augmentation: self,
            key,
        }
    }
}

/// What is done to the clips of one example.
#[derive(Clone, Copy)]
pub struct ExampleAugmentation<'a> {
    augmentation: &'a Augmentation,
    key: Key,
}

impl ExampleAugmentation<'_> {
    fn key(&self, clip: usize, purpose: &str) -> Key {
        self.key.with(clip as u64).with_name(purpose)
    }

    /// Speed of a clip of so many samples; 1 where it would be too short for an audio token.
    fn speed(&self, clip: usize, num_samples: usize) -> f64 {
        let factors = &self.augmentation.settings.speed;
        if factors.is_empty() {
            return 1.0;
        }
        let factor = factors[self.key(clip, "speed").below(0, factors.len())];
        let left = augment::num_at_speed(num_samples, factor);
        if num_audio_tokens(num_frames(left)) == 0 {
            1.0
        } else {
            factor
        }
    }

    /// Number of samples of the augmented clip.
    pub fn num_samples(&self, clip: usize, num_samples: usize) -> usize {
        augment::num_at_speed(num_samples, self.speed(clip, num_samples))
    }

    /// The samples of the example's clip number `clip` at another speed, with noise, at another
    /// gain.
    ///
    /// # Errors
    /// A recording of noise that cannot be read.
    pub fn samples(&self, clip: usize, samples: Vec<f32>) -> Result<Vec<f32>> {
        let factor = self.speed(clip, samples.len());
        let mut samples = augment::at_speed(samples, factor)?;

        let settings = &self.augmentation.settings;
        if let Some(noise) = &settings.noise {
            let key = self.key(clip, "noise");
            if key.uniform(0) < noise.share {
                let added = self.noise(samples.len(), key)?;
                augment::add_noise(&mut samples, &added, between(noise.snr_db, key.uniform(1)));
            }
        }

        if let Some(range) = settings.gain_db {
            let key = self.key(clip, "gain");
            augment::amplify(&mut samples, between(range, key.uniform(0)));
        }
        Ok(samples)
    }

    /// White noise, or a recording from a random place on.
    fn noise(&self, len: usize, key: Key) -> Result<Vec<f32>> {
        let recordings = &self.augmentation.recordings;
        if recordings.is_empty() {
            return Ok(augment::white_noise(len, key.with_name("white")));
        }
        let recording = &recordings[key.below(2, recordings.len())];
        let mut noise = recording.source.samples(recording.span)?;
        if !noise.is_empty() {
            let start = key.below(3, noise.len());
            noise.rotate_left(start);
        }
        Ok(noise)
    }

    /// Masks the log-mel spectrogram of the example's clip number `clip`.
    pub fn mask(&self, clip: usize, mel: &mut LogMel) {
        if let Some(masks) = &self.augmentation.settings.spec_augment {
            augment::mask(mel, masks.masks(), self.key(clip, "masks"));
        }
    }
}

/// The value at `share` of the way from the first to the second.
fn between([low, high]: [f64; 2], share: f64) -> f64 {
    low + (high - low) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn augmentation(yaml: &str) -> Augmentation {
        let settings: Settings = crate::yaml::parse(yaml, std::path::Path::new("a.yaml")).unwrap();
        settings.check().unwrap();
        Augmentation {
            settings,
            recordings: Vec::new(),
            seed: 3,
        }
    }

    #[test]
    fn draws_differ_by_row_epoch_and_clip_alone() {
        let augmentation = augmentation(
            "{speed: [0.9, 1.0, 1.1], noise: {snr_db: [5, 20], share: 0.5}, gain_db: [-6, 6]}",
        );
        let clip: Vec<f32> = (0..4000)
            .map(|i| (f64::from(i) * 0.1).sin() as f32)
            .collect();
        let of = |row, epoch, number| {
            let draw = augmentation.draw(row, epoch);
            let found = draw.samples(number, clip.clone()).unwrap();
            assert_eq!(found.len(), draw.num_samples(number, clip.len()));
            found
        };
        assert_eq!(of(7, 1, 0), of(7, 1, 0));
        assert_ne!(of(7, 1, 0), of(8, 1, 0));
        assert_ne!(of(7, 1, 0), of(7, 2, 0));
        assert_ne!(of(7, 1, 0), of(7, 1, 1));
        let lengths: std::collections::BTreeSet<usize> =
            (0..50).map(|row| of(row, 0, 0).len()).collect();
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [3637, 4000, 4445]);
    }

    #[test]
    fn the_shortest_clips_keep_their_speed() {
        let augmentation = augmentation("{speed: [2.0]}");
        assert_eq!(augmentation.draw(0, 0).num_samples(0, 480), 480);
        assert_eq!(augmentation.draw(0, 0).num_samples(0, 4800), 2400);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (yaml, expected) in [
            ("{speed: [0.1]}", "`augment.speed` holds 0.1"),
            ("{gain_db: [6, -6]}", "`augment.gain_db` is [6, -6]"),
            ("{noise: {snr_db: [0, 90]}}", "`augment.noise.snr_db`"),
            (
                "{noise: {snr_db: [0, 9], share: 0}}",
                "`augment.noise.share` is 0",
            ),
            (
                "{spec_augment: {time_share: 2}}",
                "`augment.spec_augment.time_share` is 2",
            ),
        ] {
            let settings: Settings =
                crate::yaml::parse(yaml, std::path::Path::new("a.yaml")).unwrap();
            let error = settings.check().unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("hint: "),
                "{error}"
            );
        }
    }
}
