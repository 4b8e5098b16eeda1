//! Heads on encoders: CTC and classification, on a learned sum of frozen layers (`encoder probe`) or with the encoder open
//! (`encoder finetune`).
//!
//! The classifier is that of `HubertForSequenceClassification`, the CTC head that of `HubertForCTC`; with an open encoder both are saved as
//! such. A probe standardises features by the training frames' mean and deviation, so that MFCC and encoders meet the same head.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::encoder::beam::Beam;
use crate::encoder::checkpoint;
use crate::encoder::checkpoint::State;
use crate::encoder::clips;
use crate::encoder::clips::Item;
use crate::encoder::features::Extractor;
use crate::encoder::ngram::Ngram;
use crate::encoder::recipe::Batch;
use crate::encoder::recipe::Checkpoints;
use crate::encoder::recipe::Origin;
use crate::encoder::run::pace_of;
use crate::encoder::run::take;
use crate::encoder::step::Moments;
use crate::encoder::step::NO_DROPOUT;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::AppendLog;
use crate::files::StagedDir;
use crate::machine;
use crate::metrics::Normaliser;
use crate::metrics::Pair;
use crate::metrics::Tally;
use crate::metrics::Texts;
use crate::metrics::classify;
use crate::metrics::confidence::interval;
use crate::metrics::edit;
use crate::metrics::edit::Unit;
use crate::models::hubert;
use crate::models::hubert::Class;
use crate::models::hubert::Clip;
use crate::models::hubert::Head;
use crate::models::hubert::Hubert;
use crate::models::hubert::Pass;
use crate::models::hubert::Scope;
use crate::models::hubert::Source;
use crate::models::hubert::config::Config;
use crate::models::hubert::head_parameters;
use crate::nn::parameters::Parameters;
use crate::nn::precision::Precision;
use crate::objective::ctc;
use crate::ops::adamw::norm;
use crate::ops::linear::Linear;
use crate::ops::linear::Weight;
use crate::ops::scalar::Scalar;
use crate::recipe;
use crate::records::log::Line;
use crate::records::log::StepRecord;
use crate::report::chart::bars::Bar;
use crate::report::chart::bars::BarChart;
use crate::report::chart::bars::Group;
use crate::report::chart::ink::Ink;
use crate::seed::Key;
use crate::stats::significance::Clusters;
use crate::stats::significance::Resampling;
use crate::stats::significance::bootstrap;
use crate::stop::Stop;
use crate::train::checkpoint as steps;
use crate::train::corpus::EntrySettings;
use crate::train::environment::Recorder;
use crate::train::optimiser;

/// A recipe of `encoder finetune` or `encoder probe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run's folder; by default the file's.
    #[serde(default)]
    pub name: String,
    /// Folder of the encoder, or `mfcc`.
    pub encoder: String,
    /// What the head does.
    pub head: HeadKind,
    /// Field of rows that is learned: `text` for CTC; `label`, `speaker`, `language` or another for classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Rows to learn from.
    pub data: Vec<EntrySettings>,
    /// Rows to measure on.
    pub dev: Vec<EntrySettings>,
    /// What of the encoder is trained. By default nothing under `probe`, the transformer under `finetune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Open>,
    /// Whether the head reads a learned sum of all layers, in place of the encoder's output. By default yes under `probe`, no under `finetune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted: Option<bool>,
    /// One layer that the head reads in place of the sum or the output; 0 is the input of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Width between the classifier's two matrices.
    #[serde(default = "width")]
    pub width: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// Clips of a step; clips are never cut.
    #[serde(default)]
    pub batch: Batch,
    /// How the weights move.
    #[serde(default)]
    pub optimiser: optimiser::Settings,
    /// Factor of the encoder's learning rate.
    #[serde(default = "encoder_rate")]
    pub encoder_rate: f64,
    /// How a CTC head's outputs are decoded on dev; greedily where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beam: Option<BeamSettings>,
    /// Rule that texts go through before they are compared.
    #[serde(default)]
    pub normaliser: Normaliser,
    /// Steps between measurements; 0 for one at the end.
    #[serde(default)]
    pub evaluate_every: u64,
    /// When the run is saved.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// Seed of everything that is random.
    #[serde(default)]
    pub seed: u64,
}

/// `beam:` prefix beam search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BeamSettings {
    /// Prefixes that are kept.
    pub width: usize,
    /// Language model of words, an ARPA file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Factor of its log-probabilities.
    pub weight: f64,
    /// Added for each word.
    pub bonus: f64,
}

impl Default for BeamSettings {
    fn default() -> Self {
        Self {
            width: 50,
            model: None,
            weight: 0.5,
            bonus: 0.0,
        }
    }
}

fn width() -> usize {
    256
}

fn encoder_rate() -> f64 {
    0.1
}

/// `head:` what a head does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// Spells characters, by CTC.
    Ctc,
    /// Names a class, from the mean over time.
    Classify,
}

