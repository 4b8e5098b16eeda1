//! Norms, activations, rotations, rows, convolutions and dropout.

use candle_core::Tensor;
use maqam::ops::activation;
use maqam::ops::convolution;
use maqam::ops::device;
use maqam::ops::dropout::Dropout;
use maqam::ops::norm;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows;

use crate::Both;
use crate::ROUNDED;
use crate::ROUNDING;
use crate::SINGLE;
use crate::TWICE;
use crate::compare;
use crate::on_gpu;
use crate::support::keys;

/// Tokens and widths: single rows, odd widths, and more than a block has threads.
const SHAPES: [[usize; 2]; 4] = [[1, 8], [3, 13], [67, 128], [5, 3584]];
const EPS: f64 = 1e-6;

#[test]
fn root_mean_square_norms() {
    on_gpu(|gpu| {
        for shape in SHAPES {
            let x = Both::new(gpu, "x", &shape);
            let weight = Both::new(gpu, "weight", &shape[1..]);
            let (y, inverse) = norm::rms_norm(&x.gpu, &weight.gpu, EPS, 0).unwrap();
            let (exact, exact_inverse) = norm::rms_norm(&x.exact, &weight.exact, EPS, 0).unwrap();
            compare("output", &y, &exact, ROUNDED);
            compare("statistics", &inverse, &exact_inverse, SINGLE);
            for padding in [0, 64] {
                let again = norm::rms_norm_again(&x.gpu, &weight.gpu, &inverse, padding).unwrap();
                assert_eq!(
                    device::to_host(&again).unwrap(),
                    device::to_host(&y).unwrap()
                );
            }
            let dy = Both::new(gpu, "dy", &shape);
            let past = Both::new(gpu, "past", &shape);
            let d_weight = Both::accumulated(gpu, "d_weight", &shape[1..]);
            for is_past in [false, true] {
                let (gpu_past, exact_past) =
                    (is_past.then_some(&past.gpu), is_past.then_some(&past.exact));
                let dx = norm::rms_norm_backward(
                    &dy.gpu,
                    &x.gpu,
                    &weight.gpu,
                    &inverse,
                    gpu_past,
                    Some(&d_weight.gpu),
                    0,
                )
                .unwrap();
                let exact = norm::rms_norm_backward(
                    &dy.exact,
                    &x.exact,
                    &weight.exact,
                    &exact_inverse,
                    exact_past,
                    Some(&d_weight.exact),
                    0,
                )
                .unwrap();
                compare("gradient", &dx, &exact, ROUNDED);
            }
            compare(
                "gradient of the weight",
                &d_weight.gpu,
                &d_weight.exact,
                SINGLE,
            );
        }
    });
}

#[test]
fn layer_norms() {
    on_gpu(|gpu| {
        for shape in SHAPES {
            let x = Both::new(gpu, "x", &shape);
            let weight = Both::new(gpu, "weight", &shape[1..]);
            let bias = Both::new(gpu, "bias", &shape[1..]);
            let (y, statistics) = norm::layer_norm(&x.gpu, &weight.gpu, &bias.gpu, EPS).unwrap();
            let (exact, exact_statistics) =
                norm::layer_norm(&x.exact, &weight.exact, &bias.exact, EPS).unwrap();
            compare("output", &y, &exact, ROUNDED);
            let again =
                norm::layer_norm_again(&x.gpu, &weight.gpu, &bias.gpu, &statistics).unwrap();
            assert_eq!(
                device::to_host(&again).unwrap(),
                device::to_host(&y).unwrap()
            );
            let dy = Both::new(gpu, "dy", &shape);
            let past = Both::new(gpu, "past", &shape);
            let d_weight = Both::accumulated(gpu, "d_weight", &shape[1..]);
            let d_bias = Both::accumulated(gpu, "d_bias", &shape[1..]);
            let sums = (&d_weight.gpu, &d_bias.gpu);
            let exact_sums = (&d_weight.exact, &d_bias.exact);
            let dx = norm::layer_norm_backward(
                &dy.gpu,
                &x.gpu,
                &weight.gpu,
                &statistics,
                Some(&past.gpu),
                Some(sums),
            )
            .unwrap();
            let exact = norm::layer_norm_backward(
                &dy.exact,
                &x.exact,
                &weight.exact,
                &exact_statistics,
                Some(&past.exact),
                Some(exact_sums),
            )
            .unwrap();
            compare("gradient", &dx, &exact, ROUNDED);
            compare(
                "gradient of the weight",
                &d_weight.gpu,
                &d_weight.exact,
                SINGLE,
            );
            compare("gradient of the bias", &d_bias.gpu, &d_bias.exact, SINGLE);
        }
    });
}

