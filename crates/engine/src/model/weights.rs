//! Where weights come from: the safetensors of a checkpoint, mapped into memory and read one tensor at a time, or a seed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use half::f16;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::ops::device::compute_type;
use crate::ops::device::random_normal;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::seed::Key;

/// A source of named tensors.
pub enum Weights {
    /// The files of a checkpoint.
    Checkpoint(Checkpoint),
    /// Random numbers of the right scale: every name has its own stream, and the same numbers on every device.
    Random {
        /// Seed of all of them.
        seed: u64,
    },
    /// Random matrices made where they are computed with, for benchmarks of models that are large.
    Noise {
        /// Seed of all of them.
        seed: u64,
    },
    /// Others, with some tensors replaced by trained ones.
    Trained {
        /// Where the other tensors come from.
        base: Box<Weights>,
        /// The trained ones, by their full names.
        tensors: HashMap<String, Tensor>,
    },
}

/// The safetensors files of a folder, mapped into memory; what was read is given back to the system at once.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<MappedFile>,
    /// Which file holds a tensor.
    names: BTreeMap<String, usize>,
    /// `thinker.` in a full checkpoint, nothing in a thinker-only one.
    prefix: &'static str,
}

/// A tensor as it lies in its file.
pub(super) struct StoredTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    start: usize,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self> {
        let damaged = |e: &dyn std::fmt::Display| {
            Error::input(format!("a damaged safetensors file: {e}"))
                .at_path(path)
                .hint("compare its size with the original; an interrupted download leaves it short")
        };
        let file = File::open(path).map_err(|e| {
            Error::io(path, "open", &e)
                .hint("all files of a checkpoint belong together; download the missing ones again")
        })?;
        // SAFETY: the file is only read; a checkpoint that somebody rewrites while it is loaded is not supported.
        let map =
            unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map into memory", &e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| damaged(&e))?;
        let start = 8 + header;
        let end = metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets.1)
            .max()
            .unwrap_or(0);
        if start + end > map.len() {
            return Err(damaged(&format!(
                "{} bytes, its header promises {}",
                map.len(),
                start + end
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            metadata,
            start,
        })
    }

    /// One tensor, on the CPU; `None` for types that are not floating-point.
    fn read(&self, info: &TensorInfo, dtype: DType) -> Result<Option<Tensor>> {
        let range = self.start + info.data_offsets.0..self.start + info.data_offsets.1;
        let bytes = &self.map[range.clone()];
        let shape = info.shape.as_slice();
        let values = match (info.dtype, dtype) {
            // What is stored as it is computed with is copied, bit for bit.
            (Dtype::BF16, DType::BF16) => Tensor::from_vec(
                converted::<2, _>(bytes, bf16::from_le_bytes),
                shape,
                &Device::Cpu,
            )?,
            (Dtype::F16, DType::BF16) => Tensor::from_vec(
                converted::<2, _>(bytes, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32())),
                shape,
                &Device::Cpu,
            )?,
            (Dtype::F32, DType::BF16) => Tensor::from_vec(
                converted::<4, _>(bytes, |b| bf16::from_f32(f32::from_le_bytes(b))),
                shape,
                &Device::Cpu,
            )?,
            (Dtype::F32, _) => Tensor::from_vec(
                converted::<4, _>(bytes, f32::from_le_bytes),
                shape,
                &Device::Cpu,
            )?,
            (Dtype::F16, _) => Tensor::from_vec(
                converted::<2, _>(bytes, |b| f16::from_le_bytes(b).to_f32()),
                shape,
                &Device::Cpu,
            )?,
            (Dtype::BF16, _) => Tensor::from_vec(
                converted::<2, _>(bytes, |b| bf16::from_le_bytes(b).to_f32()),
                shape,
                &Device::Cpu,
            )?,
            _ => return Ok(None),
        };
        #[cfg(unix)]
        {
            // SAFETY: the mapping is private, read-only and backed by the file: dropped pages come back when they are read again.
            // A refusal costs memory, nothing else.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
        Ok(Some(values))
    }
}

