//! Attention inside packed sequences, forward and backward, and one step of decoding, against the
//! crate's own in `f64`.

use candle_core::Tensor;
use half::bf16;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::Past;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::attention::attention_step;

use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::assert_near;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::cuda_kernels::harness::launch_once;
use crate::support::flat;
use crate::support::numbers;

/// Queries, or keys, of a block.
const ROWS: usize = 64;
const THREADS: usize = 128;
/// Query heads of a block in a generation step, and its dynamic shared memory in bytes.
const STEP_ROWS: usize = 16;
const STEP_SHARED: usize = 98_304;

/// Largest error, relative to the largest expected number. Probabilities and dS are rounded to bf16
/// for the products with values, keys and queries, and so is the result: each rounding is 2^-9 of
/// its number, errors of the terms of a sum are independent, and a large result that is one term
/// has two roundings, three with dO * O from a rounded output. Found in cases like these: up to
/// 5.2e-3.
const NEAR: f64 = 1.0 / 128.0;
/// Root mean square of the errors, relative to that of the expected numbers: what a few large
/// numbers do not hide. A uniform rounding error of at most 2^-9 has a root mean square of 2^-9 /
/// sqrt(3); three of them add up to 2^-9.
const NEAR_IN_ALL: f64 = 1.0 / 256.0;
/// Absolute error of a log-sum-exp: f32 throughout.
const NEAR_LOG_SUM: f64 = 1e-4;

fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Heads {
    Heads {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

/// A pack, what the kernels are given of it, and what they make.
struct Case {
    lengths: Vec<usize>,
    heads: Heads,
    mask: Mask,
    qkv: Buffer<bf16>,
    d_out: Buffer<bf16>,
    out: Buffer<bf16>,
    log_sums: Buffer<f32>,
    dots: Buffer<f32>,
    d_qkv: Buffer<bf16>,
}

impl Case {
    /// Queries, keys and values of up to `size`: the larger, the farther are probabilities from
    /// even.
    fn new(lengths: &[usize], heads: Heads, mask: Mask, size: f64) -> Self {
        let tokens: usize = lengths.iter().sum();
        let qkv: Vec<f64> = numbers("qkv", tokens * heads.width())
            .into_iter()
            .map(|value| value * size)
            .collect();
        Self {
            lengths: lengths.to_vec(),
            heads,
            mask,
            qkv: Buffer::input_from(&qkv),
            d_out: Buffer::input_from(&numbers("d_out", tokens * heads.query_width())),
            out: Buffer::output(tokens * heads.query_width()),
            log_sums: Buffer::output(heads.num_heads * tokens),
            dots: Buffer::output(heads.num_heads * tokens),
            d_qkv: Buffer::output(tokens * heads.width()),
        }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn cu_seqlens(&self) -> Vec<usize> {
        let ends = self.lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// First token of the sequence, its length, first row inside it: of every block, the last
    /// first.
    fn tiles(&self) -> Vec<[i32; 4]> {
        let sequences = self.cu_seqlens().into_iter().zip(&self.lengths);
        let mut tiles: Vec<_> = sequences
            .flat_map(|(start, &len)| {
                (0..len)
                    .step_by(ROWS)
                    .map(move |first| [start as i32, len as i32, first as i32, 0])
            })
            .collect();
        tiles.reverse();
        tiles
    }

    /// Runs all kernels, in both orders of threads or in one. A block of the pass over keys adds up
    /// over all query heads of a group.
    fn run(&self, is_in_both_orders: bool) {
        self.run_in_parts(
            is_in_both_orders,
            self.heads.num_heads / self.heads.num_kv_heads,
        );
    }

    /// The same with `heads_of_block` query heads in a block of the pass over keys.
    fn run_in_parts(&self, is_in_both_orders: bool, heads_of_block: usize) {
        let run = if is_in_both_orders {
            launch
        } else {
            launch_once
        };
        let Self {
            heads,
            qkv,
            d_out,
            out,
            log_sums,
            dots,
            d_qkv,
            ..
        } = self;
        let tiles = self.tiles();
        let dim = if heads.head_dim <= 64 { 64 } else { 128 };
        let count = tiles.len();
        let tiles = Buffer::input(&tiles);
        let sizes = [
            self.tokens(),
            heads.num_heads,
            heads.num_kv_heads,
            heads.head_dim,
        ]
        .map(|size| size as i32);
        let is_causal = i32::from(self.mask == Mask::Causal);
        let scale = (1.0 / (heads.head_dim as f64).sqrt()) as f32;
        // Two stages of keys and values; keys and values of the block, and two stages of 32
        // queries, of dO and of two floats each.
        let shared = 4 * ROWS * 2 * dim;
        let shared_keys = 4 * ROWS * 2 * dim + 2 * 2 * 32 * 4;
        run(
            &format!("attention_forward_{dim}"),
            (heads.num_heads, count),
            THREADS,
            shared,
            &[
                out, log_sums, qkv, &tiles, &sizes[0], &sizes[1], &sizes[2], &sizes[3], &is_causal,
                &scale,
            ],
        );
        run(
            &format!("attention_backward_queries_{dim}"),
            (heads.num_heads, count),
            THREADS,
            shared,
            &[
                d_qkv, dots, d_out, out, qkv, log_sums, &tiles, &sizes[0], &sizes[1], &sizes[2],
                &sizes[3], &is_causal, &scale,
            ],
        );
        let parts = (heads.num_heads / heads.num_kv_heads).div_ceil(heads_of_block);
        let width = 2 * heads.kv_width();
        // No part of it is read that was not written: outputs hold NaN.
        let partial = Buffer::<f32>::output(if parts > 1 {
            parts * self.tokens() * width
        } else {
            0
        });
        run(
            &format!("attention_backward_keys_{dim}"),
            (heads.num_kv_heads * parts, count),
            THREADS,
            shared_keys,
            &[
                d_qkv,
                &partial,
                d_out,
                qkv,
                log_sums,
                dots,
                &tiles,
                &sizes[0],
                &sizes[1],
                &sizes[2],
                &sizes[3],
                &(heads_of_block as i32),
                &is_causal,
                &scale,
            ],
        );
        if parts > 1 {
            let [width, parts, start, stride] =
                [width, parts, heads.query_width(), heads.width()].map(|size| size as i32);
            run(
                "sum_attention_parts",
                (self.tokens(), 1),
                THREADS,
                0,
                &[d_qkv, &partial, &sizes[0], &width, &parts, &start, &stride],
            );
        }
    }

    /// Compares all that the kernels made with the crate's own, from the same rounded inputs.
    fn check(&self) {
        let tokens = self.tokens();
        let bounds = self.cu_seqlens();
        let heads = self.heads;
        let what = |name: &str| format!("{name} of {:?}, {heads:?}, {:?}", self.lengths, self.mask);
        let qkv = self.qkv.tensor(&[tokens, heads.width()]);
        let d_out = self.d_out.tensor(&[tokens, heads.query_width()]);
        let (out, log_sums) = attention(&qkv, &bounds, heads, self.mask).unwrap();
        let d_qkv =
            attention_backward(&d_out, &qkv, &out, &log_sums, &bounds, heads, self.mask).unwrap();
        assert_each(
            &what("log_sums"),
            &self.log_sums.numbers(),
            &flat(&log_sums),
            0.0,
            NEAR_LOG_SUM,
        );
        assert_close(&what("out"), &self.out.numbers(), &flat(&out));
        let found = self.d_qkv.tensor(&[tokens, heads.width()]);
        let q = heads.query_width();
        let kv = heads.kv_width();
        for (name, start, width) in [("dQ", 0, q), ("dK", q, kv), ("dV", q + kv, kv)] {
            let columns = |x: &Tensor| flat(&x.narrow(1, start, width).unwrap());
            assert_close(&what(name), &columns(&found), &columns(&d_qkv));
        }
    }
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_near(what, found, expected, NEAR);
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let error = (square(&mut found.iter().zip(expected).map(|(a, b)| a - b))
        / square(&mut expected.iter().copied()))
    .sqrt();
    assert!(
        error <= NEAR_IN_ALL,
        "{what}: a root mean square of {error:e} is more than {NEAR_IN_ALL:e}"
    );
}

#[test]
fn attention_of_the_decoder_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for mask in [Mask::Causal, Mask::Full] {
        let case = Case::new(&[1, 63, 0, 64, 65, 310], heads(7, 1, 128), mask, 3.0);
        case.run(false);
        case.check();
    }
}

#[test]
fn attention_of_windows_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    let case = Case::new(&[100, 100, 37], heads(3, 3, 64), Mask::Full, 3.0);
    case.run(true);
    case.check();
}

#[test]
fn attention_equals_the_crate_in_any_thread_order() {
    if !is_emulated() {
        return;
    }
    let all = [
        heads(2, 2, 8),
        heads(7, 1, 16),
        heads(4, 2, 64),
        heads(2, 1, 80),
        heads(2, 2, 128),
        heads(4, 2, 120),
    ];
    for (heads, lengths) in all.into_iter().zip([
        [0, 130, 5],
        [1, 63, 64],
        [33, 65, 0],
        [1, 0, 129],
        [64, 16, 17],
        [97, 1, 1],
    ]) {
        for mask in [Mask::Causal, Mask::Full] {
            let case = Case::new(&lengths, heads, mask, 2.0);
            case.run(true);
            case.check();
        }
    }
}

/// Parts of one size, a smaller last one, and one head each; heads of odd widths; tails of tiles.
#[test]
fn attention_whose_keys_pass_is_divided_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for (heads, heads_of_block, lengths) in [
        (heads(7, 1, 128), 4, [1, 63, 65]),
        (heads(7, 1, 128), 1, [0, 17, 130]),
        (heads(14, 2, 64), 3, [64, 5, 97]),
        (heads(4, 2, 80), 1, [33, 0, 65]),
        (heads(8, 1, 8), 2, [1, 70, 3]),
    ] {
        for mask in [Mask::Causal, Mask::Full] {
            let case = Case::new(&lengths, heads, mask, 2.0);
            case.run_in_parts(true, heads_of_block);
            case.check();
        }
    }
}

#[test]
fn attention_over_long_sequences_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    let case = Case::new(&[2049], heads(1, 1, 128), Mask::Causal, 3.0);
    case.run(false);
    case.check();
}

