//! PyTorch's numbers (`tests/fixtures/make_adamw.py`): AdamW, GELU, LayerNorm, a convolution of
//! stride 2, rotary angles.

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam::ops::activation::gelu;
use maqam::ops::activation::gelu_backward;
use maqam::ops::adamw::AdamW;
use maqam::ops::adamw::Buffers;
use maqam::ops::adamw::Clip;
use maqam::ops::adamw::Segment;
use maqam::ops::adamw::norm;
use maqam::ops::convolution::KERNEL;
use maqam::ops::convolution::unfold;
use maqam::ops::convolution::unfold_backward;
use maqam::ops::linear::Linear;
use maqam::ops::norm::layer_norm;
use maqam::ops::norm::layer_norm_backward;
use maqam::ops::rotary::Rotary;
use maqam::ops::scalar::Scalar;
use serde_json::Value;

use crate::support::NO_DROPOUT;
use crate::support::assert_near;
use crate::support::copy;
use crate::support::gradient;
use crate::support::random;
use crate::support::trained;
use crate::support::zeros_like;

/// The fixture has nine digits.
const BAR: f64 = 1e-8;

fn fixture(name: &str) -> Value {
    let mut all: Value = serde_json::from_str(include_str!("../../fixtures/adamw.json")).unwrap();
    all[name].take()
}