/// `open:` what of an encoder is trained with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Open {
    /// Nothing.
    None,
    /// All but the convolutions.
    Transformer,
    /// All.
    All,
}

impl Recipe {
    /// Reads a recipe; under `is_probe` nothing of the encoder is trained unless it says so.
    ///
    /// # Errors
    /// Unknown keys, wrong types, values outside their range.
    pub fn load(path: &Path, overrides: &[String], is_probe: bool) -> Result<Self> {
        let mut found: Self = recipe::read(path, overrides)?;
        if found.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            found.name = stem.to_string_lossy().into_owned();
        }
        found.open.get_or_insert(if is_probe {
            Open::None
        } else {
            Open::Transformer
        });
        found
            .weighted
            .get_or_insert(is_probe && found.layer.is_none());
        found.field.get_or_insert_with(|| match found.head {
            HeadKind::Ctc => "text".to_owned(),
            HeadKind::Classify => "label".to_owned(),
        });
        found.check().map_err(|e| e.at_path(path))?;
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("`name`"))?;
        self.optimiser.check()?;
        let is_zero = self.steps == 0 || self.batch.clips == 0 || self.width == 0;
        if is_zero || self.checkpoint.every == 0 || self.checkpoint.keep == 0 {
            return Err(Error::input(
                "`steps`, `width`, or a number of `batch` or `checkpoint` is 0",
            )
            .hint("write numbers above 0"));
        }
        if !(self.encoder_rate.is_finite() && self.encoder_rate > 0.0) {
            return Err(
                Error::input(format!("`encoder_rate` is {}", self.encoder_rate))
                    .hint("write a number above 0, or `open: none`"),
            );
        }
        if self.encoder == "mfcc" && self.open() != Open::None {
            return Err(
                Error::input("`open` with MFCC, which have nothing to train")
                    .hint("run `maqam encoder probe`, or name an encoder's folder"),
            );
        }
        if self.weighted() && self.layer.is_some() {
            return Err(Error::input("`weighted: true` and `layer`").hint("keep one of the two"));
        }
        for entry in self.data.iter().chain(&self.dev) {
            if entry.weight != 1.0 || entry.task.is_some() {
                return Err(Error::input("`weight` or `task` of an entry under `data`")
                    .hint("leave them out; `field` says what is learned"));
            }
        }
        Ok(())
    }

    fn open(&self) -> Open {
        self.open.unwrap_or(Open::None)
    }

    fn weighted(&self) -> bool {
        self.weighted.unwrap_or(false)
    }

    fn field(&self) -> &str {
        self.field.as_deref().unwrap_or_default()
    }

    fn folder(&self) -> PathBuf {
        Path::new("runs").join(&self.name)
    }

    fn scope(&self) -> Scope {
        match self.open() {
            Open::None => Scope::Frozen,
            Open::Transformer => Scope::WithoutConvolutions,
            Open::All => Scope::Full,
        }
    }
}

/// Told how a run goes on.
pub trait Observer {
    /// A finished step of `num_steps`.
    fn step(&mut self, record: &StepRecord, num_steps: u64);
    /// A measurement: name, value, and interval where there is one.
    fn evaluated(&mut self, at_step: u64, scores: &[Measured]);
}

/// A score on dev.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Bounds of its 95 % interval, clustered by speaker; `None` where there is a single cluster.
    pub interval: Option<[f64; 2]>,
    /// Number of clusters.
    pub clusters: usize,
}

/// Units of a head: characters after blank and the bar between words, or classes in order.
struct Units {
    names: Vec<String>,
}

/// Written between words in a vocabulary.
const BAR: &str = "|";
/// The blank of CTC.
const BLANK: &str = "<pad>";

impl Units {
    fn of(kind: HeadKind, texts: &[String]) -> Self {
        let sorted: BTreeSet<String> = match kind {
            HeadKind::Classify => texts.iter().cloned().collect(),
            HeadKind::Ctc => texts
                .iter()
                .flat_map(|text| text.chars())
                .filter(|c| !c.is_whitespace())
                .map(String::from)
                .collect(),
        };
        let first: &[&str] = if kind == HeadKind::Ctc {
            &[BLANK, BAR]
        } else {
            &[]
        };
        let names = first
            .iter()
            .map(|name| (*name).to_owned())
            .chain(sorted)
            .collect();
        Self { names }
    }

    /// Ids of a text's characters, or of a class; those that are unknown are left out.
    fn ids(&self, kind: HeadKind, text: &str) -> Vec<u32> {
        let place = |name: &str| {
            self.names
                .iter()
                .position(|known| known == name)
                .map(|i| i as u32)
        };
        match kind {
            HeadKind::Classify => place(text).into_iter().collect(),
            HeadKind::Ctc => {
                let words: Vec<&str> = text.split_whitespace().collect();
                words
                    .join(BAR)
                    .chars()
                    .filter_map(|c| place(c.encode_utf8(&mut [0; 4])))
                    .collect()
            }
        }
    }

