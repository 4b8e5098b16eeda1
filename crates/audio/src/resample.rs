//! Any sampling rate to 16 kHz: band-limited, aligned with the input, nothing lost at either end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rubato::Fft;
use rubato::FixedSync;
use rubato::Indexing;
use rubato::Resampler;
use rubato::audioadapter_buffers::direct::InterleavedSlice;

use crate::SAMPLE_RATE;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Accepted sampling rates, in Hz; a header with another rate is damaged.
pub(super) const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Length of the anti-aliasing filter in periods of the slower rate. A longer filter has its edge
/// nearer to half that rate. At this length it passes 7.8 kHz and stops 8 kHz.
const FILTER_PERIODS: usize = 1024;

thread_local! {
    /// One resampler a rate: planning its transforms takes longer than a short clip.
    static RESAMPLERS: RefCell<HashMap<u32, Fft<f32>>> = RefCell::new(HashMap::new());
}

/// Resamples from `rate` to [`SAMPLE_RATE`], with the first sample at the same instant; returns a
/// clip at that rate unchanged.
///
/// # Shapes
/// `[n]` -> `[ceil(n * SAMPLE_RATE / rate)]`
/// # Errors
/// A rate outside [`RATES`].
pub(super) fn resample(samples: Vec<f32>, rate: u32) -> Result<Vec<f32>> {
    if rate == SAMPLE_RATE || samples.is_empty() {
        return Ok(samples);
    }
    if !RATES.contains(&rate) {
        let found = Error::input(format!("a sampling rate of {rate} Hz"));
        return Err(found.hint(format!(
            "recordings have {} to {} Hz; the header may be broken",
            RATES.start(),
            RATES.end()
        )));
    }
    RESAMPLERS.with_borrow_mut(|cached| {
        let resampler = match cached.entry(rate) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(plan(rate)?),
        };
        let num_wanted = num_resampled(samples.len(), rate);
        resample_whole(resampler, &samples, num_wanted)
    })
}

/// The first `num_wanted` samples of a clip at the new rate, block by block. `Resampler::process_all`
/// gives the same, but first fills all of its output with zeros.
fn resample_whole(
    resampler: &mut Fft<f32>,
    samples: &[f32],
    num_wanted: usize,
) -> Result<Vec<f32>> {
    resampler.reset();
    let input = InterleavedSlice::new(samples, 1, samples.len()).map_err(Error::bug_from)?;
    let mut block = vec![0.0; resampler.output_frames_max()];
    let mut output = Vec::with_capacity(num_wanted);
    let mut delay = resampler.output_delay();
    let mut start = 0;
    while output.len() < num_wanted {
        // Zeros follow the clip.
        let num_read = resampler.input_frames_next().min(samples.len() - start);
        let place = Indexing {
            input_offset: start,
            output_offset: 0,
            active_channels_mask: None,
            partial_len: Some(num_read),
        };
        let block_len = block.len();
        let mut written =
            InterleavedSlice::new_mut(&mut block, 1, block_len).map_err(Error::bug_from)?;
        let (_, num_written) = resampler
            .process_into_buffer(&input, &mut written, Some(&place))
            .map_err(Error::bug_from)?;
        start += num_read;

        let first = delay.min(num_written);
        delay -= first;
        let end = num_written.min(first + num_wanted - output.len());
        output.extend_from_slice(&block[first..end]);
    }
    Ok(output)
}

/// Number of samples that [`resample`] makes of `num_samples` at `rate`.
pub(super) fn num_resampled(num_samples: usize, rate: u32) -> usize {
    (num_samples * SAMPLE_RATE as usize).div_ceil(rate as usize)
}

