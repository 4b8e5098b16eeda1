//! From a configuration, weights and a plan of adapters to a model: names in the checkpoint are known here and nowhere else.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::model::audio_encoder::AudioEncoder;
use crate::model::audio_encoder::EncoderLayer;
use crate::model::audio_encoder::LayerNorm;
use crate::model::audio_encoder::sinusoids;
use crate::model::checkpoint::EMBEDDINGS;
use crate::model::checkpoint::HEAD;
use crate::model::config::Config;
use crate::model::decoder::DecoderLayer;
use crate::model::lora::Masks;
use crate::model::lora::PROJECTOR;
use crate::model::lora::Plan;
use crate::model::lora::decoder_layer;
use crate::model::lora::encoder_layer;
use crate::model::parameters::Declared;
use crate::model::parameters::Kind;
use crate::model::parameters::Parameters;
use crate::model::peft::KeyForm;
use crate::model::peft::key;
use crate::model::weights::Weights;
use crate::ops::convolution::KERNEL;
use crate::ops::device::compute_type;
use crate::ops::linear::Adapter;
use crate::ops::linear::Linear;
use crate::ops::linear::ROOM;
use crate::ops::linear::Up;
use crate::ops::linear::Weight;
use maqam_base::error::Result;
use maqam_base::parts::Part;
use maqam_base::parts::PerPart;

/// Projections of one input that are stacked into one layer.
struct Group {
    /// Path and number of outputs of each.
    members: Vec<(String, usize)>,
    inputs: usize,
    bias: Bias,
    part: Part,
}

#[derive(Clone, Copy, PartialEq)]
enum Bias {
    None,
    All,
    /// All but the keys': adding a constant to every key changes no softmax, so the encoder has none.
    AllButKeys,
}

impl Group {
    fn outputs(&self) -> usize {
        self.members.iter().map(|(_, outputs)| outputs).sum()
    }

    fn has_bias(&self, path: &str) -> bool {
        match self.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::AllButKeys => !path.ends_with("k_proj"),
        }
    }
}

/// The parts of a model, built.
pub(super) struct Built {
    pub encoder: AudioEncoder,
    pub projector: Linear,
    pub embeddings: Weight,
    pub layers: Vec<DecoderLayer>,
    pub final_norm: Weight,
    pub head: Weight,
    pub parameters: Parameters,
}

/// Loads every weight the thinker needs for audio and text, and puts adapters where the plan wants them.
pub(super) fn build(
    config: &Config,
    weights: &Weights,
    plan: &Plan,
    trained: bool,
    device: &Device,
) -> Result<Built> {
    let groups = Groups::of(config);
    let mut declared = Declared::default();
    let mut places = HashMap::new();
    for group in groups.all() {
        let adapted: Vec<_> = group
            .members
            .iter()
            .filter_map(|member| Some((member, plan.modules.get(&member.0)?)))
            .collect();
        places.insert(group.members[0].0.clone(), declared.len());
        for ((path, _), shape) in &adapted {
            declared.declare(
                key(path, 'A', KeyForm::Full),
                &[shape.rank, group.inputs],
                group.part,
                Kind::Adapter,
            );
        }
        for ((path, outputs), shape) in &adapted {
            declared.declare(
                key(path, 'B', KeyForm::Full),
                &[*outputs, shape.rank],
                group.part,
                Kind::Adapter,
            );
        }
    }
    let has_head = !config.text.tie_word_embeddings && weights.has(HEAD);
    let full = if trained {
        full_weights(config, &groups, &plan.full, has_head, &mut declared)
    } else {
        HashMap::new()
    };
    let mut parameters = declared.allocate(device)?;
    for entry in parameters
        .entries
        .iter()
        .filter(|entry| entry.kind != Kind::Adapter)
    {
        parameters.set_tensor(entry, &weights.get(&entry.name, &entry.shape, DType::F32)?)?;
    }
    let builder = Builder {
        config,
        weights,
        plan,
        parameters: &parameters,
        places,
        full,
        trained,
        device,
    };

    let encoder = builder.encoder(&groups)?;
    let projector = builder.linear(&groups.projector)?;
    let table = [config.text.vocab_size, config.text.hidden_size];
    let embeddings = builder.weight(EMBEDDINGS, &table)?;
    let layers = groups
        .decoder
        .iter()
        .enumerate()
        .map(|(i, groups)| builder.decoder_layer(i, groups))
        .collect::<Result<Vec<_>>>()?;
    let final_norm = builder.weight(FINAL_NORM, &[config.text.hidden_size])?;
    // A tied head shares the embeddings' gradient too: both add to it.
    let head = if has_head {
        builder.weight(HEAD, &table)?
    } else {
        embeddings.clone()
    };
    parameters.copies = copies(&layers)?;
    Ok(Built {
        encoder,
        projector,
        embeddings,
        layers,
        final_norm,
        head,
        parameters,
    })
}

