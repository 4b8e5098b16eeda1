//! Levels of a recording, frame by frame: shares of silent, clipped and active frames.

use crate::pcm16::Sample;

/// Seconds of a frame.
const FRAME_S: f64 = 0.01;
/// Level below which a frame is silent, in dB of full scale.
const SILENT_DB: f64 = -60.0;
/// Level that a frame needs at least to count as active, in dB of full scale.
const LEAST_ACTIVE_DB: f64 = -50.0;
/// Largest distance of an active frame from the loud frames of its recording, in dB.
const ACTIVE_RANGE_DB: f64 = 30.0;
/// Share of a recording's frames that are softer than its loud ones.
const LOUD_QUANTILE: f64 = 0.95;
/// Size from which a sample counts as clipped.
const CLIPPED: f32 = 0.999;

/// Levels of one recording.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Levels {
    /// Size of the largest sample, of full scale.
    pub peak: f64,
    /// Share of samples at full scale.
    pub clipped: f64,
    /// Share of frames below -60 dB of full scale.
    pub silent: f64,
    /// Share of frames within 30 dB of the loud ones and above -50 dB of full scale.
    pub active: f64,
    /// Longest stretch without an active frame, in seconds.
    pub longest_pause_s: f64,
}

/// Measures mono samples.
///
/// # Shapes
/// `[num_samples]`, in `-1..=1`
pub fn levels(samples: &[f32], rate: u32) -> Levels {
    levels_of(samples, rate)
}

/// Measures mono samples of 16 bits, as [`levels`] does.
pub fn levels_16(samples: &[i16], rate: u32) -> Levels {
    levels_of(samples, rate)
}

fn levels_of<S: Sample>(samples: &[S], rate: u32) -> Levels {
    let frame = (FRAME_S * f64::from(rate)).round().max(1.0) as usize;
    let mut totals = Totals::default();
    let frames: Vec<f64> = samples
        .chunks(frame)
        .map(|frame| totals.add(frame) / frame.len() as f32)
        .map(|mean_square| 10.0 * f64::from(mean_square.max(1e-12)).log10())
        .collect();
    if frames.is_empty() {
        return Levels::default();
    }
    let mut ordered = frames.clone();
    let place = ((ordered.len() - 1) as f64 * LOUD_QUANTILE) as usize;
    let loud = *ordered.select_nth_unstable_by(place, f64::total_cmp).1;
    let threshold = (loud - ACTIVE_RANGE_DB).max(LEAST_ACTIVE_DB);
    let mut pause = 0usize;
    let mut longest = 0usize;
    for level in &frames {
        pause = if *level < threshold { pause + 1 } else { 0 };
        longest = longest.max(pause);
    }
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let count = |is: &dyn Fn(f64) -> bool| frames.iter().filter(|level| is(**level)).count();
    Levels {
        peak: totals.peak.into(),
        clipped: share(totals.num_clipped, samples.len()),
        silent: share(count(&|level| level < SILENT_DB), frames.len()),
        active: share(count(&|level| level >= threshold), frames.len()),
        longest_pause_s: longest as f64 * FRAME_S,
    }
}

/// Samples that one loop iteration computes side by side.
const LANES: usize = 8;

/// Sums over all frames.
#[derive(Default)]
struct Totals {
    peak: f32,
    num_clipped: usize,
}

impl Totals {
    /// Adds a frame, and returns the sum of its squares. Lanes let the compiler use vectors.
    fn add<S: Sample>(&mut self, frame: &[S]) -> f32 {
        let mut squares = [0f32; LANES];
        let mut peaks = [0f32; LANES];
        let mut clipped = [0u32; LANES];
        let mut look = |lane: usize, x: f32| {
            squares[lane] += x * x;
            let size = x.abs();
            peaks[lane] = if size > peaks[lane] {
                size
            } else {
                peaks[lane]
            };
            clipped[lane] += u32::from(size >= CLIPPED);
        };
        let chunks = frame.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            (0..LANES).for_each(|lane| look(lane, chunk[lane].part()));
        }
        for (lane, sample) in rest.iter().enumerate() {
            look(lane, sample.part());
        }
        self.peak = peaks.into_iter().fold(self.peak, f32::max);
        self.num_clipped += clipped.into_iter().sum::<u32>() as usize;
        squares.into_iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(seconds: f64, size: f32) -> Vec<f32> {
        (0..(seconds * 16_000.0) as usize)
            .map(|i| size * (i as f32 * 0.3).sin())
            .collect()
    }

    #[test]
    fn levels_find_silence_noise_and_speech() {
        // Two seconds of tone, one of silence, one of faint noise 40 dB below: active for half of
        // the time.
        let samples = [tone(2.0, 0.5), vec![0.0; 16_000], tone(1.0, 0.005)].concat();
        let found = levels(&samples, 16_000);
        assert!((found.silent - 0.25).abs() < 0.01, "{found:?}");
        assert!((found.active - 0.5).abs() < 0.01, "{found:?}");
        assert!((found.longest_pause_s - 2.0).abs() < 0.02, "{found:?}");
        assert!((found.peak - 0.5).abs() < 1e-3 && found.clipped == 0.0);
    }

    #[test]
    fn samples_of_16_bits_have_the_same_levels() {
        let values: Vec<i16> = (0..50_007)
            .map(|i| ((i as f32 * 0.3).sin() * (i % 9_000) as f32 * 4.0) as i16)
            .collect();
        let samples: Vec<f32> = values.iter().map(|v| f32::from(*v) / 32_768.0).collect();
        assert!(levels(&samples, 16_000).peak > 0.9);
        assert_eq!(levels_16(&values, 16_000), levels(&samples, 16_000));
    }

    #[test]
    fn clipping_and_silence_are_found() {
        let loud: Vec<f32> = tone(1.0, 3.0).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        // |3 sin x| is above 1 but for 2 asin(1/3) / pi of the time.
        let expected = 1.0 - 2.0 * (1f64 / 3.0).asin() / std::f64::consts::PI;
        assert!((levels(&loud, 16_000).clipped - expected).abs() < 0.01);
        let nothing = levels(&[0.0; 8000], 16_000);
        assert_eq!((nothing.silent, nothing.active), (1.0, 0.0));
        assert_eq!(levels(&[], 16_000), Levels::default());
    }
}
