//! Opening a GPU, its memory pool, and copies between GPU and host.

use std::ops::Range;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::sys::cuDriverGetVersion;
use half::bf16;
use rayon::prelude::*;

use crate::ops::cuda::address::address;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::pool::get;
use crate::ops::cuda::pool::set;
use crate::ops::cuda::watch::late;
use crate::ops::device::Memory;
use crate::ops::profile::Timed;
use crate::ops::rows::columns;
use maqam_base::error::Error;

/// The oldest compute capability with bf16 tensor cores and asynchronous copies into shared memory,
/// which the kernels need.
const OLDEST: (i32, i32) = (8, 0);

/// The oldest CUDA that a driver must know, as drivers number it: the kernels and the libraries are
/// those of 13.0.
const OLDEST_CUDA: i32 = 13_000;

/// Least memory that must be free for anything to begin, in bytes: the scratch memory of products,
/// the kernels' code, and some for the libraries.
const LEAST_FREE: u64 = 512 << 20;

/// Opens the first GPU.
///
/// # Errors
/// If there is no driver, no GPU, one of them is too old, or the GPU has no free memory.
pub fn open() -> Result<Device> {
    check_driver()?;
    // One stream for all threads: candle's default is one for each thread, whose order would be
    // anyone's guess.
    let device = Device::new_cuda_with_stream(0).map_err(not_opened)?;
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let found = stream.context().compute_capability().w()?;
    if found < OLDEST {
        let name = name(&device)?;
        let (major, minor) = found;
        return Err(unusable(&format!("{name} has compute capability {major}.{minor}")).into());
    }
    check_free(&device)?;
    // SAFETY: there is one stream, so nothing needs events to be ordered; without them a tensor
    // costs no more than its memory.
    unsafe { cuda.disable_event_tracking() };
    // By default freed memory goes back to the driver at every synchronisation, and is asked for
    // anew after it.
    set(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
        u64::MAX,
    )?;
    Ok(device)
}

/// Checks that the driver knows the CUDA that the kernels were compiled for. A driver that does not
/// say its version is asked for a device, and fails there.
fn check_driver() -> Result<()> {
    let mut version = 0;
    // SAFETY: the driver writes one number.
    let found = unsafe { cuDriverGetVersion(&raw mut version) };
    if found.result().is_err() || version >= OLDEST_CUDA {
        return Ok(());
    }
    let (major, minor) = (version / 1000, version % 1000 / 10);
    Err(unusable(&format!("its driver knows CUDA {major}.{minor}")).into())
}

/// Checks that the GPU has memory to begin with.
fn check_free(device: &Device) -> Result<()> {
    let Memory { free, total } = memory(device)?;
    if free >= LEAST_FREE {
        return Ok(());
    }
    let name = name(device)?;
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    Err(full(&format!(
        "{name} has {:.2} of {:.1} GB free",
        gigabytes(free),
        gigabytes(total)
    ))
    .into())
}

/// What an error of opening the device says to a person.
fn not_opened(error: candle_core::Error) -> candle_core::Error {
    let found = first_line(&error);
    // The libraries that candle opens beside the device have no other name for it.
    let is_full = ["OUT_OF_MEMORY", "ALLOC_FAILED"]
        .iter()
        .any(|name| found.contains(name));
    match is_full {
        true => full(&found).caused_by(error).into(),
        false => unusable(&found).caused_by(error).into(),
    }
}

fn full(found: &str) -> Error {
    Error::resource(format!("the GPU has no free memory: {found}"))
        .hint("end other programs on the GPU: `nvidia-smi` lists them")
}

fn unusable(found: &str) -> Error {
    let (major, minor) = OLDEST;
    Error::input(format!("no NVIDIA GPU can be computed on: {found}")).hint(format!(
        "it takes a GPU of compute capability {major}.{minor} or newer and a driver for CUDA 13.0 (580 or newer)"
    ))
}

/// Message of an error, without the backtrace that candle appends on request.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The GPU's name.
pub fn name(device: &Device) -> Result<String> {
    device.as_cuda_device()?.cuda_stream().context().name().w()
}

/// Free memory: the driver's, and what the pool keeps of freed tensors.
pub fn memory(device: &Device) -> Result<Memory> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let (free, total) = stream.context().mem_get_info().w()?;
    let reserved = get(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
    )?;
    let used = get(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
    )?;
    Ok(Memory {
        free: free as u64 + reserved.saturating_sub(used),
        total: total as u64,
    })
}

