//! Shared by the tests of the primitives: seeded values, tensors from them, and central
//! differences.

#![allow(
    dead_code,
    reason = "each test program uses its own part of these helpers"
)]

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use maqam::ops::linear::Adapter;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::linear::Up;
use maqam::ops::weight::Weight;
use maqam::seed::Key;

/// No dropout.
pub const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

/// Numbers uniform in `[-1, 1)`, the same for the same name.
pub fn numbers(name: &str, len: usize) -> Vec<f64> {
    let key = Key::new(20, name);
    (0..len as u64)
        .map(|i| 2.0 * key.uniform(i) - 1.0)
        .collect()
}

/// A `f64` tensor of [`numbers`].
pub fn random(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers(name, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

/// Zeros of the same shape and type.
pub fn zeros_like(tensor: &Tensor) -> Tensor {
    tensor.zeros_like().unwrap()
}

/// All values of a tensor, widened.
pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// A copy with storage of its own, for the operations that work in place.
pub fn copy(tensor: &Tensor) -> Tensor {
    tensor.copy().unwrap()
}

/// Inner product of two tensors.
pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    flat(a).iter().zip(flat(b)).map(|(a, b)| a * b).sum()
}

/// A tensor with a place for its gradient, zero at first.
pub fn trained(value: Tensor) -> Weight {
    let gradient = zeros_like(&value);
    Weight::trained(value, gradient)
}

/// The gradient that has been added up for a trained weight.
pub fn gradient(weight: &Weight) -> Tensor {
    weight.gradient.clone().unwrap()
}

/// Largest distance between two tensors, relative to the largest value of the second.
pub fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let found = flat(found);
    let expected = flat(expected);
    let size = expected.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
    let far = |(a, b): (&f64, &f64)| {
        if a.is_nan() || b.is_nan() {
            f64::INFINITY
        } else {
            (a - b).abs()
        }
    };
    found.iter().zip(&expected).map(far).fold(0.0, f64::max) / size
}

/// Fails if [`distance`] of the two tensors is above `bar`.
pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, bar: f64) {
    let distance = distance(found, expected);
    assert!(distance <= bar, "{what}: {distance:e} is more than {bar:e}");
}

/// Relative error that a central difference in `f64` may have.
pub const BAR: f64 = 1e-6;

/// Step of the central differences: the error is about step^2 from the curvature and 1e-16 / step
/// from rounding.
const STEP: f64 = 1e-5;

/// Compares `gradient` with central differences of `loss` at `at`: along one random direction that
/// moves every number, and for up to 24 numbers one by one. The error is relative to the larger of
/// the derivative and the gradient's root mean square.
pub fn assert_gradient(what: &str, at: &Tensor, gradient: &Tensor, loss: impl Fn(&Tensor) -> f64) {
    assert_eq!(
        at.shape(),
        gradient.shape(),
        "{what}: shape of the gradient"
    );
    let point = flat(at);
    let slope = flat(gradient);
    let len = point.len();
    assert!(
        slope.iter().all(|g| g.is_finite()),
        "{what}: the gradient is not finite"
    );
    let norm = slope.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(
        norm > 0.0,
        "{what}: the gradient is zero, so the comparison would say nothing"
    );
    let moved = |direction: &dyn Fn(usize) -> f64, step: f64| {
        let values: Vec<f64> = point
            .iter()
            .enumerate()
            .map(|(i, x)| x + step * direction(i))
            .collect();
        loss(&Tensor::from_vec(values, at.shape(), &Device::Cpu).unwrap())
    };
    let slope_along = |direction: &dyn Fn(usize) -> f64| {
        (moved(direction, STEP) - moved(direction, -STEP)) / (2.0 * STEP)
    };
    let signs: Vec<f64> = numbers(what, len).iter().map(|x| x.signum()).collect();
    let expected: f64 = slope.iter().zip(&signs).map(|(g, s)| g * s).sum();
    let found = slope_along(&|i| signs[i]);
    assert!(
        (found - expected).abs() <= BAR * expected.abs().max(norm),
        "{what}: along a direction {found}, by backward {expected}"
    );
    let scale = norm / (len as f64).sqrt();
    let key = Key::new(21, what);
    for draw in 0..24.min(len) {
        let chosen = if len <= 24 {
            draw
        } else {
            key.below(draw as u64, len)
        };
        let found = slope_along(&|i| f64::from(u8::from(i == chosen)));
        let expected = slope[chosen];
        assert!(
            (found - expected).abs() <= BAR * expected.abs().max(scale),
            "{what}[{chosen}]: by differences {found}, by backward {expected}"
        );
    }
}

/// A layer with everything trained and an adapter whose `ups` are (columns, rank), their ranks one
/// after the other.
pub fn adapted(
    name: &str,
    inputs: usize,
    outputs: usize,
    ups: &[(std::ops::Range<usize>, usize)],
) -> Linear {
    let mut first = 0;
    let ups: Vec<Up> = ups
        .iter()
        .enumerate()
        .map(|(i, (columns, rank))| {
            let ranks = first..first + rank;
            first += rank;
            Up {
                weight: trained(random(&format!("{name} up {i}"), &[columns.len(), *rank])),
                columns: columns.clone(),
                ranks,
                scale: 0.7 + 0.3 * i as f64,
                site: 3,
            }
        })
        .collect();
    let down = trained(random(&format!("{name} down"), &[first, inputs]));
    Linear {
        weight: trained(random(&format!("{name} weight"), &[outputs, inputs])),
        bias: Some(trained(random(&format!("{name} bias"), &[outputs]))),
        adapter: Some(Adapter {
            down,
            ups,
            joined: None,
        }),
    }
}

/// Keys of `tokens` tokens of one example.
pub fn keys(example: u64, tokens: usize) -> Vec<Key> {
    let key = Key::new(7, "dropout").with(example);
    (0..tokens as u64)
        .map(|position| key.with(position))
        .collect()
}
