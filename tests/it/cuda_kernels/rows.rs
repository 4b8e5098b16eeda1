//! Kernels that look up, pick, pool, unfold, copy, rotate and quantise rows.

use half::bf16;
use maqam::ops::convolution;
use maqam::ops::fp8::quantise_row;
use maqam::ops::rows;

use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::assert_near;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::support::flat;
use crate::support::numbers;

/// Odd widths, packs that fill no block, the models' own, the longest that stays in registers, and
/// a longer one.
const DIMS: [usize; 7] = [1, 20, 257, 1280, 3584, 8192, 8200];
/// One rounding to bf16 is 2^-9.
const ROUNDED: f64 = 1.0 / 256.0;

fn random(name: &str, len: usize) -> Buffer<bf16> {
    Buffer::input_from(&numbers(name, len))
}

#[test]
fn rows_are_looked_up_and_written_over_bit_for_bit() {
    if !is_emulated() {
        return;
    }
    for dim in DIMS {
        let table = random("table", 5 * dim);
        let ids = [4u32, 0, 4, 2];
        let y = Buffer::<bf16>::output(ids.len() * dim);
        let on_gpu = Buffer::input(&ids);
        launch(
            "gather",
            ids.len(),
            256,
            0,
            &[&y, &table, &on_gpu, &(dim as i32)],
        );
        assert_eq!(
            y.numbers(),
            flat(&rows::gather(&table.tensor(&[5, dim]), &ids).unwrap())
        );

        let places = [3u32, 0];
        let target = Buffer::<bf16>::in_place_from(&table.numbers());
        let source = random("source", 2 * dim);
        let expected = target.tensor(&[5, dim]);
        rows::overwrite(&expected, &places, &source.tensor(&[2, dim])).unwrap();
        launch(
            "overwrite",
            2,
            256,
            0,
            &[&target, &Buffer::input(&places), &source, &(dim as i32)],
        );
        assert_eq!(target.numbers(), flat(&expected));
    }
}

