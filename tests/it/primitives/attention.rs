//! Attention inside packed sequences, and one step of decoding.

use candle_core::Tensor;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::Past;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::attention::attention_step;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::dot;
use crate::support::flat;
use crate::support::random;

/// Lengths around one block of queries, and an empty sequence.
const LENGTHS: [usize; 6] = [1, 63, 64, 0, 65, 130];
const HEADS: [Heads; 3] = [
    Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 6,
    },
    Heads {
        num_heads: 4,
        num_kv_heads: 4,
        head_dim: 4,
    },
    Heads {
        num_heads: 3,
        num_kv_heads: 1,
        head_dim: 5,
    },
];
const MASKS: [Mask; 2] = [Mask::Causal, Mask::Full];

fn cu_seqlens(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Packed queries, keys and values large enough that the probabilities are far from even.
fn packed(heads: Heads, lengths: &[usize]) -> Tensor {
    (random("qkv", &[lengths.iter().sum(), heads.width()]) * 3.0).unwrap()
}

/// The definition, one query after the other.
fn written_out(
    qkv: &Tensor,
    cu_seqlens: &[usize],
    heads: Heads,
    mask: Mask,
) -> (Vec<f64>, Vec<f64>) {
    let x = qkv.to_vec2::<f64>().unwrap();
    let tokens = x.len();
    let dim = heads.head_dim;
    let mut out = vec![0.0; tokens * heads.query_width()];
    let mut log_sums = vec![0.0; heads.num_heads * tokens];
    for bounds in cu_seqlens.windows(2) {
        for query in bounds[0]..bounds[1] {
            let end = if mask == Mask::Causal {
                query + 1
            } else {
                bounds[1]
            };
            for head in 0..heads.num_heads {
                let key = heads.query_width() + head * heads.num_kv_heads / heads.num_heads * dim;
                let score = |at: usize| {
                    (0..dim)
                        .map(|i| x[query][head * dim + i] * x[at][key + i])
                        .sum::<f64>()
                        / (dim as f64).sqrt()
                };
                let sum: f64 = (bounds[0]..end).map(|at| score(at).exp()).sum();
                log_sums[head * tokens + query] = sum.ln();
                for i in 0..dim {
                    let value = |at: usize| x[at][key + heads.kv_width() + i];
                    out[query * heads.query_width() + head * dim + i] = (bounds[0]..end)
                        .map(|at| score(at).exp() / sum * value(at))
                        .sum();
                }
            }
        }
    }
    (out, log_sums)
}

#[test]
fn attention_is_its_definition() {
    let bounds = cu_seqlens(&LENGTHS);
    for heads in HEADS {
        for mask in MASKS {
            let qkv = packed(heads, &LENGTHS);
            let (out, log_sums) = attention(&qkv, &bounds, heads, mask).unwrap();
            let (expected, expected_sums) = written_out(&qkv, &bounds, heads, mask);
            assert!(
                flat(&out)
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| (a - b).abs() < 1e-12),
                "{heads:?} {mask:?}"
            );
            assert!(
                flat(&log_sums)
                    .iter()
                    .zip(&expected_sums)
                    .all(|(a, b)| (a - b).abs() < 1e-12),
                "{heads:?} {mask:?}"
            );
        }
    }
}

#[test]
fn attention_gradient_is_the_difference() {
    let bounds = cu_seqlens(&LENGTHS);
    for heads in HEADS {
        for mask in MASKS {
            let qkv = packed(heads, &LENGTHS);
            let (out, log_sums) = attention(&qkv, &bounds, heads, mask).unwrap();
            let d_out = random("d_out", out.dims());
            let d =
                attention_backward(&d_out, &qkv, &out, &log_sums, &bounds, heads, mask).unwrap();
            assert_gradient(&format!("attention {heads:?} {mask:?}"), &qkv, &d, |qkv| {
                dot(&d_out, &attention(qkv, &bounds, heads, mask).unwrap().0)
            });
        }
    }
}

#[test]
fn sequences_are_independent_of_their_neighbours() {
    let heads = HEADS[0];
    for mask in MASKS {
        let lengths = [5, 70, 3];
        let parts = packed(heads, &lengths);
        let bounds = cu_seqlens(&lengths);
        let d_out = random("d_out", &[78, heads.query_width()]);
        let (out, log_sums) = attention(&parts, &bounds, heads, mask).unwrap();
        let d = attention_backward(&d_out, &parts, &out, &log_sums, &bounds, heads, mask).unwrap();
        for (&start, &len) in bounds.iter().zip(&lengths) {
            let alone = |t: &Tensor| t.narrow(0, start, len).unwrap();
            let (one, one_sums) = attention(&alone(&parts), &[0, len], heads, mask).unwrap();
            let one_d = attention_backward(
                &alone(&d_out),
                &alone(&parts),
                &one,
                &one_sums,
                &[0, len],
                heads,
                mask,
            )
            .unwrap();
            assert_eq!(
                flat(&one),
                flat(&alone(&out)),
                "bit for bit, whatever else is packed"
            );
            assert_eq!(flat(&one_d), flat(&alone(&d)));
        }
    }
}

