//! Attention over packed sequences, and one step of decoding.

use candle_core::Tensor;
use maqam::ops::attention;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::Past;
use maqam::ops::device;

use crate::Both;
use crate::ROUNDED;
use crate::SINGLE;
use crate::compare;
use crate::on_gpu;
use crate::support::numbers;

/// Probabilities and their gradients are rounded before the products with values and keys, so the
/// sums contain a share of each rounding. All queries of a sequence use its first values and keys,
/// so these gradients and their errors are larger than most.
const OUTPUT: f64 = 2.0 * ROUNDED;
const GRADIENT: f64 = 8.0 * ROUNDED;

const HEADS: [Heads; 4] = [
    Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 128,
    },
    Heads {
        num_heads: 3,
        num_kv_heads: 3,
        head_dim: 64,
    },
    Heads {
        num_heads: 7,
        num_kv_heads: 1,
        head_dim: 16,
    },
    Heads {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 72,
    },
];

#[test]
fn attention_forwards_and_backwards() {
    on_gpu(|gpu| {
        let boundaries = [0, 1, 64, 64, 128, 193, 333];
        for heads in HEADS {
            for mask in [Mask::Causal, Mask::Full] {
                let qkv = Both::new(gpu, "qkv", &[333, heads.width()]);
                let (out, log_sums) =
                    attention::attention(&qkv.gpu, &boundaries, heads, mask).unwrap();
                let (exact, exact_log_sums) =
                    attention::attention(&qkv.exact, &boundaries, heads, mask).unwrap();
                compare(&format!("{heads:?} {mask:?}"), &out, &exact, OUTPUT);
                compare(
                    &format!("log-sum-exps of {heads:?} {mask:?}"),
                    &log_sums,
                    &exact_log_sums,
                    SINGLE,
                );
                let d_out = Both::new(gpu, "d_out", &[333, heads.query_width()]);
                let backward = || {
                    attention::attention_backward(
                        &d_out.gpu,
                        &qkv.gpu,
                        &out,
                        &log_sums,
                        &boundaries,
                        heads,
                        mask,
                    )
                    .unwrap()
                };
                let exact = attention::attention_backward(
                    &d_out.exact,
                    &qkv.exact,
                    &exact,
                    &exact_log_sums,
                    &boundaries,
                    heads,
                    mask,
                )
                .unwrap();
                let d_qkv = backward();
                compare(
                    &format!("gradient of {heads:?} {mask:?}"),
                    &d_qkv,
                    &exact,
                    GRADIENT,
                );
                assert_eq!(
                    device::to_host(&backward()).unwrap(),
                    device::to_host(&d_qkv).unwrap(),
                    "the same bits each time"
                );
            }
        }
    });
}

#[test]
fn heads_that_no_kernel_has_are_refused() {
    on_gpu(|gpu| {
        for head_dim in [4, 132] {
            let heads = Heads {
                num_heads: 1,
                num_kv_heads: 1,
                head_dim,
            };
            let qkv = Both::new(gpu, "qkv", &[2, heads.width()]);
            assert!(
                attention::attention(&qkv.gpu, &[0, 2], heads, Mask::Full)
                    .unwrap_err()
                    .to_string()
                    .contains("multiples of 8")
            );
        }
    });
}

#[test]
fn a_step_over_caches_that_are_parts_of_one_tensor() {
    on_gpu(|gpu| {
        let lengths = [1, 64, 150];
        for heads in HEADS {
            // Every cache has space for 160 tokens, and the next one starts at its end.
            let all = |name: &str| Both::new(gpu, name, &[3 * 160, heads.kv_width()]);
            let keys = all("keys");
            let values = all("values");
            let queries = Both::new(gpu, "queries", &[3, heads.query_width()]);
            let step = |keys: &Tensor, values: &Tensor, queries: &Tensor| {
                let part = |all: &Tensor, i: usize| all.narrow(0, 160 * i, 160).unwrap();
                let parts: Vec<_> = (0..3).map(|i| (part(keys, i), part(values, i))).collect();
                let past: Vec<Past> = parts
                    .iter()
                    .zip(lengths)
                    .map(|((keys, values), len)| Past { keys, values, len })
                    .collect();
                attention::attention_step(queries, &past, heads).unwrap()
            };
            let exact = step(&keys.exact, &values.exact, &queries.exact);
            compare(
                &format!("step of {heads:?}"),
                &step(&keys.gpu, &values.gpu, &queries.gpu),
                &exact,
                OUTPUT,
            );
        }
    });
}

#[test]
fn scores_beyond_the_range_of_exp() {
    on_gpu(|gpu| {
        let heads = Heads {
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 64,
        };
        let values: Vec<f64> = numbers("large", 70 * heads.width())
            .into_iter()
            .map(|x| 30.0 * x)
            .collect();
        let qkv = Both::of(gpu, &values, &[70, heads.width()]);
        let (out, log_sums) =
            attention::attention(&qkv.gpu, &[0, 70], heads, Mask::Causal).unwrap();
        let (exact, exact_log_sums) =
            attention::attention(&qkv.exact, &[0, 70], heads, Mask::Causal).unwrap();
        compare("output", &out, &exact, OUTPUT);
        compare("log-sum-exps", &log_sums, &exact_log_sums, SINGLE);
    });
}
