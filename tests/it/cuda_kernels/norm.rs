//! The norms: kernels of norm.cu against the crate's own in `f64`.

use half::bf16;
use maqam::ops::norm;

use crate::cuda_kernels::elementwise::Elsewhere;
use crate::cuda_kernels::harness::Argument;
use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::NULL;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::assert_near;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::support::flat;
use crate::support::numbers;
use crate::support::zeros_like;

/// Rows of one number, of odd widths around a block's, of packs that fill no block, the models'
/// own, the longest that stays in registers, and a longer one.
const DIMS: [usize; 9] = [1, 8, 20, 257, 1280, 2056, 3584, 8192, 8200];
const TOKENS: usize = 3;
const EPS: f32 = 1e-6;
/// Numbers between rows: whole packs, and not.
const ROOMS: [usize; 2] = [64, 3];
/// One rounding to bf16 is 2^-9.
const ROUNDED: f64 = 1.0 / 256.0;
/// Error of f32 sums over a row.
const SUMMED: f64 = 1e-5;

struct Case {
    dim: usize,
    x: Buffer<bf16>,
    dy: Buffer<bf16>,
    residual: Buffer<bf16>,
    weight: Buffer<bf16>,
    bias: Buffer<bf16>,
}

impl Case {
    fn new(dim: usize) -> Self {
        // A mean that is not zero, and weights around one.
        let shifted = |name: &str, len: usize, shift: f64| {
            numbers(name, len)
                .into_iter()
                .map(|value| value + shift)
                .collect::<Vec<_>>()
        };
        Self {
            dim,
            x: Buffer::input_from(&shifted("x", TOKENS * dim, 0.5)),
            dy: Buffer::input_from(&numbers("dy", TOKENS * dim)),
            residual: Buffer::input_from(&numbers("residual", TOKENS * dim)),
            weight: Buffer::input_from(&shifted("weight", dim, 1.0)),
            bias: Buffer::input_from(&numbers("bias", dim)),
        }
    }

    fn rows(&self, of: &Buffer<bf16>) -> candle_core::Tensor {
        of.tensor(&[TOKENS, self.dim])
    }

    fn output(&self) -> Buffer<bf16> {
        Buffer::output(TOKENS * self.dim)
    }
}

fn assert_rounded(what: &str, dim: usize, found: &Buffer<bf16>, expected: &candle_core::Tensor) {
    assert_each(
        &format!("{what} of width {dim}"),
        &found.numbers(),
        &flat(expected),
        ROUNDED,
        SUMMED,
    );
}

#[test]
fn rms_norm_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for dim in DIMS {
        let case = Case::new(dim);
        let y = case.output();
        let again = case.output();
        let inverse = Buffer::<f32>::output(TOKENS);
        let width = dim as i32;
        let weight = case.weight.tensor(&[dim]);
        launch(
            "rms_norm",
            TOKENS,
            256,
            0,
            &[&y, &inverse, &case.x, &case.weight, &width, &width, &EPS],
        );
        let (expected, r) =
            norm::rms_norm(&case.rows(&case.x), &weight, f64::from(EPS), 0).unwrap();
        assert_rounded("rms_norm", dim, &y, &expected);
        assert_each("inverse", &inverse.numbers(), &flat(&r), SUMMED, 0.0);
        launch(
            "rms_norm_again",
            TOKENS,
            256,
            0,
            &[&again, &case.x, &case.weight, &inverse, &width, &width],
        );
        assert_eq!(again.values(), y.values());
        for padding in ROOMS {
            let apart = Buffer::<bf16>::output(TOKENS * (dim + padding));
            launch(
                "rms_norm",
                TOKENS,
                256,
                0,
                &[
                    &apart,
                    &inverse,
                    &case.x,
                    &case.weight,
                    &width,
                    &((dim + padding) as i32),
                    &EPS,
                ],
            );
            assert_eq!(apart.rows(dim, dim + padding), y.numbers());
            let again = Buffer::<bf16>::output(TOKENS * (dim + padding));
            launch(
                "rms_norm_again",
                TOKENS,
                256,
                0,
                &[
                    &again,
                    &case.x,
                    &case.weight,
                    &inverse,
                    &width,
                    &((dim + padding) as i32),
                ],
            );
            assert_eq!(again.rows(dim, dim + padding), y.numbers());
        }
    }
}

