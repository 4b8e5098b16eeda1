//! The linear layer: frozen, trained, with adapters, with dropout.

use candle_core::Tensor;
use maqam::ops::dropout::Dropout;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::weight::Weight;

use crate::support::NO_DROPOUT;
use crate::support::adapted;
use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::dot;
use crate::support::gradient;
use crate::support::keys;
use crate::support::random;
use crate::support::trained;

const TOKENS: usize = 13;
const INPUTS: usize = 10;
const OUTPUTS: usize = 12;

/// Gives access to one weight of a layer, to read or replace it.
type Place = fn(&mut Linear) -> &mut Weight;

/// Compares the gradient of the input and of every trained weight named in `places` with
/// differences.
fn check(what: &str, layer: &Linear, dropout: AdapterDropout, places: &[(&str, Place)]) {
    let x = random("x", &[TOKENS, INPUTS]);
    let residual = random("residual", &[TOKENS, OUTPUTS]);
    let dy = random("dy", &[TOKENS, OUTPUTS]);
    let loss = |layer: &Linear, x: &Tensor, residual: &Tensor| {
        dot(&dy, &layer.forward(x, Some(residual), dropout).unwrap().0)
    };
    let (y, hidden) = layer.forward(&x, Some(&residual), dropout).unwrap();
    let (bare, _) = layer.forward(&x, None, dropout).unwrap();
    assert_near(
        "the residual is added",
        &(bare + &residual).unwrap(),
        &y,
        1e-14,
    );

    let dx = layer
        .backward(&dy, &x, hidden.as_ref(), dropout, true)
        .unwrap()
        .unwrap();
    assert_gradient(&format!("{what} x"), &x, &dx, |x| loss(layer, x, &residual));
    assert_gradient(&format!("{what} residual"), &residual, &dy, |residual| {
        loss(layer, &x, residual)
    });
    for times in [1.0, 2.0] {
        for (name, place) in places {
            let weight = place(&mut layer.clone()).clone();
            assert_gradient(
                &format!("{what} {name}"),
                &weight.value,
                &gradient(&weight),
                |value| {
                    let mut moved = layer.clone();
                    place(&mut moved).value = value.clone();
                    times * loss(&moved, &x, &residual)
                },
            );
        }
        // The second time without the input's gradient: the others are added all the same.
        assert!(
            layer
                .backward(&dy, &x, hidden.as_ref(), dropout, false)
                .unwrap()
                .is_none()
        );
    }
}

fn bias(layer: &mut Linear) -> &mut Weight {
    layer.bias.as_mut().unwrap()
}

fn down(layer: &mut Linear) -> &mut Weight {
    &mut layer.adapter.as_mut().unwrap().down
}

fn up<const I: usize>(layer: &mut Linear) -> &mut Weight {
    &mut layer.adapter.as_mut().unwrap().ups[I].weight
}

const WEIGHT: (&str, Place) = ("weight", |layer| &mut layer.weight);
const BIAS: (&str, Place) = ("bias", bias);

#[test]
fn frozen_and_trained_layers() {
    let weight = random("weight", &[OUTPUTS, INPUTS]);
    let b = random("bias", &[OUTPUTS]);
    check(
        "frozen",
        &Linear::frozen(weight.clone(), None),
        NO_DROPOUT,
        &[],
    );
    check(
        "frozen with bias",
        &Linear::frozen(weight.clone(), Some(b.clone())),
        NO_DROPOUT,
        &[],
    );
    check(
        "trained",
        &Linear {
            weight: trained(weight.clone()),
            bias: None,
            adapter: None,
        },
        NO_DROPOUT,
        &[WEIGHT],
    );
    check(
        "trained bias alone",
        &Linear {
            weight: Weight::frozen(weight.clone()),
            bias: Some(trained(b.clone())),
            adapter: None,
        },
        NO_DROPOUT,
        &[BIAS],
    );
    check(
        "trained with bias",
        &Linear {
            weight: trained(weight),
            bias: Some(trained(b)),
            adapter: None,
        },
        NO_DROPOUT,
        &[WEIGHT, BIAS],
    );
}

/// The layer with another site for each of its adapters.
fn with_own_masks(mut layer: Linear) -> Linear {
    for (i, up) in layer.adapter.as_mut().unwrap().ups.iter_mut().enumerate() {
        up.site += i as u64;
    }
    layer
}

#[test]
fn modules_share_a_mask_or_draw_their_own() {
    let tokens = keys(1, TOKENS);
    let dropout = AdapterDropout {
        probability: 0.3,
        tokens: &tokens,
    };
    let x = random("x", &[TOKENS, INPUTS]);
    let shared = adapted("masks", INPUTS, OUTPUTS, &[(0..5, 2), (5..7, 1)]);
    for (layer, sites) in [(shared.clone(), [3, 3]), (with_own_masks(shared), [3, 4])] {
        let (_, hidden) = layer.forward(&x, None, dropout).unwrap();
        let hidden = hidden.unwrap();
        let adapter = layer.adapter.unwrap();
        for (up, site) in adapter.ups.iter().zip(sites) {
            let dropped = Dropout {
                probability: 0.3,
                tokens: &tokens,
                site,
            }
            .apply(&x)
            .unwrap();
            let a = adapter.down.value.narrow(0, up.ranks.start, up.ranks.len());
            let expected = dropped.matmul(&a.unwrap().t().unwrap()).unwrap();
            let found = hidden.narrow(1, up.ranks.start, up.ranks.len()).unwrap();
            assert_near("dropout(x) A^T", &found, &expected, 1e-12);
        }
    }
}

