//! Passes that see one number after the other, or the halves of a head: activations, rotation,
//! dropout, conversions, fillings.

use half::bf16;
use maqam::ops::activation;
use maqam::ops::dropout::Dropout;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows;
use maqam::seed::Key;

use crate::cuda_kernels::harness::Argument;
use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::Memory;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::cuda_kernels::harness::launch_once;
use crate::support::flat;
use crate::support::numbers;

/// Values of a block in a pass without rows.
const STRETCH: usize = 2048;
/// One rounding to bf16 is 2^-9.
const ROUNDED: f64 = 1.0 / 256.0;
/// Error of an f32 difference of values around one.
const CANCELLED: f64 = 1e-6;
/// Counts that fill no pack, one, and blocks but for a part.
const COUNTS: [usize; 6] = [1, 7, 8, 2048, 2051, 4104];

/// A buffer from a byte on.
pub struct Elsewhere<'a, T>(pub &'a Buffer<T>, pub u64);

impl<T: Copy> Argument for Elsewhere<'_, T> {
    fn value(&self) -> [u8; 8] {
        (self.0.address() + self.1).to_ne_bytes()
    }
    fn kind(&self) -> char {
        'p'
    }
    fn size(&self) -> usize {
        8
    }
    fn memory(&self) -> Option<&Memory> {
        self.0.memory()
    }
}

/// Numbers around zero, some far from it, where activations saturate.
fn wide(name: &str, len: usize) -> Vec<f64> {
    numbers(name, len)
        .into_iter()
        .enumerate()
        .map(|(i, value)| value * [1.0, 4.0, 12.0, 100.0][i % 4])
        .collect()
}

#[test]
fn swiglu_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for (tokens, dim) in [(1, 1), (3, 20), (2, 8), (2, 2056), (1, 2045), (2, 4096)] {
        let gate_up = Buffer::<bf16>::input_from(&wide("gate_up", tokens * 2 * dim));
        let dy = Buffer::<bf16>::input_from(&numbers("dy", tokens * dim));
        let y = Buffer::<bf16>::output(tokens * dim);
        let d_gate_up = Buffer::<bf16>::output(tokens * 2 * dim);
        let grid = (dim.div_ceil(STRETCH), tokens);
        let width = dim as i32;
        let both_widths = 2 * dim as i32;
        launch("swiglu", grid, 256, 0, &[&y, &gate_up, &width, &width]);
        launch(
            "swiglu_backward",
            grid,
            256,
            0,
            &[&d_gate_up, &dy, &gate_up, &width, &both_widths],
        );
        for padding in [64, 3] {
            let apart = Buffer::<bf16>::output(tokens * (dim + padding));
            let d_apart = Buffer::<bf16>::output(tokens * (2 * dim + padding));
            launch(
                "swiglu",
                grid,
                256,
                0,
                &[&apart, &gate_up, &width, &(width + padding as i32)],
            );
            launch(
                "swiglu_backward",
                grid,
                256,
                0,
                &[
                    &d_apart,
                    &dy,
                    &gate_up,
                    &width,
                    &(both_widths + padding as i32),
                ],
            );
            assert_eq!(apart.rows(dim, dim + padding), y.numbers());
            assert_eq!(
                d_apart.rows(2 * dim, 2 * dim + padding),
                d_gate_up.numbers()
            );
        }
        let both = gate_up.tensor(&[tokens, 2 * dim]);
        // Far below zero e^-gate is beyond f32, and the sigmoid zero.
        assert_each(
            "swiglu",
            &y.numbers(),
            &flat(&activation::swiglu(&both, 0).unwrap()),
            ROUNDED,
            1e-34,
        );
        let expected = activation::swiglu_backward(&dy.tensor(&[tokens, dim]), &both, 0).unwrap();
        assert_each(
            "swiglu_backward",
            &d_gate_up.numbers(),
            &flat(&expected),
            ROUNDED,
            CANCELLED,
        );
    }
}

#[test]
fn gelu_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for count in COUNTS {
        let x = Buffer::<bf16>::input_from(&wide("x", count));
        let dy = Buffer::<bf16>::input_from(&numbers("dy", count));
        let y = Buffer::<bf16>::output(count);
        let dx = Buffer::<bf16>::output(count);
        let grid = count.div_ceil(STRETCH);
        launch("gelu", grid, 256, 0, &[&y, &x, &(count as i64)]);
        launch(
            "gelu_backward",
            grid,
            256,
            0,
            &[&dx, &dy, &x, &(count as i64)],
        );
        assert_each(
            "gelu",
            &y.numbers(),
            &flat(&activation::gelu(&x.tensor(&[count])).unwrap()),
            ROUNDED,
            1e-37,
        );
        let expected =
            activation::gelu_backward(&dy.tensor(&[count]), &x.tensor(&[count])).unwrap();
        assert_each(
            "gelu_backward",
            &dx.numbers(),
            &flat(&expected),
            ROUNDED,
            CANCELLED,
        );
    }
}

