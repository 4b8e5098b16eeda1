//! An encoder of the HuBERT family: its forward over packed clips, and its backward.

use std::ops::Range;

use candle_core::Tensor;

use crate::models::hubert::config::Config;
use crate::models::hubert::front::Convolution;
use crate::models::hubert::front::ConvolutionSaved;
use crate::models::hubert::front::Positions;
use crate::models::hubert::front::PositionsSaved;
use crate::models::hubert::front::Projection;
use crate::models::hubert::front::ProjectionSaved;
use crate::models::hubert::layer;
use crate::models::hubert::layer::Layer;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::parameters::Entry;
use crate::nn::parameters::Parameters;
use crate::nn::saving::Save;
use crate::nn::windows::HiddenDropout;
use crate::nn::windows::Windows;
use crate::ops::cpu::tensor;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::norm::LayerNormStatistics;
use crate::ops::rows::add_to;
use crate::ops::rows::gather;
use crate::ops::rows::overwrite;
use crate::ops::rows::scatter_add;
use crate::ops::rows::spread;
use crate::ops::weight::Weight;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Every tensor of the feature extractor begins like this.
pub(super) const CONVOLUTIONS: &str = "feature_extractor.";

/// One clip, prepared by [`Config::prepare`].
#[derive(Clone, Copy, Debug)]
pub struct Clip<'a> {
    /// Samples at 16 kHz, with the caller's padding.
    pub samples: &'a [f32],
    /// Number of samples that are the clip's own; frames beyond these are left out.
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

/// Settings of a pass over clips.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Frames, counted over all clips, whose features are replaced by the mask embedding.
    pub masked: &'a [u32],
    /// Number of layers that are computed.
    pub layers: usize,
    /// Whether a backward will follow.
    pub training: bool,
    /// Dropout of adapters, with one stream for each frame. Only an encoder inside an audio
    /// language model has adapters.
    pub adapters: AdapterDropout<'a>,
    /// Dropout of hidden states, with one stream for each frame.
    pub hidden: HiddenDropout<'a>,
    /// Layers that are left out (layer drop), from 0: their input is their output.
    pub skipped: &'a [usize],
}

impl Pass<'_> {
    /// A pass over all clips without masks and dropout, as far as a layer.
    pub fn plain(layers: usize, training: bool) -> Self {
        Self {
            masked: &[],
            layers,
            training,
            adapters: AdapterDropout::NONE,
            hidden: HiddenDropout::NONE,
            skipped: &[],
        }
    }
}

/// Hidden states of packed clips.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `[frames, hidden]` each: the input of the first layer, then the output of every layer that
    /// was computed, as transformers 5 has them. None is taken after the final norm of an encoder
    /// with norms first; earlier versions took the last one there.
    pub hidden: Vec<Tensor>,
    /// Input of heads, `[frames, hidden]` (`last_hidden_state`): the last hidden state, after the
    /// final norm where all layers were computed and norms come first.
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

/// Tensors that a backward needs.
pub struct Saved {
    frames: Vec<usize>,
    convolutions: Vec<ConvolutionSaved>,
    /// Rows of the features of padded clips: those of the frames that count, and their number
    /// before.
    kept: Option<(Vec<u32>, usize)>,
    projection: ProjectionSaved,
    masked: Vec<u32>,
    /// Probability and streams of the adapters' dropout.
    adapters: (f64, Vec<Key>),
    /// Probability and streams of the hidden dropout.
    hidden: (f64, Vec<Key>),
    positions: PositionsSaved,
    /// Input of the norm before the first layer, or after the last one, and what it found.
    norm: Option<(Tensor, LayerNormStatistics)>,
    /// `None` for a layer that was left out.
    layers: Vec<Option<layer::Saved>>,
}

/// Places of dropout before the first layer: after the projection, and at the input of the layers.
/// Layers count from [`LAYERS`].
const PROJECTION: u64 = 0;
const INPUT: u64 = 1;
const LAYERS: u64 = 2;

/// An encoder.
#[derive(Clone, Debug)]
pub struct Hubert {
    /// Shape.
    pub config: Config,
    /// Everything that is trained, heads included; frozen tensors are in it too, with the buffer
    /// for their gradients left out.
    pub parameters: Parameters,
    pub(super) convolutions: Vec<Convolution>,
    pub(super) projection: Projection,
    /// Embedding in the places of masked features, `[hidden]`.
    pub(super) mask: Weight,
    pub(super) positions: Positions,
    /// Norm before the first layer, or after the last one.
    pub(super) norm: LayerNorm,
    pub(super) layers: Vec<Layer>,
    /// Tensors of the heads, by their names.
    pub(super) heads: Vec<(String, Weight)>,
}

impl Hubert {
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

    /// Whether there is something to train.
    pub fn has_trained(&self) -> bool {
        self.is_front_trained() || self.layers.iter().any(Layer::is_trained)
    }

