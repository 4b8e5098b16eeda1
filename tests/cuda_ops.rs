//! Every primitive on a GPU against the same function on the CPU in `f64`, from the same inputs,
//! which are rounded to bf16 first.
//!
//! These tests need a build with the feature `cuda` and a GPU, or the emulated driver of
//! `tests/cuda/driver`. Without either, every test prints a note and checks nothing.
#![cfg(feature = "cuda")]

mod gpu;
#[path = "it/support/mod.rs"]
mod support;

#[path = "cuda_ops/attention.rs"]
mod attention;
#[path = "cuda_ops/linear.rs"]
mod linear;
#[path = "cuda_ops/rowwise.rs"]
mod rowwise;
#[path = "cuda_ops/training.rs"]
mod training;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use gpu::GPU;
use half::bf16;
use maqam::ops::device;
use maqam::ops::weight::Weight;
use support::flat;
use support::numbers;

/// Half a unit in the last place of bf16, relative to the number: what rounding a result once
/// costs.
const ROUNDING: f64 = 1.0 / 256.0;

/// One rounding of the result, and what single precision adds on the way.
const ROUNDED: f64 = 1.1 * ROUNDING;

/// Two roundings: of a part in between, and of the result.
const TWICE: f64 = 2.2 * ROUNDING;

/// Sums in single precision, of inputs that are exact.
const SINGLE: f64 = 2e-5;

/// The same values on the GPU and, in `f64`, on the CPU.
struct Both {
    gpu: Tensor,
    exact: Tensor,
}

impl Both {
    /// [`numbers`] rounded to bf16.
    fn new(gpu: &Device, name: &str, shape: &[usize]) -> Self {
        Self::of(gpu, &numbers(name, shape.iter().product()), shape)
    }

    fn of(gpu: &Device, values: &[f64], shape: &[usize]) -> Self {
        let values: Vec<f32> = values.iter().map(|&x| bf16::from_f64(x).to_f32()).collect();
        let exact = Tensor::from_vec(
            values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
            shape,
            &Device::Cpu,
        )
        .unwrap();
        Self {
            gpu: device::place(&values, shape, gpu).unwrap(),
            exact,
        }
    }

    /// A buffer to accumulate in: numbers in single precision, since what is there already must
    /// stay.
    fn accumulated(gpu: &Device, name: &str, shape: &[usize]) -> Self {
        let values: Vec<f32> = numbers(name, shape.iter().product())
            .into_iter()
            .map(|x| x as f32)
            .collect();
        let exact = Tensor::from_vec(
            values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
            shape,
            &Device::Cpu,
        )
        .unwrap();
        let flat = device::zeros_f32(values.len(), gpu).unwrap();
        device::write_stretch(&flat, 0..values.len(), &values).unwrap();
        Self {
            gpu: flat.reshape(shape).unwrap(),
            exact,
        }
    }

    /// The weights of a layer on the GPU and on the CPU, frozen.
    fn frozen(self) -> (Weight, Weight) {
        (Weight::frozen(self.gpu), Weight::frozen(self.exact))
    }

    /// The same, trained, with gradients that hold numbers already.
    fn trained(self, gpu: &Device, name: &str) -> (Weight, Weight) {
        let gradient = Self::accumulated(gpu, &format!("gradient of {name}"), self.exact.dims());
        (
            Weight::trained(self.gpu, gradient.gpu),
            Weight::trained(self.exact, gradient.exact),
        )
    }
}

/// Asserts that the GPU's results are those of `f64`: each value within `bar`, relative to itself
/// and to the root mean square.
#[track_caller]
fn compare(what: &str, found: &Tensor, exact: &Tensor, bar: f64) {
    assert_eq!(found.dims(), exact.dims(), "{what}");
    let found = device::to_host(found).unwrap();
    let exact = flat(exact);
    let typical = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len().max(1) as f64).sqrt();
    let mut worst = (0.0, 0);
    for (i, (&found, &exact)) in found.iter().zip(&exact).enumerate() {
        let error =
            (f64::from(found) - exact).abs() / (exact.abs() + typical).max(f64::MIN_POSITIVE);
        assert!(
            error.is_finite(),
            "{what}: number {i} is {found}, should be {exact}"
        );
        if error > worst.0 {
            worst = (error, i);
        }
    }
    let (error, i) = worst;
    assert!(
        error <= bar,
        "{what}: number {i} of {} is {}, should be {}: off by {error:.2e}, the bar is {bar:.2e}",
        exact.len(),
        found[i],
        exact[i]
    );
}

/// A test on the GPU, if there is one.
fn on_gpu(test: impl FnOnce(&Device)) {
    if let Some(gpu) = &*GPU {
        test(gpu);
    }
}

#[test]
fn values_reach_the_gpu_and_return() {
    on_gpu(|gpu| {
        let values: Vec<f32> = (0..1000)
            .map(|i| bf16::from_f32(i as f32 * 0.37 - 100.0).to_f32())
            .collect();
        let there = device::place(&values, (10, 100), gpu).unwrap();
        assert_eq!(
            (there.dtype(), device::compute_type(gpu)),
            (DType::BF16, DType::BF16)
        );
        assert_eq!(device::to_host(&there).unwrap(), values);
        assert_eq!(
            device::to_host(&there.narrow(0, 3, 2).unwrap()).unwrap(),
            values[300..500]
        );
        let flat = device::zeros_f32(7, gpu).unwrap();
        device::write_stretch(&flat, 2..4, &[0.1, 0.2]).unwrap();
        device::fill(&flat.narrow(0, 5, 2).unwrap(), 0.3).unwrap();
        assert_eq!(
            device::to_host(&flat).unwrap(),
            [0.0, 0.0, 0.1, 0.2, 0.0, 0.3, 0.3]
        );
        device::fill(&flat, 0.0).unwrap();
        assert_eq!(device::to_host(&flat).unwrap(), [0.0; 7]);
        let small = device::place(&[1.0; 5], 5, gpu).unwrap();
        device::write_stretch(&small, 1..3, &[1.001, 3.0]).unwrap();
        device::fill(&small.narrow(0, 3, 1).unwrap(), 5.0).unwrap();
        assert_eq!(device::to_host(&small).unwrap(), [1.0, 1.0, 3.0, 5.0, 1.0]);
        assert!(
            device::to_host(&device::place(&[], (0, 4), gpu).unwrap())
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn memory_is_counted() {
    on_gpu(|gpu| {
        let before = device::memory(gpu).unwrap().unwrap();
        assert!(before.free <= before.total && before.free > 0);
        device::synchronise(gpu).unwrap();
        device::reset_peak(gpu).unwrap();
        let start = device::peak(gpu).unwrap().unwrap();
        drop(device::zeros_f32(16 << 20, gpu).unwrap());
        assert!(device::peak(gpu).unwrap().unwrap() >= start + (64 << 20));
        assert!(!device::name(gpu).unwrap().is_empty());
    });
}

#[test]
fn random_values_equal_the_cpus_up_to_rounding() {
    on_gpu(|gpu| {
        let key = maqam::seed::Key::new(3, "weights");
        let exact = device::random_normal((37, 61), key, 0.02, &Device::Cpu).unwrap();
        compare(
            "random",
            &device::random_normal((37, 61), key, 0.02, gpu).unwrap(),
            &exact,
            ROUNDED,
        );
    });
}
