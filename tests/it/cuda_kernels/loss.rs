//! The loss, the optimiser's update and the gradient's norm.

use candle_core::DType;
use candle_core::Tensor;
use half::bf16;
use maqam::ops::adamw::AdamW;
use maqam::ops::adamw::Buffers;
use maqam::ops::adamw::Clip;
use maqam::ops::adamw::Segment;
use maqam::ops::cross_entropy::Losses;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::scalar::Scalar;
use maqam::ops::weight::Weight;

use crate::cuda_kernels::elementwise::Elsewhere;
use crate::cuda_kernels::harness::Argument;
use crate::cuda_kernels::harness::Buffer;
use crate::cuda_kernels::harness::NULL;
use crate::cuda_kernels::harness::assert_each;
use crate::cuda_kernels::harness::is_emulated;
use crate::cuda_kernels::harness::launch;
use crate::support::flat;
use crate::support::gradient;
use crate::support::numbers;
use crate::support::trained;

/// One rounding to bf16 is 2^-9.
const ROUNDED: f64 = 1.0 / 256.0;
/// Error of f32 sums over a row.
const SUMMED: f64 = 1e-5;

/// The crate's own loss of given logits `[rows, vocab]`: rows of the identity meet a head of the
/// logits, whose gradient is theirs.
fn reference(logits: &Tensor, targets: Targets) -> (Losses, Vec<f64>) {
    let (rows, _) = logits.dims2().unwrap();
    let head: Weight = trained(logits.t().unwrap().contiguous().unwrap());
    let identity = Tensor::eye(rows, DType::F64, logits.device()).unwrap();
    let found = linear_cross_entropy(&identity, &head, targets, true).unwrap();
    (
        found.read().unwrap(),
        flat(&gradient(&head).t().unwrap().contiguous().unwrap()),
    )
}

#[test]
fn cross_entropy_is_the_crates_own() {
    if !is_emulated() {
        return;
    }
    // Vocabularies below a pack, of no packs, of packs that fill no block, and the models' own; the
    // target first, last, anywhere.
    for (vocab, spread) in [
        (2, 3.0),
        (19, 5.0),
        (1000, 30.0),
        (4099, 1.0),
        (152_064, 12.0),
    ] {
        let ids = [0, vocab as u32 - 1, vocab as u32 / 2];
        let weights = [1.0, 0.25, 1e-4];
        let rows = ids.len();
        // One row whose largest logit is last, so that the running maximum increases.
        let rising = |i: usize, value: f64| {
            if i / vocab == 1 {
                (i % vocab) as f64 / vocab as f64 * spread + value
            } else {
                value * spread
            }
        };
        let values: Vec<f64> = numbers("logits", rows * vocab)
            .into_iter()
            .enumerate()
            .map(|(i, value)| rising(i, value))
            .collect();
        let logits = Buffer::<f32>::input_from(&values);
        let targets = Buffer::input(&ids);
        let on_gpu = Buffer::input(&weights);
        for label_smoothing in [0.0, 0.1] {
            let (loss, log_probability) =
                (Buffer::<f32>::output(rows), Buffer::<f32>::output(rows));
            let d_logits = Buffer::<bf16>::output(rows * vocab);
            let smoothing = label_smoothing as f32;
            let arguments: [&dyn Argument; 8] = [
                &loss,
                &log_probability,
                &d_logits,
                &logits,
                &targets,
                &on_gpu,
                &smoothing,
                &(vocab as i32),
            ];
            launch("cross_entropy", rows, 512, 0, &arguments);
            // The gradient takes the weights in single precision.
            let rounded_weights = weights.map(|weight| f64::from(weight as f32));
            let wanted = Targets {
                ids: &ids,
                weights: &rounded_weights,
                label_smoothing: f64::from(smoothing),
            };
            let (expected, of_logits) = reference(&logits.tensor(&[rows, vocab]), wanted);
            assert_each(
                "log-probability",
                &log_probability.numbers(),
                &expected.log_probabilities,
                SUMMED,
                SUMMED,
            );
            // A gradient that is almost zero relative to its row's largest is an f32 difference.
            for (row, weight) in weights.iter().enumerate().take(rows) {
                let range = row * vocab..(row + 1) * vocab;
                let floor = 1e-6 * weight / (vocab as f64).min(1e3);
                assert_each(
                    "gradient",
                    &d_logits.numbers()[range.clone()],
                    &of_logits[range],
                    ROUNDED,
                    floor,
                );
                let alone: Vec<f64> = (0..rows).map(|i| f64::from(i == row)).collect();
                let (of_row, _) = reference(
                    &logits.tensor(&[rows, vocab]),
                    Targets {
                        weights: &alone,
                        ..wanted
                    },
                );
                assert_each(
                    "loss",
                    &loss.numbers()[row..=row],
                    &[of_row.loss],
                    SUMMED,
                    SUMMED,
                );
            }
            let again = Buffer::<f32>::output(rows);
            let probability = Buffer::<f32>::output(rows);
            launch(
                "cross_entropy",
                rows,
                512,
                0,
                &[
                    &again,
                    &probability,
                    NULL,
                    &logits,
                    &targets,
                    &on_gpu,
                    &smoothing,
                    &(vocab as i32),
                ],
            );
            assert_eq!(
                (again.values(), probability.values()),
                (loss.values(), log_probability.values())
            );
        }
    }
}