    /// Whether something before the first layer is trained.
    fn is_front_trained(&self) -> bool {
        self.projection.linear.is_trained()
            || self.norm.is_trained()
            || self
                .convolutions
                .iter()
                .any(|convolution| convolution.weight.gradient.is_some())
    }

    /// Linear layers of the transformer, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.layers
            .iter_mut()
            .flat_map(Layer::linears_mut)
            .collect()
    }

    /// Everything that can be trained without masks and heads, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut found = Vec::new();
        for convolution in &mut self.convolutions {
            found.extend(convolution.weights_mut());
        }
        found.extend(self.projection.weights_mut());
        found.extend(self.positions.weights_mut());
        found.extend(self.norm.weights_mut());
        for layer in &mut self.layers {
            found.extend(layer.weights_mut());
        }
        found
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
        Ok(self.forward(clips, Pass::plain(layers, false))?.0)
    }

    /// Hidden states of clips, and what a backward needs where one follows.
    ///
    /// `f = convolutions(samples)`, `p = W norm(f) + b` with the mask embedding in masked frames,
    /// `x_0 = p + gelu(convolution(p))`, normalised where norms come last, and
    /// `x_(i + 1) = layer_i(x_i)`. The output is the last state, normalised where norms come first.
    ///
    /// # Errors
    /// A clip that is shorter than one frame; more layers than there are; a masked frame that is
    /// none.
    pub fn forward(&self, clips: &[Clip], pass: Pass) -> Result<(Encoded, Option<Saved>)> {
        self.check_layer(pass.layers)?;
        let frames = self.frames(clips)?;

        let (features, convolutions, kept) = self.features(clips, &frames, pass.training)?;
        let (x, projection) = self.projection.forward(features)?;
        let x = pass.hidden.in_layer(PROJECTION).apply(&x, 0)?;
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

        let mut x = pass.hidden.in_layer(INPUT).apply(&x, 0)?;

        let cu_frames = cumulative(&frames);
        let mut hidden = vec![x.clone()];
        let mut layers = Vec::new();
        for (i, layer) in self.layers[..pass.layers].iter().enumerate() {
            if pass.skipped.contains(&i) {
                layers.push(None);
                hidden.push(x.clone());
                continue;
            }
            let of_layer = pass.hidden.in_layer(LAYERS + i as u64);
            let clips = windows(&cu_frames, pass.adapters, of_layer);
            let (y, saved) = layer.forward(&x, &clips)?;
            layers.push(pass.training.then_some(saved));
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
            adapters: (pass.adapters.probability, pass.adapters.tokens.to_vec()),
            hidden: (pass.hidden.probability, pass.hidden.positions.to_vec()),
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
        clips.iter().map(|clip| self.num_frames(clip)).collect()
    }

    fn num_frames(&self, clip: &Clip) -> Result<usize> {
        match self.config.num_frames(clip.valid) {
            0 => Err(Error::input(format!(
                "{} samples are too short for one frame of this encoder, which sees {}",
                clip.valid,
                self.config.field()
            ))
            .hint("remove the row")),
            frames => Ok(frames),
        }
    }

    /// Output of the convolutions for the frames that count, what their backward needs, and which
    /// rows of them count.
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

    /// Adds to the gradients of what is trained, from the gradient of the output and of hidden
    /// states, a place for each that was returned: the steps of the forward from the last to the
    /// first, `dx_i = layer_i'(dx_(i + 1)) + d_hidden_i`.
    ///
    /// `feature_gradient` is the factor of the gradient that reaches the convolutions (fairseq's
    /// `feature_grad_mult`).
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
        let adapters = AdapterDropout {
            probability: saved.adapters.0,
            tokens: &saved.adapters.1,
        };
        let dropout = HiddenDropout {
            probability: saved.hidden.0,
            positions: &saved.hidden.1,
            layer: 0,
        };
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
            if let (Some(dy), Some(saved)) = (&d, saved) {
                let clips = windows(&cu_frames, adapters, dropout.in_layer(LAYERS + i as u64));
                d = Some(layer.backward(dy, saved, &clips)?);
            }
        }
        if !self.is_front_trained() {
            return Ok(());
        }

        let Some(d) = sum(d, d_hidden[0].take())? else {
            return Ok(());
        };
        let mut d = dropout.in_layer(INPUT).apply(&d, 0)?;
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
        let d = dropout.in_layer(PROJECTION).apply(&d, 0)?;
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
            d = spread(&d, rows, *total)?;
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

/// Clips as windows of attention.
fn windows<'a>(
    cu_frames: &'a [usize],
    adapters: AdapterDropout<'a>,
    hidden: HiddenDropout<'a>,
) -> Windows<'a> {
    Windows {
        cu_positions: cu_frames,
        dropout: adapters,
        hidden,
        save: Save::All,
    }
}

/// Starts of the clips, and the number of frames.
fn cumulative(frames: &[usize]) -> Vec<usize> {
    let ends = frames.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}