fn tensor(values: &Value, shape: &[usize]) -> Tensor {
    let values: Vec<f64> = values
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn single(values: &Value) -> Tensor {
    tensor(values, &[values.as_array().unwrap().len()])
        .to_dtype(DType::F32)
        .unwrap()
}

fn scalar(value: f64) -> Scalar {
    Scalar::new(value, &Device::Cpu).unwrap()
}

#[test]
fn adamw_takes_pytorchs_steps() {
    let run = fixture("adamw");
    let number = |value: &Value| value.as_f64().unwrap();
    let adamw = AdamW {
        beta1: number(&run["beta1"]),
        beta2: number(&run["beta2"]),
        eps: number(&run["eps"]),
        weight_decay: number(&run["weight_decay"]),
    };
    let mut end = 0;
    let mut segments = Vec::new();
    for segment in run["segments"].as_array().unwrap() {
        let start = end;
        end += segment["len"].as_u64().unwrap() as usize;
        segments.push(Segment {
            range: start..end,
            learning_rate: number(&segment["learning_rate"]),
            decay: segment["decay"].as_bool().unwrap(),
            step: 0,
        });
    }
    let values = single(&run["start"]);
    let first = zeros_like(&values);
    let second = zeros_like(&values);
    for (step, expected) in run["steps"].as_array().unwrap().iter().enumerate() {
        let gradients = single(&expected["gradient"]);
        let before = copy(&gradients);
        let buffers = Buffers {
            values: &values,
            gradients: &gradients,
            first: &first,
            second: &second,
            copy: None,
        };
        segments
            .iter_mut()
            .for_each(|segment| segment.step = step as u64 + 1);
        // A gradient as long as this is shortened to `scale` of itself: the kernel's 1e-6 makes it
        // one.
        let clip = Clip {
            loss: &scalar(0.5),
            norm: &scalar(1.0 - 1e-6),
            max_norm: number(&expected["scale"]),
        };
        adamw.update(buffers, &segments, clip).unwrap();
        assert_near("values", &values, &single(&expected["values"]), 5e-7);
        assert_near("the gradient is only read", &gradients, &before, 0.0);
    }
    assert_near("first moments", &first, &single(&run["first"]), 5e-7);
    assert_near("second moments", &second, &single(&run["second"]), 5e-7);
}

#[test]
fn values_outside_segments_stay_for_any_split() {
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let len = 70_000;
    let single = |name| random(name, &[len]).to_dtype(DType::F32).unwrap();
    let start = single("start");
    let gradients = single("gradients");
    let unclipped = Clip {
        loss: &scalar(1.0),
        norm: &scalar(1e9),
        max_norm: 0.0,
    };
    let after = |ranges: &[std::ops::Range<usize>]| {
        let values = copy(&start);
        let first = zeros_like(&start);
        let second = zeros_like(&start);
        let segments: Vec<Segment> = ranges
            .iter()
            .map(|range| Segment {
                range: range.clone(),
                learning_rate: 0.1,
                decay: true,
                step: 1,
            })
            .collect();
        adamw
            .update(
                Buffers {
                    values: &values,
                    gradients: &gradients,
                    first: &first,
                    second: &second,
                    copy: None,
                },
                &segments,
                unclipped,
            )
            .unwrap();
        values.to_vec1::<f32>().unwrap()
    };
    let all = 0..len;
    let inside = 10..60_000;
    let whole = after(std::slice::from_ref(&all));
    assert_eq!(whole, after(&[0..1, 1..40_003, 40_003..len]));
    let part = after(std::slice::from_ref(&inside));
    let start = start.to_vec1::<f32>().unwrap();
    assert_eq!(
        (&part[..10], &part[60_000..]),
        (&start[..10], &start[60_000..])
    );
    assert_eq!(part[10..60_000], whole[10..60_000]);
}

#[test]
fn non_finite_steps_change_nothing_and_norms_clip() {
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let single = |name| random(name, &[1000]).to_dtype(DType::F32).unwrap();
    let segments = [Segment {
        range: 0..1000,
        learning_rate: 0.1,
        decay: true,
        step: 1,
    }];
    let after = |loss: f64, norm: f64, max_norm: f64| {
        let buffers = [
            single("values"),
            single("first"),
            single("second").abs().unwrap(),
        ];
        let [values, first, second] = &buffers;
        let clip = Clip {
            loss: &scalar(loss),
            norm: &scalar(norm),
            max_norm,
        };
        adamw
            .update(
                Buffers {
                    values,
                    gradients: &single("gradients"),
                    first,
                    second,
                    copy: None,
                },
                &segments,
                clip,
            )
            .unwrap();
        buffers.map(|buffer| buffer.to_vec1::<f32>().unwrap())
    };
    let before = [
        single("values"),
        single("first"),
        single("second").abs().unwrap(),
    ]
    .map(|buffer| buffer.to_vec1::<f32>().unwrap());
    for (loss, norm) in [
        (f64::NAN, 1.0),
        (f64::INFINITY, 1.0),
        (1.0, f64::NAN),
        (1.0, f64::INFINITY),
    ] {
        for max_norm in [0.0, 1.0] {
            assert_eq!(
                after(loss, norm, max_norm),
                before,
                "loss {loss}, norm {norm}"
            );
        }
    }
    let unclipped = after(1.0, 3.0, 0.0);
    assert_ne!(unclipped, before);
    assert_eq!(after(1.0, 3.0, 3.1), unclipped, "short enough");
    // The first moment holds a tenth of the gradient: half of it is missing where the gradient is
    // twice as long as it may be.
    let clipped = after(1.0, 2.0 - 1e-6, 1.0);
    let gradients = single("gradients").to_vec1::<f32>().unwrap();
    for ((clipped, whole), gradient) in clipped[1].iter().zip(&unclipped[1]).zip(gradients) {
        assert!((whole - clipped - 0.05 * gradient).abs() < 1e-6);
    }
}

#[test]
fn the_norm_is_the_root_of_the_sum_of_squares() {
    for len in [1, 7, 16_384, 100_003] {
        let gradient = random("gradient", &[len]).to_dtype(DType::F32).unwrap();
        let expected = gradient
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .map(|&g| f64::from(g) * f64::from(g))
            .sum::<f64>()
            .sqrt();
        assert!((norm(&gradient).unwrap().value().unwrap() - expected).abs() < 1e-12 * expected);
    }
    assert!(
        norm(&Tensor::new(&[1.0f32, f32::NAN], &Device::Cpu).unwrap())
            .unwrap()
            .value()
            .unwrap()
            .is_nan(),
        "not finite is seen"
    );
    let large = norm(&Tensor::new(&[3e30f32, 4e30], &Device::Cpu).unwrap())
        .unwrap()
        .value()
        .unwrap();
    assert!(
        (large / 5e30 - 1.0).abs() < 1e-6,
        "squares beyond single precision do not overflow"
    );
}

#[test]
fn gelu_is_pytorchs() {
    let run = fixture("gelu");
    let x = tensor(&run["x"], &[25]);
    let d_out = tensor(&run["d_out"], &[25]);
    for (dtype, bar) in [(DType::F64, BAR), (DType::F32, 1e-6)] {
        let x = x.to_dtype(dtype).unwrap();
        let d_out = d_out.to_dtype(dtype).unwrap();
        assert_near("gelu", &gelu(&x).unwrap(), &tensor(&run["out"], &[25]), bar);
        assert_near(
            "gelu backward",
            &gelu_backward(&d_out, &x).unwrap(),
            &tensor(&run["d_x"], &[25]),
            bar,
        );
    }
}

#[test]
fn layer_norm_is_pytorchs() {
    let run = fixture("layer_norm");
    let x = tensor(&run["x"], &[3, 7]);
    let weight = tensor(&run["weight"], &[7]);
    let bias = tensor(&run["bias"], &[7]);
    let (y, statistics) = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    assert_near("layer_norm", &y, &tensor(&run["out"], &[3, 7]), BAR);
    let d_weight = zeros_like(&weight);
    let d_bias = zeros_like(&bias);
    let dx = layer_norm_backward(
        &tensor(&run["d_out"], &[3, 7]),
        &x,
        &weight,
        &statistics,
        None,
        Some((&d_weight, &d_bias)),
    )
    .unwrap();
    assert_near("layer_norm x", &dx, &tensor(&run["d_x"], &[3, 7]), BAR);
    assert_near(
        "layer_norm weight",
        &d_weight,
        &tensor(&run["d_weight"], &[7]),
        BAR,
    );
    assert_near(
        "layer_norm bias",
        &d_bias,
        &tensor(&run["d_bias"], &[7]),
        BAR,
    );
}

#[test]
fn far_positions_turn_by_pytorchs_angles() {
    let run = fixture("rotary");
    let positions: Vec<u32> = run["positions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_u64().unwrap() as u32)
        .collect();
    let len = positions.len();
    let half = 64;
    // Heads of ones and zeros turn into the cosines and the sines themselves.
    let ones = Tensor::ones((len, half), DType::F32, &Device::Cpu).unwrap();
    let x = Tensor::cat(&[&ones, &zeros_like(&ones)], 1).unwrap();
    Rotary::new(&positions, 2 * half, run["theta"].as_f64().unwrap(), &x)
        .unwrap()
        .apply(&x, 1)
        .unwrap();
    for (name, column) in [("cos", 0), ("sin", half)] {
        let found = x.narrow(1, column, half).unwrap().contiguous().unwrap();
        assert_near(name, &found, &tensor(&run[name], &[len, half]), 2e-6);
    }
}

/// PyTorch's `[batch, dim, time]` as packed rows `[batch time, dim]`.
fn packed(values: &Value, [batch, dim, time]: [usize; 3]) -> Tensor {
    tensor(values, &[batch, dim, time])
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((batch * time, dim))
        .unwrap()
}

/// PyTorch's `[out, in, taps]` as `[out, taps in]`.
fn taps_outermost(values: &Value) -> Tensor {
    tensor(values, &[4, 3, KERNEL])
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((4, KERNEL * 3))
        .unwrap()
}

#[test]
fn strided_convolutions_equal_pytorch() {
    let run = fixture("conv1d");
    let x = packed(&run["x"], [2, 3, 7]);
    let windows = [7, 7];
    let layer = Linear {
        weight: trained(taps_outermost(&run["weight"])),
        bias: Some(trained(tensor(&run["bias"], &[4]))),
        adapter: None,
    };
    let unfolded = unfold(&x, &windows, 2).unwrap();
    let (before, _) = layer.forward(&unfolded, None, NO_DROPOUT).unwrap();
    assert_near(
        "convolution",
        &gelu(&before).unwrap(),
        &packed(&run["out"], [2, 4, 4]),
        BAR,
    );
    let d_before = gelu_backward(&packed(&run["d_out"], [2, 4, 4]), &before).unwrap();
    let d_unfolded = layer
        .backward(&d_before, &unfolded, None, NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    assert_near(
        "convolution x",
        &unfold_backward(&d_unfolded, &windows, 2).unwrap(),
        &packed(&run["d_x"], [2, 3, 7]),
        BAR,
    );
    assert_near(
        "convolution weight",
        &gradient(&layer.weight),
        &taps_outermost(&run["d_weight"]),
        BAR,
    );
    assert_near(
        "convolution bias",
        &gradient(layer.bias.as_ref().unwrap()),
        &tensor(&run["d_bias"], &[4]),
        BAR,
    );
}
