//! Encoders of the HuBERT and wav2vec 2.0 family (Hsu et al. 2021; Baevski et al. 2020): forward, backward, files of Hugging Face.
//!
//! Clips are packed: their frames follow each other and nothing is padded, so no result depends on what a clip was batched with. Where a
//! caller pads a clip itself ([`Clip::valid`]), the group norm of HuBERT-base sees the padding, as in transformers.
//! Encoders compute on the CPU.

pub mod config;
mod files;
mod front;
mod head;
mod initial;
mod layer;

use std::ops::Range;
use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;

use crate::models::hubert::config::Config;
use crate::models::hubert::config::FeatureNorm;
pub use crate::models::hubert::files::Class;
pub use crate::models::hubert::files::Source;
pub use crate::models::hubert::files::save;
use crate::models::hubert::front::Convolution;
use crate::models::hubert::front::ConvolutionNorm;
use crate::models::hubert::front::ConvolutionSaved;
use crate::models::hubert::front::Positions;
use crate::models::hubert::front::PositionsSaved;
use crate::models::hubert::front::Projection;
use crate::models::hubert::front::ProjectionSaved;
pub use crate::models::hubert::head::head_parameters;
pub use crate::models::hubert::initial::Head;
use crate::models::hubert::layer::Layer;
use crate::models::hubert::layer::PostNormLayer;
use crate::nn::checkpoint::read_json;
use crate::nn::encoder_layer::EncoderLayer;
use crate::nn::gelu_mlp::GeluMlp;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Entry;
use crate::nn::parameters::Kind;
use crate::nn::parameters::Parameters;
use crate::nn::self_attention::SelfAttention;
use crate::ops::cpu::tensor;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::overwrite;
use crate::ops::rows::scatter_add;
use crate::ops::strided_convolution::Window;
use crate::ops::weight::Weight;
use crate::ops::weight_norm::WeightNorm;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// Added to variances in the norms of the feature extractor: PyTorch's default, which no configuration changes.
const FEATURE_EPS: f64 = 1e-5;

/// Whether a folder's `config.json` is that of a speech encoder. One that cannot be read is not; who opens it says why.
pub fn is_encoder(dir: &Path) -> bool {
    read_json(&dir.join(config::CONFIG_FILE)).is_ok_and(|value| value.get("conv_kernel").is_some())
}

/// One clip, prepared by [`Config::prepare`].
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// Samples at 16 kHz, with the caller's padding.
    pub samples: &'a [f32],
    /// How many of them are the clip's own; frames beyond these are left out.
    pub valid: usize,
}

impl<'a> Clip<'a> {
    /// A clip without padding.
    pub fn new(samples: &'a [f32]) -> Self {
        Self {
            samples,
            valid: samples.len(),
        }
    }
}

/// Which weights have a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None of the encoder; heads have.
    Frozen,
    /// All but the convolutional feature extractor.
    WithoutConvolutions,
    /// All.
    Full,
}

/// What a pass over clips computes beside frames.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Frames, counted over all clips, whose features are replaced by the mask embedding.
    pub masked: &'a [u32],
    /// Number of layers that are computed.
    pub layers: usize,
    /// Whether a backward will follow.
    pub training: bool,
}

/// Hidden states of packed clips.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[frames, hidden]` each: the input of the first layer, then the output of every layer that was computed, as transformers 5 has them.
    /// None is taken after the final norm of an encoder with norms first; earlier versions took the last one there.
    pub hidden: Vec<Tensor>,
    /// What heads read, `[frames, hidden]` (`last_hidden_state`): the last hidden state, after the final norm where all layers were computed
    /// and norms come first.
    pub output: Tensor,
    /// Frames of each clip.
    pub frames: Vec<usize>,
}

impl Encoded {
    /// Rows of each clip.
    pub fn clips(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.frames.iter().map(move |&len| {
            end += len;
            end - len..end
        })
    }
}

/// What a backward needs.
pub struct Saved {
    frames: Vec<usize>,
    convolutions: Vec<ConvolutionSaved>,
    /// Rows of the features of padded clips: those of the frames that count, and their number before.
    kept: Option<(Vec<u32>, usize)>,
    projection: ProjectionSaved,
    masked: Vec<u32>,
    positions: PositionsSaved,
    /// Input of the norm before the first layer, or after the last one, and what it found.
    norm: Option<(Tensor, LayerNormStatistics)>,
    layers: Vec<layer::Saved>,
}

