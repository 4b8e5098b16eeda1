//! Convolutions and norms of speech encoders: formulas written out, and central differences.

use candle_core::Tensor;
use maqam::ops::group_norm::group_norm;
use maqam::ops::group_norm::group_norm_backward;
use maqam::ops::grouped_convolution;
use maqam::ops::grouped_convolution::Groups;
use maqam::ops::strided_convolution::Window;
use maqam::ops::strided_convolution::convolve;
use maqam::ops::strided_convolution::convolve_backward;
use maqam::ops::weight::Weight;
use maqam::ops::weight_norm::WeightNorm;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::dot;
use crate::support::flat;
use crate::support::gradient;
use crate::support::random;
use crate::support::trained;
use crate::support::zeros_like;

fn frozen(value: &Tensor) -> Weight {
    Weight::frozen(value.clone())
}

#[test]
fn strided_convolution_and_its_gradients() {
    // Overlapping, touching and gapped windows; a clip shorter than the kernel has no output.
    for (kernel, stride, lens) in [
        (3, 2, vec![9, 2, 4]),
        (2, 2, vec![5, 6]),
        (5, 2, vec![12]),
        (2, 3, vec![7, 5]),
    ] {
        let window = Window { kernel, stride };
        let inputs = 3;
        let outputs = 4;
        let rows: usize = lens.iter().sum();
        let x = random("x", &[rows, inputs]);
        let weight = trained(random("weight", &[outputs, kernel * inputs]));
        let bias = trained(random("bias", &[outputs]));
        let y = convolve(&x, &lens, &weight, Some(&bias), window).unwrap();

        let values = flat(&x);
        let taps = flat(&weight.value);
        let mut expected = Vec::new();
        let mut start = 0;
        for &len in &lens {
            for t in 0..window.num_outputs(len) {
                for (out, bias) in flat(&bias.value).iter().enumerate() {
                    let mut sum = *bias;
                    for j in 0..kernel {
                        for i in 0..inputs {
                            let seen = values[(start + t * stride + j) * inputs + i];
                            sum += taps[(out * kernel + j) * inputs + i] * seen;
                        }
                    }
                    expected.push(sum);
                }
            }
            start += len;
        }
        let expected = Tensor::from_vec(expected, y.shape(), y.device()).unwrap();
        assert_near("convolution", &y, &expected, 1e-13);

        let dy = random("dy", y.dims());
        let dx = convolve_backward(&dy, &x, &lens, &weight, Some(&bias), window, true)
            .unwrap()
            .unwrap();
        let loss = |x: &Tensor, w: &Tensor, b: &Tensor| {
            dot(
                &dy,
                &convolve(x, &lens, &frozen(w), Some(&frozen(b)), window).unwrap(),
            )
        };
        let w = &weight.value;
        let b = &bias.value;
        assert_gradient("convolution x", &x, &dx, |x| loss(x, w, b));
        assert_gradient("convolution weight", w, &gradient(&weight), |w| {
            loss(&x, w, b)
        });
        assert_gradient("convolution bias", b, &gradient(&bias), |b| loss(&x, w, b));
        let unwanted = convolve_backward(&dy, &x, &lens, &weight, Some(&bias), window, false);
        assert!(unwanted.unwrap().is_none());
    }
}

