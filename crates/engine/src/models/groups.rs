//! The linear layers of an audio language model, by the part they belong to and the input they share; what adapters cost there.

use crate::models::config::Config;
use crate::nn::lora::Adaptable;
use crate::nn::lora::Masks;
use crate::nn::lora::Module;
use crate::nn::lora::Plan;
use crate::nn::stack::Bias;
use crate::nn::stack::Group;
use crate::ops::linear::ROOM;
use maqam_base::parts::Part;
use maqam_base::parts::PerPart;

/// The stacked layers of a model: four to a transformer layer, in the order of the computation.
pub struct Groups {
    /// The linear layer behind the encoder's convolutions, where there is one.
    pub front: Option<Group>,
    /// Query, key and value; output; the two of the feed-forward part.
    pub encoder: Vec<[Group; 4]>,
    /// From the encoder to the decoder: one layer, or two.
    pub projector: Vec<Group>,
    /// Query, key and value; output; gate and up; down.
    pub decoder: Vec<[Group; 4]>,
}

impl Groups {
    /// Those of a shape.
    pub fn of(config: &Config) -> Self {
        let (names, audio, text) = (config.names, &config.audio, &config.text);
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
        let of_encoder = match audio.chunks {
            Some(_) => Bias::All,
            None => Bias::AllButKeys,
        };
        let of_decoder = match text.qk_norm {
            true => Bias::None,
            false => Bias::All,
        };
        let front = audio.chunks.map(|chunks| {
            let inputs = chunks.downsample_hidden_size * audio.reduced_mels();
            let members = [("conv_out", d)];
            group(
                names.tower,
                &members,
                inputs,
                Bias::None,
                Part::AudioEncoder,
            )
        });
        let encoder = (0..audio.encoder_layers)
            .map(|i| {
                let (stem, part) = (names.encoder_layer(i), Part::AudioEncoder);
                [
                    group(
                        &stem,
                        &[
                            ("self_attn.q_proj", d),
                            ("self_attn.k_proj", d),
                            ("self_attn.v_proj", d),
                        ],
                        d,
                        of_encoder,
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
                let (stem, part) = (names.decoder_layer(i), Part::Decoder);
                [
                    group(
                        &stem,
                        &[
                            ("self_attn.q_proj", q),
                            ("self_attn.k_proj", kv),
                            ("self_attn.v_proj", kv),
                        ],
                        dim,
                        of_decoder,
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
        let of_projector = |(name, outputs): (&str, usize)| Group {
            members: vec![(name.to_owned(), outputs)],
            inputs: d,
            bias: Bias::All,
            part: Part::Projector,
        };
        let hidden = names.projector_hidden.map(|name| (name, d));
        let projector = hidden
            .into_iter()
            .chain([(names.projector, audio.output_dim)]);
        let projector = projector.map(of_projector).collect();
        Self {
            front,
            encoder,
            projector,
            decoder,
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.front
            .iter()
            .chain(self.encoder.iter().flatten())
            .chain(&self.projector)
            .chain(self.decoder.iter().flatten())
    }
}

impl Config {
    /// What adapters may sit on.
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

/// Of each linear of the decoder's layers that a plan adapts: inputs, outputs, and the room that it is joined with ([`Linear::join`]).
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
                ranks(group).next_multiple_of(ROOM),
            )
        })
        .filter(|(_, _, room)| *room > 0)
        .collect()
}

/// Numbers for each token that dropout holds on a card at its highest: the input's gradient of a mask, and that of the masks before it
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
