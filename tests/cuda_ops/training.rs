//! The loss over the vocabulary, the gradient's norm and the optimiser.

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam::ops::adamw::AdamW;
use maqam::ops::adamw::Buffers;
use maqam::ops::adamw::Clip;
use maqam::ops::adamw::Segment;
use maqam::ops::adamw::norm;
use maqam::ops::cross_entropy;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::device;
use maqam::ops::scalar::Scalar;
use maqam::ops::weight::Weight;

use crate::Both;
use crate::ROUNDED;
use crate::SINGLE;
use crate::TWICE;
use crate::compare;
use crate::on_gpu;
use crate::support::numbers;

#[test]
fn the_loss_and_its_gradients() {
    on_gpu(|gpu| {
        for (rows, dim, vocab, block) in [(1, 8, 16, 128), (11, 24, 1003, 4), (70, 64, 4096, 64)] {
            for label_smoothing in [0.0, 0.1] {
                let what = format!(
                    "{rows} rows in blocks of {block}, {vocab} tokens, smoothing {label_smoothing}"
                );
                let x = Both::new(gpu, "x", &[rows, dim]);
                let (head, exact_head) = Both::new(gpu, "head", &[vocab, dim]).trained(gpu, "head");
                let ids: Vec<u32> = (0..rows as u32).map(|i| i * 131 % vocab as u32).collect();
                let weights: Vec<f64> = (0..rows)
                    .map(|i| f64::from(0.25f32) * (i % 3) as f64)
                    .collect();
                let targets = Targets {
                    ids: &ids,
                    weights: &weights,
                    label_smoothing,
                };
                let on_gpu =
                    maqam::ops::cuda::cross_entropy::in_blocks(&x.gpu, &head, targets, true, block)
                        .unwrap();
                let on_cpu =
                    cross_entropy::linear_cross_entropy(&x.exact, &exact_head, targets, true)
                        .unwrap();
                let found = on_gpu.read().unwrap();
                let exact = on_cpu.read().unwrap();
                assert!(
                    (found.loss - exact.loss).abs() <= SINGLE * exact.loss.abs().max(1.0),
                    "{what}: {} for {}",
                    found.loss,
                    exact.loss
                );
                for (found, exact) in found.log_probabilities.iter().zip(&exact.log_probabilities) {
                    assert!(
                        (found - exact).abs() <= SINGLE * exact.abs().max(1.0),
                        "{what}: {found} for {exact}"
                    );
                }
                compare(
                    &what,
                    &on_gpu.d_rows.unwrap(),
                    &on_cpu.d_rows.unwrap(),
                    TWICE,
                );
                compare(
                    &format!("{what}, the head"),
                    &head.gradient.unwrap(),
                    &exact_head.gradient.clone().unwrap(),
                    ROUNDED,
                );
                let alone = cross_entropy::linear_cross_entropy(
                    &x.gpu,
                    &Weight::frozen(head.value),
                    targets,
                    false,
                )
                .unwrap();
                assert!(alone.d_rows.is_none());
                // All rows are one block there. Blocks of other sizes are other questions to the
                // library, whose algorithms may sum in another order.
                let alone = alone.read().unwrap();
                if rows <= block {
                    assert_eq!(alone, found, "{what}: without gradients");
                }
                assert!(
                    (alone.loss - found.loss).abs() <= SINGLE * found.loss.abs().max(1.0),
                    "{what}: {} in one block, {} in several",
                    alone.loss,
                    found.loss
                );
                for (alone, found) in alone.log_probabilities.iter().zip(&found.log_probabilities) {
                    assert!(
                        (alone - found).abs() <= SINGLE * found.abs().max(1.0),
                        "{what}: {alone} in one block, {found} in several"
                    );
                }
            }
        }
    });
}

#[test]
fn logits_are_in_single_precision() {
    on_gpu(|gpu| {
        let x = Both::new(gpu, "x", &[7, 40]);
        let head = Both::new(gpu, "head", &[301, 40]);
        let on_gpu = Weight::frozen(head.gpu);
        let on_cpu = Weight::frozen(head.exact);
        let logits = cross_entropy::logits(&x.gpu, &on_gpu).unwrap();
        assert_eq!(logits.dtype(), DType::F32);
        compare(
            "logits",
            &logits,
            &cross_entropy::logits(&x.exact, &on_cpu).unwrap(),
            SINGLE,
        );
    });
}

