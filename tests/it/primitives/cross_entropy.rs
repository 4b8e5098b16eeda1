//! The head with its cross-entropy over target rows.

use candle_core::Tensor;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::head_rows_backward;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::cross_entropy::logits;
use maqam::ops::rows::gather;
use maqam::ops::weight::Weight;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::flat;
use crate::support::gradient;
use crate::support::numbers;
use crate::support::random;
use crate::support::trained;

const VOCAB: usize = 23;
const DIM: usize = 6;

fn ids(rows: usize) -> Vec<u32> {
    (0..rows as u32)
        .map(|row| (row * 7 + row / 5) % VOCAB as u32)
        .collect()
}

/// Weights of every size, zero among them.
fn weights(rows: usize) -> Vec<f64> {
    numbers("row weights", rows)
        .iter()
        .enumerate()
        .map(|(row, w)| if row % 4 == 3 { 0.0 } else { 1.5 + w })
        .collect()
}

#[test]
fn gradients_over_several_blocks_equal_differences() {
    for rows in [1, 3, 300, 600] {
        for label_smoothing in [0.0, 0.1] {
            let x = random("x", &[rows, DIM]);
            let ids = ids(rows);
            let weights = weights(rows);
            let targets = Targets {
                ids: &ids,
                weights: &weights,
                label_smoothing,
            };
            let head = trained(random("head", &[VOCAB, DIM]));
            let found = linear_cross_entropy(&x, &head, targets, true).unwrap();
            let loss = |x: &Tensor, head: &Tensor| {
                linear_cross_entropy(x, &Weight::frozen(head.clone()), targets, false)
                    .unwrap()
                    .loss
                    .value()
                    .unwrap()
            };
            assert_gradient("cross-entropy rows", &x, &found.d_rows.unwrap(), |x| {
                loss(x, &head.value)
            });
            assert_gradient(
                "cross-entropy head",
                &head.value,
                &gradient(&head),
                |head| loss(&x, head),
            );
            linear_cross_entropy(&x, &head, targets, true).unwrap();
            assert_gradient(
                "cross-entropy head, twice",
                &head.value,
                &gradient(&head),
                |head| 2.0 * loss(&x, head),
            );
        }
    }
}

#[test]
fn gradients_of_single_rows_are_the_heads() {
    for rows in [1, 300] {
        for label_smoothing in [0.0, 0.1] {
            let x = random("x", &[rows, DIM]);
            let ids = ids(rows);
            let weights = weights(rows);
            let targets = Targets {
                ids: &ids,
                weights: &weights,
                label_smoothing,
            };
            let head = trained(random("head", &[VOCAB, DIM]));
            let found = linear_cross_entropy(&x, &head, targets, true).unwrap();
            let chosen = [9, 0, 7];
            let few = trained(random("few", &[chosen.len(), DIM]));
            let few = few.gradient.unwrap();
            head_rows_backward(&few, &chosen, &x, &head.value, targets, &found).unwrap();
            let expected = gather(&gradient(&head), &chosen).unwrap();
            assert_near("rows of the head's gradient", &few, &expected, 1e-12);
            // Added to what is there.
            head_rows_backward(&few, &chosen, &x, &head.value, targets, &found).unwrap();
            let twice = (expected * 2.0).unwrap();
            assert_near("twice", &few, &twice, 1e-12);
            assert!(
                head_rows_backward(&few, &[0, 1, 23], &x, &head.value, targets, &found).is_err()
            );
        }
    }
}

