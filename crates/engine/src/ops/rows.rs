//! Moving rows: looking embeddings up, putting audio among them, picking target rows, pooling
//! frames in pairs.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::for_stretches;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;

/// The rows of `table` named by `ids`.
///
/// # Shapes
/// `table`: `[rows, dim]` -> `[ids, dim]`
pub fn gather(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (_, dim) = table.dims2()?;
    check(table, ids)?;
    on_cuda!(table.device(), crate::ops::cuda::rows::gather(table, ids));
    with_real!(table, T => {
        let values: &[T] = &slice::<T>(table)?;
        let out = new_rows(ids.len(), dim, |row, out: &mut [T]| out.copy_from_slice(&values[ids[row] as usize * dim..][..dim]));
        tensor(out, (ids.len(), dim))
    })
}

/// Adds each row of `d_rows` to the row of `d_table` named by its id, in order: the backward of
/// [`gather`].
///
/// # Shapes
/// `d_rows`: `[ids, dim]`, `d_table`: `[rows, dim]`
pub fn scatter_add(d_table: &Tensor, ids: &[u32], d_rows: &Tensor) -> Result<()> {
    let (_, dim) = d_table.dims2()?;
    check(d_table, ids)?;
    expect_shape("the gradient of gathered rows", d_rows, &[ids.len(), dim])?;
    on_cuda!(
        d_table.device(),
        crate::ops::cuda::rows::scatter_add(d_table, ids, d_rows)
    );
    with_real!(d_rows, T => {
        let d_rows: &[T] = &slice::<T>(d_rows)?;
        write::<T>(d_table, |table| {
            for (row, &id) in d_rows.chunks_exact(dim).zip(ids) {
                for (sum, &d) in table[id as usize * dim..][..dim].iter_mut().zip(row) {
                    *sum += d;
                }
            }
        })
    })
}

/// Writes the rows of `source` over the rows of `target` named by `ids`, all different, in place.
///
/// # Shapes
/// `target`: `[rows, dim]`, `source`: `[ids, dim]`
pub fn overwrite(target: &Tensor, ids: &[u32], source: &Tensor) -> Result<()> {
    let (_, dim) = target.dims2()?;
    check(target, ids)?;
    expect_shape("what is written over rows", source, &[ids.len(), dim])?;
    on_cuda!(
        target.device(),
        crate::ops::cuda::rows::overwrite(target, ids, source)
    );
    with_real!(source, T => {
        let source: &[T] = &slice::<T>(source)?;
        write::<T>(target, |target| {
            for (row, &id) in source.chunks_exact(dim).zip(ids) {
                target[id as usize * dim..][..dim].copy_from_slice(row);
            }
        })
    })
}

/// Copies some rows of `source`, of its columns from `first_column` on, over the rows of `target`
/// from `first_row` on, which are as wide as what is copied.
///
/// # Shapes
/// `target`: `[capacity, width]`, `source`: `[rows, at least first_column + width]`
pub fn copy_columns(
    target: &Tensor,
    first_row: usize,
    source: &Tensor,
    rows: Range<usize>,
    first_column: usize,
) -> Result<()> {
    let (capacity, width) = target.dims2()?;
    let (num_rows, source_width) = source.dims2()?;

    if rows.start > rows.end
        || rows.end > num_rows
        || first_row + rows.len() > capacity
        || first_column + width > source_width
    {
        candle_core::bail!(
            "cannot copy rows {rows:?} of {:?} from column {first_column} to row {first_row} of {:?}",
            source.dims(),
            target.dims()
        );
    }

    on_cuda!(
        target.device(),
        crate::ops::cuda::rows::copy_columns(target, first_row, source, rows, first_column)
    );

    with_real!(source, T => {
        let source = slice::<T>(source)?;
        write::<T>(target, |target| {
            for (to, from) in target[first_row * width..].chunks_exact_mut(width.max(1)).zip(rows) {
                to.copy_from_slice(&source[from * source_width + first_column..][..width]);
            }
        })
    })
}

/// Some columns of every row, as a tensor of their own.
///
/// # Shapes
/// `x`: `[rows, width]` -> `[rows, columns]`
pub fn columns(x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let out = zeros((rows, columns.len()), x)?;
    copy_columns(&out, 0, x, 0..rows, columns.start)?;
    Ok(out)
}

/// A tensor of zeros with the rows of `source` at `ids`: the backward of picking rows that are all
/// different.
///
/// # Shapes
/// `source`: `[ids, dim]` -> `[rows, dim]`
pub fn spread(source: &Tensor, ids: &[u32], rows: usize) -> Result<Tensor> {
    let (_, dim) = source.dims2()?;
    let out = zeros((rows, dim), source)?;
    overwrite(&out, ids, source)?;
    Ok(out)
}

/// Means of neighbouring pairs of rows inside each segment; an odd last row is dropped.
///
/// # Shapes
/// `x`: `[rows, dim]`, `segments`: rows of each segment -> `[sum of segments / 2, dim]`
pub fn pool_pairs(x: &Tensor, segments: &[usize]) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if segments.iter().sum::<usize>() != rows {
        candle_core::bail!("segments {segments:?} do not cover {rows} rows");
    }
    let firsts = firsts_of_pairs(segments);
    on_cuda!(x.device(), crate::ops::cuda::rows::pool_pairs(x, &firsts));
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let out = new_rows(
            firsts.len(),
            dim,
            #[inline(always)]
            |row, out: &mut [T]| {
                let (a, b) = xs[firsts[row] * dim..][..2 * dim].split_at(dim);
                for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *out = (a + b) * T::of(0.5);
                }
            },
        );
        tensor(out, (firsts.len(), dim))
    })
}