fn converted<const N: usize, T: Clone + Default + Send>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> T + Sync,
) -> Vec<T> {
    let mut values = vec![T::default(); bytes.len() / N];
    values
        .par_chunks_mut(1 << 16)
        .zip(bytes.par_chunks(N << 16))
        .for_each(|(values, bytes)| {
            for (out, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                let mut word = [0; N];
                word.copy_from_slice(bytes);
                *out = value(word);
            }
        });
    values
}

impl Checkpoint {
    /// Maps the files of a checkpoint folder: those of `model.safetensors.index.json`, else `model.safetensors`.
    ///
    /// # Errors
    /// Missing or damaged files, named.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = safetensors_of(dir)?
            .iter()
            .map(|path| MappedFile::open(path))
            .collect::<Result<Vec<_>>>()?;
        let names: BTreeMap<String, usize> = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| {
                file.metadata
                    .tensors()
                    .into_keys()
                    .map(move |name| (name, i))
            })
            .collect();
        let prefix = if names.keys().any(|name| name.starts_with("thinker.")) {
            "thinker."
        } else {
            ""
        };
        Ok(Self {
            dir: dir.to_owned(),
            files,
            names,
            prefix,
        })
    }

    /// The tensors of each file, in the order of their bytes, and what a module is called here.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, Vec<(String, StoredTensor<'_>)>)> {
        self.files.iter().map(|file| {
            let names = file.metadata.offset_keys();
            let stored = names.into_iter().filter_map(|name| {
                let info = file.metadata.info(&name)?;
                let bytes =
                    &file.map[file.start + info.data_offsets.0..file.start + info.data_offsets.1];
                Some((
                    name,
                    StoredTensor {
                        dtype: info.dtype,
                        shape: info.shape.clone(),
                        bytes,
                    },
                ))
            });
            (file.path.as_path(), stored.collect())
        })
    }

    /// The full name of a stored tensor, `thinker.` in front.
    pub(super) fn full_name(&self, stored: &str) -> String {
        if self.prefix.is_empty() {
            format!("thinker.{stored}")
        } else {
            stored.to_owned()
        }
    }

    fn stored_name(&self, name: &str) -> String {
        match name.strip_prefix("thinker.") {
            Some(rest) => format!("{}{rest}", self.prefix),
            None => name.to_owned(),
        }
    }

    fn get(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let stored = self.stored_name(name);
        let file = self.names.get(&stored).map(|&i| &self.files[i]);
        let Some((file, info)) = file.and_then(|file| Some((file, file.metadata.info(&stored)?)))
        else {
            return Err(
                Error::input(format!("the checkpoint has no tensor `{stored}`"))
                    .at_path(&self.dir)
                    .hint("config.json and the weights must belong together"),
            );
        };
        if info.shape != shape {
            return Err(Error::input(format!(
                "`{stored}` has shape {:?}, config.json asks for {shape:?}",
                info.shape
            ))
            .at_path(&self.dir));
        }
        file.read(info, dtype)?.ok_or_else(|| {
            Error::input(format!(
                "`{stored}` is stored as {:?}; maqam reads F32, F16 and BF16",
                info.dtype
            ))
            .at_path(&self.dir)
        })
    }
}

/// The files that hold a checkpoint's tensors, in the order of their names.
pub fn safetensors_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        let text = files::read_text(&index)?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::input(format!("not JSON: {e}")).at_path(&index))?;
        let map = json["weight_map"]
            .as_object()
            .ok_or_else(|| Error::input("no `weight_map`").at_path(&index))?;
        let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    Err(
        Error::input("no model.safetensors and no model.safetensors.index.json here")
            .at_path(dir)
            .hint("`model` is the folder of a checkpoint in safetensors format"),
    )
}

impl Weights {
    /// A checkpoint's.
    pub fn open(dir: &Path) -> Result<Self> {
        Checkpoint::open(dir).map(Self::Checkpoint)
    }

