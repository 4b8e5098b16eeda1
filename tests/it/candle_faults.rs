//! Known faults of candle, each with a test that would find it in maqam.
//!
//! Candle 0.11 silently drops gradients at its fused operations, computes those of frozen weights,
//! gives NaN for masked rows and wrong kernel gradients over a batch, recurses in its backward, and
//! cannot seed its dropout on the CPU.

use crate::support;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use maqam::ops::activation::gelu;
use maqam::ops::activation::gelu_backward;
use maqam::ops::activation::swiglu;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::convolution::KERNEL;
use maqam::ops::convolution::num_outputs;
use maqam::ops::convolution::unfold;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::dropout::Dropout;
use maqam::ops::linear::Linear;
use maqam::ops::norm::layer_norm;
use maqam::ops::norm::layer_norm_backward;
use maqam::ops::norm::rms_norm;
use maqam::ops::norm::rms_norm_backward;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows::gather;
use maqam::ops::rows::pool_pairs;
use maqam::ops::weight::Weight;
use maqam::seed::Key;

use support::NO_DROPOUT;
use support::adapted;
use support::assert_gradient;
use support::assert_near;
use support::dot;
use support::flat;
use support::gradient;
use support::keys;
use support::random;
use support::trained;

fn largest(tensor: &Tensor) -> f64 {
    flat(tensor).iter().fold(0.0, |a, b| a.max(b.abs()))
}

/// Everything trained in `layer`, by name.
fn weights(layer: &Linear) -> Vec<(String, &Weight)> {
    let mut all = vec![("weight".to_owned(), &layer.weight)];
    all.extend(layer.bias.as_ref().map(|bias| ("bias".to_owned(), bias)));
    if let Some(adapter) = &layer.adapter {
        all.push(("down".to_owned(), &adapter.down));
        all.extend(
            adapter
                .ups
                .iter()
                .enumerate()
                .map(|(i, up)| (format!("up {i}"), &up.weight)),
        );
    }
    all
}

