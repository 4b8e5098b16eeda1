//! Targets of an iteration: features reduced and clustered, an id for each frame of each clip, and
//! a report on the codebook.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;
use serde_json::Value;

use crate::encoder::clips::Item;
use crate::encoder::features::Extractor;
use crate::encoder::features::Shards;
use crate::encoder::features::Watch;
use crate::encoder::fit::Chosen;
use crate::encoder::recipe::Learn;
use crate::encoder::recipe::Origin;
use crate::encoder::recipe::Recipe;
use crate::encoder::recipe::Target;
use crate::encoder::recipe::iteration_folder;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::StagedDir;
use crate::models::hubert::config::Config;
use crate::nn::checkpoint::read_safetensors;
use crate::ops::device::random_normal;
use crate::records::codebook::CodebookReport;
use crate::records::codebook::FieldAgreement;
use crate::records::codebook::FittedFrames;
use crate::seed::Key;
use crate::stats::codes::Codes;
use crate::stats::kmeans::plus_plus;
use crate::stats::kmeans_stream::Clusters;
use crate::stats::kmeans_stream::Pass;
use crate::stats::pca_stream::Moments;

/// Frames that first centres are drawn from.
const FIRST: usize = 20_000;

/// Lloyd's passes end when the sum of squared distances falls by less than this part.
const SETTLED: f64 = 1e-4;

/// File of the centres and of the reduction before them.
const CODEBOOK_FILE: &str = "codebook.safetensors";
/// File of the ids.
const CODES_FILE: &str = "codes.safetensors";

/// Targets of a student.
pub enum Taught {
    /// An id for each frame of each clip.
    Ids {
        /// Ids by clip.
        codes: Vec<Vec<u32>>,
        /// Number of codes.
        num_codes: usize,
    },
    /// Features that are computed when they are needed.
    Features {
        /// Extractor of the features.
        extractor: Extractor,
        /// After which layer.
        layer: usize,
    },
}

/// Makes the targets of an iteration, or reads those that were made before. The first `num_train`
/// of `items` are learned from; nothing is fitted on the others.
///
/// # Errors
/// Encoders that do not fit, audio that cannot be read, a full disk, or what `watch` returns.
pub fn prepare(
    recipe: &Recipe,
    iteration: usize,
    items: &[Item],
    num_train: usize,
    student: &Config,
    watch: Watch,
) -> Result<Vec<Taught>> {
    let folder = iteration_folder(&recipe.folder(), iteration);
    let targets = &recipe.iterations[iteration].targets;

    let mut by_origin: BTreeMap<Origin, Vec<usize>> = BTreeMap::new();
    for (i, target) in targets.iter().enumerate() {
        by_origin
            .entry(recipe.origin(iteration, target))
            .or_default()
            .push(i);
    }

    let mut taught: BTreeMap<usize, Taught> = BTreeMap::new();
    for (place, (origin, of_origin)) in by_origin.into_iter().enumerate() {
        let extractor = Extractor::open(&origin, student)?;
        let mut layers = BTreeMap::new();
        for &i in &of_origin {
            let layer = extractor
                .layer(targets[i].layer)
                .map_err(|e| e.at(format!("`iterations.{iteration}.targets.{i}`")))?;
            layers.insert(i, layer);
        }

        let makers: Vec<Maker> = of_origin
            .iter()
            .filter(|&&i| targets[i].learn == Learn::Ids)
            .filter(|&&i| !target_folder(&folder, i).is_dir())
            .map(|&i| Maker {
                target: &targets[i],
                folder: target_folder(&folder, i),
                layer: layers[&i],
                width: extractor.width(),
                items,
                num_train,
                key: Key::new(recipe.seed, "encoder targets")
                    .with(iteration as u64)
                    .with(i as u64),
                against: &recipe.evaluate.against,
                stride: student.stride(),
            })
            .collect();
        if !makers.is_empty() {
            let shards_folder = folder.join(format!("features-{}", place + 1));
            make_all(&makers, &shards_folder, &extractor, student, watch)?;
        }

        let mut extractor = Some(extractor);
        for &i in &of_origin {
            let target = match targets[i].learn {
                Learn::Ids => read(&target_folder(&folder, i), items, student)?,
                Learn::Features => Taught::Features {
                    extractor: match extractor.take() {
                        Some(extractor) => extractor,
                        None => Extractor::open(&origin, student)?,
                    },
                    layer: layers[&i],
                },
            };
            taught.insert(i, target);
        }
    }

    Ok(taught.into_values().collect())
}

