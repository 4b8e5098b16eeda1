//! Linear head and cross-entropy over target rows in one pass, so that logits never exist for more
//! than a block of rows.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::max_of;
use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::tensor;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::few_rows;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::gemm::product_new;
use crate::ops::scalar::Scalar;
use crate::ops::scalar::read;
use crate::ops::weight::Weight;

/// Targets of the rows.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// One token for each row.
    pub ids: &'a [u32],
    /// Factor of each row in the loss.
    pub weights: &'a [f64],
    /// Share of the target's probability that is spread evenly over the vocabulary (Szegedy et al.
    /// 2016).
    pub label_smoothing: f64,
}

/// Result of [`linear_cross_entropy`], on the rows' device.
#[derive(Debug)]
pub struct CrossEntropy {
    /// Sum over rows of weight times (smoothed) negative log-likelihood, nats.
    pub loss: Scalar,
    /// Log-probability of each target, nats, neither weighted nor smoothed: `[rows]`, in `f64`, on
    /// a GPU `f32`.
    pub log_probabilities: Tensor,
    /// Gradient of `loss` with respect to the rows, `[rows, dim]`, where it was wanted.
    pub d_rows: Option<Tensor>,
}

/// The numbers of a [`CrossEntropy`], read.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// Sum over rows of weight times (smoothed) negative log-likelihood, nats.
    pub loss: f64,
    /// Log-probability of each target, nats, neither weighted nor smoothed.
    pub log_probabilities: Vec<f64>,
}

impl CrossEntropy {
    /// Reads the numbers; waits for them.
    pub fn read(&self) -> Result<Losses> {
        let numbers = read(&[self.loss.tensor(), &self.log_probabilities])?.wait()?;
        let [loss, log_probabilities] = numbers
            .try_into()
            .map_err(|_| candle_core::Error::Msg("two tensors were read as others".into()))?;
        Ok(Losses {
            loss: loss[0],
            log_probabilities,
        })
    }
}

/// Most bytes of logits and of their gradients that exist at a time on a GPU.
pub const LOGITS_BYTES: usize = 1 << 30;

/// Rows whose logits exist at a time.
const BLOCK: usize = 256;

/// Cross-entropy of `softmax(rows head^T)` against the targets; adds to the head's gradient where
/// it is trained. On a GPU nothing is waited for.
///
/// # Shapes
/// `rows`: `[rows, dim]`, `head`: `[vocab, dim]`
pub fn linear_cross_entropy(
    rows: &Tensor,
    head: &Weight,
    targets: Targets,
    want_gradient: bool,
) -> Result<CrossEntropy> {
    let (num_rows, dim) = rows.dims2()?;
    let (vocab, _) = head.value.dims2()?;
    expect_shape("the head", &head.value, &[vocab, dim])?;

    if targets.ids.len() != num_rows || targets.weights.len() != num_rows {
        candle_core::bail!(
            "{num_rows} rows have {} targets and {} weights",
            targets.ids.len(),
            targets.weights.len()
        );
    }

    if let Some(id) = targets.ids.iter().find(|&&id| id as usize >= vocab) {
        candle_core::bail!("target {id} is outside a vocabulary of {vocab}");
    }

    on_cuda!(
        rows.device(),
        crate::ops::cuda::cross_entropy::linear_cross_entropy(rows, head, targets, want_gradient)
    );

    with_real!(rows, T => {
        let xs: &[T] = &slice::<T>(rows)?;
        let w: &[T] = &slice::<T>(&head.value)?;
        let head_matrix = Matrix::new(w, vocab, dim);
        let mut d_rows = Vec::with_capacity(if want_gradient { num_rows * dim } else { 0 });

        let mut found = Vec::with_capacity(num_rows);
        for first in (0..num_rows).step_by(BLOCK) {
            let block = BLOCK.min(num_rows - first);
            let x = Matrix::new(&xs[first * dim..], block, dim);
            let mut logits = product_new(x, head_matrix.t(), 1.0, Threads::All);
            let block_found: Vec<(f64, f64)> = logits
                .par_chunks_exact_mut(vocab)
                .enumerate()
                .map(|(i, row)| {
                    vectorised(
                        #[inline(always)]
                        || one_row(row, targets.ids[first + i], targets.weights[first + i], targets.label_smoothing, want_gradient),
                    )
                })
                .collect();
            found.extend(block_found);
            if want_gradient {
                let d_logits = Matrix::new(&logits, block, vocab);
                d_rows.append(&mut product_new(d_logits, head_matrix, 1.0, Threads::All));
                if let Some(gradient) = &head.gradient {
                    write::<T>(gradient, |dw| product(dw, dim, d_logits.t(), x, 1.0, Into::Accumulate, Threads::All))?;
                }
            }
        }

        let loss = found.iter().zip(targets.weights).map(|((smoothed, _), weight)| weight * smoothed).sum::<f64>();
        let log_probabilities: Vec<f64> = found.into_iter().map(|(_, log_probability)| log_probability).collect();
        let d_rows = if want_gradient { Some(tensor(d_rows, (num_rows, dim))?) } else { None };
        Ok(CrossEntropy { loss: Scalar::new(loss, rows.device())?, log_probabilities: tensor(log_probabilities, num_rows)?, d_rows })
    })
}