#[test]
fn grouped_convolution_and_its_gradients() {
    for (channels, groups, kernel) in [(6, 2, 4), (4, 4, 3), (3, 1, 5), (4, 2, 1)] {
        let sizes = Groups {
            channels,
            groups,
            kernel,
        };
        let lens = [5, 1, 9];
        let width = sizes.width();
        let x = random("x", &[15, channels]);
        let weight = random("weight", &[channels, kernel * width]);
        let y = grouped_convolution::convolve(&x, &lens, &weight, sizes).unwrap();

        let values = flat(&x);
        let taps = flat(&weight);
        let mut expected = vec![0.0; 15 * channels];
        let mut start = 0;
        for len in lens {
            for t in 0..len {
                for out in 0..channels {
                    for j in 0..kernel {
                        let Some(seen) = (t + j).checked_sub(kernel / 2).filter(|&row| row < len)
                        else {
                            continue;
                        };
                        for i in 0..width {
                            let x = values[(start + seen) * channels + out / width * width + i];
                            expected[(start + t) * channels + out] +=
                                taps[(out * kernel + j) * width + i] * x;
                        }
                    }
                }
            }
            start += len;
        }
        let expected = Tensor::from_vec(expected, y.shape(), y.device()).unwrap();
        assert_near("grouped convolution", &y, &expected, 1e-13);

        let dy = random("dy", y.dims());
        let d_weight = zeros_like(&weight);
        let dx =
            grouped_convolution::convolve_backward(&dy, &x, &lens, &weight, Some(&d_weight), sizes)
                .unwrap();
        let loss = |x: &Tensor, w: &Tensor| {
            dot(
                &dy,
                &grouped_convolution::convolve(x, &lens, w, sizes).unwrap(),
            )
        };
        assert_gradient("grouped convolution x", &x, &dx, |x| loss(x, &weight));
        assert_gradient("grouped convolution weight", &weight, &d_weight, |w| {
            loss(&x, w)
        });
    }
}

#[test]
fn group_norm_and_its_gradients() {
    let lens = [7, 300, 1];
    let x = random("x", &[308, 5]);
    let weight = trained(random("weight", &[5]));
    let bias = trained(random("bias", &[5]));
    let (y, statistics) = group_norm(&x, &lens, &weight, &bias, 1e-5).unwrap();
    let mut start = 0;
    for len in lens {
        let clip = x.narrow(0, start, len).unwrap();
        let centred = clip.broadcast_sub(&clip.mean_keepdim(0).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(0).unwrap();
        let formula = centred
            .broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap())
            .unwrap()
            .broadcast_mul(&weight.value)
            .unwrap()
            .broadcast_add(&bias.value)
            .unwrap();
        assert_near(
            "group norm",
            &y.narrow(0, start, len).unwrap(),
            &formula,
            1e-12,
        );
        start += len;
    }
    let dy = random("dy", y.dims());
    let dx = group_norm_backward(&dy, &x, &lens, &weight, &bias, &statistics).unwrap();
    let loss = |x: &Tensor, w: &Tensor, b: &Tensor| {
        dot(
            &dy,
            &group_norm(x, &lens, &frozen(w), &frozen(b), 1e-5)
                .unwrap()
                .0,
        )
    };
    let w = &weight.value;
    let b = &bias.value;
    assert_gradient("group norm x", &x, &dx, |x| loss(x, w, b));
    assert_gradient("group norm weight", w, &gradient(&weight), |w| {
        loss(&x, w, b)
    });
    assert_gradient("group norm bias", b, &gradient(&bias), |b| loss(&x, w, b));
}

#[test]
fn weight_norm_and_its_gradients() {
    let norm = WeightNorm {
        direction: trained(random("direction", &[6, 4 * 3])),
        length: trained(random("length", &[1, 1, 4])),
    };
    let weight = norm.weight().unwrap();
    // The weights of a tap are as long as its vector.
    for (j, length) in flat(&norm.length.value).iter().enumerate() {
        let tap = weight
            .narrow(1, j * 3, 3)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        assert!((tap.to_scalar::<f64>().unwrap().sqrt() - length.abs()).abs() < 1e-12);
    }
    let d_weight = random("dw", weight.dims());
    norm.backward(&d_weight).unwrap();
    let loss = |direction: &Tensor, length: &Tensor| {
        let norm = WeightNorm {
            direction: frozen(direction),
            length: frozen(length),
        };
        dot(&d_weight, &norm.weight().unwrap())
    };
    let v = &norm.direction.value;
    let g = &norm.length.value;
    assert_gradient(
        "weight norm direction",
        v,
        &gradient(&norm.direction),
        |v| loss(v, g),
    );
    assert_gradient("weight norm length", g, &gradient(&norm.length), |g| {
        loss(v, g)
    });
}