/// Makes targets of ids from the features of one extractor, which are on the disk meanwhile.
fn make_all(
    makers: &[Maker],
    shards_folder: &Path,
    extractor: &Extractor,
    student: &Config,
    watch: Watch,
) -> Result<()> {
    let Some(first) = makers.first() else {
        return Ok(());
    };
    let mut layers: Vec<usize> = makers.iter().map(|maker| maker.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let shards = Shards::write(
        shards_folder,
        extractor,
        &layers,
        first.items,
        student,
        watch,
    )?;
    for maker in makers {
        maker.make(&shards, student, watch)?;
    }
    files::remove_dir(shards_folder)
}

/// The folder of a target in that of its iteration.
pub(super) fn target_folder(folder: &Path, target: usize) -> PathBuf {
    folder.join(format!("target-{}", target + 1))
}

/// Reads the ids of a target.
fn read(folder: &Path, items: &[Item], student: &Config) -> Result<Taught> {
    let path = folder.join(CODES_FILE);
    let tensors = read_safetensors(&path)?;
    let codebook = read_safetensors(&folder.join(CODEBOOK_FILE))?;
    let broken = |what: String| {
        Error::input(what)
            .at_path(&path)
            .hint("remove the run's folder and begin anew")
    };
    let num_codes = match codebook.get("centres") {
        Some(centres) => centres.dim(0)?,
        None => return Err(broken("no centres beside the ids".into())),
    };
    let mut codes = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let found: Vec<u32> = match tensors.get(&i.to_string()) {
            Some(found) => found.to_vec1()?,
            None => return Err(broken(format!("no ids of clip {i}"))),
        };
        if found.len() != student.num_frames(item.samples) {
            return Err(broken(format!(
                "{} ids for the {} frames of clip {i}",
                found.len(),
                student.num_frames(item.samples)
            )));
        }
        codes.push(found);
    }
    Ok(Taught::Ids { codes, num_codes })
}

/// Makes one target.
struct Maker<'a> {
    target: &'a Target,
    /// Folder that it goes to.
    folder: PathBuf,
    layer: usize,
    width: usize,
    items: &'a [Item],
    num_train: usize,
    key: Key,
    against: &'a [String],
    stride: usize,
}

/// Features of the training frames that a target is fitted on.
struct TrainingFrames<'a> {
    shards: &'a Shards,
    layer: usize,
    width: usize,
    num_train: usize,
    /// The frames that are used; all if there is none.
    chosen: Option<Chosen>,
}

impl TrainingFrames<'_> {
    /// Calls `see(clip, features)` for every training clip, in order; `features` are
    /// `[used frames, width]`, row-major.
    fn each(&self, mut see: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let clips = 0..self.num_train;
        self.shards
            .each(self.layer, clips, |place, values| match &self.chosen {
                Some(chosen) => see(place, &chosen.of(place, values, self.width)),
                None => see(place, values),
            })
    }
}

/// Agreement of the codes with fields of rows.
fn agreements(against: &[(&String, Codes)]) -> BTreeMap<String, FieldAgreement> {
    let of_field = |(field, codes): &(&String, Codes)| {
        let agreement = codes.agreement()?;
        let agreement = FieldAgreement {
            purity: agreement.purity,
            cluster_purity: agreement.cluster_purity,
            pnmi: agreement.pnmi,
        };
        Some(((*field).clone(), agreement))
    };
    against.iter().filter_map(of_field).collect()
}

