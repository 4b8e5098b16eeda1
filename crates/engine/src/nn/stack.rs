//! Projections that share an input, stacked into one layer: where their weights and adapters lie,
//! and how the layer is made of them.

use std::collections::HashMap;

use candle_core::Device;
use candle_core::Tensor;

use crate::nn::layer_norm::LayerNorm;
use crate::nn::lora::Masks;
use crate::nn::lora::Plan;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Parameters;
use crate::nn::parameters::TensorKind;
use crate::nn::parameters::taps_first;
use crate::nn::peft::key;
use crate::nn::rms_norm::RmsNorm;
use crate::nn::weights::Weights;
use crate::ops::convolution::KERNEL;
use crate::ops::device::compute_type;
use crate::ops::linear::Adapter;
use crate::ops::linear::Linear;
use crate::ops::linear::Up;
use crate::ops::weight::Weight;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// Projections of one input that are stacked into one layer.
pub struct Group {
    /// Path and number of outputs of each.
    pub members: Vec<(String, usize)>,
    /// Numbers of the input.
    pub inputs: usize,
    /// Which of them have a bias.
    pub bias: Bias,
    /// The part of the model that they belong to.
    pub part: Part,
}

/// Which projections of a group have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// All.
    All,
    /// All but the keys': adding a constant to every key changes no softmax, so the encoder has
    /// none.
    AllButKeys,
}

impl Group {
    /// Projections with these names below a stem.
    pub fn below(
        stem: &str,
        members: &[(&str, usize)],
        inputs: usize,
        bias: Bias,
        part: Part,
    ) -> Self {
        let members = members
            .iter()
            .map(|(name, outputs)| (format!("{stem}.{name}"), *outputs));
        Self {
            members: members.collect(),
            inputs,
            bias,
            part,
        }
    }

    /// Outputs of all of them.
    pub fn outputs(&self) -> usize {
        self.members.iter().map(|(_, outputs)| outputs).sum()
    }

    /// Whether the projection with this path has a bias.
    pub fn has_bias(&self, path: &str) -> bool {
        match self.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::AllButKeys => !path.ends_with("k_proj"),
        }
    }
}

/// Declares the adapters of `groups`, each group's side by side, and returns the index of a group's
/// first by the path of its first member.
pub fn declare_adapters<'a>(
    groups: impl Iterator<Item = &'a Group>,
    plan: &Plan,
    declared: &mut Declared,
) -> HashMap<String, usize> {
    let mut places = HashMap::new();
    for group in groups {
        let adapted: Vec<_> = group
            .members
            .iter()
            .filter_map(|member| Some((member, plan.modules.get(&member.0)?)))
            .collect();
        places.insert(group.members[0].0.clone(), declared.len());
        for ((path, _), shape) in &adapted {
            let shape = [shape.rank, group.inputs];
            declared.declare(key(path, 'A'), &shape, group.part, TensorKind::Adapter);
        }
        for ((path, outputs), shape) in &adapted {
            let shape = [*outputs, shape.rank];
            declared.declare(key(path, 'B'), &shape, group.part, TensorKind::Adapter);
        }
    }
    places
}

/// Weights that are trained themselves: what is declared, and where each lies in it.
#[derive(Default)]
pub struct FullWeights {
    /// Index by name.
    pub places: HashMap<String, usize>,
}

impl FullWeights {
    /// Declares one.
    pub fn add(
        &mut self,
        declared: &mut Declared,
        name: String,
        shape: &[usize],
        part: Part,
        kind: TensorKind,
    ) {
        self.places.insert(name.clone(), declared.len());
        declared.declare(name, shape, part, kind);
    }

    /// Declares those of a group as neighbours, so that they stack.
    pub fn add_group(&mut self, declared: &mut Declared, group: &Group) {
        for (path, outputs) in &group.members {
            let shape = [*outputs, group.inputs];
            let name = format!("{path}.weight");
            self.add(declared, name, &shape, group.part, TensorKind::Full);
        }
        for (path, outputs) in &group.members {
            match group.has_bias(path) {
                true => {
                    let name = format!("{path}.bias");
                    self.add(declared, name, &[*outputs], group.part, TensorKind::Full);
                }
                false if group.bias == Bias::AllButKeys => declared.gap(*outputs),
                false => {}
            }
        }
    }
}

/// Makes layers of what is stored, trained and adapted.
pub struct Builder<'a> {
    /// Source of weights.
    pub weights: &'a Weights,
    /// Places of the adapters.
    pub plan: &'a Plan,
    /// Everything that is trained.
    pub parameters: &'a Parameters,
    /// Index of a group's first parameter, by the path of its first member.
    pub places: HashMap<String, usize>,
    /// Index of the parameter of each weight that is trained itself, by its name.
    pub full: HashMap<String, usize>,
    /// Whether adapters have gradients.
    pub trained: bool,
    /// Device that computes.
    pub device: &'a Device,
}

