//! Samples of 16 bits: rounding to them, and reading them back.

use crate::vectors::on_256_bits;

/// Size of the smallest 16-bit sample, which is -1.
const FULL_SCALE: f32 = 32_768.0;

/// A sample at its size: full scale is 1.
pub(super) trait Sample: Copy {
    /// The sample as a part of full scale.
    fn part(self) -> f32;
}

impl Sample for f32 {
    #[inline(always)]
    fn part(self) -> f32 {
        self
    }
}

impl Sample for i16 {
    #[inline(always)]
    fn part(self) -> f32 {
        f32::from(self) / FULL_SCALE
    }
}

/// Appends the nearest 16-bit values, halves away from zero. Samples beyond full scale are clipped,
/// and NaN becomes 0.
pub fn append_rounded(samples: &[f32], values: &mut Vec<i16>) {
    on_256_bits(Rounding { samples, values });
}

/// The work of [`append_rounded`], compiled for the processor's vectors.
struct Rounding<'a> {
    samples: &'a [f32],
    values: &'a mut Vec<i16>,
}

impl pulp::WithSimd for Rounding<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let start = self.values.len();
        self.values.resize(start + self.samples.len(), 0);
        for (value, sample) in self.values[start..].iter_mut().zip(self.samples) {
            *value = nearest(*sample);
        }
    }
}

/// Appends little-endian 16-bit samples as parts of full scale; an odd last byte is left out.
pub(super) fn append_little_endian(bytes: &[u8], samples: &mut Vec<f32>) {
    samples.extend(
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| i16::from_le_bytes(*pair).part()),
    );
}

/// The nearest 16-bit value. `f32::round` would be a call for each sample.
#[inline(always)]
fn nearest(sample: f32) -> i16 {
    let scaled = (sample * FULL_SCALE).clamp(-32_768.0, 32_767.0);
    let whole = scaled as i32;
    // The fraction is exact, so that no sum is rounded on its way to the nearest integer.
    let fraction = scaled - whole as f32;
    (whole + i32::from(fraction >= 0.5) - i32::from(fraction <= -0.5)) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(samples: &[f32]) -> Vec<i16> {
        let mut values = vec![7, -7];
        append_rounded(samples, &mut values);
        assert_eq!(values[..2], [7, -7]);
        values.split_off(2)
    }

    #[test]
    fn samples_round_to_the_nearest() {
        let mut samples = Vec::new();
        for value in -40_000..40_000 {
            for part in [-0.5, -0.499_999_97, 0.0, 0.25, 0.499_999_97] {
                samples.push((value as f32 + part) / FULL_SCALE);
            }
        }
        // Below a half by the least, at which the sum with a half rounds up to 1.
        samples.extend([0.499_999_97 / FULL_SCALE, -0.499_999_97 / FULL_SCALE]);
        samples.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, -0.0]);
        let found = rounded(&samples);
        assert_eq!(found.len(), samples.len());
        for (sample, found) in samples.iter().zip(&found) {
            let expected = (sample * FULL_SCALE).round().clamp(-32_768.0, 32_767.0) as i16;
            assert_eq!(*found, expected, "{sample}");
        }
        assert_eq!(rounded(&[f32::NAN, -1.0, 1.0]), [0, i16::MIN, i16::MAX]);
    }

    #[test]
    fn values_are_read_back() {
        let values: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut read = vec![9.0];
        append_little_endian(&bytes, &mut read);
        let parts: Vec<f32> = values.iter().map(|value| value.part()).collect();
        assert_eq!(read[1..], parts);
        assert_eq!(
            (read[1], read[32_769], read[65_536]),
            (-1.0, 0.0, 32_767.0 / 32_768.0)
        );
        assert_eq!(rounded(&read[1..]), values);
        append_little_endian(&[0, 0x40, 7], &mut read);
        assert_eq!((read.len(), read[65_537]), (65_538, 0.5));
    }
}
