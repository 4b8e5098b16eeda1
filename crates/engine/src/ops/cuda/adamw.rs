//! Launches of AdamW and of the gradient's norm.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Clip;
use crate::ops::adamw::Segment;
use crate::ops::cuda::card::Address;
use crate::ops::cuda::card::BLOCK;
use crate::ops::cuda::card::Card;
use crate::ops::cuda::card::Plain;
use crate::ops::cuda::card::STRETCH;
use crate::ops::cuda::card::address;
use crate::ops::cuda::card::arguments;
use crate::ops::cuda::card::bf16_of;
use crate::ops::cuda::card::f32_of;
use crate::ops::cuda::card::int;
use crate::ops::scalar::Scalar;

/// Blocks that sum squares, whatever the number of them, so that the order of the sum depends on nothing else.
const SUM_BLOCKS: usize = 1024;

/// The kernel's `Segment`.
#[derive(Clone, Copy)]
#[repr(C)]
struct OnCard {
    start: i64,
    end: i64,
    rate: f32,
    keep: f32,
    root: f32,
    unused: u32,
}

// SAFETY: numbers that fill the structure without a gap.
unsafe impl Plain for OnCard {}

/// As `AdamW::update`.
pub fn update(settings: &AdamW, buffers: Buffers, segments: &[Segment], clip: Clip) -> Result<()> {
    let card = Card::of(buffers.values.device())?;
    let total = buffers.values.elem_count();
    let mut on_card: Vec<OnCard> = segments
        .iter()
        .filter(|segment| !segment.range.is_empty())
        .map(|segment| {
            let (rate, keep, root) = settings.factors(segment);
            OnCard {
                start: segment.range.start as i64,
                end: segment.range.end as i64,
                rate,
                keep,
                root,
                unused: 0,
            }
        })
        .collect();
    on_card.sort_by_key(|segment| segment.start);
    if on_card.windows(2).any(|pair| pair[0].end > pair[1].start)
        || on_card.last().is_some_and(|last| last.end as usize > total)
    {
        candle_core::bail!("the segments of an update overlap, or leave a buffer of {total}");
    }
    let copy = buffers.copy.map_or(Ok(Address::NULL), bf16_of)?;
    let end = on_card.last().map_or(0, |last| last.end as usize);
    let table = card.table(&on_card)?;
    let (values, first, second) = (
        f32_of(buffers.values)?,
        f32_of(buffers.first)?,
        f32_of(buffers.second)?,
    );
    let (beta1, beta2, eps) = (
        settings.beta1 as f32,
        settings.beta2 as f32,
        settings.eps as f32,
    );
    // The complements of betas that are not rounded yet, as on the CPU.
    let (rest1, rest2) = ((1.0 - settings.beta1) as f32, (1.0 - settings.beta2) as f32);
    let (gradients, count) = (f32_of(buffers.gradients)?, int(on_card.len())?);
    let (norm, loss) = (
        address(clip.norm.tensor(), DType::F64)?,
        address(clip.loss.tensor(), DType::F64)?,
    );
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
    card.launch(
        "adamw",
        (end.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments,
    )
}

/// As `ops::adamw::norm`.
pub fn norm(flat: &Tensor) -> Result<Scalar> {
    let card = Card::of(flat.device())?;
    let (partials, norm) = (
        card.empty(SUM_BLOCKS, DType::F64)?,
        card.empty(1, DType::F64)?,
    );
    let (partial, root) = (address(&partials, DType::F64)?, address(&norm, DType::F64)?);
    card.launch(
        "sum_of_squares",
        (SUM_BLOCKS, 1),
        (BLOCK, 1),
        0,
        arguments![partial, f32_of(flat)?, flat.elem_count() as u64],
    )?;
    card.launch(
        "root_of_sum",
        (1, 1),
        (BLOCK, 1),
        0,
        arguments![root, partial, int(SUM_BLOCKS)?],
    )?;
    Scalar::of(norm)
}
