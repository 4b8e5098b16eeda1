//! An auxiliary CTC loss on audio embeddings: a linear head that spells a clip's transcript from
//! the projector's output, forward and backward.

use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use crate::batch::Audio;
use crate::batch::Batch;
use crate::objective::ctc;
use crate::objective::ctc::Utterance;
use crate::ops::layout::Layout;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::norm::rms_norm;
use crate::ops::norm::rms_norm_backward;
use crate::ops::rows::gather;
use crate::ops::weight::Weight;

/// Names of the head's tensors among the parameters.
pub const NAMES: [&str; 2] = ["ctc.weight", "ctc.bias"];

/// Place of the blank among the units. The characters follow it.
const BLANK: u32 = 0;

/// `logits = W n(e) + b`, where `e` are audio embeddings and `n(e) = e / rms(e)`.
///
/// The norm has no weight. It makes the head independent of the size of token embeddings, as the
/// norms of the decoder's layers are.
#[derive(Debug)]
pub struct CtcHead {
    linear: Linear,
    /// Weight of the norm: ones, `[hidden]`.
    ones: Tensor,
    eps: f64,
}

/// Transcript of a clip of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Transcript<'a> {
    /// Place of the clip among those of the batch.
    pub clip: usize,
    /// Units that it spells: places of its characters, from 1.
    pub units: &'a [u32],
    /// Factor of the clip's negative log-likelihood in the loss.
    pub weight: f64,
}

/// Losses of the transcripts of a batch, and the gradient of their weighted sum.
pub struct CtcLosses {
    /// Negative log-likelihood of each transcript, nats; infinite where the clip has too few audio
    /// tokens to spell it. Such a clip has no gradient.
    pub nats: Vec<f64>,
    /// Places of the audio embeddings that have a gradient, among those of the batch.
    pub places: Vec<u32>,
    /// Their gradients, `[places, hidden]`.
    pub d_embeddings: Tensor,
}

impl CtcHead {
    /// A head with these parameters: weight `[units, hidden]` and bias `[units]`.
    pub fn new(weight: Weight, bias: Weight, eps: f64) -> Result<Self> {
        let (_, hidden) = weight.value.dims2()?;
        let ones = Tensor::ones(hidden, weight.value.dtype(), weight.value.device())?;
        let linear = Linear {
            weight,
            bias: Some(bias),
            adapter: None,
        };
        Ok(Self { linear, ones, eps })
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        self.linear.weights_mut()
    }