#[test]
fn not_a_number_is_copied_with_its_bits() {
    if !is_emulated() {
        return;
    }
    let strange: Vec<bf16> = [
        0x7f81, 0xffc3, 0x7f80, 0x0001, 0x8000, 0x7fff, 0x3f80, 0xff80,
    ]
    .map(bf16::from_bits)
    .to_vec();
    let y = Buffer::<bf16>::output(8);
    let table = Buffer::input(&strange);
    launch(
        "gather",
        1,
        256,
        0,
        &[&y, &table, &Buffer::input(&[0u32]), &8i32],
    );
    assert!(
        y.values()
            .iter()
            .zip(&strange)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

#[test]
fn gradients_of_looked_up_rows_are_added_in_order() {
    if !is_emulated() {
        return;
    }
    let ids = [6u32, 1, 6, 6, 0, 1];
    let distinct = [0u32, 1, 6];
    let starts = [0u32, 1, 3, 6];
    let order = [4u32, 1, 5, 0, 2, 3];
    for dim in DIMS {
        let table = Buffer::<f32>::in_place_from(&numbers("table", 7 * dim));
        let d_rows = random("rows", ids.len() * dim);
        let expected = table.tensor(&[7, dim]);
        rows::scatter_add(&expected, &ids, &d_rows.tensor(&[ids.len(), dim])).unwrap();
        let on_gpu = Buffer::input(&distinct);
        let groups = Buffer::input(&starts);
        let members = Buffer::input(&order);
        launch(
            "scatter_add",
            distinct.len(),
            256,
            0,
            &[&table, &on_gpu, &groups, &members, &d_rows, &(dim as i32)],
        );
        assert_near("scatter_add", &table.numbers(), &flat(&expected), 1e-6);
    }
}

#[test]
fn pairs_are_pooled_as_by_the_crates_own() {
    if !is_emulated() {
        return;
    }
    let segments = [5usize, 2, 1, 4];
    let firsts = [0u32, 2, 5, 8, 10];
    let num_rows = 12;
    for dim in DIMS {
        let x = random("x", num_rows * dim);
        let dy = random("dy", firsts.len() * dim);
        let y = Buffer::<bf16>::output(firsts.len() * dim);
        let on_gpu = Buffer::input(&firsts);
        launch(
            "pool_pairs",
            firsts.len(),
            256,
            0,
            &[&y, &on_gpu, &x, &(dim as i32)],
        );
        let expected = rows::pool_pairs(&x.tensor(&[num_rows, dim]), &segments).unwrap();
        assert_each("pool_pairs", &y.numbers(), &flat(&expected), ROUNDED, 0.0);
        let dx = Buffer::<bf16>::in_place_from(&vec![0.0; num_rows * dim]);
        launch(
            "pool_pairs_backward",
            firsts.len(),
            256,
            0,
            &[&dx, &on_gpu, &dy, &(dim as i32)],
        );
        let expected =
            rows::pool_pairs_backward(&dy.tensor(&[firsts.len(), dim]), &segments).unwrap();
        assert_eq!(dx.numbers(), flat(&expected));
    }
}

#[test]
fn unfolding_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    for (windows, stride) in [
        (vec![5usize, 1, 4], 1),
        (vec![5, 1, 4], 2),
        (vec![1], 1),
        (vec![2, 2], 2),
    ] {
        let num_rows: usize = windows.iter().sum();
        let mut centres = Vec::new();
        let mut readers = vec![-1i32; 3 * num_rows];
        let mut start = 0;
        for &len in &windows {
            for i in 0..convolution::num_outputs(len, stride) {
                let row = start + i * stride;
                let output = (centres.len() / 3) as i32;
                centres.extend([row as i32, start as i32, (start + len) as i32]);
                (0..3)
                    .filter(|tap| (start + 1..start + len + 1).contains(&(row + tap)))
                    .for_each(|tap| readers[3 * (row + tap - 1) + tap] = output);
            }
            start += len;
        }
        let outputs = centres.len() / 3;
        for dim in [1, 20, 128, 1280, 2056] {
            let x = random("x", num_rows * dim);
            let dy = random("dy", outputs * 3 * dim);
            let y = Buffer::<bf16>::output(outputs * 3 * dim);
            let dx = Buffer::<bf16>::output(num_rows * dim);
            launch(
                "unfold",
                outputs,
                256,
                0,
                &[&y, &x, &Buffer::input(&centres), &(dim as i32)],
            );
            assert_eq!(
                y.numbers(),
                flat(&convolution::unfold(&x.tensor(&[num_rows, dim]), &windows, stride).unwrap())
            );
            launch(
                "unfold_backward",
                num_rows,
                256,
                0,
                &[&dx, &dy, &Buffer::input(&readers), &(dim as i32)],
            );
            let expected =
                convolution::unfold_backward(&dy.tensor(&[outputs, 3 * dim]), &windows, stride)
                    .unwrap();
            assert_each(
                "unfold_backward",
                &dx.numbers(),
                &flat(&expected),
                ROUNDED,
                1e-6,
            );
        }
    }
}

#[test]
fn a_bias_is_added_to_every_row() {
    if !is_emulated() {
        return;
    }
    for width in DIMS {
        let y = Buffer::<bf16>::in_place_from(&numbers("y", 3 * width));
        let bias = random("bias", width);
        let expected: Vec<f64> = y
            .numbers()
            .iter()
            .zip(bias.numbers().iter().cycle())
            .map(|(a, b)| a + b)
            .collect();
        launch("add_bias", 3, 256, 0, &[&y, &bias, &(width as i32)]);
        assert_each("add_bias", &y.numbers(), &expected, ROUNDED, 1e-7);
    }
}

#[test]
fn rows_are_added_to_rows_with_gaps() {
    if !is_emulated() {
        return;
    }
    for (width, stride) in [(8, 8), (64, 72), (3, 5), (300, 300), (16, 20)] {
        let x = random("x", 3 * width);
        let y = Buffer::<bf16>::in_place_from(&numbers("y", 3 * stride));
        let expected = added(&y.numbers(), &x.numbers(), width, stride);
        let row = width as i32;
        let apart = stride as i64;
        launch("add_rows_bf16", 3, 256, 0, &[&y, &apart, &x, &row]);
        assert_each("add_rows_bf16", &y.numbers(), &expected, ROUNDED, 1e-7);

        let x = Buffer::<f32>::in_place_from(&numbers("x", 3 * width));
        let y = Buffer::<f32>::in_place_from(&numbers("y", 3 * stride));
        let expected = added(&y.numbers(), &x.numbers(), width, stride);
        launch("add_rows_f32", 3, 256, 0, &[&y, &apart, &x, &row]);
        assert_each("add_rows_f32", &y.numbers(), &expected, 1e-6, 1e-7);
    }
}

/// Three rows of `y` with stride `stride`, with those of `x` added; values between the rows stay.
fn added(y: &[f64], x: &[f64], width: usize, stride: usize) -> Vec<f64> {
    let mut sums = y.to_vec();
    for (sums, x) in sums.chunks_exact_mut(stride).zip(x.chunks_exact(width)) {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    sums
}

#[test]
fn a_transpose_is_a_transpose() {
    if !is_emulated() {
        return;
    }
    for (rows, cols) in [(1, 1), (32, 32), (33, 31), (1, 100), (70, 5), (64, 96)] {
        let x = random("x", rows * cols);
        let y = Buffer::<bf16>::output(rows * cols);
        launch(
            "transpose",
            (cols.div_ceil(32), rows.div_ceil(32)),
            (32, 8),
            0,
            &[&y, &x, &(rows as i32), &(cols as i32)],
        );
        assert_eq!(
            y.numbers(),
            flat(&x.tensor(&[rows, cols]).t().unwrap().contiguous().unwrap())
        );
    }
}

#[test]
fn columns_are_copied_and_the_rest_stays() {
    if !is_emulated() {
        return;
    }
    // Widths in packs, a width without packs, strides without packs, and a row longer than the
    // registers hold.
    for (width, to, from) in [
        (512, 512, 4608),
        (20, 24, 40),
        (16, 20, 16),
        (16, 24, 17),
        (8208, 8216, 8208),
    ] {
        let num_rows = 3;
        let x = random("x", num_rows * from);
        let y = Buffer::<bf16>::in_place_from(&vec![7.0; num_rows * to]);
        launch(
            "copy_columns",
            num_rows,
            256,
            0,
            &[&y, &(to as i64), &x, &(from as i64), &(width as i32)],
        );
        let x = x.numbers();
        let y = y.numbers();
        for row in 0..num_rows {
            assert_eq!(y[row * to..][..width], x[row * from..][..width]);
            assert!(
                y[row * to + width..(row + 1) * to]
                    .iter()
                    .all(|&value| value == 7.0)
            );
        }
    }
}

/// The number of an e4m3 code, from the format's definition.
fn e4m3(code: u8) -> f64 {
    let exponent = i32::from(code >> 3 & 15);
    let mantissa = f64::from(code & 7);
    let size = if exponent == 0 {
        mantissa / 8.0 * 2f64.powi(-6)
    } else {
        (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7)
    };
    if code & 0x7f == 0x7f {
        f64::NAN
    } else if code >= 0x80 {
        -size
    } else {
        size
    }
}

/// The CPU's rounding is the reference, to the bit, because the effect of `fp8` on a loss is
/// measured on the CPU. The order of the codes checks the CPU's rounding in turn
/// (`tests/it/primitives/fp8.rs`).
#[test]
fn quantised_rows_are_those_of_the_cpu() {
    if !is_emulated() {
        return;
    }
    for width in DIMS {
        // Rows of different sizes, one of zeros, one huge, one among the least numbers of bf16;
        // cubes, so that small numbers reach the codes without exponent.
        let sizes = [1.0, 1e-3, 0.0, 3e4, 3e38, 1e-38];
        let values: Vec<f64> = numbers("x", sizes.len() * width)
            .into_iter()
            .enumerate()
            .map(|(i, value)| value.powi(3) * sizes[i / width])
            .collect();
        let x = Buffer::<bf16>::input_from(&values);
        let q = Buffer::<u8>::output(values.len());
        let scale = Buffer::<f32>::output(sizes.len());
        launch(
            "quantise_rows",
            sizes.len(),
            256,
            0,
            &[&q, &scale, &x, &(width as i32)],
        );
        let x = x.numbers();
        let scales = scale.values();
        for (row, codes) in q.values().chunks(width).enumerate() {
            let mut expected: Vec<f32> = x[row * width..][..width]
                .iter()
                .map(|&value| value as f32)
                .collect();
            assert_eq!(
                scales[row],
                quantise_row(&mut expected),
                "row {row} of {width}"
            );
            for (code, expected) in codes.iter().zip(expected) {
                assert_eq!(
                    (e4m3(*code) as f32).to_bits(),
                    expected.to_bits(),
                    "row {row} of {width}"
                );
            }
        }
    }
}

#[test]
fn ties_of_quantised_values_go_to_the_even_code() {
    if !is_emulated() {
        return;
    }
    // The scale is 1: 17 lies between 16 and 18 (mantissas 0 and 1), 19 between 18 and 20, 2^-10
    // between 0 and the least code.
    let values = [
        448.0,
        17.0,
        19.0,
        -17.0,
        2f64.powi(-10),
        3.0 * 2f64.powi(-10),
        0.0,
        432.0,
    ];
    let x = Buffer::<bf16>::input_from(&values);
    let q = Buffer::<u8>::output(8);
    let scale = Buffer::<f32>::output(1);
    launch("quantise_rows", 1, 256, 0, &[&q, &scale, &x, &8i32]);
    assert_eq!(scale.values(), [1.0]);
    let found: Vec<f64> = q.values().into_iter().map(e4m3).collect();
    assert_eq!(
        found,
        [448.0, 16.0, 20.0, -16.0, 0.0, 2f64.powi(-8), 0.0, 448.0]
    );
}

#[test]
fn non_finite_values_stay_in_quantised_rows() {
    if !is_emulated() {
        return;
    }
    for width in [9, 16] {
        let mut values = vec![1.0; 2 * width];
        values[3] = f64::NAN;
        values[width + 4] = f64::INFINITY;
        let x = Buffer::<bf16>::input_from(&values);
        let q = Buffer::<u8>::output(2 * width);
        let scale = Buffer::<f32>::output(2);
        launch(
            "quantise_rows",
            2,
            256,
            0,
            &[&q, &scale, &x, &(width as i32)],
        );
        let codes = q.values();
        assert!(e4m3(codes[3]).is_nan() && e4m3(codes[width + 4]).is_nan());
        assert!(codes[0] == 0x7e && scale.values()[1].is_infinite());
    }
}