    fn text(&self, ids: &[u32]) -> String {
        let spelled: String = ids
            .iter()
            .map(|&id| self.names[id as usize].as_str())
            .collect();
        spelled
            .split(BAR)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What a head reads.
enum Body {
    Mfcc,
    Encoder(Box<Hubert>),
}

/// A head at work.
struct Work<'a> {
    recipe: &'a Recipe,
    items: Vec<Item>,
    texts: Vec<String>,
    targets: Vec<Vec<u32>>,
    num_train: usize,
    units: Units,
    config: Config,
    body: Body,
    heads: Parameters,
    /// Mean and inverse deviation of each layer's numbers, `[dim]` each; none with an open encoder.
    scales: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Hidden states of some clips.
struct Read {
    layers: Vec<Tensor>,
    frames: Vec<usize>,
    saved: Option<hubert::Saved>,
}

impl<'a> Work<'a> {
    fn open(recipe: &'a Recipe) -> Result<Self> {
        let (config, body) = if recipe.encoder == "mfcc" {
            (Config::default(), Body::Mfcc)
        } else {
            let dir = Path::new(&recipe.encoder);
            let config = Config::load(dir)?;
            let source = Source::open(dir)?;
            let model = Hubert::new(config.clone(), &source, recipe.scope(), &[])?;
            if let Some(layer) = recipe.layer {
                model.check_layer(layer).map_err(|e| e.at("`layer`"))?;
            }
            (config, Body::Encoder(Box::new(model)))
        };
        let mut items = clips::read(&recipe.data, &config)?;
        let num_train = items.len();
        items.extend(clips::read(&recipe.dev, &config)?);
        let texts = items
            .iter()
            .map(|item| text_of(item, recipe.field()))
            .collect::<Result<Vec<_>>>()?;
        let units = Units::of(recipe.head, &texts[..num_train]);
        let targets: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| units.ids(recipe.head, text))
            .collect();
        if recipe.head == HeadKind::Ctc {
            for (item, targets) in items.iter().zip(&targets).take(num_train) {
                let frames = config.num_frames(item.samples);
                let least = ctc::min_frames(targets);
                if frames < least {
                    return Err(Error::input(format!(
                        "{frames} frames cannot spell {least} units"
                    ))
                    .at(item.place())
                    .hint("remove the row, or correct its text"));
                }
            }
        }
        let (width, num_layers) = match &body {
            Body::Mfcc => (crate::audio::MFCC_DIMS, 1),
            Body::Encoder(model) => (config.hidden_size, model.config.num_hidden_layers + 1),
        };
        let mut named = Vec::new();
        let mut head = |name: &str, shape: &[usize]| {
            named.push(Head {
                name: name.to_owned(),
                shape: shape.to_vec(),
                deviation: 1.0 / (shape.last().copied().unwrap_or(1) as f64).sqrt(),
            });
        };
        let num_units = units.names.len();
        match recipe.head {
            HeadKind::Ctc => {
                head("lm_head.weight", &[num_units, width]);
                head("lm_head.bias", &[num_units]);
            }
            HeadKind::Classify => {
                head("projector.weight", &[recipe.width, width]);
                head("projector.bias", &[recipe.width]);
                head("classifier.weight", &[num_units, recipe.width]);
                head("classifier.bias", &[num_units]);
            }
        }
        if recipe.weighted() {
            head("layer_weights", &[num_layers]);
        }
        let heads = head_parameters(&named, Key::new(recipe.seed, "heads").state())?;
        let mut work = Self {
            recipe,
            items,
            texts,
            targets,
            num_train,
            units,
            config,
            body,
            heads,
            scales: Vec::new(),
        };
        if recipe.open() == Open::None {
            work.scales = work.measure_scales()?;
        }
        Ok(work)
    }

    /// Mean and inverse deviation of every layer over the training frames.
    fn measure_scales(&self) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let mut sums: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
        let mut count = 0.0;
        for item in 0..self.num_train {
            let read = self.read(&[item], false)?;
            count += read.frames[0] as f64;
            for (i, layer) in read.layers.iter().enumerate() {
                let (_, dim) = layer.dims2()?;
                if sums.len() <= i {
                    sums.push((vec![0.0; dim], vec![0.0; dim]));
                }
                let (of_sum, of_square) = &mut sums[i];
                for row in layer.flatten_all()?.to_vec1::<f32>()?.chunks(dim) {
                    for ((x, sum), square) in
                        row.iter().zip(of_sum.iter_mut()).zip(of_square.iter_mut())
                    {
                        *sum += f64::from(*x);
                        *square += f64::from(*x) * f64::from(*x);
                    }
                }
            }
        }
        let scale = |(sum, square): (Vec<f64>, Vec<f64>)| {
            let mean: Vec<f64> = sum.iter().map(|sum| sum / count).collect();
            let inverse = square.iter().zip(&mean).map(|(square, mean)| {
                (1.0 / (square / count - mean * mean).max(1e-8).sqrt()) as f32
            });
            let inverse = inverse.collect();
            (mean.into_iter().map(|x| x as f32).collect(), inverse)
        };
        Ok(sums.into_iter().map(scale).collect())
    }

