//! Direct regression of a teacher's features, after DistilHuBERT (Chang et al. 2022): L1 distance
//! and the logarithm of a sigmoid of the cosine.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;

/// Least product of two lengths, as in PyTorch's `cosine_similarity`.
const EPS: f64 = 1e-8;

/// Result of [`regression`].
#[derive(Clone, Debug)]
pub struct Regression {
    /// Weighted sum over frames of the mean absolute difference and of
    /// `-cosine_weight * ln sigmoid(cosine)`.
    pub loss: f64,
    /// Mean over frames of the cosine.
    pub cosine: f64,
    /// Gradient of `loss` with respect to the predictions, `[frames, dim]`.
    pub d_predicted: Tensor,
}

/// Distance of predictions from a teacher's features.
///
/// # Shapes
/// `predicted`, `wanted`: `[frames, dim]`; `weights`: factor of each frame
pub fn regression(
    predicted: &Tensor,
    wanted: &Tensor,
    weights: &[f64],
    cosine_weight: f64,
) -> Result<Regression> {
    let (rows, dim) = predicted.dims2()?;
    expect_shape("a teacher's features", wanted, &[rows, dim])?;
    if weights.len() != rows {
        candle_core::bail!("{rows} frames have {} weights", weights.len());
    }
    with_real!(predicted, T => {
        let ps: &[T] = &slice::<T>(predicted)?;
        let ws: &[T] = &slice::<T>(wanted)?;
        let mut gradient = vec![T::of(0.0); ps.len()];
        let found: Vec<(f64, f64)> = gradient
            .par_chunks_exact_mut(dim)
            .enumerate()
            .map(|(row, d)| one_row(&ps[row * dim..][..dim], &ws[row * dim..][..dim], weights[row], cosine_weight, d))
            .collect();
        Ok(Regression {
            loss: found.iter().map(|(loss, _)| loss).sum(),
            cosine: found.iter().map(|(_, cosine)| cosine).sum::<f64>() / rows.max(1) as f64,
            d_predicted: tensor(gradient, (rows, dim))?,
        })
    })
}

fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum()
}

/// Weighted loss and cosine of a frame; writes the gradient.
fn one_row<T: Real>(p: &[T], w: &[T], weight: f64, cosine_weight: f64, d: &mut [T]) -> (f64, f64) {
    let p_length = dot(p, p).sqrt();
    let w_length = dot(w, w).sqrt();
    let lengths = (p_length * w_length).max(EPS);
    let cosine = dot(p, w) / lengths;
    let distance = p
        .iter()
        .zip(w)
        .map(|(p, w)| (p.wide() - w.wide()).abs())
        .sum::<f64>();
    // ln sigmoid(c) = -ln(1 + e^-c), whose derivative is sigmoid(-c).
    let loss = distance / p.len() as f64 + cosine_weight * (-cosine).exp().ln_1p();
    let d_cosine = -cosine_weight / (1.0 + cosine.exp());
    let square = (p_length * p_length).max(EPS);
    let width = p.len() as f64;
    for ((d, p), w) in d.iter_mut().zip(p).zip(w) {
        let difference = p.wide() - w.wide();
        let sign = if difference == 0.0 {
            0.0
        } else {
            difference.signum()
        };
        let of_cosine = w.wide() / lengths - cosine * p.wide() / square;
        *d = T::of(weight * (sign / width + d_cosine * of_cosine));
    }
    (weight * loss, cosine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn loss_by_hand_and_gradient_by_differences() {
        let wanted = Tensor::new(&[[3.0f64, 4.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        let loss = |values: &[f64]| {
            let predicted = Tensor::from_vec(values.to_vec(), (2, 2), &Device::Cpu).unwrap();
            regression(&predicted, &wanted, &[1.0, 0.5], 2.0).unwrap()
        };
        // Along the axes the cosines are 0.6 and 0: L1 means 3 and 1.5, sigmoids of 0.6 and 0.
        let values = [1.0, 0.0, 1.0, 0.0];
        let found = loss(&values);
        let by_hand = 3.0 + 2.0 * (-0.6f64).exp().ln_1p() + 0.5 * (1.5 + 2.0 * 2f64.ln());
        assert!((found.loss - by_hand).abs() < 1e-12 && (found.cosine - 0.3).abs() < 1e-12);
        let values = [0.9, 0.3, -0.7, 0.4];
        let gradient = loss(&values)
            .d_predicted
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap();
        for i in 0..4 {
            let moved = |step: f64| {
                let mut moved = values;
                moved[i] += step;
                loss(&moved).loss
            };
            let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!(
                (gradient[i] - expected).abs() < 1e-8,
                "{i}: {} {expected}",
                gradient[i]
            );
        }
    }
}