/// Adds the gradient of a few rows of the head, where the others are frozen. `found` is the result
/// of [`linear_cross_entropy`] with the same rows, head and targets.
///
/// `d_k = sum_r w_r (p_rk - s / vocab - (1 - s) [t_r = k]) x_r` with
/// `p_rk = exp(x_r h_k - x_r h_{t_r} + log p_{r t_r})`, for weights `w`, smoothing `s` and targets
/// `t`. On the CPU alone.
///
/// # Shapes
/// `gradient`: `[ids, dim]`, `rows`: `[rows, dim]`, `head`: `[vocab, dim]`
pub fn head_rows_backward(
    gradient: &Tensor,
    ids: &[u32],
    rows: &Tensor,
    head: &Tensor,
    targets: Targets,
    found: &CrossEntropy,
) -> Result<()> {
    let (num_rows, dim) = rows.dims2()?;
    let (vocab, _) = head.dims2()?;
    expect_shape(
        "the gradient of rows of the head",
        gradient,
        &[ids.len(), dim],
    )?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        candle_core::bail!("row {id} is outside a head of {vocab}");
    }
    let log_probabilities = slice::<f64>(&found.log_probabilities)?;
    let smoothing = targets.label_smoothing;

    with_real!(rows, T => {
        let xs: &[T] = &slice::<T>(rows)?;
        let w: &[T] = &slice::<T>(head)?;
        let logit = |row: usize, id: u32| dot(&xs[row * dim..][..dim], &w[id as usize * dim..][..dim]);
        write::<T>(gradient, |gradient| {
            for row in 0..num_rows {
                let target = targets.ids[row];
                let log_sum = logit(row, target) - log_probabilities[row];
                for (sum, &id) in gradient.chunks_exact_mut(dim).zip(ids) {
                    let mut d_logit = (logit(row, id) - log_sum).exp() - smoothing / vocab as f64;
                    if id == target {
                        d_logit -= 1.0 - smoothing;
                    }
                    let factor = T::of(targets.weights[row] * d_logit);
                    for (sum, &x) in sum.iter_mut().zip(&xs[row * dim..][..dim]) {
                        *sum += factor * x;
                    }
                }
            }
        })
    })
}

/// `a b`, summed in `f64`.
fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum()
}

/// Smoothed negative log-likelihood and log-probability of the target; turns the row of logits into
/// their gradient.
#[inline(always)]
fn one_row<T: Real>(
    row: &mut [T],
    target: u32,
    weight: f64,
    smoothing: f64,
    want_gradient: bool,
) -> (f64, f64) {
    let vocab = row.len();
    let target = target as usize;
    let max = max_of(row);
    let at_target = (row[target] - max).wide();

    let mean_logit = if smoothing > 0.0 {
        sum_over(vocab, |i| row[i] - max).wide() / vocab as f64
    } else {
        0.0
    };

    for logit in row.iter_mut() {
        *logit = (*logit - max).exp_lanes();
    }
    let sum = sum_over(vocab, |i| row[i]);
    let log_sum = sum.wide().ln();
    let log_probability = at_target - log_sum;

    let spread = if smoothing > 0.0 {
        smoothing * (log_sum - mean_logit)
    } else {
        0.0
    };

    if want_gradient {
        let factor = T::of(weight) / sum;
        let even = T::of(weight * smoothing / vocab as f64);
        for value in row.iter_mut() {
            *value = *value * factor - even;
        }
        row[target] -= T::of(weight * (1.0 - smoothing));
    }

    (
        -(1.0 - smoothing) * log_probability + spread,
        log_probability,
    )
}

/// Logits of every row: `rows head^T`, on a GPU in `f32`.
///
/// # Shapes
/// `rows`: `[rows, dim]`, `head`: `[vocab, dim]` -> `[rows, vocab]`
pub fn logits(rows: &Tensor, head: &Weight) -> Result<Tensor> {
    let (num_rows, dim) = rows.dims2()?;
    let (vocab, _) = head.value.dims2()?;
    expect_shape("the head", &head.value, &[vocab, dim])?;
    on_cuda!(
        rows.device(),
        crate::ops::cuda::cross_entropy::logits(rows, &head.value)
    );
    if rows.dtype() == DType::F32 && num_rows <= few_rows::MOST {
        let out = head.product_few(&slice::<f32>(rows)?, num_rows)?;
        return tensor(out, (num_rows, vocab));
    }
    with_real!(rows, T => {
        let xs = slice::<T>(rows)?;
        let w = slice::<T>(&head.value)?;
        let out = product_new(Matrix::new(&xs, num_rows, dim), Matrix::new(&w, vocab, dim).t(), 1.0, Threads::All);
        tensor(out, (num_rows, vocab))
    })
}
