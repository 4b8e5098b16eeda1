//! Launches of unfolding.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::convolution::KERNEL;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;

/// As `ops::convolution::unfold`; `centres` are the row in the middle of each output, the window's
/// first row and its end.
pub fn unfold(x: &Tensor, centres: &[[usize; 3]]) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (_, dim) = x.dims2()?;
    let y = gpu.empty((centres.len(), KERNEL * dim), DType::BF16)?;
    let rows: Vec<[i32; 3]> = centres
        .iter()
        .map(|centre| centre.map(|row| row as i32))
        .collect();
    let rows = gpu.table(&rows)?;
    gpu.launch(
        "unfold",
        (centres.len(), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, bf16_of(x)?, rows.address(), int(dim)?],
    )?;
    Ok(y)
}

/// As `ops::convolution::unfold_backward`, for `rows` rows.
pub fn unfold_backward(dy: &Tensor, centres: &[[usize; 3]], rows: usize) -> Result<Tensor> {
    let gpu = Gpu::of(dy.device())?;
    let dim = dy.dim(1)? / KERNEL;
    let dx = gpu.empty((rows, dim), DType::BF16)?;
    let readers = gpu.table(&readers(centres, rows))?;
    gpu.launch(
        "unfold_backward",
        (rows, 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&dx)?, bf16_of(dy)?, readers.address(), int(dim)?],
    )?;
    Ok(dx)
}

/// For every row, the output whose tap 0, 1, 2 reads it, or -1: no two outputs read a row with the
/// same tap.
fn readers(centres: &[[usize; 3]], rows: usize) -> Vec<[i32; KERNEL]> {
    let mut readers = vec![[-1; KERNEL]; rows];
    for (output, &[row, start, end]) in centres.iter().enumerate() {
        for tap in 0..KERNEL {
            if let Some(from) = (row + tap)
                .checked_sub(1)
                .filter(|from| (start..end).contains(from))
            {
                readers[from][tap] = output as i32;
            }
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tap_of_every_output_is_read_back() {
        // Two windows of three and two rows, at stride 2.
        let centres = [[0, 0, 3], [2, 0, 3], [3, 3, 5]];
        assert_eq!(
            readers(&centres, 5),
            [
                [-1, 0, -1],
                [1, -1, 0],
                [-1, 1, -1],
                [-1, 2, -1],
                [-1, -1, 2]
            ]
        );
    }
}
