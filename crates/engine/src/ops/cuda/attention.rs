//! Launches of attention: blocks of 64 queries or keys, the longest work first.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

use crate::ops::attention::Heads;
use crate::ops::attention::Mask;
use crate::ops::attention::Past;
use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::gpu::Table;

/// Queries or keys of a block.
const ROWS: usize = 64;

/// Threads of a block.
const THREADS: u32 = 128;

/// Query heads of one block of a step of decoding, and its dynamic shared memory in bytes.
const STEP_ROWS: usize = 16;
const STEP_SHARED: u32 = 98_304;

/// A kernel for heads of up to 64 numbers, and one for heads of up to 128.
struct Kernel {
    names: [&'static str; 2],
    /// Dynamic shared memory of each, in bytes.
    shared: [u32; 2],
}

const FORWARD: Kernel = Kernel {
    names: ["attention_forward_64", "attention_forward_128"],
    shared: [32 << 10, 64 << 10],
};
const BACKWARD_QUERIES: Kernel = Kernel {
    names: [
        "attention_backward_queries_64",
        "attention_backward_queries_128",
    ],
    shared: [32 << 10, 64 << 10],
};
const BACKWARD_KEYS: Kernel = Kernel {
    names: ["attention_backward_keys_64", "attention_backward_keys_128"],
    shared: [33_280, 66_048],
};

/// Blocks of the pass over keys that share a multiprocessor, by their registers: those of a
/// [`Kernel`]'s two.
const KEYS_BLOCKS: [usize; 2] = [3, 2];

/// Blocks that each of these places should have: with fewer, those that end last leave much of the
/// GPU idle.
const BLOCKS_PER_PLACE: usize = 3;

/// Arguments of the kernels beside their tensors.
struct Shape {
    gpu: std::sync::Arc<Gpu>,
    tokens: usize,
    mask: Mask,
    /// Which of a [`Kernel`]'s two.
    width: usize,
}

impl Shape {
    fn new(qkv: &Tensor, heads: Heads, mask: Mask) -> Result<Self> {
        let width = width(heads)?;
        Ok(Self {
            gpu: Gpu::of(qkv.device())?,
            tokens: qkv.dim(0)?,
            mask,
            width,
        })
    }
}

fn width(heads: Heads) -> Result<usize> {
    match heads.head_dim {
        dim if dim == 0 || !dim.is_multiple_of(8) || dim > 128 => {
            candle_core::bail!("on a GPU heads are multiples of 8 wide, up to 128, found {dim}")
        }
        dim => Ok(usize::from(dim > 64)),
    }
}

/// As `ops::attention::attention`.
pub fn attention(
    qkv: &Tensor,
    cu_seqlens: &[usize],
    heads: Heads,
    mask: Mask,
) -> Result<(Tensor, Tensor)> {
    let shape = Shape::new(qkv, heads, mask)?;
    let Shape { gpu, tokens, .. } = &shape;
    let out = gpu.empty((*tokens, heads.query_width()), DType::BF16)?;
    let log_sums = gpu.empty((heads.num_heads, *tokens), DType::F32)?;
    let (tiles, count) = shape.tiles(cu_seqlens, Side::Queries)?;
    let num_heads = int(heads.num_heads)?;
    let num_kv_heads = int(heads.num_kv_heads)?;
    let head_dim = int(heads.head_dim)?;
    let causal = i32::from(mask == Mask::Causal);
    let scale = heads.scale() as f32;
    let arguments = arguments![
        bf16_of(&out)?,
        f32_of(&log_sums)?,
        bf16_of(qkv)?,
        tiles.address(),
        int(*tokens)?,
        num_heads,
        num_kv_heads,
        head_dim,
        causal,
        scale
    ];
    gpu.launch_counted(
        FORWARD.names[shape.width],
        [heads.num_heads, count, 1],
        (THREADS, 1),
        FORWARD.shared[shape.width],
        arguments,
        operations(cu_seqlens, mask, heads, 2.0),
    )?;
    Ok((out, log_sums))
}

/// As `ops::attention::attention_backward`.
pub fn attention_backward(
    d_out: &Tensor,
    qkv: &Tensor,
    out: &Tensor,
    log_sums: &Tensor,
    cu_seqlens: &[usize],
    heads: Heads,
    mask: Mask,
) -> Result<Tensor> {
    let shape = Shape::new(qkv, heads, mask)?;
    let Shape { gpu, tokens, .. } = &shape;
    let d_qkv = gpu.empty((*tokens, heads.width()), DType::BF16)?;
    let dots = gpu.empty((heads.num_heads, *tokens), DType::F32)?;
    let to = bf16_of(&d_qkv)?;
    let dots = f32_of(&dots)?;
    let d_out = bf16_of(d_out)?;
    let out = bf16_of(out)?;
    let qkv = bf16_of(qkv)?;
    let log_sums = f32_of(log_sums)?;
    let num_heads = int(heads.num_heads)?;
    let num_kv_heads = int(heads.num_kv_heads)?;
    let head_dim = int(heads.head_dim)?;
    let causal = i32::from(mask == Mask::Causal);
    let scale = heads.scale() as f32;
    let total = int(*tokens)?;
    let (tiles, count) = shape.tiles(cu_seqlens, Side::Queries)?;
    let arguments = arguments![
        to,
        dots,
        d_out,
        out,
        qkv,
        log_sums,
        tiles.address(),
        total,
        num_heads,
        num_kv_heads,
        head_dim,
        causal,
        scale
    ];
    gpu.launch_counted(
        BACKWARD_QUERIES.names[shape.width],
        [heads.num_heads, count, 1],
        (THREADS, 1),
        BACKWARD_QUERIES.shared[shape.width],
        arguments,
        operations(cu_seqlens, mask, heads, 3.0),
    )?;
    let (tiles, count) = shape.tiles(cu_seqlens, Side::Keys)?;
    let group = heads.num_heads / heads.num_kv_heads;
    let places = gpu.multiprocessors() * KEYS_BLOCKS[shape.width];
    let heads_of_block = heads_of_block(group, heads.num_kv_heads * count, places);
    let parts = group.div_ceil(heads_of_block);
    let width = 2 * heads.kv_width();
    let partial = match parts {
        1 => None,
        _ => Some(gpu.empty((parts, *tokens, width), DType::F32)?),
    };
    let partial = partial.as_ref().map(f32_of).transpose()?;
    let arguments = arguments![
        to,
        partial.unwrap_or(Address::NULL),
        d_out,
        qkv,
        log_sums,
        dots,
        tiles.address(),
        total,
        num_heads,
        num_kv_heads,
        head_dim,
        int(heads_of_block)?,
        causal,
        scale
    ];
    gpu.launch_counted(
        BACKWARD_KEYS.names[shape.width],
        [heads.num_kv_heads * parts, count, 1],
        (THREADS, 1),
        BACKWARD_KEYS.shared[shape.width],
        arguments,
        operations(cu_seqlens, mask, heads, 4.0),
    )?;
    if let Some(partial) = partial {
        let arguments = arguments![
            to,
            partial,
            total,
            int(width)?,
            int(parts)?,
            int(heads.query_width())?,
            int(heads.width())?
        ];
        gpu.launch(
            "sum_attention_parts",
            (*tokens, 1),
            (THREADS, 1),
            0,
            arguments,
        )?;
    }
    Ok(d_qkv)
}

/// Query heads that a block of the pass over keys adds up over: all of a group, or fewer where
/// `blocks` blocks for whole groups are too few for the `places` that a GPU has for them.
fn heads_of_block(group: usize, blocks: usize, places: usize) -> usize {
    (1..=group)
        .map(|parts| group.div_ceil(parts))
        .find(|&of_block| blocks * group.div_ceil(of_block) >= BLOCKS_PER_PLACE * places)
        .unwrap_or(1)
}

/// Floating-point operations of so many products over the pairs of queries and keys that see each
/// other.
fn operations(cu_seqlens: &[usize], mask: Mask, heads: Heads, products: f64) -> f64 {
    let pairs: f64 = cu_seqlens
        .windows(2)
        .map(|pair| {
            let len = (pair[1] - pair[0]) as f64;
            match mask {
                Mask::Causal => len * (len + 1.0) / 2.0,
                Mask::Full => len * len,
            }
        })
        .sum();
    2.0 * products * pairs * heads.query_width() as f64
}

/// Kind of a block's rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Queries,
    Keys,
}

