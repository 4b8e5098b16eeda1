//! Recipes of `maqam encoder pretrain` and `maqam encoder distill`.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::encoder::drops::Shares;
use crate::encoder::drops::is_off;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::models::hubert::config::Config;
use crate::models::hubert::config::FeatureNorm;
use crate::recipe;
use crate::train::corpus::EntrySettings;
use crate::train::optimiser;

/// Which command reads a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `pretrain`: the first iteration learns from MFCC unless told otherwise.
    Pretrain,
    /// `distill`: a teacher is given, and the first iteration learns from it.
    Distill,
}

/// A recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run's folder; by default the file's.
    #[serde(default)]
    pub name: String,
    /// Rows to learn from; transcripts and labels are not used.
    pub data: Vec<EntrySettings>,
    /// Rows to measure on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dev: Vec<EntrySettings>,
    /// Folder of the encoder that the first iteration learns from; `distill` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Shape of the encoders.
    #[serde(default)]
    pub encoder: Shape,
    /// Iterations, one after the other.
    pub iterations: Vec<Iteration>,
    /// Share of the numbers of hidden states that training sets to zero.
    #[serde(default, skip_serializing_if = "is_off")]
    pub dropout: f64,
    /// Share of the layers that a step leaves out.
    #[serde(default, skip_serializing_if = "is_off")]
    pub layer_drop: f64,
    /// Clips of a step.
    #[serde(default)]
    pub batch: Batch,
    /// Optimiser.
    #[serde(default)]
    pub optimiser: optimiser::Settings,
    /// Measurements while training.
    #[serde(default)]
    pub evaluate: Evaluate,
    /// When the run is saved.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// Seed of everything that is random.
    #[serde(default)]
    pub seed: u64,
}

/// `encoder:` shape of an encoder; keys are those of Hugging Face's `config.json`, and so are the
/// defaults: HuBERT-base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Width of the transformer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// Number of layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    /// Attention heads of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// Width inside a block's MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// Channels of each convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conv_dim: Option<Vec<usize>>,
    /// Kernel of each convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conv_kernel: Option<Vec<usize>>,
    /// Stride of each convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conv_stride: Option<Vec<usize>>,
    /// Whether convolutions have biases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conv_bias: Option<bool>,
    /// Norms of the feature extractor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feat_extract_norm: Option<FeatureNorm>,
    /// Norms before attention and MLP in place of after them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_stable_layer_norm: Option<bool>,
    /// Kernel of the positional convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_conv_pos_embeddings: Option<usize>,
    /// Groups of the positional convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_conv_pos_embedding_groups: Option<usize>,
}

impl Shape {
    /// This shape, with what `other` says in its place.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            hidden_size: other.hidden_size.or(self.hidden_size),
            num_hidden_layers: other.num_hidden_layers.or(self.num_hidden_layers),
            num_attention_heads: other.num_attention_heads.or(self.num_attention_heads),
            intermediate_size: other.intermediate_size.or(self.intermediate_size),
            conv_dim: other.conv_dim.clone().or(self.conv_dim.clone()),
            conv_kernel: other.conv_kernel.clone().or(self.conv_kernel.clone()),
            conv_stride: other.conv_stride.clone().or(self.conv_stride.clone()),
            conv_bias: other.conv_bias.or(self.conv_bias),
            feat_extract_norm: other.feat_extract_norm.or(self.feat_extract_norm),
            do_stable_layer_norm: other.do_stable_layer_norm.or(self.do_stable_layer_norm),
            num_conv_pos_embeddings: other
                .num_conv_pos_embeddings
                .or(self.num_conv_pos_embeddings),
            num_conv_pos_embedding_groups: other
                .num_conv_pos_embedding_groups
                .or(self.num_conv_pos_embedding_groups),
        }
    }

    /// The configuration of an encoder of this shape.
    ///
    /// # Errors
    /// Sizes that fit no encoder, by their key.
    pub fn config(&self) -> Result<Config> {
        let base = Config::default();
        let config = Config {
            hidden_size: self.hidden_size.unwrap_or(base.hidden_size),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(base.num_hidden_layers),
            num_attention_heads: self.num_attention_heads.unwrap_or(base.num_attention_heads),
            intermediate_size: self.intermediate_size.unwrap_or(base.intermediate_size),
            conv_dim: self.conv_dim.clone().unwrap_or(base.conv_dim.clone()),
            conv_kernel: self.conv_kernel.clone().unwrap_or(base.conv_kernel.clone()),
            conv_stride: self.conv_stride.clone().unwrap_or(base.conv_stride.clone()),
            conv_bias: self.conv_bias.unwrap_or(base.conv_bias),
            feat_extract_norm: self.feat_extract_norm.unwrap_or(base.feat_extract_norm),
            do_stable_layer_norm: self
                .do_stable_layer_norm
                .unwrap_or(base.do_stable_layer_norm),
            num_conv_pos_embeddings: self
                .num_conv_pos_embeddings
                .unwrap_or(base.num_conv_pos_embeddings),
            num_conv_pos_embedding_groups: self
                .num_conv_pos_embedding_groups
                .unwrap_or(base.num_conv_pos_embedding_groups),
            ..base
        };
        config.check().map_err(|e| e.at("`encoder`"))?;
        Ok(config)
    }
}