    /// These weights, with `tensors` in place of those of the same full names.
    pub fn with(self, tensors: HashMap<String, Tensor>) -> Self {
        if tensors.is_empty() {
            self
        } else {
            Self::Trained {
                base: Box::new(self),
                tensors,
            }
        }
    }

    /// Whether the source has this tensor.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Checkpoint(checkpoint) => {
                checkpoint.names.contains_key(&checkpoint.stored_name(name))
            }
            Self::Random { .. } | Self::Noise { .. } => true,
            Self::Trained { base, tensors } => tensors.contains_key(name) || base.has(name),
        }
    }

    /// One tensor of exactly this shape, on the CPU, in `f32` or `bf16`.
    ///
    /// # Errors
    /// Missing or misshapen tensors, named.
    pub fn get(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.get(name, shape, dtype),
            Self::Random { seed } | Self::Noise { seed } => {
                Ok(random(Key::new(*seed, name), name, shape)?.to_dtype(dtype)?)
            }
            Self::Trained { base, tensors } => match tensors.get(name) {
                Some(tensor) if tensor.dims() == shape => Ok(tensor.to_dtype(dtype)?),
                Some(tensor) => Err(Error::input(format!(
                    "`{name}` has shape {:?}, config.json asks for {shape:?}",
                    tensor.dims()
                ))),
                None => base.get(name, shape, dtype),
            },
        }
    }

    /// The same on the device that computes with it, in the type it computes with there.
    pub fn on(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        match self {
            Self::Noise { seed } if shape.len() > 1 => noise(Key::new(*seed, name), shape, device),
            _ => Ok(self
                .get(name, shape, compute_type(device))?
                .to_device(device)?),
        }
    }

    /// Several matrices of `columns` columns stacked, likewise on the device.
    pub fn stacked(
        &self,
        parts: &[(String, usize)],
        columns: usize,
        device: &Device,
    ) -> Result<Tensor> {
        match (self, parts) {
            (_, [(name, rows)]) => self.on(name, &[*rows, columns], device),
            (Self::Noise { .. }, [(first, _), ..]) => self.on(
                first,
                &[parts.iter().map(|(_, rows)| rows).sum(), columns],
                device,
            ),
            _ => {
                let parts = parts
                    .iter()
                    .map(|(name, rows)| self.get(name, &[*rows, columns], compute_type(device)))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&parts, 0)?.to_device(device)?)
            }
        }
    }
}

/// Normal matrices of the deviation of [`random`]'s, made on the device: the numbers that bf16 holds, on the CPU too, so that every device
/// computes with the same ones.
fn noise(key: Key, shape: &[usize], device: &Device) -> Result<Tensor> {
    let inputs: usize = shape[1..].iter().product();
    let deviation = GAIN / (inputs as f64).sqrt();
    let matrix = random_normal(shape, key, deviation as f32, device)?;
    if device.is_cpu() {
        Ok(matrix.to_dtype(DType::BF16)?.to_dtype(DType::F32)?)
    } else {
        Ok(matrix)
    }
}

/// What keeps the size of activations over layers with a residual path past them.
const GAIN: f64 = 0.5;

/// Uniform matrices with the variance that keeps activations in scale, norms of ones, biases of zeros.
fn random(key: Key, name: &str, shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = match shape.len() {
        1 => vec![
            if name.contains("norm") && name.ends_with("weight") || name.ends_with("ln_post.weight")
            {
                1.0
            } else {
                0.0
            };
            count
        ],
        _ => {
            // Convolutions are followed by GELU and then by positions of unit size, which must not drown what is heard (He et al. 2015).
            let gain = if shape.len() == 3 { 2f64.sqrt() } else { GAIN };
            let bound =
                (3.0f64).sqrt() * gain / (shape[1..].iter().product::<usize>() as f64).sqrt();
            (0..count as u64)
                .into_par_iter()
                .map(|i| ((2.0 * key.uniform(i) - 1.0) * bound) as f32)
                .collect()
        }
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
