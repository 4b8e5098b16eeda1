//! RMSNorm and LayerNorm.

use candle_core::Tensor;
use maqam::ops::norm::layer_norm;
use maqam::ops::norm::layer_norm_again;
use maqam::ops::norm::layer_norm_backward;
use maqam::ops::norm::rms_norm;
use maqam::ops::norm::rms_norm_again;
use maqam::ops::norm::rms_norm_backward;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::dot;
use crate::support::flat;
use crate::support::random;
use crate::support::zeros_like;

const EPS: f64 = 1e-6;
/// Shapes around the number of running sums kept side by side, and wider than one task's columns.
const SHAPES: [[usize; 2]; 5] = [[1, 3], [7, 16], [5, 33], [64, 50], [3, 300]];

#[test]
fn rms_norm_equals_formula_and_differences() {
    for [tokens, dim] in SHAPES {
        let x = random("x", &[tokens, dim]);
        let weight = random("weight", &[dim]);
        let dy = random("dy", &[tokens, dim]);
        let residual = random("residual", &[tokens, dim]);
        let (y, inverse) = rms_norm(&x, &weight, EPS, 0).unwrap();
        let mean_square = (x.sqr().unwrap().sum_keepdim(1).unwrap() / dim as f64).unwrap();
        let formula = x
            .broadcast_div(&(mean_square + EPS).unwrap().sqrt().unwrap())
            .unwrap()
            .broadcast_mul(&weight)
            .unwrap();
        assert_near("rms_norm", &y, &formula, 1e-14);
        assert_eq!(
            flat(&rms_norm_again(&x, &weight, &inverse, 0).unwrap()),
            flat(&y),
            "again"
        );

        let d_weight = zeros_like(&weight);
        let dx = rms_norm_backward(
            &dy,
            &x,
            &weight,
            &inverse,
            Some(&residual),
            Some(&d_weight),
            0,
        )
        .unwrap();
        let loss = |x: &Tensor, weight: &Tensor| dot(&dy, &rms_norm(x, weight, EPS, 0).unwrap().0);
        assert_gradient("rms_norm x", &x, &dx, |x| {
            loss(x, &weight) + dot(&residual, x)
        });
        assert_gradient("rms_norm weight", &weight, &d_weight, |weight| {
            loss(&x, weight)
        });

        let bare = rms_norm_backward(&dy, &x, &weight, &inverse, None, Some(&d_weight), 0).unwrap();
        assert_near(
            "without the residual",
            &(bare + &residual).unwrap(),
            &dx,
            1e-15,
        );
        rms_norm_backward(&dy, &x, &weight, &inverse, None, Some(&d_weight), 0).unwrap();
        assert_gradient(
            "rms_norm weight, three times",
            &weight,
            &d_weight,
            |weight| 3.0 * loss(&x, weight),
        );
    }
}

#[test]
fn layer_norm_equals_formula_and_differences() {
    for [tokens, dim] in SHAPES {
        let x = random("x", &[tokens, dim]);
        let weight = random("weight", &[dim]);
        let bias = random("bias", &[dim]);
        let dy = random("dy", &[tokens, dim]);
        let residual = random("residual", &[tokens, dim]);
        let (y, statistics) = layer_norm(&x, &weight, &bias, EPS).unwrap();
        let centred = x.broadcast_sub(&x.mean_keepdim(1).unwrap()).unwrap();
        let variance = (centred.sqr().unwrap().mean_keepdim(1).unwrap() + EPS).unwrap();
        let formula = centred
            .broadcast_div(&variance.sqrt().unwrap())
            .unwrap()
            .broadcast_mul(&weight)
            .unwrap()
            .broadcast_add(&bias)
            .unwrap();
        assert_near("layer_norm", &y, &formula, 1e-13);
        assert_eq!(
            flat(&layer_norm_again(&x, &weight, &bias, &statistics).unwrap()),
            flat(&y),
            "again"
        );

        let d_weight = zeros_like(&weight);
        let d_bias = zeros_like(&bias);
        let dx = layer_norm_backward(
            &dy,
            &x,
            &weight,
            &statistics,
            Some(&residual),
            Some((&d_weight, &d_bias)),
        )
        .unwrap();
        let loss = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
            dot(&dy, &layer_norm(x, weight, bias, EPS).unwrap().0)
        };
        assert_gradient("layer_norm x", &x, &dx, |x| {
            loss(x, &weight, &bias) + dot(&residual, x)
        });
        assert_gradient("layer_norm weight", &weight, &d_weight, |weight| {
            loss(&x, weight, &bias)
        });
        assert_gradient("layer_norm bias", &bias, &d_bias, |bias| {
            loss(&x, &weight, bias)
        });

        let bare = layer_norm_backward(&dy, &x, &weight, &statistics, None, None).unwrap();
        assert_near(
            "without the residual",
            &(bare + &residual).unwrap(),
            &dx,
            1e-15,
        );
        layer_norm_backward(
            &dy,
            &x,
            &weight,
            &statistics,
            None,
            Some((&d_weight, &d_bias)),
        )
        .unwrap();
        assert_gradient("layer_norm bias, twice", &bias, &d_bias, |bias| {
            2.0 * loss(&x, &weight, bias)
        });
    }
}

#[test]
fn a_constant_row_has_no_variance_and_stays_finite() {
    let x = (random("x", &[4, 20]).zeros_like().unwrap() + 3.0).unwrap();
    let weight = random("weight", &[20]);
    let bias = random("bias", &[20]);
    let dy = random("dy", &[4, 20]);
    let (y, statistics) = layer_norm(&x, &weight, &bias, 1e-5).unwrap();
    assert_near(
        "every row is the bias",
        &y,
        &bias.broadcast_as((4, 20)).unwrap().contiguous().unwrap(),
        1e-12,
    );
    assert!(
        flat(&layer_norm_backward(&dy, &x, &weight, &statistics, None, None).unwrap())
            .iter()
            .all(|d| d.is_finite())
    );
    let (y, _) = rms_norm(&zeros_like(&x), &weight, 1e-6, 0).unwrap();
    assert!(flat(&y).iter().all(|&y| y == 0.0));
}
