//! Padding of weights and inputs, with which one product computes a layer and its adapter: kernels
//! of adapter.cu.

use half::bf16;

use crate::cuda_kernels::harness::Argument;
use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::NULL;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::support::numbers;

/// Values of a block.
const STRETCH: usize = 2048;

/// The kernel's `Copy`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Copy {
    from: u64,
    to: u64,
    stride: i64,
    rows: i32,
    columns: i32,
    first_block: i32,
    unused: i32,
}

#[test]
fn matrices_are_copied_beside_others() {
    if !is_emulated() {
        return;
    }
    // Whole packs, odd widths, none at all, rows of several blocks; the last one is a single
    // number.
    let shapes = [(16, 48), (37, 5), (0, 8), (3, 4104), (300, 16), (1, 1)];
    for padding in [64, 3] {
        let matrix = |(i, &(rows, columns)): (usize, &(usize, usize))| {
            Buffer::<bf16>::input_from(&numbers(&format!("from {i}"), rows * columns))
        };
        let from: Vec<Buffer<bf16>> = shapes.iter().enumerate().map(matrix).collect();
        let to: Vec<Buffer<bf16>> = shapes
            .iter()
            .map(|&(rows, columns)| Buffer::output(rows * (columns + padding)))
            .collect();
        let mut first_block = 0;
        let copies =
            shapes
                .iter()
                .zip(from.iter().zip(&to))
                .map(|(&(rows, columns), (from, to))| {
                    let stride = (columns + padding) as i64;
                    let copy = Copy {
                        from: from.address(),
                        to: to.address(),
                        stride,
                        rows: rows as i32,
                        columns: columns as i32,
                        first_block,
                        unused: 0,
                    };
                    first_block += (rows * columns).div_ceil(STRETCH) as i32;
                    copy
                });
        let copies = Buffer::input(&copies.collect::<Vec<_>>());
        launch(
            "copy_matrices",
            first_block as usize,
            256,
            0,
            &[&copies, &(shapes.len() as i32)],
        );
        for ((&(_, columns), from), to) in shapes.iter().zip(&from).zip(&to) {
            assert_eq!(to.rows(columns, columns + padding), from.numbers());
        }
    }
}

#[test]
fn the_first_product_is_written_after_its_rows() {
    if !is_emulated() {
        return;
    }
    for (rows, width, ranks, padding, gap) in [
        (1, 8, 16, 64, 0),
        (37, 40, 48, 64, 8),
        (70, 8, 64, 64, 0),
        (5, 3, 5, 64, 1),
        (9, 24, 8, 9, 2),
        (3, 8, 1, 64, 0),
    ] {
        let stride = width + padding + gap;
        let hidden = Buffer::<bf16>::input_from(&numbers("hidden", rows * ranks));
        let scales =
            Buffer::<f32>::input_from(&(0..ranks).map(|i| 0.5 + i as f64).collect::<Vec<_>>());
        for is_scaled in [false, true] {
            let x = Buffer::<bf16>::output(rows * stride);
            let factors: &dyn Argument = if is_scaled { &scales } else { NULL };
            let behind = crate::cuda_kernels::elementwise::Elsewhere(&x, 2 * width as u64);
            let sizes = [rows, ranks, padding, stride].map(|size| size as i32);
            let grid = (rows * padding).div_ceil(STRETCH);
            launch(
                "write_beside",
                grid,
                256,
                0,
                &[
                    &behind, &hidden, factors, &sizes[0], &sizes[1], &sizes[2], &sizes[3],
                ],
            );
            for (row, written) in x.numbers().chunks(stride).enumerate() {
                for (i, found) in written.iter().enumerate() {
                    match i.checked_sub(width) {
                        Some(i) if i < ranks => {
                            let factor = if is_scaled { scales.numbers()[i] } else { 1.0 };
                            assert_eq!(
                                *found,
                                bf16::from_f64(hidden.numbers()[row * ranks + i] * factor).to_f64(),
                                "row {row}, rank {i}"
                            );
                        }
                        Some(i) if i < padding => {
                            assert_eq!(*found, 0.0, "row {row}, column {i} of the padding")
                        }
                        _ => assert!(found.is_nan(), "row {row}, column {i} is not the padding's"),
                    }
                }
            }
        }
    }
}
