//! Connectionist temporal classification (Graves et al. 2006): loss, gradient, and what a person
//! reads of the outputs.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;

/// The outputs of one clip and what they should spell.
#[derive(Clone, Copy, Debug)]
pub struct Utterance<'a> {
    /// Number of frames.
    pub frames: usize,
    /// Units, none of them blank.
    pub targets: &'a [u32],
    /// Factor of the clip's loss.
    pub weight: f64,
}

/// Losses of packed clips.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Negative log-likelihood of each clip, nats, not weighted; infinite where its frames are too
    /// few for its targets.
    pub nats: Vec<f64>,
    /// Gradient of the weighted sum with respect to the logits, `[frames, units]`; zero for a clip
    /// whose loss is infinite.
    pub d_logits: Tensor,
}

/// Least number of frames that can spell `targets`: one for each unit, and a blank between equal
/// ones.
pub fn min_frames(targets: &[u32]) -> usize {
    targets.len() + targets.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

/// Loss of every clip and the gradient of their weighted sum. A clip that cannot spell its targets
/// adds nothing to the gradient (PyTorch's `zero_infinity`).
///
/// The gradient of a clip is softmax(logits) minus the probability, given the targets, of each unit
/// at each frame.
///
/// # Shapes
/// `logits`: `[sum of frames, units]`
pub fn ctc(logits: &Tensor, utterances: &[Utterance], blank: u32) -> Result<Loss> {
    let (rows, units) = logits.dims2()?;
    if utterances.iter().map(|u| u.frames).sum::<usize>() != rows || blank as usize >= units {
        candle_core::bail!("clips do not cover {rows} frames of {units} units, blank {blank}");
    }
    let mut all = utterances.iter().flat_map(|u| u.targets);
    if let Some(unit) = all.find(|&&unit| unit as usize >= units || unit == blank) {
        candle_core::bail!("target {unit} is not one of {units} units, or blank");
    }
    let starts: Vec<usize> = utterances
        .iter()
        .scan(0, |end, u| {
            *end += u.frames;
            Some(*end - u.frames)
        })
        .collect();
    with_real!(logits, T => {
        let values: &[T] = &slice::<T>(logits)?;
        let found: Vec<(f64, Vec<T>)> = utterances
            .par_iter()
            .zip(&starts)
            .map(|(utterance, &start)| one::<T>(&values[start * units..][..utterance.frames * units], units, utterance, blank))
            .collect();

        let mut nats = Vec::new();
        let mut d_logits = Vec::with_capacity(rows * units);
        for (loss, gradient) in found {
            nats.push(loss);
            d_logits.extend(gradient);
        }

        Ok(Loss { nats, d_logits: tensor(d_logits, (rows, units))? })
    })
}

/// Loss and gradient of one clip, by the forward and backward recursions in logarithms.
fn one<T: Real>(logits: &[T], units: usize, utterance: &Utterance, blank: u32) -> (f64, Vec<T>) {
    let frames = utterance.frames;
    let log_probabilities = log_softmax(logits, units);
    let at = |frame: usize, unit: u32| log_probabilities[frame * units + unit as usize];

    // Blanks around every target.
    let mut states = vec![blank];
    for &unit in utterance.targets {
        states.extend([unit, blank]);
    }
    let num = states.len();
    let skips =
        |state: usize| state >= 2 && states[state] != blank && states[state] != states[state - 2];

    if frames < min_frames(utterance.targets) || frames == 0 {
        let loss = if frames == 0 && utterance.targets.is_empty() {
            0.0
        } else {
            f64::INFINITY
        };
        return (loss, vec![T::of(0.0); logits.len()]);
    }

    let mut alphas = vec![f64::NEG_INFINITY; frames * num];
    alphas[0] = at(0, states[0]);
    if num > 1 {
        alphas[1] = at(0, states[1]);
    }

    for frame in 1..frames {
        let (before, now) = alphas.split_at_mut(frame * num);
        let before = &before[(frame - 1) * num..];
        for state in 0..num {
            let mut sum = before[state];
            if state >= 1 {
                sum = log_add(sum, before[state - 1]);
            }
            if skips(state) {
                sum = log_add(sum, before[state - 2]);
            }
            now[state] = sum + at(frame, states[state]);
        }
    }

    let last = &alphas[(frames - 1) * num..];

    let total = if num > 1 {
        log_add(last[num - 1], last[num - 2])
    } else {
        last[0]
    };

    let mut gradient = vec![T::of(0.0); logits.len()];
    let mut beta = vec![f64::NEG_INFINITY; num];
    beta[num - 1] = 0.0;
    if num > 1 {
        beta[num - 2] = 0.0;
    }

    let mut occupied = vec![0.0f64; units];
    for frame in (0..frames).rev() {
        occupied.fill(0.0);
        for state in 0..num {
            let share = (alphas[frame * num + state] + beta[state] - total).exp();
            occupied[states[state] as usize] += share;
        }
        for (unit, gradient) in gradient[frame * units..][..units].iter_mut().enumerate() {
            let probability = log_probabilities[frame * units + unit].exp();
            *gradient = T::of(utterance.weight * (probability - occupied[unit]));
        }
        if frame > 0 {
            let emitted: Vec<f64> = (0..num).map(|s| beta[s] + at(frame, states[s])).collect();
            for state in 0..num {
                let mut sum = emitted[state];
                if state + 1 < num {
                    sum = log_add(sum, emitted[state + 1]);
                }
                if state + 2 < num && skips(state + 2) {
                    sum = log_add(sum, emitted[state + 2]);
                }
                beta[state] = sum;
            }
        }
    }

    (-total, gradient)
}

/// Log-probabilities of rows of logits, in `f64`.
fn log_softmax<T: Real>(logits: &[T], units: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.len());
    for row in logits.chunks_exact(units) {
        let max = row
            .iter()
            .map(|x| x.wide())
            .fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x.wide() - max).exp()).sum();
        let log_sum = max + sum.ln();
        out.extend(row.iter().map(|x| x.wide() - log_sum));
    }
    out
}

