//! Norms of queries and keys, head by head, against the formula and finite differences.

use candle_core::Tensor;
use maqam::nn::head_norms::HeadNorms;
use maqam::nn::rms_norm::RmsNorm;
use maqam::ops::attention::Heads;

use crate::support::assert_gradient;
use crate::support::dot;
use crate::support::flat;
use crate::support::gradient;
use crate::support::random;
use crate::support::trained;

const EPS: f64 = 1e-6;

/// Three query heads over one key head of four numbers.
const HEADS: Heads = Heads {
    num_heads: 3,
    num_kv_heads: 1,
    head_dim: 4,
};

fn norms(query: &Tensor, key: &Tensor) -> HeadNorms {
    HeadNorms {
        query: rms_norm(query),
        key: rms_norm(key),
    }
}

fn rms_norm(weight: &Tensor) -> RmsNorm {
    RmsNorm {
        weight: trained(weight.clone()),
        eps: EPS,
    }
}

fn of(norms: &HeadNorms, qkv: &Tensor) -> Tensor {
    norms.forward(qkv, HEADS).unwrap().0
}

#[test]
fn heads_of_queries_and_keys_are_normalised_alone() {
    let query = random("query", &[4]);
    let key = random("key", &[4]);
    let qkv = random("qkv", &[5, HEADS.width()]);
    let found = flat(&of(&norms(&query, &key), &qkv));
    let scales = [flat(&query), flat(&key)];
    let x = flat(&qkv);
    for (i, (&found, &plain)) in found.iter().zip(&x).enumerate() {
        let row = i / HEADS.width();
        let column = i % HEADS.width();
        let head = column / 4;
        let first = row * HEADS.width() + 4 * head;
        let mean = x[first..first + 4].iter().map(|x| x * x).sum::<f64>() / 4.0;
        let expected = match head {
            0..=2 => plain / (mean + EPS).sqrt() * scales[0][column % 4],
            3 => plain / (mean + EPS).sqrt() * scales[1][column % 4],
            _ => plain,
        };
        assert!(
            (found - expected).abs() < 1e-12,
            "row {row}, column {column}"
        );
    }
}

#[test]
fn gradients_of_head_norms_are_the_differences() {
    let query = random("query", &[4]);
    let key = random("key", &[4]);
    let qkv = random("qkv", &[5, HEADS.width()]);
    let dy = random("dy", &[5, HEADS.width()]);
    let layer = norms(&query, &key);
    let (_, saved) = layer.forward(&qkv, HEADS).unwrap();
    let dx = layer.backward(&dy, &saved, HEADS).unwrap();
    assert_gradient("input", &qkv, &dx, |x| dot(&dy, &of(&layer, x)));
    assert_gradient("q_norm", &query, &gradient(&layer.query.weight), |query| {
        dot(&dy, &of(&norms(query, &key), &qkv))
    });
    assert_gradient("k_norm", &key, &gradient(&layer.key.weight), |key| {
        dot(&dy, &of(&norms(&query, key), &qkv))
    });
}
