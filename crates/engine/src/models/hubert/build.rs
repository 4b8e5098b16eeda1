//! From a configuration and weights to an encoder.

use std::ops::Range;
use std::path::Path;

use candle_core::Device;

use crate::models::hubert::config::Config;
use crate::models::hubert::config::FeatureNorm;
use crate::models::hubert::encoder::CONVOLUTIONS;
use crate::models::hubert::encoder::Hubert;
use crate::models::hubert::encoder::Scope;
use crate::models::hubert::front::Convolution;
use crate::models::hubert::front::ConvolutionNorm;
use crate::models::hubert::front::Positions;
use crate::models::hubert::front::Projection;
use crate::models::hubert::initial::Head;
use crate::models::hubert::layer::Layer;
use crate::models::hubert::layer::PostNormLayer;
use crate::models::hubert::source::Source;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Entry;
use crate::nn::parameters::Parameters;
use crate::nn::parameters::TensorKind;
use crate::nn::self_attention::SelfAttention;
use crate::ops::linear::Linear;
use crate::ops::strided_convolution::Window;
use crate::ops::weight::Weight;
use crate::ops::weight_norm::WeightNorm;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// Added to variances in the norms of the feature extractor: PyTorch's default, which no
/// configuration changes.
pub(super) const FEATURE_EPS: f64 = 1e-5;

impl Hubert {
    /// Opens a checkpoint folder of Hugging Face's, frozen.
    ///
    /// # Errors
    /// Files that are missing, damaged or of another family.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = Config::load(dir)?;
        Self::new(config, &Source::open(dir)?, Scope::Frozen, &[])
    }

    /// Builds an encoder with weights from `source`.
    ///
    /// # Errors
    /// Missing or misshapen weights, named.
    pub fn new(config: Config, source: &Source, scope: Scope, heads: &[Head]) -> Result<Self> {
        config.check()?;
        let mut declared = Declared::default();
        let names = Names::declare(&config, heads, &mut declared);
        let parameters = declared.allocate(&Device::Cpu)?;
        for (i, entry) in parameters.entries.iter().enumerate() {
            let head = i.checked_sub(names.heads).map(|i| &heads[i]);
            let value = source.get(&entry.name, &entry.shape, head, &config)?;
            parameters.set_tensor(entry, &value)?;
        }
        let builder = Builder {
            config: &config,
            parameters: &parameters,
            names: &names,
            scope,
        };
        Ok(Self {
            convolutions: builder.convolutions()?,
            projection: builder.projection()?,
            mask: builder.weight(names.mask, scope != Scope::Frozen)?,
            positions: builder.positions()?,
            norm: builder.norm(names.norm, config.layer_norm_eps, scope != Scope::Frozen)?,
            layers: builder.layers()?,
            heads: builder.heads()?,
            config,
            parameters,
        })
    }
}

/// Every tensor of an encoder without heads, in the order of the flat buffer.
pub(super) fn entries(config: &Config) -> Vec<Entry> {
    let mut declared = Declared::default();
    Names::declare(config, &[], &mut declared);
    declared.into_entries()
}

/// Places of a convolution's tensors in the flat buffer.
struct ConvolutionEntries {
    weight: usize,
    bias: Option<usize>,
    norm: Option<usize>,
}

/// Places of the tensors in the flat buffer.
struct Names {
    convolutions: Vec<ConvolutionEntries>,
    projection_norm: Option<usize>,
    projection: usize,
    mask: usize,
    /// Length, direction, bias.
    positions: [usize; 3],
    norm: usize,
    /// First tensor of each layer; see [`Declarer::layer`] for their order.
    layers: Vec<usize>,
    heads: usize,
}

impl Names {
    fn declare(config: &Config, heads: &[Head], declared: &mut Declared) -> Self {
        let mut declarer = Declarer { config, declared };
        let convolutions = declarer.convolutions();
        let channels = config.conv_dim.last().copied().unwrap_or(1);
        let projection_norm = config
            .feat_proj_layer_norm
            .then(|| declarer.norm("feature_projection.layer_norm", channels));
        let norm = declarer.norm("encoder.layer_norm", config.hidden_size);
        let projection = declarer.linear(
            "feature_projection.projection",
            config.hidden_size,
            channels,
        );
        let mask = declarer.full("masked_spec_embed", &[config.hidden_size]);
        let positions = declarer.positions();
        let layers = (0..config.num_hidden_layers)
            .map(|i| declarer.layer(&format!("encoder.layers.{i}")))
            .collect();

        let of_encoder = declared.len();
        for head in heads {
            declared.declare(
                head.name.clone(),
                &head.shape,
                Part::Projector,
                TensorKind::Full,
            );
        }
        Self {
            convolutions,
            projection_norm,
            projection,
            mask,
            positions,
            norm,
            layers,
            heads: of_encoder,
        }
    }
}