/// The most that was used at once.
pub fn peak(device: &Device) -> Result<u64> {
    get(
        &device.as_cuda_device()?.cuda_stream(),
        CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
    )
}

/// The most that the pool had of the driver at once: what was used, and what lay between.
pub fn reserved_peak(device: &Device) -> Result<u64> {
    get(
        &device.as_cuda_device()?.cuda_stream(),
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
    )
}

/// Memory that the driver has left, without what the pool keeps.
pub fn free_of_driver(device: &Device) -> Result<u64> {
    let (free, _) = device
        .as_cuda_device()?
        .cuda_stream()
        .context()
        .mem_get_info()
        .w()?;
    Ok(free as u64)
}

/// Lets the peaks begin at what is used and reserved now.
pub fn reset_peak(device: &Device) -> Result<()> {
    let stream = device.as_cuda_device()?.cuda_stream();
    set(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
        0,
    )?;
    set(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
        0,
    )
}

/// As `ops::device::begin_profile`.
pub fn begin_profile(device: &Device) -> Result<()> {
    let gpu = Gpu::of(device)?;
    gpu.watch().begin_profile(gpu.stream())
}

/// As `ops::device::end_profile`.
pub fn end_profile(device: &Device) -> Result<Vec<Timed>> {
    let gpu = Gpu::of(device)?;
    gpu.watch().end_profile(gpu.stream())
}

/// As `ops::device::host_seconds`.
pub fn host_seconds(device: &Device) -> Result<f64> {
    Ok(Gpu::of(device)?.watch().host_seconds())
}

/// As `ops::device::begin_run`.
pub fn begin_run(device: &Device, folder: &Path) -> Result<()> {
    Gpu::of(device)?.blas().begin_run(folder);
    Ok(())
}

/// As `ops::device::copy_to_run`.
pub fn copy_to_run(device: &Device, folder: &Path) -> Result<()> {
    Ok(Gpu::of(device)?.blas().store().copy_to_run(folder)?)
}

/// As `ops::device::poison_new_tensors`.
pub fn poison_new_tensors(device: &Device, is_poisoned: bool) -> Result<()> {
    Gpu::of(device)?.poison(is_poisoned);
    Ok(())
}

/// Waits for the stream.
pub fn synchronise(device: &Device) -> Result<()> {
    device
        .as_cuda_device()?
        .cuda_stream()
        .synchronize()
        .map_err(|error| late(&error))
}

/// Numbers of the host as a tensor in bf16.
pub fn place(values: &[f32], shape: Shape, device: &Device) -> Result<Tensor> {
    /// Numbers that one task of the conversion handles at least.
    const GRAIN: usize = 1 << 14;
    if shape.elem_count() != values.len() {
        candle_core::bail!("{} numbers cannot be placed as {shape:?}", values.len());
    }
    let gpu = Gpu::of(device)?;
    let placed = gpu.empty(shape, DType::BF16)?;
    let values: Vec<bf16> = values
        .par_iter()
        .with_min_len(GRAIN)
        .map(|&value| bf16::from_f32(value))
        .collect();
    if !values.is_empty() {
        gpu.write(address(&placed, DType::BF16)?, &values)?;
    }
    Ok(placed)
}

/// The numbers of a tensor; waits for them.
pub fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = match tensor.dims() {
        // Rows with padding behind them.
        &[_, width] if tensor.dtype() == DType::BF16 && !tensor.is_contiguous() => {
            columns(tensor, 0..width)?
        }
        _ => tensor.contiguous()?,
    };
    let gpu = Gpu::of(tensor.device())?;
    match tensor.dtype() {
        DType::F32 => gpu.download::<f32>(address(&tensor, DType::F32)?, tensor.elem_count()),
        DType::BF16 => {
            let values =
                gpu.download::<bf16>(address(&tensor, DType::BF16)?, tensor.elem_count())?;
            Ok(values.into_iter().map(bf16::to_f32).collect())
        }
        _ => tensor
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1(),
    }
}

/// Replaces a stretch of a flat tensor of `f32`, or of `bf16`, which rounds.
pub fn write_stretch(flat: &Tensor, range: Range<usize>, values: &[f32]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let gpu = Gpu::of(flat.device())?;
    match flat.dtype() {
        DType::BF16 => {
            let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
            gpu.write(address(flat, DType::BF16)?.at::<bf16>(range.start), &values)
        }
        _ => gpu.write(address(flat, DType::F32)?.at::<f32>(range.start), values),
    }
}
