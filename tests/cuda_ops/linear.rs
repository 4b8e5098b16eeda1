//! Linear layers: frozen, trained, adapted, with dropout, in 16 and in 8 bits.

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam::ops::device;
use maqam::ops::linear::Adapter;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::linear::Up;
use maqam::ops::linear::copy_matrices;
use maqam::ops::rows::copy_columns;
use maqam::ops::weight::Weight;

use crate::Both;
use crate::ROUNDED;
use crate::SINGLE;
use crate::TWICE;
use crate::compare;
use crate::flat;
use crate::on_gpu;
use crate::support::NO_DROPOUT;
use crate::support::keys;

/// Largest error of one number of a gradient of A or B. It sums products of a factor that was
/// rounded (`dh` for A, `h` for B) over the tokens. The rounding errors add up as a random walk
/// does, and the largest of thousands is about four times their root mean square.
const ADAPTER: f64 = TWICE;

/// Root mean square of all errors of such a gradient, relative to that of the gradient. Rounding
/// uniform numbers to bf16 gives 1.7e-3; half as much more is allowed.
const ADAPTER_RMS: f64 = 2.5e-3;

/// With dropout both factors of the product are rounded, because inputs are scaled by
/// `1 / (1 - probability)`. Their errors are independent: `sqrt(2)` times that of one.
fn both_factors(bar: f64, probability: f64) -> f64 {
    if probability > 0.0 {
        std::f64::consts::SQRT_2 * bar
    } else {
        bar
    }
}

/// Parts of a layer.
#[derive(Clone, Default)]
struct Parts {
    inputs: usize,
    outputs: usize,
    bias: bool,
    is_trained: bool,
    /// Columns and rank of each up-projection.
    ups: Vec<(std::ops::Range<usize>, usize)>,
}

/// The same layer on the GPU and on the CPU.
fn layers(gpu: &Device, parts: &Parts) -> (Linear, Linear) {
    let weight = |name: &str, shape: &[usize], is_trained: bool| {
        let both = Both::new(gpu, name, shape);
        if is_trained {
            both.trained(gpu, name)
        } else {
            both.frozen()
        }
    };
    let (on_gpu, exact) = weight("weight", &[parts.outputs, parts.inputs], parts.is_trained);
    let mut on_gpu = Linear {
        weight: on_gpu,
        bias: None,
        adapter: None,
    };
    let mut exact = Linear {
        weight: exact,
        bias: None,
        adapter: None,
    };
    if parts.bias {
        let (a, b) = weight("bias", &[parts.outputs], parts.is_trained);
        (on_gpu.bias, exact.bias) = (Some(a), Some(b));
    }
    if !parts.ups.is_empty() {
        let ranks = parts.ups.iter().map(|(_, rank)| rank).sum();
        let (down_gpu, down_exact) = weight("down", &[ranks, parts.inputs], true);
        let mut ups_gpu = Vec::new();
        let mut ups_exact = Vec::new();
        let mut first = 0;
        for (i, (columns, rank)) in parts.ups.iter().enumerate() {
            let (a, b) = weight(&format!("up {i}"), &[columns.len(), *rank], true);
            let up = |weight| Up {
                weight,
                columns: columns.clone(),
                ranks: first..first + rank,
                scale: 0.5 + 0.25 * i as f64,
                site: 3,
            };
            ups_gpu.push(up(a));
            ups_exact.push(up(b));
            first += rank;
        }
        on_gpu.adapter = Some(Adapter {
            down: down_gpu,
            ups: ups_gpu,
            joined: None,
        });
        exact.adapter = Some(Adapter {
            down: down_exact,
            ups: ups_exact,
            joined: None,
        });
    }
    (on_gpu, exact)
}

/// The same rows with `padding` values after each, which are NaN until they are written.
fn with_padding(x: &Tensor, padding: usize) -> Tensor {
    let (rows, width) = x.dims2().unwrap();
    let apart = device::place(
        &vec![f32::NAN; rows * (width + padding)],
        (rows, width + padding),
        x.device(),
    )
    .unwrap()
    .narrow(1, 0, width)
    .unwrap();
    copy_columns(&apart, 0, x, 0..rows, 0).unwrap();
    apart
}

