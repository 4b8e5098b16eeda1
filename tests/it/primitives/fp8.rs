//! Rounding to 8 bits against the format's definition and candle's type, and linear layers of 8
//! bits against their formula in `f64`.

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use maqam::ops::fp8::nearest;
use maqam::ops::fp8::quantise_row;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::weight::Weight;

use crate::support::NO_DROPOUT;
use crate::support::adapted;
use crate::support::assert_near;
use crate::support::flat;
use crate::support::keys;
use crate::support::numbers;
use crate::support::random;

/// The number of an e4m3 code, from the format's definition.
fn e4m3(code: u8) -> f64 {
    let exponent = i32::from(code >> 3 & 15);
    let mantissa = f64::from(code & 7);
    let size = if exponent == 0 {
        mantissa / 8.0 * 2f64.powi(-6)
    } else {
        (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
    };
    let signed = if code >= 0x80 { -size } else { size };
    if code & 0x7f == 0x7f {
        f64::NAN
    } else {
        signed
    }
}

/// Finds the nearest value of the format by search; ties go to the even code.
fn by_search(x: f64) -> f64 {
    // Differences to numbers far beyond the largest would all be the same.
    let far = |code: u8| (e4m3(code) - x.abs().min(512.0)).abs();
    let found = (0..127u8)
        .min_by(|&a, &b| far(a).total_cmp(&far(b)).then((a % 2).cmp(&(b % 2))))
        .unwrap();
    e4m3(found).copysign(x)
}

#[test]
fn every_code_is_its_own_nearest_number() {
    for code in 0..=255u8 {
        let exact = e4m3(code) as f32;
        let found = nearest(exact);
        assert!(
            if exact.is_nan() {
                found.is_nan()
            } else {
                found.to_bits() == exact.to_bits()
            },
            "code {code:#x}: {exact} became {found}"
        );
    }
    assert_eq!(
        (e4m3(0x7e), e4m3(0x01), e4m3(0x08)),
        (448.0, 2f64.powi(-9), 2f64.powi(-6)),
        "largest, least, and least with a leading one"
    );
}

#[test]
fn half_ways_between_codes_the_even_one_is_taken() {
    for code in 0..126u8 {
        let low = e4m3(code) as f32;
        let high = e4m3(code + 1) as f32;
        let middle = (low + high) / 2.0;
        for sign in [1.0, -1.0] {
            let even = if code % 2 == 0 { low } else { high };
            assert_eq!(
                nearest(sign * middle).to_bits(),
                (sign * even).to_bits(),
                "half ways between {low} and {high}"
            );
            assert_eq!(
                nearest(sign * middle.next_down()),
                sign * low,
                "just below half ways between {low} and {high}"
            );
            assert_eq!(
                nearest(sign * middle.next_up()),
                sign * high,
                "just above half ways between {low} and {high}"
            );
        }
    }
}

#[test]
fn large_values_are_clamped_and_nan_stays() {
    for large in [
        448.0,
        463.9,
        464.0,
        465.0,
        480.0,
        1e9,
        f32::MAX,
        f32::INFINITY,
    ] {
        assert_eq!((nearest(large), nearest(-large)), (448.0, -448.0));
    }
    for strange in [
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0x7fff_ffff),
        f32::from_bits(0xffff_ffff),
    ] {
        assert!(nearest(strange).is_nan(), "{:#x}", strange.to_bits());
    }
}

/// The type that candle stores tensors of 8 bits in rounds by code of its own.
#[test]
fn every_bf16_value_is_rounded_like_candle() {
    let all: Vec<f32> = (0..=u16::MAX)
        .map(|bits| bf16::from_bits(bits).to_f32())
        .filter(|x| !x.is_nan())
        .collect();
    let tensor = Tensor::from_vec(all.clone(), all.len(), &Device::Cpu).unwrap();
    let expected = flat(
        &tensor
            .to_dtype(DType::F8E4M3)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap(),
    );
    for (&x, expected) in all.iter().zip(expected) {
        assert_eq!(f64::from(nearest(x)), expected, "{x}");
    }
    for x in all.iter().step_by(97).filter(|x| x.is_finite()) {
        assert_eq!(f64::from(nearest(*x)), by_search(f64::from(*x)), "{x}");
    }
}

/// A row's scale and codes from the definition: its numbers in bf16, over the largest magnitude
/// by 448.
fn row_by_definition(row: &[f32]) -> (f32, Vec<f64>) {
    let row: Vec<f32> = row.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    let most = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = if most > 0.0 { most / 448.0 } else { 1.0 };
    (
        scale,
        row.iter()
            .map(|x| by_search(f64::from(x / scale)))
            .collect(),
    )
}