/// One iteration: targets, and an encoder that learns them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iteration {
    /// Optimiser steps.
    pub steps: u64,
    /// Differences from the recipe's `encoder`.
    #[serde(default)]
    pub encoder: Shape,
    /// Targets; several are averaged.
    pub targets: Vec<Target>,
    /// Which frames are masked.
    #[serde(default)]
    pub masks: Masks,
    /// Weights of the loss.
    #[serde(default)]
    pub loss: Loss,
}

/// Target of an iteration: one layer of one encoder, or MFCC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `mfcc`, `previous` (the iteration before, or the teacher), or the folder of an encoder. By
    /// default `previous`, and `mfcc` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Layer whose hidden states are used; 0 is the input of the first. By default the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The student's layer that predicts. By default its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<usize>,
    /// Form in which features are learned.
    #[serde(default)]
    pub learn: Learn,
    /// Number of clusters.
    #[serde(default = "clusters")]
    pub clusters: usize,
    /// Principal components that the features are reduced to before clustering; centred, not
    /// whitened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pca: Option<usize>,
    /// Random directions that the features are reduced to before clustering, the control of `pca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<usize>,
    /// Training frames that the reduction and the clusters are fitted on; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// Most passes of Lloyd's iteration over the training frames.
    #[serde(default = "passes")]
    pub passes: usize,
    /// Width of the space in which frames meet the embeddings of codes.
    #[serde(default = "width")]
    pub width: usize,
}

fn clusters() -> usize {
    100
}

fn passes() -> usize {
    20
}

fn width() -> usize {
    256
}

/// `fit:` training frames that a target is fitted on. All frames get ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fit {
    /// Leaves out frames that are so many dB below the loudest tenth of their clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_db: Option<f64>,
    /// Field of rows, such as `manifest`, of whose values equally many frames are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
}

impl Fit {
    fn check(&self) -> Result<()> {
        if self.quiet_db.is_none() && self.balance.is_none() {
            return Err(Error::input("`fit` is empty")
                .hint("write `fit: {quiet_db: 30}`, `fit: {balance: manifest}` or both"));
        }
        match self.quiet_db {
            Some(quiet_db) => expect_positive(&[("fit.quiet_db", quiet_db)]),
            None => Ok(()),
        }
    }
}

/// Form in which a teacher's features are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// The cluster of each frame.
    #[default]
    Ids,
    /// The features themselves, by L1 distance and cosine: a control, after DistilHuBERT.
    Features,
}

/// `masks:` spans of frames that the encoder does not see.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Masks {
    /// Share of frames that spans would cover if none overlapped; 0 for no masks.
    pub share: f64,
    /// Frames of a span.
    pub length: usize,
    /// Least number of spans of a clip.
    pub min: usize,
}

impl Default for Masks {
    fn default() -> Self {
        Self {
            share: 0.8,
            length: 10,
            min: 2,
        }
    }
}

/// `loss:` of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Weight of a masked frame.
    pub masked: f64,
    /// Weight of a frame that is not masked.
    pub unmasked: f64,
    /// Divides the cosines between frames and codes.
    pub temperature: f64,
    /// Weight of the cosine beside the L1 distance, for `learn: features`.
    pub cosine: f64,
    /// Factor of the gradient that reaches the convolutions.
    pub feature_gradient: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            masked: 1.0,
            unmasked: 0.0,
            temperature: 0.1,
            cosine: 1.0,
            feature_gradient: 0.1,
        }
    }
}