#[test]
fn non_finite_logits_reach_the_loss() {
    if !is_emulated() {
        return;
    }
    for vocab in [19, 1000] {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut values = numbers("logits", 2 * vocab);
            values[vocab / 2] = bad;
            let logits = Buffer::<f32>::input_from(&values);
            let targets = Buffer::input(&[3u32, 3]);
            let weights = Buffer::input(&[1.0f64, 1.0]);
            let loss = Buffer::<f32>::output(2);
            let log_probability = Buffer::<f32>::output(2);
            let d_logits = Buffer::<bf16>::output(2 * vocab);
            let arguments: [&dyn Argument; 8] = [
                &loss,
                &log_probability,
                &d_logits,
                &logits,
                &targets,
                &weights,
                &0.0f32,
                &(vocab as i32),
            ];
            launch("cross_entropy", 2, 512, 0, &arguments);
            assert!(
                !loss.values()[0].is_finite()
                    && !log_probability.values()[0].is_finite()
                    && loss.values()[1].is_finite()
            );
            assert!(
                d_logits.values()[..vocab]
                    .iter()
                    .any(|value| !value.is_finite())
                    && d_logits.values()[vocab..]
                        .iter()
                        .all(|value| value.is_finite())
            );
        }
        // Nothing but NaN, and nothing but negative infinity: no finite loss either. A single logit
        // that is ruled out costs nothing.
        for (value, is_finite) in [(f64::NAN, false), (f64::NEG_INFINITY, false)] {
            let logits = Buffer::<f32>::input_from(&vec![value; vocab]);
            assert_eq!(loss_of(&logits, vocab).is_finite(), is_finite);
        }
        let mut values = numbers("logits", vocab);
        values[5] = f64::NEG_INFINITY;
        let found = loss_of(&Buffer::<f32>::input_from(&values), vocab);
        let sum: f64 = values
            .iter()
            .map(|value| (f64::from(*value as f32)).exp())
            .sum();
        assert_each(
            "loss",
            &[found],
            &[sum.ln() - f64::from(values[3] as f32)],
            SUMMED,
            0.0,
        );
    }
}

fn loss_of(logits: &Buffer<f32>, vocab: usize) -> f64 {
    let loss = Buffer::<f32>::output(1);
    let log_probability = Buffer::<f32>::output(1);
    let target = Buffer::input(&[3u32]);
    let weight = Buffer::input(&[1.0f64]);
    launch(
        "cross_entropy",
        1,
        512,
        0,
        &[
            &loss,
            &log_probability,
            NULL,
            logits,
            &target,
            &weight,
            &0.0f32,
            &(vocab as i32),
        ],
    );
    loss.numbers()[0]
}