    /// Losses of transcripts, whose clips are in the order of the batch. Adds to the gradients of
    /// the head.
    ///
    /// # Shapes
    /// `x`: `[tokens, hidden]`, input of the decoder
    pub fn train(
        &self,
        x: &Tensor,
        batch: &Batch,
        transcripts: &[Transcript<'_>],
    ) -> Result<CtcLosses> {
        let starts = batch.audio.as_ref().map(token_starts).unwrap_or_default();
        let mut places = Vec::new();
        let mut utterances = Vec::with_capacity(transcripts.len());
        for transcript in transcripts {
            let Some([start, end]) = starts.get(transcript.clip..transcript.clip + 2) else {
                candle_core::bail!("a transcript of clip {} of too few", transcript.clip);
            };
            places.extend(*start..*end);
            utterances.push(Utterance {
                frames: (end - start) as usize,
                targets: transcript.units,
                weight: transcript.weight,
            });
        }

        let rows: Vec<u32> = places
            .iter()
            .map(|&place| batch.audio_rows[place as usize])
            .collect();
        let e = gather(x, &rows)?;
        let (normed, inverse) = rms_norm(&e, &self.ones, self.eps, Layout::DENSE)?;
        let (logits, _) = self.linear.forward(&normed, None, AdapterDropout::NONE)?;
        let loss = ctc::ctc(&logits, &utterances, BLANK)?;
        let d_normed =
            self.linear
                .backward_to_input(&loss.d_logits, &normed, None, AdapterDropout::NONE)?;
        let d_embeddings = rms_norm_backward(
            &d_normed,
            &e,
            &self.ones,
            &inverse,
            None,
            None,
            Layout::DENSE,
        )?;
        Ok(CtcLosses {
            nats: loss.nats,
            places,
            d_embeddings,
        })
    }
}

/// Place of each clip's first token among the audio tokens of a batch, and their number.
fn token_starts(audio: &Audio) -> Vec<u32> {
    let mut starts = vec![0];
    let mut end = 0;
    for &positions in &audio.clip_positions {
        end += audio.framing.tokens_of(positions) as u32;
        starts.push(end);
    }
    starts
}

/// Code points of characters, as a checkpoint stores them, `[characters]`.
pub fn code_points(characters: &[char]) -> Result<Tensor> {
    let points: Vec<u32> = characters.iter().map(|&c| u32::from(c)).collect();
    Tensor::new(points, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Framing;

    const UNITS: usize = 4;
    const HIDDEN: usize = 5;

    /// Two clips of 3 and 4 audio tokens among 9 tokens, of which the second is spelled.
    fn batch() -> Batch {
        let audio = Audio {
            framing: Framing::from(200),
            mels: 1,
            features: Vec::new(),
            windows: Vec::new(),
            positions: Vec::new(),
            attended: Vec::new(),
            clip_positions: vec![6, 9],
            position_keys: Vec::new(),
        };
        let mut batch = Batch::pack(&[], 200).unwrap();
        batch.audio = Some(audio);
        batch.audio_rows = vec![1, 2, 3, 5, 6, 7, 8];
        batch
    }

    fn values(seed: usize, count: usize) -> Vec<f64> {
        (0..count)
            .map(|i| ((i + seed) as f64 * 1.3).sin())
            .collect()
    }

    fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    /// Loss, and gradients of the embeddings, the weight and the bias.
    fn train(x: &[f64], w: &[f64], b: &[f64]) -> (f64, [Vec<f64>; 3]) {
        let trained = |values: &[f64], shape: &[usize]| {
            let value = tensor(values, shape);
            let gradient = value.zeros_like().unwrap();
            Weight::trained(value, gradient)
        };
        let weight = trained(w, &[UNITS, HIDDEN]);
        let bias = trained(b, &[UNITS]);
        let gradients = [&weight, &bias].map(|weight| weight.gradient.clone().unwrap());
        let head = CtcHead::new(weight, bias, 1e-6).unwrap();
        let transcript = Transcript {
            clip: 1,
            units: &[2, 2],
            weight: 0.7,
        };
        let found = head
            .train(&tensor(x, &[9, HIDDEN]), &batch(), &[transcript])
            .unwrap();
        assert_eq!(found.places, [3, 4, 5, 6]);
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let d_x = flat(&found.d_embeddings);
        let [d_w, d_b] = gradients.each_ref().map(flat);
        (0.7 * found.nats[0], [d_x, d_w, d_b])
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let inputs = [
            values(0, 9 * HIDDEN),
            values(7, UNITS * HIDDEN),
            values(3, UNITS),
        ];
        let loss = |inputs: &[Vec<f64>; 3]| train(&inputs[0], &inputs[1], &inputs[2]);
        let (_, gradients) = loss(&inputs);
        // The spelled clip has the tokens 5 to 8.
        for (which, first) in [(0, 5 * HIDDEN), (1, 0), (2, 0)] {
            for (i, found) in gradients[which].iter().enumerate() {
                let moved = |step: f64| {
                    let mut moved = inputs.clone();
                    moved[which][first + i] += step;
                    loss(&moved).0
                };
                let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!(
                    (found - expected).abs() < 1e-7,
                    "{which} {i}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn the_head_does_not_see_the_size_of_embeddings() {
        let x = values(0, 9 * HIDDEN);
        let w = values(7, UNITS * HIDDEN);
        let b = values(3, UNITS);
        let small: Vec<f64> = x.iter().map(|x| 0.1 * x).collect();
        let difference = train(&x, &w, &b).0 - train(&small, &w, &b).0;
        // The norm adds 1e-6 to a mean square of about 0.005.
        assert!(difference.abs() < 1e-3, "{difference}");
    }
}
