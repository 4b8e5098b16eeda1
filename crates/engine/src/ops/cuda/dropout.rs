//! Launches of dropout.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cuda::card::BLOCK;
use crate::ops::cuda::card::Card;
use crate::ops::cuda::card::arguments;
use crate::ops::cuda::card::bf16_of;
use crate::ops::cuda::card::int;
use crate::ops::cuda::card::rows_of;

/// As `ops::dropout::Dropout::apply`: `keys` are the tokens' streams at the site, `dropped` the share in steps of 2^-53.
pub fn dropout(x: &Tensor, keys: &[u64], dropped: u64, kept: f64) -> Result<Tensor> {
    let (card, (tokens, dim)) = (Card::of(x.device())?, x.dims2()?);
    let y = card.empty((tokens, dim), DType::BF16)?;
    let (keys, (x, stride)) = (card.table(keys)?, rows_of(x, DType::BF16)?);
    let arguments = arguments![
        bf16_of(&y)?,
        x,
        keys.address(),
        dropped,
        kept as f32,
        int(dim)?,
        int(stride)?
    ];
    card.launch("dropout", (tokens, 1), (BLOCK, 1), 0, arguments)?;
    Ok(y)
}