/// The kernel's `Segment`.
#[derive(Clone, Copy)]
#[repr(C)]
struct GpuSegment {
    start: i64,
    end: i64,
    rate: f32,
    keep: f32,
    root: f32,
    unused: u32,
}

const SETTINGS: AdamW = AdamW {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
};

fn segments(ends: &[(usize, usize)]) -> Vec<Segment> {
    let of = |(i, &(start, end)): (usize, &(usize, usize))| Segment {
        range: start..end,
        learning_rate: 1e-3 * (i + 1) as f64,
        decay: i % 2 == 0,
        step: 1 + 3 * i as u64,
    };
    ends.iter().enumerate().map(of).collect()
}

fn gpu_segments(segments: &[Segment]) -> Buffer<GpuSegment> {
    let of = |segment: &Segment| {
        let step = segment.step as i32;
        let keep = if segment.decay {
            1.0 - segment.learning_rate * SETTINGS.weight_decay
        } else {
            1.0
        };
        GpuSegment {
            start: segment.range.start as i64,
            end: segment.range.end as i64,
            rate: (segment.learning_rate / (1.0 - SETTINGS.beta1.powi(step))) as f32,
            keep: keep as f32,
            root: (1.0 / (1.0 - SETTINGS.beta2.powi(step)).sqrt()) as f32,
            unused: 0,
        }
    };
    Buffer::input(&segments.iter().map(of).collect::<Vec<_>>())
}

#[test]
fn adamw_is_the_crates_own_in_segments_with_gaps() {
    if !is_emulated() {
        return;
    }
    let count = 5003;
    // One segment of packs; segments that begin and end inside packs, with gaps, three inside one
    // pack; none at all inside a block.
    let layouts: [&[(usize, usize)]; 4] = [
        &[(0, 5000)],
        &[(0, 5), (16, 2100), (2100, 2103), (2110, 5001)],
        &[(9, 10), (11, 12), (13, 5003)],
        &[(4800, 4900)],
    ];
    let named = |name: &str| -> Vec<f64> {
        numbers(name, count)
            .into_iter()
            .map(|value| f64::from(value as f32))
            .collect()
    };
    for (layout, shift) in layouts
        .iter()
        .flat_map(|layout| [(layout, 0usize), (layout, 1)])
    {
        let segments = segments(layout);
        let end = segments
            .iter()
            .map(|segment| segment.range.end)
            .max()
            .unwrap();
        // A second moment is never negative; what lies before a shifted buffer must stay.
        let shifted = |values: &[f64]| {
            Buffer::<f32>::in_place_from(&[&vec![9.0; shift][..], values].concat())
        };
        let seconds: Vec<f64> = named("second").iter().map(|value| value * value).collect();
        let values = shifted(&named("values"));
        let first = shifted(&named("first"));
        let second = shifted(&seconds);
        let gradients = Buffer::<f32>::input_from(&named("gradients"));
        let copy = Buffer::<bf16>::output(count);
        let tensor = |values: &[f64]| {
            Tensor::from_vec(
                values.iter().map(|&value| value as f32).collect::<Vec<_>>(),
                count,
                &candle_core::Device::Cpu,
            )
            .unwrap()
        };
        let of_values = tensor(&named("values"));
        let of_first = tensor(&named("first"));
        let of_second = tensor(&seconds);
        let buffers = Buffers {
            values: &of_values,
            gradients: &tensor(&named("gradients")),
            first: &of_first,
            second: &of_second,
            copy: None,
        };
        // Half as long as it was.
        let loss = 2.5;
        let norm = 7.25;
        let max_norm = 3.625;
        let scalar = |value| Scalar::new(value, &candle_core::Device::Cpu).unwrap();
        SETTINGS
            .update(
                buffers,
                &segments,
                Clip {
                    loss: &scalar(loss),
                    norm: &scalar(norm),
                    max_norm,
                },
            )
            .unwrap();

        let from = 4 * shift as u64;
        let table = gpu_segments(&segments);
        let num_segments = segments.len() as i32;
        let at = Elsewhere(&values, from);
        let m = Elsewhere(&first, from);
        let v = Elsewhere(&second, from);
        let loss = Buffer::input(&[loss]);
        let norm = Buffer::input(&[norm]);
        let [beta1, beta2, rest1, rest2, eps] = in_single();
        let arguments: [&dyn Argument; 15] = [
            &at,
            &m,
            &v,
            &copy,
            &gradients,
            &table,
            &num_segments,
            &beta1,
            &beta2,
            &rest1,
            &rest2,
            &eps,
            &max_norm,
            &norm,
            &loss,
        ];
        launch("adamw", end.div_ceil(2048), 256, 0, &arguments);
        for (what, found, expected) in [
            ("values", &values, of_values),
            ("first", &first, of_first),
            ("second", &second, of_second),
        ] {
            assert_each(
                what,
                &found.numbers()[shift..],
                &flat(&expected),
                5e-7,
                1e-7,
            );
            assert!(found.numbers()[..shift].iter().all(|&value| value == 9.0));
        }
        let is_in = |i: usize| segments.iter().any(|segment| segment.range.contains(&i));
        let copied = copy.values();
        for (i, value) in values.values()[shift..].iter().enumerate() {
            assert!(
                if is_in(i) {
                    copied[i] == bf16::from_f32(*value)
                } else {
                    copied[i].is_nan() && f64::from(*value) == named("values")[i]
                },
                "number {i}"
            );
        }
    }
}

