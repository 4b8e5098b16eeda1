//! A head at work: rows, the features that it reads, and its tensors.

use candle_core::Device;
use candle_core::Tensor;

use crate::encoder::beam::Beam;
use crate::encoder::clips::Item;
use crate::encoder::ngram::Ngram;
use crate::encoder::probe::head::Forward;
use crate::encoder::probe::head::Head;
use crate::encoder::probe::loss;
use crate::encoder::probe::pool;
use crate::encoder::probe::reader::Features;
use crate::encoder::probe::reader::Reader;
use crate::encoder::probe::recipe::BeamSettings;
use crate::encoder::probe::recipe::HeadKind;
use crate::encoder::probe::recipe::Open;
use crate::encoder::probe::recipe::Recipe;
use crate::encoder::probe::rows::HeadRows;
use crate::error::Result;
use crate::nn::parameters::Parameters;
use crate::objective::ctc;
use crate::seed::Key;

/// A head at work.
pub struct Work<'a> {
    /// Recipe.
    pub recipe: &'a Recipe,
    /// Rows that it learns and is measured on.
    pub rows: HeadRows,
    /// Features that it reads.
    pub reader: Reader<'a>,
    /// Tensors.
    pub head: Head<'a>,
    /// Summaries of the clips of all rows, `[rows, vectors * dim]` for each layer that the head
    /// reads; only under `choose`, which reads them many times.
    pooled: Option<Vec<Tensor>>,
}

impl<'a> Work<'a> {
    /// Opens the encoder, reads the rows and makes the head.
    ///
    /// # Errors
    /// Files of an encoder that are missing or damaged; rows that cannot be used.
    pub fn open(recipe: &'a Recipe) -> Result<Self> {
        let mut reader = Reader::open(recipe)?;
        let rows = HeadRows::read(recipe, &reader.config)?;
        let head = Head::new(recipe, &reader, rows.units.names.len())?;
        if recipe.open() == Open::None {
            reader.measure_scales(&rows.items[..rows.num_train])?;
        }
        let pooled = match recipe.choose {
            Some(_) => Some(pool_rows(recipe, &reader, &rows.items)?),
            None => None,
        };
        Ok(Self {
            recipe,
            rows,
            reader,
            head,
            pooled,
        })
    }

    /// The same rows and features, with the head of another recipe before training.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn with_recipe<'b>(self, recipe: &'b Recipe) -> Result<Work<'b>>
    where
        'a: 'b,
    {
        Ok(Work {
            recipe,
            head: Head::new(recipe, &self.reader, self.rows.units.names.len())?,
            rows: self.rows,
            reader: self.reader,
            pooled: self.pooled,
        })
    }

    /// The flat buffers that are trained, the head's first.
    pub fn trained(&self) -> Vec<&Parameters> {
        let encoder = self.reader.encoder.as_ref();
        let encoder = encoder.filter(|_| self.recipe.open() != Open::None);
        std::iter::once(&self.head.parameters)
            .chain(encoder.map(|model| &model.parameters))
            .collect()
    }

    /// Loss of a step's rows, a mean over units or clips, and number of frames; gradients are
    /// added.
    pub fn compute(&self, step: u64, drawn: &[usize]) -> Result<(f64, usize)> {
        let key = Key::new(self.recipe.seed, "encoder drops").with(step);
        let kind = self.recipe.head;
        let total = loss::total(kind, &self.rows, drawn);
        let mut loss = 0.0;
        let mut frames = 0;
        for pack in self.rows.packs(drawn, self.recipe.batch.pack_s) {
            let forward = self.forward(pack, Some(key))?;
            frames += forward.features.frames.iter().sum::<usize>();
            let (of_pack, d_logits) = loss::loss(kind, &self.rows, pack, &forward, total)?;
            loss += of_pack;
            self.head.backward(&self.reader, &forward, &d_logits)?;
        }
        Ok((loss, frames))
    }

    /// Outputs for rows; `training` is the stream of the step's random numbers.
    fn forward(&self, rows: &[usize], training: Option<Key>) -> Result<Forward> {
        if let Some(features) = self.pooled_features(rows)? {
            return self.head.forward(features);
        }
        let items: Vec<&Item> = rows.iter().map(|&row| &self.rows.items[row]).collect();
        let features = match training {
            Some(step) => self.reader.read_training(&items, rows, step)?,
            None => self.reader.read(&items)?,
        };
        self.head.forward(features)
    }

    /// Summaries of rows' clips, where they were made before.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn pooled_features(&self, rows: &[usize]) -> Result<Option<Features>> {
        let Some(layers) = &self.pooled else {
            return Ok(None);
        };
        let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let ids = Tensor::from_vec(ids, rows.len(), &Device::Cpu)?;
        let layers = layers
            .iter()
            .map(|layer| Ok(layer.index_select(&ids, 0)?))
            .collect::<Result<Vec<_>>>()?;
        let config = &self.reader.config;
        let frames = rows
            .iter()
            .map(|&row| config.num_frames(self.rows.items[row].samples))
            .collect();
        Ok(Some(Features::pooled(layers, frames)))
    }

    /// Prediction for each clip of dev.
    pub fn predict(&self) -> Result<Vec<String>> {
        let beam = self.recipe.beam.as_ref();
        let model = beam.and_then(|beam| beam.model.as_ref());
        let model = model.map(|path| Ngram::open(path)).transpose()?;
        let mut predictions = Vec::new();
        for row in self.rows.num_train..self.rows.items.len() {
            let forward = self.forward(&[row], None)?;
            let (_, units) = forward.logits.dims2()?;
            let logits: Vec<f32> = forward.logits.flatten_all()?.to_vec1()?;
            predictions.push(match (self.recipe.head, beam) {
                (HeadKind::Ctc, None) => self.rows.units.text(&ctc::greedy(&logits, units, 0)),
                (HeadKind::Ctc, Some(beam)) => self.spell(&logits, beam, model.as_ref()),
                (HeadKind::Classify, _) => {
                    self.rows.units.names[ctc::first_largest(&logits)].clone()
                }
            });
        }
        Ok(predictions)
    }

    fn spell(&self, logits: &[f32], settings: &BeamSettings, model: Option<&Ngram>) -> String {
        let beam = Beam {
            width: settings.width,
            model,
            weight: settings.weight,
            bonus: settings.bonus,
            names: &self.rows.units.names,
        };
        self.rows.units.text(&beam.decode(logits))
    }
}

/// Summaries of clips, layer by layer.
fn pool_rows(recipe: &Recipe, reader: &Reader, items: &[Item]) -> Result<Vec<Tensor>> {
    let mut layers: Vec<Vec<Tensor>> = Vec::new();
    for item in items {
        let features = reader.read(&[item])?;
        layers.resize(features.layers.len(), Vec::new());
        for (layer, pooled) in features.layers.iter().zip(&mut layers) {
            pooled.push(pool::pool(layer, &features.frames, recipe.pool)?);
        }
    }
    layers
        .iter()
        .map(|rows| Ok(Tensor::cat(rows, 0)?.contiguous()?))
        .collect()
}