/// `batch:` clips of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Clips of a step.
    pub clips: usize,
    /// Longest stretch of a clip that a step uses, in seconds; of a longer clip a stretch at
    /// random.
    pub crop_s: f64,
    /// Most audio that is computed at a time, in seconds: memory, and nothing else, depends on it.
    pub pack_s: f64,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            clips: 8,
            crop_s: 15.6,
            pack_s: 60.0,
        }
    }
}

/// `evaluate:` what is measured on `dev`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Steps between measurements; 0 for one at the end of each iteration.
    pub every: u64,
    /// Most audio that ranks of hidden states are measured on, in seconds.
    pub rank_s: f64,
    /// Fields of rows that codes are compared with, such as `label`, `speaker`, `language` or
    /// `text`; `manifest` for the file. A field that holds a list of `[start_s, end_s, unit]` gives
    /// each frame its unit.
    pub against: Vec<String>,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            every: 0,
            rank_s: 3600.0,
            against: Vec::new(),
        }
    }
}

/// `checkpoint:` when the run is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps between checkpoints.
    pub every: u64,
    /// Number of checkpoints of an iteration that are kept.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            every: 500,
            keep: 2,
        }
    }
}

impl Recipe {
    /// Reads a recipe for one of the commands; `overrides` as in [`recipe::read`].
    ///
    /// # Errors
    /// Unknown keys, wrong types, values outside their range.
    pub fn load(path: &Path, overrides: &[String], command: Command) -> Result<Self> {
        let mut found: Self = recipe::read(path, overrides)?;
        if found.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            found.name = stem.to_string_lossy().into_owned();
        }
        found.check(command).map_err(|e| e.at_path(path))?;
        Ok(found)
    }

    /// Shares that training drops.
    pub fn drops(&self) -> Shares {
        Shares {
            hidden: self.dropout,
            layers: self.layer_drop,
        }
    }

    fn check(&self, command: Command) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("`name`"))?;

        match (command, &self.teacher) {
            (Command::Pretrain, Some(_)) => {
                return Err(Error::input("`teacher` under `encoder pretrain`").hint(
                    "run `maqam encoder distill`, or name the encoder in `from:` of a target",
                ));
            }
            (Command::Distill, None) => {
                return Err(Error::input("no `teacher`")
                    .hint("write `teacher: FOLDER`, the folder of the encoder to learn from"));
            }
            _ => {}
        }

        for entry in self.data.iter().chain(&self.dev) {
            if entry.weight != 1.0 || entry.task.is_some() {
                return Err(
                    Error::input("`weight` or `task` of an entry under `data`").hint(
                        "leave them out; an encoder sees every clip once an epoch, whatever its task",
                    ),
                );
            }
        }

        if self.data.is_empty() || self.iterations.is_empty() {
            return Err(Error::input("`data` or `iterations` is empty")
                .hint("name at least one manifest and one iteration"));
        }

        let positive = [
            ("batch.clips", self.batch.clips as f64),
            ("batch.crop_s", self.batch.crop_s),
            ("batch.pack_s", self.batch.pack_s),
            ("checkpoint.every", self.checkpoint.every as f64),
            ("checkpoint.keep", self.checkpoint.keep as f64),
        ];
        expect_positive(&positive)?;
        self.drops().check()?;
        self.optimiser.check_without_stages()?;

        for (i, iteration) in self.iterations.iter().enumerate() {
            self.check_iteration(i, iteration)
                .map_err(|e| e.at(format!("`iterations.{i}`")))?;
        }

        Ok(())
    }

    fn check_iteration(&self, place: usize, iteration: &Iteration) -> Result<()> {
        let config = self.encoder.or(&iteration.encoder).config()?;
        let masks = iteration.masks;
        let loss = iteration.loss;
        expect_positive(&[
            ("steps", iteration.steps as f64),
            ("masks.length", masks.length as f64),
            ("loss.temperature", loss.temperature),
        ])?;
        let is_share = (0.0..=1.0).contains(&masks.share);
        let weights = [
            loss.masked,
            loss.unmasked,
            loss.cosine,
            loss.feature_gradient,
        ];

        if !is_share || weights.iter().any(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(Error::input(
                "`masks.share` outside [0, 1], or a weight of `loss` below 0",
            )
            .hint("write a share from 0 to 1, and weights of 0 or more"));
        }

        let teaches_nothing = match masks.share > 0.0 {
            true => loss.masked == 0.0 && loss.unmasked == 0.0,
            false => loss.unmasked == 0.0,
        };

        if teaches_nothing {
            return Err(Error::input("no frame has a weight")
                .hint("write `loss: {unmasked: 1}` where `masks.share` is 0"));
        }

        if iteration.targets.is_empty() {
            return Err(
                Error::input("`targets` is empty").hint("write `targets: [{clusters: 100}]`")
            );
        }

        for target in &iteration.targets {
            expect_positive(&[
                ("targets.clusters", target.clusters as f64),
                ("targets.width", target.width as f64),
            ])?;
            if target.pca.is_some() && target.random.is_some() {
                return Err(Error::input("`pca` and `random` of one target")
                    .hint("keep one; `random` is the control of `pca`"));
            }
            if target.learn == Learn::Features && (target.pca.is_some() || target.random.is_some())
            {
                return Err(Error::input("`learn: features` with `pca` or `random`")
                    .hint("leave the reduction out, or write `learn: ids`"));
            }
            if target.learn == Learn::Features && target.fit.is_some() {
                return Err(Error::input("`learn: features` with `fit`")
                    .hint("leave `fit` out: no clusters are made, or write `learn: ids`"));
            }
            if let Some(fit) = &target.fit {
                fit.check()?;
            }
            if let Some(at) = target.at.filter(|&at| at > config.num_hidden_layers) {
                return Err(Error::input(format!("`at` is {at}")).hint(format!(
                    "name a layer from 0 to {}",
                    config.num_hidden_layers
                )));
            }
            if place == 0 && self.teacher.is_none() && target.from.as_deref() == Some("previous") {
                return Err(Error::input("`from: previous` in the first iteration")
                    .hint("write `from: mfcc`, or the folder of an encoder"));
            }
        }

        Ok(())
    }

    /// The folder of the run.
    pub fn folder(&self) -> PathBuf {
        Path::new("runs").join(&self.name)
    }

    /// Origin of a target's features.
    pub fn origin(&self, iteration: usize, target: &Target) -> Origin {
        let previous = match iteration {
            0 => self.teacher.clone(),
            _ => Some(encoder_folder(&self.folder(), iteration - 1)),
        };
        match (target.from.as_deref(), previous) {
            (Some("mfcc"), _) | (None, None) => Origin::Mfcc,
            (Some("previous") | None, Some(folder)) => Origin::Encoder(folder),
            (Some(path), _) => Origin::Encoder(PathBuf::from(path)),
        }
    }

    /// Steps of the iterations before one.
    pub fn steps_before(&self, iteration: usize) -> u64 {
        self.iterations[..iteration].iter().map(|i| i.steps).sum()
    }
}

