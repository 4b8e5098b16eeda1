//! Checks of the loss over the vocabulary and of the update.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::bench::check::on::Bench;
use crate::bench::check::sample::Finding;
use crate::bench::check::sample::ROUNDED;
use crate::bench::check::sample::SINGLE;
use crate::bench::check::sample::TWICE;
use crate::bench::check::sample::exact;
use crate::bench::check::sample::exact_rows;
use crate::bench::check::sample::flat;
use crate::bench::check::sample::random;
use crate::bench::check::sample::rows_of;
use crate::ops::adamw;
use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Clip;
use crate::ops::adamw::Segment;
use crate::ops::cross_entropy::Targets;
use crate::ops::cross_entropy::linear_cross_entropy;
use crate::ops::device;
use crate::ops::scalar::Scalar;
use crate::ops::weight::Weight;
use crate::seed::Key;

/// The loss of sampled rows, which alone have a weight, so that the whole loss is theirs; and the
/// gradient of all rows.
pub fn cross_entropy(bench: &Bench, _: usize) -> Result<Finding> {
    let vocab = bench.sizes.vocab;
    let hidden = bench.sizes.hidden;
    let total = bench.sizes.targets;
    // Logits of a deviation of three: a few tokens have most of the probability.
    let head = random(
        bench.device,
        "head",
        &[vocab, hidden],
        3.0 / (hidden as f64).sqrt(),
    )?;
    let x = random(bench.device, "x", &[total, hidden], 1.0)?;
    let key = Key::new(1, "targets");
    let ids: Vec<u32> = (0..total as u64)
        .map(|i| key.below(i, vocab) as u32)
        .collect();
    let rows = rows_of(total, bench.sizes.rows);
    let mut weights = vec![0.0; total];
    rows.iter().for_each(|&row| weights[row] = 0.25);
    let targets = |ids, weights| Targets {
        ids,
        weights,
        label_smoothing: 0.1,
    };
    let frozen = Weight::frozen(head.clone());
    let found = linear_cross_entropy(&x, &frozen, targets(&ids, &weights), true)?;

    let sampled: Vec<u32> = rows.iter().map(|&row| ids[row]).collect();
    let expected = linear_cross_entropy(
        &exact_rows(&x, &rows)?,
        &Weight::frozen(exact(&head)?),
        targets(&sampled, &vec![0.25; rows.len()]),
        true,
    )?;
    let losses = found.read()?;
    let exact_losses = expected.read()?;
    let mut finding = Finding::new(bench.device, format!("{total} x {hidden} -> {vocab}"));
    finding.numbers("loss", &[losses.loss as f32], &[exact_losses.loss], SINGLE);
    let log_probabilities: Vec<f32> = rows
        .iter()
        .map(|&row| losses.log_probabilities[row] as f32)
        .collect();
    let exact_ones = &exact_losses.log_probabilities;
    finding.numbers("log-probabilities", &log_probabilities, exact_ones, SINGLE);
    let (Some(d_rows), Some(exact_d_rows)) = (found.d_rows, expected.d_rows) else {
        candle_core::bail!("a loss without the gradient of its rows")
    };
    finding.rows(
        "gradient of the rows",
        &d_rows,
        &rows,
        &flat(&exact_d_rows)?,
        TWICE,
    )?;
    Ok(finding)
}

/// Uniform numbers in single precision on the device, and on the host.
fn flat_numbers(bench: &Bench, name: &str, len: usize) -> Result<(Tensor, Vec<f32>)> {
    let key = Key::new(6, name);
    let values: Vec<f32> = (0..len as u64)
        .into_par_iter()
        .map(|i| 2.0 * key.uniform(i) as f32 - 1.0)
        .collect();
    let tensor = device::zeros_f32(len, bench.device)?;
    device::write_stretch(&tensor, 0..len, &values)?;
    Ok((tensor, values))
}