/// An encoder.
#[derive(Clone, Debug)]
pub struct Hubert {
    /// Its shape.
    pub config: Config,
    /// What is trained, heads included; frozen tensors are in it too, with the buffer for their gradients left out.
    pub parameters: Parameters,
    convolutions: Vec<Convolution>,
    projection: Projection,
    mask: Weight,
    positions: Positions,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: Vec<(String, Weight)>,
}

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

    /// A head's tensor by its name.
    ///
    /// # Errors
    /// A name that was not declared.
    pub fn head(&self, name: &str) -> Result<&Weight> {
        self.heads
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, weight)| weight)
            .ok_or_else(|| Error::bug(format!("no head `{name}` was declared")))
    }

    /// The encoder's tensors in the flat buffer, heads left out.
    pub fn encoder_entries(&self) -> &[Entry] {
        let entries = &self.parameters.entries;
        &entries[..entries.len() - self.heads.len()]
    }

    /// Number of the encoder's weights, heads left out.
    pub fn num_weights(&self) -> usize {
        self.encoder_entries()
            .iter()
            .map(|entry| entry.range.len())
            .sum()
    }

    /// Whether the values of an entry of [`Hubert::parameters`] are trained under `scope`.
    pub fn is_trained(&self, entry: usize, scope: Scope) -> bool {
        let is_head = entry >= self.parameters.entries.len() - self.heads.len();
        let name = &self.parameters.entries[entry].name;
        match scope {
            _ if is_head => true,
            Scope::Frozen => false,
            Scope::WithoutConvolutions => !name.starts_with(CONVOLUTIONS),
            Scope::Full => true,
        }
    }

    /// Refuses a layer that the encoder does not have.
    ///
    /// # Errors
    /// That layer; 0 is the input of the first one.
    pub fn check_layer(&self, layer: usize) -> Result<()> {
        let layers = self.layers.len();
        if layer <= layers {
            return Ok(());
        }
        Err(
            Error::input(format!("layer {layer} of an encoder of {layers} layers"))
                .hint(format!("name a layer from 0 to {layers}")),
        )
    }

    /// Hidden states of clips.
    ///
    /// # Errors
    /// A clip that is shorter than one frame.
    pub fn encode(&self, clips: &[Clip], layers: usize) -> Result<Encoded> {
        let pass = Pass {
            masked: &[],
            layers,
            training: false,
        };
        Ok(self.forward(clips, pass)?.0)
    }

    /// Hidden states of clips, and what a backward needs where one follows.
    ///
    /// # Errors
    /// A clip that is shorter than one frame; more layers than there are; a masked frame that is none.
    pub fn forward(&self, clips: &[Clip], pass: Pass) -> Result<(Encoded, Option<Saved>)> {
        self.check_layer(pass.layers)?;
        let frames = self.frames(clips)?;
        let (features, convolutions, kept) = self.features(clips, &frames, pass.training)?;
        let (x, projection) = self.projection.forward(features)?;
        if !pass.masked.is_empty() {
            let rows = gather(&self.mask.value.unsqueeze(0)?, &vec![0; pass.masked.len()])?;
            overwrite(&x, pass.masked, &rows)?;
        }
        let (mut x, positions) = self.positions.forward(&x, &frames)?;
        let mut norm = None;
        if !self.config.do_stable_layer_norm {
            let (normed, statistics) = self.norm.forward(&x)?;
            norm = Some((x, statistics));
            x = normed;
        }

        let cu_frames = cumulative(&frames);
        let mut hidden = vec![x.clone()];
        let mut layers = Vec::new();
        for layer in &self.layers[..pass.layers] {
            let (y, saved) = layer.forward(&x, &cu_frames)?;
            if pass.training {
                layers.push(saved);
            }
            hidden.push(y.clone());
            x = y;
        }
        let mut output = x.clone();
        if self.config.do_stable_layer_norm && pass.layers == self.layers.len() {
            let (normed, statistics) = self.norm.forward(&x)?;
            norm = Some((x, statistics));
            output = normed;
        }
        let saved = pass.training.then(|| Saved {
            frames: frames.clone(),
            convolutions,
            kept,
            projection,
            masked: pass.masked.to_vec(),
            positions,
            norm,
            layers,
        });
        let encoded = Encoded {
            hidden,
            output,
            frames,
        };
        Ok((encoded, saved))
    }

    /// Frames of each clip.
    fn frames(&self, clips: &[Clip]) -> Result<Vec<usize>> {
        let frames = |clip: &Clip| match self.config.num_frames(clip.valid) {
            0 => Err(Error::input(format!(
                "{} samples are too short for one frame of this encoder, which sees {}",
                clip.valid,
                self.config.field()
            ))
            .hint("remove the row")),
            frames => Ok(frames),
        };
        clips.iter().map(frames).collect()
    }

    /// Output of the convolutions for the frames that count, what their backward needs, and which rows of them count.
    #[allow(clippy::type_complexity)]
    fn features(
        &self,
        clips: &[Clip],
        frames: &[usize],
        training: bool,
    ) -> Result<(Tensor, Vec<ConvolutionSaved>, Option<(Vec<u32>, usize)>)> {
        let samples: Vec<f32> = clips
            .iter()
            .flat_map(|clip| clip.samples)
            .copied()
            .collect();
        let mut lens: Vec<usize> = clips.iter().map(|clip| clip.samples.len()).collect();
        let total = samples.len();
        let mut x = tensor(samples, (total, 1))?;
        let mut saved = Vec::new();
        for convolution in &self.convolutions {
            let (y, of_backward) = convolution.forward(x, &lens)?;
            if training && convolution.weight.gradient.is_some() {
                saved.push(of_backward);
            }
            lens = convolution.outputs(&lens);
            x = y;
        }
        if lens == frames {
            return Ok((x, saved, None));
        }
        let mut start = 0;
        let mut rows = Vec::new();
        for (&padded, &valid) in lens.iter().zip(frames) {
            rows.extend(start as u32..(start + valid) as u32);
            start += padded;
        }
        Ok((gather(&x, &rows)?, saved, Some((rows, start))))
    }

    /// Adds to the gradients of what is trained, from the gradient of the output and of hidden states, a place for each that was returned.
    ///
    /// `feature_gradient` is the factor of the gradient that reaches the convolutions (fairseq's `feature_grad_mult`).
    pub fn backward(
        &self,
        saved: &Saved,
        d_output: Option<Tensor>,
        mut d_hidden: Vec<Option<Tensor>>,
        feature_gradient: f64,
    ) -> Result<()> {
        let last = saved.layers.len();
        d_hidden.resize(last + 1, None);
        let cu_frames = cumulative(&saved.frames);
        let is_stable = self.config.do_stable_layer_norm;
        let d_output = match (&d_output, &saved.norm) {
            (Some(d), Some((x, statistics))) if is_stable => {
                Some(self.norm.backward(d, x, statistics, None)?)
            }
            _ => d_output,
        };
        d_hidden[last] = sum(d_output, d_hidden[last].take())?;
        let mut d: Option<Tensor> = None;
        for (i, (layer, saved)) in self.layers.iter().zip(&saved.layers).enumerate().rev() {
            d = sum(d, d_hidden[i + 1].take())?;
            if let Some(dy) = &d {
                d = Some(layer.backward(dy, saved, &cu_frames)?);
            }
        }
        let Some(mut d) = sum(d, d_hidden[0].take())? else {
            return Ok(());
        };
        if let (false, Some((x, statistics))) = (is_stable, &saved.norm) {
            d = self.norm.backward(&d, x, statistics, None)?;
        }
        let d = self
            .positions
            .backward(&d, &saved.positions, &saved.frames)?;
        if !saved.masked.is_empty() {
            let masked = gather(&d, &saved.masked)?;
            if let Some(gradient) = &self.mask.gradient {
                let rows = gradient.unsqueeze(0)?;
                scatter_add(&rows, &vec![0; saved.masked.len()], &masked)?;
            }
            overwrite(&d, &saved.masked, &masked.zeros_like()?)?;
        }
        let d = self.projection.backward(&d, &saved.projection)?;
        if saved.convolutions.is_empty() || feature_gradient == 0.0 {
            return Ok(());
        }
        let mut d = if feature_gradient == 1.0 {
            d
        } else {
            (d * feature_gradient)?
        };
        if let Some((rows, total)) = &saved.kept {
            d = crate::ops::rows::spread(&d, rows, *total)?;
        }
        for (i, (convolution, saved)) in self
            .convolutions
            .iter()
            .zip(&saved.convolutions)
            .enumerate()
            .rev()
        {
            match convolution.backward(&d, saved, i > 0)? {
                Some(dx) => d = dx,
                None => break,
            }
        }
        Ok(())
    }
}

