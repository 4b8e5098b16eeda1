//! Recipes of heads: `encoder finetune` and `encoder probe`.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::encoder::drops::Shares;
use crate::encoder::drops::is_off;
use crate::encoder::recipe::Batch;
use crate::encoder::recipe::Checkpoints;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::metrics::Normaliser;
use crate::models::hubert::Scope;
use crate::recipe;
use crate::train::corpus::EntrySettings;
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
    /// Kind of head.
    pub head: HeadKind,
    /// Field of rows that is learned: `text` for CTC; `label`, `speaker`, `language` or another for
    /// classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Rows to learn from.
    pub data: Vec<EntrySettings>,
    /// Rows to measure on.
    pub dev: Vec<EntrySettings>,
    /// Trained part of the encoder. By default nothing under `probe`, the transformer under
    /// `finetune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Open>,
    /// Whether the head reads a learned sum of all layers, in place of the encoder's output. By
    /// default yes under `probe`, no under `finetune`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted: Option<bool>,
    /// One layer that the head reads in place of the sum or the output; 0 is the input of the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Width between the classifier's two matrices.
    #[serde(default = "width")]
    pub width: usize,
    /// Summary of a clip's frames that the classifier reads.
    #[serde(default, skip_serializing_if = "Pool::is_mean")]
    pub pool: Pool,
    /// Form of the classifier.
    #[serde(default, skip_serializing_if = "Classifier::is_linear")]
    pub classifier: Classifier,
    /// Cross-validation inside the training rows that chooses classifier and weight decay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
    /// Optimiser steps.
    pub steps: u64,
    /// Clips of a step; clips are never cut.
    #[serde(default)]
    pub batch: Batch,
    /// Optimiser.
    #[serde(default)]
    pub optimiser: optimiser::Settings,
    /// Factor of the encoder's learning rate.
    #[serde(default = "encoder_rate")]
    pub encoder_rate: f64,
    /// Share of the numbers of an open encoder's hidden states that training sets to zero.
    #[serde(default, skip_serializing_if = "is_off")]
    pub dropout: f64,
    /// Share of an open encoder's layers that a step leaves out.
    #[serde(default, skip_serializing_if = "is_off")]
    pub layer_drop: f64,
    /// Beam search for a CTC head's outputs on dev; greedy decoding by default.
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
    /// Names a class, from a summary of the frames.
    Classify,
}

/// `pool:` summary of a clip's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Mean over time.
    #[default]
    Mean,
    /// Mean and standard deviation over time.
    MeanStd,
    /// Means of five equal parts, side by side.
    Segments,
}

/// Parts of a clip under `pool: segments`.
pub const SEGMENTS: usize = 5;

impl Pool {
    /// Whether it is the mean.
    pub fn is_mean(&self) -> bool {
        *self == Self::Mean
    }

    /// Vectors of a clip, side by side.
    pub fn num_vectors(self) -> usize {
        match self {
            Self::Mean => 1,
            Self::MeanStd => 2,
            Self::Segments => SEGMENTS,
        }
    }
}

/// `classifier:` form of a classifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Classifier {
    /// Two matrices, as in `HubertForSequenceClassification`.
    #[default]
    Linear,
    /// The same with a ReLU between them.
    Mlp,
}

impl Classifier {
    /// Whether nothing is between the matrices.
    pub fn is_linear(&self) -> bool {
        *self == Self::Linear
    }

    /// Name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Mlp => "mlp",
        }
    }
}

/// `choose:` cross-validation over speakers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Choose {
    /// Number of folds. No speaker is in two of them.
    pub folds: usize,
    /// Classifiers to choose from.
    pub classifier: Vec<Classifier>,
    /// Weight decays to choose from.
    pub weight_decay: Vec<f64>,
}

impl Default for Choose {
    fn default() -> Self {
        Self {
            folds: 5,
            classifier: vec![Classifier::Linear, Classifier::Mlp],
            weight_decay: vec![10.0, 1.0, 0.1],
        }
    }
}