/// Betas, their complements and eps as the kernel takes them.
fn in_single() -> [f32; 5] {
    let AdamW {
        beta1, beta2, eps, ..
    } = SETTINGS;
    [beta1, beta2, 1.0 - beta1, 1.0 - beta2, eps].map(|value| value as f32)
}

/// The three buffers and the copy after an update of 20 numbers.
fn updated(loss: f64, norm: f64, max_norm: f64) -> (Vec<Vec<f32>>, Vec<bf16>) {
    let of = |name: &str| {
        numbers(name, 20)
            .into_iter()
            .map(f64::abs)
            .collect::<Vec<_>>()
    };
    let buffers = ["values", "first", "second"].map(|name| Buffer::<f32>::in_place_from(&of(name)));
    let [values, first, second] = &buffers;
    let gradients = Buffer::<f32>::input_from(&of("gradients"));
    let copy = Buffer::<bf16>::in_place_from(&[7.0; 20]);
    let table = gpu_segments(&segments(&[(0, 20)]));
    let loss = Buffer::input(&[loss]);
    let norm = Buffer::input(&[norm]);
    let [beta1, beta2, rest1, rest2, eps] = in_single();
    let arguments: [&dyn Argument; 15] = [
        values, first, second, &copy, &gradients, &table, &1i32, &beta1, &beta2, &rest1, &rest2,
        &eps, &max_norm, &norm, &loss,
    ];
    launch("adamw", 1, 256, 0, &arguments);
    (buffers.iter().map(Buffer::values).collect(), copy.values())
}

