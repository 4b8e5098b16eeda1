//! Perceived loudness of speech in LUFS, and the gain for a wanted loudness.

use std::f64::consts::PI;

use crate::pcm16::Sample;
use crate::vectors::on_256_bits;

/// Length of a gating block, in milliseconds.
const BLOCK_MS: usize = 400;

/// Time from one gating block to the next, in milliseconds: blocks overlap by three quarters.
const STEP_MS: usize = 100;

/// Blocks at or below this loudness are silence, in LUFS.
const ABSOLUTE_GATE: f64 = -70.0;

/// Distance below the loudness of the non-silent blocks from which a block does not count, in LU.
const RELATIVE_GATE: f64 = -10.0;

/// Integrated loudness of one channel, in LUFS; `None` if it is shorter than 400 ms or nothing in
/// it is louder than -70 LUFS.
///
/// The samples are those of one channel at `rate` Hz. A mono file is measured as one channel:
/// played over two loudspeakers it is 3.01 LU louder.
///
/// # Shapes
/// `[n]`, full scale at 1
///
/// Source: ITU-R BS.1770-5 and EBU R 128. The filters are the standard's, which are given at 48
/// kHz, for any rate by the bilinear transform of their analogue prototypes, as in libebur128.
pub fn integrated_lufs(samples: &[f32], rate: u32) -> Option<f64> {
    lufs_of(samples, rate)
}

/// Integrated loudness of samples of 16 bits, as [`integrated_lufs`] measures it.
pub fn integrated_lufs_16(samples: &[i16], rate: u32) -> Option<f64> {
    lufs_of(samples, rate)
}

fn lufs_of<S: Sample>(samples: &[S], rate: u32) -> Option<f64> {
    let powers = block_powers(samples, rate);
    let mean = |powers: &[f64]| powers.iter().sum::<f64>() / powers.len() as f64;

    let audible: Vec<f64> = powers
        .into_iter()
        .filter(|&power| lufs(power) > ABSOLUTE_GATE)
        .collect();
    if audible.is_empty() {
        return None;
    }
    let gate = lufs(mean(&audible)) + RELATIVE_GATE;
    let counted: Vec<f64> = audible
        .into_iter()
        .filter(|&power| lufs(power) > gate)
        .collect();
    (!counted.is_empty()).then(|| lufs(mean(&counted)))
}

/// Gain for `target_lufs`, or the largest gain that the loudest sample allows; 1 for a clip without
/// loudness.
///
/// The amplified clip stays within `peak`, the largest absolute sample value wanted.
pub fn gain_to(samples: &[f32], rate: u32, target_lufs: f64, peak: f32) -> f32 {
    let Some(loudness) = integrated_lufs(samples, rate) else {
        return 1.0;
    };
    let wanted = 10f64.powf((target_lufs - loudness) / 20.0) as f32;
    let loudest = peak_of(samples);
    if loudest * wanted > peak {
        peak / loudest
    } else {
        wanted
    }
}

/// Largest absolute sample value; 0 for no samples.
pub fn peak_of(samples: &[f32]) -> f32 {
    samples
        .iter()
        .fold(0.0, |peak: f32, sample| peak.max(sample.abs()))
}

/// Root mean square of the samples; 0 for no samples.
pub fn rms(samples: &[f32]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let sum: f64 = samples.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (sum / samples.len() as f64).sqrt()
}

/// Loudness of a mean square after the filters, in LUFS.
fn lufs(power: f64) -> f64 {
    -0.691 + 10.0 * power.log10()
}

/// Parts of a recording that are filtered side by side. A filter waits for its last output, so one
/// sample after the other takes twice as long.
const LANES: usize = 4;

/// Steps before its part from which a lane filters. What came before has decayed by e^-70 then:
/// the slowest filter, the high-pass at 38 Hz, forgets within 7 ms.
const WARM_UP: usize = 5;

/// Mean square of each gating block after both filters.
fn block_powers<S: Sample>(samples: &[S], rate: u32) -> Vec<f64> {
    let step = rate as usize * STEP_MS / 1000;
    if step == 0 {
        return Vec::new();
    }
    let num_steps = samples.len() / step;
    let energies = if num_steps < 2 * LANES * WARM_UP {
        step_energies::<S, 1>(samples, step, num_steps, rate)
    } else {
        step_energies::<S, LANES>(samples, step, num_steps, rate)
    };
    energies
        .windows(BLOCK_MS / STEP_MS)
        .map(|block| block.iter().sum::<f64>() / (step * block.len()) as f64)
        .collect()
}

/// Sum of squares of each step of `step` samples after both filters, with the recording in `N`
/// parts. Wider vectors change no bit of it.
fn step_energies<S: Sample, const N: usize>(
    samples: &[S],
    step: usize,
    num_steps: usize,
    rate: u32,
) -> Vec<f64> {
    on_256_bits(Energies::<S, N> {
        samples,
        step,
        num_steps,
        rate,
    })
}

