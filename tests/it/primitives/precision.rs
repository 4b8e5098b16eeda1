//! Single against double precision on random shapes, and the same bits from run to run and from one
//! number of threads to another.

use candle_core::DType;
use candle_core::Tensor;
use maqam::ops::activation::gelu;
use maqam::ops::activation::gelu_backward;
use maqam::ops::activation::swiglu;
use maqam::ops::activation::swiglu_backward;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::convolution::KERNEL;
use maqam::ops::convolution::unfold;
use maqam::ops::convolution::unfold_backward;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::linear::Adapter;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::linear::Up;
use maqam::ops::norm::layer_norm;
use maqam::ops::norm::layer_norm_backward;
use maqam::ops::norm::rms_norm;
use maqam::ops::norm::rms_norm_backward;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows::gather;
use maqam::ops::rows::pool_pairs;
use maqam::ops::rows::pool_pairs_backward;
use maqam::ops::rows::scatter_add;
use maqam::ops::weight::Weight;
use proptest::prelude::*;

use crate::support::copy;
use crate::support::distance;
use crate::support::flat;
use crate::support::gradient;
use crate::support::keys;
use crate::support::random;
use crate::support::trained;
use crate::support::zeros_like;

/// Largest difference between f32 and f64, relative to the largest value.
const BAR: f64 = 1e-5;

/// The sizes of one case.
#[derive(Clone, Debug)]
struct Sizes {
    lengths: Vec<usize>,
    heads: Heads,
    rank: usize,
    vocab: usize,
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let heads = (1..4usize, 1..3usize, 1..20usize).prop_map(|(kv, group, half)| Heads {
        num_heads: kv * group,
        num_kv_heads: kv,
        head_dim: 2 * half,
    });
    (
        prop::collection::vec(1..90usize, 1..4),
        heads,
        1..9usize,
        2..300usize,
    )
        .prop_map(|(lengths, heads, rank, vocab)| Sizes {
            lengths,
            heads,
            rank,
            vocab,
        })
}

