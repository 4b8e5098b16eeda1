//! Heads: a weighted sum of layers, then CTC over frames or a classifier of means over time.

use candle_core::Tensor;

use crate::encoder::probe::reader::Features;
use crate::encoder::probe::reader::Reader;
use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::recipe::Recipe;
use crate::error::Error;
use crate::error::Result;
use crate::models::hubert;
use crate::models::hubert::head_parameters;
use crate::nn::parameters::Parameters;
use crate::ops::cpu::write;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;
use crate::seed::Key;

/// `logits = W x + b` per frame (CTC), or `logits = W_c (W_p mean(x) + b_p) + b_c` per clip, of
/// `x = sum over layers of share_i h_i` with `shares = softmax(layer_weights)`.
pub struct Head<'a> {
    recipe: &'a Recipe,
    /// Tensors of the head.
    pub parameters: Parameters,
}

/// Results of a head's forward.
pub struct Forward {
    /// Features that were read.
    pub features: Features,
    /// Logits of frames or of clips.
    pub logits: Tensor,
    shares: Vec<f64>,
    /// Input of each linear layer, in their order.
    inputs: Vec<Tensor>,
}

impl<'a> Head<'a> {
    /// A head before training.
    pub fn new(recipe: &'a Recipe, reader: &Reader, num_units: usize) -> Result<Self> {
        let width = reader.width();
        let mut shapes: Vec<(&str, Vec<usize>)> = match recipe.head {
            HeadKind::Ctc => vec![
                ("lm_head.weight", vec![num_units, width]),
                ("lm_head.bias", vec![num_units]),
            ],
            HeadKind::Classify => vec![
                ("projector.weight", vec![recipe.width, width]),
                ("projector.bias", vec![recipe.width]),
                ("classifier.weight", vec![num_units, recipe.width]),
                ("classifier.bias", vec![num_units]),
            ],
        };
        if recipe.weighted() {
            shapes.push(("layer_weights", vec![reader.num_layers()]));
        }
        let tensors: Vec<hubert::Head> = shapes
            .into_iter()
            .map(|(name, shape)| hubert::Head {
                name: name.to_owned(),
                deviation: 1.0 / (shape.last().copied().unwrap_or(1) as f64).sqrt(),
                shape,
            })
            .collect();
        Ok(Self {
            recipe,
            parameters: head_parameters(&tensors, Key::new(recipe.seed, "heads").state())?,
        })
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let place = self
            .parameters
            .entries
            .iter()
            .position(|entry| entry.name == name);
        let place = place.ok_or_else(|| Error::bug(format!("no head `{name}`")))?;
        self.parameters.weight(place)
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight(&format!("{name}.weight"))?,
            bias: Some(self.weight(&format!("{name}.bias"))?),
            adapter: None,
        })
    }

    fn forward_linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let (y, _) = self.linear(name)?.forward(x, None, AdapterDropout::NONE)?;
        Ok(y)
    }

    fn backward_linear(&self, name: &str, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let linear = self.linear(name)?;
        Ok(linear.backward_to_input(dy, x, None, AdapterDropout::NONE)?)
    }

    /// Shares of the layers in the sum.
    pub fn shares(&self) -> Result<Vec<f64>> {
        if !self.recipe.weighted() {
            return Ok(vec![1.0]);
        }
        let raw: Vec<f32> = self.weight("layer_weights")?.value.to_vec1()?;
        let max = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = raw.iter().map(|&x| f64::from(x - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        Ok(powers.into_iter().map(|power| power / sum).collect())
    }

    /// Logits, and what the backward needs.
    ///
    /// # Shapes
    /// -> `[frames, units]` (CTC), `[clips, units]`
    pub fn forward(&self, features: Features) -> Result<Forward> {
        let shares = self.shares()?;
        let mut x = (&features.layers[0] * shares[0])?;
        for (layer, &share) in features.layers.iter().zip(&shares).skip(1) {
            x = (x + (layer * share)?)?;
        }

        let (inputs, logits) = match self.recipe.head {
            HeadKind::Ctc => {
                let logits = self.forward_linear("lm_head", &x)?;
                (vec![x], logits)
            }
            HeadKind::Classify => {
                let pooled = means(&x, &features.frames)?;
                let projected = self.forward_linear("projector", &pooled)?;
                let logits = self.forward_linear("classifier", &projected)?;
                (vec![pooled, projected], logits)
            }
        };
        Ok(Forward {
            features,
            logits,
            shares,
            inputs,
        })
    }

    /// Adds the gradients of the head, and those of the reader's encoder where it is open, from
    /// that of the logits.
    pub fn backward(&self, reader: &Reader, forward: &Forward, d_logits: &Tensor) -> Result<()> {
        let dx = match self.recipe.head {
            HeadKind::Ctc => self.backward_linear("lm_head", d_logits, &forward.inputs[0])?,
            HeadKind::Classify => {
                let d_projected =
                    self.backward_linear("classifier", d_logits, &forward.inputs[1])?;
                let d_pooled =
                    self.backward_linear("projector", &d_projected, &forward.inputs[0])?;
                means_backward(&d_pooled, &forward.features.frames)?
            }
        };
        if self.recipe.weighted() {
            self.backward_shares(forward, &dx)?;
        }
        reader.backward(&forward.features, dx, &forward.shares)
    }

    /// `d layer_weights_i += share_i (h_i . dx - sum over j of share_j h_j . dx)`.
    fn backward_shares(&self, forward: &Forward, dx: &Tensor) -> Result<()> {
        let along: Vec<f64> = forward
            .features
            .layers
            .iter()
            .map(|layer| Ok(f64::from((layer * dx)?.sum_all()?.to_scalar::<f32>()?)))
            .collect::<Result<_>>()?;
        let mean: f64 = along.iter().zip(&forward.shares).map(|(a, s)| a * s).sum();
        if let Some(gradient) = &self.weight("layer_weights")?.gradient {
            write::<f32>(gradient, |d| {
                for ((d, along), share) in d.iter_mut().zip(&along).zip(&forward.shares) {
                    *d += (share * (along - mean)) as f32;
                }
            })?;
        }
        Ok(())
    }
}

/// Mean over the rows of each clip, `[clips, dim]`.
fn means(x: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let mut start = 0;
    let mut means = Vec::new();
    for &len in frames {
        means.push(x.narrow(0, start, len)?.mean_keepdim(0)?);
        start += len;
    }
    Ok(Tensor::cat(&means, 0)?.contiguous()?)
}

/// Gradient of [`means`]' input.
fn means_backward(d: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let (_, dim) = d.dims2()?;
    let mut rows = Vec::new();
    for (i, &len) in frames.iter().enumerate() {
        rows.push((d.narrow(0, i, 1)? / len as f64)?.broadcast_as((len, dim))?);
    }
    Ok(Tensor::cat(&rows, 0)?.contiguous()?)
}