    /// What the head reads of clips, packed: all layers, the sum of which it learns, or one.
    fn read(&self, items: &[usize], training: bool) -> Result<Read> {
        let mut read = match &self.body {
            Body::Mfcc => {
                let extractor = Extractor::open(&Origin::Mfcc, &self.config)?;
                let mut rows = Vec::new();
                for &item in items {
                    rows.extend(extractor.features(&self.items[item], &[0], &self.config)?);
                }
                let frames = rows
                    .iter()
                    .map(|rows| rows.dim(0))
                    .collect::<candle_core::Result<_>>()?;
                Read {
                    layers: vec![Tensor::cat(&rows, 0)?],
                    frames,
                    saved: None,
                }
            }
            Body::Encoder(model) => {
                let samples = items
                    .iter()
                    .map(|&item| self.items[item].prepared(&model.config))
                    .collect::<Result<Vec<_>>>()?;
                let clips: Vec<Clip> = samples.iter().map(|samples| Clip::new(samples)).collect();
                let is_all = self.recipe.weighted() || self.recipe.layer.is_none();
                let pass = Pass {
                    masked: &[],
                    layers: match self.recipe.layer {
                        Some(layer) if !is_all => layer,
                        _ => model.config.num_hidden_layers,
                    },
                    training: training && self.recipe.open() != Open::None,
                };
                let (mut encoded, saved) = model.forward(&clips, pass)?;
                let layers = match (self.recipe.weighted(), self.recipe.layer) {
                    (true, _) => encoded.hidden,
                    (false, Some(layer)) => vec![encoded.hidden.swap_remove(layer)],
                    (false, None) => vec![encoded.output],
                };
                Read {
                    layers,
                    frames: encoded.frames,
                    saved,
                }
            }
        };
        for (layer, (mean, inverse)) in read.layers.iter_mut().zip(&self.scales) {
            let (rows, dim) = layer.dims2()?;
            let mut values = layer.flatten_all()?.to_vec1::<f32>()?;
            for row in values.chunks_mut(dim) {
                for ((x, mean), inverse) in row.iter_mut().zip(mean).zip(inverse) {
                    *x = (*x - mean) * inverse;
                }
            }
            *layer = Tensor::from_vec(values, (rows, dim), &Device::Cpu)?;
        }
        Ok(read)
    }

