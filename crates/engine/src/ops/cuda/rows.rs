//! Launches of what moves and fills rows.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cuda::address::address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::address::rows_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::STRETCH;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use maqam_base::seed::Key;

/// As `ops::rows::gather`.
pub fn gather(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let gpu = Gpu::of(table.device())?;
    let (_, dim) = table.dims2()?;
    let y = gpu.empty((ids.len(), dim), DType::BF16)?;
    let on_gpu = gpu.table(ids)?;
    gpu.launch(
        "gather",
        (ids.len(), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, bf16_of(table)?, on_gpu.address(), int(dim)?],
    )?;
    Ok(y)
}

/// As `ops::rows::scatter_add`: the rows of one id are summed in their order, by one block.
pub fn scatter_add(d_table: &Tensor, ids: &[u32], d_rows: &Tensor) -> Result<()> {
    let gpu = Gpu::of(d_table.device())?;
    let (_, dim) = d_table.dims2()?;
    let groups = Groups::of(ids);
    let distinct = gpu.table(&groups.distinct)?;
    let starts = gpu.table(&groups.starts)?;
    let rows = gpu.table(&groups.rows)?;
    let arguments = arguments![
        f32_of(d_table)?,
        distinct.address(),
        starts.address(),
        rows.address(),
        bf16_of(d_rows)?,
        int(dim)?
    ];
    gpu.launch(
        "scatter_add",
        (groups.distinct.len(), 1),
        (BLOCK, 1),
        0,
        arguments,
    )
}

/// Rows by the id they have.
struct Groups {
    distinct: Vec<u32>,
    /// First place of each id's rows in `rows`, and their number at the end.
    starts: Vec<u32>,
    /// Ascending inside each group.
    rows: Vec<u32>,
}

impl Groups {
    fn of(ids: &[u32]) -> Self {
        let mut rows: Vec<u32> = (0..ids.len() as u32).collect();
        rows.sort_by_key(|&row| ids[row as usize]);
        let is_first = |i: usize| i == 0 || ids[rows[i] as usize] != ids[rows[i - 1] as usize];
        let mut starts: Vec<u32> = (0..rows.len())
            .filter(|&i| is_first(i))
            .map(|i| i as u32)
            .collect();
        let distinct = starts
            .iter()
            .map(|&start| ids[rows[start as usize] as usize])
            .collect();
        starts.push(rows.len() as u32);
        Self {
            distinct,
            starts,
            rows,
        }
    }
}

/// As `ops::rows::overwrite`.
pub fn overwrite(target: &Tensor, ids: &[u32], source: &Tensor) -> Result<()> {
    let gpu = Gpu::of(target.device())?;
    let (_, dim) = target.dims2()?;
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        candle_core::bail!("a row that is written twice at once would hold either");
    }
    let on_gpu = gpu.table(ids)?;
    gpu.launch(
        "overwrite",
        (ids.len(), 1),
        (BLOCK, 1),
        0,
        arguments![
            bf16_of(target)?,
            on_gpu.address(),
            bf16_of(source)?,
            int(dim)?
        ],
    )
}

/// As `ops::rows::pool_pairs`; `firsts` are the first rows of the pairs.
pub fn pool_pairs(x: &Tensor, firsts: &[usize]) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let (_, dim) = x.dims2()?;
    let y = gpu.empty((firsts.len(), dim), DType::BF16)?;
    let on_gpu = gpu.table(&narrow(firsts))?;
    gpu.launch(
        "pool_pairs",
        (firsts.len(), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, on_gpu.address(), bf16_of(x)?, int(dim)?],
    )?;
    Ok(y)
}

/// As `ops::rows::pool_pairs_backward`, for `rows` rows.
pub fn pool_pairs_backward(dy: &Tensor, firsts: &[usize], rows: usize) -> Result<Tensor> {
    let gpu = Gpu::of(dy.device())?;
    let (_, dim) = dy.dims2()?;
    let dx = gpu.empty((rows, dim), DType::BF16)?;
    gpu.clear(bf16_of(&dx)?, rows * dim * size_of::<bf16>())?;
    let on_gpu = gpu.table(&narrow(firsts))?;
    gpu.launch(
        "pool_pairs_backward",
        (firsts.len(), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&dx)?, on_gpu.address(), bf16_of(dy)?, int(dim)?],
    )?;
    Ok(dx)
}

