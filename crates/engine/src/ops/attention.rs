//! Attention inside each sequence of a packed batch, grouped heads, forward and backward; and one
//! step of decoding over caches.
//!
//! Queries, keys and values lie side by side in one tensor
//! `[tokens, (num_heads + 2 num_kv_heads) head_dim]`, as one fused projection leaves them. Scores
//! exist for one block of queries at a time; the backward computes them again from the saved
//! log-sum-exps (Dao et al. 2022, algorithm 4). Every row of scores holds at least one key, so no
//! row is fully masked.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::max_of;
use crate::ops::cpu::slice;
use crate::ops::cpu::sum_over;
use crate::ops::cpu::tensor;
use crate::ops::cpu::vectorised;
use crate::ops::cpu::with_real;
use crate::ops::gemm::Into;
use crate::ops::gemm::Matrix;
use crate::ops::gemm::Threads;
use crate::ops::gemm::product;
use crate::ops::gemm::product_at;

/// Division of a fused projection's width into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
}

impl Heads {
    /// Width of the queries.
    pub fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of the keys, and of the values.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Width of queries, keys and values side by side.
    pub fn width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }

    /// Heads that are rotated: queries and keys, which come first in the stacked projection.
    pub fn num_rotated(&self) -> usize {
        self.num_heads + self.num_kv_heads
    }

    fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Factor of the scores.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// Which keys of its own sequence a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Itself and those before it.
    Causal,
    /// All.
    Full,
}

impl Mask {
    /// Number of keys that the queries before `end` see, in a sequence of `len`.
    fn num_keys(self, end: usize, len: usize) -> usize {
        match self {
            Self::Causal => end,
            Self::Full => len,
        }
    }
}

/// Number of queries whose scores exist at a time.
const BLOCK: usize = 64;

/// A place that several tasks write to, each its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: every task writes only the rows and columns of its own sequence and head, which no other
// task touches.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `offset` must lie inside the buffer.
    unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Softmax(Q K^T / sqrt(head_dim)) V inside every sequence.
///
/// # Shapes
/// `qkv`: `[tokens, heads.width()]`; `cu_seqlens`: starts of the sequences, and the number of
/// tokens at the end -> `[tokens, heads.query_width()]` and the log-sum-exp of every row of scores,
/// `[num_heads, tokens]`
pub fn attention(
    qkv: &Tensor,
    cu_seqlens: &[usize],
    heads: Heads,
    mask: Mask,
) -> Result<(Tensor, Tensor)> {
    let (tokens, width) = qkv.dims2()?;
    check(tokens, width, cu_seqlens, heads)?;

    on_cuda!(
        qkv.device(),
        crate::ops::cuda::attention::attention(qkv, cu_seqlens, heads, mask)
    );

    let dim = heads.head_dim;
    let out_width = heads.query_width();
    with_real!(qkv, T => {
        let values: &[T] = &slice::<T>(qkv)?;
        let mut out: Vec<T> = Vec::with_capacity(tokens * out_width);
        let mut log_sums = vec![T::of(0.0); heads.num_heads * tokens];
        let out_at = Shared(out.as_mut_ptr());
        let log_sums_at = Shared(log_sums.as_mut_ptr());
        let tasks: Vec<(usize, usize, usize)> = sequences(cu_seqlens)
            .flat_map(|(start, len)| (0..heads.num_heads).flat_map(move |head| (0..len).step_by(BLOCK).map(move |first| (start, head, first))))
            .collect();
        let ends = ends(cu_seqlens, tokens);
        tasks.par_iter().for_each_init(Vec::new, |scores, &(start, head, first)| {
            let len = ends[start] - start;
            let block = BLOCK.min(len - first);
            let keys = mask.num_keys(first + block, len);
            let q = Matrix::strided(&values[(start + first) * width + head * dim..], block, dim, width);
            let (k, v) = keys_and_values(values, start, keys, head / heads.group(), heads);
            scores.clear();
            scores.resize(block * keys, T::of(0.0));
            product(scores, keys, q, k.t(), heads.scale(), Into::Fresh, Threads::One);
            vectorised(#[inline(always)] || {
                for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let visible = mask.num_keys(first + i + 1, len);
                    let log_sum = softmax(&mut row[..visible]);
                    row[visible..].fill(T::of(0.0));
                    // SAFETY: inside `[num_heads, tokens]`; this query of this head is this task's
                    // alone.
                    unsafe { *log_sums_at.at(head * tokens + start + first + i) = log_sum };
                }
            });
            // SAFETY: the block's rows and the head's columns of the output are this task's alone.
            unsafe { product_at(out_at.at((start + first) * out_width + head * dim), out_width, Matrix::new(scores, block, keys), v, 1.0, Into::Fresh, Threads::One) };
        });
        // SAFETY: the sequences cover all tokens, and the tasks every block of queries of every
        // head; each product wrote its part.
        unsafe { out.set_len(tokens * out_width) };
        Ok((tensor(out, (tokens, out_width))?, tensor(log_sums, (heads.num_heads, tokens))?))
    })
}