/// Adapters of decoder layers, and where copies of them lie beside the weights they adapt.
pub(super) fn copies(layers: &[DecoderLayer]) -> Result<Vec<(Tensor, Tensor)>> {
    let linears = layers
        .iter()
        .flat_map(|layer| [&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
    let copies = linears
        .map(Linear::copies)
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(copies.concat())
}

const TOWER: &str = "thinker.audio_tower";
const FINAL_NORM: &str = "thinker.model.norm.weight";

/// Declares the weights of the parts that are trained whole, in the order of the computation, and tells where each lies.
/// Those of one group are neighbours, so that they stack.
fn full_weights(
    config: &Config,
    groups: &Groups,
    parts: &[Part],
    has_head: bool,
    declared: &mut Declared,
) -> HashMap<String, usize> {
    let (audio, text) = (&config.audio, &config.text);
    let mut places = HashMap::new();
    let mut add =
        |declared: &mut Declared, name: String, shape: &[usize], part: Part, kind: Kind| {
            places.insert(name.clone(), declared.len());
            declared.declare(name, shape, part, kind);
        };
    let mut add_group = |declared: &mut Declared, group: &Group| {
        for (path, outputs) in &group.members {
            add(
                declared,
                format!("{path}.weight"),
                &[*outputs, group.inputs],
                group.part,
                Kind::Full,
            );
        }
        for (path, outputs) in &group.members {
            match group.has_bias(path) {
                true => add(
                    declared,
                    format!("{path}.bias"),
                    &[*outputs],
                    group.part,
                    Kind::Full,
                ),
                false if group.bias == Bias::AllButKeys => declared.gap(*outputs),
                false => {}
            }
        }
    };
    if parts.contains(&Part::AudioEncoder) {
        groups
            .encoder
            .iter()
            .flatten()
            .for_each(|group| add_group(declared, group));
    }
    if parts.contains(&Part::Projector) {
        add_group(declared, &groups.projector);
    }
    if parts.contains(&Part::Decoder) {
        groups
            .decoder
            .iter()
            .flatten()
            .for_each(|group| add_group(declared, group));
    }
    if parts.contains(&Part::AudioEncoder) {
        for (conv, inputs) in [("conv1", audio.num_mel_bins), ("conv2", audio.d_model)] {
            add(
                declared,
                format!("{TOWER}.{conv}.weight"),
                &[audio.d_model, inputs, KERNEL],
                Part::AudioEncoder,
                Kind::Convolution,
            );
            add(
                declared,
                format!("{TOWER}.{conv}.bias"),
                &[audio.d_model],
                Part::AudioEncoder,
                Kind::Full,
            );
        }
        let norms = (0..audio.encoder_layers)
            .flat_map(|i| ENCODER_NORMS.map(|norm| format!("{}.{norm}", encoder_layer(i))));
        for norm in norms.chain([format!("{TOWER}.ln_post")]) {
            for half in ["weight", "bias"] {
                add(
                    declared,
                    format!("{norm}.{half}"),
                    &[audio.d_model],
                    Part::AudioEncoder,
                    Kind::Full,
                );
            }
        }
    }
    if parts.contains(&Part::Decoder) {
        let norms = (0..text.num_hidden_layers)
            .flat_map(|i| DECODER_NORMS.map(|norm| format!("{}.{norm}.weight", decoder_layer(i))));
        for norm in norms.chain([FINAL_NORM.to_owned()]) {
            add(
                declared,
                norm,
                &[text.hidden_size],
                Part::Decoder,
                Kind::Full,
            );
        }
        for name in [EMBEDDINGS].into_iter().chain(has_head.then_some(HEAD)) {
            add(
                declared,
                name.to_owned(),
                &[text.vocab_size, text.hidden_size],
                Part::Decoder,
                Kind::Full,
            );
        }
    }
    places
}

/// Of each linear of the decoder's layers that a plan adapts: inputs, outputs, and the room that it is joined with ([`Linear::join`]).
pub(super) fn joined(config: &Config, plan: &Plan) -> Vec<(usize, usize, usize)> {
    let ranks = |group: &Group| {
        group
            .members
            .iter()
            .filter_map(|(path, _)| plan.modules.get(path))
            .map(|shape| shape.rank)
            .sum::<usize>()
    };
    let groups = Groups::of(config).decoder;
    groups
        .iter()
        .flatten()
        .map(|group| {
            (
                group.inputs,
                group.outputs(),
                ranks(group).next_multiple_of(ROOM),
            )
        })
        .filter(|(_, _, room)| *room > 0)
        .collect()
}

/// Numbers for each token that dropout holds on a card at its highest: the input's gradient of a mask, and that of the masks before it
/// where a layer has several.
pub(super) fn dropped(config: &Config, plan: &Plan) -> PerPart<usize> {
    let groups = Groups::of(config);
    let of = |group: &Group| {
        let adapted = |(path, _): &&(String, usize)| plan.modules.contains_key(path);
        let modules = group.members.iter().filter(adapted).count();
        let masks = match plan.masks {
            Masks::PerModule => modules,
            Masks::Shared => modules.min(1),
        };
        masks.min(2) * group.inputs
    };
    PerPart::from_fn(|part| {
        let of_part = groups.all().filter(|group| group.part == part);
        let largest = of_part.map(of).max().unwrap_or(0);
        if plan.dropout > 0.0 { largest } else { 0 }
    })
}

/// Name and shape of every weight that can be trained whole.
pub(super) fn weight_shapes(config: &Config) -> HashMap<String, Vec<usize>> {
    let mut declared = Declared::default();
    full_weights(
        config,
        &Groups::of(config),
        &Part::ALL,
        !config.text.tie_word_embeddings,
        &mut declared,
    );
    declared
        .into_entries()
        .into_iter()
        .map(|entry| (entry.name, entry.shape))
        .collect()
}

const ENCODER_NORMS: [&str; 2] = ["self_attn_layer_norm", "final_layer_norm"];
const DECODER_NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// The stacked layers of a model: four to a transformer layer, in the order of the computation.
struct Groups {
    encoder: Vec<[Group; 4]>,
    projector: Group,
    decoder: Vec<[Group; 4]>,
}

impl Groups {
    fn of(config: &Config) -> Self {
        let (audio, text) = (&config.audio, &config.text);
        let group = |stem: &str, members: &[(&str, usize)], inputs, bias, part| Group {
            members: members
                .iter()
                .map(|(name, outputs)| (format!("{stem}.{name}"), *outputs))
                .collect(),
            inputs,
            bias,
            part,
        };
        let (d, ffn) = (audio.d_model, audio.encoder_ffn_dim);
        let encoder = (0..audio.encoder_layers)
            .map(|i| {
                let (stem, part) = (encoder_layer(i), Part::AudioEncoder);
                [
                    group(
                        &stem,
                        &[
                            ("self_attn.q_proj", d),
                            ("self_attn.k_proj", d),
                            ("self_attn.v_proj", d),
                        ],
                        d,
                        Bias::AllButKeys,
                        part,
                    ),
                    group(&stem, &[("self_attn.out_proj", d)], d, Bias::All, part),
                    group(&stem, &[("fc1", ffn)], d, Bias::All, part),
                    group(&stem, &[("fc2", d)], ffn, Bias::All, part),
                ]
            })
            .collect();
        let (dim, ffn, heads) = (text.hidden_size, text.intermediate_size, text.heads());
        let (q, kv) = (heads.query_width(), heads.kv_width());
        let decoder = (0..text.num_hidden_layers)
            .map(|i| {
                let (stem, part) = (decoder_layer(i), Part::Decoder);
                [
                    group(
                        &stem,
                        &[
                            ("self_attn.q_proj", q),
                            ("self_attn.k_proj", kv),
                            ("self_attn.v_proj", kv),
                        ],
                        dim,
                        Bias::All,
                        part,
                    ),
                    group(&stem, &[("self_attn.o_proj", dim)], q, Bias::None, part),
                    group(
                        &stem,
                        &[("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)],
                        dim,
                        Bias::None,
                        part,
                    ),
                    group(&stem, &[("mlp.down_proj", dim)], ffn, Bias::None, part),
                ]
            })
            .collect();
        let projector = Group {
            members: vec![(PROJECTOR.to_owned(), audio.output_dim)],
            inputs: d,
            bias: Bias::All,
            part: Part::Projector,
        };
        Self {
            encoder,
            projector,
            decoder,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Group> {
        self.encoder
            .iter()
            .flatten()
            .chain([&self.projector])
            .chain(self.decoder.iter().flatten())
    }
}

struct Builder<'a> {
    config: &'a Config,
    weights: &'a Weights,
    plan: &'a Plan,
    parameters: &'a Parameters,
    /// Index of a group's first parameter, by the path of its first member.
    places: HashMap<String, usize>,
    /// Index of the parameter of each weight that is trained itself, by its name.
    full: HashMap<String, usize>,
    trained: bool,
    device: &'a Device,
}

impl Builder<'_> {
    /// A weight by its name: a view of the flat buffer if it is trained, read from the checkpoint if not.
    fn weight(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        match self.full.get(name) {
            Some(&entry) => self.parameters.weight(entry),
            None => Ok(Weight::frozen(self.weights.on(name, shape, self.device)?)),
        }
    }

    fn layer_norm(&self, name: &str) -> Result<LayerNorm> {
        let dim = self.config.audio.d_model;
        Ok(LayerNorm {
            weight: self.weight(&format!("{name}.weight"), &[dim])?,
            bias: self.weight(&format!("{name}.bias"), &[dim])?,
        })
    }

    fn linear(&self, group: &Group) -> Result<Linear> {
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
    fn joined(&self, group: &Group) -> Result<Linear> {
        let mut linear = self.linear(group)?;
        if self.trained {
            linear.join()?;
        }
        Ok(linear)
    }

    /// The stacked bias of a group that is trained whole; where keys have none there is a gap of zeros.
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
        let (mut ups, mut column, mut rank) = (Vec::new(), 0, 0);
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
        let frozen_if_not_trained = |weight: Weight| {
            if self.trained {
                weight
            } else {
                Weight::frozen(weight.value)
            }
        };
        let down = frozen_if_not_trained(self.parameters.stacked(place..place + ups.len())?);
        let first_up = place + ups.len();
        let ups = ups
            .into_iter()
            .enumerate()
            .map(|(i, (columns, ranks, scale, site))| {
                Ok(Up {
                    weight: frozen_if_not_trained(self.parameters.weight(first_up + i)?),
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

    fn encoder(&self, groups: &Groups) -> Result<AudioEncoder> {
        let audio = &self.config.audio;
        let layers = groups
            .encoder
            .iter()
            .enumerate()
            .map(|(i, [qkv, output, fc1, fc2])| {
                let stem = encoder_layer(i);
                Ok(EncoderLayer {
                    attention_norm: self.layer_norm(&format!("{stem}.self_attn_layer_norm"))?,
                    qkv: self.linear(qkv)?,
                    output: self.linear(output)?,
                    mlp_norm: self.layer_norm(&format!("{stem}.final_layer_norm"))?,
                    fc1: self.linear(fc1)?,
                    fc2: self.linear(fc2)?,
                    heads: audio.heads(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(AudioEncoder {
            conv1: self.convolution(&format!("{TOWER}.conv1"), audio.num_mel_bins)?,
            conv2: self.convolution(&format!("{TOWER}.conv2"), audio.d_model)?,
            sinusoids: sinusoids(audio.n_window, audio.d_model)?
                .to_dtype(compute_type(self.device))?
                .to_device(self.device)?,
            layers,
            final_norm: self.layer_norm(&format!("{TOWER}.ln_post"))?,
        })
    }

    /// A convolution's `[out, in, 3]` as a linear layer over unfolded rows, `[out, 3 in]`.
    fn convolution(&self, name: &str, inputs: usize) -> Result<Linear> {
        let outputs = self.config.audio.d_model;
        let name_of_weight = format!("{name}.weight");
        let weight = match self.full.get(&name_of_weight) {
            Some(&entry) => self.parameters.weight(entry)?,
            None => {
                let weight = self.weights.get(
                    &name_of_weight,
                    &[outputs, inputs, KERNEL],
                    compute_type(self.device),
                )?;
                Weight::frozen(
                    weight
                        .transpose(1, 2)?
                        .contiguous()?
                        .reshape((outputs, KERNEL * inputs))?
                        .to_device(self.device)?,
                )
            }
        };
        Ok(Linear {
            weight,
            bias: Some(self.weight(&format!("{name}.bias"), &[outputs])?),
            adapter: None,
        })
    }

    fn decoder_layer(
        &self,
        layer: usize,
        [qkv, output, gate_up, down]: &[Group; 4],
    ) -> Result<DecoderLayer> {
        let (stem, text) = (decoder_layer(layer), &self.config.text);
        Ok(DecoderLayer {
            attention_norm: self.weight(
                &format!("{stem}.input_layernorm.weight"),
                &[text.hidden_size],
            )?,
            qkv: self.joined(qkv)?,
            output: self.joined(output)?,
            mlp_norm: self.weight(
                &format!("{stem}.post_attention_layernorm.weight"),
                &[text.hidden_size],
            )?,
            gate_up: self.joined(gate_up)?,
            down: self.joined(down)?,
            heads: text.heads(),
            eps: text.rms_norm_eps,
        })
    }
}
