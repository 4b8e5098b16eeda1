//! An encoder as a part of an audio language model: names below the model's stem, weights and
//! adapters from the model's builder.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::models::hubert::build::FEATURE_EPS;
use crate::models::hubert::build::entries;
use crate::models::hubert::config::Config;
use crate::models::hubert::config::FeatureNorm;
use crate::models::hubert::encoder::CONVOLUTIONS;
use crate::models::hubert::encoder::Hubert;
use crate::models::hubert::front::Convolution;
use crate::models::hubert::front::ConvolutionNorm;
use crate::models::hubert::front::Positions;
use crate::models::hubert::front::Projection;
use crate::models::hubert::layer::Layer;
use crate::models::hubert::layer::PostNormLayer;
use crate::models::hubert::source::Source;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Entry;
use crate::nn::parameters::TensorKind;
use crate::nn::self_attention::SelfAttention;
use crate::nn::stack::Bias;
use crate::nn::stack::Builder;
use crate::nn::stack::FullWeights;
use crate::nn::stack::Group;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;
use crate::ops::weight_norm::WeightNorm;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// The embedding of masked frames, which an audio language model does not have: it masks nothing.
const MASK: &str = "masked_spec_embed";

/// Linear layers of an encoder's transformer below `stem`: query, key and value; output; the two of
/// the MLP.
pub fn linear_groups(config: &Config, stem: &str) -> Vec<[Group; 4]> {
    let hidden = config.hidden_size;
    let ffn = config.intermediate_size;
    let groups = |layer: usize| {
        let stem = format!("{stem}.encoder.layers.{layer}");
        let group = |members: &[(&str, usize)], inputs| {
            Group::below(&stem, members, inputs, Bias::All, Part::AudioEncoder)
        };
        let qkv = [
            ("attention.q_proj", hidden),
            ("attention.k_proj", hidden),
            ("attention.v_proj", hidden),
        ];
        [
            group(&qkv, hidden),
            group(&[("attention.out_proj", hidden)], hidden),
            group(&[("feed_forward.intermediate_dense", ffn)], hidden),
            group(&[("feed_forward.output_dense", hidden)], ffn),
        ]
    };
    (0..config.num_hidden_layers).map(groups).collect()
}

/// Declares the weights of an encoder in full fine-tuning that are in none of its
/// [`linear_groups`].
pub fn declare_others(
    config: &Config,
    stem: &str,
    full: &mut FullWeights,
    declared: &mut Declared,
) {
    for entry in entries(config) {
        if entry.name != MASK && !is_of_group(&entry.name) {
            let name = format!("{stem}.{}", entry.name);
            full.add(declared, name, &entry.shape, Part::AudioEncoder, entry.kind);
        }
    }
}

/// Whether a tensor belongs to a linear layer of the transformer.
fn is_of_group(name: &str) -> bool {
    name.contains(".attention.") || name.contains(".feed_forward.")
}

/// All tensors of a checkpoint's encoder in `f32`, by their names below `stem`.
///
/// # Errors
/// Missing or misshapen tensors, named.
pub fn tensors(config: &Config, source: &Source, stem: &str) -> Result<HashMap<String, Tensor>> {
    let mut found = HashMap::new();
    for entry in entries(config) {
        if entry.name != MASK {
            let tensor = source.get(&entry.name, &entry.shape, None, config)?;
            found.insert(format!("{stem}.{}", entry.name), tensor);
        }
    }
    Ok(found)
}

/// Builds an encoder whose weights the model's `builder` has below `stem`. Its own flat buffer is
/// empty: what is trained is in the model's.
///
/// # Errors
/// Missing or misshapen weights, named.
pub fn build_part(
    config: &Config,
    builder: &Builder,
    stem: &str,
    groups: &[[Group; 4]],
) -> Result<Hubert> {
    let part = PartBuilder {
        config,
        builder,
        stem,
        entries: entries(config)
            .into_iter()
            .map(|entry| (entry.name.clone(), entry))
            .collect(),
    };
    let layers = groups.iter().enumerate();
    Ok(Hubert {
        convolutions: part.convolutions()?,
        projection: part.projection()?,
        mask: Weight::frozen(Tensor::zeros(config.hidden_size, DType::F32, &Device::Cpu)?),
        positions: part.positions()?,
        norm: part.norm("encoder.layer_norm", config.layer_norm_eps)?,
        layers: layers
            .map(|(i, groups)| part.layer(i, groups))
            .collect::<Result<_>>()?,
        heads: Vec::new(),
        config: config.clone(),
        parameters: Declared::default().allocate(&Device::Cpu)?,
    })
}