#[test]
fn rows_have_scales_of_their_own() {
    let cases: [(&str, Vec<f32>); 7] = [
        ("zeros", vec![0.0, -0.0, 0.0]),
        (
            "one huge value beside small ones",
            vec![3e38, 1.0, -2e36, 1e35, 7e32],
        ),
        ("subnormal in f32", vec![1e-39, -3e-40, 2e-41, 0.0]),
        ("below bf16's least number", vec![1e-44, -1e-44]),
        (
            "subnormal in e4m3 after the scale",
            (0..64)
                .map(|i| if i == 0 { 1.0 } else { i as f32 * 2e-6 })
                .collect(),
        ),
        (
            "a number with more bits than bf16 has",
            vec![448.0 * (1.0 + 1.0 / 512.0 + 1e-6), 1.0],
        ),
        (
            "ordinary numbers",
            numbers("row", 257)
                .into_iter()
                .map(|x| x.powi(3) as f32)
                .collect(),
        ),
    ];
    for (what, row) in cases {
        let (scale, codes) = row_by_definition(&row);
        let mut found = row.clone();
        assert_eq!(quantise_row(&mut found), scale, "{what}");
        assert_eq!(
            found.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
            codes,
            "{what}"
        );
    }
    let mut zeros = [0f32; 4];
    assert_eq!((quantise_row(&mut zeros), zeros), (1.0, [0.0; 4]));
    let mut huge = [448.0, 2f32.powi(-10), 0.5];
    assert_eq!(
        (quantise_row(&mut huge), huge),
        (1.0, [448.0, 0.0, 0.5]),
        "half of the least number is gone"
    );
    let mut with_nan = [f32::NAN, 224.0, -1.0];
    assert_eq!(
        quantise_row(&mut with_nan),
        0.5,
        "the scale passes NaN over"
    );
    assert!(with_nan[0].is_nan() && with_nan[1..] == [448.0, -2.0]);
    let mut with_infinity = [1.0, f32::NEG_INFINITY];
    assert_eq!(quantise_row(&mut with_infinity), f32::INFINITY);
    assert!(
        with_infinity[1].is_nan(),
        "an infinity is seen in what is computed with"
    );
}

const TOKENS: usize = 9;
const INPUTS: usize = 40;
const OUTPUTS: usize = 24;

/// Numbers as they are after rounding by rows, in `f64`.
fn rows_rounded(x: &Tensor) -> Tensor {
    let (rows, width) = x.dims2().unwrap();
    let values: Vec<f32> = flat(x).into_iter().map(|x| x as f32).collect();
    let each = values.chunks(width).flat_map(|row| {
        let (scale, codes) = row_by_definition(row);
        codes.into_iter().map(move |code| code * f64::from(scale))
    });
    Tensor::from_vec(each.collect(), (rows, width), &Device::Cpu).unwrap()
}

/// A layer's numbers in single precision.
fn single(mut layer: Linear) -> Linear {
    for weight in layer.weights_mut() {
        let narrow = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
        *weight = match &weight.gradient {
            Some(gradient) => Weight::trained(narrow(&weight.value), narrow(gradient)),
            None => Weight::frozen(narrow(&weight.value)),
        };
    }
    layer
}

/// An adapted layer of a frozen weight, in `f64` and in 8 bits.
fn layers(ups: &[(std::ops::Range<usize>, usize)]) -> (Linear, Linear) {
    let mut exact = adapted("layer", INPUTS, OUTPUTS, ups);
    exact.weight.gradient = None;
    if ups.is_empty() {
        exact.adapter = None;
    }
    let mut eight = single(exact.clone());
    eight.quantise().unwrap();
    (exact, eight)
}

/// Every product and sum of the layer in 8 bits is single precision's; nothing else may be between
/// it and the formula.
const SINGLE: f64 = 3e-6;