impl Shape {
    /// The blocks on the GPU, and their number.
    fn tiles(&self, cu_seqlens: &[usize], side: Side) -> Result<(Table, usize)> {
        let tiles = tiles(cu_seqlens, self.mask, side);
        Ok((self.gpu.table(&tiles)?, tiles.len()))
    }
}

/// First token of its sequence, the sequence's length, the first row inside it, and nothing: of
/// every block of [`ROWS`] rows.
///
/// Blocks start in this order, and the last to start should be short: so by descending number of
/// rows of the other side.
fn tiles(cu_seqlens: &[usize], mask: Mask, side: Side) -> Vec<[i32; 4]> {
    let sequences = cu_seqlens
        .windows(2)
        .map(|pair| (pair[0], pair[1] - pair[0]));
    let mut tiles: Vec<[i32; 4]> = sequences
        .flat_map(|(start, len)| {
            (0..len)
                .step_by(ROWS)
                .map(move |first| [start as i32, len as i32, first as i32, 0])
        })
        .collect();
    tiles.sort_by_key(|&[_, len, first, _]| {
        std::cmp::Reverse(match (mask, side) {
            (Mask::Full, _) => len,
            (Mask::Causal, Side::Queries) => first,
            (Mask::Causal, Side::Keys) => len - first,
        })
    });
    tiles
}

