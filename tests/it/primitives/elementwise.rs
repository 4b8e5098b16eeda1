//! SwiGLU, GELU and the rotary embedding.

use candle_core::DType;
use candle_core::Tensor;
use maqam::ops::activation::gelu;
use maqam::ops::activation::gelu_backward;
use maqam::ops::activation::swiglu;
use maqam::ops::activation::swiglu_backward;
use maqam::ops::rotary::Rotary;

use crate::support::assert_gradient;
use crate::support::assert_near;
use crate::support::copy;
use crate::support::dot;
use crate::support::flat;
use crate::support::random;

#[test]
fn swiglu_gradient_is_the_difference() {
    for [tokens, dim] in [[1, 1], [5, 17], [33, 64]] {
        let gate_up = (random("gate_up", &[tokens, 2 * dim]) * 4.0).unwrap();
        let dy = random("dy", &[tokens, dim]);
        let d = swiglu_backward(&dy, &gate_up, 0).unwrap();
        assert_gradient("swiglu", &gate_up, &d, |x| dot(&dy, &swiglu(x, 0).unwrap()));
        let gate = gate_up.narrow(1, 0, dim).unwrap();
        let up = gate_up.narrow(1, dim, dim).unwrap();
        assert_near(
            "swiglu",
            &swiglu(&gate_up, 0).unwrap(),
            &(gate.silu().unwrap() * up).unwrap(),
            1e-14,
        );
    }
}

#[test]
fn gelu_gradient_is_the_difference() {
    for shape in [vec![1, 1], vec![7, 40], vec![2, 3, 11]] {
        let x = (random("x", &shape) * 4.0).unwrap();
        let dy = random("dy", &shape);
        assert_gradient("gelu", &x, &gelu_backward(&dy, &x).unwrap(), |x| {
            dot(&dy, &gelu(x).unwrap())
        });
        assert_near("gelu", &gelu(&x).unwrap(), &x.gelu_erf().unwrap(), 1e-14);
    }
}

#[test]
fn activations_keep_their_limits_far_from_zero() {
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::new(
            &[[-1e30f64, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30]],
            &candle_core::Device::Cpu,
        )
        .unwrap()
        .to_dtype(dtype)
        .unwrap();
        let ones = x.ones_like().unwrap();
        let kept: Vec<f64> = flat(&x).iter().map(|&x| x.max(0.0)).collect();
        let steps: Vec<f64> = flat(&x)
            .iter()
            .map(|&x| {
                if x == 0.0 {
                    0.5
                } else {
                    f64::from(u8::from(x > 0.0))
                }
            })
            .collect();
        assert_eq!(flat(&gelu(&x).unwrap()), kept);
        assert_eq!(flat(&gelu_backward(&ones, &x).unwrap()), steps);
        // The sigmoid of -88 is the smallest normal f32 value; smaller values count as zero.
        let near = |found: Tensor, expected: &[f64]| {
            let bars: Vec<f64> = flat(&x).iter().map(|x| 1e-37 * x.abs().max(1.0)).collect();
            flat(&found)
                .iter()
                .zip(expected)
                .zip(bars)
                .all(|((found, expected), bar)| (found - expected).abs() <= bar)
        };
        let gate_up = Tensor::cat(&[&x, &ones], 1).unwrap();
        let d_gate = swiglu_backward(&ones, &gate_up, 0)
            .unwrap()
            .narrow(1, 0, 7)
            .unwrap();
        assert!(near(swiglu(&gate_up, 0).unwrap(), &kept) && near(d_gate, &steps));
    }
}

#[test]
fn a_rotation_turns_each_pair_by_its_angle_and_back() {
    let head_dim = 8;
    let heads = 3;
    let rest = 10;
    let theta = 100.0;
    let positions = [0, 1, 2, 0, 7, 1000];
    let x = random("x", &[6, heads * head_dim + rest]);
    let dy = random("dy", &[6, heads * head_dim + rest]);
    let rotary = Rotary::new(&positions, head_dim, theta, &x).unwrap();
    for num_heads in [1, 2, 3] {
        let turned = |x: &Tensor| {
            let y = copy(x);
            rotary.apply(&y, num_heads).unwrap();
            y
        };
        let before = x.to_vec2::<f64>().unwrap();
        let after = turned(&x).to_vec2::<f64>().unwrap();
        for (token, &position) in positions.iter().enumerate() {
            for head in 0..num_heads {
                for i in 0..4 {
                    // (a + ib) e^(i angle), a in the head's first half and b in its second.
                    let first = head * head_dim + i;
                    let second = head * head_dim + i + 4;
                    let frequency = 1.0 / f64::from(theta.powf(i as f64 / 4.0) as f32);
                    let angle =
                        f64::from((f64::from(frequency as f32) * f64::from(position)) as f32);
                    let a = before[token][first];
                    let b = before[token][second];
                    assert!(
                        (after[token][first] - (a * angle.cos() - b * angle.sin())).abs() < 1e-12
                    );
                    assert!(
                        (after[token][second] - (b * angle.cos() + a * angle.sin())).abs() < 1e-12
                    );
                }
            }
            assert_eq!(
                after[token][num_heads * head_dim..],
                before[token][num_heads * head_dim..],
                "what is not rotated stays"
            );
        }
        let dx = copy(&dy);
        rotary.apply_backward(&dx, num_heads).unwrap();
        assert_gradient("rotary", &x, &dx, |x| dot(&dy, &turned(x)));
        let back = turned(&x);
        rotary.apply_backward(&back, num_heads).unwrap();
        assert_near("there and back", &back, &x, 1e-14);
    }
}

#[test]
fn rotated_products_depend_only_on_distance() {
    let q = random("q", &[1, 16]);
    let k = random("k", &[1, 16]);
    let product = |m: u32, n: u32| {
        let q = copy(&q);
        let k = copy(&k);
        Rotary::new(&[m], 16, 1e4, &q)
            .unwrap()
            .apply(&q, 1)
            .unwrap();
        Rotary::new(&[n], 16, 1e4, &k)
            .unwrap()
            .apply(&k, 1)
            .unwrap();
        dot(&q, &k)
    };
    // The angles carry single precision, as the reference's do.
    assert!((product(5, 2) - product(103, 100)).abs() < 1e-4);
    assert!((product(5, 2) - product(5, 3)).abs() > 1e-2);
}

#[test]
fn a_position_without_an_angle_is_refused() {
    let x = random("x", &[3, 16]);
    let rotary = Rotary::new(&[0, 1], 8, 1e4, &x).unwrap();
    assert!(rotary.apply(&x, 1).is_err(), "three rows, two positions");
    let rotary = Rotary::new(&[0, 1, 2], 8, 1e4, &x).unwrap();
    assert!(
        rotary.apply(&x, 3).is_err(),
        "three heads of eight in a width of sixteen"
    );
}
