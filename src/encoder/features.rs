//! Features of clips, computed once and kept on the disk in shards while they are clustered: memory
//! holds one shard at a time.

use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::audio::MFCC_DIMS;
use crate::audio::MFCC_HOP;
use crate::audio::MFCC_WINDOW;
use crate::audio::mfcc;
use crate::encoder::clips::Item;
use crate::encoder::recipe::Origin;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::samples_of;
use crate::files;
use crate::models::hubert::Clip;
use crate::models::hubert::Hubert;
use crate::models::hubert::config::Config;
use crate::nn::checkpoint::read_safetensors;

/// Most audio of a shard, in seconds.
const SHARD_S: f64 = 600.0;

/// Told what is done, of how much; an error stops the work.
pub type Watch<'a> = &'a mut dyn FnMut(&'static str, usize, usize) -> Result<()>;

/// Extractor of features.
pub enum Extractor {
    /// MFCC with differences.
    Mfcc,
    /// An encoder, frozen.
    Encoder(Box<Hubert>),
}

impl Extractor {
    /// Opens where features come from, for a student of this configuration.
    ///
    /// # Errors
    /// An encoder whose frames do not lie where the student's do.
    pub fn open(origin: &Origin, student: &Config) -> Result<Self> {
        match origin {
            Origin::Mfcc if student.stride().is_multiple_of(MFCC_HOP) => Ok(Self::Mfcc),
            Origin::Mfcc => Err(Error::input(format!(
                "MFCC come every {MFCC_HOP} samples, frames of this encoder every {}",
                student.stride()
            ))
            .hint(format!(
                "choose `conv_stride` so that their product is a multiple of {MFCC_HOP}"
            ))),
            Origin::Encoder(folder) => {
                let model = Hubert::open(folder)?;
                let steps = (model.config.stride(), student.stride());
                let fields = (model.config.field(), student.field());
                if steps.0 != steps.1 || fields.0 != fields.1 {
                    return Err(Error::input(format!(
                        "the teacher's frames come every {} samples and see {}, the student's every {} and see {}",
                        steps.0, fields.0, steps.1, fields.1
                    ))
                    .at_path(folder)
                    .hint("give the student the teacher's `conv_kernel` and `conv_stride`"));
                }
                Ok(Self::Encoder(Box::new(model)))
            }
        }
    }

    /// The layer that a target means; 0 for MFCC.
    ///
    /// # Errors
    /// A layer that the encoder does not have, or one of MFCC.
    pub fn layer(&self, layer: Option<usize>) -> Result<usize> {
        match (self, layer) {
            (Self::Mfcc, None) => Ok(0),
            (Self::Mfcc, Some(layer)) => Err(Error::input(format!("layer {layer} of MFCC"))
                .hint("leave `layer` out, or name an encoder in `from`")),
            (Self::Encoder(model), layer) => {
                let layer = layer.unwrap_or(model.config.num_hidden_layers);
                model.check_layer(layer)?;
                Ok(layer)
            }
        }
    }

    /// Width of the features.
    pub fn width(&self) -> usize {
        match self {
            Self::Mfcc => MFCC_DIMS,
            Self::Encoder(model) => model.config.hidden_size,
        }
    }

    /// Features of a clip after each of `layers`, `[frames, width]` each, for the frames of
    /// `student`.
    ///
    /// # Errors
    /// Audio that cannot be read.
    pub fn features(&self, item: &Item, layers: &[usize], student: &Config) -> Result<Vec<Tensor>> {
        match self {
            Self::Mfcc => {
                let samples = samples_of(&item.clip).map_err(|e| e.at(item.place()))?;
                let rows = mfcc_at_frames(&samples, student);
                let frames = rows.len() / MFCC_DIMS;
                Ok(vec![Tensor::from_vec(
                    rows,
                    (frames, MFCC_DIMS),
                    &Device::Cpu,
                )?])
            }
            Self::Encoder(model) => {
                let samples = item.prepared(&model.config)?;
                let last = layers.iter().copied().max().unwrap_or(0);
                let encoded = model
                    .encode(&[Clip::new(&samples)], last)
                    .map_err(|e| e.at(item.place()))?;
                Ok(layers
                    .iter()
                    .map(|&layer| encoded.hidden[layer].clone())
                    .collect())
            }
        }
    }
}

/// The rows of MFCC whose windows begin where the frames of an encoder do; the last row once more
/// where a frame's window is longer.
fn mfcc_at_frames(samples: &[f32], student: &Config) -> Vec<f32> {
    let mut padded = samples.to_vec();
    padded.resize(samples.len().max(MFCC_WINDOW), 0.0);
    let rows = mfcc(&padded);
    let last = rows.len() / MFCC_DIMS - 1;
    let step = student.stride() / MFCC_HOP;
    (0..student.num_frames(samples.len()))
        .flat_map(|frame| rows[(frame * step).min(last) * MFCC_DIMS..][..MFCC_DIMS].to_vec())
        .collect()
}

/// Shards of features on the disk.
pub struct Shards {
    folder: PathBuf,
    /// The clips of each shard.
    ranges: Vec<std::ops::Range<usize>>,
}

impl Shards {
    /// Computes the features of all clips; shards that are there already are kept.
    ///
    /// # Errors
    /// Audio that cannot be read, a full disk, or what `watch` returns.
    pub fn write(
        folder: &Path,
        extractor: &Extractor,
        layers: &[usize],
        items: &[Item],
        student: &Config,
        watch: Watch,
    ) -> Result<Self> {
        let shards = Self {
            folder: folder.to_owned(),
            ranges: ranges(items),
        };

        for (i, range) in shards.ranges.iter().enumerate() {
            watch("features", range.start, items.len())?;
            let path = shards.path(i);
            if path.is_file() {
                continue;
            }
            let of_clip = |place: usize| extractor.features(&items[place], layers, student);
            let found: Vec<Vec<Tensor>> = match extractor {
                // Products of an encoder use all cores themselves.
                Extractor::Mfcc => range
                    .clone()
                    .into_par_iter()
                    .map(of_clip)
                    .collect::<Result<_>>()?,
                Extractor::Encoder(_) => range.clone().map(of_clip).collect::<Result<_>>()?,
            };
            let mut named = Vec::new();
            for (place, tensors) in range.clone().zip(found) {
                for (layer, tensor) in layers.iter().zip(tensors) {
                    named.push((name(place, *layer), tensor));
                }
            }
            files::write_safetensors(&path, named)?;
        }

        Ok(shards)
    }

    /// Calls `see(clip, features)` for every clip of `wanted`, in order; `features` are
    /// `[frames, width]`, row-major.
    ///
    /// # Errors
    /// A shard that cannot be read, or what `see` returns.
    pub fn each(
        &self,
        layer: usize,
        wanted: std::ops::Range<usize>,
        mut see: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        for (i, range) in self.ranges.iter().enumerate() {
            if range.end <= wanted.start || range.start >= wanted.end {
                continue;
            }
            let path = self.path(i);
            let tensors = read_safetensors(&path)?;
            for place in range.clone().filter(|place| wanted.contains(place)) {
                let tensor = tensors.get(&name(place, layer)).ok_or_else(|| {
                    Error::input(format!("no features of clip {place} after layer {layer}"))
                        .at_path(&path)
                        .hint("remove the run's folder and begin anew")
                })?;
                see(place, &tensor.flatten_all()?.to_vec1::<f32>()?)?;
            }
        }
        Ok(())
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("shard-{shard:05}.safetensors"))
    }
}

fn name(clip: usize, layer: usize) -> String {
    format!("{clip}.{layer}")
}

/// Clips of each shard.
fn ranges(items: &[Item]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    let mut seconds = 0.0;
    for (i, item) in items.iter().enumerate() {
        if seconds > 0.0 && seconds + item.seconds() > SHARD_S {
            ranges.push(start..i);
            (start, seconds) = (i, 0.0);
        }
        seconds += item.seconds();
    }
    if start < items.len() {
        ranges.push(start..items.len());
    }
    ranges
}