#[test]
fn the_loss_is_its_definition() {
    let rows = 300;
    let x = random("x", &[rows, DIM]);
    let ids = ids(rows);
    let weights = weights(rows);
    let head = random("head", &[VOCAB, DIM]);
    let scores = x.matmul(&head.t().unwrap()).unwrap();
    assert_near(
        "logits",
        &logits(&x, &Weight::frozen(head.clone())).unwrap(),
        &scores,
        1e-14,
    );
    let scores = scores.to_vec2::<f64>().unwrap();
    for smoothing in [0.0, 0.2] {
        let found = linear_cross_entropy(
            &x,
            &Weight::frozen(head.clone()),
            Targets {
                ids: &ids,
                weights: &weights,
                label_smoothing: smoothing,
            },
            false,
        )
        .unwrap();
        assert!(found.d_rows.is_none());
        let found = found.read().unwrap();
        let mut loss = 0.0;
        for row in 0..rows {
            let log_sum = scores[row].iter().map(|s| s.exp()).sum::<f64>().ln();
            let log_probability = scores[row][ids[row] as usize] - log_sum;
            assert!((found.log_probabilities[row] - log_probability).abs() < 1e-13);
            let even = scores[row].iter().map(|s| log_sum - s).sum::<f64>() / VOCAB as f64;
            loss += weights[row] * ((1.0 - smoothing) * -log_probability + smoothing * even);
        }
        assert!(
            (found.loss - loss).abs() < 1e-11 * loss,
            "{} against {loss}",
            found.loss
        );
    }
}

#[test]
fn huge_logits_neither_overflow_nor_lose_the_gradient() {
    let x = random("x", &[4, DIM])
        .affine(1e4, 0.0)
        .unwrap()
        .to_dtype(candle_core::DType::F32)
        .unwrap();
    let head = trained(
        random("head", &[VOCAB, DIM])
            .to_dtype(candle_core::DType::F32)
            .unwrap(),
    );
    let found = linear_cross_entropy(
        &x,
        &head,
        Targets {
            ids: &[0, 1, 2, 3],
            weights: &[1.0; 4],
            label_smoothing: 0.1,
        },
        true,
    )
    .unwrap();
    let read = found.read().unwrap();
    assert!(read.loss.is_finite() && read.log_probabilities.iter().all(|p| p.is_finite()));
    for gradient in [found.d_rows.unwrap(), gradient(&head)] {
        assert!(
            flat(&gradient).iter().all(|g| g.is_finite())
                && flat(&gradient).iter().any(|&g| g != 0.0)
        );
    }
}

#[test]
fn no_rows_have_no_loss_and_bad_targets_are_refused() {
    let head = Weight::frozen(random("head", &[VOCAB, DIM]));
    let none = linear_cross_entropy(
        &random("none", &[0, DIM]),
        &head,
        Targets {
            ids: &[],
            weights: &[],
            label_smoothing: 0.0,
        },
        true,
    )
    .unwrap();
    let losses = none.read().unwrap();
    assert_eq!(
        (
            losses.loss,
            losses.log_probabilities,
            none.d_rows.unwrap().dims()
        ),
        (0.0, Vec::new(), [0, DIM].as_slice())
    );
    let x = random("x", &[2, DIM]);
    assert!(
        linear_cross_entropy(
            &x,
            &head,
            Targets {
                ids: &[0, VOCAB as u32],
                weights: &[1.0; 2],
                label_smoothing: 0.0
            },
            false
        )
        .is_err()
    );
    assert!(
        linear_cross_entropy(
            &x,
            &head,
            Targets {
                ids: &[0],
                weights: &[1.0; 2],
                label_smoothing: 0.0
            },
            false
        )
        .is_err()
    );
    assert!(
        linear_cross_entropy(
            &x,
            &head,
            Targets {
                ids: &[0, 1],
                weights: &[1.0],
                label_smoothing: 0.0
            },
            false
        )
        .is_err()
    );
    let narrow = random("narrow", &[2, DIM - 1]);
    assert!(
        linear_cross_entropy(
            &narrow,
            &head,
            Targets {
                ids: &[0, 1],
                weights: &[1.0; 2],
                label_smoothing: 0.0
            },
            false
        )
        .is_err()
    );
    assert!(logits(&narrow, &head).is_err());
}