/// Forward and backward of a layer of `parts` over some tokens; the gradients add to existing ones.
fn check(
    gpu: &Device,
    what: &str,
    parts: &Parts,
    tokens: usize,
    has_residual: bool,
    probability: f64,
) {
    check_with(gpu, what, parts, tokens, has_residual, probability, false);
    if !parts.ups.is_empty() && !parts.is_trained {
        check_with(
            gpu,
            &format!("joined {what}"),
            parts,
            tokens,
            has_residual,
            probability,
            true,
        );
    }
}

fn check_with(
    gpu: &Device,
    what: &str,
    parts: &Parts,
    tokens: usize,
    has_residual: bool,
    probability: f64,
    is_joined: bool,
) {
    let (mut on_gpu, mut exact) = layers(gpu, parts);
    let mut x = Both::new(gpu, "x", &[tokens, parts.inputs]);
    let residual = Both::new(gpu, "residual", &[tokens, parts.outputs]);
    let mut dy = Both::new(gpu, "dy", &[tokens, parts.outputs]);
    if is_joined {
        on_gpu.join().unwrap();
        let ranks: usize = parts.ups.iter().map(|(_, rank)| rank).sum();
        assert_eq!(on_gpu.padding(), ranks.next_multiple_of(64));
        (x.gpu, dy.gpu) = (
            with_padding(&x.gpu, on_gpu.padding()),
            with_padding(&dy.gpu, on_gpu.padding()),
        );
    }
    let token_keys = keys(4, tokens);
    let dropout = if probability > 0.0 {
        AdapterDropout {
            probability,
            tokens: &token_keys,
        }
    } else {
        NO_DROPOUT
    };
    let (y, hidden) = on_gpu
        .forward(&x.gpu, has_residual.then_some(&residual.gpu), dropout)
        .unwrap();
    let (exact_y, exact_hidden) = exact
        .forward(&x.exact, has_residual.then_some(&residual.exact), dropout)
        .unwrap();
    let is_plain = parts.ups.is_empty() && probability == 0.0;
    // A bias may be added in a pass of its own, which rounds once more.
    let bar = if !is_plain {
        2.0 * TWICE
    } else if parts.bias {
        TWICE
    } else {
        ROUNDED
    };
    compare(&format!("{what}: output"), &y, &exact_y, bar);
    let dx = on_gpu
        .backward(&dy.gpu, &x.gpu, hidden.as_ref(), dropout, true)
        .unwrap()
        .unwrap();
    let exact_dx = exact
        .backward(&dy.exact, &x.exact, exact_hidden.as_ref(), dropout, true)
        .unwrap()
        .unwrap();
    compare(
        &format!("{what}: gradient of the input"),
        &dx,
        &exact_dx,
        if is_plain { ROUNDED } else { 2.0 * TWICE },
    );
    assert!(
        on_gpu
            .backward(&dy.gpu, &x.gpu, hidden.as_ref(), dropout, false)
            .unwrap()
            .is_none()
    );
    assert!(
        exact
            .backward(&dy.exact, &x.exact, exact_hidden.as_ref(), dropout, false)
            .unwrap()
            .is_none()
    );
    let names = ["weight", "bias"]
        .into_iter()
        .take(1 + usize::from(parts.bias))
        .chain(["A", "B", "another B", "a third B"]);
    for ((name, on_gpu), exact) in names.zip(on_gpu.weights_mut()).zip(exact.weights_mut()) {
        if let (Some(found), Some(exact)) = (&on_gpu.gradient, &exact.gradient) {
            let what = format!("{what}: gradient of {name}");
            if matches!(name, "weight" | "bias") {
                compare(&what, found, exact, SINGLE);
                continue;
            }
            compare(&what, found, exact, both_factors(ADAPTER, probability));
            let rms = error(found, exact);
            let bar = both_factors(ADAPTER_RMS, probability);
            assert!(
                rms <= bar,
                "{what}: off by {rms:.2e} (root mean square), the bar is {bar:.2e}"
            );
        }
    }
}

#[test]
fn frozen_layers() {
    on_gpu(|gpu| {
        for (inputs, outputs, tokens) in [(64, 48, 33), (5, 3, 1), (129, 7, 4), (128, 256, 65)] {
            for bias in [false, true] {
                for has_residual in [false, true] {
                    let parts = Parts {
                        inputs,
                        outputs,
                        bias,
                        ..Parts::default()
                    };
                    check(
                        gpu,
                        &format!("[{outputs}, {inputs}], bias {bias}, residual {has_residual}"),
                        &parts,
                        tokens,
                        has_residual,
                        0.0,
                    );
                }
            }
        }
    });
}