#[test]
fn activations_keep_non_finite_values() {
    if !is_emulated() {
        return;
    }
    let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let x = Buffer::<bf16>::input_from(&bad);
    let y = Buffer::<bf16>::output(3);
    launch("gelu", 1, 256, 0, &[&y, &x, &3i64]);
    assert!(y.numbers().iter().all(|value| !value.is_finite()));
    let gate_up = Buffer::<bf16>::input_from(&[bad, [1.0; 3]].concat());
    launch("swiglu", (1, 1), 256, 0, &[&y, &gate_up, &3i32, &3i32]);
    assert!(y.numbers().iter().all(|value| !value.is_finite()));
}

#[test]
fn rotation_is_the_crates_own_and_turns_back() {
    if !is_emulated() {
        return;
    }
    // Head sizes of the models, an odd half, heads with a part that is not rotated, and more pairs
    // than a block has threads.
    for (tokens, num_heads, head_dim, rest) in [
        (3, 32, 128, 512),
        (2, 20, 64, 0),
        (2, 3, 10, 7),
        (1, 1, 2, 0),
        (2, 70, 128, 8),
        (2, 2, 128, 4),
    ] {
        let width = num_heads * head_dim + rest;
        let positions: Vec<u32> = (0..tokens as u32).map(|i| i * 1000).collect();
        let values = numbers("x", tokens * width);
        let x = Buffer::<bf16>::in_place_from(&values);
        let expected = x.tensor(&[tokens, width]);
        let (cos, sin) = tables(&positions, head_dim / 2);
        Rotary::from_angles(&angles(&positions, head_dim / 2), head_dim, &expected)
            .unwrap()
            .apply(&expected, num_heads)
            .unwrap();
        let sizes = [width as i32, num_heads as i32, (head_dim / 2) as i32];
        launch(
            "rotate",
            tokens,
            256,
            0,
            &[&x, &cos, &sin, &sizes[0], &sizes[1], &sizes[2], &1.0f32],
        );
        assert_each("rotate", &x.numbers(), &flat(&expected), ROUNDED, CANCELLED);
        let turned = x.numbers();
        launch(
            "rotate",
            tokens,
            256,
            0,
            &[&x, &cos, &sin, &sizes[0], &sizes[1], &sizes[2], &-1.0f32],
        );
        let back =
            candle_core::Tensor::from_vec(turned, (tokens, width), &candle_core::Device::Cpu)
                .unwrap();
        Rotary::from_angles(&angles(&positions, head_dim / 2), head_dim, &back)
            .unwrap()
            .apply_backward(&back, num_heads)
            .unwrap();
        assert_each(
            "rotate back",
            &x.numbers(),
            &flat(&back),
            ROUNDED,
            CANCELLED,
        );
    }
}

/// Angles whose cosines and sines f32 holds well enough: what is compared is the rotation, not the
/// table.
fn angles(positions: &[u32], half: usize) -> Vec<f64> {
    positions
        .iter()
        .flat_map(|&position| {
            (0..half).map(move |i| f64::from(position) * 1e4f64.powf(-(i as f64) / half as f64))
        })
        .collect()
}

fn tables(positions: &[u32], half: usize) -> (Buffer<f32>, Buffer<f32>) {
    let angles = angles(positions, half);
    let table = |function: fn(f64) -> f64| {
        Buffer::input_from(
            &angles
                .iter()
                .map(|&angle| function(angle))
                .collect::<Vec<_>>(),
        )
    };
    (table(f64::cos), table(f64::sin))
}

#[test]
fn dropout_masks_equal_the_crates() {
    if !is_emulated() {
        return;
    }
    for (tokens, dim) in [(1, 1), (3, 20), (4, 1280), (1, 8200)] {
        for probability in [0.0, 0.05, 0.5] {
            let keys: Vec<Key> = (0..tokens as u64)
                .map(|token| Key::new(5, "dropout").with(token))
                .collect();
            let dropout = Dropout {
                probability,
                tokens: &keys,
                site: 7,
            };
            // No number is zero, so a zero has been dropped.
            let x = Buffer::<bf16>::input_from(
                &numbers("x", tokens * dim)
                    .into_iter()
                    .map(|value| value + 2.0)
                    .collect::<Vec<_>>(),
            );
            let of_site = Buffer::<u64>::input(
                &keys
                    .iter()
                    .map(|key| key.with(7).state())
                    .collect::<Vec<_>>(),
            );
            let y = Buffer::<bf16>::output(tokens * dim);
            let dropped = (probability * (1u64 << 53) as f64).ceil() as u64;
            let kept = (1.0 / (1.0 - probability)) as f32;
            let width = dim as i32;
            launch(
                "dropout",
                tokens,
                256,
                0,
                &[&y, &x, &of_site, &dropped, &kept, &width, &width],
            );
            for padding in [64, 3] {
                let again = Buffer::<bf16>::output(tokens * dim);
                let apart = Buffer::input_rows(&x.numbers(), dim, dim + padding);
                launch(
                    "dropout",
                    tokens,
                    256,
                    0,
                    &[
                        &again,
                        &apart,
                        &of_site,
                        &dropped,
                        &kept,
                        &width,
                        &(width + padding as i32),
                    ],
                );
                assert_eq!(again.values(), y.values());
            }
            let found = y.numbers();
            let expected = flat(&dropout.apply(&x.tensor(&[tokens, dim])).unwrap());
            assert!(
                found
                    .iter()
                    .zip(&expected)
                    .all(|(found, expected)| (*found == 0.0) == (*expected == 0.0))
            );
            assert_each("dropout", &found, &expected, ROUNDED, 0.0);
        }
    }
}