    fn weight(&self, name: &str) -> Result<Weight> {
        let place = self
            .heads
            .entries
            .iter()
            .position(|entry| entry.name == name);
        let place = place.ok_or_else(|| Error::bug(format!("no head `{name}`")))?;
        self.heads.weight(place)
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight(&format!("{name}.weight"))?,
            bias: Some(self.weight(&format!("{name}.bias"))?),
            adapter: None,
        })
    }

    /// Shares of the layers in the sum.
    fn shares(&self) -> Result<Vec<f64>> {
        if !self.recipe.weighted() {
            return Ok(vec![1.0]);
        }
        let raw: Vec<f32> = self.weight("layer_weights")?.value.to_vec1()?;
        let max = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = raw.iter().map(|&x| f64::from(x - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        Ok(powers.into_iter().map(|power| power / sum).collect())
    }

    /// Logits of clips (CTC: of their frames), and what the backward needs.
    fn forward(&self, items: &[usize], training: bool) -> Result<Forward> {
        let read = self.read(items, training)?;
        let shares = self.shares()?;
        let mut x = (&read.layers[0] * shares[0])?;
        for (layer, &share) in read.layers.iter().zip(&shares).skip(1) {
            x = (x + (layer * share)?)?;
        }
        match self.recipe.head {
            HeadKind::Ctc => {
                let (logits, _) = self.linear("lm_head")?.forward(&x, None, NO_DROPOUT)?;
                Ok(Forward {
                    read,
                    shares,
                    inputs: vec![x],
                    logits,
                })
            }
            HeadKind::Classify => {
                let pooled = means(&x, &read.frames)?;
                let (projected, _) = self
                    .linear("projector")?
                    .forward(&pooled, None, NO_DROPOUT)?;
                let (logits, _) = self
                    .linear("classifier")?
                    .forward(&projected, None, NO_DROPOUT)?;
                Ok(Forward {
                    read,
                    shares,
                    inputs: vec![pooled, projected],
                    logits,
                })
            }
        }
    }

    /// Adds the gradients of the head, and of the encoder where it is open, from that of the logits.
    fn backward(&self, forward: &Forward, d_logits: &Tensor) -> Result<()> {
        let back = |name: &str, d: &Tensor, x: &Tensor| -> Result<Tensor> {
            self.linear(name)?
                .backward(d, x, None, NO_DROPOUT, true)?
                .ok_or_else(|| Error::bug("a head returned no gradient of its input"))
        };
        let frames = &forward.read.frames;
        let dx = match self.recipe.head {
            HeadKind::Ctc => back("lm_head", d_logits, &forward.inputs[0])?,
            HeadKind::Classify => {
                let d_projected = back("classifier", d_logits, &forward.inputs[1])?;
                spread_means(
                    &back("projector", &d_projected, &forward.inputs[0])?,
                    frames,
                )?
            }
        };
        if self.recipe.weighted() {
            let along: Vec<f64> = forward
                .read
                .layers
                .iter()
                .map(|layer| Ok(f64::from((layer * &dx)?.sum_all()?.to_scalar::<f32>()?)))
                .collect::<Result<_>>()?;
            let mean: f64 = along.iter().zip(&forward.shares).map(|(a, s)| a * s).sum();
            if let Some(gradient) = &self.weight("layer_weights")?.gradient {
                crate::ops::cpu::write::<f32>(gradient, |d| {
                    for ((d, along), share) in d.iter_mut().zip(&along).zip(&forward.shares) {
                        *d += (share * (along - mean)) as f32;
                    }
                })?;
            }
        }
        let (Body::Encoder(model), Some(saved)) = (&self.body, &forward.read.saved) else {
            return Ok(());
        };
        let (d_output, d_hidden) = match (self.recipe.weighted(), self.recipe.layer) {
            (false, None) => (Some(dx), Vec::new()),
            (false, Some(layer)) => {
                let mut d_hidden = vec![None; layer + 1];
                d_hidden[layer] = Some(dx);
                (None, d_hidden)
            }
            (true, _) => {
                let d_hidden = forward.shares.iter().map(|&share| Ok(Some((&dx * share)?)));
                (None, d_hidden.collect::<Result<_>>()?)
            }
        };
        model.backward(saved, d_output, d_hidden, 1.0)
    }

    /// Loss of a step's clips, a mean over units or clips; gradients are added.
    fn compute(&self, items: &[usize]) -> Result<(f64, usize)> {
        let total: usize = match self.recipe.head {
            HeadKind::Ctc => items.iter().map(|&item| self.targets[item].len()).sum(),
            HeadKind::Classify => items.len(),
        };
        let mut loss = 0.0;
        let mut frames = 0;
        for pack in packs(items, &self.items, self.recipe.batch.pack_s) {
            let forward = self.forward(pack, true)?;
            frames += forward.read.frames.iter().sum::<usize>();
            let d_logits = match self.recipe.head {
                HeadKind::Ctc => {
                    let utterances: Vec<ctc::Utterance> = pack
                        .iter()
                        .zip(&forward.read.frames)
                        .map(|(&item, &frames)| ctc::Utterance {
                            frames,
                            targets: &self.targets[item],
                            weight: 1.0 / total.max(1) as f64,
                        })
                        .collect();
                    let found = ctc::ctc(&forward.logits, &utterances, 0)?;
                    loss += found.nats.iter().sum::<f64>() / total.max(1) as f64;
                    found.d_logits
                }
                HeadKind::Classify => {
                    let wanted: Vec<u32> = pack.iter().map(|&item| self.targets[item][0]).collect();
                    let (nats, d) = cross_entropy(&forward.logits, &wanted, 1.0 / total as f64)?;
                    loss += nats;
                    d
                }
            };
            self.backward(&forward, &d_logits)?;
        }
        Ok((loss, frames))
    }

    /// What the head says of each clip of dev.
    fn predict(&self) -> Result<Vec<String>> {
        let beam = self.recipe.beam.as_ref();
        let model = beam.and_then(|beam| beam.model.as_ref());
        let model = model.map(|path| Ngram::open(path)).transpose()?;
        let mut said = Vec::new();
        for item in self.num_train..self.items.len() {
            let forward = self.forward(&[item], false)?;
            let (_, units) = forward.logits.dims2()?;
            let logits: Vec<f32> = forward.logits.flatten_all()?.to_vec1()?;
            said.push(match self.recipe.head {
                HeadKind::Ctc => {
                    let spelled = match beam {
                        Some(settings) => {
                            let beam = Beam {
                                width: settings.width,
                                model: model.as_ref(),
                                weight: settings.weight,
                                bonus: settings.bonus,
                                names: &self.units.names,
                            };
                            beam.decode(&logits)
                        }
                        None => ctc::greedy(&logits, units, 0),
                    };
                    self.units.text(&spelled)
                }
                HeadKind::Classify => {
                    let best =
                        logits
                            .iter()
                            .enumerate()
                            .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
                                if x > best.1 { (i, x) } else { best }
                            });
                    self.units.names[best.0].clone()
                }
            });
        }
        Ok(said)
    }

    /// Scores of predictions, with intervals clustered by speaker (by row where there is none).
    fn score(&self, said: &[String]) -> Result<Vec<Measured>> {
        let wanted = &self.texts[self.num_train..];
        let tallies: Vec<Tally> = match self.recipe.head {
            HeadKind::Ctc => {
                let pairs = wanted
                    .iter()
                    .zip(said)
                    .map(|(a, b)| Pair::new(a, b))
                    .collect();
                let texts = Texts::new(pairs, self.recipe.normaliser);
                let rate = |unit| edit::tallies(&texts, unit).swap_remove(0);
                vec![rate(Unit::Words), rate(Unit::Characters)]
            }
            HeadKind::Classify => {
                let pairs: Vec<(&str, Option<&str>)> = wanted
                    .iter()
                    .zip(said)
                    .map(|(a, b)| (a.as_str(), Some(b.as_str())))
                    .collect();
                classify::tallies(&pairs, None, "head")?.into()
            }
        };
        let names = self.items[self.num_train..]
            .iter()
            .map(|item| match &item.row.speaker {
                Some(speaker) => format!("speaker {speaker}"),
                None => format!("row {}", item.row.id),
            });
        let clusters = Clusters::named(names);
        let measured = tallies.iter().map(|tally| {
            let score = |sum: &[f64]| tally.score(sum);
            let found = match clusters.num_clusters() {
                0 | 1 => None,
                _ => bootstrap(&tally.units, &clusters, &score, &Resampling::default()).ok(),
            };
            Measured {
                name: tally.name.clone(),
                value: tally.corpus(),
                interval: found.map(|found| interval(&found)).map(|i| [i.low, i.high]),
                clusters: clusters.num_clusters(),
            }
        });
        Ok(measured.collect())
    }

    fn encoder(&self) -> Option<&Hubert> {
        match &self.body {
            Body::Mfcc => None,
            Body::Encoder(model) => Some(model),
        }
    }

    /// The flat buffers that are trained.
    fn trained(&self) -> Vec<&Parameters> {
        let encoder = self.encoder().filter(|_| self.recipe.open() != Open::None);
        std::iter::once(&self.heads)
            .chain(encoder.map(|model| &model.parameters))
            .collect()
    }

    /// Clips of a step, from 0: a seeded order, each once an epoch.
    fn drawn(&self, step: u64) -> Vec<usize> {
        let (clips, n) = (self.recipe.batch.clips as u64, self.num_train as u64);
        let key = Key::new(self.recipe.seed, "head order");
        (step * clips..(step + 1) * clips)
            .map(|position| {
                key.with(position / n).permutation(self.num_train)[(position % n) as usize] as usize
            })
            .collect()
    }
}