/// A resampler from `rate` to [`SAMPLE_RATE`].
fn plan(rate: u32) -> Result<Fft<f32>> {
    let from = rate as usize;
    let to = SAMPLE_RATE as usize;
    let smallest_block = from / gcd(from, to);
    let wanted_block = FILTER_PERIODS * from.max(to) / to;
    // The filter is centred on its middle sample and the delay is half a block: both are whole
    // numbers when the block holds the smallest one an even number of times.
    let block = smallest_block * 2 * wanted_block.div_ceil(2 * smallest_block);
    Fft::new(from, to, block, 1, FixedSync::Both).map_err(Error::bug_from)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hertz: f64, rate: u32, num_samples: usize) -> Vec<f32> {
        (0..num_samples)
            .map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32)
            .collect()
    }

    fn rms(samples: &[f32]) -> f64 {
        (samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    const RATES_HEARD: [u32; 10] = [
        8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 16_001,
    ];

    #[test]
    fn a_resampled_tone_equals_the_tone_at_16_khz() {
        for rate in RATES_HEARD {
            let highest = 0.45 * f64::from(rate.min(SAMPLE_RATE));
            for hertz in [100.0, 1000.0, 3000.0f64.min(highest), highest] {
                let out = resample(sine(hertz, rate, rate as usize), rate).unwrap();
                assert_eq!(out.len(), 16_000, "{rate} Hz");
                let expected = sine(hertz, SAMPLE_RATE, 16_000);
                // Away from the ends, where the tone is switched on and off; the difference holds
                // gain, delay and distortion at once.
                let difference: Vec<f32> = out.iter().zip(&expected).map(|(a, b)| a - b).collect();
                let error = rms(&difference[2000..14_000]);
                assert!(error < 2e-4, "{hertz} Hz at {rate} Hz: {error}");
                let gain_db =
                    20.0 * (rms(&out[2000..14_000]) / rms(&expected[2000..14_000])).log10();
                assert!(gain_db.abs() < 0.1, "{hertz} Hz at {rate} Hz: {gain_db} dB");
            }
        }
    }

    #[test]
    fn a_tone_above_8_khz_does_not_come_back_as_another() {
        for rate in [22_050, 24_000, 32_000, 44_100, 48_000, 96_000] {
            for hertz in [8_100.0, 9_000.0, 10_500.0] {
                let out = resample(sine(hertz, rate, rate as usize), rate).unwrap();
                let alias_db = 20.0
                    * (rms(&out[2000..14_000]) / rms(&sine(hertz, rate, rate as usize))).log10();
                assert!(alias_db < -80.0, "{hertz} Hz at {rate} Hz: {alias_db} dB");
            }
        }
    }

    #[test]
    fn blocks_give_what_rubato_gives_for_a_whole_clip() {
        for rate in RATES_HEARD {
            for num_samples in [1, 700, 1764, 3528, 44_099] {
                let clip = sine(440.0, rate, num_samples);
                let input = InterleavedSlice::new(&clip, 1, num_samples).unwrap();
                let mut expected = plan(rate)
                    .unwrap()
                    .process_all(&input, num_samples, None)
                    .unwrap()
                    .take_data();
                expected.truncate(num_resampled(num_samples, rate));
                let found = resample(clip, rate).unwrap();
                assert_eq!(found, expected, "{num_samples} samples at {rate} Hz");
            }
        }
    }

    #[test]
    fn the_length_is_the_same_time() {
        for rate in RATES_HEARD {
            for num_samples in [1usize, 2, 7, 160, 1023, 1024, 5000, 44_099] {
                let out = resample(vec![0.25; num_samples], rate).unwrap();
                assert_eq!(
                    out.len(),
                    (num_samples * 16_000).div_ceil(rate as usize),
                    "{num_samples} samples at {rate} Hz"
                );
            }
        }
    }

    #[test]
    fn a_click_stays_where_it_was_even_at_the_ends() {
        for rate in [8_000, 48_000, 44_100] {
            for place_s in [0.0, 0.01, 0.5, 0.99] {
                let at = (place_s * f64::from(rate)).round() as usize;
                let mut samples = vec![0.0; rate as usize];
                samples[at] = 1.0;
                let out = resample(samples, rate).unwrap();
                let loudest = (0..out.len())
                    .max_by(|&a, &b| out[a].abs().total_cmp(&out[b].abs()))
                    .unwrap();
                assert_eq!(
                    loudest,
                    (at as f64 * 16_000.0 / f64::from(rate)).round() as usize,
                    "a click at {place_s} s, {rate} Hz"
                );
            }
        }
    }

    #[test]
    fn a_clip_does_not_depend_on_the_one_before() {
        let clip = sine(500.0, 44_100, 10_000);
        let alone = std::thread::scope(|scope| {
            scope
                .spawn(|| resample(clip.clone(), 44_100).unwrap())
                .join()
                .unwrap()
        });
        resample(vec![1.0; 5000], 44_100).unwrap();
        assert_eq!(resample(clip, 44_100).unwrap(), alone);
    }

    #[test]
    fn sixteen_khz_is_unchanged_and_bad_rates_fail() {
        let samples = sine(7_999.0, SAMPLE_RATE, 1000);
        assert_eq!(resample(samples.clone(), SAMPLE_RATE).unwrap(), samples);
        assert!(
            resample(samples, 12)
                .unwrap_err()
                .message()
                .contains("12 Hz")
        );
    }
}