#[test]
fn trained_layers() {
    on_gpu(|gpu| {
        for (inputs, outputs, tokens) in [(64, 48, 33), (5, 3, 7)] {
            let parts = Parts {
                inputs,
                outputs,
                bias: true,
                is_trained: true,
                ..Parts::default()
            };
            check(
                gpu,
                &format!("trained [{outputs}, {inputs}]"),
                &parts,
                tokens,
                true,
                0.0,
            );
        }
    });
}

#[test]
fn adapted_layers() {
    on_gpu(|gpu| {
        let whole = vec![(0..96, 8)];
        let stacked = vec![(0..64, 8), (64..80, 4), (80..96, 8)];
        let partly = vec![(0..64, 16), (80..96, 8)];
        let odd = vec![(1..4, 3), (9..96, 5)];
        for (name, ups) in [
            ("whole", whole),
            ("stacked", stacked),
            ("partly", partly),
            ("odd", odd),
        ] {
            for (has_residual, probability) in [(false, 0.0), (true, 0.0), (true, 0.3)] {
                let parts = Parts {
                    inputs: 72,
                    outputs: 96,
                    bias: true,
                    is_trained: false,
                    ups: ups.clone(),
                };
                check(
                    gpu,
                    &format!("adapted {name}, residual {has_residual}, dropout {probability}"),
                    &parts,
                    37,
                    has_residual,
                    probability,
                );
            }
        }
        let everything = Parts {
            inputs: 16,
            outputs: 24,
            bias: true,
            is_trained: true,
            ups: vec![(0..24, 4)],
        };
        check(gpu, "everything trained", &everything, 9, false, 0.2);
    });
}

/// Ranks of 16 and 32: one reading of the output's gradient for both of an adapter's gradients, in
/// tails of tiles and of pieces.
#[test]
fn adapters_whose_gradients_have_a_kernel() {
    on_gpu(|gpu| {
        for (tokens, probability) in [(130, 0.0), (1, 0.0), (70, 0.3)] {
            let parts = Parts {
                inputs: 72,
                outputs: 648,
                bias: false,
                is_trained: false,
                ups: vec![(0..520, 16), (520..648, 32)],
            };
            check(
                gpu,
                &format!("ranks 16 and 32 over {tokens} tokens, dropout {probability}"),
                &parts,
                tokens,
                false,
                probability,
            );
        }
    });
}

#[test]
fn layers_of_no_tokens() {
    on_gpu(|gpu| {
        let parts = Parts {
            inputs: 16,
            outputs: 24,
            bias: true,
            is_trained: true,
            ups: vec![(0..24, 4)],
        };
        check(gpu, "no tokens", &parts, 0, true, 0.0);
    });
}

#[test]
fn joined_layers_without_padding_or_a_new_adapter() {
    on_gpu(|gpu| {
        let parts = Parts {
            inputs: 128,
            outputs: 96,
            bias: true,
            is_trained: false,
            ups: vec![(0..64, 8), (80..96, 4)],
        };
        let (mut layer, exact) = layers(gpu, &parts);
        layer.join().unwrap();
        let x = Both::new(gpu, "x", &[65, 128]);
        let dy = Both::new(gpu, "dy", &[65, 96]);
        let agree = |what: &str, layer: &Linear, exact: &Linear, padding: usize| {
            let x_gpu = with_padding(&x.gpu, padding);
            let dy_gpu = with_padding(&dy.gpu, padding);
            let (y, hidden) = layer.forward(&x_gpu, None, NO_DROPOUT).unwrap();
            let (exact_y, exact_hidden) = exact.forward(&x.exact, None, NO_DROPOUT).unwrap();
            compare(&format!("{what}: output"), &y, &exact_y, 2.0 * TWICE);
            let dx = layer
                .backward(&dy_gpu, &x_gpu, hidden.as_ref(), NO_DROPOUT, true)
                .unwrap()
                .unwrap();
            let exact_dx = exact
                .backward(&dy.exact, &x.exact, exact_hidden.as_ref(), NO_DROPOUT, true)
                .unwrap()
                .unwrap();
            compare(
                &format!("{what}: gradient of the input"),
                &dx,
                &exact_dx,
                2.0 * TWICE,
            );
        };
        agree("no padding", &layer, &exact, 0);
        agree("too little padding", &layer, &exact, 8);
        agree("more padding", &layer, &exact, 128);
        // A new adapter has an effect only after its copies are renewed.
        let overwritten = |weight: &Weight, exact: &Weight| {
            let values = Both::new(gpu, "another", exact.value.dims());
            let rows = values.gpu.dim(0).unwrap();
            copy_columns(&weight.value, 0, &values.gpu, 0..rows, 0).unwrap();
            let mut changed = exact.clone();
            changed.value = values.exact;
            changed
        };
        let mut other = exact.clone();
        let of_gpu = layer.adapter.as_ref().unwrap();
        let of_exact = other.adapter.as_mut().unwrap();
        of_exact.down = overwritten(&of_gpu.down, &of_exact.down);
        for (up, exact) in of_gpu.ups.iter().zip(&mut of_exact.ups) {
            exact.weight = overwritten(&up.weight, &exact.weight);
        }
        copy_matrices(&layer.copies().unwrap()).unwrap();
        agree("another adapter", &layer, &other, 64);
        agree("another adapter, no padding", &layer, &other, 0);
    });
}

