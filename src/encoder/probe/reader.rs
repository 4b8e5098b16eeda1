//! Features that a head reads: MFCC, or hidden states of an encoder.

use std::path::Path;

use candle_core::Device;
use candle_core::Tensor;

use crate::encoder::clips::Item;
use crate::encoder::features::Extractor;
use crate::encoder::probe::recipe::Open;
use crate::encoder::probe::recipe::Recipe;
use crate::encoder::recipe::Origin;
use crate::error::Result;
use crate::models::hubert;
use crate::models::hubert::Clip;
use crate::models::hubert::Hubert;
use crate::models::hubert::Pass;
use crate::models::hubert::Source;
use crate::models::hubert::config::Config;
use crate::seed::Key;

/// Mean and inverse deviation of a layer's features, `[dim]` each.
pub struct Scale {
    /// Mean.
    pub mean: Vec<f32>,
    /// One over the standard deviation.
    pub inverse: Vec<f32>,
}

/// MFCC, or an encoder.
pub struct Reader<'a> {
    recipe: &'a Recipe,
    /// Configuration of the encoder; the default one for MFCC.
    pub config: Config,
    /// The encoder; `None` for MFCC.
    pub encoder: Option<Hubert>,
    /// Scale of each layer; none with an open encoder.
    pub scales: Vec<Scale>,
}

/// Features of packed clips.
pub struct Features {
    /// Each layer that the head reads, `[frames, dim]`.
    pub layers: Vec<Tensor>,
    /// Frames of each clip.
    pub frames: Vec<usize>,
    saved: Option<hubert::Saved>,
    /// Whether a row of a layer is the summary of a clip, in place of a frame.
    pub is_pooled: bool,
}

impl Features {
    /// Summaries of clips that were made before, `[clips, vectors * dim]` for each layer.
    pub fn pooled(layers: Vec<Tensor>, frames: Vec<usize>) -> Self {
        Self {
            layers,
            frames,
            saved: None,
            is_pooled: true,
        }
    }
}

impl<'a> Reader<'a> {
    /// Opens what a recipe names; features are not scaled yet.
    ///
    /// # Errors
    /// Files of an encoder that are missing or damaged; a layer that it does not have.
    pub fn open(recipe: &'a Recipe) -> Result<Self> {
        let mut config = Config::default();
        let mut encoder = None;
        if recipe.encoder != "mfcc" {
            let dir = Path::new(&recipe.encoder);
            config = Config::load(dir)?;
            let source = Source::open(dir)?;
            let model = Hubert::new(config.clone(), &source, recipe.scope(), &[])?;
            if let Some(layer) = recipe.layer {
                model.check_layer(layer).map_err(|e| e.at("`layer`"))?;
            }
            encoder = Some(model);
        }
        Ok(Self {
            recipe,
            config,
            encoder,
            scales: Vec::new(),
        })
    }

    /// Width of a layer's features.
    pub fn width(&self) -> usize {
        match &self.encoder {
            None => crate::audio::MFCC_DIMS,
            Some(_) => self.config.hidden_size,
        }
    }

    /// Layers of which a weighted sum is learned.
    pub fn num_layers(&self) -> usize {
        match &self.encoder {
            None => 1,
            Some(model) => model.config.num_hidden_layers + 1,
        }
    }

