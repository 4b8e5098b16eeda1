//! Losses of heads on packed clips.

use candle_core::Device;
use candle_core::Tensor;

use crate::encoder::probe::head::Forward;
use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::rows::HeadRows;
use crate::error::Result;
use crate::objective::ctc;

/// Number of units (CTC) or clips that the loss of a step is a mean over.
pub fn total(kind: HeadKind, rows: &HeadRows, drawn: &[usize]) -> usize {
    match kind {
        HeadKind::Ctc => drawn.iter().map(|&row| rows.targets[row].len()).sum(),
        HeadKind::Classify => drawn.len(),
    }
}

/// Loss of some of a step's clips, as a part of the mean over `total`, and the gradient of the
/// logits.
pub fn loss(
    kind: HeadKind,
    rows: &HeadRows,
    pack: &[usize],
    forward: &Forward,
    total: usize,
) -> Result<(f64, Tensor)> {
    match kind {
        HeadKind::Ctc => {
            let weight = 1.0 / total.max(1) as f64;
            let frames = &forward.features.frames;
            let utterances: Vec<ctc::Utterance> = pack
                .iter()
                .zip(frames)
                .map(|(&row, &frames)| ctc::Utterance {
                    frames,
                    targets: &rows.targets[row],
                    weight,
                })
                .collect();
            let loss = ctc::ctc(&forward.logits, &utterances, 0)?;
            let mean = loss.nats.iter().sum::<f64>() / total.max(1) as f64;
            Ok((mean, loss.d_logits))
        }
        HeadKind::Classify => {
            let classes: Vec<u32> = pack.iter().map(|&row| rows.targets[row][0]).collect();
            cross_entropy(&forward.logits, &classes, 1.0 / total as f64)
        }
    }
}

/// Sum of `weight` times the negative log-likelihoods of classes, and its gradient.
fn cross_entropy(logits: &Tensor, classes: &[u32], weight: f64) -> Result<(f64, Tensor)> {
    let (rows, units) = logits.dims2()?;
    let mut values: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let mut loss = 0.0;
    for (row, &class) in values.chunks_mut(units).zip(classes) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        loss += weight * (sum.ln() - f64::from(row[class as usize] - max));
        for (i, x) in row.iter_mut().enumerate() {
            let target = if i == class as usize { 1.0 } else { 0.0 };
            *x = (weight * (f64::from(*x - max).exp() / sum - target)) as f32;
        }
    }
    let d_logits = Tensor::from_vec(values, (rows, units), &Device::Cpu)?;
    Ok((loss, d_logits))
}
