//! Launches of dropout.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::rows_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;

/// As `ops::dropout::Dropout::apply`: `keys` are the tokens' streams at the site, `dropped` the
/// share in steps of 2^-53.
pub fn dropout(x: &Tensor, keys: &[u64], dropped: u64, kept: f64) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (tokens, dim) = x.dims2()?;
    let y = gpu.empty((tokens, dim), DType::BF16)?;
    let keys = gpu.table(keys)?;
    let (x, stride) = rows_of(x, DType::BF16)?;
    let arguments = arguments![
        bf16_of(&y)?,
        x,
        keys.address(),
        dropped,
        kept as f32,
        int(dim)?,
        int(stride)?
    ];
    gpu.launch("dropout", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok(y)
}