/// What a head's forward leaves.
struct Forward {
    read: Read,
    shares: Vec<f64>,
    inputs: Vec<Tensor>,
    logits: Tensor,
}

/// What a row's field says.
fn text_of(item: &Item, field: &str) -> Result<String> {
    let row = &item.row;
    let known = match field {
        "text" => row.text.as_deref(),
        "label" => row.label.as_deref(),
        "speaker" => row.speaker.as_deref(),
        "language" => row.language.as_deref(),
        "group" => row.group.as_deref(),
        _ => None,
    };
    let extra = row.extra_fields();
    known
        .or_else(|| extra.get(field).and_then(|value| value.as_str()))
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::input(format!("no `{field}`"))
                .at(item.place())
                .hint("name another `field`, or remove the row")
        })
}

/// Runs of clips of at most so many seconds; a longer clip is alone.
fn packs<'a>(items: &'a [usize], all: &'a [Item], most_s: f64) -> Vec<&'a [usize]> {
    let mut packs = Vec::new();
    let (mut start, mut seconds) = (0, 0.0);
    for (i, &item) in items.iter().enumerate() {
        if i > start && seconds + all[item].seconds() > most_s {
            packs.push(&items[start..i]);
            (start, seconds) = (i, 0.0);
        }
        seconds += all[item].seconds();
    }
    packs.push(&items[start..]);
    packs
}

/// Mean over the rows of each clip, `[clips, dim]`.
fn means(x: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let (mut start, mut means) = (0, Vec::new());
    for &len in frames {
        means.push(x.narrow(0, start, len)?.mean_keepdim(0)?);
        start += len;
    }
    Ok(Tensor::cat(&means, 0)?.contiguous()?)
}

/// Gradient of [`means`]' input.
fn spread_means(d: &Tensor, frames: &[usize]) -> Result<Tensor> {
    let (_, dim) = d.dims2()?;
    let mut rows = Vec::new();
    for (i, &len) in frames.iter().enumerate() {
        rows.push((d.narrow(0, i, 1)? / len as f64)?.broadcast_as((len, dim))?);
    }
    Ok(Tensor::cat(&rows, 0)?.contiguous()?)
}