#[test]
fn activations() {
    on_gpu(|gpu| {
        for [tokens, dim] in SHAPES {
            let gate_up = Both::new(gpu, "gate_up", &[tokens, 2 * dim]);
            let dy = Both::new(gpu, "dy", &[tokens, dim]);
            compare(
                "swiglu",
                &activation::swiglu(&gate_up.gpu, 0).unwrap(),
                &activation::swiglu(&gate_up.exact, 0).unwrap(),
                ROUNDED,
            );
            let exact = activation::swiglu_backward(&dy.exact, &gate_up.exact, 0).unwrap();
            compare(
                "gradient of swiglu",
                &activation::swiglu_backward(&dy.gpu, &gate_up.gpu, 0).unwrap(),
                &exact,
                ROUNDED,
            );
            let x = Both::new(gpu, "x", &[tokens, dim]);
            compare(
                "gelu",
                &activation::gelu(&x.gpu).unwrap(),
                &activation::gelu(&x.exact).unwrap(),
                ROUNDED,
            );
            let exact = activation::gelu_backward(&dy.exact, &x.exact).unwrap();
            compare(
                "gradient of gelu",
                &activation::gelu_backward(&dy.gpu, &x.gpu).unwrap(),
                &exact,
                ROUNDED,
            );
        }
    });
}

#[test]
fn a_batch_of_more_tokens_than_a_grid_has_rows() {
    on_gpu(|gpu| {
        let tokens = 65_540;
        let dim = 1;
        let gate_up = Both::new(gpu, "gate_up", &[tokens, 2 * dim]);
        let dy = Both::new(gpu, "dy", &[tokens, dim]);
        compare(
            "swiglu",
            &activation::swiglu(&gate_up.gpu, 0).unwrap(),
            &activation::swiglu(&gate_up.exact, 0).unwrap(),
            ROUNDED,
        );
        let exact = activation::swiglu_backward(&dy.exact, &gate_up.exact, 0).unwrap();
        compare(
            "gradient of swiglu",
            &activation::swiglu_backward(&dy.gpu, &gate_up.gpu, 0).unwrap(),
            &exact,
            ROUNDED,
        );
    });
}

#[test]
fn rotations_forth_and_back() {
    on_gpu(|gpu| {
        for (head_dim, num_heads, width) in [(128, 2, 384), (6, 3, 19), (64, 1, 64)] {
            let x = Both::new(gpu, "x", &[5, width]);
            let positions = [0, 1, 2, 900, 32_000];
            let on_gpu = Rotary::new(&positions, head_dim, 1e6, &x.gpu).unwrap();
            let exact = Rotary::new(&positions, head_dim, 1e6, &x.exact).unwrap();
            on_gpu.apply(&x.gpu, num_heads).unwrap();
            exact.apply(&x.exact, num_heads).unwrap();
            compare("rotated", &x.gpu, &x.exact, ROUNDED);
            on_gpu.apply_backward(&x.gpu, num_heads).unwrap();
            exact.apply_backward(&x.exact, num_heads).unwrap();
            compare("turned back", &x.gpu, &x.exact, 2.0 * TWICE);
        }
    });
}

#[test]
fn rows_that_are_looked_up_and_put_back() {
    on_gpu(|gpu| {
        for dim in [1, 13, 64, 3584] {
            let table = Both::new(gpu, "table", &[9, dim]);
            let ids = [3, 0, 8, 3, 3, 0];
            compare(
                "gathered",
                &rows::gather(&table.gpu, &ids).unwrap(),
                &rows::gather(&table.exact, &ids).unwrap(),
                0.0,
            );
            let d_table = Both::accumulated(gpu, "d_table", &[9, dim]);
            let d_rows = Both::new(gpu, "d_rows", &[6, dim]);
            rows::scatter_add(&d_table.gpu, &ids, &d_rows.gpu).unwrap();
            rows::scatter_add(&d_table.exact, &ids, &d_rows.exact).unwrap();
            compare("scattered", &d_table.gpu, &d_table.exact, SINGLE);
            let source = Both::new(gpu, "source", &[3, dim]);
            rows::overwrite(&table.gpu, &[7, 0, 2], &source.gpu).unwrap();
            rows::overwrite(&table.exact, &[7, 0, 2], &source.exact).unwrap();
            compare("overwritten", &table.gpu, &table.exact, 0.0);
            assert!(rows::overwrite(&table.gpu, &[7, 7, 2], &source.gpu).is_err());
            let spread = |source: &Tensor| rows::spread(source, &[4, 1, 0], 6).unwrap();
            compare("spread", &spread(&source.gpu), &spread(&source.exact), 0.0);
            let a = Both::new(gpu, "a", &[5, dim]);
            let b = Both::new(gpu, "b", &[5, dim]);
            rows::add_to(&a.gpu, &b.gpu).unwrap();
            rows::add_to(&a.exact, &b.exact).unwrap();
            compare("added", &a.gpu, &a.exact, ROUNDED);
        }
        let none = Both::new(gpu, "none", &[0, 8]);
        assert_eq!(rows::gather(&none.gpu, &[]).unwrap().dims(), [0, 8]);
        rows::scatter_add(
            &Both::accumulated(gpu, "d_table", &[2, 8]).gpu,
            &[],
            &none.gpu,
        )
        .unwrap();
    });
}