/// Scores of hundreds, some rows with one key of probability one: exponentials stay inside f32, and
/// so do those of masked keys.
#[test]
fn attention_withstands_large_scores() {
    if !is_emulated() {
        return;
    }
    for mask in [Mask::Causal, Mask::Full] {
        let case = Case::new(&[70, 3], heads(2, 1, 64), mask, 24.0);
        case.run(false);
        let found = [
            case.out.numbers(),
            case.log_sums.numbers(),
            case.d_qkv.numbers(),
        ]
        .concat();
        assert!(found.iter().all(|value| value.is_finite()));
        let bounds = case.cu_seqlens();
        let qkv = case.qkv.tensor(&[case.tokens(), case.heads.width()]);
        let (out, log_sums) = attention(&qkv, &bounds, case.heads, mask).unwrap();
        assert_close("out", &case.out.numbers(), &flat(&out));
        assert!(flat(&log_sums).iter().any(|value| value.abs() > 300.0));
        // Relative to the scores f32 is as exact as ever.
        assert_near("log_sums", &case.log_sums.numbers(), &flat(&log_sums), 1e-6);
    }
}

/// Caches filled up to `lengths`, with NaN after that; compares a step over them with the crate's
/// own.
fn check_step(lengths: &[usize], heads: Heads) {
    let queries = Buffer::<bf16>::input_from(
        &numbers("queries", lengths.len() * heads.query_width())
            .iter()
            .map(|value| value * 3.0)
            .collect::<Vec<_>>(),
    );
    let out = Buffer::<bf16>::output(lengths.len() * heads.query_width());
    let cache = |name: &str| -> Vec<Buffer<bf16>> {
        let fill = |(i, &len): (usize, &usize)| {
            let mut rows = numbers(&format!("{name} {i}"), len * heads.kv_width());
            rows.iter_mut().for_each(|value| *value *= 3.0);
            rows.extend(std::iter::repeat_n(f64::NAN, i * heads.kv_width()));
            Buffer::input_from(&rows)
        };
        lengths.iter().enumerate().map(fill).collect()
    };
    let keys = cache("keys");
    let values = cache("values");
    let addresses = |caches: &[Buffer<bf16>]| {
        Buffer::input(&caches.iter().map(Buffer::address).collect::<Vec<_>>())
    };
    let filled = Buffer::input(&lengths.iter().map(|&len| len as i32).collect::<Vec<_>>());
    let sizes = [heads.num_heads, heads.num_kv_heads, heads.head_dim].map(|size| size as i32);
    let grid = (
        lengths.len(),
        heads.num_kv_heads,
        (heads.num_heads / heads.num_kv_heads).div_ceil(STEP_ROWS),
    );
    let scale = (1.0 / (heads.head_dim as f64).sqrt()) as f32;
    launch(
        "attention_step",
        grid,
        THREADS,
        STEP_SHARED,
        &[
            &out,
            &queries,
            &addresses(&keys),
            &addresses(&values),
            &filled,
            &sizes[0],
            &sizes[1],
            &sizes[2],
            &scale,
        ],
    );
    let tensors = |caches: &[Buffer<bf16>]| -> Vec<Tensor> {
        caches
            .iter()
            .zip(lengths)
            .enumerate()
            .map(|(i, (cache, len))| cache.tensor(&[len + i, heads.kv_width()]))
            .collect()
    };
    let keys = tensors(&keys);
    let values = tensors(&values);
    let past: Vec<Past> = keys
        .iter()
        .zip(&values)
        .zip(lengths)
        .map(|((keys, values), &len)| Past { keys, values, len })
        .collect();
    let expected = attention_step(
        &queries.tensor(&[lengths.len(), heads.query_width()]),
        &past,
        heads,
    )
    .unwrap();
    assert_close(
        &format!("a step over {lengths:?}, {heads:?}"),
        &out.numbers(),
        &flat(&expected),
    );
}

#[test]
fn a_step_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    // Fewer keys than a tile, fewer tiles than warps, every stage used again; groups that fill a
    // block's rows and more.
    check_step(&[1, 15, 16, 17, 63, 64, 65, 310], heads(7, 1, 128));
    check_step(&[2049], heads(7, 1, 128));
    check_step(&[33, 1], heads(32, 2, 64));
    check_step(&[70, 2], heads(34, 2, 8));
    check_step(&[129], heads(3, 3, 80));
}
