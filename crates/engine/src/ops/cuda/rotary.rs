//! Tables and launches of the rotary embedding.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;

/// Cosines and sines of angles, `half` for each token, in `f32`.
pub fn tables(angles: &[f64], half: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(device)?;
    let cos = table(&gpu, angles, half, f64::cos)?;
    let sin = table(&gpu, angles, half, f64::sin)?;
    Ok((cos, sin))
}

fn table(gpu: &Gpu, angles: &[f64], half: usize, function: fn(f64) -> f64) -> Result<Tensor> {
    let values: Vec<f32> = angles
        .par_iter()
        .map(|&angle| function(angle) as f32)
        .collect();
    let table = gpu.empty((angles.len() / half, half), DType::F32)?;
    gpu.write(f32_of(&table)?, &values)?;
    Ok(table)
}

/// Rotates the first `num_heads` heads of every token in place, forwards (1) or backwards (-1).
pub fn rotate(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    num_heads: usize,
    direction: f64,
) -> Result<()> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let arguments = arguments![
        bf16_of(x)?,
        f32_of(cos)?,
        f32_of(sin)?,
        int(width)?,
        int(num_heads)?,
        int(half)?,
        direction as f32
    ];
    gpu.launch("rotate", (tokens, 1), (BLOCK, 1), 0, arguments)
}