#[test]
fn the_norm_of_a_gradient() {
    on_gpu(|gpu| {
        for len in [1, 2047, 3_000_001] {
            let flat = Both::accumulated(gpu, "gradient", &[len]);
            let exact = crate::flat(&flat.exact)
                .iter()
                .map(|x| x * x)
                .sum::<f64>()
                .sqrt();
            let found = norm(&flat.gpu).unwrap().value().unwrap();
            assert!(
                (found - exact).abs() <= 1e-12 * exact,
                "{len}: {found} for {exact}"
            );
            assert_eq!(
                norm(&flat.gpu).unwrap().value().unwrap().to_bits(),
                found.to_bits()
            );
        }
    });
}

/// The flat buffers on one device, in single precision.
fn buffers(device: &Device, len: usize) -> [Tensor; 4] {
    ["values", "gradients", "first", "second"].map(|name| {
        let values: Vec<f32> = numbers(name, len)
            .into_iter()
            .map(|x| {
                if name == "second" {
                    x.abs() as f32
                } else {
                    x as f32
                }
            })
            .collect();
        let flat = device::zeros_f32(len, device).unwrap();
        device::write_stretch(&flat, 0..len, &values).unwrap();
        flat
    })
}

#[test]
fn updates_with_gaps_between_segments() {
    /// Some roundings of single precision, three times over.
    const BAR: f64 = 2e-6;
    on_gpu(|gpu| {
        let len = 10_000;
        let adamw = AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
        };
        let segment =
            |range: std::ops::Range<usize>, learning_rate: f64, decay: bool, step: u64| Segment {
                range,
                learning_rate,
                decay,
                step,
            };
        // Not in their order, one of them empty, borders that are multiples of nothing.
        let segments = [
            segment(5003..9001, 1e-2, false, 1),
            segment(0..4097, 1e-3, true, 7),
            segment(4500..4500, 1.0, true, 1),
            segment(4500..5003, 5e-3, true, 3),
        ];
        for has_copy in [false, true] {
            let on_gpu = buffers(gpu, len);
            let on_cpu = buffers(&Device::Cpu, len);
            let copy = device::place(&vec![7.0; len], len, gpu).unwrap();
            for _ in 0..3 {
                for ([values, gradients, first, second], copy) in
                    [(&on_gpu, has_copy.then_some(&copy)), (&on_cpu, None)]
                {
                    let loss = Scalar::new(3.0, values.device()).unwrap();
                    let norm = Scalar::new(0.2, values.device()).unwrap();
                    let clip = Clip {
                        loss: &loss,
                        norm: &norm,
                        max_norm: 0.1,
                    };
                    adamw
                        .update(
                            Buffers {
                                values,
                                gradients,
                                first,
                                second,
                                copy,
                            },
                            &segments,
                            clip,
                        )
                        .unwrap();
                }
            }
            for ((name, found), exact) in ["values", "gradients", "first", "second"]
                .into_iter()
                .zip(&on_gpu)
                .zip(&on_cpu)
            {
                compare(name, found, exact, BAR);
            }
            let copied = device::to_host(&copy).unwrap();
            let values = device::to_host(&on_gpu[0]).unwrap();
            for (i, (copied, value)) in copied.into_iter().zip(values).enumerate() {
                let is_updated = segments.iter().any(|segment| segment.range.contains(&i));
                let expected = if has_copy && is_updated {
                    half::bf16::from_f32(value).to_f32()
                } else {
                    7.0
                };
                assert_eq!(copied, expected, "copy of number {i}");
            }
        }
        let overlapping = [segment(0..10, 1e-3, true, 1), segment(9..20, 1e-3, true, 1)];
        let [values, gradients, first, second] = &buffers(gpu, 20);
        let one = Scalar::new(1.0, gpu).unwrap();
        let clip = Clip {
            loss: &one,
            norm: &one,
            max_norm: 0.0,
        };
        assert!(
            adamw
                .update(
                    Buffers {
                        values,
                        gradients,
                        first,
                        second,
                        copy: None
                    },
                    &overlapping,
                    clip
                )
                .is_err()
        );
    });
}

/// More than one piece of page-locked memory, and an odd rest.
#[test]
fn an_upload_of_any_size_arrives_whole() {
    on_gpu(|gpu| {
        for count in [0, 1, (32 << 20) / 2, (33 << 20) / 2 + 3] {
            // Whole numbers of up to 8 bits are exact in bf16.
            let values: Vec<f32> = (0..count).map(|i| (i % 251) as f32).collect();
            let placed = device::place(&values, count, gpu).unwrap();
            assert!(
                device::to_host(&placed).unwrap() == values,
                "{count} numbers"
            );
        }
    });
}