/// Gradient of [`pool_pairs`]'s input, `[rows, dim]`.
pub fn pool_pairs_backward(dy: &Tensor, segments: &[usize]) -> Result<Tensor> {
    let (_, dim) = dy.dims2()?;
    let rows: usize = segments.iter().sum();
    let firsts = firsts_of_pairs(segments);
    expect_shape("the gradient of pooled rows", dy, &[firsts.len(), dim])?;
    on_cuda!(
        dy.device(),
        crate::ops::cuda::rows::pool_pairs_backward(dy, &firsts, rows)
    );
    with_real!(dy, T => {
        let dys = slice::<T>(dy)?;
        let mut dx = vec![T::of(0.0); rows * dim];
        for (dy, &first) in dys.chunks_exact(dim).zip(&firsts) {
            let (a, b) = dx[first * dim..][..2 * dim].split_at_mut(dim);
            for i in 0..dim {
                a[i] = dy[i] * T::of(0.5);
                b[i] = a[i];
            }
        }
        tensor(dx, (rows, dim))
    })
}

/// Rows of each segment in stacks of `stack`, side by side in one row; the last stack of a segment
/// is filled up with zeros.
///
/// # Shapes
/// `x`: `[rows, dim]`, `segments`: rows of each segment ->
/// `[sum of ceil(segment / stack), stack * dim]`
pub fn stack_rows(x: &Tensor, segments: &[usize], stack: usize) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if segments.iter().sum::<usize>() != rows || stack == 0 {
        candle_core::bail!("segments {segments:?} in stacks of {stack} do not cover {rows} rows");
    }
    let stacks = num_stacks(segments, stack);
    let width = stack * dim;
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let mut out = vec![T::of(0.0); stacks * width];
        for (place, stretch) in stretches(segments, stack) {
            let values = stretch.len() * dim;
            out[place * width..][..values].copy_from_slice(&xs[stretch.start * dim..][..values]);
        }
        tensor(out, (stacks, width))
    })
}

/// Gradient of [`stack_rows`]'s input, `[rows, dim]`: the stacks taken apart, without what filled
/// them up.
///
/// # Shapes
/// `dy`: `[sum of ceil(segment / stack), stack * dim]` -> `[rows, dim]`
pub fn stack_rows_backward(dy: &Tensor, segments: &[usize], stack: usize) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    if stack == 0 || !width.is_multiple_of(stack) {
        candle_core::bail!("rows of {width} numbers are no stacks of {stack}");
    }
    let stacks = num_stacks(segments, stack);
    expect_shape("the gradient of stacked rows", dy, &[stacks, width])?;
    let dim = width / stack;
    let rows: usize = segments.iter().sum();
    with_real!(dy, T => {
        let dys: &[T] = &slice::<T>(dy)?;
        let mut dx = vec![T::of(0.0); rows * dim];
        for (place, stretch) in stretches(segments, stack) {
            let values = stretch.len() * dim;
            dx[stretch.start * dim..][..values].copy_from_slice(&dys[place * width..][..values]);
        }
        tensor(dx, (rows, dim))
    })
}

fn num_stacks(segments: &[usize], stack: usize) -> usize {
    segments.iter().map(|len| len.div_ceil(stack)).sum()
}

/// The rows of each segment, and the first of the stacks that they become.
fn stretches(segments: &[usize], stack: usize) -> Vec<(usize, Range<usize>)> {
    let mut row = 0;
    let mut place = 0;
    let mut found = Vec::with_capacity(segments.len());
    for &len in segments {
        found.push((place, row..row + len));
        row += len;
        place += len.div_ceil(stack);
    }
    found
}

/// A matrix of zeros where `like` lies, in its type.
pub(super) fn zeros(shape: (usize, usize), like: &Tensor) -> Result<Tensor> {
    on_cuda!(
        like.device(),
        crate::ops::cuda::zeros(shape, like.dtype(), like.device())
    );
    Tensor::zeros(shape, like.dtype(), like.device())
}

fn check(table: &Tensor, ids: &[u32]) -> Result<()> {
    let (rows, _) = table.dims2()?;
    match ids.iter().find(|&&id| id as usize >= rows) {
        Some(id) => candle_core::bail!("row {id} is outside a table of {rows}"),
        None => Ok(()),
    }
}

fn firsts_of_pairs(segments: &[usize]) -> Vec<usize> {
    let mut start = 0;
    let mut firsts = Vec::new();
    for &len in segments {
        firsts.extend((0..len / 2).map(|pair| start + 2 * pair));
        start += len;
    }
    firsts
}

/// `a += b`, in place.
pub fn add_to(a: &Tensor, b: &Tensor) -> Result<()> {
    expect_shape("what is added", b, a.dims())?;
    on_cuda!(a.device(), crate::ops::cuda::rows::add_to(a, b));
    with_real!(a, T => {
        let b: &[T] = &slice::<T>(b)?;
        write::<T>(a, |a| {
            for_stretches(
                a,
                #[inline(always)]
                |start, a| {
                    for (a, &b) in a.iter_mut().zip(&b[start..]) {
                        *a += b;
                    }
                },
            );
        })
    })
}