/// Gradient of [`attention`]'s input.
///
/// With P the probabilities and D the row sums of dO * O: dV = P^T dO, dS = P * (dO V^T - D), dQ =
/// dS K, dK = dS^T Q.
///
/// # Shapes
/// `d_out`, `out`: `[tokens, heads.query_width()]`; `log_sums`: `[num_heads, tokens]` ->
/// `[tokens, heads.width()]`
pub fn attention_backward(
    d_out: &Tensor,
    qkv: &Tensor,
    out: &Tensor,
    log_sums: &Tensor,
    cu_seqlens: &[usize],
    heads: Heads,
    mask: Mask,
) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    check(tokens, width, cu_seqlens, heads)?;
    let dim = heads.head_dim;
    let out_width = heads.query_width();
    expect_shape("the output of attention", out, &[tokens, out_width])?;
    expect_shape("the gradient of attention", d_out, &[tokens, out_width])?;
    expect_shape(
        "the log-sum-exps of attention",
        log_sums,
        &[heads.num_heads, tokens],
    )?;

    on_cuda!(
        qkv.device(),
        crate::ops::cuda::attention::attention_backward(
            d_out, qkv, out, log_sums, cu_seqlens, heads, mask
        )
    );

    with_real!(qkv, T => {
        let values: &[T] = &slice::<T>(qkv)?;
        let d_outs: &[T] = &slice::<T>(d_out)?;
        let outs: &[T] = &slice::<T>(out)?;
        let log_sums: &[T] = &slice::<T>(log_sums)?;
        let mut d_qkv = vec![T::of(0.0); tokens * width];
        let d_qkv_at = Shared(d_qkv.as_mut_ptr());
        let tasks: Vec<(usize, usize, usize)> =
            sequences(cu_seqlens).flat_map(|(start, len)| (0..heads.num_kv_heads).map(move |kv_head| (start, len, kv_head))).collect();
        tasks.par_iter().for_each_init(|| (Vec::new(), Vec::new()), |(p, d_p), &(start, len, kv_head)| {
            let k_column = heads.query_width() + kv_head * dim;
            let v_column = k_column + heads.kv_width();
            for head in kv_head * heads.group()..(kv_head + 1) * heads.group() {
                for first in (0..len).step_by(BLOCK) {
                    let block = BLOCK.min(len - first);
                    let keys = mask.num_keys(first + block, len);
                    let row = start + first;
                    let q = Matrix::strided(&values[row * width + head * dim..], block, dim, width);
                    let (k, v) = keys_and_values(values, start, keys, kv_head, heads);
                    let d_o = Matrix::strided(&d_outs[row * out_width + head * dim..], block, dim, out_width);
                    p.clear();
                    p.resize(block * keys, T::of(0.0));
                    d_p.clear();
                    d_p.resize(block * keys, T::of(0.0));
                    product(p, keys, q, k.t(), heads.scale(), Into::Fresh, Threads::One);
                    product(d_p, keys, d_o, v.t(), 1.0, Into::Fresh, Threads::One);
                    vectorised(#[inline(always)] || {
                        for (i, (p, d_p)) in p.chunks_exact_mut(keys).zip(d_p.chunks_exact_mut(keys)).enumerate() {
                            let at = (row + i) * out_width + head * dim;
                            let o = &outs[at..][..dim];
                            let d_o = &d_outs[at..][..dim];
                            let d = sum_over(dim, |j| o[j] * d_o[j]);
                            let log_sum = log_sums[head * tokens + row + i];
                            let visible = mask.num_keys(first + i + 1, len);
                            for (p, d_p) in p[..visible].iter_mut().zip(&mut d_p[..visible]) {
                                *p = (*p - log_sum).exp_lanes();
                                *d_p = *p * (*d_p - d);
                            }
                            p[visible..].fill(T::of(0.0));
                            d_p[visible..].fill(T::of(0.0));
                        }
                    });
                    let p = Matrix::new(p, block, keys);
                    let d_s = Matrix::new(d_p, block, keys);
                    // SAFETY: this sequence's rows, and the columns of this key head and of its
                    // query heads, are this task's alone.
                    unsafe {
                        product_at(d_qkv_at.at(row * width + head * dim), width, d_s, k, heads.scale(), Into::Fresh, Threads::One);
                        product_at(d_qkv_at.at(start * width + k_column), width, d_s.t(), q, heads.scale(), Into::Accumulate, Threads::One);
                        product_at(d_qkv_at.at(start * width + v_column), width, p.t(), d_o, 1.0, Into::Accumulate, Threads::One);
                    }
                }
            }
        });
        tensor(d_qkv, (tokens, width))
    })
}

/// Keys and values that a sequence has left behind, `[capacity, kv_width]` each, of which the first
/// `len` rows are filled.
pub struct Past<'a> {
    /// Keys, after rotation.
    pub keys: &'a Tensor,
    /// Values.
    pub values: &'a Tensor,
    /// Filled rows, the newest token's included.
    pub len: usize,
}

