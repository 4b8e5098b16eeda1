//! Padding of weights and inputs, with which one product computes a layer and its adapter: kernels
//! of adapter.cu.

use half::bf16;

use crate::cuda_kernels::harness::Argument;
use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::NULL;
use crate::cuda_kernels::harness::assert_near;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::support::flat;
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

/// Tokens, columns and rank of an up-projection; values behind the rows of dY, and between the rows
/// of h; tokens of a block.
struct Case {
    tokens: usize,
    columns: usize,
    rank: usize,
    padding: usize,
    hidden_stride: usize,
    tokens_of_block: usize,
}

/// Rows of `width` values, `stride` apart, with NaN between them.
fn apart(name: &str, rows: usize, width: usize, stride: usize) -> Buffer<bf16> {
    let values = numbers(name, rows * width);
    let rows = values.chunks(width).flat_map(|row| {
        let gap = std::iter::repeat_n(f64::NAN, stride - width);
        row.iter().copied().chain(gap)
    });
    Buffer::input_from(&rows.collect::<Vec<_>>())
}

fn check_backward(case: &Case) {
    /// Columns of a block.
    const COLUMNS: usize = 512;
    const SCALE: f64 = 0.75;
    let &Case {
        tokens,
        columns,
        rank,
        padding,
        hidden_stride,
        tokens_of_block,
    } = case;
    let what = |name: &str| format!("{name} of {tokens} tokens, {columns} columns, rank {rank}");
    let stride = columns + padding;
    let d_out = apart("d_out", tokens, columns, stride);
    let hidden = apart("hidden", tokens, rank, hidden_stride);
    let up = Buffer::<bf16>::input_from(&numbers("up", columns * rank));
    let before = numbers("gradient", columns * rank);
    let gradient = Buffer::<f32>::in_place_from(&before);
    let d_hidden = Buffer::<bf16>::output(tokens * hidden_stride);
    let chunks = columns.div_ceil(COLUMNS);
    let splits = tokens.div_ceil(tokens_of_block);
    // The sums below find every part written: NaN is there before.
    let of_hidden = Buffer::<f32>::output(chunks * tokens * rank);
    let of_up = Buffer::<f32>::output(splits * columns * rank);
    let sizes = [tokens, columns, stride, hidden_stride, tokens_of_block].map(|size| size as i32);
    launch(
        &format!("adapter_backward_{rank}"),
        (chunks, splits),
        128,
        if rank == 16 { 63_488 } else { 83_968 },
        &[
            &of_hidden, &of_up, &d_out, &hidden, &up, &sizes[0], &sizes[1], &sizes[2], &sizes[3],
            &sizes[4],
        ],
    );
    launch(
        "sum_adapter_hidden",
        (tokens * rank).div_ceil(STRETCH),
        256,
        0,
        &[
            &d_hidden,
            &of_hidden,
            &sizes[0],
            &(rank as i32),
            &(chunks as i32),
            &sizes[3],
            &(SCALE as f32),
        ],
    );
    launch(
        "sum_adapter_gradient",
        (columns * rank).div_ceil(STRETCH),
        256,
        0,
        &[
            &gradient,
            &of_up,
            &((columns * rank) as i32),
            &(splits as i32),
            &(SCALE as f32),
        ],
    );

    let rows = |buffer: &Buffer<bf16>, width: usize, stride: usize| {
        let all = buffer.tensor(&[tokens, stride]);
        all.narrow(1, 0, width).unwrap().contiguous().unwrap()
    };
    let d_out = rows(&d_out, columns, stride);
    let hidden = rows(&hidden, rank, hidden_stride);
    let up = up.tensor(&[columns, rank]);
    let expected = (d_out.matmul(&up).unwrap() * SCALE).unwrap();
    let found = d_hidden.numbers();
    let found = found.chunks(hidden_stride).flat_map(|row| &row[..rank]);
    // Rounded once, to 8 bits.
    assert_near(
        &what("dh"),
        &found.copied().collect::<Vec<_>>(),
        &flat(&expected),
        2f64.powi(-8),
    );
    let expected = (d_out.t().unwrap().matmul(&hidden).unwrap() * SCALE).unwrap();
    let before = before.iter().map(|&value| f64::from(value as f32));
    let expected: Vec<f64> = before.zip(flat(&expected)).map(|(a, b)| a + b).collect();
    // Sums in f32.
    assert_near(&what("dB"), &gradient.numbers(), &expected, 1e-5);
}

/// Fewer tokens than a tile and fewer columns than a piece, tails of both, blocks of several tiles,
/// columns of several blocks, rows that follow each other and rows with padding behind them.
#[test]
fn gradients_of_an_up_projection_are_two_products() {
    if !is_emulated() {
        return;
    }
    for (tokens, columns, rank, padding, hidden_stride, tokens_of_block) in [
        (1, 8, 16, 0, 16, 64),
        (63, 120, 16, 64, 48, 64),
        (130, 520, 16, 64, 16, 64),
        (200, 1032, 16, 8, 64, 128),
        (64, 512, 16, 0, 16, 64),
        (70, 136, 32, 64, 32, 128),
        (257, 640, 32, 64, 96, 64),
    ] {
        check_backward(&Case {
            tokens,
            columns,
            rank,
            padding,
            hidden_stride,
            tokens_of_block,
        });
    }
}