impl Builder<'_> {
    /// A weight by its name: a view of the flat buffer if it is trained, read from the checkpoint
    /// if not.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        match self.full.get(name) {
            Some(&entry) => self.parameters.weight(entry),
            None => Ok(Weight::frozen(self.weights.on(name, shape, self.device)?)),
        }
    }

    /// A convolution's `[out, in, taps]` as the matrix that it is computed with,
    /// `[out, taps * in]`.
    pub fn convolution_weight(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        match self.full.get(name) {
            Some(&entry) => self.parameters.weight(entry),
            None => {
                let dtype = compute_type(self.device);
                let weight = taps_first(&self.weights.get(name, shape, dtype)?)?;
                Ok(Weight::frozen(
                    weight.flatten_from(1)?.to_device(self.device)?,
                ))
            }
        }
    }

    /// Scale and shift of a layer norm over `dim` numbers.
    pub fn layer_norm(&self, name: &str, dim: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.weight(&format!("{name}.weight"), &[dim])?,
            bias: self.weight(&format!("{name}.bias"), &[dim])?,
            eps: LayerNorm::EPS,
        })
    }

    /// Scale of a root-mean-square norm over `dim` numbers.
    pub fn rms_norm(&self, name: &str, dim: usize, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm {
            weight: self.weight(&format!("{name}.weight"), &[dim])?,
            eps,
        })
    }

    /// The projections of a group as one layer.
    pub fn linear(&self, group: &Group) -> Result<Linear> {
        let parts: Vec<(String, usize)> = group
            .members
            .iter()
            .map(|(path, outputs)| (format!("{path}.weight"), *outputs))
            .collect();
        if let Some(&first) = self.full.get(&parts[0].0) {
            let weight = self.parameters.stacked(first..first + parts.len())?;
            return Ok(Linear {
                weight,
                bias: self.trained_bias(group)?,
                adapter: None,
            });
        }
        let weight = self.weights.stacked(&parts, group.inputs, self.device)?;
        Ok(Linear {
            weight: Weight::frozen(weight),
            bias: self.bias(group)?.map(Weight::frozen),
            adapter: self.adapter(group)?,
        })
    }

    /// As [`Builder::linear`], joined with its adapter where that is trained.
    pub fn joined(&self, group: &Group) -> Result<Linear> {
        let mut linear = self.linear(group)?;
        if self.trained {
            linear.join()?;
        }
        Ok(linear)
    }

    /// The stacked bias of a group in full fine-tuning; where keys have none there is a gap of
    /// zeros.
    fn trained_bias(&self, group: &Group) -> Result<Option<Weight>> {
        let place = |path: &String| self.full.get(&format!("{path}.bias")).copied();
        let of_members = group.members.iter().filter_map(|(path, _)| place(path));
        match (of_members.clone().min(), of_members.max()) {
            (Some(first), Some(last)) => self.parameters.stacked(first..last + 1).map(Some),
            _ => Ok(None),
        }
    }

    fn bias(&self, group: &Group) -> Result<Option<Tensor>> {
        if group.bias == Bias::None {
            return Ok(None);
        }
        let dtype = compute_type(self.device);
        let parts = group
            .members
            .iter()
            .map(|(path, outputs)| match group.has_bias(path) {
                true => self
                    .weights
                    .get(&format!("{path}.bias"), &[*outputs], dtype),
                false => Ok(Tensor::zeros(*outputs, dtype, &Device::Cpu)?),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(Tensor::cat(&parts, 0)?.to_device(self.device)?))
    }

    /// Views of the flat buffer for a group's adapters. What is not trained gets no gradient.
    fn adapter(&self, group: &Group) -> Result<Option<Adapter>> {
        let place = self.places[&group.members[0].0];

        let mut ups = Vec::new();
        let mut column = 0;
        let mut rank = 0;
        for (path, outputs) in &group.members {
            if let Some(shape) = self.plan.modules.get(path) {
                // The place of its `lora_A`; the first module has the group's mask.
                let site = match self.plan.masks {
                    Masks::PerModule => place + ups.len(),
                    Masks::Shared => place,
                };
                ups.push((
                    column..column + outputs,
                    rank..rank + shape.rank,
                    shape.scale,
                    site as u64,
                ));
                rank += shape.rank;
            }
            column += outputs;
        }

        debug_assert_eq!(column, group.outputs());
        if ups.is_empty() {
            return Ok(None);
        }

        let down = self.adapter_weight(self.parameters.stacked(place..place + ups.len())?);
        let first_up = place + ups.len();
        let ups = ups
            .into_iter()
            .enumerate()
            .map(|(i, (columns, ranks, scale, site))| {
                Ok(Up {
                    weight: self.adapter_weight(self.parameters.weight(first_up + i)?),
                    columns,
                    ranks,
                    scale,
                    site,
                })
            })
            .collect::<Result<Vec<_>>>()?;

        Ok(Some(Adapter {
            down,
            ups,
            joined: None,
        }))
    }

    /// A tensor of an adapter, with its gradient where adapters are trained.
    fn adapter_weight(&self, weight: Weight) -> Weight {
        if self.trained {
            weight
        } else {
            Weight::frozen(weight.value)
        }
    }

    /// A convolution's `[out, in, 3]` as a linear layer over unfolded rows, `[out, 3 in]`.
    pub fn convolution(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        self.unfolded(name, &[outputs, inputs, KERNEL])
    }

    /// A convolution over two axes, `[out, in, 3, 3]`, as a linear layer over unfolded rows,
    /// `[out, 9 in]`.
    pub fn convolution2d(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        self.unfolded(name, &[outputs, inputs, KERNEL, KERNEL])
    }

    fn unfolded(&self, name: &str, shape: &[usize]) -> Result<Linear> {
        let outputs = shape[0];
        Ok(Linear {
            weight: self.convolution_weight(&format!("{name}.weight"), shape)?,
            bias: Some(self.weight(&format!("{name}.bias"), &[outputs])?),
            adapter: None,
        })
    }
}