#[test]
fn a_causal_query_ignores_later_keys() {
    let heads = HEADS[0];
    let qkv = packed(heads, &[100]);
    let (before, _) = attention(&qkv, &[0, 100], heads, Mask::Causal).unwrap();
    let later = Tensor::cat(
        &[
            &qkv.narrow(0, 0, 70).unwrap(),
            &random("later", &[30, heads.width()]),
        ],
        0,
    )
    .unwrap();
    let (after, _) = attention(&later, &[0, 100], heads, Mask::Causal).unwrap();
    assert_eq!(
        flat(&before.narrow(0, 0, 70).unwrap()),
        flat(&after.narrow(0, 0, 70).unwrap())
    );
}

#[test]
fn a_step_is_the_last_row_of_attention() {
    for heads in HEADS {
        let lengths = [1, 64, 65, 200];
        let qkv = packed(heads, &lengths);
        let bounds = cu_seqlens(&lengths);
        let (out, _) = attention(&qkv, &bounds, heads, Mask::Causal).unwrap();
        // The caches hold more rows than are filled, with numbers that would show if they were
        // read.
        let cache = |start: usize, len: usize, column: usize| {
            let filled = qkv
                .narrow(0, start, len)
                .unwrap()
                .narrow(1, column, heads.kv_width())
                .unwrap();
            Tensor::cat(
                &[
                    &filled,
                    &Tensor::full(f64::NAN, (7, heads.kv_width()), filled.device()).unwrap(),
                ],
                0,
            )
            .unwrap()
        };
        let k = heads.query_width();
        let v = heads.query_width() + heads.kv_width();
        let caches: Vec<(Tensor, Tensor)> = bounds
            .iter()
            .zip(&lengths)
            .map(|(&start, &len)| (cache(start, len, k), cache(start, len, v)))
            .collect();
        let past: Vec<Past> = caches
            .iter()
            .zip(&lengths)
            .map(|((keys, values), &len)| Past { keys, values, len })
            .collect();
        let last: Vec<u32> = bounds[1..].iter().map(|&end| end as u32 - 1).collect();
        let last = Tensor::new(last.as_slice(), qkv.device()).unwrap();
        let queries = qkv
            .narrow(1, 0, heads.query_width())
            .unwrap()
            .contiguous()
            .unwrap()
            .index_select(&last, 0)
            .unwrap();
        let stepped = attention_step(&queries, &past, heads).unwrap();
        assert_near(
            "the last rows",
            &stepped,
            &out.index_select(&last, 0).unwrap(),
            1e-13,
        );

        assert!(
            attention_step(&queries, &past[1..], heads).is_err(),
            "four queries, three caches"
        );
        assert!(
            attention_step(
                &queries.narrow(0, 0, 1).unwrap(),
                &[Past { len: 0, ..past[0] }],
                heads
            )
            .is_err(),
            "nothing to attend to"
        );
        assert!(
            attention_step(
                &queries.narrow(0, 0, 1).unwrap(),
                &[Past { len: 9, ..past[0] }],
                heads
            )
            .is_err(),
            "longer than the cache"
        );
    }
}

#[test]
fn bounds_and_widths_that_do_not_fit_are_refused() {
    let heads = HEADS[0];
    let qkv = packed(heads, &[10]);
    for bounds in [&[0, 9][..], &[0, 11], &[1, 10], &[0, 7, 5, 10], &[]] {
        assert!(
            attention(&qkv, bounds, heads, Mask::Causal).is_err(),
            "{bounds:?}"
        );
    }
    assert!(
        attention(&qkv, &[0, 10], HEADS[2], Mask::Causal).is_err(),
        "another width"
    );
    let uneven = Heads {
        num_heads: 3,
        num_kv_heads: 2,
        head_dim: 2,
    };
    assert!(
        attention(
            &random("uneven", &[4, uneven.width()]),
            &[0, 4],
            uneven,
            Mask::Causal
        )
        .is_err(),
        "three heads over two"
    );
}