#[test]
fn exactly_the_trained_weights_get_gradients() {
    // Fault: fused norms, softmax and rope end the gradient silently; frozen operands get an
    // unnecessary gradient.
    let tokens = 6;
    let dim = 8;
    let heads = Heads {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
    };
    let before = [
        trained(random("ln weight", &[dim])),
        trained(random("ln bias", &[dim])),
        trained(random("rms", &[dim])),
    ];
    let mut to_qkv = adapted(
        "qkv",
        dim,
        heads.width(),
        &[(0..8, 2), (8..12, 1), (12..16, 3)],
    );
    let out = Linear {
        weight: trained(random("out", &[dim, dim])),
        bias: Some(trained(random("out bias", &[dim]))),
        adapter: None,
    };
    let head = trained(random("head", &[11, dim]));
    to_qkv.weight.gradient = None;
    let frozen_bits = flat(&to_qkv.weight.value);

    let x = random("x", &[tokens, dim]);
    let (a, statistics) = layer_norm(&x, &before[0].value, &before[1].value, 1e-5).unwrap();
    let (b, inverse) = rms_norm(&a, &before[2].value, 1e-6, 0).unwrap();
    let (qkv, hidden) = to_qkv.forward(&b, None, NO_DROPOUT).unwrap();
    let rotary = Rotary::new(&[0, 1, 2, 3, 4, 5], heads.head_dim, 1e4, &qkv).unwrap();
    rotary.apply(&qkv, 3).unwrap();
    let (mixed, log_sums) = attention(&qkv, &[0, tokens], heads, Mask::Causal).unwrap();
    let active = gelu(&mixed).unwrap();
    let (y, _) = out.forward(&active, None, NO_DROPOUT).unwrap();
    let targets = Targets {
        ids: &[1, 2, 3, 4, 5, 6],
        weights: &[1.0; 6],
        label_smoothing: 0.0,
    };
    let d_y = linear_cross_entropy(&y, &head, targets, true)
        .unwrap()
        .d_rows
        .unwrap();
    let d_active = out
        .backward(&d_y, &active, None, NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    let d_mixed = gelu_backward(&d_active, &mixed).unwrap();
    let d_qkv = attention_backward(
        &d_mixed,
        &qkv,
        &mixed,
        &log_sums,
        &[0, tokens],
        heads,
        Mask::Causal,
    )
    .unwrap();
    rotary.apply_backward(&d_qkv, 3).unwrap();
    let d_b = to_qkv
        .backward(&d_qkv, &b, hidden.as_ref(), NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    let d_a = rms_norm_backward(
        &d_b,
        &a,
        &before[2].value,
        &inverse,
        None,
        before[2].gradient.as_ref(),
        0,
    )
    .unwrap();
    let norm_gradients = before[0].gradient.as_ref().zip(before[1].gradient.as_ref());
    let d_x = layer_norm_backward(
        &d_a,
        &x,
        &before[0].value,
        &statistics,
        None,
        norm_gradients,
    )
    .unwrap();

    let mut census: Vec<(String, &Weight)> = vec![("head".to_owned(), &head)];
    census.extend(
        before
            .iter()
            .enumerate()
            .map(|(i, weight)| (format!("norm {i}"), weight)),
    );
    census.extend(weights(&out));
    census.extend(weights(&to_qkv).into_iter().skip(1));
    assert_eq!(census.len(), 11, "a weight more or less: count again");
    let unreached: Vec<&str> = census
        .iter()
        .filter(|(_, weight)| largest(&gradient(weight)) == 0.0)
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(unreached.is_empty(), "no gradient reached {unreached:?}");
    assert!(largest(&d_x) > 0.0);
    assert!(to_qkv.weight.gradient.is_none() && to_qkv.is_trained() && out.is_trained());
    assert_eq!(
        flat(&to_qkv.weight.value),
        frozen_bits,
        "a frozen weight does not move"
    );
}

#[test]
fn a_frozen_layer_has_no_gradient_and_stays_as_it_is() {
    // Fault: a product with a frozen weight computes and stores a gradient of the weight's shape.
    let mut layer = adapted("frozen", 6, 5, &[(0..5, 2)]);
    let adapter = layer.adapter.as_mut().unwrap();
    for weight in [
        &mut layer.weight,
        layer.bias.as_mut().unwrap(),
        &mut adapter.down,
        &mut adapter.ups[0].weight,
    ] {
        weight.gradient = None;
    }
    let before: Vec<Vec<f64>> = weights(&layer)
        .iter()
        .map(|(_, weight)| flat(&weight.value))
        .collect();
    let x = random("x", &[4, 6]);
    let dy = random("dy", &[4, 5]);
    let (_, hidden) = layer.forward(&x, None, NO_DROPOUT).unwrap();
    layer
        .backward(&dy, &x, hidden.as_ref(), NO_DROPOUT, true)
        .unwrap();
    let after: Vec<Vec<f64>> = weights(&layer)
        .iter()
        .map(|(_, weight)| flat(&weight.value))
        .collect();
    assert_eq!(before, after);
    assert!(
        weights(&layer)
            .iter()
            .all(|(_, weight)| weight.gradient.is_none() && !weight.value.is_variable())
    );
    assert!(!Linear::frozen(x, None).is_trained());

    let head = Weight::frozen(random("head", &[9, 5]));
    let values = flat(&head.value);
    linear_cross_entropy(
        &dy,
        &head,
        Targets {
            ids: &[0; 4],
            weights: &[1.0; 4],
            label_smoothing: 0.1,
        },
        true,
    )
    .unwrap();
    assert_eq!(flat(&head.value), values);
}

#[test]
fn scores_have_no_empty_row_and_logits_stay_finite() {
    // Fault: a row whose scores are all masked is NaN, in the forward and in the gradient.
    let heads = Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
    };
    let bounds = [0, 1, 1, 1, 2, 67, 67, 70, 70];
    for size in [0.0, 1.0, 1e2, 1e4] {
        // Scores are products of eight pairs over sqrt(8): with numbers of up to sqrt(size) they
        // reach about `size`.
        let qkv = (random("qkv", &[70, heads.width()]) * f64::sqrt(size))
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap();
        for mask in [Mask::Causal, Mask::Full] {
            let (out, log_sums) = attention(&qkv, &bounds, heads, mask).unwrap();
            let d_out = random("d_out", out.dims()).to_dtype(DType::F32).unwrap();
            let d =
                attention_backward(&d_out, &qkv, &out, &log_sums, &bounds, heads, mask).unwrap();
            for (name, tensor) in [("out", &out), ("log_sums", &log_sums), ("d", &d)] {
                assert!(
                    flat(tensor).iter().all(|x| x.is_finite()),
                    "{name} of {mask:?} at {size}"
                );
            }
            // A sequence of one token attends to itself alone: its output is its value.
            let value = qkv
                .narrow(1, heads.query_width() + heads.kv_width(), 8)
                .unwrap()
                .narrow(0, 0, 1)
                .unwrap();
            assert_eq!(flat(&out.narrow(0, 0, 1).unwrap())[..8], flat(&value)[..]);
        }
    }
    let nothing = random("nothing", &[0, heads.width()]);
    let (out, log_sums) = attention(&nothing, &[0, 0, 0], heads, Mask::Full).unwrap();
    assert_eq!(
        (out.dims(), log_sums.dims()),
        ([0, 32].as_slice(), [4, 0].as_slice())
    );
}

fn mask_of(tokens: &[Key], site: u64, probability: f64, dim: usize) -> Vec<Vec<f64>> {
    let ones = Tensor::ones((tokens.len(), dim), DType::F64, &Device::Cpu).unwrap();
    Dropout {
        probability,
        tokens,
        site,
    }
    .apply(&ones)
    .unwrap()
    .to_vec2()
    .unwrap()
}

#[test]
fn dropout_is_seeded_and_independent_of_packing() {
    // Fault: candle's generator on the CPU cannot be seeded.
    let tokens = [keys(0, 40), keys(1, 25)].concat();
    let whole = mask_of(&tokens, 5, 0.4, 64);
    assert_eq!(
        whole,
        mask_of(&tokens, 5, 0.4, 64),
        "the same keys, the same mask"
    );
    assert_ne!(whole, mask_of(&tokens, 6, 0.4, 64), "another site");
    assert!(
        whole
            .iter()
            .zip(mask_of(&keys(2, 65), 5, 0.4, 64))
            .all(|(a, b)| *a != b),
        "another example"
    );
    assert!(
        (0..whole.len()).all(|a| (0..a).all(|b| whole[a] != whole[b])),
        "no two tokens share a mask"
    );

    let order: Vec<usize> = (0..65).map(|i| i * 17 % 65).collect();
    let permuted: Vec<Key> = order.iter().map(|&i| tokens[i]).collect();
    assert!(
        mask_of(&permuted, 5, 0.4, 64)
            .iter()
            .zip(&order)
            .all(|(row, &i)| *row == whole[i])
    );
    let split = [
        mask_of(&tokens[..40], 5, 0.4, 64),
        mask_of(&tokens[40..], 5, 0.4, 64),
    ]
    .concat();
    assert_eq!(split, whole, "two micro-batches");
}

#[test]
fn dropout_keeps_its_share_and_its_expectation() {
    let tokens = keys(3, 500);
    for probability in [0.0, 0.05, 0.3, 0.9] {
        let mask = mask_of(&tokens, 1, probability, 400);
        let n = 200_000.0;
        let kept = mask.iter().flatten().filter(|&&m| m != 0.0).count() as f64 / n;
        // Five standard deviations of a binomial share.
        let bound = 5.0 * (probability * (1.0 - probability) / n).sqrt() + 1e-12;
        assert!(
            (kept - (1.0 - probability)).abs() < bound,
            "{probability}: kept {kept}"
        );
        assert!(
            mask.iter()
                .flatten()
                .all(|&m| m == 0.0 || (m - 1.0 / (1.0 - probability)).abs() < 1e-12)
        );
        let mean = mask.iter().flatten().sum::<f64>() / n;
        assert!(
            (mean - 1.0).abs() < bound / (1.0 - probability) + 1e-12,
            "{probability}: mean {mean}"
        );
        for position in 0..400 {
            let column = mask.iter().filter(|row| row[position] != 0.0).count() as f64 / 500.0;
            assert!(
                (column - (1.0 - probability)).abs()
                    < 6.0 * (probability * (1.0 - probability) / 500.0).sqrt() + 1e-12,
                "column {position}"
            );
        }
    }
    let ones = Tensor::ones((1, 4), DType::F64, &Device::Cpu).unwrap();
    for probability in [1.0, -0.1, 1.5, f64::NAN] {
        assert!(
            Dropout {
                probability,
                tokens: &keys(0, 1),
                site: 0
            }
            .apply(&ones)
            .is_err(),
            "{probability}"
        );
    }
}

#[test]
fn twenty_thousand_layers_fit_a_small_stack() {
    // Fault: candle's backward recurses over the graph and overflows a stack of 2 MiB between 8,000
    // and 10,000 nodes.
    let run = || {
        let layer = Linear {
            weight: trained(Tensor::new(&[[0.0f64, 1.0], [-1.0, 0.0]], &Device::Cpu).unwrap()),
            bias: None,
            adapter: None,
        };
        let depth = 20_000;
        let mut saved = vec![random("x", &[1, 2])];
        for _ in 0..depth {
            let (y, _) = layer
                .forward(saved.last().unwrap(), None, NO_DROPOUT)
                .unwrap();
            saved.push(y);
        }
        let mut d = random("dy", &[1, 2]);
        let dy = flat(&d);
        for x in saved[..depth].iter().rev() {
            d = layer
                .backward(&d, x, None, NO_DROPOUT, true)
                .unwrap()
                .unwrap();
        }
        // A quarter turn 20,000 times is none at all, forwards and backwards.
        assert_eq!((flat(&saved[depth]), flat(&d)), (flat(&saved[0]), dy));
        assert!(largest(&gradient(&layer.weight)) > 0.0);
    };
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_kernels_gradient_is_the_sum_over_windows() {
    // Fault: candle's conv1d has a wrong kernel gradient for more than one row of a batch.
    let windows = [5, 3, 8, 1];
    let inputs = 3;
    let outputs = 4;
    let x = random("x", &[17, inputs]);
    let weight = random("weight", &[outputs, KERNEL * inputs]);
    for stride in [1, 2] {
        let rows: usize = windows.iter().map(|&len| num_outputs(len, stride)).sum();
        let dy = random("dy", &[rows, outputs]);
        let kernel_gradient = |x: &Tensor, windows: &[usize], dy: &Tensor| {
            let layer = Linear {
                weight: trained(weight.clone()),
                bias: None,
                adapter: None,
            };
            layer
                .backward(
                    dy,
                    &unfold(x, windows, stride).unwrap(),
                    None,
                    NO_DROPOUT,
                    false,
                )
                .unwrap();
            gradient(&layer.weight)
        };
        let batch = kernel_gradient(&x, &windows, &dy);
        let mut sum = weight.zeros_like().unwrap();
        let mut row = 0;
        let mut out = 0;
        for len in windows {
            let outs = num_outputs(len, stride);
            sum = (sum
                + kernel_gradient(
                    &x.narrow(0, row, len).unwrap(),
                    &[len],
                    &dy.narrow(0, out, outs).unwrap(),
                ))
            .unwrap();
            (row, out) = (row + len, out + outs);
        }
        assert_near("the sum over windows", &batch, &sum, 1e-14);
        assert_gradient("kernel", &weight, &batch, |weight| {
            let layer = Linear::frozen(weight.clone(), None);
            dot(
                &dy,
                &layer
                    .forward(&unfold(&x, &windows, stride).unwrap(), None, NO_DROPOUT)
                    .unwrap()
                    .0,
            )
        });
    }
}

#[test]
fn half_precision_and_strided_tensors_are_refused() {
    // Fault: half precision on the CPU uses other code than on CUDA, with other results and without
    // a warning.
    let heads = Heads {
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 2,
    };
    for dtype in [DType::BF16, DType::F16] {
        let half = |shape: &[usize]| random("half", shape).to_dtype(dtype).unwrap();
        let x = half(&[4, 6]);
        let w = half(&[6]);
        let single = random("single", &[4, 6]).to_dtype(DType::F32).unwrap();
        let targets = Targets {
            ids: &[0; 4],
            weights: &[1.0; 4],
            label_smoothing: 0.0,
        };
        let keys = keys(0, 4);
        let refused: Vec<(&str, Result<()>)> = vec![
            ("rms_norm", rms_norm(&x, &w, 1e-6, 0).map(drop)),
            (
                "rms_norm with a half weight",
                rms_norm(&single, &w, 1e-6, 0).map(drop),
            ),
            ("layer_norm", layer_norm(&x, &w, &w, 1e-6).map(drop)),
            ("swiglu", swiglu(&x, 0).map(drop)),
            ("gelu", gelu(&x).map(drop)),
            (
                "attention",
                attention(&x, &[0, 4], heads, Mask::Full).map(drop),
            ),
            (
                "rotary",
                Rotary::new(&[0; 4], 2, 1e4, &single).unwrap().apply(&x, 1),
            ),
            (
                "linear",
                Linear::frozen(half(&[3, 6]), None)
                    .forward(&x, None, NO_DROPOUT)
                    .map(drop),
            ),
            (
                "linear with a half weight",
                Linear::frozen(half(&[3, 6]), None)
                    .forward(&single, None, NO_DROPOUT)
                    .map(drop),
            ),
            (
                "cross-entropy",
                linear_cross_entropy(&x, &Weight::frozen(half(&[5, 6])), targets, true).map(drop),
            ),
            (
                "dropout",
                Dropout {
                    probability: 0.5,
                    tokens: &keys,
                    site: 0,
                }
                .apply(&x)
                .map(drop),
            ),
            ("unfold", unfold(&x, &[4], 1).map(drop)),
            ("gather", gather(&x, &[0]).map(drop)),
            ("pool_pairs", pool_pairs(&x, &[4]).map(drop)),
        ];
        let taken: Vec<&str> = refused
            .iter()
            .filter(|(_, result)| result.is_ok())
            .map(|(name, _)| *name)
            .collect();
        assert!(taken.is_empty(), "{dtype:?} went through {taken:?}");
    }
    let strided = random("x", &[6, 4]).t().unwrap();
    assert!(gelu(&strided).is_err() && rms_norm(&strided, &random("w", &[6]), 1e-6, 0).is_err());
}
