//! The emulator itself: what its warps and blocks compute, and that it finds each kind of fault.

use half::bf16;

use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::assert_near;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::cuda_kernels::harness::launch_once;
use crate::cuda_kernels::harness::try_launch;
use crate::support::numbers;

#[test]
fn a_block_sums_through_shuffles_and_shared_memory() {
    if !is_emulated() {
        return;
    }
    let count = 1000;
    let x = Buffer::<f32>::input_from(&numbers("x", count));
    let sums = Buffer::<f32>::output(4);
    launch("sample_block_sum", 4, 256, 0, &[&sums, &x, &(count as i32)]);
    let expected: Vec<f64> = x
        .numbers()
        .chunks(256)
        .map(|chunk| chunk.iter().sum())
        .collect();
    assert_near("sums", &sums.numbers(), &expected, 1e-5);
}

#[test]
fn tensor_cores_multiply_by_the_definition() {
    if !is_emulated() {
        return;
    }
    let a = Buffer::<bf16>::input_from(&numbers("a", 256));
    let b = Buffer::<bf16>::input_from(&numbers("b", 128));
    let of_a = a.numbers();
    let of_b = b.numbers();
    let expected: Vec<f64> = (0..128)
        .map(|i| {
            (0..16)
                .map(|k| of_a[i / 8 * 16 + k] * of_b[k * 8 + i % 8])
                .sum()
        })
        .collect();
    for (kernel, shared) in [("sample_product", 0), ("sample_transposed", 768)] {
        let y = Buffer::<f32>::output(128);
        launch(kernel, 1, 32, shared, &[&y, &a, &b]);
        assert_near(kernel, &y.numbers(), &expected, 1e-6);
    }
}

#[test]
fn async_copies_are_visible_only_after_the_wait() {
    if !is_emulated() {
        return;
    }
    for missing in [0, 1, 3] {
        let x = Buffer::<f32>::input_from(&numbers("x", 256));
        let y = Buffer::<f32>::output(3 * 256);
        launch("sample_copies", 1, 32, 0, &[&y, &x, &missing]);
        let y = y.numbers();
        let x = x.numbers();
        for i in 0..256 {
            assert!(y[i].is_nan() && (y[256 + i].is_nan() || i % 8 < 4));
            assert_eq!(
                y[512 + i],
                if i as i32 % 8 >= 8 - missing {
                    0.0
                } else {
                    x[i]
                }
            );
            assert!(i % 8 >= 4 || y[256 + i] == x[i]);
        }
    }
}

#[test]
fn lanes_exchange_values() {
    if !is_emulated() {
        return;
    }
    let y = Buffer::<i32>::output(400);
    launch("sample_lanes", 1, 40, 0, &[&y]);
    let y = y.values();
    let threes = |from: usize| {
        (0..32)
            .filter(|lane| (from + lane).is_multiple_of(3))
            .fold(0u32, |votes, lane| votes | 1 << lane)
    };
    for thread in 0..40 {
        let warp = thread / 32 * 32;
        let lane = thread % 32;
        let found: Vec<usize> = y
            .iter()
            .skip(thread)
            .step_by(40)
            .map(|&value| value as usize)
            .collect();
        let xor = lane ^ 5;
        let expected = [
            warp + 3,
            warp + lane / 8 * 8 + 5,
            warp + xor,
            if lane % 8 < 6 { thread + 2 } else { thread },
            if lane % 8 >= 3 { thread - 3 } else { thread },
            (if warp == 0 {
                threes(0)
            } else {
                threes(32) & 0xff
            }) as i32 as usize,
            if warp == 0 { 2 } else { 1 },
            8,
            1,
            thread ^ 1,
        ];
        assert_eq!(found, expected, "thread {thread}");
    }
}