/// Every primitive once, forward and backward, on numbers that are the same in either precision:
/// names and results.
fn everything(sizes: &Sizes, dtype: DType) -> Vec<(&'static str, Tensor)> {
    let number = |name: &str, shape: &[usize]| {
        random(name, shape)
            .to_dtype(DType::F32)
            .unwrap()
            .to_dtype(dtype)
            .unwrap()
    };
    let Sizes {
        lengths,
        heads,
        rank,
        vocab,
    } = sizes.clone();
    let tokens: usize = lengths.iter().sum();
    let dim = heads.query_width();
    let x = number("x", &[tokens, dim]);
    let dy = number("dy", &[tokens, dim]);
    let weight = number("weight", &[dim]);
    let bias = number("bias", &[dim]);
    let mut found = Vec::new();

    let (y, inverse) = rms_norm(&x, &weight, 1e-6, 0).unwrap();
    let d_weight = zeros_like(&weight);
    let dx = rms_norm_backward(&dy, &x, &weight, &inverse, Some(&y), Some(&d_weight), 0).unwrap();
    found.extend([
        ("rms_norm", y),
        ("rms_norm_backward", dx),
        ("rms_norm_backward weight", d_weight),
    ]);

    let (y, statistics) = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    let d_weight = zeros_like(&weight);
    let d_bias = zeros_like(&bias);
    let dx = layer_norm_backward(
        &dy,
        &x,
        &weight,
        &statistics,
        None,
        Some((&d_weight, &d_bias)),
    )
    .unwrap();
    found.extend([
        ("layer_norm", y),
        ("layer_norm_backward weight", d_weight),
        ("layer_norm_backward bias", d_bias),
    ]);
    // With two values in a row, the normalised row is (1, -1) and the gradient a difference of
    // nearly equal values.
    if dim > 8 {
        found.push(("layer_norm_backward", dx));
    }

    let both = (number("both", &[tokens, 2 * dim]) * 5.0).unwrap();
    found.extend([
        ("swiglu", swiglu(&both, 0).unwrap()),
        ("swiglu_backward", swiglu_backward(&dy, &both, 0).unwrap()),
    ]);
    found.extend([
        ("gelu", gelu(&both).unwrap()),
        ("gelu_backward", gelu_backward(&both, &both).unwrap()),
    ]);

    let qkv = (number("qkv", &[tokens, heads.width()]) * 2.0).unwrap();
    let positions: Vec<u32> = lengths.iter().flat_map(|&len| 0..len as u32).collect();
    let rotary = Rotary::new(&positions, heads.head_dim, 1e4, &qkv).unwrap();
    let rotated = copy(&qkv);
    rotary
        .apply(&rotated, heads.num_heads + heads.num_kv_heads)
        .unwrap();
    found.push(("rotary", copy(&rotated)));
    let bounds: Vec<usize> = (0..=lengths.len())
        .map(|i| lengths[..i].iter().sum())
        .collect();
    for mask in [Mask::Causal, Mask::Full] {
        let (out, log_sums) = attention(&rotated, &bounds, heads, mask).unwrap();
        let d = attention_backward(&dy, &rotated, &out, &log_sums, &bounds, heads, mask).unwrap();
        rotary
            .apply_backward(&d, heads.num_heads + heads.num_kv_heads)
            .unwrap();
        found.extend([
            ("attention", out),
            ("attention log sums", log_sums),
            ("attention_backward", d),
        ]);
    }

    let up = |name, columns: std::ops::Range<usize>, ranks| Up {
        weight: trained(number(name, &[columns.len(), rank])),
        columns,
        ranks,
        scale: 2.0,
        site: 1,
    };
    let ups = vec![
        up("up 0", 0..dim / 2, 0..rank),
        up("up 1", dim / 2..dim, rank..2 * rank),
    ];
    let adapter = Adapter {
        down: trained(number("down", &[2 * rank, dim])),
        ups,
        joined: None,
    };
    let layer = Linear {
        weight: trained(number("w", &[dim, dim])),
        bias: Some(trained(bias)),
        adapter: Some(adapter),
    };
    let keys = keys(1, tokens);
    let dropout = AdapterDropout {
        probability: 0.1,
        tokens: &keys,
    };
    let (y, hidden) = layer.forward(&x, Some(&dy), dropout).unwrap();
    let dx = layer
        .backward(&dy, &x, hidden.as_ref(), dropout, true)
        .unwrap()
        .unwrap();
    found.extend([
        ("linear", y),
        ("linear backward", dx),
        ("linear weight", gradient(&layer.weight)),
        ("linear bias", gradient(layer.bias.as_ref().unwrap())),
    ]);
    let adapter = layer.adapter.as_ref().unwrap();
    found.extend([
        ("adapter down", gradient(&adapter.down)),
        ("adapter up", gradient(&adapter.ups[1].weight)),
    ]);

    let unfolded = unfold(&x, &lengths, 2).unwrap();
    let d_unfolded = number("d_unfolded", unfolded.dims());
    assert_eq!(unfolded.dims()[1], KERNEL * dim);
    found.extend([
        ("unfold", unfolded),
        (
            "unfold_backward",
            unfold_backward(&d_unfolded, &lengths, 2).unwrap(),
        ),
    ]);
    let pooled = pool_pairs(&x, &lengths).unwrap();
    found.extend([
        (
            "pool_pairs_backward",
            pool_pairs_backward(&pooled, &lengths).unwrap(),
        ),
        ("pool_pairs", pooled),
    ]);

    let ids: Vec<u32> = (0..tokens).map(|i| (i * 31 % vocab) as u32).collect();
    let head = trained(number("head", &[vocab, dim]));
    let weights: Vec<f64> = (0..tokens).map(|i| 0.5 + (i % 3) as f64).collect();
    let targets = Targets {
        ids: &ids,
        weights: &weights,
        label_smoothing: 0.1,
    };
    let loss = linear_cross_entropy(&x, &head, targets, true).unwrap();
    found.extend([
        ("cross-entropy", loss.log_probabilities),
        ("cross-entropy rows", loss.d_rows.unwrap()),
        ("cross-entropy head", gradient(&head)),
    ]);
    let d_table = zeros_like(&head.value);
    scatter_add(&d_table, &ids, &dy).unwrap();
    found.extend([
        ("gather", gather(&head.value, &ids).unwrap()),
        ("scatter_add", d_table),
    ]);
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, rng_seed: prop::test_runner::RngSeed::Fixed(20), ..ProptestConfig::default() })]

    #[test]
    fn single_precision_is_near_double(sizes in sizes()) {
        for ((name, single), (_, double)) in everything(&sizes, DType::F32).iter().zip(everything(&sizes, DType::F64)) {
            prop_assert_eq!(single.dtype(), if name == &"cross-entropy" { DType::F64 } else { DType::F32 });
            let far = distance(&single.to_dtype(DType::F64).unwrap(), &double);
            prop_assert!(far <= BAR, "{} is off by {:e}", name, far);
        }
    }
}

fn bits(results: &[(&'static str, Tensor)]) -> Vec<Vec<u64>> {
    results
        .iter()
        .map(|(_, tensor)| flat(tensor).into_iter().map(f64::to_bits).collect())
        .collect()
}

/// Large enough that every parallel loop has several tasks, and odd enough that they are uneven.
fn uneven() -> Sizes {
    Sizes {
        lengths: vec![131, 1, 200, 77],
        heads: Heads {
            num_heads: 6,
            num_kv_heads: 2,
            head_dim: 22,
        },
        rank: 8,
        vocab: 1001,
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    for dtype in [DType::F32, DType::F64] {
        assert_eq!(
            bits(&everything(&uneven(), dtype)),
            bits(&everything(&uneven(), dtype))
        );
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let with = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| everything(&uneven(), DType::F32))
    };
    let one = with(1);
    for threads in [2, 3] {
        let more = with(threads);
        let differing: Vec<&str> = one
            .iter()
            .zip(bits(&one).iter().zip(bits(&more)))
            .filter(|(_, (a, b))| *a != b)
            .map(|((name, _), _)| *name)
            .collect();
        assert!(
            differing.is_empty(),
            "{threads} threads change {differing:?}"
        );
    }
}

/// A frozen layer's output, to hold it against the reference at a width where the blocks of a
/// matrix product matter.
#[test]
fn a_long_product_is_as_exact_as_its_length_allows() {
    let x = random("x", &[3, 4864]);
    let w = random("w", &[5, 4864]);
    let wide = x.matmul(&w.t().unwrap()).unwrap();
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let layer = Linear {
        weight: Weight::frozen(single(&w)),
        bias: None,
        adapter: None,
    };
    let (y, _) = layer
        .forward(&single(&x), None, crate::support::NO_DROPOUT)
        .unwrap();
    assert!(distance(&y.to_dtype(DType::F64).unwrap(), &wide) < 1e-5);
}