/// Makes the parts of an encoder by the names of their tensors.
struct PartBuilder<'a> {
    config: &'a Config,
    builder: &'a Builder<'a>,
    stem: &'a str,
    entries: HashMap<String, Entry>,
}

impl PartBuilder<'_> {
    fn weight(&self, name: &str) -> Result<Weight> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::bug(format!("an encoder has no `{name}`")));
        };
        let full = format!("{}.{name}", self.stem);
        match entry.kind {
            TensorKind::Convolution => self.builder.convolution_weight(&full, &entry.shape),
            _ => self.builder.weight(&full, &entry.shape),
        }
    }

    /// The weight, if the encoder has one of this name.
    fn optional(&self, name: &str) -> Result<Option<Weight>> {
        let is_there = self.entries.contains_key(name);
        is_there.then(|| self.weight(name)).transpose()
    }

    fn norm(&self, stem: &str, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.weight(&format!("{stem}.weight"))?,
            bias: self.weight(&format!("{stem}.bias"))?,
            eps,
        })
    }

    fn convolutions(&self) -> Result<Vec<Convolution>> {
        let windows = self.config.windows().enumerate();
        windows
            .map(|(i, window)| {
                let stem = format!("{CONVOLUTIONS}conv_layers.{i}");
                let norm = format!("{stem}.layer_norm");
                let is_normed = self.entries.contains_key(&format!("{norm}.weight"));
                Ok(Convolution {
                    weight: self.weight(&format!("{stem}.conv.weight"))?,
                    bias: self.optional(&format!("{stem}.conv.bias"))?,
                    window,
                    norm: match (is_normed, self.config.feat_extract_norm) {
                        (false, _) => ConvolutionNorm::None,
                        (true, FeatureNorm::Group) => {
                            ConvolutionNorm::Group(self.norm(&norm, FEATURE_EPS)?)
                        }
                        (true, FeatureNorm::Layer) => {
                            ConvolutionNorm::Layer(self.norm(&norm, FEATURE_EPS)?)
                        }
                    },
                })
            })
            .collect()
    }

    fn projection(&self) -> Result<Projection> {
        let norm = "feature_projection.layer_norm";
        let linear = "feature_projection.projection";
        Ok(Projection {
            norm: self
                .config
                .feat_proj_layer_norm
                .then(|| self.norm(norm, self.config.layer_norm_eps))
                .transpose()?,
            linear: Linear {
                weight: self.weight(&format!("{linear}.weight"))?,
                bias: Some(self.weight(&format!("{linear}.bias"))?),
                adapter: None,
            },
        })
    }

    fn positions(&self) -> Result<Positions> {
        let stem = "encoder.pos_conv_embed.conv";
        Ok(Positions {
            weight: WeightNorm {
                direction: self.weight(&format!("{stem}.parametrizations.weight.original1"))?,
                length: self.weight(&format!("{stem}.parametrizations.weight.original0"))?,
            },
            bias: self.weight(&format!("{stem}.bias"))?,
            groups: self.config.positions(),
        })
    }

    fn layer(&self, layer: usize, [qkv, output, fc1, fc2]: &[Group; 4]) -> Result<Layer> {
        let eps = self.config.layer_norm_eps;
        let attention = SelfAttention {
            qkv: self.builder.linear(qkv)?,
            output: self.builder.linear(output)?,
            heads: self.config.heads(),
        };
        let mlp = GeluMlp {
            fc1: self.builder.linear(fc1)?,
            fc2: self.builder.linear(fc2)?,
        };
        let attention_norm = self.norm(&format!("encoder.layers.{layer}.layer_norm"), eps)?;
        let mlp_norm = self.norm(&format!("encoder.layers.{layer}.final_layer_norm"), eps)?;
        Ok(if self.config.do_stable_layer_norm {
            Layer::PreNorm(EncoderLayer {
                attention_norm,
                attention,
                mlp_norm,
                mlp,
            })
        } else {
            Layer::PostNorm(PostNormLayer {
                attention,
                attention_norm,
                mlp,
                mlp_norm,
            })
        })
    }
}
