//! Integrated loudness of a recording, in LUFS.
//!
//! Source: ITU-R BS.1770-4 (K-weighting, gating), as EBU R 128 uses it. The filters' analogue prototypes are those of libebur128, so that
//! they hold at any sampling rate; BS.1770 prints coefficients for 48 kHz alone.

/// Seconds of a gating block; blocks overlap by three quarters.
const BLOCK_S: f64 = 0.4;
/// Steps of a block.
const STEPS: usize = 4;
/// Blocks below this loudness count as silence, in LUFS.
const ABSOLUTE_GATE: f64 = -70.0;
/// Blocks this much below the mean of the others do not count, in LU.
const RELATIVE_GATE: f64 = -10.0;
/// Loudness of a mean square of 1 after weighting, in LUFS.
const OFFSET: f64 = -0.691;

/// A filter of second order: `y = b0 x + b1 x' + b2 x'' - a1 y' - a2 y''`.
#[derive(Clone, Copy)]
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    state: [f64; 2],
}

impl Biquad {
    #[inline]
    fn step(&mut self, x: f64) -> f64 {
        // Transposed direct form II.
        let y = self.b[0] * x + self.state[0];
        self.state[0] = self.b[1] * x - self.a[0] * y + self.state[1];
        self.state[1] = self.b[2] * x - self.a[1] * y;
        y
    }

    /// The shelf that models the head.
    fn shelf(rate: f64) -> Self {
        let (frequency, gain_db, q) = (
            1_681.974_450_955_533,
            3.999_843_853_973_347,
            0.707_175_236_955_419_6,
        );
        let k = (std::f64::consts::PI * frequency / rate).tan();
        let high = 10f64.powf(gain_db / 20.0);
        let band = high.powf(0.499_666_774_154_541_6);
        let a0 = 1.0 + k / q + k * k;
        Self {
            b: [
                (high + band * k / q + k * k) / a0,
                2.0 * (k * k - high) / a0,
                (high - band * k / q + k * k) / a0,
            ],
            a: [2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0],
            state: [0.0; 2],
        }
    }

    /// The high-pass filter.
    fn high_pass(rate: f64) -> Self {
        let (frequency, q) = (38.135_470_876_024_44, 0.500_327_037_323_877_3);
        let k = (std::f64::consts::PI * frequency / rate).tan();
        let a0 = 1.0 + k / q + k * k;
        Self {
            b: [1.0, -2.0, 1.0],
            a: [2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0],
            state: [0.0; 2],
        }
    }
}

/// Integrated loudness of mono samples, in LUFS; `None` where nothing is louder than -70 LUFS or there are less than 400 ms.
///
/// # Shapes
/// `[num_samples]`, in `-1..=1`
pub fn integrated_lufs(samples: &[f32], rate: u32) -> Option<f64> {
    let rate = f64::from(rate);
    let step_len = (BLOCK_S * rate / STEPS as f64).round() as usize;
    let mut shelf = Biquad::shelf(rate);
    let mut high_pass = Biquad::high_pass(rate);
    let steps: Vec<f64> = samples
        .chunks_exact(step_len)
        .map(|step| {
            step.iter()
                .map(|x| high_pass.step(shelf.step(f64::from(*x))).powi(2))
                .sum::<f64>()
        })
        .collect();
    let per_block = (STEPS * step_len) as f64;
    let blocks: Vec<f64> = steps
        .windows(STEPS)
        .map(|block| block.iter().sum::<f64>() / per_block)
        .collect();
    let heard = mean_above(&blocks, ABSOLUTE_GATE)?;
    let gate = loudness(heard) + RELATIVE_GATE;
    mean_above(&blocks, gate.max(ABSOLUTE_GATE)).map(loudness)
}

fn loudness(mean_square: f64) -> f64 {
    OFFSET + 10.0 * mean_square.log10()
}

/// Mean of the blocks that are louder than `gate`.
fn mean_above(blocks: &[f64], gate: f64) -> Option<f64> {
    let heard: Vec<f64> = blocks
        .iter()
        .copied()
        .filter(|block| loudness(*block) > gate)
        .collect();
    (!heard.is_empty()).then(|| heard.iter().sum::<f64>() / heard.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of a sine at a level in dB of full scale.
    fn sine(frequency: f64, rate: u32, parts: &[(f64, f64)]) -> Vec<f32> {
        let mut samples = Vec::new();
        for (level_db, seconds) in parts {
            let size = 10f64.powf(level_db / 20.0);
            for _ in 0..(seconds * f64::from(rate)) as usize {
                let phase = samples.len() as f64 * frequency / f64::from(rate);
                samples.push((size * (std::f64::consts::TAU * phase).sin()) as f32);
            }
        }
        samples
    }

    #[test]
    fn a_full_scale_tone_has_the_loudness_of_bs_1770() {
        // BS.1770-4, annex 1: 0 dBFS at 997 Hz in one channel reads -3.01 LKFS.
        for rate in [16_000, 22_050, 48_000] {
            let found = integrated_lufs(&sine(997.0, rate, &[(0.0, 5.0)]), rate).unwrap();
            // EBU Tech 3341 allows 0.1 LU; at 16 kHz the shelf is bent by 0.04.
            assert!((found + 3.01).abs() < 0.1, "{rate} Hz: {found}");
        }
    }

    #[test]
    fn cases_of_ebu_tech_3341() {
        // Signals 1 to 5 of table 1, which are stereo: one of two equal channels reads 3.01 LU less.
        for (parts, expected) in [
            (&[(-23.0, 20.0)][..], -23.0),
            (&[(-33.0, 20.0)], -33.0),
            (&[(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)], -23.0),
            (
                &[
                    (-72.0, 10.0),
                    (-36.0, 10.0),
                    (-23.0, 60.0),
                    (-36.0, 10.0),
                    (-72.0, 10.0),
                ],
                -23.0,
            ),
            (&[(-26.0, 20.0), (-20.0, 20.1), (-26.0, 20.0)], -23.0),
        ] {
            let found = integrated_lufs(&sine(1000.0, 48_000, parts), 48_000).unwrap();
            assert!(
                (found + 3.01 - expected).abs() < 0.1,
                "{parts:?}: {found}, expected {expected} - 3.01"
            );
        }
    }

    #[test]
    fn silence_has_no_loudness() {
        assert_eq!(integrated_lufs(&[0.0; 32_000], 16_000), None);
        assert_eq!(
            integrated_lufs(&sine(500.0, 16_000, &[(0.0, 0.3)]), 16_000),
            None
        );
    }
}
