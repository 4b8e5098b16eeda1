//! Prediction of cluster ids from frames (Hsu et al. 2021, equation 3): a projection's output
//! against embeddings of codes, by cosine.
//!
//! `logits[t, k] = cos(x_t, e_k) / temperature`. Every frame has a weight, so masked and unmasked
//! frames can count differently.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::gemm::product_new;
use crate::ops::weight::Weight;

/// Least product of two lengths, as in PyTorch's `cosine_similarity`.
const EPS: f64 = 1e-8;

/// Targets of frames.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// A code for each frame.
    pub codes: &'a [u32],
    /// Factor of each frame in the loss.
    pub weights: &'a [f64],
    /// Divides the cosines; HuBERT has 0.1.
    pub temperature: f64,
}

/// Result of [`masked_prediction`].
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Sum over frames of weight times negative log-likelihood, nats.
    pub loss: f64,
    /// Negative log-likelihood of each frame, nats, not weighted.
    pub nats: Vec<f64>,
    /// Whether the likeliest code of each frame is its target.
    pub is_right: Vec<bool>,
    /// Gradient of `loss` with respect to the frames, `[frames, dim]`.
    pub d_frames: Tensor,
}

/// Loss of frames against their codes; adds to the gradient of the embeddings where they are
/// trained.
///
/// With u and v the vectors of length one: d x = (d u - u (u d u)) / |x|.
///
/// # Shapes
/// `frames`: `[frames, dim]`, `codes`: `[number of codes, dim]`
pub fn masked_prediction(frames: &Tensor, codes: &Weight, targets: Targets) -> Result<Prediction> {
    let (rows, dim) = frames.dims2()?;
    let (num_codes, width) = codes.value.dims2()?;

    if width != dim || targets.codes.len() != rows || targets.weights.len() != rows {
        candle_core::bail!(
            "{rows} frames of {dim}, codes of {width}, {} targets, {} weights",
            targets.codes.len(),
            targets.weights.len()
        );
    }

    if let Some(code) = targets
        .codes
        .iter()
        .find(|&&code| code as usize >= num_codes)
    {
        candle_core::bail!("code {code} is outside {num_codes}");
    }

    with_real!(frames, T => {
        let xs = slice::<T>(frames)?;
        let es = slice::<T>(&codes.value)?;
        let (x_units, x_lengths) = units::<T>(&xs, dim);
        let (e_units, e_lengths) = units::<T>(&es, dim);
        let x_matrix = Matrix::new(&x_units, rows, dim);
        let e_matrix = Matrix::new(&e_units, num_codes, dim);
        let mut logits = product_new(x_matrix, e_matrix.t(), 1.0 / targets.temperature, Threads::All);
        // A row of logits becomes that of their gradient.
        let found: Vec<(f64, bool)> = logits
            .par_chunks_exact_mut(num_codes)
            .enumerate()
            .map(|(row, logits)| one_row(logits, targets.codes[row] as usize, targets.weights[row] / targets.temperature))
            .collect();
        let d_cosines = Matrix::new(&logits, rows, num_codes);
        let mut d_frames = product_new(d_cosines, e_matrix, 1.0, Threads::All);
        through_lengths(&mut d_frames, &x_units, &x_lengths, dim);

        if let Some(gradient) = &codes.gradient {
            let mut d_codes = product_new(d_cosines.t(), x_matrix, 1.0, Threads::All);
            through_lengths(&mut d_codes, &e_units, &e_lengths, dim);
            write::<T>(gradient, |d| d.iter_mut().zip(&d_codes).for_each(|(d, &add)| *d += add))?;
        }

        let (nats, is_right): (Vec<f64>, Vec<bool>) = found.into_iter().unzip();
        let loss = nats.iter().zip(targets.weights).map(|(nats, weight)| nats * weight).sum();
        Ok(Prediction { loss, nats, is_right, d_frames: tensor(d_frames, (rows, dim))? })
    })
}

