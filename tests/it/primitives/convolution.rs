//! Convolution as unfold + product, against the convolution written out.

use candle_core::DType;
use maqam::ops::convolution::KERNEL;
use maqam::ops::convolution::num_outputs;
use maqam::ops::convolution::unfold;
use maqam::ops::convolution::unfold_backward;
use maqam::ops::linear::Linear;

use crate::support::NO_DROPOUT;
use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::dot;
use crate::support::flat;
use crate::support::gradient;
use crate::support::random;
use crate::support::trained;

/// Windows of one, two, three and odd numbers of rows, and none.
const WINDOWS: [&[usize]; 5] = [&[1], &[2], &[3], &[7, 1, 4], &[1, 0, 2, 3, 5]];

/// The sum over taps and inputs, one number after the other: padding 1 on both sides of every
/// window.
fn convolved(x: &[Vec<f64>], weight: &[Vec<f64>], windows: &[usize], stride: usize) -> Vec<f64> {
    let mut out = Vec::new();
    let mut start = 0;
    for &len in windows {
        for centre in (0..len).step_by(stride) {
            for filter in weight {
                let dim = filter.len() / KERNEL;
                let seen = (0..KERNEL).filter_map(|tap| {
                    Some((tap, (centre + tap).checked_sub(1).filter(|&row| row < len)?))
                });
                out.push(
                    seen.map(|(tap, row)| {
                        (0..dim)
                            .map(|i| x[start + row][i] * filter[tap * dim + i])
                            .sum::<f64>()
                    })
                    .sum(),
                );
            }
        }
        start += len;
    }
    out
}

#[test]
fn unfold_and_product_equal_a_convolution() {
    for windows in WINDOWS {
        for stride in [1, 2] {
            let rows = windows.iter().sum();
            let x = random("x", &[rows, 4]);
            let weight = random("weight", &[5, KERNEL * 4]);
            let unfolded = unfold(&x, windows, stride).unwrap();
            assert_eq!(
                unfolded.dims()[0],
                windows
                    .iter()
                    .map(|&len| num_outputs(len, stride))
                    .sum::<usize>()
            );
            let (y, _) = Linear::frozen(weight.clone(), None)
                .forward(&unfolded, None, NO_DROPOUT)
                .unwrap();
            let expected = convolved(
                &x.to_vec2().unwrap(),
                &weight.to_vec2().unwrap(),
                windows,
                stride,
            );
            assert!(
                flat(&y)
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| (a - b).abs() < 1e-13),
                "windows {windows:?}, stride {stride}"
            );
            assert_eq!(flat(&y).len(), expected.len());
        }
    }
}

#[test]
fn unfold_gradient_is_the_difference() {
    for windows in WINDOWS {
        for stride in [1, 2] {
            let x = random("x", &[windows.iter().sum(), 4]);
            let dy = random("dy", unfold(&x, windows, stride).unwrap().dims());
            let dx = unfold_backward(&dy, windows, stride).unwrap();
            assert_gradient("unfold", &x, &dx, |x| {
                dot(&dy, &unfold(x, windows, stride).unwrap())
            });
        }
    }
}

#[test]
fn one_window_equals_candles_convolution() {
    let x = random("x", &[9, 4]);
    let weight = random("weight", &[5, 4, KERNEL]);
    let bias = random("bias", &[5]);
    let taps_outermost = weight
        .permute((0, 2, 1))
        .unwrap()
        .contiguous()
        .unwrap()
        .reshape((5, KERNEL * 4))
        .unwrap();
    let layer = Linear::frozen(taps_outermost, Some(bias.clone()));
    for stride in [1, 2] {
        let (y, _) = layer
            .forward(&unfold(&x, &[9], stride).unwrap(), None, NO_DROPOUT)
            .unwrap();
        let candle = x
            .t()
            .unwrap()
            .unsqueeze(0)
            .unwrap()
            .contiguous()
            .unwrap()
            .conv1d(&weight, 1, stride, 1, 1)
            .unwrap();
        let candle = candle
            .squeeze(0)
            .unwrap()
            .t()
            .unwrap()
            .broadcast_add(&bias)
            .unwrap()
            .contiguous()
            .unwrap();
        assert_near("convolution", &y, &candle, 1e-13);
    }
}

#[test]
fn the_kernels_gradient_is_the_difference() {
    let windows = [6, 1, 5];
    for stride in [1, 2] {
        let x = random("x", &[12, 4]);
        let unfolded = unfold(&x, &windows, stride).unwrap();
        let layer = Linear {
            weight: trained(random("weight", &[5, KERNEL * 4])),
            bias: None,
            adapter: None,
        };
        let (y, _) = layer.forward(&unfolded, None, NO_DROPOUT).unwrap();
        let dy = random("dy", y.dims());
        let d_unfolded = layer
            .backward(&dy, &unfolded, None, NO_DROPOUT, true)
            .unwrap()
            .unwrap();
        let dx = unfold_backward(&d_unfolded, &windows, stride).unwrap();
        let loss = |x: &_, weight: &candle_core::Tensor| {
            let layer = Linear::frozen(weight.clone(), None);
            dot(
                &dy,
                &layer
                    .forward(&unfold(x, &windows, stride).unwrap(), None, NO_DROPOUT)
                    .unwrap()
                    .0,
            )
        };
        assert_gradient(
            "convolution weight",
            &layer.weight.value,
            &gradient(&layer.weight),
            |weight| loss(&x, weight),
        );
        assert_gradient("convolution x", &x, &dx, |x| loss(x, &layer.weight.value));
    }
}

#[test]
fn windows_that_do_not_cover_the_rows_are_refused() {
    assert!(unfold(&random("x", &[5, 4]), &[6], 1).is_err());
    assert!(unfold(&random("x", &[5, 4]), &[4], 1).is_err());
    assert!(unfold_backward(&random("dy", &[5, 12]), &[6], 1).is_err());
    assert!(
        unfold(
            &random("x", &[5, 4]).to_dtype(DType::BF16).unwrap(),
            &[5],
            1
        )
        .is_err()
    );
}
