//! Numbers of a GPU that are read later.

use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;

use crate::ops::cuda::address::address;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::pinned::Block;
use crate::ops::cuda::watch::late;

/// As `ops::scalar::Scalar::new`.
pub fn new(value: f64, device: &Device) -> Result<Tensor> {
    let gpu = Gpu::of(device)?;
    let number = gpu.empty(1, DType::F64)?;
    gpu.write(address(&number, DType::F64)?, &[value])?;
    Ok(number)
}

/// As `ops::scalar::Scalar::add`.
pub fn add(sum: &Tensor, term: &Tensor) -> Result<()> {
    let gpu = Gpu::of(sum.device())?;
    gpu.launch(
        "add_scalar",
        (1, 1),
        (1, 1),
        0,
        arguments![address(sum, DType::F64)?, address(term, DType::F64)?],
    )
}

/// Numbers on their way into page-locked memory.
pub struct Reading {
    gpu: Arc<Gpu>,
    /// Type of each tensor, where in the block its numbers are, and how many.
    parts: Vec<(DType, usize, usize)>,
    /// The block, and what says that it is filled; always there until this is dropped.
    held: Option<(Block, CudaEvent)>,
}

/// As `ops::scalar::read`.
pub fn read(device: &Device, tensors: &[&Tensor]) -> Result<Reading> {
    let gpu = Gpu::of(device)?;
    let mut parts = Vec::new();
    let mut end = 0usize;
    for tensor in tensors {
        parts.push((tensor.dtype(), end, tensor.elem_count()));
        end += (tensor.elem_count() * tensor.dtype().size_in_bytes())
            .next_multiple_of(size_of::<f64>());
    }
    let block = gpu.pinned()?.take(end)?;
    for (tensor, &(kind, offset, count)) in tensors.iter().zip(&parts) {
        let from = address(tensor, kind)?;
        match kind {
            DType::F32 => gpu.download_to(block.place::<f32>(offset, count), from, count)?,
            DType::F64 => gpu.download_to(block.place::<f64>(offset, count), from, count)?,
            _ => candle_core::bail!("numbers in {kind:?} are not read"),
        }
    }
    Ok(Reading {
        held: Some((block, gpu.event()?)),
        gpu,
        parts,
    })
}

impl Reading {
    /// As `ops::scalar::Reading::wait`.
    pub fn wait(self) -> Result<Vec<Vec<f64>>> {
        let Some((block, done)) = &self.held else {
            return Ok(Vec::new());
        };
        done.synchronize().map_err(|error| late(&error))?;
        // SAFETY: the GPU has filled these places, and any bits are numbers.
        let numbers = self.parts.iter().map(|&(kind, offset, count)| unsafe {
            match kind {
                DType::F32 => std::slice::from_raw_parts(block.place::<f32>(offset, count), count)
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect(),
                _ => std::slice::from_raw_parts(block.place::<f64>(offset, count), count).to_vec(),
            }
        });
        Ok(numbers.collect())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some((block, done)) = self.held.take()
            && let Ok(mut pool) = self.gpu.pinned()
        {
            pool.give(block, done);
        }
    }
}