fn narrow(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&row| row as u32).collect()
}

/// As `ops::rows::add_to`.
pub fn add_to(a: &Tensor, b: &Tensor) -> Result<()> {
    let gpu = Gpu::of(a.device())?;
    let count = a.elem_count();
    gpu.launch(
        "add_to",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(a)?, bf16_of(b)?, count as u64],
    )
}

/// As `ops::rows::copy_columns`.
pub fn copy_columns(
    target: &Tensor,
    first_row: usize,
    source: &Tensor,
    rows: std::ops::Range<usize>,
    first_column: usize,
) -> Result<()> {
    let gpu = Gpu::of(target.device())?;
    let (_, width) = target.dims2()?;
    let (to, stride) = rows_of(target, DType::BF16)?;
    let (from, source_stride) = rows_of(source, DType::BF16)?;
    let to = to.at::<bf16>(first_row * stride);
    let from = from.at::<bf16>(rows.start * source_stride + first_column);
    gpu.launch(
        "copy_columns",
        (rows.len(), 1),
        (BLOCK, 1),
        0,
        arguments![to, stride as u64, from, source_stride as u64, int(width)?],
    )
}

/// As `ops::device::fill`.
pub fn fill(tensor: &Tensor, value: f32) -> Result<()> {
    let gpu = Gpu::of(tensor.device())?;
    let count = tensor.elem_count();
    let kind = tensor.dtype();
    let at = address(tensor, kind)?;
    if value.to_bits() == 0 {
        return gpu.clear(at, count * kind.size_in_bytes());
    }
    let kernel = match kind {
        DType::F32 => "fill_f32",
        DType::BF16 => "fill_bf16",
        _ => candle_core::bail!("tensors of {kind:?} are filled with nothing but zeros"),
    };
    gpu.launch(
        kernel,
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![at, value, count as u64],
    )
}

/// As `ops::device::random_normal`.
pub fn random_normal(shape: Shape, key: Key, deviation: f32, device: &Device) -> Result<Tensor> {
    let gpu = Gpu::of(device)?;
    let count = shape.elem_count();
    let y = gpu.empty(shape, DType::BF16)?;
    gpu.launch(
        "random_normal",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, count as u64, key.state(), deviation],
    )?;
    Ok(y)
}

/// The transpose of a matrix.
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    /// Rows and columns that a block turns.
    const TILE: usize = 32;
    let gpu = Gpu::of(x.device())?;
    let (rows, cols) = x.dims2()?;
    let y = gpu.empty((cols, rows), DType::BF16)?;
    let arguments = arguments![bf16_of(&y)?, bf16_of(x)?, int(rows)?, int(cols)?];
    gpu.launch(
        "transpose",
        (cols.div_ceil(TILE), rows.div_ceil(TILE)),
        (TILE as u32, 8),
        0,
        arguments,
    )?;
    Ok(y)
}

/// The same numbers in bf16.
pub fn to_bf16(x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x.device())?;
    let count = x.elem_count();
    let y = gpu.empty(x.shape(), DType::BF16)?;
    gpu.launch(
        "to_bf16",
        (count.div_ceil(STRETCH), 1),
        (BLOCK, 1),
        0,
        arguments![bf16_of(&y)?, f32_of(x)?, count as u64],
    )?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_id_in_their_order() {
        let groups = Groups::of(&[7, 3, 7, 0, 3, 7]);
        assert_eq!(
            (groups.distinct, groups.starts, groups.rows),
            (vec![0, 3, 7], vec![0, 1, 3, 6], vec![3, 1, 4, 0, 2, 5])
        );
        let none = Groups::of(&[]);
        assert_eq!((none.distinct.len(), none.starts), (0, vec![0]));
    }
}