/// One update of all trained numbers against the paper's formula.
pub fn adamw(bench: &Bench, _: usize) -> Result<Finding> {
    /// Some roundings of single precision, three times over.
    const BAR: f64 = 2e-6;
    /// Numbers of a stretch that is compared.
    const STRETCH: usize = 16;
    let len = bench.sizes.trained;
    let settings = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let segment = Segment {
        range: 0..len,
        learning_rate: 1e-2,
        decay: true,
        step: 3,
    };
    let (values, old_values) = flat_numbers(bench, "values", len)?;
    let (gradients, old_gradients) = flat_numbers(bench, "gradients", len)?;
    let (first, old_first) = flat_numbers(bench, "first moments", len)?;
    let (second, mut old_second) = flat_numbers(bench, "second moments", len)?;
    old_second.par_iter_mut().for_each(|x| *x = x.abs());
    device::write_stretch(&second, 0..len, &old_second)?;
    let copy = if bench.device.is_cpu() {
        None
    } else {
        let copy = device::zeros_f32(len, bench.device)?.to_dtype(DType::BF16)?;
        device::fill(&copy, 1.0)?;
        Some(copy)
    };
    let norm = adamw::norm(&gradients)?;
    let buffers = Buffers {
        values: &values,
        gradients: &gradients,
        first: &first,
        second: &second,
        copy: copy.as_ref(),
    };
    let clip = Clip {
        loss: &Scalar::new(1.0, bench.device)?,
        norm: &norm,
        max_norm: 1.0,
    };
    let max_norm = clip.max_norm;
    settings.update(buffers, std::slice::from_ref(&segment), clip)?;

    let squares: f64 = old_gradients
        .par_chunks(1 << 16)
        .map(|chunk| chunk.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>())
        .collect::<Vec<_>>()
        .into_iter()
        .sum();
    let factor = (max_norm / (squares.sqrt() + 1e-6)).min(1.0);
    let starts = rows_of(len / STRETCH, bench.sizes.rows);
    let places: Vec<usize> = starts
        .iter()
        .flat_map(|start| start * STRETCH..(start + 1) * STRETCH)
        .chain([len - 1])
        .collect();
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for &i in &places {
        let gradient = factor * f64::from(old_gradients[i]);
        let first = 0.9 * f64::from(old_first[i]) + 0.1 * gradient;
        let second = 0.999 * f64::from(old_second[i]) + 0.001 * gradient * gradient;
        let unbiased = first / (1.0 - 0.9f64.powi(3));
        let root = (second / (1.0 - 0.999f64.powi(3))).sqrt();
        let kept = f64::from(old_values[i]) * (1.0 - 1e-2 * 0.01);
        expected[0].push(kept - 1e-2 * unbiased / (root + 1e-8));
        expected[1].push(first);
        expected[2].push(second);
    }
    let mut finding = Finding::new(bench.device, len.to_string());
    let names = ["values", "first moments", "second moments"];
    for ((name, found), expected) in names
        .into_iter()
        .zip([&values, &first, &second])
        .zip(&expected)
    {
        see(&mut finding, name, found, &places, expected, BAR)?;
    }
    if let Some(copy) = &copy {
        see(
            &mut finding,
            "values to compute with",
            copy,
            &places,
            &expected[0],
            ROUNDED,
        )?;
    }
    Ok(finding)
}

/// Compares some numbers of a flat tensor, and looks at all of them.
fn see(
    finding: &mut Finding,
    name: &'static str,
    found: &Tensor,
    places: &[usize],
    expected: &[f64],
    bar: f64,
) -> Result<()> {
    let all = device::to_host(found)?;
    let picked: Vec<f32> = places.iter().map(|&i| all[i]).collect();
    finding.numbers(name, &picked, expected, bar);
    finding.whole(name, &all, places.len());
    Ok(())
}

/// Length of the whole gradient.
pub fn gradient_norm(bench: &Bench, _: usize) -> Result<Finding> {
    let len = bench.sizes.trained;
    let (gradients, values) = flat_numbers(bench, "gradients", len)?;
    let found = adamw::norm(&gradients)?.value()?;
    let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    let mut finding = Finding::new(bench.device, len.to_string());
    finding.numbers("norm", &[found as f32], &[squares.sqrt()], 1e-6);
    Ok(finding)
}
