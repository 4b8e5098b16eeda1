//! Convolution over planes as unfold + product, against the convolution written out.

use maqam::ops::convolution::KERNEL;
use maqam::ops::convolution2d::Planes;
use maqam::ops::convolution2d::STRIDE;
use maqam::ops::convolution2d::TAPS;
use maqam::ops::convolution2d::unfold;
use maqam::ops::convolution2d::unfold_backward;
use maqam::ops::linear::Linear;

use crate::support::NO_DROPOUT;
use crate::support::assert_gradient;
use crate::support::dot;
use crate::support::flat;
use crate::support::random;

/// Planes of even and odd sizes, of one cell, and several of them.
const PLANES: [Planes; 4] = [
    planes(1, 1, 1),
    planes(2, 4, 6),
    planes(3, 5, 3),
    planes(1, 1, 8),
];

const fn planes(count: usize, times: usize, bands: usize) -> Planes {
    Planes {
        count,
        times,
        bands,
    }
}

/// PyTorch's `conv2d` with a padding of 1 over `[planes, inputs, bands, times]`, one number after
/// the other; cells as rows.
fn convolved(
    x: &[Vec<f64>],
    weight: &dyn Fn([usize; 4]) -> f64,
    outputs: usize,
    planes: Planes,
) -> Vec<f64> {
    let inputs = x[0].len();
    let at = |plane: usize, time: isize, band: isize, input: usize| {
        let is_inside = (0..planes.times as isize).contains(&time)
            && (0..planes.bands as isize).contains(&band);
        let row = |time, band| (plane * planes.times + time) * planes.bands + band;
        if is_inside {
            x[row(time as usize, band as usize)][input]
        } else {
            0.0
        }
    };
    let mut found = Vec::new();
    for plane in 0..planes.count {
        for time in (0..planes.times).step_by(STRIDE) {
            for band in (0..planes.bands).step_by(STRIDE) {
                for output in 0..outputs {
                    let mut sum = 0.0;
                    for input in 0..inputs {
                        for i in 0..KERNEL {
                            for j in 0..KERNEL {
                                let band = band as isize + i as isize - 1;
                                let time = time as isize + j as isize - 1;
                                sum += weight([output, input, i, j]) * at(plane, time, band, input);
                            }
                        }
                    }
                    found.push(sum);
                }
            }
        }
    }
    found
}

#[test]
fn unfold_and_product_are_a_convolution_of_planes() {
    for planes in PLANES {
        let inputs = 2;
        let outputs = 3;
        let x = random("x", &[planes.cells(), inputs]);
        // [out, in, frequency, time], as PyTorch stores it.
        let weight = random("weight", &[outputs, inputs, KERNEL, KERNEL]);
        let numbers = flat(&weight);
        let stored =
            |[o, i, f, t]: [usize; 4]| numbers[((o * inputs + i) * KERNEL + f) * KERNEL + t];
        let rows = maqam::nn::parameters::taps_first(&weight).unwrap();
        let rows = rows.reshape((outputs, TAPS * inputs)).unwrap();
        let (y, _) = Linear::frozen(rows, None)
            .forward(&unfold(&x, planes).unwrap(), None, NO_DROPOUT)
            .unwrap();
        let expected = convolved(&x.to_vec2().unwrap(), &stored, outputs, planes);
        let found = flat(&y);
        assert_eq!(found.len(), expected.len(), "{planes:?}");
        let is_equal = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-13;
        assert!(found.iter().zip(&expected).all(is_equal), "{planes:?}");
    }
}

#[test]
fn unfold_gradient_of_planes_is_the_difference() {
    for planes in PLANES {
        let x = random("x", &[planes.cells(), 2]);
        let dy = random("dy", unfold(&x, planes).unwrap().dims());
        let dx = unfold_backward(&dy, planes).unwrap();
        assert_gradient("unfold", &x, &dx, |x| dot(&dy, &unfold(x, planes).unwrap()));
    }
}

#[test]
fn planes_that_do_not_cover_the_rows_are_refused() {
    let x = random("x", &[7, 2]);
    assert!(unfold(&x, planes(2, 2, 2)).is_err());
    assert!(unfold_backward(&x, planes(1, 2, 2)).is_err());
}
