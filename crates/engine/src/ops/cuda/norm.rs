//! Launches of the norms.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::address::rows_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;

/// Columns that a block of [`SUM_BLOCK`] threads sums over all rows.
const SUM_COLUMNS: usize = 32;
const SUM_BLOCK: (u32, u32) = (32, 8);

/// As `ops::norm::rms_norm`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, padding: usize) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let y = gpu.empty_rows(tokens, dim, padding)?;
    let inverse = gpu.empty(tokens, DType::F32)?;
    let (to, stride) = rows_of(&y, DType::BF16)?;
    let arguments = arguments![
        to,
        f32_of(&inverse)?,
        bf16_of(x)?,
        bf16_of(weight)?,
        int(dim)?,
        int(stride)?,
        eps as f32
    ];
    gpu.launch("rms_norm", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok((y, inverse))
}

/// As `ops::norm::rms_norm_again`.
pub fn rms_norm_again(
    x: &Tensor,
    weight: &Tensor,
    inverse: &Tensor,
    padding: usize,
) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let y = gpu.empty_rows(tokens, dim, padding)?;
    let (to, stride) = rows_of(&y, DType::BF16)?;
    let arguments = arguments![
        to,
        bf16_of(x)?,
        bf16_of(weight)?,
        f32_of(inverse)?,
        int(dim)?,
        int(stride)?
    ];
    gpu.launch("rms_norm_again", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok(y)
}

/// As `ops::norm::rms_norm_backward`.
pub fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    inverse: &Tensor,
    residual: Option<&Tensor>,
    d_weight: Option<&Tensor>,
    padding: usize,
) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let dx = gpu.empty_rows(tokens, dim, padding)?;
    let (to, stride) = rows_of(&dx, DType::BF16)?;
    let (past, past_stride) = residual.map_or(Ok((Address::NULL, dim)), |residual| {
        rows_of(residual, DType::BF16)
    })?;
    let dy = bf16_of(dy)?;
    let x = bf16_of(x)?;
    let inverse = f32_of(inverse)?;
    let arguments = arguments![
        to,
        dy,
        x,
        bf16_of(weight)?,
        inverse,
        past,
        int(dim)?,
        int(stride)?,
        int(past_stride)?
    ];
    gpu.launch("rms_norm_backward", (tokens, 1), (BLOCK, 1), 0, arguments)?;

    if let Some(d_weight) = d_weight {
        let arguments = arguments![f32_of(d_weight)?, dy, x, inverse, int(tokens)?, int(dim)?];
        gpu.launch(
            "rms_norm_weight_backward",
            (dim.div_ceil(SUM_COLUMNS), 1),
            SUM_BLOCK,
            0,
            arguments,
        )?;
    }

    Ok(dx)
}

/// As `ops::norm::layer_norm`: the output, the means and the inverse standard deviations.
pub fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let y = gpu.empty((tokens, dim), DType::BF16)?;
    let mean = gpu.empty(tokens, DType::F32)?;
    let inverse = gpu.empty(tokens, DType::F32)?;
    let arguments = arguments![
        bf16_of(&y)?,
        f32_of(&mean)?,
        f32_of(&inverse)?,
        bf16_of(x)?,
        bf16_of(weight)?,
        bf16_of(bias)?,
        int(dim)?,
        eps as f32
    ];
    gpu.launch("layer_norm", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok((y, mean, inverse))
}

/// As `ops::norm::layer_norm_again`.
pub fn layer_norm_again(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    inverse: &Tensor,
) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let y = gpu.empty((tokens, dim), DType::BF16)?;
    let arguments = arguments![
        bf16_of(&y)?,
        bf16_of(x)?,
        bf16_of(weight)?,
        bf16_of(bias)?,
        f32_of(mean)?,
        f32_of(inverse)?,
        int(dim)?
    ];
    gpu.launch("layer_norm_again", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok(y)
}

/// As `ops::norm::layer_norm_backward`; `statistics` are the means and the inverse standard
/// deviations.
pub fn layer_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    statistics: (&Tensor, &Tensor),
    residual: Option<&Tensor>,
    gradients: Option<(&Tensor, &Tensor)>,
) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let dx = gpu.empty((tokens, dim), DType::BF16)?;
    let dy = bf16_of(dy)?;
    let x = bf16_of(x)?;
    let mean = f32_of(statistics.0)?;
    let inverse = f32_of(statistics.1)?;
    let arguments = arguments![
        bf16_of(&dx)?,
        dy,
        x,
        bf16_of(weight)?,
        mean,
        inverse,
        or_null(residual)?,
        int(dim)?
    ];
    gpu.launch("layer_norm_backward", (tokens, 1), (BLOCK, 1), 0, arguments)?;

    if let Some((d_weight, d_bias)) = gradients {
        let arguments = arguments![
            f32_of(d_weight)?,
            f32_of(d_bias)?,
            dy,
            x,
            mean,
            inverse,
            int(tokens)?,
            int(dim)?
        ];
        gpu.launch(
            "layer_norm_weight_backward",
            (dim.div_ceil(SUM_COLUMNS), 1),
            SUM_BLOCK,
            0,
            arguments,
        )?;
    }

    Ok(dx)
}

/// Adds the rows of `rows` to `out`, `[width]`: the gradient of a bias.
pub fn column_sums(out: &Tensor, rows: &Tensor) -> Result<()> {
    let gpu = Gpu::of(rows.device())?;
    let (tokens, width) = rows.dims2()?;
    gpu.launch(
        "column_sums",
        (width.div_ceil(SUM_COLUMNS), 1),
        SUM_BLOCK,
        0,
        arguments![f32_of(out)?, bf16_of(rows)?, int(tokens)?, int(width)?],
    )
}

fn or_null(tensor: Option<&Tensor>) -> Result<Address> {
    tensor.map_or(Ok(Address::NULL), bf16_of)
}
