//! The linear layers of an audio language model, by the part they belong to and the input they
//! share; what adapters cost there.

use crate::models::config::Config;
use crate::models::hubert::linear_groups;
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
    /// The linear layer after the encoder's convolutions, where there is one.
    pub front: Option<Group>,
    /// Query, key and value; output; the two of the feed-forward part.
    pub encoder: Vec<[Group; 4]>,
    /// From the encoder to the decoder: one layer, or two.
    pub projector: Vec<Group>,
    /// Query, key and value; output; gate and up; down.
    pub decoder: Vec<[Group; 4]>,
}

impl Groups {
    /// Groups of a configuration.
    pub fn of(config: &Config) -> Self {
        let audio = &config.audio;
        let names = config.names;
        let chunks = audio.chunks.filter(|_| config.speech.is_none());
        let front = chunks.map(|chunks| {
            let inputs = chunks.downsample_hidden_size * audio.reduced_mels();
            let members = [("conv_out", audio.d_model)];
            let part = Part::AudioEncoder;
            Group::below(names.encoder, &members, inputs, Bias::None, part)
        });
        let encoder = match &config.speech {
            Some(speech) => linear_groups(&speech.encoder, names.encoder),
            None => (0..audio.encoder_layers)
                .map(|layer| encoder_layer(config, &names.encoder_layer(layer)))
                .collect(),
        };
        let projector = projector(config);
        let decoder = (0..config.text.num_hidden_layers)
            .map(|layer| decoder_layer(config, &names.decoder_layer(layer)))
            .collect();
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

/// Linear layers of the projector.
fn projector(config: &Config) -> Vec<Group> {
    let names = config.names;
    let group = |name: &str, inputs: usize, outputs: usize| Group {
        members: vec![(name.to_owned(), outputs)],
        inputs,
        bias: Bias::All,
        part: Part::Projector,
    };
    let inputs = config.projector_inputs();
    let outputs = config.audio.output_dim;
    match names.projector_hidden.zip(config.projector_width()) {
        Some((hidden, width)) => vec![
            group(hidden, inputs, width),
            group(names.projector, width, outputs),
        ],
        None => vec![group(names.projector, inputs, outputs)],
    }
}

/// Linear layers of an encoder layer.
fn encoder_layer(config: &Config, stem: &str) -> [Group; 4] {
    let dim = config.audio.d_model;
    let ffn = config.audio.encoder_ffn_dim;
    let group = |members: &[(&str, usize)], inputs, bias| {
        Group::below(stem, members, inputs, bias, Part::AudioEncoder)
    };
    let qkv = [
        ("self_attn.q_proj", dim),
        ("self_attn.k_proj", dim),
        ("self_attn.v_proj", dim),
    ];
    let of_qkv = match config.audio.chunks {
        Some(_) => Bias::All,
        None => Bias::AllButKeys,
    };
    [
        group(&qkv, dim, of_qkv),
        group(&[("self_attn.out_proj", dim)], dim, Bias::All),
        group(&[("fc1", ffn)], dim, Bias::All),
        group(&[("fc2", dim)], ffn, Bias::All),
    ]
}

/// Linear layers of a decoder layer.
fn decoder_layer(config: &Config, stem: &str) -> [Group; 4] {
    let text = &config.text;
    let dim = text.hidden_size;
    let ffn = text.intermediate_size;
    let query = text.heads().query_width();
    let key = text.heads().kv_width();
    let group = |members: &[(&str, usize)], inputs, bias| {
        Group::below(stem, members, inputs, bias, Part::Decoder)
    };
    let qkv = [
        ("self_attn.q_proj", query),
        ("self_attn.k_proj", key),
        ("self_attn.v_proj", key),
    ];
    let of_qkv = match text.qk_norm {
        true => Bias::None,
        false => Bias::All,
    };
    let gate_up = [("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)];
    [
        group(&qkv, dim, of_qkv),
        group(&[("self_attn.o_proj", dim)], query, Bias::None),
        group(&gate_up, dim, Bias::None),
        group(&[("mlp.down_proj", dim)], ffn, Bias::None),
    ]
}

impl Config {
    /// Modules that can be adapted.
    pub fn adaptable(&self) -> Adaptable {
        let groups = Groups::of(self);
        let is_tied = self.text.tie_word_embeddings;
        Adaptable {
            source: self.source.clone(),
            modules: groups.all().flat_map(modules).collect(),
            embeddings: Module {
                path: self.names.embeddings_module(),
                part: Part::Decoder,
                inputs: self.text.hidden_size,
                outputs: self.text.vocab_size,
            },
            tied_head: is_tied.then(|| self.names.head.to_owned()),
            forms: self.names.adapters,
        }
    }
}

/// The layers of a group as modules.
fn modules(group: &Group) -> impl Iterator<Item = Module> {
    group.members.iter().map(|(path, outputs)| Module {
        path: path.clone(),
        part: group.part,
        inputs: group.inputs,
        outputs: *outputs,
    })
}

/// Inputs, outputs and padding ([`Linear::padding`](crate::ops::linear::Linear::padding)) of each
/// linear layer of the decoder that a plan adapts.
pub fn joined(config: &Config, plan: &Plan) -> Vec<(usize, usize, usize)> {
    let groups = Groups::of(config).decoder;
    groups
        .iter()
        .flatten()
        .map(|group| {
            let modules = group.members.iter();
            let ranks: usize = modules
                .filter_map(|(path, _)| plan.modules.get(path))
                .map(|shape| shape.rank)
                .sum();
            let padding = ranks.next_multiple_of(PADDING);
            (group.inputs, group.outputs(), padding)
        })
        .filter(|(_, _, padding)| *padding > 0)
        .collect()
}

/// Numbers for each token that dropout holds on a GPU at its highest: the input's gradient of a
/// mask, and that of the masks before it where a layer has several.
pub fn dropped(config: &Config, plan: &Plan) -> PerPart<usize> {
    let groups = Groups::of(config);
    PerPart::from_fn(|part| {
        let of_part = groups.all().filter(|group| group.part == part);
        let largest = of_part.map(|group| dropped_of(group, plan)).max();
        if plan.dropout > 0.0 {
            largest.unwrap_or(0)
        } else {
            0
        }
    })
}

fn dropped_of(group: &Group, plan: &Plan) -> usize {
    let adapted = |(path, _): &&(String, usize)| plan.modules.contains_key(path);
    let modules = group.members.iter().filter(adapted).count();
    let masks = match plan.masks {
        Masks::PerModule => modules,
        Masks::Shared => modules.min(1),
    };
    masks.min(2) * group.inputs
}