/// Negative log-likelihood of the target and whether it is the likeliest; turns logits into
/// `scale * (softmax - target)`.
fn one_row<T: Real>(logits: &mut [T], target: usize, scale: f64) -> (f64, bool) {
    let (best, max) = logits
        .iter()
        .enumerate()
        .fold((0, T::neg_infinity()), |best, (i, &x)| {
            if x > best.1 { (i, x) } else { best }
        });
    let of_target = logits[target];
    let mut sum = T::of(0.0);
    for x in logits.iter_mut() {
        *x = (*x - max).exp_lanes();
        sum += *x;
    }
    let factor = T::of(scale) / sum;
    for x in logits.iter_mut() {
        *x *= factor;
    }
    logits[target] -= T::of(scale);
    ((max + sum.ln() - of_target).wide(), best == target)
}

/// Rows of length one, and the lengths they had.
fn units<T: Real>(rows: &[T], dim: usize) -> (Vec<T>, Vec<T>) {
    let mut out = rows.to_vec();
    let lengths = out
        .par_chunks_exact_mut(dim)
        .map(|row| {
            let square: T = row.iter().map(|&x| x * x).sum();
            let length = T::of(square.wide().sqrt().max(EPS));
            row.iter_mut().for_each(|x| *x /= length);
            length
        })
        .collect();
    (out, lengths)
}

/// The gradient of rows from that of the rows of length one.
fn through_lengths<T: Real>(gradients: &mut [T], units: &[T], lengths: &[T], dim: usize) {
    gradients
        .par_chunks_exact_mut(dim)
        .zip(units.par_chunks_exact(dim))
        .zip(lengths)
        .for_each(|((gradient, unit), &length)| {
            let along: T = gradient.iter().zip(unit).map(|(&d, &u)| d * u).sum();
            for (d, &u) in gradient.iter_mut().zip(unit) {
                *d = (*d - u * along) / length;
            }
        });
}

/// Logits of frames against codes, as [`masked_prediction`] has them.
///
/// # Shapes
/// -> `[frames, number of codes]`
pub fn logits(frames: &Tensor, codes: &Tensor, temperature: f64) -> Result<Tensor> {
    let (rows, dim) = frames.dims2()?;
    let (num_codes, _) = codes.dims2()?;
    with_real!(frames, T => {
        let xs = slice::<T>(frames)?;
        let es = slice::<T>(codes)?;
        let (x, _) = units::<T>(&xs, dim);
        let (e, _) = units::<T>(&es, dim);
        let mut out = vec![T::of(0.0); rows * num_codes];
        product(&mut out, num_codes, Matrix::new(&x, rows, dim), Matrix::new(&e, num_codes, dim).t(), 1.0 / temperature, Into::Fresh, Threads::All);
        tensor(out, (rows, num_codes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_equal_finite_differences() {
        let numbers =
            |n: usize, step: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 * step).sin()).collect() };
        let frames = numbers(12, 1.3);
        let codes = numbers(20, 0.7);
        let loss = |frames: &[f64], codes: &[f64]| {
            let frames = Tensor::from_vec(frames.to_vec(), (3, 4), &Device::Cpu).unwrap();
            let codes = Tensor::from_vec(codes.to_vec(), (5, 4), &Device::Cpu).unwrap();
            let gradient = codes.zeros_like().unwrap();
            let targets = Targets {
                codes: &[4, 0, 2],
                weights: &[1.0, 0.0, 0.3],
                temperature: 0.1,
            };
            let weight = Weight::trained(codes, gradient.clone());
            (
                masked_prediction(&frames, &weight, targets).unwrap(),
                gradient,
            )
        };
        let (found, d_codes) = loss(&frames, &codes);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let of = [(flat(&found.d_frames), &frames), (flat(&d_codes), &codes)];
        for (which, (gradient, values)) in of.iter().enumerate() {
            for i in 0..values.len() {
                let moved = |step: f64| {
                    let mut moved = values.to_vec();
                    moved[i] += step;
                    let (frames, codes) = if which == 0 {
                        (&moved, &codes)
                    } else {
                        (&frames, &moved)
                    };
                    loss(frames, codes).0.loss
                };
                let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!(
                    (gradient[i] - expected).abs() < 1e-6,
                    "{which} {i}: {} {expected}",
                    gradient[i]
                );
            }
        }
        assert_eq!(found.nats.len(), 3);
    }
}