/// Declares an encoder's tensors, each by its name in files; every method returns the place of the
/// first that it declares.
struct Declarer<'a> {
    config: &'a Config,
    declared: &'a mut Declared,
}

impl Declarer<'_> {
    fn add(&mut self, name: &str, shape: &[usize], kind: TensorKind) -> usize {
        self.declared
            .declare(name.to_owned(), shape, Part::AudioEncoder, kind);
        self.declared.len() - 1
    }

    fn full(&mut self, name: &str, shape: &[usize]) -> usize {
        self.add(name, shape, TensorKind::Full)
    }

    /// Scale and shift.
    fn norm(&mut self, stem: &str, width: usize) -> usize {
        let first = self.full(&format!("{stem}.weight"), &[width]);
        self.full(&format!("{stem}.bias"), &[width]);
        first
    }

    /// Weight and bias.
    fn linear(&mut self, stem: &str, outputs: usize, inputs: usize) -> usize {
        let first = self.full(&format!("{stem}.weight"), &[outputs, inputs]);
        self.full(&format!("{stem}.bias"), &[outputs]);
        first
    }

    fn convolutions(&mut self) -> Vec<ConvolutionEntries> {
        let config = self.config;
        let mut inputs = 1;
        let mut convolutions = Vec::new();
        for (i, (&outputs, &kernel)) in config.conv_dim.iter().zip(&config.conv_kernel).enumerate()
        {
            let stem = format!("{CONVOLUTIONS}conv_layers.{i}");
            let weight = self.add(
                &format!("{stem}.conv.weight"),
                &[outputs, inputs, kernel],
                TensorKind::Convolution,
            );
            let bias = config
                .conv_bias
                .then(|| self.full(&format!("{stem}.conv.bias"), &[outputs]));
            let has_norm = config.feat_extract_norm == FeatureNorm::Layer || i == 0;
            let norm = has_norm.then(|| self.norm(&format!("{stem}.layer_norm"), outputs));
            convolutions.push(ConvolutionEntries { weight, bias, norm });
            inputs = outputs;
        }
        convolutions
    }

    /// Length, direction and bias of the positional convolution.
    fn positions(&mut self) -> [usize; 3] {
        let hidden = self.config.hidden_size;
        let groups = self.config.positions();
        let stem = "encoder.pos_conv_embed.conv";
        [
            self.full(
                &format!("{stem}.parametrizations.weight.original0"),
                &[1, 1, groups.kernel],
            ),
            self.add(
                &format!("{stem}.parametrizations.weight.original1"),
                &[hidden, groups.width(), groups.kernel],
                TensorKind::Convolution,
            ),
            self.full(&format!("{stem}.bias"), &[hidden]),
        ]
    }

    /// Weights of queries, keys and values, then their biases; output, `fc1` and `fc2`, each weight
    /// and bias; both norms.
    fn layer(&mut self, stem: &str) -> usize {
        const QKV: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
        let hidden = self.config.hidden_size;
        let ffn = self.config.intermediate_size;
        let [first, _, _] = QKV.map(|name| {
            self.full(
                &format!("{stem}.attention.{name}.weight"),
                &[hidden, hidden],
            )
        });
        for name in QKV {
            self.full(&format!("{stem}.attention.{name}.bias"), &[hidden]);
        }
        self.linear(&format!("{stem}.attention.out_proj"), hidden, hidden);
        self.linear(
            &format!("{stem}.feed_forward.intermediate_dense"),
            ffn,
            hidden,
        );
        self.linear(&format!("{stem}.feed_forward.output_dense"), hidden, ffn);
        self.norm(&format!("{stem}.layer_norm"), hidden);
        self.norm(&format!("{stem}.final_layer_norm"), hidden);
        first
    }
}