#[test]
fn rms_norm_backward_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for dim in DIMS {
        let case = Case::new(dim);
        let x = case.rows(&case.x);
        let dy = case.rows(&case.dy);
        let weight = case.weight.tensor(&[dim]);
        let (_, r) = norm::rms_norm(&x, &weight, f64::from(EPS), 0).unwrap();
        let inverse = Buffer::<f32>::input_from(&flat(&r));
        for with_residual in [false, true] {
            let residual = with_residual.then(|| case.rows(&case.residual));
            let expected = norm::rms_norm_backward(
                &dy,
                &x,
                &weight,
                &inverse.tensor(&[TOKENS]),
                residual.as_ref(),
                None,
                0,
            )
            .unwrap();
            let dx = case.output();
            let past: &dyn Argument = if with_residual { &case.residual } else { NULL };
            let width = dim as i32;
            launch(
                "rms_norm_backward",
                TOKENS,
                256,
                0,
                &[
                    &dx,
                    &case.dy,
                    &case.x,
                    &case.weight,
                    &inverse,
                    past,
                    &width,
                    &width,
                    &width,
                ],
            );
            assert_rounded("rms_norm_backward", dim, &dx, &expected);
            for padding in ROOMS {
                // The residual's rows have a stride too, and another one than the output's.
                let stride = dim + padding;
                let past_stride = dim + 2 * padding;
                let apart = Buffer::<bf16>::output(TOKENS * stride);
                let residual = Buffer::input_rows(&case.residual.numbers(), dim, past_stride);
                let past: &dyn Argument = if with_residual { &residual } else { NULL };
                let strides = (stride as i32, past_stride as i32);
                launch(
                    "rms_norm_backward",
                    TOKENS,
                    256,
                    0,
                    &[
                        &apart,
                        &case.dy,
                        &case.x,
                        &case.weight,
                        &inverse,
                        past,
                        &width,
                        &strides.0,
                        &strides.1,
                    ],
                );
                assert_eq!(apart.rows(dim, stride), dx.numbers());
            }
        }
    }
}

#[test]
fn layer_norm_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for dim in DIMS {
        let case = Case::new(dim);
        let y = case.output();
        let again = case.output();
        let mean = Buffer::<f32>::output(TOKENS);
        let inverse = Buffer::<f32>::output(TOKENS);
        let width = dim as i32;
        launch(
            "layer_norm",
            TOKENS,
            256,
            0,
            &[
                &y,
                &mean,
                &inverse,
                &case.x,
                &case.weight,
                &case.bias,
                &width,
                &EPS,
            ],
        );
        let weight = case.weight.tensor(&[dim]);
        let bias = case.bias.tensor(&[dim]);
        let (expected, _) =
            norm::layer_norm(&case.rows(&case.x), &weight, &bias, f64::from(EPS)).unwrap();
        assert_rounded("layer_norm", dim, &y, &expected);
        let (means, roots) = statistics(&case);
        assert_each("mean", &mean.numbers(), &means, 0.0, SUMMED);
        assert_each("inverse", &inverse.numbers(), &roots, SUMMED, 0.0);
        launch(
            "layer_norm_again",
            TOKENS,
            256,
            0,
            &[
                &again,
                &case.x,
                &case.weight,
                &case.bias,
                &mean,
                &inverse,
                &width,
            ],
        );
        assert_eq!(again.values(), y.values());
    }
}

/// Mean and inverse standard deviation of each row, from their definitions.
fn statistics(case: &Case) -> (Vec<f64>, Vec<f64>) {
    let x = case.x.numbers();
    let rows = x.chunks(case.dim).map(|row| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance =
            row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (mean, 1.0 / (variance + f64::from(EPS)).sqrt())
    });
    rows.unzip()
}

