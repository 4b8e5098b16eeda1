//! Sources of weights: a checkpoint, a seed, or trained weights in place of either.

use std::collections::HashMap;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::nn::checkpoint::Checkpoint;
use crate::nn::naming::NameForm;
use crate::ops::device::compute_type;
use crate::ops::device::random_normal;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// A source of named tensors.
pub enum Weights {
    /// The files of a checkpoint.
    Checkpoint(Checkpoint),
    /// Random numbers of the right scale: every name has its own stream, and the same numbers on
    /// every device.
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
        /// Source of the other tensors.
        base: Box<Weights>,
        /// The trained ones, by their full names.
        tensors: HashMap<String, Tensor>,
    },
}

impl Weights {
    /// A checkpoint's, whose files write names in one of the `forms` of its family.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(dir: &Path, forms: &'static [NameForm]) -> Result<Self> {
        Checkpoint::open(dir, forms).map(Self::Checkpoint)
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

    /// Whether what was not trained comes from a seed.
    pub fn is_random(&self) -> bool {
        match self {
            Self::Checkpoint(_) => false,
            Self::Random { .. } | Self::Noise { .. } => true,
            Self::Trained { base, .. } => base.is_random(),
        }
    }

    /// Whether the source has this tensor.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.has(name),
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

/// Normal matrices of the deviation of [`random`]'s, made on the device: the numbers that bf16
/// holds, on the CPU too, so that every device computes with the same ones.
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

/// Factor that keeps the size of activations over layers with a residual path past them.
const GAIN: f64 = 0.5;

/// Uniform matrices with the variance that keeps activations in scale, norms of ones, biases of
/// zeros.
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
            // Convolutions are followed by GELU and then by positions of unit size, which must not
            // drown what is heard (He et al. 2015).
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
