//! Gradients of an adapter's up-projection from one reading of the output's gradient, by kernels
//! for the ranks that are used most.

use candle_core::DType;
use candle_core::Result;

use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::matrix::Matrix;

/// Columns of the output's gradient that a block has, and tokens of them at a time.
const COLUMNS: usize = 512;
const TOKENS: usize = 64;

/// Threads of a block.
const THREADS: u32 = 128;

/// Alignment that the kernels need of every matrix, in bytes, and what rows are multiples of.
const ALIGNED: u32 = 16;
const PACK: usize = 8;

/// The kernel for a rank.
struct Kernel {
    rank: usize,
    name: &'static str,
    /// Dynamic shared memory, in bytes.
    shared: u32,
    /// Blocks that share a multiprocessor, by their registers.
    blocks: usize,
}

static KERNELS: [Kernel; 2] = [
    Kernel {
        rank: 16,
        name: "adapter_backward_16",
        shared: 63_488,
        blocks: 3,
    },
    Kernel {
        rank: 32,
        name: "adapter_backward_32",
        shared: 83_968,
        blocks: 2,
    },
];

/// Backward of one up-projection: `dh = scale dy B`, and `dB += scale dy^T h`.
pub struct UpBackward {
    /// `dy`, `[tokens, columns]`.
    pub d_out: Matrix,
    /// `h`, `[tokens, rank]`.
    pub hidden: Matrix,
    /// `dh`, `[tokens, rank]`, which is written.
    pub d_hidden: Matrix,
    /// B, `[columns, rank]`.
    pub up: Matrix,
    /// `dB`, `[columns, rank]` in `f32`, which is added to.
    pub gradient: Matrix,
    /// Factor of the adapter.
    pub scale: f64,
}

impl UpBackward {
    /// Computes both; false, and nothing is done, where no kernel has this rank or these distances.
    pub fn run(&self, gpu: &Gpu) -> Result<bool> {
        let Some(kernel) = self.kernel() else {
            return Ok(false);
        };
        let Matrix {
            rows: tokens,
            cols: columns,
            ..
        } = self.d_out;
        let rank = kernel.rank;
        let chunks = columns.div_ceil(COLUMNS);
        let places = kernel.blocks * gpu.multiprocessors();
        let tokens_of_block = tokens_of_block(tokens, chunks, places);
        let splits = tokens.div_ceil(tokens_of_block);
        let of_hidden = gpu.empty((chunks, tokens, rank), DType::F32)?;
        let of_up = gpu.empty((splits, columns, rank), DType::F32)?;
        let scale = self.scale as f32;

        let arguments = arguments![
            f32_of(&of_hidden)?,
            f32_of(&of_up)?,
            self.d_out.place,
            self.hidden.place,
            self.up.place,
            int(tokens)?,
            int(columns)?,
            int(self.d_out.stride)?,
            int(self.hidden.stride)?,
            int(tokens_of_block)?
        ];
        gpu.launch(
            kernel.name,
            (chunks, splits),
            (THREADS, 1),
            kernel.shared,
            arguments,
        )?;

        let arguments = arguments![
            self.d_hidden.place,
            f32_of(&of_hidden)?,
            int(tokens)?,
            int(rank)?,
            int(chunks)?,
            int(self.d_hidden.stride)?,
            scale
        ];
        let grid = ((tokens * rank).div_ceil(STRETCH), 1);
        gpu.launch("sum_adapter_hidden", grid, (BLOCK, 1), 0, arguments)?;

        let arguments = arguments![
            self.gradient.place,
            f32_of(&of_up)?,
            int(columns * rank)?,
            int(splits)?,
            scale
        ];
        let grid = ((columns * rank).div_ceil(STRETCH), 1);
        gpu.launch("sum_adapter_gradient", grid, (BLOCK, 1), 0, arguments)?;
        Ok(true)
    }

    /// The kernel that computes this, if one does.
    fn kernel(&self) -> Option<&'static Kernel> {
        let Self {
            d_out,
            hidden,
            d_hidden,
            up,
            gradient,
            ..
        } = *self;
        let in_packs = |matrix: Matrix| {
            matrix.cols.is_multiple_of(PACK)
                && matrix.stride.is_multiple_of(PACK)
                && matrix.alignment() >= ALIGNED
        };
        let of_activations = [d_out, hidden, d_hidden, up];
        let fits = of_activations
            .iter()
            .all(|&matrix| matrix.kind == DType::BF16 && in_packs(matrix))
            && gradient.kind == DType::F32
            && in_packs(gradient)
            && [up, gradient].iter().all(|of| of.stride == of.cols)
            && d_out.rows > 0;
        KERNELS
            .iter()
            .find(|kernel| fits && kernel.rank == hidden.cols)
    }
}

/// Tokens of a block, a multiple of [`TOKENS`]: so many that all blocks, of which `chunks` have the
/// same tokens, find one of the GPU's `places` at once, and few parts are written and added up.
fn tokens_of_block(tokens: usize, chunks: usize, places: usize) -> usize {
    let tiles = tokens.div_ceil(TOKENS);
    let splits = (places / chunks.max(1)).clamp(1, tiles.max(1));
    TOKENS * tiles.div_ceil(splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_the_tokens_between_them() {
        // An H200 has 396 places for a rank of 16. 18,944 columns are 37 chunks: 10 blocks along
        // 128 tiles of 64 tokens, 13 tiles each. 512 columns are one: a tile each.
        assert_eq!(tokens_of_block(8192, 37, 396), 13 * 64);
        assert_eq!(tokens_of_block(8192, 1, 396), 64);
        assert_eq!(tokens_of_block(1, 1, 396), 64);
        assert_eq!(tokens_of_block(8192, 1000, 396), 8192);
    }
}