/// A linear reduction of features.
struct Reduction {
    /// Taken away first, `[width]`.
    mean: Vec<f32>,
    /// `[dims, width]`.
    directions: Vec<f32>,
    /// Share of the variance along the directions; `None` where they are random.
    explained: Option<f64>,
}

impl Reduction {
    fn apply(&self, values: &[f32]) -> Vec<f32> {
        let width = self.mean.len();
        let mut out = Vec::with_capacity(values.len() / width * (self.directions.len() / width));
        for vector in values.chunks(width) {
            let centred: Vec<f32> = vector.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
            out.extend(self.directions.chunks(width).map(|direction| {
                direction
                    .iter()
                    .zip(&centred)
                    .map(|(d, x)| d * x)
                    .sum::<f32>()
            }));
        }
        out
    }
}

impl Maker<'_> {
    fn make(&self, shards: &Shards, student: &Config, watch: Watch) -> Result<()> {
        let training = TrainingFrames {
            shards,
            layer: self.layer,
            width: self.width,
            num_train: self.num_train,
            chosen: self.chosen(student)?,
        };
        let reduction = self.reduction(&training, watch)?;
        let dims = reduction
            .as_ref()
            .map_or(self.width, |r| r.directions.len() / self.width);
        let reduced = |values: &[f32]| match &reduction {
            Some(reduction) => reduction.apply(values),
            None => values.to_vec(),
        };
        let (clusters, inertia, passes) = self.cluster(&training, &reduced, dims, watch)?;

        let mut ids = Vec::new();
        let mut training_codes = Vec::new();
        let mut codes = Codes::default();
        let mut against: Vec<(&String, Codes)> = self
            .against
            .iter()
            .map(|field| (field, Codes::default()))
            .collect();
        watch("ids", 0, self.items.len())?;
        shards.each(self.layer, 0..self.items.len(), |place, values| {
            let assigned = clusters.assign(&reduced(values));
            let of_clip: Vec<u32> = assigned.into_iter().map(|(id, _)| id).collect();
            if place < self.num_train {
                of_clip.iter().for_each(|&id| codes.add(id, None));
                if training.chosen.is_some() {
                    training_codes.push(of_clip.clone());
                }
            }
            for (field, codes) in &mut against {
                let labels = Labels::of(&self.items[place], field);
                for (frame, &id) in of_clip.iter().enumerate() {
                    codes.add(id, labels.at(frame, self.stride));
                }
            }
            let frames = of_clip.len();
            let tensor = Tensor::from_vec(of_clip, frames, &Device::Cpu)?;
            ids.push((place.to_string(), tensor));
            Ok(())
        })?;

        let staged = StagedDir::new(&self.folder)?;
        let codebook = self.codebook(&clusters, dims, reduction.as_ref())?;
        files::write_safetensors(&staged.path().join(CODEBOOK_FILE), codebook)?;
        files::write_safetensors(&staged.path().join(CODES_FILE), ids)?;
        let report = CodebookReport {
            layer: self.layer,
            width: self.width,
            dims,
            reduction: 1.0 - dims as f64 / self.width as f64,
            explained_variance: reduction.as_ref().and_then(|r| r.explained),
            clusters: clusters.len(),
            active: codes.num_active(),
            perplexity: codes.perplexity(),
            inertia_per_frame: inertia,
            passes,
            fit: self.fitted_frames(training.chosen.as_ref(), &training_codes),
            against: agreements(&against),
        };
        report.write(staged.path())?;
        staged.commit()
    }

    /// The frames that `fit` chooses; none without it.
    fn chosen(&self, student: &Config) -> Result<Option<Chosen>> {
        let Some(fit) = &self.target.fit else {
            return Ok(None);
        };
        let items = &self.items[..self.num_train];
        let groups = match &fit.balance {
            Some(field) => Some(groups(items, field)?),
            None => None,
        };
        let key = self.key.with_name("fit");
        Chosen::new(fit, groups.as_deref(), items, student, key).map(Some)
    }

    /// What a report says of the frames that were used, from the codes of the training clips.
    fn fitted_frames(&self, chosen: Option<&Chosen>, codes: &[Vec<u32>]) -> Option<FittedFrames> {
        let chosen = chosen?;
        let quiet_db = self.target.fit.as_ref().and_then(|fit| fit.quiet_db);
        let shares = quiet_db.map(|_| chosen.quiet_shares(codes));
        Some(FittedFrames {
            frames: chosen.num_used(),
            quiet_frames: shares.map(|(frames, _)| frames),
            quiet_codes: shares.map(|(_, codes)| codes),
        })
    }

    /// Centres of the clusters, and the reduction before them.
    fn codebook(
        &self,
        clusters: &Clusters,
        dims: usize,
        reduction: Option<&Reduction>,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let matrix = |values: &[f32], width: usize| {
            Tensor::from_vec(values.to_vec(), (values.len() / width, width), &Device::Cpu)
        };
        let mut codebook = vec![("centres", matrix(clusters.centres(), dims)?)];
        if let Some(reduction) = reduction {
            codebook.push(("mean", matrix(&reduction.mean, self.width)?));
            codebook.push(("directions", matrix(&reduction.directions, self.width)?));
        }
        Ok(codebook)
    }

    /// The reduction before clustering, fitted on training frames.
    fn reduction(&self, training: &TrainingFrames, watch: Watch) -> Result<Option<Reduction>> {
        let Some(dims) = self.target.pca.or(self.target.random) else {
            return Ok(None);
        };
        let is_random = self.target.random.is_some();
        if dims == 0 || dims > self.width {
            return Err(
                Error::input(format!("{dims} directions of features of {}", self.width))
                    .hint(format!("write a number from 1 to {}", self.width)),
            );
        }

        watch("directions", 0, self.num_train)?;
        let mut moments = Moments::new(self.width);
        training.each(|_, values| {
            moments.add(values);
            Ok(())
        })?;
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let components = moments.components(if is_random { 0 } else { dims });

        if is_random {
            // Columns of variance 1 / dims keep squared distances on average.
            let deviation = (1.0 / dims as f64).sqrt() as f32;
            let directions = random_normal(
                (dims, self.width),
                self.key.with_name("directions"),
                deviation,
                &Device::Cpu,
            )?;
            return Ok(Some(Reduction {
                mean: narrow(&components.mean),
                directions: directions.flatten_all()?.to_vec1()?,
                explained: None,
            }));
        }

        if components.components.len() < dims * self.width {
            return Err(Error::input(format!(
                "{} frames have fewer than {dims} directions",
                moments.count()
            ))
            .hint("lower `pca`, or give more audio"));
        }

        Ok(Some(Reduction {
            mean: narrow(&components.mean),
            directions: narrow(&components.components),
            explained: Some(components.variance_ratio.iter().sum()),
        }))
    }

    /// Clusters of the training frames, their mean squared distance, and the number of passes.
    fn cluster(
        &self,
        training: &TrainingFrames,
        reduced: &dyn Fn(&[f32]) -> Vec<f32>,
        dims: usize,
        watch: Watch,
    ) -> Result<(Clusters, f64, usize)> {
        let k = self.target.clusters;
        let first = self.first_frames(training, reduced, dims)?;
        let total = self.num_frames(training)?;

        if first.len() / dims < k {
            return Err(
                Error::input(format!("{total} training frames for {k} clusters"))
                    .hint("lower `clusters`, or give more audio"),
            );
        }

        let centres = plus_plus(&first, dims, k, self.key.with_name("centres"));
        let mut clusters = Clusters::new(centres.into_iter().map(|x| x as f32).collect(), dims);
        let mut before = f64::INFINITY;
        let mut passes = 0;
        while passes < self.target.passes {
            watch("clusters", passes, self.target.passes)?;
            let mut pass = Pass::new(&clusters);
            training.each(|_, values| {
                pass.add(&clusters, &reduced(values));
                Ok(())
            })?;
            let inertia = pass.inertia();
            pass.finish(&mut clusters);
            passes += 1;
            let is_settled = before - inertia < SETTLED * inertia;
            before = inertia;
            if is_settled {
                break;
            }
        }

        Ok((clusters, before / total.max(1) as f64, passes))
    }

    fn num_frames(&self, training: &TrainingFrames) -> Result<usize> {
        let mut frames = 0;
        training.each(|_, values| {
            frames += values.len() / self.width;
            Ok(())
        })?;
        Ok(frames)
    }

    /// Training frames at random, at most [`FIRST`] or so.
    fn first_frames(
        &self,
        training: &TrainingFrames,
        reduced: &dyn Fn(&[f32]) -> Vec<f32>,
        dims: usize,
    ) -> Result<Vec<f32>> {
        let share = (FIRST as f64 / self.num_frames(training)?.max(1) as f64).min(1.0);
        let key = self.key.with_name("first frames");
        let mut first = Vec::new();
        training.each(|place, values| {
            let of_clip = key.with(place as u64);
            for (frame, vector) in reduced(values).chunks(dims).enumerate() {
                if of_clip.uniform(frame as u64) < share {
                    first.extend_from_slice(vector);
                }
            }
            Ok(())
        })?;
        Ok(first)
    }
}