/// The work of [`step_energies`], compiled for the processor's vectors.
struct Energies<'a, S, const N: usize> {
    samples: &'a [S],
    step: usize,
    num_steps: usize,
    rate: u32,
}

impl<S: Sample, const N: usize> pulp::WithSimd for Energies<'_, S, N> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<Vectors: pulp::Simd>(self, _: Vectors) -> Vec<f64> {
        let Self {
            samples,
            step,
            num_steps,
            rate,
        } = self;
        let per_lane = num_steps.div_ceil(N);
        let mut energies = vec![0.0; num_steps];
        let mut shelf = Lanes::<N>::new(Biquad::shelf(rate));
        let mut high_pass = Lanes::<N>::new(Biquad::high_pass(rate));
        // The lanes' steps at one time, each as it is read: the loop over all lanes waits for its
        // last output, and has no time for conversions.
        let mut steps = vec![0f32; N * step];
        let warm_up = if N == 1 { 0 } else { WARM_UP };
        for at in 0..warm_up + per_lane {
            for (lane, converted) in steps.chunks_exact_mut(step).enumerate() {
                let source = (lane * per_lane + at)
                    .checked_sub(warm_up)
                    .and_then(|index| samples.get(index * step..(index + 1) * step));
                match source {
                    Some(source) => {
                        for (value, sample) in converted.iter_mut().zip(source) {
                            *value = sample.part();
                        }
                    }
                    // Silence before the recording and after it.
                    None => converted.fill(0.0),
                }
            }
            let parts: [&[f32]; N] =
                std::array::from_fn(|lane| &steps[lane * step..(lane + 1) * step]);
            let mut sums = [0.0; N];
            #[expect(
                clippy::needless_range_loop,
                reason = "a sample of each lane is read at once"
            )]
            for i in 0..step {
                let x = std::array::from_fn(|lane| f64::from(parts[lane][i]));
                let y = high_pass.filter(shelf.filter(x));
                for lane in 0..N {
                    sums[lane] += y[lane] * y[lane];
                }
            }
            if at >= warm_up {
                for (lane, sum) in sums.into_iter().enumerate() {
                    if let Some(energy) = energies.get_mut(lane * per_lane + at - warm_up) {
                        *energy = sum;
                    }
                }
            }
        }
        energies
    }
}

/// Coefficients of a filter of second order.
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
}

impl Biquad {
    /// The standard's first filter: the effect of the head, which raises frequencies above 1.5 kHz
    /// by 4 dB.
    fn shelf(rate: u32) -> Self {
        const HERTZ: f64 = 1681.974450955533;
        const GAIN_DB: f64 = 3.999843853973347;
        const Q: f64 = 0.7071752369554196;
        let k = (PI * HERTZ / f64::from(rate)).tan();
        let high = 10f64.powf(GAIN_DB / 20.0);
        let band = high.powf(0.4996667741545416);
        let a0 = 1.0 + k / Q + k * k;
        Self {
            b: [
                (high + band * k / Q + k * k) / a0,
                2.0 * (k * k - high) / a0,
                (high - band * k / Q + k * k) / a0,
            ],
            a: [2.0 * (k * k - 1.0) / a0, (1.0 - k / Q + k * k) / a0],
        }
    }

    /// The standard's second filter: a high-pass at 38 Hz.
    fn high_pass(rate: u32) -> Self {
        const HERTZ: f64 = 38.13547087602444;
        const Q: f64 = 0.5003270373238773;
        let k = (PI * HERTZ / f64::from(rate)).tan();
        let a0 = 1.0 + k / Q + k * k;
        Self {
            b: [1.0, -2.0, 1.0],
            a: [2.0 * (k * k - 1.0) / a0, (1.0 - k / Q + k * k) / a0],
        }
    }
}

/// One filter over `N` signals at once, in the direct form II transposed.
struct Lanes<const N: usize> {
    biquad: Biquad,
    state: [[f64; N]; 2],
}

impl<const N: usize> Lanes<N> {
    fn new(biquad: Biquad) -> Self {
        Self {
            biquad,
            state: [[0.0; N]; 2],
        }
    }

