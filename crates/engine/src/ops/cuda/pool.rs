//! Opening a card, its memory pool, and copies between card and host.

use std::ffi::c_void;
use std::ops::Range;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemoryPool;
use half::bf16;
use rayon::prelude::*;

use crate::ops::cuda::card::Card;
use crate::ops::cuda::card::address;
use crate::ops::cuda::watch::late;
use crate::ops::device::Memory;
use crate::ops::device::Timed;
use crate::ops::rows::columns;
use maqam_base::error::Error;

/// The oldest compute capability with bf16 tensor cores and asynchronous copies into shared memory, which the kernels need.
const OLDEST: (i32, i32) = (8, 0);

/// Opens the first card.
///
/// # Errors
/// Where there is no driver, no card, or one that is too old.
pub fn open() -> Result<Device> {
    let wrong = |found: String| {
        Error::input(format!("no NVIDIA card can be computed on: {found}")).hint(format!(
            "it takes a card of compute capability {}.{} or newer and a driver for CUDA 13.0 (580 or newer)",
            OLDEST.0, OLDEST.1
        ))
    };
    // One stream for all threads: candle's default is one for each thread, whose order would be anyone's guess.
    let device = Device::new_cuda_with_stream(0)
        .map_err(|error| wrong(first_line(&error)).caused_by(error))?;
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let found = stream.context().compute_capability().w()?;
    if found < OLDEST {
        return Err(wrong(format!(
            "{} has compute capability {}.{}",
            name(&device)?,
            found.0,
            found.1
        ))
        .into());
    }
    // SAFETY: there is one stream, so nothing needs events to be ordered; without them a tensor costs no more than its memory.
    unsafe { cuda.disable_event_tracking() };
    // By default freed memory goes back to the driver at every synchronisation, and is asked for anew after it.
    set(
        &stream,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
        u64::MAX,
    )?;
    Ok(device)
}

/// What went wrong, without the backtrace that candle appends where one is asked for.
fn first_line(error: &candle_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The card's name.
pub fn name(device: &Device) -> Result<String> {
    device.as_cuda_device()?.cuda_stream().context().name().w()
}

/// What is free: what the driver has, and what the pool keeps of freed tensors.
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

/// What the driver has left, without what the pool keeps.
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

/// Waits for the stream, then gives all memory back to the driver that no tensor has: an allocation may then find a whole piece.
pub fn trim(stream: &CudaStream) -> Result<()> {
    stream.synchronize().map_err(|error| late(&error))?;
    // SAFETY: the pool is the stream's device's.
    unsafe { result::mem_pool::trim_to(pool(stream)?, 0).w() }
}

/// As `ops::device::begin_profile`.
pub fn begin_profile(device: &Device) -> Result<()> {
    Card::of(device)?.begin_profile()
}

/// As `ops::device::end_profile`.
pub fn end_profile(device: &Device) -> Result<Vec<Timed>> {
    Card::of(device)?.end_profile()
}

/// As `ops::device::host_seconds`.
pub fn host_seconds(device: &Device) -> Result<f64> {
    Ok(Card::of(device)?.host_seconds())
}

/// As `ops::device::poison_new_tensors`.
pub fn poison_new_tensors(device: &Device, is_poisoned: bool) -> Result<()> {
    Card::of(device)?.poison(is_poisoned);
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

fn pool(stream: &CudaStream) -> Result<CUmemoryPool> {
    // SAFETY: the device is the one the stream's context was made for.
    unsafe { result::device::get_mem_pool(stream.context().cu_device()).w() }
}

fn get(stream: &CudaStream, attribute: CUmemPool_attribute) -> Result<u64> {
    let mut value = 0u64;
    // SAFETY: all attributes that are asked for here are 64 bits wide.
    unsafe {
        result::mem_pool::get_attribute(pool(stream)?, attribute, (&raw mut value).cast::<c_void>())
            .w()?
    };
    Ok(value)
}

fn set(stream: &CudaStream, attribute: CUmemPool_attribute, mut value: u64) -> Result<()> {
    // SAFETY: as above.
    unsafe {
        result::mem_pool::set_attribute(pool(stream)?, attribute, (&raw mut value).cast::<c_void>())
            .w()
    }
}

/// Numbers of the host as a tensor in bf16.
pub fn place(values: &[f32], shape: Shape, device: &Device) -> Result<Tensor> {
    /// Numbers that one task of the conversion handles at least.
    const GRAIN: usize = 1 << 14;
    if shape.elem_count() != values.len() {
        candle_core::bail!("{} numbers cannot be placed as {shape:?}", values.len());
    }
    let card = Card::of(device)?;
    let placed = card.empty(shape, DType::BF16)?;
    let values: Vec<bf16> = values
        .par_iter()
        .with_min_len(GRAIN)
        .map(|&value| bf16::from_f32(value))
        .collect();
    if !values.is_empty() {
        card.write(address(&placed, DType::BF16)?, &values)?;
    }
    Ok(placed)
}

/// A tensor of zeros, possibly of none: a driver allocates no memory of no bytes.
pub fn zeros(shape: impl Into<Shape>, kind: DType, device: &Device) -> Result<Tensor> {
    let card = Card::of(device)?;
    let zeros = card.empty(shape, kind)?;
    card.clear(
        address(&zeros, kind)?,
        zeros.elem_count() * kind.size_in_bytes(),
    )?;
    Ok(zeros)
}

/// The numbers of a tensor; waits for them.
pub fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = match tensor.dims() {
        // Rows with room behind them.
        &[_, width] if tensor.dtype() == DType::BF16 && !tensor.is_contiguous() => {
            columns(tensor, 0..width)?
        }
        _ => tensor.contiguous()?,
    };
    let card = Card::of(tensor.device())?;
    match tensor.dtype() {
        DType::F32 => card.download::<f32>(address(&tensor, DType::F32)?, tensor.elem_count()),
        DType::BF16 => {
            let values =
                card.download::<bf16>(address(&tensor, DType::BF16)?, tensor.elem_count())?;
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
    let card = Card::of(flat.device())?;
    match flat.dtype() {
        DType::BF16 => {
            let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
            card.write(address(flat, DType::BF16)?.at::<bf16>(range.start), &values)
        }
        _ => card.write(address(flat, DType::F32)?.at::<f32>(range.start), values),
    }
}
