//! Augmentation: speed, noise and gain of samples, masks of a log-mel spectrogram. Each is a pure
//! function of its input and a [`Key`].

use std::ops::Range;

use crate::LogMel;
use crate::SAMPLE_RATE;
use crate::resample::num_resampled;
use crate::resample::resample;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Speeds that [`at_speed`] takes.
pub const SPEEDS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// A clip played `factor` times as fast. Its pitch moves along, as with `speed` of SoX.
///
/// # Shapes
/// `[n]` -> `[num_at_speed(n, factor)]`
/// # Errors
/// A factor far outside [`SPEEDS`].
/// # Source
/// Ko et al. 2015, Audio augmentation for speech recognition.
pub fn at_speed(samples: Vec<f32>, factor: f64) -> Result<Vec<f32>> {
    resample(samples, rate_of(factor))
}

/// Number of samples that [`at_speed`] makes of `num_samples`.
pub fn num_at_speed(num_samples: usize, factor: f64) -> usize {
    match rate_of(factor) {
        SAMPLE_RATE => num_samples,
        rate => num_resampled(num_samples, rate),
    }
}

/// Rate in Hz at which a faster clip would have been recorded.
fn rate_of(factor: f64) -> u32 {
    (f64::from(SAMPLE_RATE) * factor).round() as u32
}

/// Adds noise so that the clip's power is `snr_db` above that of the noise. Noise that is too short
/// is repeated. A silent clip and silent noise change nothing.
///
/// # Shapes
/// `samples` `[n]`, `noise` `[m]`
pub fn add_noise(samples: &mut [f32], noise: &[f32], snr_db: f64) {
    let used = || noise.iter().cycle().take(samples.len());
    let speech_power = power(samples.iter());
    let noise_power = power(used());
    if speech_power == 0.0 || noise_power == 0.0 {
        return;
    }

    let gain = (speech_power / (noise_power * 10f64.powf(snr_db / 10.0))).sqrt() as f32;
    for (sample, noise) in samples.iter_mut().zip(noise.iter().cycle()) {
        *sample += gain * noise;
    }
}

/// Mean square of some samples; 0 of none.
fn power<'a>(samples: impl Iterator<Item = &'a f32>) -> f64 {
    let mut sum = 0.0;
    let mut count = 0usize;
    for sample in samples {
        sum += f64::from(*sample).powi(2);
        count += 1;
    }
    sum / count.max(1) as f64
}

/// White Gaussian noise of unit power, `[len]`.
pub fn white_noise(len: usize, key: Key) -> Vec<f32> {
    (0..len as u64)
        .map(|i| {
            // Box and Muller; 1 - u is above 0.
            let radius = (-2.0 * (1.0 - key.uniform(2 * i)).ln()).sqrt();
            let angle = std::f64::consts::TAU * key.uniform(2 * i + 1);
            (radius * angle.cos()) as f32
        })
        .collect()
}

/// Multiplies a clip by a gain in dB. Samples may leave the range of -1 to 1; nothing is clipped.
pub fn amplify(samples: &mut [f32], gain_db: f64) {
    let gain = 10f64.powf(gain_db / 20.0) as f32;
    for sample in samples {
        *sample *= gain;
    }
}

/// Number and width of the masks of [`mask`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masks {
    /// Masks along time.
    pub time_masks: usize,
    /// Most frames of a mask along time.
    pub time_frames: usize,
    /// Largest share of a clip's frames under one mask along time.
    pub time_share: f64,
    /// Masks along frequency.
    pub mel_masks: usize,
    /// Most mel bands of a mask along frequency.
    pub mel_bands: usize,
}

/// Replaces stretches of time and bands of frequency by the clip's mean value. Widths are uniform
/// from 0 to their limit.
///
/// # Source
/// Park et al. 2019, SpecAugment; without time warping.
pub fn mask(mel: &mut LogMel, masks: Masks, key: Key) {
    let bands = mel.mels;
    let num_values = mel.frames * bands;
    if num_values == 0 {
        return;
    }
    let sum: f64 = mel.values[..num_values]
        .iter()
        .map(|value| f64::from(*value))
        .sum();
    let mean = (sum / num_values as f64) as f32;

    let longest = ((mel.frames as f64 * masks.time_share) as usize).min(masks.time_frames);
    for i in 0..masks.time_masks {
        let frames = stretch(mel.frames, longest, key.with_name("time").with(i as u64));
        mel.values[frames.start * bands..frames.end * bands].fill(mean);
    }
    for i in 0..masks.mel_masks {
        let widest = masks.mel_bands.min(bands);
        let masked = stretch(bands, widest, key.with_name("mel").with(i as u64));
        for frame in mel.values.chunks_exact_mut(bands) {
            frame[masked.clone()].fill(mean);
        }
    }
}