/// Value of a field of each row.
fn groups(items: &[Item], field: &str) -> Result<Vec<String>> {
    let group = |item: &Item| match Labels::of(item, field) {
        Labels::Clip(name) => Ok(name),
        _ => Err(Error::input(format!("no `{field}`"))
            .at(item.place())
            .hint("name another field in `fit.balance`, such as `manifest`")),
    };
    items.iter().map(group).collect()
}

/// Labels of a clip's frames.
pub(super) enum Labels {
    None,
    Clip(String),
    Spans(Vec<(f64, f64, String)>),
}

impl Labels {
    pub(super) fn of(item: &Item, field: &str) -> Self {
        let row = &item.row;
        let known = match field {
            "label" => row.label.as_deref(),
            "speaker" => row.speaker.as_deref(),
            "language" => row.language.as_deref(),
            "group" => row.group.as_deref(),
            "text" => row.text.as_deref(),
            _ => None,
        };
        if field == "manifest" {
            return Self::Clip(item.manifest.display().to_string());
        }
        if let Some(known) = known {
            return Self::Clip(known.to_owned());
        }
        match row.extra_fields().get(field) {
            Some(Value::String(text)) => Self::Clip(text.clone()),
            Some(Value::Array(spans)) => Self::Spans(spans.iter().filter_map(span).collect()),
            _ => Self::None,
        }
    }

    pub(super) fn at(&self, frame: usize, stride: usize) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Clip(label) => Some(label),
            Self::Spans(spans) => {
                let at =
                    (frame as f64 + 0.5) * stride as f64 / f64::from(crate::audio::SAMPLE_RATE);
                spans
                    .iter()
                    .find(|(start, end, _)| (*start..*end).contains(&at))
                    .map(|(_, _, unit)| unit.as_str())
            }
        }
    }
}

/// A `[start_s, end_s, unit]`.
fn span(value: &Value) -> Option<(f64, f64, String)> {
    let parts = value.as_array()?;
    let unit = parts.get(2)?.as_str()?;
    Some((
        parts.first()?.as_f64()?,
        parts.get(1)?.as_f64()?,
        unit.to_owned(),
    ))
}