#[test]
fn the_same_bits_each_time() {
    on_gpu(|gpu| {
        let bits = || {
            let parts = Parts {
                inputs: 128,
                outputs: 96,
                bias: true,
                is_trained: true,
                ups: vec![(0..96, 8)],
            };
            let (mut layer, _) = layers(gpu, &parts);
            let x = Both::new(gpu, "x", &[130, 128]);
            let dy = Both::new(gpu, "dy", &[130, 96]);
            let (y, hidden) = layer.forward(&x.gpu, None, NO_DROPOUT).unwrap();
            let dx = layer
                .backward(&dy.gpu, &x.gpu, hidden.as_ref(), NO_DROPOUT, true)
                .unwrap()
                .unwrap();
            let gradients = layer
                .weights_mut()
                .into_iter()
                .filter_map(|weight| weight.gradient.clone());
            [y, dx]
                .into_iter()
                .chain(gradients)
                .map(|tensor| device::to_host(&tensor).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(), bits());
    });
}

/// Root mean square of the difference, relative to that of what is expected.
fn error(found: &Tensor, exact: &Tensor) -> f64 {
    let found = device::to_host(found).unwrap();
    let exact = flat(exact);
    let difference: f64 = found
        .iter()
        .zip(&exact)
        .map(|(&a, b)| (f64::from(a) - b).powi(2))
        .sum();
    (difference / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

/// The same numbers in single precision.
fn single(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap()
}

#[test]
fn layers_in_fp8() {
    /// Three bits after the leading one: an error uniform within 2^-4 of a number, seldom the whole
    /// of it, so 0.026 of each factor, and sqrt(2) of that of their product. Less than a third of
    /// it would mean that no factor was rounded.
    const EXPECTED: f64 = 0.037;
    on_gpu(|gpu| {
        let parts = Parts {
            inputs: 128,
            outputs: 96,
            bias: true,
            is_trained: false,
            ups: vec![(0..96, 8)],
        };
        for ups in [vec![], parts.ups.clone()] {
            let (mut on_gpu, exact) = layers(
                gpu,
                &Parts {
                    ups,
                    ..parts.clone()
                },
            );
            on_gpu.join().unwrap();
            if let Err(refused) = on_gpu.quantise() {
                assert!(
                    refused.to_string().contains("compute capability"),
                    "{refused}"
                );
                crate::gpu::say(&format!("in 8 bits: {refused}"));
                return;
            }
            assert_eq!(on_gpu.weight.value.dims(), [96, 128]);
            on_gpu.quantise().unwrap();
            assert!(on_gpu.padding() == 0 && on_gpu.copies().unwrap().is_empty());
            let mut rounded = exact.clone();
            for weight in rounded.weights_mut() {
                *weight = match &weight.gradient {
                    Some(gradient) => Weight::trained(single(&weight.value), single(gradient)),
                    None => Weight::frozen(single(&weight.value)),
                };
            }
            rounded.quantise().unwrap();
            let x = Both::new(gpu, "x", &[33, 128]);
            let residual = Both::new(gpu, "residual", &[33, 96]);
            let dy = Both::new(gpu, "dy", &[33, 96]);
            for residual in [None, Some(&residual)] {
                let (y, hidden) = on_gpu
                    .forward(&x.gpu, residual.map(|r| &r.gpu), NO_DROPOUT)
                    .unwrap();
                let (exact_y, exact_hidden) = exact
                    .forward(&x.exact, residual.map(|r| &r.exact), NO_DROPOUT)
                    .unwrap();
                let found = error(&y, &exact_y);
                assert!(
                    found > EXPECTED / 3.0 && found < 1.2 * EXPECTED,
                    "output: {found}"
                );
                let dx = on_gpu
                    .backward(&dy.gpu, &x.gpu, hidden.as_ref(), NO_DROPOUT, true)
                    .unwrap()
                    .unwrap();
                let exact_dx = exact
                    .backward(&dy.exact, &x.exact, exact_hidden.as_ref(), NO_DROPOUT, true)
                    .unwrap()
                    .unwrap();
                let found = error(&dx, &exact_dx);
                assert!(
                    found > EXPECTED / 3.0 && found < 1.2 * EXPECTED,
                    "gradient: {found}"
                );

                // The CPU rounds to the same numbers, so that roundings of the sums are all that is
                // between the two.
                let (y_rounded, hidden_rounded) = rounded
                    .forward(
                        &single(&x.exact),
                        residual.map(|r| single(&r.exact)).as_ref(),
                        NO_DROPOUT,
                    )
                    .unwrap();
                assert!(
                    error(&y, &y_rounded) < EXPECTED / 6.0,
                    "output beside the CPU's of 8 bits: {}",
                    error(&y, &y_rounded)
                );
                let dx_rounded = rounded
                    .backward(
                        &single(&dy.exact),
                        &single(&x.exact),
                        hidden_rounded.as_ref(),
                        NO_DROPOUT,
                        true,
                    )
                    .unwrap()
                    .unwrap();
                assert!(
                    error(&dx, &dx_rounded) < EXPECTED / 6.0,
                    "gradient beside the CPU's of 8 bits: {}",
                    error(&dx, &dx_rounded)
                );
            }
        }
    });
}

#[test]
fn exact_fp8_values_are_multiplied_exactly() {
    on_gpu(|gpu| {
        // Powers of two up to 448 times one: every row's scale is a power of two, and every number
        // is held as it is.
        let of_rows = |rows: usize, cols: usize| -> Vec<f64> {
            (0..rows * cols)
                .map(|i| {
                    if i % cols == 0 {
                        448.0 * f64::from(1 << (i / cols % 3))
                    } else {
                        f64::from((i * 7 % 5) as i32 - 2)
                    }
                })
                .collect()
        };
        let x = Both::of(gpu, &of_rows(5, 32), &[5, 32]);
        let weight = Both::of(gpu, &of_rows(16, 32), &[16, 32]);
        let mut layer = Linear::frozen(weight.gpu, None);
        if let Err(refused) = layer.quantise() {
            crate::gpu::say(&format!("in 8 bits: {refused}"));
            return;
        }
        let exact = Linear::frozen(weight.exact, None)
            .forward(&x.exact, None, NO_DROPOUT)
            .unwrap()
            .0;
        compare(
            "output",
            &layer.forward(&x.gpu, None, NO_DROPOUT).unwrap().0,
            &exact,
            ROUNDED,
        );
    });
}

#[test]
fn weights_that_cannot_be_fp8_give_the_reason() {
    on_gpu(|gpu| {
        let (mut trained, mut on_cpu) = layers(
            gpu,
            &Parts {
                inputs: 16,
                outputs: 16,
                is_trained: true,
                ..Parts::default()
            },
        );
        assert!(
            trained
                .quantise()
                .unwrap_err()
                .to_string()
                .contains("trained")
        );
        on_cpu.weight = Weight::frozen(on_cpu.weight.value);
        assert!(
            on_cpu.quantise().unwrap_err().to_string().contains("F32"),
            "the CPU rounds single precision alone"
        );
        let (mut odd, _) = layers(
            gpu,
            &Parts {
                inputs: 24,
                outputs: 16,
                ..Parts::default()
            },
        );
        assert!(odd.quantise().is_err());
    });
}