impl Choose {
    /// All pairs of a classifier and a weight decay, classifier by classifier.
    pub fn candidates(&self) -> Vec<(Classifier, f64)> {
        let mut pairs = Vec::new();
        for &classifier in &self.classifier {
            for &decay in &self.weight_decay {
                pairs.push((classifier, decay));
            }
        }
        pairs
    }

    fn check(&self) -> Result<()> {
        if self.folds < 2 {
            return Err(Error::input(format!("`choose.folds` is {}", self.folds))
                .hint("write 2 or more; 5 are usual"));
        }

        let is_decay = |decay: &f64| decay.is_finite() && *decay >= 0.0;
        if self.candidates().is_empty() || !self.weight_decay.iter().all(is_decay) {
            return Err(Error::input(
                "an empty list under `choose`, or a weight decay that is not 0 or more",
            )
            .hint(
                "write for example `choose: {classifier: [linear], weight_decay: [10, 1, 0.1]}`",
            ));
        }

        Ok(())
    }
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
        let mut loaded: Self = recipe::read(path, overrides)?;
        if loaded.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            loaded.name = stem.to_string_lossy().into_owned();
        }
        loaded.open.get_or_insert(if is_probe {
            Open::None
        } else {
            Open::Transformer
        });
        loaded
            .weighted
            .get_or_insert(is_probe && loaded.layer.is_none());
        loaded.field.get_or_insert_with(|| match loaded.head {
            HeadKind::Ctc => "text".to_owned(),
            HeadKind::Classify => "label".to_owned(),
        });
        loaded.check().map_err(|e| e.at_path(path))?;
        Ok(loaded)
    }

    fn check(&self) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("`name`"))?;
        self.optimiser.check_without_stages()?;
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

        self.check_classifier()?;
        self.drops().check()?;
        if (self.dropout > 0.0 || self.layer_drop > 0.0) && self.open() == Open::None {
            return Err(
                Error::input("`dropout` or `layer_drop` with a frozen encoder")
                    .hint("leave both out, or train the encoder with `open: transformer`"),
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

    /// Checks what only a classifier has.
    fn check_classifier(&self) -> Result<()> {
        if self.head == HeadKind::Ctc && !(self.is_of_transformers() && self.choose.is_none()) {
            return Err(
                Error::input("`pool`, `classifier` or `choose` with `head: ctc`")
                    .hint("leave them out, or write `head: classify`"),
            );
        }
        let Some(choose) = &self.choose else {
            return Ok(());
        };

        if self.open() != Open::None {
            return Err(Error::input("`choose` with an encoder that is trained")
                .hint("run `maqam encoder probe` without `open`, or leave `choose` out"));
        }

        if self.evaluate_every > 0 {
            return Err(Error::input("`evaluate_every` with `choose`")
                .hint("leave it out; with `choose`, dev is scored once, after the last step"));
        }

        choose.check()
    }

    /// Whether the head is one of transformers' classes: the mean over time, nothing between the
    /// matrices.
    pub fn is_of_transformers(&self) -> bool {
        self.pool.is_mean() && self.classifier.is_linear()
    }

    /// Shares that training drops.
    pub fn drops(&self) -> Shares {
        Shares {
            hidden: self.dropout,
            layers: self.layer_drop,
        }
    }

    /// Trained part of the encoder.
    pub fn open(&self) -> Open {
        self.open.unwrap_or(Open::None)
    }

    /// Whether the head reads a learned sum of all layers.
    pub fn weighted(&self) -> bool {
        self.weighted.unwrap_or(false)
    }

    /// Field of rows that is learned.
    pub fn field(&self) -> &str {
        self.field.as_deref().unwrap_or_default()
    }

    /// Folder of the run.
    pub fn folder(&self) -> PathBuf {
        Path::new("runs").join(&self.name)
    }

    /// Weights of the encoder that have a gradient.
    pub fn scope(&self) -> Scope {
        match self.open() {
            Open::None => Scope::Frozen,
            Open::Transformer => Scope::WithoutConvolutions,
            Open::All => Scope::Full,
        }
    }
}
