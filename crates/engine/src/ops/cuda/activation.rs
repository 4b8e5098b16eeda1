//! Launches of SwiGLU and GELU.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cuda::card::BLOCK;
use crate::ops::cuda::card::Card;
use crate::ops::cuda::card::STRETCH;
use crate::ops::cuda::card::arguments;
use crate::ops::cuda::card::bf16_of;
use crate::ops::cuda::card::int;
use crate::ops::cuda::card::rows_of;

/// Blocks that a grid's second dimension has at most (CUDA programming guide, table of technical specifications).
const MOST_ROWS: usize = 65535;

/// As `ops::activation::swiglu`.
pub fn swiglu(gate_up: &Tensor, room: usize) -> Result<Tensor> {
    let (card, (tokens, width)) = (Card::of(gate_up.device())?, gate_up.dims2()?);
    let dim = width / 2;
    let y = card.empty_rows(tokens, dim, room)?;
    let ((to, stride), from) = (rows_of(&y, DType::BF16)?, bf16_of(gate_up)?);
    for first in (0..tokens).step_by(MOST_ROWS) {
        let grid = (dim.div_ceil(STRETCH), MOST_ROWS.min(tokens - first));
        card.launch(
            "swiglu",
            grid,
            (BLOCK, 1),
            0,
            arguments![
                to.at::<bf16>(first * stride),
                from.at::<bf16>(first * width),
                int(dim)?,
                int(stride)?
            ],
        )?;
    }
    Ok(y)
}

/// As `ops::activation::swiglu_backward`.
pub fn swiglu_backward(dy: &Tensor, gate_up: &Tensor, room: usize) -> Result<Tensor> {
    let (card, (tokens, width)) = (Card::of(gate_up.device())?, gate_up.dims2()?);
    let dim = width / 2;
    let d_gate_up = card.empty_rows(tokens, width, room)?;
    let ((to, stride), dy, from) = (
        rows_of(&d_gate_up, DType::BF16)?,
        bf16_of(dy)?,
        bf16_of(gate_up)?,
    );
    for first in (0..tokens).step_by(MOST_ROWS) {
        let grid = (dim.div_ceil(STRETCH), MOST_ROWS.min(tokens - first));
        let (to, dy, from) = (
            to.at::<bf16>(first * stride),
            dy.at::<bf16>(first * dim),
            from.at::<bf16>(first * width),
        );
        let arguments = arguments![to, dy, from, int(dim)?, int(stride)?];
        card.launch("swiglu_backward", grid, (BLOCK, 1), 0, arguments)?;
    }
    Ok(d_gate_up)
}

/// As `ops::activation::gelu`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let (card, count) = (Card::of(x.device())?, x.elem_count());
    let y = card.empty(x.shape(), DType::BF16)?;
    card.launch(
        "gelu",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, bf16_of(x)?, count as u64],
    )?;
    Ok(y)
}

/// As `ops::activation::gelu_backward`.
pub fn gelu_backward(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (card, count) = (Card::of(x.device())?, x.elem_count());
    let dx = card.empty(x.shape(), DType::BF16)?;
    card.launch(
        "gelu_backward",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&dx)?, bf16_of(dy)?, bf16_of(x)?, count as u64],
    )?;
    Ok(dx)
}