#[test]
fn sums_and_conversions_are_one_rounding() {
    if !is_emulated() {
        return;
    }
    for count in COUNTS {
        let grid = count.div_ceil(STRETCH);
        let size = count as i64;
        let a = Buffer::<bf16>::in_place_from(&numbers("a", count));
        let b = Buffer::<bf16>::input_from(&wide("b", count));
        let sum = a.tensor(&[count]);
        rows::add_to(&sum, &b.tensor(&[count])).unwrap();
        launch("add_to", grid, 256, 0, &[&a, &b, &size]);
        assert_eq!(
            a.values(),
            flat(&sum)
                .into_iter()
                .map(|value| bf16::from_f32(value as f32))
                .collect::<Vec<_>>()
        );

        let mut values = wide("x", count);
        values[count / 2] = f64::INFINITY;
        let x = Buffer::<f32>::input_from(&values);
        let narrow = Buffer::<bf16>::output(count);
        let wide = Buffer::<f32>::output(count);
        launch("to_bf16", grid, 256, 0, &[&narrow, &x, &size]);
        assert_eq!(
            narrow.values(),
            x.values()
                .into_iter()
                .map(bf16::from_f32)
                .collect::<Vec<_>>()
        );
        launch("to_f32", grid, 256, 0, &[&wide, &narrow, &size]);
        assert_eq!(
            wide.values(),
            narrow
                .values()
                .into_iter()
                .map(bf16::to_f32)
                .collect::<Vec<_>>()
        );

        let y = Buffer::<bf16>::output(count);
        let z = Buffer::<f32>::output(count);
        launch("fill_bf16", grid, 256, 0, &[&y, &1.5f32, &size]);
        launch("fill_f32", grid, 256, 0, &[&z, &0.1f32, &size]);
        assert!(
            y.values().iter().all(|&value| value == bf16::from_f32(1.5))
                && z.values().iter().all(|&value| value == 0.1)
        );
    }
    let not_a_number = Buffer::<f32>::input(&[f32::NAN; 9]);
    let y = Buffer::<bf16>::output(9);
    launch("to_bf16", 1, 256, 0, &[&y, &not_a_number, &9i64]);
    assert!(y.values().iter().all(|value| value.is_nan()));
}

#[test]
fn unaligned_values_are_added() {
    if !is_emulated() {
        return;
    }
    let a = Buffer::<bf16>::in_place_from(&[1.0; 4105]);
    let b = Buffer::<bf16>::input_from(&wide("b", 4104));
    launch("add_to", 3, 256, 0, &[&Elsewhere(&a, 2), &b, &4104i64]);
    let expected: Vec<f64> = b
        .numbers()
        .iter()
        .map(|value| bf16::from_f64(1.0 + value).to_f64())
        .collect();
    assert_eq!(a.numbers()[1..], expected);
    assert_eq!(a.numbers()[0], 1.0);
}

#[test]
fn random_values_follow_the_key_and_are_normal() {
    if !is_emulated() {
        return;
    }
    let count = 100_003;
    let key = Key::new(3, "weights");
    let deviation = 0.25f32;
    let y = Buffer::<bf16>::output(count);
    launch_once(
        "random_normal",
        count.div_ceil(STRETCH),
        256,
        0,
        &[&y, &(count as i64), &key.state(), &deviation],
    );
    let unit = 2f64.powi(-32);
    let expected: Vec<f64> = (0..count as u64)
        .map(|position| {
            let bits = key.bits(position);
            // As f32 holds it: near one the logarithm sees that rounding.
            let radius = f64::from(((bits >> 32) as f32 + 0.5) * unit as f32);
            let turns = (bits & 0xffff_ffff) as f64 * unit;
            f64::from(deviation)
                * (-2.0 * radius.ln()).sqrt()
                * (2.0 * std::f64::consts::PI * turns).cos()
        })
        .collect();
    let found = y.numbers();
    assert_each("random_normal", &found, &expected, ROUNDED, CANCELLED);
    let moment = |power: i32| {
        found
            .iter()
            .map(|value| (value / f64::from(deviation)).powi(power))
            .sum::<f64>()
            / count as f64
    };
    // Four standard errors of each moment.
    let errors = [
        (1, 0.0, 1.0f64),
        (2, 1.0, 2.0),
        (3, 0.0, 15.0),
        (4, 3.0, 96.0),
    ];
    for (power, of_normal, variance) in errors {
        assert!(
            (moment(power) - of_normal).abs() < 4.0 * (variance / count as f64).sqrt(),
            "moment {power}: {}",
            moment(power)
        );
    }
}