#[test]
fn passes_equal_the_formula_on_rounded_operands() {
    let token_keys = keys(2, TOKENS);
    let dropped = AdapterDropout {
        probability: 0.3,
        tokens: &token_keys,
    };
    let x = random("x", &[TOKENS, INPUTS]);
    let dy = random("dy", &[TOKENS, OUTPUTS]);
    let residual = random("residual", &[TOKENS, OUTPUTS]);
    // Rows of very different sizes: one scale for all would lose the small ones.
    let sizes = Tensor::from_vec(
        (0..TOKENS).map(|i| 10f64.powi(i as i32 % 5 - 2)).collect(),
        (TOKENS, 1),
        &Device::Cpu,
    )
    .unwrap();
    let x = x.broadcast_mul(&sizes).unwrap();
    let dy = dy.broadcast_mul(&sizes).unwrap();
    let narrow = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
    for (ups, dropout) in [
        (vec![], NO_DROPOUT),
        (vec![(0..10, 3), (12..24, 2)], NO_DROPOUT),
        (vec![(0..24, 4)], dropped),
    ] {
        let (exact, mut eight) = layers(&ups);
        let weight = &exact.weight.value;
        let by_output = rows_rounded(weight);
        let by_input = rows_rounded(&weight.t().unwrap().contiguous().unwrap());
        // The exact layer with a rounded weight, corrected by what rounding `x` takes away: the
        // adapter sees `x` as it is.
        let (y, hidden) = eight
            .forward(&narrow(&x), Some(&narrow(&residual)), dropout)
            .unwrap();
        let (plain, exact_hidden) = exact.forward(&x, Some(&residual), dropout).unwrap();
        let product =
            |x: &Tensor, w: &Tensor| x.matmul(&w.t().unwrap().contiguous().unwrap()).unwrap();
        let expected = ((plain - product(&x, weight)).unwrap()
            + product(&rows_rounded(&x), &by_output))
        .unwrap();
        assert_near(
            "output",
            &y.to_dtype(DType::F64).unwrap(),
            &expected,
            SINGLE,
        );
        let unrounded = product(&x, weight);
        assert!(
            crate::support::distance(&product(&rows_rounded(&x), &by_output), &unrounded) > 1e-3,
            "the rounding is seen"
        );

        let dx = eight
            .backward(&narrow(&dy), &narrow(&x), hidden.as_ref(), dropout, true)
            .unwrap()
            .unwrap();
        let plain = exact
            .backward(&dy, &x, exact_hidden.as_ref(), dropout, true)
            .unwrap()
            .unwrap();
        let straight = dy.matmul(weight).unwrap();
        let expected =
            ((plain - &straight).unwrap() + product(&rows_rounded(&dy), &by_input)).unwrap();
        assert_near(
            "gradient of the input",
            &dx.to_dtype(DType::F64).unwrap(),
            &expected,
            SINGLE,
        );
        assert!(
            eight
                .backward(&narrow(&dy), &narrow(&x), hidden.as_ref(), dropout, false)
                .unwrap()
                .is_none()
        );
        for (found, exact) in eight
            .weights_mut()
            .into_iter()
            .zip(exact.clone().weights_mut())
        {
            assert_eq!(found.gradient.is_some(), exact.gradient.is_some());
            if let (Some(found), Some(exact)) = (&found.gradient, &exact.gradient) {
                // Twice on one side: once with the input's gradient and once without.
                let twice = (exact * 2.0).unwrap();
                assert_near(
                    "gradients of bias and adapters see no rounding",
                    &found.to_dtype(DType::F64).unwrap(),
                    &twice,
                    SINGLE,
                );
            }
        }
    }
}

#[test]
fn a_weight_is_rounded_once_and_in_both_orientations() {
    let (exact, mut eight) = layers(&[]);
    let quantised = eight.weight.quantised.clone().unwrap();
    assert_eq!(
        (quantised.transposed.dims(), quantised.scales.is_none()),
        (&[INPUTS, OUTPUTS][..], true)
    );
    let turned = exact.weight.value.t().unwrap().contiguous().unwrap();
    assert_near(
        "by output",
        &eight.weight.value.to_dtype(DType::F64).unwrap(),
        &rows_rounded(&exact.weight.value),
        1e-7,
    );
    assert_near(
        "by input",
        &quantised.transposed.to_dtype(DType::F64).unwrap(),
        &rows_rounded(&turned),
        1e-7,
    );
    let before = flat(&eight.weight.value);
    eight.quantise().unwrap();
    assert_eq!(flat(&eight.weight.value), before);
    // What was rounded by rows is rounded by columns as well: products of powers of two are held as
    // they are.
    let powers: Vec<f32> = (0..INPUTS * OUTPUTS)
        .map(|i| {
            if i % 7 == 0 {
                448.0
            } else {
                2f32.powi(i as i32 % 9 - 4)
            }
        })
        .collect();
    let powers = Tensor::from_vec(powers, (OUTPUTS, INPUTS), &Device::Cpu).unwrap();
    let mut held = Linear::frozen(powers.clone(), None);
    held.quantise().unwrap();
    assert_eq!(flat(&held.weight.value), flat(&powers));
}

#[test]
fn rows_are_independent_and_may_be_none() {
    let (_, layer) = layers(&[(0..24, 4)]);
    let x = random("x", &[TOKENS, INPUTS]).to_dtype(DType::F32).unwrap();
    let (y, _) = layer.forward(&x, None, NO_DROPOUT).unwrap();
    for row in 0..TOKENS {
        let (alone, _) = layer
            .forward(
                &x.narrow(0, row, 1).unwrap().contiguous().unwrap(),
                None,
                NO_DROPOUT,
            )
            .unwrap();
        assert_near("a row alone", &alone, &y.narrow(0, row, 1).unwrap(), 1e-6);
    }
    let none = Tensor::zeros((0, INPUTS), DType::F32, &Device::Cpu).unwrap();
    let (y, hidden) = layer.forward(&none, None, NO_DROPOUT).unwrap();
    assert_eq!(y.dims(), [0, OUTPUTS]);
    let dx = layer
        .backward(&y, &none, hidden.as_ref(), NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    assert_eq!(dx.dims(), [0, INPUTS]);
}

#[test]
fn weights_that_cannot_be_fp8_are_refused() {
    let mut trained = adapted("trained", INPUTS, OUTPUTS, &[]);
    assert!(
        trained
            .quantise()
            .unwrap_err()
            .to_string()
            .contains("trained")
    );
    let mut wide = Linear::frozen(random("weight", &[OUTPUTS, INPUTS]), None);
    assert!(wide.quantise().unwrap_err().to_string().contains("F32"));
    let (_, layer) = layers(&[]);
    assert!(
        layer
            .forward(&random("x", &[TOKENS, INPUTS]), None, NO_DROPOUT)
            .unwrap_err()
            .to_string()
            .contains("F32")
    );
}