/// Sum of `weight` times the negative log-likelihoods of classes, and its gradient.
fn cross_entropy(logits: &Tensor, wanted: &[u32], weight: f64) -> Result<(f64, Tensor)> {
    let (rows, classes) = logits.dims2()?;
    let mut values: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let mut loss = 0.0;
    for (row, &class) in values.chunks_mut(classes).zip(wanted) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        loss += weight * (sum.ln() - f64::from(row[class as usize] - max));
        for (i, x) in row.iter_mut().enumerate() {
            let target = if i == class as usize { 1.0 } else { 0.0 };
            *x = (weight * (f64::from(*x - max).exp() / sum - target)) as f32;
        }
    }
    Ok((
        loss,
        Tensor::from_vec(values, (rows, classes), &Device::Cpu)?,
    ))
}

/// Trains a head; with `resume` from where the run stood. Returns the last scores.
///
/// # Errors
/// A run that exists without `resume`; a recipe that has changed; rows that cannot be used; a loss that is not finite; the disk's.
pub fn run(
    recipe: &Recipe,
    resume: bool,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Vec<Measured>> {
    let folder = recipe.folder();
    let lock = files::Lock::claim(&folder)?;
    let text = yaml_serde::to_string(recipe).map_err(Error::bug_from)?;
    let text = format!("# Recipe of a head's run, with every default.\n{text}");
    take(&folder, &[("recipe.yaml", text)], resume)?;
    lock.remove_leftovers();
    let work = Work::open(recipe)?;
    let parameters = work.trained();
    let moments = parameters
        .iter()
        .map(|p| Moments::new(p))
        .collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&Parameters, &Moments)> = parameters.iter().copied().zip(&moments).collect();
    let checkpoints = folder.join("checkpoints");
    let mut state = State::default();
    if let Some((_, path)) = steps::list(&checkpoints)?.last() {
        state = checkpoint::load(path, &parts)?;
    }
    let log_path = folder.join("log.jsonl");
    if log_path.exists() {
        files::truncate(&log_path, state.log_bytes)?;
    }
    let computes = Precision::Auto.on(&Device::Cpu)?;
    let mut recorder = Recorder::begin(&folder, state.step, computes, &machine::here(None));
    let mut log = AppendLog::open(&log_path)?;
    let mut scores = Vec::new();
    let mut train = || -> Result<()> {
        while state.step < recipe.steps {
            if stop.is_requested() {
                save(
                    &checkpoints,
                    &parts,
                    &mut state,
                    &mut log,
                    recipe.checkpoint.keep,
                )?;
                return Err(Error::interrupted(checkpoint::STOPPED));
            }
            let begun = Instant::now();
            let record = step(&work, &parts, state.step)?;
            log.line(&Line::Train(record.clone()).to_text()?)?;
            recorder.step(&record, pace_of(begun));
            observer.step(&record, recipe.steps);
            state.step += 1;
            let is_last = state.step == recipe.steps;
            let every = recipe.evaluate_every;
            if is_last || every > 0 && state.step.is_multiple_of(every) {
                scores = evaluate(&work, &folder, state.step, &mut log)?;
                observer.evaluated(state.step, &scores);
            }
            if is_last || state.step.is_multiple_of(recipe.checkpoint.every) {
                save(
                    &checkpoints,
                    &parts,
                    &mut state,
                    &mut log,
                    recipe.checkpoint.keep,
                )?;
                recorder.write()?;
            }
        }
        Ok(())
    };
    let outcome = train();
    recorder.end(&outcome)?;
    outcome?;
    let staged = StagedDir::new(&folder.join("model"))?;
    export(&work, staged.path())?;
    staged.commit()?;
    Ok(scores)
}

fn save(
    all: &Path,
    parts: &[(&Parameters, &Moments)],
    state: &mut State,
    log: &mut AppendLog,
    keep: usize,
) -> Result<()> {
    log.sync()?;
    state.log_bytes = log.num_bytes()?;
    checkpoint::save(&steps::folder(all, state.step), parts, state)?;
    let saved = steps::list(all)?;
    saved[..saved.len().saturating_sub(keep)]
        .iter()
        .try_for_each(|(_, path)| files::remove_dir(path))
}

/// One step, from 0.
fn step(work: &Work, parts: &[(&Parameters, &Moments)], step: u64) -> Result<StepRecord> {
    let recipe = work.recipe;
    let items = work.drawn(step);
    for (parameters, _) in parts {
        parameters.zero_gradients()?;
    }
    let (loss, frames) = work.compute(&items)?;
    let squares = parts
        .iter()
        .map(|(parameters, _)| Ok(norm(&parameters.gradients)?.value()?.powi(2)))
        .collect::<Result<Vec<f64>>>()?;
    let grad_norm = Scalar::new(squares.iter().sum::<f64>().sqrt(), &Device::Cpu)?;
    let rate = recipe.optimiser.learning_rate * recipe.optimiser.factor(step, recipe.steps);
    for (i, (parameters, moments)) in parts.iter().enumerate() {
        let is_head = i == 0;
        let is_trained = |entry: usize| match work.encoder() {
            Some(model) if !is_head => model.is_trained(entry, recipe.scope()),
            _ => true,
        };
        let rate = if is_head {
            rate
        } else {
            rate * recipe.encoder_rate
        };
        moments.update(
            parameters,
            &recipe.optimiser,
            is_trained,
            (loss, &grad_norm),
            rate,
            step + 1,
        )?;
    }
    Ok(StepRecord {
        step: step + 1,
        stage: "head".to_owned(),
        loss,
        grad_norm: grad_norm.value()?,
        learning_rate: rate,
        examples: items.len(),
        tokens: frames,
        target_tokens: items.iter().map(|&item| work.targets[item].len()).sum(),
        seconds: items.iter().map(|&item| work.items[item].seconds()).sum(),
        skipped: 0,
        tasks: BTreeMap::new(),
    })
}