/// The sum of two gradients that may be missing.
fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    if let (Some(a), Some(b)) = (&a, &b) {
        add_to(a, b)?;
    }
    Ok(a.or(b))
}

/// Starts of the clips, and the number of frames.
fn cumulative(frames: &[usize]) -> Vec<usize> {
    let ends = frames.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Every tensor of the feature extractor begins like this.
const CONVOLUTIONS: &str = "feature_extractor.";

/// Places of the tensors in the flat buffer.
struct Names {
    /// For each convolution: weight, bias, norm.
    convolutions: Vec<(usize, Option<usize>, Option<usize>)>,
    projection_norm: Option<usize>,
    projection: usize,
    mask: usize,
    /// Length, direction, bias.
    positions: [usize; 3],
    norm: usize,
    /// First tensor of each layer; see [`Names::declare`] for their order.
    layers: Vec<usize>,
    heads: usize,
}

impl Names {
    fn declare(config: &Config, heads: &[Head], declared: &mut Declared) -> Self {
        let mut add = |name: String, shape: &[usize], kind: Kind| {
            declared.declare(name, shape, Part::AudioEncoder, kind);
            declared.len() - 1
        };
        let hidden = config.hidden_size;
        let mut inputs = 1;
        let mut convolutions = Vec::new();
        for (i, (&outputs, &kernel)) in config.conv_dim.iter().zip(&config.conv_kernel).enumerate()
        {
            let stem = format!("{CONVOLUTIONS}conv_layers.{i}");
            let weight = add(
                format!("{stem}.conv.weight"),
                &[outputs, inputs, kernel],
                Kind::Convolution,
            );
            let bias = config
                .conv_bias
                .then(|| add(format!("{stem}.conv.bias"), &[outputs], Kind::Full));
            let has_norm = config.feat_extract_norm == FeatureNorm::Layer || i == 0;
            let norm = has_norm.then(|| {
                let weight = add(format!("{stem}.layer_norm.weight"), &[outputs], Kind::Full);
                add(format!("{stem}.layer_norm.bias"), &[outputs], Kind::Full);
                weight
            });
            convolutions.push((weight, bias, norm));
            inputs = outputs;
        }
        let mut norm = |name: &str, width: usize| {
            let weight = add(format!("{name}.weight"), &[width], Kind::Full);
            add(format!("{name}.bias"), &[width], Kind::Full);
            weight
        };
        let projection_norm = config
            .feat_proj_layer_norm
            .then(|| norm("feature_projection.layer_norm", inputs));
        let encoder_norm = norm("encoder.layer_norm", hidden);
        let projection = add(
            "feature_projection.projection.weight".to_owned(),
            &[hidden, inputs],
            Kind::Full,
        );
        add(
            "feature_projection.projection.bias".to_owned(),
            &[hidden],
            Kind::Full,
        );
        let mask = add("masked_spec_embed".to_owned(), &[hidden], Kind::Full);
        let groups = config.positions();
        let stem = "encoder.pos_conv_embed.conv";
        let positions = [
            add(
                format!("{stem}.parametrizations.weight.original0"),
                &[1, 1, groups.kernel],
                Kind::Full,
            ),
            add(
                format!("{stem}.parametrizations.weight.original1"),
                &[hidden, groups.width(), groups.kernel],
                Kind::Convolution,
            ),
            add(format!("{stem}.bias"), &[hidden], Kind::Full),
        ];
        let mut layers = Vec::new();
        for i in 0..config.num_hidden_layers {
            let stem = format!("encoder.layers.{i}");
            let qkv = ["q_proj", "k_proj", "v_proj"];
            let weights = qkv.map(|name| {
                let name = format!("{stem}.attention.{name}.weight");
                add(name, &[hidden, hidden], Kind::Full)
            });
            layers.push(weights[0]);
            for name in qkv {
                add(
                    format!("{stem}.attention.{name}.bias"),
                    &[hidden],
                    Kind::Full,
                );
            }
            let ffn = config.intermediate_size;
            for (name, outputs, inputs) in [
                ("attention.out_proj", hidden, hidden),
                ("feed_forward.intermediate_dense", ffn, hidden),
                ("feed_forward.output_dense", hidden, ffn),
            ] {
                add(
                    format!("{stem}.{name}.weight"),
                    &[outputs, inputs],
                    Kind::Full,
                );
                add(format!("{stem}.{name}.bias"), &[outputs], Kind::Full);
            }
            for name in ["layer_norm", "final_layer_norm"] {
                add(format!("{stem}.{name}.weight"), &[hidden], Kind::Full);
                add(format!("{stem}.{name}.bias"), &[hidden], Kind::Full);
            }
        }
        let of_encoder = declared.len();
        for head in heads {
            declared.declare(head.name.clone(), &head.shape, Part::Projector, Kind::Full);
        }
        Self {
            convolutions,
            projection_norm,
            projection,
            mask,
            positions,
            norm: encoder_norm,
            layers,
            heads: of_encoder,
        }
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
        let is_trained = self.scope == Scope::Full;
        type Places = (usize, Option<usize>, Option<usize>);
        let make = |(&(weight, bias, norm), window): (&Places, Window)| {
            let norm = match norm {
                None => ConvolutionNorm::None,
                Some(entry) => {
                    let norm = self.norm(entry, FEATURE_EPS, is_trained)?;
                    match self.config.feat_extract_norm {
                        FeatureNorm::Group => ConvolutionNorm::Group(norm),
                        FeatureNorm::Layer => ConvolutionNorm::Layer(norm),
                    }
                }
            };
            Ok(Convolution {
                weight: self.weight(weight, is_trained)?,
                bias: bias
                    .map(|entry| self.weight(entry, is_trained))
                    .transpose()?,
                window,
                norm,
            })
        };
        self.names
            .convolutions
            .iter()
            .zip(self.config.windows())
            .map(make)
            .collect()
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