#[test]
fn the_gradient_is_clipped_by_the_norm_on_the_gpu() {
    if !is_emulated() {
        return;
    }
    let gradients: Vec<f64> = numbers("gradients", 20)
        .into_iter()
        .map(|value| f64::from(value.abs() as f32))
        .collect();
    let first: Vec<f64> = numbers("first", 20)
        .into_iter()
        .map(|value| f64::from(value.abs() as f32))
        .collect();
    for (norm, max_norm, factor) in [
        (4.0, 1.0, 1.0 / 4.000_001),
        (0.5, 1.0, 1.0),
        (4.0, 0.0, 1.0),
        (0.0, 0.3, 1.0),
        (1e-9, 1e-7, 1e-7 / 1.001e-6),
    ] {
        let expected: Vec<f64> = first
            .iter()
            .zip(&gradients)
            .map(|(m, g)| 0.9 * m + 0.1 * factor * g)
            .collect();
        let (found, _) = updated(1.0, norm, max_norm);
        assert_each(
            "first",
            &found[1]
                .iter()
                .map(|&value| f64::from(value))
                .collect::<Vec<_>>(),
            &expected,
            5e-7,
            0.0,
        );
    }
}

#[test]
fn a_step_that_is_not_finite_moves_nothing() {
    if !is_emulated() {
        return;
    }
    let before: Vec<Vec<f32>> = ["values", "first", "second"]
        .map(|name| {
            numbers(name, 20)
                .into_iter()
                .map(|value| value.abs() as f32)
                .collect()
        })
        .to_vec();
    for (loss, norm) in [
        (f64::NAN, 1.0),
        (f64::INFINITY, 1.0),
        (f64::NEG_INFINITY, 1.0),
        (1.0, f64::NAN),
        (1.0, f64::INFINITY),
    ] {
        for max_norm in [0.0, 1.0] {
            assert_eq!(
                updated(loss, norm, max_norm),
                (before.clone(), vec![bf16::from_f32(7.0); 20]),
                "loss {loss}, norm {norm}"
            );
        }
    }
    assert_ne!(updated(1e300, 1e300, 1.0).0, before, "large is finite");
}

#[test]
fn weighted_losses_are_summed_in_f64() {
    if !is_emulated() {
        return;
    }
    for count in [0, 1, 255, 256, 257, 5003] {
        let losses = Buffer::<f32>::input_from(&numbers("losses", count));
        let weights = Buffer::input(&numbers("weights", count));
        let sum = Buffer::<f64>::output(1);
        let total = Buffer::<f64>::in_place(&[0.1]);
        launch(
            "weighted_sum",
            1,
            256,
            0,
            &[&sum, &losses, &weights, &(count as i32)],
        );
        let expected: f64 = losses
            .numbers()
            .iter()
            .zip(weights.values())
            .map(|(loss, weight)| loss * weight)
            .sum();
        assert_each("weighted sum", &sum.values(), &[expected], 1e-12, 1e-14);
        launch("add_scalar", 1, 1, 0, &[&total, &sum]);
        assert_eq!(total.values(), [0.1 + sum.values()[0]]);
    }
}

#[test]
fn squares_are_summed_in_double_precision() {
    if !is_emulated() {
        return;
    }
    // None, less than a pack, a stretch and some, more than a round of all 1024 blocks.
    for count in [0, 1, 5, 2061, 1024 * 2048 + 2061] {
        let values = numbers("gradient", count);
        let x = Buffer::<f32>::input_from(&values);
        let expected = x
            .numbers()
            .iter()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        // The expected sum adds two million numbers one after the other, and is the less exact of
        // the two.
        assert_each("norm", &[norm(&x, count)], &[expected], 1e-12, 0.0);
    }
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(!norm(&Buffer::input(&[1.0, bad, 1.0]), 3).is_finite());
    }
    // The square of a large f32 is no f32.
    assert_each(
        "large",
        &[norm(&Buffer::input(&[1e30f32]), 1)],
        &[f64::from(1e30f32)],
        1e-15,
        0.0,
    );
}

fn norm(x: &Buffer<f32>, count: usize) -> f64 {
    let partial = Buffer::<f64>::output(1024);
    let root = Buffer::<f64>::output(1);
    launch(
        "sum_of_squares",
        1024,
        256,
        0,
        &[&partial, x, &(count as i64)],
    );
    launch("root_of_sum", 1, 256, 0, &[&root, &partial, &1024i32]);
    root.values()[0]
}