/// Makes the parts of an encoder from views of the flat buffer.
struct Builder<'a> {
    config: &'a Config,
    parameters: &'a Parameters,
    names: &'a Names,
    scope: Scope,
}

impl Builder<'_> {
    fn weight(&self, entry: usize, is_trained: bool) -> Result<Weight> {
        self.stacked(entry..entry + 1, is_trained)
    }

    fn stacked(&self, entries: Range<usize>, is_trained: bool) -> Result<Weight> {
        let weight = self.parameters.stacked(entries)?;
        Ok(if is_trained {
            weight
        } else {
            Weight::frozen(weight.value)
        })
    }

    fn norm(&self, entry: usize, eps: f64, is_trained: bool) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: self.weight(entry, is_trained)?,
            bias: self.weight(entry + 1, is_trained)?,
            eps,
        })
    }

    fn linear(&self, entry: usize, is_trained: bool) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight(entry, is_trained)?,
            bias: Some(self.weight(entry + 1, is_trained)?),
            adapter: None,
        })
    }

    fn convolutions(&self) -> Result<Vec<Convolution>> {
        self.names
            .convolutions
            .iter()
            .zip(self.config.windows())
            .map(|(entries, window)| self.convolution(entries, window))
            .collect()
    }

    fn convolution(&self, entries: &ConvolutionEntries, window: Window) -> Result<Convolution> {
        let is_trained = self.scope == Scope::Full;
        let norm = match (entries.norm, self.config.feat_extract_norm) {
            (None, _) => ConvolutionNorm::None,
            (Some(entry), FeatureNorm::Group) => {
                ConvolutionNorm::Group(self.norm(entry, FEATURE_EPS, is_trained)?)
            }
            (Some(entry), FeatureNorm::Layer) => {
                ConvolutionNorm::Layer(self.norm(entry, FEATURE_EPS, is_trained)?)
            }
        };
        let bias = entries
            .bias
            .map(|entry| self.weight(entry, is_trained))
            .transpose()?;
        Ok(Convolution {
            weight: self.weight(entries.weight, is_trained)?,
            bias,
            window,
            norm,
        })
    }

    fn projection(&self) -> Result<Projection> {
        let is_trained = self.scope != Scope::Frozen;
        let eps = self.config.layer_norm_eps;
        let norm = self.names.projection_norm;
        Ok(Projection {
            norm: norm
                .map(|entry| self.norm(entry, eps, is_trained))
                .transpose()?,
            linear: self.linear(self.names.projection, is_trained)?,
        })
    }

    fn positions(&self) -> Result<Positions> {
        let is_trained = self.scope != Scope::Frozen;
        let [length, direction, bias] = self.names.positions;
        Ok(Positions {
            weight: WeightNorm {
                direction: self.weight(direction, is_trained)?,
                length: self.weight(length, is_trained)?,
            },
            bias: self.weight(bias, is_trained)?,
            groups: self.config.positions(),
        })
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        let is_trained = self.scope != Scope::Frozen;
        let eps = self.config.layer_norm_eps;
        self.names
            .layers
            .iter()
            .map(|&first| self.layer(first, eps, is_trained))
            .collect()
    }

    /// The layer whose tensors begin with this entry.
    fn layer(&self, first: usize, eps: f64, is_trained: bool) -> Result<Layer> {
        let qkv = Linear {
            weight: self.stacked(first..first + 3, is_trained)?,
            bias: Some(self.stacked(first + 3..first + 6, is_trained)?),
            adapter: None,
        };

        let attention = SelfAttention {
            qkv,
            output: self.linear(first + 6, is_trained)?,
            heads: self.config.heads(),
        };

        let mlp = GeluMlp {
            fc1: self.linear(first + 8, is_trained)?,
            fc2: self.linear(first + 10, is_trained)?,
        };

        let attention_norm = self.norm(first + 12, eps, is_trained)?;
        let mlp_norm = self.norm(first + 14, eps, is_trained)?;

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

    fn heads(&self) -> Result<Vec<(String, Weight)>> {
        (self.names.heads..self.parameters.entries.len())
            .map(|entry| {
                let name = self.parameters.entries[entry].name.clone();
                Ok((name, self.weight(entry, true)?))
            })
            .collect()
    }
}