/// Origin of features.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// MFCC with differences.
    Mfcc,
    /// The encoder in a folder.
    Encoder(PathBuf),
}

/// The folder of an iteration, which counts from 1 in names.
pub fn iteration_folder(run: &Path, iteration: usize) -> PathBuf {
    run.join(format!("iteration-{}", iteration + 1))
}

/// The folder of an iteration's encoder, as transformers reads it.
pub fn encoder_folder(run: &Path, iteration: usize) -> PathBuf {
    iteration_folder(run, iteration).join("encoder")
}

fn expect_positive(numbers: &[(&str, f64)]) -> Result<()> {
    match numbers.iter().find(|(_, n)| !(n.is_finite() && *n > 0.0)) {
        Some((key, n)) => {
            Err(Error::input(format!("`{key}` is {n}")).hint("write a number above 0"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_recipes_are_read() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = Vec::new();
        for folder in ["encoders", "encoders/heads", "docs/experiments/encoders"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|found| found == "yaml") {
                    paths.push(path);
                }
            }
        }
        for path in &paths {
            let text = std::fs::read_to_string(path).unwrap();
            if text.contains("\nhead:") {
                crate::encoder::probe::Recipe::load(path, &[], true).unwrap();
                continue;
            }
            let command = match text.contains("\nteacher:") {
                true => Command::Distill,
                false => Command::Pretrain,
            };
            Recipe::load(path, &[], command).unwrap();
        }
        assert_eq!(paths.len(), 15);
    }

    /// The first iteration of the experiment's student after changes that its script makes.
    fn changed(changes: &[&str]) -> Iteration {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("docs/experiments/encoders");
        let script = std::fs::read_to_string(folder.join("run.py")).unwrap();
        for change in changes {
            let written = change.replace("iterations.0.targets.0", "{TARGET}");
            assert!(script.contains(&format!("\"{written}\"")), "{written}");
        }
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        let path = folder.join("student.yaml");
        let recipe = Recipe::load(&path, &changes, Command::Distill).unwrap();
        recipe.iterations[0].clone()
    }

    #[test]
    fn changes_of_the_experiment_are_read() {
        let first = |change: &str| changed(&[change]).targets[0].clone();
        assert_eq!(first("iterations.0.targets.0.pca=64").pca, Some(64));
        assert_eq!(first("iterations.0.targets.0.pca=9").pca, Some(9));
        assert_eq!(first("iterations.0.targets.0.random=9").random, Some(9));
        let regression = changed(&[
            "iterations.0.targets.0.learn=features",
            "iterations.0.targets.0.fit=null",
        ]);
        assert_eq!(regression.targets[0].learn, Learn::Features);
        assert_eq!(regression.targets[0].fit, None);
        let masked = changed(&[
            "iterations.0.masks.share=0.8",
            "iterations.0.loss.unmasked=0",
        ]);
        assert_eq!(masked.masks.share, 0.8);
        assert_eq!((masked.loss.masked, masked.loss.unmasked), (1.0, 0.0));
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../docs/encoders.md");
        let recipe = include_str!("recipe.rs");
        let heads = include_str!("probe/recipe.rs");
        let (recipe, _) = recipe.split_once("impl Recipe").unwrap();
        let (heads, _) = heads.split_once("impl Recipe").unwrap();
        let mut keys = 0;
        for line in recipe.lines().chain(heads.lines()) {
            let field = line
                .strip_prefix("    pub ")
                .filter(|rest| !rest.starts_with("fn "));
            let Some((key, _)) = field.and_then(|rest| rest.split_once(':')) else {
                continue;
            };
            assert!(page.contains(key), "`{key}` is not in docs/encoders.md");
            keys += 1;
        }
        assert!(keys > 50, "{keys}");
    }

    #[test]
    fn wrong_recipes_are_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.yaml");
        let refused = |text: &str| {
            std::fs::write(&path, format!("data: [a.jsonl]\n{text}")).unwrap();
            Recipe::load(&path, &[], Command::Pretrain)
                .unwrap_err()
                .to_string()
        };
        for (text, expected) in [
            ("iterations: []", "`iterations` is empty"),
            (
                "iterations: [{steps: 0, targets: [{}]}]",
                "`iterations.0`: `steps` is 0",
            ),
            (
                "iterations: [{steps: 1, targets: []}]",
                "`targets` is empty",
            ),
            (
                "iterations: [{steps: 1, masks: {share: 0}, targets: [{}]}]",
                "no frame has a weight",
            ),
            (
                "iterations: [{steps: 1, targets: [{pca: 2, random: 2}]}]",
                "`pca` and `random`",
            ),
            (
                "iterations: [{steps: 1, targets: [{fit: {}}]}]",
                "`fit` is empty",
            ),
            (
                "iterations: [{steps: 1, targets: [{fit: {quiet_db: -3}}]}]",
                "`fit.quiet_db` is -3",
            ),
            (
                "iterations: [{steps: 1, targets: [{learn: features, fit: {balance: manifest}}]}]",
                "`learn: features` with `fit`",
            ),
            (
                "iterations: [{steps: 1, targets: [{from: previous}]}]",
                "`from: previous` in the first",
            ),
            (
                "iterations: [{steps: 1, targets: [{at: 13}]}]",
                "`at` is 13",
            ),
            (
                "teacher: x\niterations: [{steps: 1, targets: [{}]}]",
                "`teacher` under",
            ),
            (
                "encoder: {hidden_size: 10}\niterations: [{steps: 1, targets: [{}]}]",
                "`hidden_size` is 10",
            ),
        ] {
            let error = refused(text);
            assert!(
                error.contains(expected) && error.contains("\nhint: "),
                "{text}: {error}"
            );
        }
    }
}