/// ln(e^a + e^b).
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// Place of the first of the largest logits.
pub fn first_largest(logits: &[f32]) -> usize {
    let mut best = 0;
    let mut largest = f32::NEG_INFINITY;
    for (i, &x) in logits.iter().enumerate() {
        if x > largest {
            best = i;
            largest = x;
        }
    }
    best
}

/// The likeliest unit of each frame, repetitions merged and blanks removed.
///
/// # Shapes
/// `logits`: `[frames, units]`, row-major
pub fn greedy(logits: &[f32], units: usize, blank: u32) -> Vec<u32> {
    let mut spelled = Vec::new();
    let mut before = None;
    for row in logits.chunks_exact(units) {
        let unit = first_largest(row) as u32;
        if unit != blank && before != Some(unit) {
            spelled.push(unit);
        }
        before = Some(unit);
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Sum over all paths of three frames over two units and blank, counted one by one.
    #[test]
    fn loss_is_the_sum_over_paths() {
        let logits: Vec<f64> = (0..9).map(|i| (f64::from(i) * 1.7).sin()).collect();
        let units = 3;
        for targets in [vec![], vec![1], vec![1, 2], vec![2, 2]] {
            let log = log_softmax(&logits, units);
            let mut likelihood = 0.0f64;
            for path in 0..27usize {
                let path = [path / 9, path / 3 % 3, path % 3];
                let mut spelled: Vec<u32> = Vec::new();
                for (i, &unit) in path.iter().enumerate() {
                    if unit != 0 && (i == 0 || path[i - 1] != unit) {
                        spelled.push(unit as u32);
                    }
                }
                if spelled == targets {
                    let log: f64 = (0..3).map(|frame| log[frame * units + path[frame]]).sum();
                    likelihood += log.exp();
                }
            }
            let tensor = Tensor::from_vec(logits.clone(), (3, units), &Device::Cpu).unwrap();
            let utterance = Utterance {
                frames: 3,
                targets: &targets,
                weight: 1.0,
            };
            let found = ctc(&tensor, &[utterance], 0).unwrap();
            assert!(
                (found.nats[0] + likelihood.ln()).abs() < 1e-12,
                "{targets:?}"
            );
        }
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let logits: Vec<f64> = (0..35).map(|i| (f64::from(i) * 0.9).cos()).collect();
        let utterances = [
            Utterance {
                frames: 4,
                targets: &[2, 2],
                weight: 0.5,
            },
            Utterance {
                frames: 3,
                targets: &[1, 4],
                weight: 2.0,
            },
        ];
        let loss = |logits: &[f64]| {
            let logits = Tensor::from_vec(logits.to_vec(), (7, 5), &Device::Cpu).unwrap();
            let found = ctc(&logits, &utterances, 0).unwrap();
            let sum = 0.5 * found.nats[0] + 2.0 * found.nats[1];
            (
                sum,
                found
                    .d_logits
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f64>()
                    .unwrap(),
            )
        };
        let (_, gradient) = loss(&logits);
        for i in 0..logits.len() {
            let moved = |step: f64| {
                let mut moved = logits.clone();
                moved[i] += step;
                loss(&moved).0
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (gradient[i] - expected).abs() < 1e-8,
                "{i}: {} {expected}",
                gradient[i]
            );
        }
    }

    #[test]
    fn too_few_frames_cost_infinity_and_teach_nothing() {
        let logits = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let utterance = Utterance {
            frames: 2,
            targets: &[1, 1],
            weight: 1.0,
        };
        let found = ctc(&logits, &[utterance], 0).unwrap();
        assert_eq!(found.nats, [f64::INFINITY]);
        assert_eq!(
            found
                .d_logits
                .abs()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap(),
            0.0
        );
        assert_eq!((min_frames(&[1, 1]), min_frames(&[1, 2, 2, 2])), (3, 6));
    }

    #[test]
    fn greedy_merges_and_removes_blanks() {
        let one_hot = |units: &[usize]| -> Vec<f32> {
            units
                .iter()
                .flat_map(|&u| (0..3).map(move |i| f32::from(u8::from(i == u))))
                .collect()
        };
        assert_eq!(greedy(&one_hot(&[0, 1, 1, 0, 1, 2, 2, 0]), 3, 0), [1, 1, 2]);
    }
}