#[test]
fn adapted_layers() {
    let tokens = keys(1, TOKENS);
    let one = || adapted("one", INPUTS, OUTPUTS, &[(0..OUTPUTS, 3)]);
    // Three projections of unequal ranks; nothing is added to columns 7 and 8.
    let three = || {
        adapted(
            "three",
            INPUTS,
            OUTPUTS,
            &[(0..5, 2), (5..7, 1), (9..12, 4)],
        )
    };
    for dropout in [
        NO_DROPOUT,
        AdapterDropout {
            probability: 0.3,
            tokens: &tokens,
        },
    ] {
        check(
            "one adapter",
            &one(),
            dropout,
            &[WEIGHT, BIAS, ("down", down), ("up", up::<0>)],
        );
        check(
            "three adapters",
            &three(),
            dropout,
            &[
                WEIGHT,
                BIAS,
                ("down", down),
                ("up 0", up::<0>),
                ("up 1", up::<1>),
                ("up 2", up::<2>),
            ],
        );
    }
    let dropout = AdapterDropout {
        probability: 0.3,
        tokens: &tokens,
    };
    check(
        "three adapters with a mask each",
        &with_own_masks(three()),
        dropout,
        &[
            ("down", down),
            ("up 0", up::<0>),
            ("up 1", up::<1>),
            ("up 2", up::<2>),
        ],
    );
    let mut lora = three();
    lora.weight.gradient = None;
    lora.bias = None;
    check(
        "adapters on a frozen layer",
        &lora,
        NO_DROPOUT,
        &[
            ("down", down),
            ("up 0", up::<0>),
            ("up 1", up::<1>),
            ("up 2", up::<2>),
        ],
    );
}

#[test]
fn an_adapter_adds_its_product_to_its_columns() {
    let layer = adapted(
        "three",
        INPUTS,
        OUTPUTS,
        &[(0..5, 2), (5..7, 1), (9..12, 4)],
    );
    let adapter = layer.adapter.as_ref().unwrap();
    let mut columns: Vec<Tensor> = Vec::new();
    for at in 0..OUTPUTS {
        let row = layer.weight.value.narrow(0, at, 1).unwrap();
        let added = adapter
            .ups
            .iter()
            .find(|up| up.columns.contains(&at))
            .map(|up| {
                let b = up.weight.value.narrow(0, at - up.columns.start, 1).unwrap();
                (b.matmul(
                    &adapter
                        .down
                        .value
                        .narrow(0, up.ranks.start, up.ranks.len())
                        .unwrap(),
                )
                .unwrap()
                    * up.scale)
                    .unwrap()
            });
        columns.push(added.map_or(row.clone(), |added| (row + added).unwrap()));
    }
    let merged = Linear::frozen(
        Tensor::cat(&columns, 0).unwrap(),
        layer.bias.as_ref().map(|b| b.value.clone()),
    );
    let x = random("x", &[TOKENS, INPUTS]);
    let (found, _) = layer.forward(&x, None, NO_DROPOUT).unwrap();
    assert_near(
        "merged",
        &found,
        &merged.forward(&x, None, NO_DROPOUT).unwrap().0,
        1e-14,
    );
}

#[test]
fn mismatched_sizes_are_refused() {
    let layer = adapted("one", INPUTS, OUTPUTS, &[(0..OUTPUTS, 3)]);
    let x = random("x", &[TOKENS, INPUTS]);
    let dy = random("dy", &[TOKENS, OUTPUTS]);
    assert!(
        layer
            .forward(&random("wide", &[TOKENS, INPUTS + 1]), None, NO_DROPOUT)
            .is_err()
    );
    assert!(
        layer
            .forward(
                &x,
                Some(&random("short", &[TOKENS - 1, OUTPUTS])),
                NO_DROPOUT
            )
            .is_err(),
        "a residual of other rows"
    );
    assert!(
        layer.backward(&dy, &x, None, NO_DROPOUT, true).is_err(),
        "without `hidden` the adapters would silently get no gradient"
    );
    let tokens = keys(1, TOKENS - 1);
    assert!(
        layer
            .forward(
                &x,
                None,
                AdapterDropout {
                    probability: 0.1,
                    tokens: &tokens
                }
            )
            .is_err(),
        "keys for other tokens"
    );
    let (_, hidden) = layer.forward(&x, None, NO_DROPOUT).unwrap();
    assert!(
        layer
            .backward(
                &random("short", &[TOKENS - 1, OUTPUTS]),
                &x,
                hidden.as_ref(),
                NO_DROPOUT,
                true
            )
            .is_err()
    );
}