/// Attention of one new token of each sequence over all that came before it.
///
/// # Shapes
/// `queries`: `[sequences, heads.query_width()]` -> the same
pub fn attention_step(queries: &Tensor, past: &[Past], heads: Heads) -> Result<Tensor> {
    let (sequences, width) = queries.dims2()?;
    check_heads(heads)?;
    let dim = heads.head_dim;
    let kv_width = heads.kv_width();
    let group = heads.group();
    expect_shape(
        "the queries of a step",
        queries,
        &[past.len(), heads.query_width()],
    )?;

    for past in past {
        let (capacity, found) = past.keys.dims2()?;
        expect_shape("the values of a cache", past.values, &[capacity, kv_width])?;
        if past.len == 0 || past.len > capacity || found != kv_width {
            candle_core::bail!(
                "a cache of {capacity} rows of {found} cannot hold {} keys of {kv_width}",
                past.len
            );
        }
    }

    on_cuda!(
        queries.device(),
        crate::ops::cuda::attention::attention_step(queries, past, heads)
    );

    with_real!(queries, T => {
        let queries: &[T] = &slice::<T>(queries)?;
        let borrowed: Vec<_> = past.iter().map(|p| Ok((slice::<T>(p.keys)?, slice::<T>(p.values)?, p.len))).collect::<Result<_>>()?;
        let past: Vec<(&[T], &[T], usize)> = borrowed.iter().map(|(k, v, len)| (&**k, &**v, *len)).collect();
        let mut out = vec![T::of(0.0); sequences * width];
        out.par_chunks_mut(group * dim).enumerate().for_each_init(Vec::new, |scores, (task, out)| {
            let sequence = task / heads.num_kv_heads;
            let kv_head = task % heads.num_kv_heads;
            let (keys, values, len) = past[sequence];
            let q = Matrix::new(&queries[sequence * width + kv_head * group * dim..], group, dim);
            let k = Matrix::strided(&keys[kv_head * dim..], len, dim, kv_width);
            let v = Matrix::strided(&values[kv_head * dim..], len, dim, kv_width);
            scores.clear();
            scores.resize(group * len, T::of(0.0));
            product(scores, len, q, k.t(), heads.scale(), Into::Fresh, Threads::One);
            vectorised(#[inline(always)] || {
                for row in scores.chunks_exact_mut(len) {
                    softmax(row);
                }
            });
            product(out, dim, Matrix::new(scores, group, len), v, 1.0, Into::Fresh, Threads::One);
        });
        tensor(out, (sequences, width))
    })
}

/// Softmax of a row in place; returns its log-sum-exp.
#[inline(always)]
fn softmax<T: Real>(row: &mut [T]) -> T {
    let max = max_of(row);
    for score in row.iter_mut() {
        *score = (*score - max).exp_lanes();
    }
    let sum = sum_over(row.len(), |i| row[i]);
    let inverse = T::of(1.0) / sum;
    for score in row.iter_mut() {
        *score *= inverse;
    }
    max + sum.ln()
}

fn keys_and_values<T: Real>(
    values: &[T],
    start: usize,
    keys: usize,
    kv_head: usize,
    heads: Heads,
) -> (Matrix<'_, T>, Matrix<'_, T>) {
    let width = heads.width();
    let column = start * width + heads.query_width() + kv_head * heads.head_dim;
    let k = Matrix::strided(&values[column..], keys, heads.head_dim, width);
    let v = Matrix::strided(
        &values[column + heads.kv_width()..],
        keys,
        heads.head_dim,
        width,
    );
    (k, v)
}

fn sequences(cu_seqlens: &[usize]) -> impl Iterator<Item = (usize, usize)> + '_ {
    cu_seqlens
        .windows(2)
        .map(|pair| (pair[0], pair[1] - pair[0]))
        .filter(|&(_, len)| len > 0)
}

/// The end of the sequence that starts at each token; 0 where none starts.
fn ends(cu_seqlens: &[usize], tokens: usize) -> Vec<usize> {
    let mut ends = vec![0; tokens];
    for (start, len) in sequences(cu_seqlens) {
        ends[start] = start + len;
    }
    ends
}

fn check_heads(heads: Heads) -> Result<()> {
    if heads.num_kv_heads == 0
        || heads.head_dim == 0
        || !heads.num_heads.is_multiple_of(heads.num_kv_heads)
    {
        candle_core::bail!("query heads share key heads evenly, found {heads:?}");
    }
    Ok(())
}

fn check(tokens: usize, width: usize, cu_seqlens: &[usize], heads: Heads) -> Result<()> {
    check_heads(heads)?;
    if width != heads.width() {
        candle_core::bail!(
            "attention expects a width of {}, found {width}",
            heads.width()
        );
    }
    if cu_seqlens.first() != Some(&0)
        || cu_seqlens.last() != Some(&tokens)
        || cu_seqlens.windows(2).any(|pair| pair[0] > pair[1])
    {
        candle_core::bail!("the sequence boundaries {cu_seqlens:?} do not cover {tokens} tokens");
    }
    Ok(())
}
