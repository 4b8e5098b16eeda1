//! MFCC with first and second differences, as in Kaldi: the features that HuBERT's first iteration
//! clusters.

use std::f64::consts::PI;

use realfft::RealFftPlanner;

use crate::SAMPLE_RATE;

/// Samples under a window: 25 ms.
pub const MFCC_WINDOW: usize = 400;
/// Samples from one row to the next: 10 ms.
pub const MFCC_HOP: usize = 160;
/// Values of a row: 13 coefficients, their differences, and the differences of those.
pub const MFCC_DIMS: usize = 3 * COEFFICIENTS;

const COEFFICIENTS: usize = 13;
const FFT: usize = 512;
const BANDS: usize = 23;
const LOW_HZ: f64 = 20.0;
const PREEMPHASIS: f64 = 0.97;
const LIFTER: f64 = 22.0;

/// Number of rows of a clip: its whole windows.
pub fn num_mfcc_rows(num_samples: usize) -> usize {
    match num_samples.checked_sub(MFCC_WINDOW) {
        Some(rest) => rest / MFCC_HOP + 1,
        None => 0,
    }
}

/// MFCC of a clip without dither and energy, `[num_mfcc_rows(samples), MFCC_DIMS]`.
///
/// Source: `compute-mfcc-feats` of Kaldi with its defaults, through torchaudio's
/// `compliance.kaldi.mfcc`, and its `compute_deltas`.
pub fn mfcc(samples: &[f32]) -> Vec<f32> {
    let rows = num_mfcc_rows(samples.len());
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(FFT);
    let mut spectrum = fft.make_output_vec();
    let mut scratch = fft.make_scratch_vec();
    let window = povey();
    let filters = filters();
    let cosines = cosines();
    let mut coefficients = Vec::with_capacity(rows * COEFFICIENTS);
    let mut frame = vec![0.0f32; FFT];
    for row in 0..rows {
        let seen = &samples[row * MFCC_HOP..][..MFCC_WINDOW];
        let mean = seen.iter().map(|&x| f64::from(x)).sum::<f64>() / MFCC_WINDOW as f64;
        frame.fill(0.0);
        for (i, out) in frame[..MFCC_WINDOW].iter_mut().enumerate() {
            let at = |i: usize| f64::from(seen[i]) - mean;
            *out = ((at(i) - PREEMPHASIS * at(i.saturating_sub(1))) * window[i]) as f32;
        }
        let transformed = fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
        debug_assert!(transformed.is_ok(), "the buffers have the plan's own sizes");
        let logs: Vec<f64> = filters
            .iter()
            .map(|(first, weights)| {
                let power =
                    |(i, weight): (usize, &f64)| weight * f64::from(spectrum[first + i].norm_sqr());
                let energy: f64 = weights.iter().enumerate().map(power).sum();
                energy.max(f64::from(f32::EPSILON)).ln()
            })
            .collect();
        for row in &cosines {
            let sum: f64 = row.iter().zip(&logs).map(|(c, log)| c * log).sum();
            coefficients.push(sum as f32);
        }
    }
    let first = differences(&coefficients);
    let second = differences(&first);
    let parts = coefficients
        .chunks(COEFFICIENTS)
        .zip(first.chunks(COEFFICIENTS));
    parts
        .zip(second.chunks(COEFFICIENTS))
        .flat_map(|((a, b), c)| a.iter().chain(b).chain(c).copied())
        .collect()
}

/// Slopes over five rows, the first and last row repeated.
fn differences(values: &[f32]) -> Vec<f32> {
    let rows = values.len() / COEFFICIENTS;
    let at = |row: usize, ahead: isize, i: usize| {
        let row = row.saturating_add_signed(ahead).min(rows - 1);
        values[row * COEFFICIENTS + i]
    };
    (0..rows * COEFFICIENTS)
        .map(|place| {
            let row = place / COEFFICIENTS;
            let i = place % COEFFICIENTS;
            let near = at(row, 1, i) - at(row, -1, i);
            let far = at(row, 2, i) - at(row, -2, i);
            (near + 2.0 * far) / 10.0
        })
        .collect()
}

/// Hann's window to the power of 0.85.
fn povey() -> Vec<f64> {
    (0..MFCC_WINDOW)
        .map(|i| {
            let angle = 2.0 * PI * i as f64 / (MFCC_WINDOW - 1) as f64;
            (0.5 - 0.5 * angle.cos()).powf(0.85)
        })
        .collect()
}

/// Triangles on the mel scale: the first bin of each, and its weights.
fn filters() -> Vec<(usize, Vec<f64>)> {
    let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let low = mel(LOW_HZ);
    let high = mel(f64::from(SAMPLE_RATE) / 2.0);
    let step = (high - low) / (BANDS + 1) as f64;
    let of_bin = |bin: usize| mel(bin as f64 * f64::from(SAMPLE_RATE) / FFT as f64);
    (0..BANDS)
        .map(|band| {
            let left = low + band as f64 * step;
            let weight = |bin: usize| {
                let up = of_bin(bin) - left;
                let down = left + 2.0 * step - of_bin(bin);
                (up.min(down) / step).max(0.0)
            };
            let bins: Vec<usize> = (0..FFT / 2).filter(|&bin| weight(bin) > 0.0).collect();
            let first = bins.first().copied().unwrap_or(0);
            (first, bins.into_iter().map(weight).collect())
        })
        .collect()
}

/// Rows of the orthogonal cosine transform, each with its lifter.
fn cosines() -> Vec<Vec<f64>> {
    (0..COEFFICIENTS)
        .map(|k| {
            let scale = if k == 0 { 1.0 } else { 2.0 } / BANDS as f64;
            let lifter = 1.0 + 0.5 * LIFTER * (PI * k as f64 / LIFTER).sin();
            (0..BANDS)
                .map(|n| {
                    let angle = PI / BANDS as f64 * (n as f64 + 0.5) * k as f64;
                    scale.sqrt() * angle.cos() * lifter
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_equal_those_of_kaldi() {
        let text = include_str!("../tests/fixtures/mfcc.json");
        let (_, rows) = text.split_once("\"rows\": ").unwrap();
        let expected: Vec<f32> = rows
            .split(['[', ']', ',', '}'])
            .filter_map(|number| number.trim().parse().ok())
            .collect();
        let clip: Vec<f32> = (0..1600)
            .map(|i| {
                let i = f64::from(i);
                (0.3 * (0.05 * i).sin() + 0.2 * (0.31 * i + 0.002 * i * i).sin() + 0.01) as f32
            })
            .collect();
        let found = mfcc(&clip);
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.len(), 8 * MFCC_DIMS);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // torchaudio computes in f32, and logarithms of nearly empty bands amplify its
            // rounding.
            assert!((found - expected).abs() < 5e-2, "{i}: {found} {expected}");
        }
        assert!(mfcc(&clip[..399]).is_empty());
    }
}