/// Predictions, scores and layers' shares of a step, written beside the log.
fn evaluate(work: &Work, folder: &Path, step: u64, log: &mut AppendLog) -> Result<Vec<Measured>> {
    let said = work.predict()?;
    let scores = work.score(&said)?;
    let staged = StagedDir::new(&steps::folder(&folder.join("eval"), step))?;
    let mut lines = String::new();
    for (i, said) in said.iter().enumerate() {
        let place = work.num_train + i;
        let row = &work.items[place].row;
        let line = json!({
            "id": row.id,
            "prediction": said,
            "reference": work.texts[place],
            "speaker": row.speaker.as_deref(),
        });
        lines += &format!("{line}\n");
    }
    files::write_atomic(&staged.path().join("predictions.jsonl"), lines.as_bytes())?;
    let shares = work.shares()?;
    let text = serde_json::to_string_pretty(&json!({ "scores": scores, "layer_shares": shares }));
    files::write_atomic(
        &staged.path().join("scores.json"),
        (text.map_err(Error::bug_from)? + "\n").as_bytes(),
    )?;
    if work.recipe.weighted() && shares.len() > 1 {
        let svg = layer_chart(&shares).svg(560.0, Ink::File, "Share of each layer in the sum");
        files::write_atomic(&staged.path().join("layer_shares.svg"), svg.as_bytes())?;
    }
    staged.commit()?;
    let mut listed: BTreeMap<String, f64> = scores
        .iter()
        .map(|score| (format!("dev.{}", score.name), score.value))
        .collect();
    if work.recipe.weighted() {
        listed.extend(
            shares
                .iter()
                .enumerate()
                .map(|(i, &s)| (format!("layer_share.{i}"), s)),
        );
    }
    log.line(&json!({ "kind": "eval", "at_step": step, "scores": listed }).to_string())?;
    Ok(scores)
}

/// A bar for each layer.
fn layer_chart(shares: &[f64]) -> BarChart {
    let group = |(layer, &share): (usize, &f64)| Group {
        name: format!("layer {layer}"),
        bars: vec![Some(Bar::new(share))],
    };
    BarChart {
        series: vec!["share".to_owned()],
        groups: shares.iter().enumerate().map(group).collect(),
        ..BarChart::default()
    }
}

/// Writes what was trained: with an open encoder that reads its output, a folder that transformers reads; else the head alone.
fn export(work: &Work, dir: &Path) -> Result<()> {
    let mut heads = Vec::new();
    for entry in &work.heads.entries {
        heads.push((entry.name.clone(), work.heads.value(entry)?));
    }
    let names = &work.units.names;
    let vocabulary: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.clone(), i.into()))
        .collect();
    let text = serde_json::to_string_pretty(&vocabulary).map_err(Error::bug_from)?;
    files::write_atomic(&dir.join("vocab.json"), (text + "\n").as_bytes())?;
    let (Some(model), Open::Transformer | Open::All, None) =
        (work.encoder(), work.recipe.open(), work.recipe.layer)
    else {
        for (i, (mean, inverse)) in work.scales.iter().enumerate() {
            for (name, values) in [("mean", mean), ("inverse_deviation", inverse)] {
                let tensor = Tensor::from_vec(values.clone(), values.len(), &Device::Cpu)?;
                heads.push((format!("scales.{i}.{name}"), tensor));
            }
        }
        return files::write_safetensors(&dir.join("head.safetensors"), heads);
    };
    let mut model = model.clone();
    match work.recipe.head {
        HeadKind::Ctc => {
            model.config.vocab_size = names.len();
            model.config.pad_token_id = 0;
            hubert::save(&model, dir, Class::Ctc, heads)
        }
        HeadKind::Classify => {
            let labels: serde_json::Map<String, serde_json::Value> = names
                .iter()
                .enumerate()
                .map(|(i, name)| (i.to_string(), json!(name)))
                .collect();
            let other = &mut model.config.other;
            other.insert("id2label".into(), labels.into());
            other.insert("label2id".into(), vocabulary.into());
            other.insert("classifier_proj_size".into(), work.recipe.width.into());
            other.insert(
                "use_weighted_layer_sum".into(),
                work.recipe.weighted().into(),
            );
            hubert::save(&model, dir, Class::Classifier, heads)
        }
    }
}