    #[inline(always)]
    fn filter(&mut self, x: [f64; N]) -> [f64; N] {
        let Biquad { b, a } = &self.biquad;
        let [first, second] = &mut self.state;
        let mut y = [0.0; N];
        for lane in 0..N {
            y[lane] = b[0] * x[lane] + first[lane];
            first[lane] = b[1] * x[lane] - a[0] * y[lane] + second[lane];
            second[lane] = b[2] * x[lane] - a[1] * y[lane];
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone, its peak in dBFS.
    fn tone(hertz: f64, peak_db: f64, seconds: f64, rate: u32) -> Vec<f32> {
        let peak = 10f64.powf(peak_db / 20.0);
        (0..(seconds * f64::from(rate)) as usize)
            .map(|i| (peak * (2.0 * PI * hertz * i as f64 / f64::from(rate)).sin()) as f32)
            .collect()
    }

    #[test]
    fn filters_at_48_khz_are_the_standards() {
        // ITU-R BS.1770-5, tables 1 and 2.
        let shelf = Biquad::shelf(48_000);
        let expected = [
            (shelf.b[0], 1.53512485958697),
            (shelf.b[1], -2.69169618940638),
            (shelf.b[2], 1.19839281085285),
            (shelf.a[0], -1.69065929318241),
            (shelf.a[1], 0.73248077421585),
        ];
        for (found, wanted) in expected {
            assert!((found - wanted).abs() < 1e-12, "{found} for {wanted}");
        }
        let high_pass = Biquad::high_pass(48_000);
        assert!((high_pass.a[0] + 1.99004745483398).abs() < 1e-12);
        assert!((high_pass.a[1] - 0.99007225036621).abs() < 1e-12);
    }

    #[test]
    fn a_full_scale_tone_has_the_standards_loudness() {
        // BS.1770-5: a sine of 997 Hz at 0 dBFS in one channel reads -3.01 LKFS. At 16 kHz the
        // bilinear transform bends the shelf a little.
        for rate in [16_000, 44_100, 48_000] {
            let loudness = integrated_lufs(&tone(997.0, 0.0, 5.0, rate), rate).unwrap();
            assert!((loudness + 3.01).abs() < 0.05, "{rate} Hz: {loudness}");
        }
    }

    #[test]
    fn silence_and_quiet_parts_do_not_count() {
        // EBU Tech 3341, cases 3, 4 and 5, of one channel: 3.01 LU under the stereo values of the
        // document. Its tolerance is 0.1 LU.
        let cases: [&[(f64, f64)]; 3] = [
            &[(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)],
            &[
                (-72.0, 10.0),
                (-36.0, 10.0),
                (-23.0, 60.0),
                (-36.0, 10.0),
                (-72.0, 10.0),
            ],
            &[(-26.0, 20.0), (-20.0, 20.1), (-26.0, 20.0)],
        ];
        for rate in [16_000, 48_000] {
            for parts in cases {
                let samples: Vec<f32> = parts
                    .iter()
                    .flat_map(|&(peak_db, seconds)| tone(1000.0, peak_db, seconds, rate))
                    .collect();
                let loudness = integrated_lufs(&samples, rate).unwrap();
                assert!((loudness + 26.01).abs() < 0.1, "{parts:?}: {loudness}");
            }
        }
    }

    #[test]
    fn short_and_silent_clips_have_no_loudness() {
        assert_eq!(integrated_lufs(&[], 16_000), None);
        assert_eq!(integrated_lufs(&[0.5; 6_399], 16_000), None);
        assert_eq!(integrated_lufs(&[0.0; 32_000], 16_000), None);
        assert_eq!(gain_to(&[0.0; 32_000], 16_000, -23.0, 1.0), 1.0);
    }

    #[test]
    fn a_gain_reaches_the_target_or_the_peak() {
        let quiet = tone(500.0, -40.0, 3.0, 16_000);
        let gain = gain_to(&quiet, 16_000, -23.0, 0.99);
        let louder: Vec<f32> = quiet.iter().map(|sample| sample * gain).collect();
        let loudness = integrated_lufs(&louder, 16_000).unwrap();
        assert!((loudness + 23.0).abs() < 1e-3, "{loudness}");

        let mut clicked = quiet;
        clicked[100] = 0.5;
        let gain = gain_to(&clicked, 16_000, -23.0, 0.99);
        assert!((gain * peak_of(&clicked) - 0.99).abs() < 1e-6);
    }

    #[test]
    fn samples_of_16_bits_have_the_same_loudness() {
        for num_samples in [16_000, 200_123] {
            let values: Vec<i16> = (0..num_samples)
                .map(|i| ((i as f32 * 0.3).sin() * (i % 9_000) as f32) as i16)
                .collect();
            let samples: Vec<f32> = values.iter().map(|v| f32::from(*v) / 32_768.0).collect();
            let expected = integrated_lufs(&samples, 16_000);
            assert!(expected.is_some());
            assert_eq!(integrated_lufs_16(&values, 16_000), expected);
        }
    }

    #[test]
    fn lanes_equal_one_signal_filtered_at_once() {
        for (rate, num_steps) in [(16_000, 80), (16_000, 1001), (44_100, 93)] {
            let step = rate as usize * STEP_MS / 1000;
            // A loud low tone ends in the middle of a lane, so that its decay would show.
            let mut samples = tone(40.0, 0.0, 3.3, rate);
            samples.extend(tone(300.0, -30.0, 200.0, rate));
            samples.truncate(step * num_steps + 17);
            let one = step_energies::<f32, 1>(&samples, step, num_steps, rate);
            let many = step_energies::<f32, LANES>(&samples, step, num_steps, rate);
            for (i, (found, wanted)) in many.iter().zip(&one).enumerate() {
                let error = (found - wanted).abs() / wanted;
                assert!(error < 1e-12, "{rate} Hz, step {i}: {found} for {wanted}");
            }
        }
    }
}