#[test]
fn layer_norm_backward_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    // The variance of a single number is zero: its statistics are all rounding.
    for dim in &DIMS[1..] {
        let case = Case::new(*dim);
        let dim = *dim;
        let x = case.rows(&case.x);
        let dy = case.rows(&case.dy);
        let weight = case.weight.tensor(&[dim]);
        let bias = case.bias.tensor(&[dim]);
        let (_, saved) = norm::layer_norm(&x, &weight, &bias, f64::from(EPS)).unwrap();
        let (means, roots) = statistics(&case);
        let mean = Buffer::<f32>::input_from(&means);
        let inverse = Buffer::<f32>::input_from(&roots);
        for with_residual in [false, true] {
            let residual = with_residual.then(|| case.rows(&case.residual));
            let expected =
                norm::layer_norm_backward(&dy, &x, &weight, &saved, residual.as_ref(), None)
                    .unwrap();
            let dx = case.output();
            let past: &dyn Argument = if with_residual { &case.residual } else { NULL };
            launch(
                "layer_norm_backward",
                TOKENS,
                256,
                0,
                &[
                    &dx,
                    &case.dy,
                    &case.x,
                    &case.weight,
                    &mean,
                    &inverse,
                    past,
                    &(dim as i32),
                ],
            );
            assert_rounded("layer_norm_backward", dim, &dx, &expected);
        }
    }
}

#[test]
fn gradients_of_weights_and_biases_are_added_up() {
    if !is_emulated() {
        return;
    }
    // Tokens that fill no group of eight, one group, the eight groups that are loaded together, and
    // more.
    for (tokens, dim) in [(1, 33), (8, 1), (64, 32), (77, 70), (200, 40)] {
        let x = Buffer::<bf16>::input_from(&numbers("x", tokens * dim));
        let dy = Buffer::<bf16>::input_from(&numbers("dy", tokens * dim));
        let weight = Buffer::<bf16>::input_from(&vec![1.0; dim]);
        let rows = x.tensor(&[tokens, dim]);
        let weights = weight.tensor(&[dim]);
        let before = numbers("before", dim);
        let sizes = (tokens as i32, dim as i32);

        let (_, r) = norm::rms_norm(&rows, &weights, f64::from(EPS), 0).unwrap();
        let d_weight = Buffer::<f32>::in_place_from(&before);
        let inverse = Buffer::<f32>::input_from(&flat(&r));
        let expected = d_weight.tensor(&[dim]);
        norm::rms_norm_backward(
            &dy.tensor(&[tokens, dim]),
            &rows,
            &weights,
            &r,
            None,
            Some(&expected),
            0,
        )
        .unwrap();
        launch(
            "rms_norm_weight_backward",
            dim.div_ceil(32),
            (32, 8),
            0,
            &[&d_weight, &dy, &x, &inverse, &sizes.0, &sizes.1],
        );
        assert_near("d_weight", &d_weight.numbers(), &flat(&expected), SUMMED);

        let (_, saved) =
            norm::layer_norm(&rows, &weights, &zeros_like(&weights), f64::from(EPS)).unwrap();
        let case = Case {
            dim,
            x,
            dy,
            residual: Buffer::output(0),
            weight,
            bias: Buffer::output(0),
        };
        let (means, roots) = statistics(&case);
        let mean = Buffer::<f32>::input_from(&means);
        let inverse = Buffer::<f32>::input_from(&roots);
        let d_weight = Buffer::<f32>::in_place_from(&before);
        let d_bias = Buffer::<f32>::in_place_from(&before);
        let of_weight = d_weight.tensor(&[dim]);
        let of_bias = d_bias.tensor(&[dim]);
        norm::layer_norm_backward(
            &case.dy.tensor(&[tokens, dim]),
            &rows,
            &weights,
            &saved,
            None,
            Some((&of_weight, &of_bias)),
        )
        .unwrap();
        let arguments: [&dyn Argument; 8] = [
            &d_weight, &d_bias, &case.dy, &case.x, &mean, &inverse, &sizes.0, &sizes.1,
        ];
        launch(
            "layer_norm_weight_backward",
            dim.div_ceil(32),
            (32, 8),
            0,
            &arguments,
        );
        assert_near(
            "d_weight of layer_norm",
            &d_weight.numbers(),
            &flat(&of_weight),
            SUMMED,
        );
        assert_near(
            "d_bias of layer_norm",
            &d_bias.numbers(),
            &flat(&of_bias),
            SUMMED,
        );

        let sums = Buffer::<f32>::in_place_from(&before);
        launch(
            "column_sums",
            dim.div_ceil(32),
            (32, 8),
            0,
            &[&sums, &case.dy, &sizes.0, &sizes.1],
        );
        assert_near("column_sums", &sums.numbers(), &flat(&of_bias), SUMMED);
    }
}