/// As `ops::attention::attention_step`.
pub fn attention_step(queries: &Tensor, past: &[Past], heads: Heads) -> Result<Tensor> {
    width(heads)?;
    let gpu = Gpu::of(queries.device())?;
    let sequences = past.len();
    let out = gpu.empty((sequences, heads.query_width()), DType::BF16)?;
    let mut places: Vec<u64> = Vec::with_capacity(3 * sequences);
    for past in past {
        places.push(bf16_of(past.keys)?.0);
    }
    for past in past {
        places.push(bf16_of(past.values)?.0);
    }
    // One upload for all three: lengths follow the places, two in the room of one.
    places.extend(past.chunks(2).map(|pair| {
        pair.iter()
            .rev()
            .fold(0, |both, past| both << 32 | past.len as u64)
    }));
    let table = gpu.table(&places)?;
    let keys = table.address();
    let values = table.address().at::<u64>(sequences);
    let lengths = table.address().at::<u64>(2 * sequences);
    let num_heads = int(heads.num_heads)?;
    let num_kv_heads = int(heads.num_kv_heads)?;
    let head_dim = int(heads.head_dim)?;
    let arguments = arguments![
        bf16_of(&out)?,
        bf16_of(queries)?,
        keys,
        values,
        lengths,
        num_heads,
        num_kv_heads,
        head_dim,
        heads.scale() as f32
    ];
    let groups = (heads.num_heads / heads.num_kv_heads).div_ceil(STEP_ROWS);
    let pairs: usize = past.iter().map(|past| past.len).sum();
    gpu.launch_counted(
        "attention_step",
        [sequences, heads.num_kv_heads, groups],
        (THREADS, 1),
        STEP_SHARED,
        arguments,
        4.0 * (pairs * heads.query_width()) as f64,
    )?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_have_fewer_heads_each() {
        // 7B on an H200: 264 places, which should have 792 blocks. Packs of 16,384 tokens have
        // 4 x 256 of them, 8,100 tokens 4 x 127 and 1,620 tokens 4 x 26.
        assert_eq!(heads_of_block(7, 1024, 264), 7);
        assert_eq!(heads_of_block(7, 508, 264), 4);
        assert_eq!(heads_of_block(7, 104, 264), 1);
        assert_eq!(heads_of_block(7, 264, 264), 3);
        assert_eq!(heads_of_block(1, 1, 264), 1);
        // No part is empty.
        for group in 1..20 {
            for blocks in 1..200 {
                let of_block = heads_of_block(group, blocks, 40);
                let parts = group.div_ceil(of_block);
                assert!((parts - 1) * of_block < group, "{group} {blocks}");
            }
        }
    }

    #[test]
    fn blocks_cover_every_sequence_and_begin_with_the_longest_work() {
        let boundaries = [0, 130, 130, 194];
        let causal = tiles(&boundaries, Mask::Causal, Side::Queries);
        assert_eq!(
            causal,
            [
                [0, 130, 128, 0],
                [0, 130, 64, 0],
                [0, 130, 0, 0],
                [130, 64, 0, 0]
            ]
        );
        assert_eq!(
            tiles(&boundaries, Mask::Causal, Side::Keys),
            [
                [0, 130, 0, 0],
                [0, 130, 64, 0],
                [130, 64, 0, 0],
                [0, 130, 128, 0]
            ]
        );
        assert_eq!(
            tiles(&boundaries, Mask::Full, Side::Keys),
            [
                [0, 130, 0, 0],
                [0, 130, 64, 0],
                [0, 130, 128, 0],
                [130, 64, 0, 0]
            ]
        );
    }
}
