//! Launches of AdamW and of the gradient's norm.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Clip;
use crate::ops::adamw::Segment;
use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::Plain;
use crate::ops::cuda::address::address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::scalar::Scalar;

/// Blocks that sum squares, whatever the number of them, so that the order of the sum depends on
/// nothing else.
const SUM_BLOCKS: usize = 1024;

/// The kernel's `Segment`.
#[derive(Clone, Copy)]
#[repr(C)]
struct OnGpu {
    start: i64,
    end: i64,
    rate: f32,
    keep: f32,
    root: f32,
    unused: u32,
}

// SAFETY: numbers that fill the structure without a gap.
unsafe impl Plain for OnGpu {}

/// As `AdamW::update`.
pub fn update(settings: &AdamW, buffers: Buffers, segments: &[Segment], clip: Clip) -> Result<()> {
    let gpu = Gpu::of(buffers.values.device())?;
    let total = buffers.values.elem_count();
    let mut on_gpu: Vec<OnGpu> = segments
        .iter()
        .filter(|segment| !segment.range.is_empty())
        .map(|segment| {
            let (rate, keep, root) = settings.factors(segment);
            OnGpu {
                start: segment.range.start as i64,
                end: segment.range.end as i64,
                rate,
                keep,
                root,
                unused: 0,
            }
        })
        .collect();
    on_gpu.sort_by_key(|segment| segment.start);

    if on_gpu.windows(2).any(|pair| pair[0].end > pair[1].start)
        || on_gpu.last().is_some_and(|last| last.end as usize > total)
    {
        candle_core::bail!("the segments of an update overlap, or leave a buffer of {total}");
    }

    let copy = buffers.copy.map_or(Ok(Address::NULL), bf16_of)?;
    let end = on_gpu.last().map_or(0, |last| last.end as usize);
    let table = gpu.table(&on_gpu)?;
    let values = f32_of(buffers.values)?;
    let first = f32_of(buffers.first)?;
    let second = f32_of(buffers.second)?;
    let beta1 = settings.beta1 as f32;
    let beta2 = settings.beta2 as f32;
    let eps = settings.eps as f32;
    // The complements of betas that are not rounded yet, as on the CPU.
    let rest1 = (1.0 - settings.beta1) as f32;
    let rest2 = (1.0 - settings.beta2) as f32;
    let gradients = f32_of(buffers.gradients)?;
    let count = int(on_gpu.len())?;
    let norm = address(clip.norm.tensor(), DType::F64)?;
    let loss = address(clip.loss.tensor(), DType::F64)?;
    let arguments = arguments![
        values,
        first,
        second,
        copy,
        gradients,
        table.address(),
        count,
        beta1,
        beta2,
        rest1,
        rest2,
        eps,
        clip.max_norm,
        norm,
        loss
    ];
    gpu.launch(
        "adamw",
        (end.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments,
    )
}

/// As `ops::adamw::norm`.
pub fn norm(flat: &Tensor) -> Result<Scalar> {
    let gpu = Gpu::of(flat.device())?;
    let partials = gpu.empty(SUM_BLOCKS, DType::F64)?;
    let norm = gpu.empty(1, DType::F64)?;
    let partial = address(&partials, DType::F64)?;
    let root = address(&norm, DType::F64)?;
    gpu.launch(
        "sum_of_squares",
        (SUM_BLOCKS, 1),
        (BLOCK, 1),
        0,
        arguments![partial, f32_of(flat)?, flat.elem_count() as u64],
    )?;
    gpu.launch(
        "root_of_sum",
        (1, 1),
        (BLOCK, 1),
        0,
        arguments![root, partial, int(SUM_BLOCKS)?],
    )?;
    Scalar::of(norm)
}