/// A stretch of `0..len` whose width is uniform in `0..=longest`, at a uniform place.
fn stretch(len: usize, longest: usize, key: Key) -> Range<usize> {
    let width = key.below(0, longest + 1);
    let start = key.below(1, len - width + 1);
    start..start + width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, len: usize) -> Vec<f32> {
        let turn = std::f64::consts::TAU * hertz / f64::from(SAMPLE_RATE);
        (0..len).map(|i| (turn * i as f64).sin() as f32).collect()
    }

    #[test]
    fn a_faster_tone_is_shorter_and_higher() {
        let slow = at_speed(tone(440.0, 16_000), 1.1).unwrap();
        assert_eq!(slow.len(), num_at_speed(16_000, 1.1));
        assert_eq!(slow.len(), 14_546);
        let expected = tone(484.0, slow.len());
        let worst = slow[2000..12_000]
            .iter()
            .zip(&expected[2000..12_000])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-3, "{worst}");
        let same = tone(440.0, 1000);
        assert_eq!(at_speed(same.clone(), 1.0).unwrap(), same);
        assert_eq!(num_at_speed(1000, 1.0), 1000);
    }

    #[test]
    fn noise_has_the_asked_ratio() {
        let clean = tone(300.0, 32_000);
        for snr_db in [-5.0, 0.0, 12.5] {
            let mut noisy = clean.clone();
            add_noise(
                &mut noisy,
                &white_noise(9_000, Key::new(3, "noise")),
                snr_db,
            );
            let noise: Vec<f32> = noisy.iter().zip(&clean).map(|(a, b)| a - b).collect();
            let found = 10.0 * (power(clean.iter()) / power(noise.iter())).log10();
            assert!((found - snr_db).abs() < 1e-3, "{snr_db}: {found}");
        }
        let mut silent = vec![0.0; 100];
        add_noise(&mut silent, &white_noise(100, Key::new(3, "noise")), 0.0);
        assert_eq!(silent, [0.0; 100]);
        add_noise(&mut silent, &[], 0.0);
    }

    #[test]
    fn white_noise_is_normal() {
        let noise = white_noise(100_000, Key::new(1, "noise"));
        let mean = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        let beyond = noise.iter().filter(|x| x.abs() > 1.96).count() as f64 / 1e5;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((power(noise.iter()) - 1.0).abs() < 0.02);
        assert!((beyond - 0.05).abs() < 0.005, "{beyond}");
    }

    #[test]
    fn gain_is_in_decibels() {
        let mut samples = vec![0.5, -0.25];
        amplify(&mut samples, 6.020_6);
        assert!((samples[0] - 1.0).abs() < 1e-4 && (samples[1] + 0.5).abs() < 1e-4);
    }

    #[test]
    fn masks_cover_stretches_with_the_mean() {
        let masks = Masks {
            time_masks: 2,
            time_frames: 10,
            time_share: 0.2,
            mel_masks: 1,
            mel_bands: 4,
        };
        let fresh = || LogMel {
            mels: 16,
            frames: 40,
            tail: 2,
            values: (0..42 * 16).map(|i| i as f32).collect(),
        };
        let mean = (40 * 16 - 1) as f32 / 2.0;
        let mut widths = Vec::new();
        for seed in 0..200 {
            let mut mel = fresh();
            mask(&mut mel, masks, Key::new(seed, "masks"));
            let is_masked =
                |frame: usize, band: usize| (mel.values[frame * 16 + band] - mean).abs() < 1e-3;
            let bands = (0..16)
                .filter(|b| (0..42).all(|t| is_masked(t, *b)))
                .count();
            let frames = (0..40)
                .filter(|t| (0..16).all(|b| is_masked(*t, b)))
                .count();
            assert!(bands <= 4 && frames <= 16, "{bands} bands, {frames} frames");
            assert!((40..42).all(|t| !(0..16).all(|b| is_masked(t, b))));
            widths.push((bands, frames));
            let masked = mel.values.iter().zip(fresh().values);
            assert!(
                masked
                    .clone()
                    .all(|(a, b)| *a == b || (*a - mean).abs() < 1e-3)
            );
        }
        assert!((0..=4).all(|width| widths.iter().any(|(bands, _)| *bands == width)));
        assert!(widths.iter().any(|(_, frames)| *frames > 8));
        let mut empty = LogMel {
            mels: 16,
            frames: 0,
            tail: 0,
            values: Vec::new(),
        };
        mask(&mut empty, masks, Key::new(0, "masks"));
    }
}
