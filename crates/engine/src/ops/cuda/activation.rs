//! Launches of SwiGLU and GELU.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::rows_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;

/// Blocks that a grid's second dimension has at most (CUDA programming guide, table of technical
/// specifications).
const MOST_ROWS: usize = 65535;

/// As `ops::activation::swiglu`.
pub fn swiglu(gate_up: &Tensor, padding: usize) -> Result<Tensor> {
    let gpu = Gpu::of(gate_up.device())?;
    let (tokens, width) = gate_up.dims2()?;
    let dim = width / 2;
    let y = gpu.empty_rows(tokens, dim, padding)?;
    let (to, stride) = rows_of(&y, DType::BF16)?;
    let from = bf16_of(gate_up)?;
    for first in (0..tokens).step_by(MOST_ROWS) {
        let grid = (dim.div_ceil(STRETCH), MOST_ROWS.min(tokens - first));
        gpu.launch(
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
pub fn swiglu_backward(dy: &Tensor, gate_up: &Tensor, padding: usize) -> Result<Tensor> {
    let gpu = Gpu::of(gate_up.device())?;
    let (tokens, width) = gate_up.dims2()?;
    let dim = width / 2;
    let d_gate_up = gpu.empty_rows(tokens, width, padding)?;
    let (to, stride) = rows_of(&d_gate_up, DType::BF16)?;
    let dy = bf16_of(dy)?;
    let from = bf16_of(gate_up)?;
    for first in (0..tokens).step_by(MOST_ROWS) {
        let grid = (dim.div_ceil(STRETCH), MOST_ROWS.min(tokens - first));
        let to = to.at::<bf16>(first * stride);
        let dy = dy.at::<bf16>(first * dim);
        let from = from.at::<bf16>(first * width);
        let arguments = arguments![to, dy, from, int(dim)?, int(stride)?];
        gpu.launch("swiglu_backward", grid, (BLOCK, 1), 0, arguments)?;
    }
    Ok(d_gate_up)
}

/// As `ops::activation::gelu`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let count = x.elem_count();
    let y = gpu.empty(x.shape(), DType::BF16)?;
    gpu.launch(
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
    let gpu = Gpu::of(x.device())?;
    let count = x.elem_count();
    let dx = gpu.empty(x.shape(), DType::BF16)?;
    gpu.launch(
        "gelu_backward",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&dx)?, bf16_of(dy)?, bf16_of(x)?, count as u64],
    )?;
    Ok(dx)
}