    /// Scales features from here on: by the mean and deviation of every layer over the frames of
    /// these clips.
    pub fn measure_scales(&mut self, items: &[Item]) -> Result<()> {
        let mut sums: Vec<Moments> = Vec::new();
        let mut count = 0.0;
        for item in items {
            let features = self.read(&[item])?;
            count += features.frames[0] as f64;
            for (i, layer) in features.layers.iter().enumerate() {
                let (_, dim) = layer.dims2()?;
                if sums.len() <= i {
                    sums.push(Moments::zeros(dim));
                }
                sums[i].add(&layer.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        self.scales = sums.iter().map(|sums| sums.scale(count)).collect();
        Ok(())
    }

    /// Features of clips, packed: all layers of which the sum is learned, or one.
    pub fn read(&self, items: &[&Item]) -> Result<Features> {
        let features = match &self.encoder {
            None => self.read_mfcc(items)?,
            Some(model) => self.read_encoder(model, items, Pass::plain(0, false))?,
        };
        self.scaled(features)
    }

    /// The same to learn from; an open encoder drops what the stream of the step says, for each of
    /// the `rows`.
    pub fn read_training(&self, items: &[&Item], rows: &[usize], step: Key) -> Result<Features> {
        let Some(model) = self
            .encoder
            .as_ref()
            .filter(|_| self.recipe.open() != Open::None)
        else {
            return self.read(items);
        };
        let drops = self.recipe.drops();
        let frames = items
            .iter()
            .map(|item| model.config.num_frames(item.samples));
        let keys = rows.iter().map(|&row| step.with(row as u64));
        let streams = drops.streams(keys.zip(frames));
        let skipped = drops.skipped(model.config.num_hidden_layers, step);
        let pass = Pass {
            hidden: drops.over(&streams),
            skipped: &skipped,
            ..Pass::plain(0, true)
        };
        let features = self.read_encoder(model, items, pass)?;
        self.scaled(features)
    }

    fn scaled(&self, mut features: Features) -> Result<Features> {
        for (layer, scale) in features.layers.iter_mut().zip(&self.scales) {
            *layer = scale.apply(layer)?;
        }
        Ok(features)
    }

    fn read_mfcc(&self, items: &[&Item]) -> Result<Features> {
        let extractor = Extractor::open(&Origin::Mfcc, &self.config)?;
        let mut rows = Vec::new();
        for item in items {
            rows.extend(extractor.features(item, &[0], &self.config)?);
        }
        let frames = rows
            .iter()
            .map(|rows| rows.dim(0))
            .collect::<candle_core::Result<_>>()?;
        Ok(Features {
            layers: vec![Tensor::cat(&rows, 0)?],
            frames,
            saved: None,
            is_pooled: false,
        })
    }

    /// Features of an encoder, as far as the head reads its layers.
    fn read_encoder(&self, model: &Hubert, items: &[&Item], pass: Pass) -> Result<Features> {
        let samples = items
            .iter()
            .map(|item| item.prepared(&model.config))
            .collect::<Result<Vec<_>>>()?;
        let clips: Vec<Clip> = samples.iter().map(|samples| Clip::new(samples)).collect();
        let pass = Pass {
            layers: match self.recipe.layer {
                Some(layer) if !self.recipe.weighted() => layer,
                _ => model.config.num_hidden_layers,
            },
            ..pass
        };
        let (mut encoded, saved) = model.forward(&clips, pass)?;

        let layers = match (self.recipe.weighted(), self.recipe.layer) {
            (true, _) => encoded.hidden,
            (false, Some(layer)) => vec![encoded.hidden.swap_remove(layer)],
            (false, None) => vec![encoded.output],
        };
        Ok(Features {
            layers,
            frames: encoded.frames,
            saved,
            is_pooled: false,
        })
    }

    /// Adds the gradients of an open encoder, from that of each layer that was read.
    pub fn backward(
        &self,
        features: &Features,
        d_layer: &dyn Fn(usize) -> Result<Tensor>,
    ) -> Result<()> {
        let (Some(model), Some(saved)) = (&self.encoder, &features.saved) else {
            return Ok(());
        };
        let mut d_output = None;
        let mut d_hidden = Vec::new();
        match (self.recipe.weighted(), self.recipe.layer) {
            (false, None) => d_output = Some(d_layer(0)?),
            (false, Some(layer)) => {
                d_hidden.resize(layer + 1, None);
                d_hidden[layer] = Some(d_layer(0)?);
            }
            (true, _) => {
                for layer in 0..self.num_layers() {
                    d_hidden.push(Some(d_layer(layer)?));
                }
            }
        }
        model.backward(saved, d_output, d_hidden, 1.0)
    }
}

/// Sums of a layer's features and of their squares.
struct Moments {
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl Moments {
    fn zeros(dim: usize) -> Self {
        Self {
            sum: vec![0.0; dim],
            square: vec![0.0; dim],
        }
    }

    fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks(self.sum.len()) {
            for ((&x, sum), square) in row.iter().zip(&mut self.sum).zip(&mut self.square) {
                *sum += f64::from(x);
                *square += f64::from(x) * f64::from(x);
            }
        }
    }

    fn scale(&self, count: f64) -> Scale {
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / count).collect();
        let inverse = self.square.iter().zip(&mean).map(|(square, mean)| {
            let variance = square / count - mean * mean;
            (1.0 / variance.max(1e-8).sqrt()) as f32
        });
        Scale {
            inverse: inverse.collect(),
            mean: mean.iter().map(|&x| x as f32).collect(),
        }
    }
}

impl Scale {
    fn apply(&self, layer: &Tensor) -> Result<Tensor> {
        let (rows, dim) = layer.dims2()?;
        let mut values = layer.flatten_all()?.to_vec1::<f32>()?;
        for row in values.chunks_mut(dim) {
            for ((x, mean), inverse) in row.iter_mut().zip(&self.mean).zip(&self.inverse) {
                *x = (*x - mean) * inverse;
            }
        }
        Ok(Tensor::from_vec(values, (rows, dim), &Device::Cpu)?)
    }
}