#[test]
fn roundings_are_to_nearest_even() {
    if !is_emulated() {
        return;
    }
    // Every e4m3 number, half ways between neighbours, and numbers around them; then bf16's own
    // ties.
    let codes: Vec<f32> = (0..127u8).map(e4m3).collect();
    let mut values: Vec<f32> = codes
        .windows(2)
        .flat_map(|pair| {
            [
                pair[0],
                (pair[0] + pair[1]) / 2.0,
                (pair[0] + pair[1]) / 2.0 * 1.0001,
            ]
        })
        .collect();
    values.extend([
        448.0,
        460.0,
        1e9,
        1e-4,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ]);
    values.extend(values.clone().iter().map(|value| -value));
    let x = Buffer::<f32>::input(&values);
    let as_bf16 = Buffer::<bf16>::output(values.len());
    let as_fp8 = Buffer::<f32>::output(values.len());
    launch(
        "sample_roundings",
        values.len().div_ceil(256),
        256,
        0,
        &[&as_bf16, &as_fp8, &x, &(values.len() as i32)],
    );
    for (i, (&value, found)) in values.iter().zip(as_fp8.values()).enumerate() {
        assert_eq!(as_bf16.values()[i], bf16::from_f32(value));
        // The nearest of all codes; of two as near, the one whose last bit is 0.
        let nearest = (0..127u8).min_by(|&a, &b| {
            let far = |code: u8| (f64::from(e4m3(code)) - f64::from(value.abs())).abs();
            far(a).total_cmp(&far(b)).then((a % 2).cmp(&(b % 2)))
        });
        assert_eq!(found.abs(), e4m3(nearest.unwrap()), "{value}");
        assert!(found == 0.0 || (found < 0.0) == (value < 0.0));
    }
}

/// The number of an e4m3 code below 0x7f, from the format's definition.
fn e4m3(code: u8) -> f32 {
    let exponent = i32::from(code >> 3);
    let mantissa = f32::from(code & 7);
    if exponent == 0 {
        mantissa / 8.0 * 2f32.powi(-6)
    } else {
        (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7)
    }
}

/// The error of the faulty kernel for one kind of fault.
fn fault(kind: i32) -> String {
    let y = Buffer::<f32>::output(64);
    let x = Buffer::<f32>::input_from(&vec![0.0; 64]);
    try_launch("sample_fault", 1, 64, 64, &[&y, &x, &kind])
        .err()
        .unwrap_or_default()
}

#[test]
fn every_fault_is_found() {
    if !is_emulated() {
        return;
    }
    assert_eq!(fault(0), "");
    let expected = [
        (1, "a barrier is not reached by all"),
        (2, "reads 0x"),
        (3, "writes just outside of argument 0"),
        (4, "writes 0x"),
        (6, "lanes of warp 0 diverge"),
        (7, "argument 0 depends on the order"),
        (8, "argument 0 depends on the order"),
        (9, "writes behind its 64 bytes of dynamic shared memory"),
        (10, "not aligned"),
        (11, "an index outside"),
        (12, "__ballot_sync of warp"),
        (13, "writes 0x"),
    ];
    for (kind, said) in expected {
        let message = fault(kind);
        assert!(
            message.contains(said),
            "{kind}: {message:?} does not say {said:?}"
        );
    }
    assert!(fault(2).contains("samples.cu:"), "{}", fault(2));
    // The emulator works after a fault.
    assert_eq!(fault(0), "");
}

#[test]
fn unwritten_memory_is_nan() {
    if !is_emulated() {
        return;
    }
    let y = Buffer::<f32>::output(64);
    let x = Buffer::<f32>::input_from(&vec![0.0; 64]);
    for _ in 0..2 {
        launch_once("sample_fault", 1, 64, 64, &[&y, &x, &5]);
        assert!(y.numbers().iter().all(|value| value.is_nan()));
        launch_once("sample_fault", 1, 64, 64, &[&y, &x, &0]);
        assert_each("zeros", &y.numbers(), &[0.0; 64], 0.0, 0.0);
    }
}

#[test]
fn launches_that_a_driver_refuses_are_refused() {
    if !is_emulated() {
        return;
    }
    let sums = Buffer::<f32>::output(1);
    let refused = |grid: (usize, usize), block: usize, shared: usize| {
        try_launch("sample_block_sum", grid, block, shared, &[&sums, &sums, &0]).unwrap_err()
    };
    assert!(refused((1, 65536), 256, 0).contains("a grid beyond"));
    assert!(refused((1, 1), 1025, 0).contains("a block beyond"));
    assert!(refused((1, 1), 256, 200_000).contains("dynamic shared memory"));
    assert!(
        try_launch("sample_block_sum", 1, 256, 0, &[&sums, &sums])
            .unwrap_err()
            .contains("takes 3 arguments")
    );
    assert!(
        try_launch("sample_block_sum", 1, 256, 0, &[&sums, &sums, &0i64])
            .unwrap_err()
            .contains("argument 2")
    );
    assert!(
        try_launch("no_such_kernel", 1, 256, 0, &[])
            .unwrap_err()
            .contains("registry.inc")
    );
}
