//! Heads: a weighted sum of layers, then CTC over frames or a classifier of summaries of clips.

use candle_core::DType;
use candle_core::Tensor;

use crate::encoder::probe::pool;
use crate::encoder::probe::reader::Features;
use crate::encoder::probe::reader::Reader;
use crate::encoder::probe::recipe::Classifier;
use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::recipe::Pool;
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

/// `logits = W x + b` per frame (CTC), or `logits = W_c f(W_p pool(x) + b_p) + b_c` per clip, of
/// `x = sum over layers of share_i h_i` with `shares = softmax(layer_weights)`.
///
/// f is the identity, or ReLU for `classifier: mlp`. If `pool` is not the mean, `pool(x)` stands
/// for `sum over layers of share_i pool(h_i)`: each layer is pooled, and then the layers are
/// summed. For means and segments this is the same.
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
    /// Summaries of clips, layer by layer, where layers are pooled before they are summed.
    pooled: Option<Vec<Tensor>>,
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
                (
                    "projector.weight",
                    vec![recipe.width, recipe.pool.num_vectors() * width],
                ),
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
        let pooled = self.pool_layers(&features)?;
        let layers = pooled.as_ref().unwrap_or(&features.layers);
        let mut x = (&layers[0] * shares[0])?;
        for (layer, &share) in layers.iter().zip(&shares).skip(1) {
            x = (x + (layer * share)?)?;
        }

        let (inputs, logits) = match self.recipe.head {
            HeadKind::Ctc => {
                let logits = self.forward_linear("lm_head", &x)?;
                (vec![x], logits)
            }
            HeadKind::Classify => {
                if pooled.is_none() && !features.is_pooled {
                    x = pool::pool(&x, &features.frames, Pool::Mean)?;
                }
                let mut projected = self.forward_linear("projector", &x)?;
                if self.recipe.classifier == Classifier::Mlp {
                    projected = projected.relu()?;
                }
                let logits = self.forward_linear("classifier", &projected)?;
                (vec![x, projected], logits)
            }
        };
        Ok(Forward {
            features,
            logits,
            shares,
            pooled,
            inputs,
        })
    }

    /// Summaries of clips by layer; `None` where they are made of the sum of the layers, or were
    /// made before, or are not read.
    fn pool_layers(&self, features: &Features) -> Result<Option<Vec<Tensor>>> {
        let kind = self.recipe.pool;
        if features.is_pooled || kind.is_mean() || self.recipe.head == HeadKind::Ctc {
            return Ok(None);
        }
        let pooled = features
            .layers
            .iter()
            .map(|layer| pool::pool(layer, &features.frames, kind))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(pooled))
    }

    /// Adds the gradients of the head, and those of the reader's encoder where it is open, from
    /// that of the logits.
    pub fn backward(&self, reader: &Reader, forward: &Forward, d_logits: &Tensor) -> Result<()> {
        let dx = match self.recipe.head {
            HeadKind::Ctc => self.backward_linear("lm_head", d_logits, &forward.inputs[0])?,
            HeadKind::Classify => {
                let projected = &forward.inputs[1];
                let mut d_projected = self.backward_linear("classifier", d_logits, projected)?;
                if self.recipe.classifier == Classifier::Mlp {
                    let is_active = projected.gt(0f32)?.to_dtype(DType::F32)?;
                    d_projected = (d_projected * is_active)?;
                }
                let d_pooled =
                    self.backward_linear("projector", &d_projected, &forward.inputs[0])?;
                let features = &forward.features;
                if forward.pooled.is_some() || features.is_pooled {
                    d_pooled
                } else {
                    pool::backward(&d_pooled, &features.layers[0], &features.frames, Pool::Mean)?
                }
            }
        };
        if self.recipe.weighted() {
            self.backward_shares(forward, &dx)?;
        }
        reader.backward(&forward.features, &|layer| {
            self.layer_gradient(forward, &dx, layer)
        })
    }

    /// Gradient of a layer that was read, from that of the sum.
    fn layer_gradient(&self, forward: &Forward, d_sum: &Tensor, layer: usize) -> Result<Tensor> {
        let d_layer = match self.recipe.weighted() {
            true => (d_sum * forward.shares[layer])?,
            false => d_sum.clone(),
        };
        if forward.pooled.is_none() {
            return Ok(d_layer);
        }
        let features = &forward.features;
        pool::backward(
            &d_layer,
            &features.layers[layer],
            &features.frames,
            self.recipe.pool,
        )
    }

    /// `d layer_weights_i += share_i (h_i . dx - sum over j of share_j h_j . dx)`.
    fn backward_shares(&self, forward: &Forward, dx: &Tensor) -> Result<()> {
        let layers = forward.pooled.as_ref().unwrap_or(&forward.features.layers);
        let along: Vec<f64> = layers
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn random(rows: usize, columns: usize, seed: u64) -> Tensor {
        let key = Key::new(seed, "test of heads");
        let values: Vec<f32> = (0..(rows * columns) as u64)
            .map(|i| key.uniform(i) as f32 - 0.5)
            .collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// `sum(logits * d)`.
    fn loss(head: &Head, x: &Tensor, d: &Tensor) -> f64 {
        let features = Features::pooled(vec![x.clone()], vec![9; 2]);
        let logits = head.forward(features).unwrap().logits;
        let products = (logits * d).unwrap().to_dtype(DType::F64).unwrap();
        products.sum_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn classifier_gradients_are_central_differences() {
        for classifier in ["linear", "mlp"] {
            let recipe: Recipe = yaml_serde::from_str(&format!(
                "{{encoder: mfcc, head: classify, data: [], dev: [], steps: 1, width: 3, pool: mean_std, classifier: {classifier}}}"
            ))
            .unwrap();
            let reader = Reader::open(&recipe).unwrap();
            let head = Head::new(&recipe, &reader, 4).unwrap();
            let x = random(2, 2 * reader.width(), 1);
            let d = random(2, 4, 2);
            let features = Features::pooled(vec![x.clone()], vec![9; 2]);
            let forward = head.forward(features).unwrap();
            head.backward(&reader, &forward, &d).unwrap();
            let found: Vec<f32> = head.parameters.gradients.to_vec1().unwrap();

            for entry in &head.parameters.entries {
                let value = head.parameters.value(entry).unwrap();
                let values: Vec<f32> = value.flatten_all().unwrap().to_vec1().unwrap();
                for i in 0..values.len() {
                    let mut sides = [0.0; 2];
                    for (side, step) in sides.iter_mut().zip([1e-3, -1e-3]) {
                        let mut moved = values.clone();
                        moved[i] += step;
                        let moved = Tensor::from_vec(moved, value.dims(), &Device::Cpu).unwrap();
                        head.parameters.set_tensor(entry, &moved).unwrap();
                        *side = loss(&head, &x, &d);
                    }
                    head.parameters.set_tensor(entry, &value).unwrap();
                    let slope = (sides[0] - sides[1]) / 2e-3;
                    let gradient = f64::from(found[entry.range.start + i]);
                    assert!(
                        (slope - gradient).abs() < 2e-3,
                        "{classifier}, {}: {slope} and {gradient}",
                        entry.name
                    );
                }
            }
        }
    }
}