#[test]
fn non_finite_values_stay_visible() {
    if !is_emulated() {
        return;
    }
    for bad in [f64::NAN, f64::INFINITY, 1e30] {
        for dim in [20, 3584] {
            let mut values = numbers("x", TOKENS * dim);
            values[dim + dim / 2] = bad;
            let x = Buffer::<bf16>::input_from(&values);
            let weight = Buffer::<bf16>::input_from(&vec![1.0; dim]);
            let bias = Buffer::<bf16>::input_from(&vec![0.0; dim]);
            let y = Buffer::<bf16>::output(TOKENS * dim);
            let mean = Buffer::<f32>::output(TOKENS);
            let inverse = Buffer::<f32>::output(TOKENS);
            let of_row = |row: usize, y: &Buffer<bf16>| y.numbers()[row * dim..][..dim].to_vec();
            launch(
                "rms_norm",
                TOKENS,
                256,
                0,
                &[
                    &y,
                    &inverse,
                    &x,
                    &weight,
                    &(dim as i32),
                    &(dim as i32),
                    &EPS,
                ],
            );
            assert!(
                of_row(1, &y).iter().all(|value| value.is_nan()) && inverse.numbers()[1].is_nan()
            );
            assert!(
                [0, 2]
                    .iter()
                    .all(|&row| of_row(row, &y).iter().all(|value| value.is_finite()))
            );
            launch(
                "layer_norm",
                TOKENS,
                256,
                0,
                &[&y, &mean, &inverse, &x, &weight, &bias, &(dim as i32), &EPS],
            );
            assert!(
                of_row(1, &y).iter().all(|value| value.is_nan()) && inverse.numbers()[1].is_nan()
            );

            let ones = Buffer::<f32>::input_from(&[1.0; TOKENS]);
            let dx = Buffer::<bf16>::output(TOKENS * dim);
            let width = dim as i32;
            launch(
                "rms_norm_backward",
                TOKENS,
                256,
                0,
                &[
                    &dx,
                    &x,
                    &weight_rows(dim),
                    &weight,
                    &ones,
                    NULL,
                    &width,
                    &width,
                    &width,
                ],
            );
            assert!(bad == 1e30 || of_row(1, &dx).iter().all(|value| !value.is_finite()));
        }
    }
}

fn weight_rows(dim: usize) -> Buffer<bf16> {
    Buffer::input_from(&vec![1.0; TOKENS * dim])
}

#[test]
fn unaligned_rows_are_computed() {
    if !is_emulated() {
        return;
    }
    let dim = 1280;
    let case = Case::new(dim);
    let y = case.output();
    let inverse = Buffer::<f32>::output(TOKENS);
    // One value of offset before it.
    let shifted = Buffer::<bf16>::input(&[&[bf16::ZERO], &case.x.values()[..]].concat());
    launch(
        "rms_norm",
        TOKENS,
        256,
        0,
        &[
            &y,
            &inverse,
            &Elsewhere(&shifted, 2),
            &case.weight,
            &(dim as i32),
            &(dim as i32),
            &EPS,
        ],
    );
    let (expected, _) = norm::rms_norm(
        &case.rows(&case.x),
        &case.weight.tensor(&[dim]),
        f64::from(EPS),
        0,
    )
    .unwrap();
    assert_rounded("rms_norm", dim, &y, &expected);
}
