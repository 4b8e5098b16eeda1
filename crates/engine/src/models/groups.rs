//! The linear layers of an audio language model, by the part they belong to and the input they share; what adapters cost there.

use crate::models::config::Config;
use crate::nn::lora::Adaptable;
use crate::nn::lora::Masks;
use crate::nn::lora::Module;
use crate::nn::lora::Plan;
use crate::nn::stack::Bias;
use crate::nn::stack::Group;
use crate::ops::linear::PADDING;
use maqam_base::parts::Part;
use maqam_base::parts::PerPart;

/// The stacked layers of a model: four to a transformer layer, in the order of the computation.
pub struct Groups {
    /// Query, key and value; output; the two of the feed-forward part.
    pub encoder: Vec<[Group; 4]>,
    /// From the encoder to the decoder.
    pub projector: Group,
    /// Query, key and value; output; gate and up; down.
    pub decoder: Vec<[Group; 4]>,
}

impl Groups {
    /// Groups of a configuration.
    pub fn of(config: &Config) -> Self {
        let names = config.names;
        let audio = &config.audio;
        let text = &config.text;
        let group = |stem: &str, members: &[(&str, usize)], inputs, bias, part| Group {
            members: members
                .iter()
                .map(|(name, outputs)| (format!("{stem}.{name}"), *outputs))
                .collect(),
            inputs,
            bias,
            part,
        };
        let d = audio.d_model;
        let ffn = audio.encoder_ffn_dim;
        let encoder = (0..audio.encoder_layers)
            .map(|i| {
                let stem = names.encoder_layer(i);
                let part = Part::AudioEncoder;
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
        let dim = text.hidden_size;
        let ffn = text.intermediate_size;
        let heads = text.heads();
        let q = heads.query_width();
        let kv = heads.kv_width();
        let decoder = (0..text.num_hidden_layers)
            .map(|i| {
                let stem = names.decoder_layer(i);
                let part = Part::Decoder;
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
            members: vec![(names.projector.to_owned(), audio.output_dim)],
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

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.encoder
            .iter()
            .flatten()
            .chain([&self.projector])
            .chain(self.decoder.iter().flatten())
    }
}

impl Config {
    /// Modules that can be adapted.
    pub fn adaptable(&self) -> Adaptable {
        let groups = Groups::of(self);
        let of_group = |group: &Group| {
            let part = group.part;
            let paths = group.members.iter().map(|(path, _)| path.clone());
            paths.map(|path| Module { path, part }).collect::<Vec<_>>()
        };
        Adaptable {
            modules: groups.all().flat_map(of_group).collect(),
            forms: self.names.adapters,
        }
    }
}

/// Inputs, outputs and padding ([`Linear::padding`](crate::ops::linear::Linear::padding)) of each linear layer of the decoder that a plan adapts.
pub fn joined(config: &Config, plan: &Plan) -> Vec<(usize, usize, usize)> {
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
                ranks(group).next_multiple_of(PADDING),
            )
        })
        .filter(|(_, _, padding)| *padding > 0)
        .collect()
}

/// Numbers for each token that dropout holds on a GPU at its highest: the input's gradient of a mask, and that of the masks before it
/// where a layer has several.
pub fn dropped(config: &Config, plan: &Plan) -> PerPart<usize> {
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