#[test]
fn columns_that_are_copied() {
    on_gpu(|gpu| {
        let target = Both::new(gpu, "target", &[6, 24]);
        let source = Both::new(gpu, "source", &[4, 80]);
        for (first_row, rows, first_column) in
            [(0, 1..3, 32), (5, 0..1, 56), (2, 0..4, 3), (1, 2..2, 0)]
        {
            rows::copy_columns(
                &target.gpu,
                first_row,
                &source.gpu,
                rows.clone(),
                first_column,
            )
            .unwrap();
            rows::copy_columns(&target.exact, first_row, &source.exact, rows, first_column)
                .unwrap();
            compare("copied", &target.gpu, &target.exact, 0.0);
        }
        assert!(rows::copy_columns(&target.gpu, 4, &source.gpu, 0..3, 0).is_err());
        assert!(rows::copy_columns(&target.gpu, 0, &source.gpu, 0..3, 57).is_err());
        compare(
            "columns",
            &rows::columns(&source.gpu, 7..40).unwrap(),
            &source.exact.narrow(1, 7, 33).unwrap(),
            0.0,
        );
    });
}

#[test]
fn pairs_and_windows() {
    on_gpu(|gpu| {
        let windows = [5, 1, 0, 8, 2];
        for dim in [7, 80] {
            let x = Both::new(gpu, "x", &[16, dim]);
            let exact = rows::pool_pairs(&x.exact, &windows).unwrap();
            compare(
                "pooled",
                &rows::pool_pairs(&x.gpu, &windows).unwrap(),
                &exact,
                ROUNDED,
            );
            let dy = Both::new(gpu, "dy", exact.dims());
            compare(
                "gradient of pooling",
                &rows::pool_pairs_backward(&dy.gpu, &windows).unwrap(),
                &rows::pool_pairs_backward(&dy.exact, &windows).unwrap(),
                0.0,
            );
            for stride in [1, 2] {
                let exact = convolution::unfold(&x.exact, &windows, stride).unwrap();
                compare(
                    "unfolded",
                    &convolution::unfold(&x.gpu, &windows, stride).unwrap(),
                    &exact,
                    0.0,
                );
                let dy = Both::new(gpu, "dy", exact.dims());
                let exact = convolution::unfold_backward(&dy.exact, &windows, stride).unwrap();
                compare(
                    "gradient of unfolding",
                    &convolution::unfold_backward(&dy.gpu, &windows, stride).unwrap(),
                    &exact,
                    ROUNDED,
                );
            }
        }
    });
}

#[test]
fn dropout_masks_equal_the_cpus() {
    on_gpu(|gpu| {
        for dim in [13, 3584] {
            let x = Both::new(gpu, "x", &[9, dim]);
            let tokens = keys(1, 9);
            for (probability, site) in [(0.1, 5), (0.5, 6)] {
                let dropout = Dropout {
                    probability,
                    tokens: &tokens,
                    site,
                };
                let y = dropout.apply(&x.gpu).unwrap();
                let exact = dropout.apply(&x.exact).unwrap();
                compare("kept", &y, &exact, ROUNDING);
                let is_dropped =
                    |values: Vec<f64>| values.iter().map(|&x| x == 0.0).collect::<Vec<_>>();
                let found = device::to_host(&y)
                    .unwrap()
                    .into_iter()
                    .map(f64::from)
                    .collect();
                assert_eq!(is_dropped(found), is_dropped(crate::flat(&exact)));
            }
        }
    });
}
