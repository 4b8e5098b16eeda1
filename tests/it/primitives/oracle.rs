//! Candle's autograd as the oracle of a small decoder: a LoRA linear, attention, SwiGLU and
//! cross-entropy, in `f64`.
//!
//! Only candle's differentiable operations are used; its fused norms, softmax and rope have no
//! backward.

use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::Var;
use candle_core::backprop::GradStore;
use maqam::ops::activation::swiglu;
use maqam::ops::activation::swiglu_backward;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::linear::Linear;
use maqam::ops::norm::rms_norm;
use maqam::ops::norm::rms_norm_backward;

use crate::support::NO_DROPOUT;
use crate::support::adapted;
use crate::support::assert_near;
use crate::support::gradient;
use crate::support::random;
use crate::support::trained;

const HEADS: Heads = Heads {
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 3,
};
const DIM: usize = 12;
const VOCAB: usize = 19;
const LENGTHS: [usize; 2] = [7, 5];
const EPS: f64 = 1e-6;
const BAR: f64 = 1e-11;

/// `x W^T + b + scale (x A^T) B^T` in candle, the adapter's parts placed by padding B with rows of
/// zeros.
fn oracle_linear(x: &Tensor, layer: &Linear, vars: &[Var]) -> Tensor {
    let adapter = layer.adapter.as_ref().unwrap();
    let (outputs, inputs) = layer.weight.value.dims2().unwrap();
    let mut weight = vars[0].as_tensor().clone();
    for (up, b) in adapter.ups.iter().zip(&vars[3..]) {
        let product = (b
            .matmul(&vars[2].narrow(0, up.ranks.start, up.ranks.len()).unwrap())
            .unwrap()
            * up.scale)
            .unwrap();
        let zeros = |rows: usize| Tensor::zeros((rows, inputs), DType::F64, &Device::Cpu).unwrap();
        weight = (weight
            + Tensor::cat(
                &[
                    zeros(up.columns.start),
                    product,
                    zeros(outputs - up.columns.end),
                ],
                0,
            )
            .unwrap())
        .unwrap();
    }
    x.matmul(&weight.t().unwrap())
        .unwrap()
        .broadcast_add(&vars[1])
        .unwrap()
}

fn variables(layer: &Linear) -> Vec<Var> {
    let adapter = layer.adapter.as_ref().unwrap();
    let bias = &layer.bias.as_ref().unwrap().value;
    let ups = adapter.ups.iter().map(|up| &up.weight.value);
    [&layer.weight.value, bias, &adapter.down.value]
        .into_iter()
        .chain(ups)
        .map(|t| Var::from_tensor(t).unwrap())
        .collect()
}

fn oracle_attention(qkv: &Tensor) -> Tensor {
    let mut start = 0;
    let mut out = Vec::new();
    for len in LENGTHS {
        let heads = |column: usize, num_heads: usize| {
            let part = qkv
                .narrow(0, start, len)
                .unwrap()
                .narrow(1, column, num_heads * HEADS.head_dim)
                .unwrap();
            part.reshape((len, num_heads, HEADS.head_dim))
                .unwrap()
                .transpose(0, 1)
                .unwrap()
                .contiguous()
                .unwrap()
        };
        let each = |kv: Tensor| {
            let shared = kv
                .unsqueeze(1)
                .unwrap()
                .broadcast_as((2, 2, len, HEADS.head_dim))
                .unwrap();
            shared
                .contiguous()
                .unwrap()
                .reshape((4, len, HEADS.head_dim))
                .unwrap()
        };
        let q = heads(0, 4);
        let k = each(heads(DIM, 2));
        let v = each(heads(DIM + HEADS.kv_width(), 2));
        let mask: Vec<f64> = (0..len * len)
            .map(|i| if i % len > i / len { -1e300 } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(mask, (1, len, len), &Device::Cpu).unwrap();
        let scores = (q.matmul(&k.t().unwrap()).unwrap() / (HEADS.head_dim as f64).sqrt())
            .unwrap()
            .broadcast_add(&mask)
            .unwrap();
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)
            .unwrap()
            .matmul(&v)
            .unwrap();
        out.push(
            mixed
                .transpose(0, 1)
                .unwrap()
                .contiguous()
                .unwrap()
                .reshape((len, DIM))
                .unwrap(),
        );
        start += len;
    }
    Tensor::cat(&out, 0).unwrap()
}

fn compare(what: &str, layer: &Linear, vars: &[Var], store: &GradStore) {
    let adapter = layer.adapter.as_ref().unwrap();
    let ours = [&layer.weight, layer.bias.as_ref().unwrap(), &adapter.down]
        .into_iter()
        .chain(adapter.ups.iter().map(|up| &up.weight));
    for (i, (weight, var)) in ours.zip(vars).enumerate() {
        assert_near(
            &format!("{what} {i}"),
            &gradient(weight),
            store.get(var).unwrap(),
            BAR,
        );
    }
}

#[test]
fn a_small_decoder_agrees_with_candles_autograd() {
    let tokens: usize = LENGTHS.iter().sum();
    let bounds = [0, LENGTHS[0], tokens];
    let x = random("x", &[tokens, DIM]);
    let scale = trained(random("norm", &[DIM]));
    let to_qkv = adapted(
        "qkv",
        DIM,
        HEADS.width(),
        &[(0..12, 3), (12..18, 2), (18..24, 3)],
    );
    let gate_up = adapted("gate_up", DIM, 2 * DIM, &[(0..DIM, 2), (DIM..2 * DIM, 4)]);
    let head = trained(random("head", &[VOCAB, DIM]));
    let rows: Vec<u32> = vec![2, 3, 6, 8, 11];
    let ids = [4, 18, 0, 7, 7];
    let weights = [1.0, 0.5, 2.0, 0.25, 1.5];
    let targets = Targets {
        ids: &ids,
        weights: &weights,
        label_smoothing: 0.0,
    };

    // maqam's operations: norm, fused projection, attention with its residual, SwiGLU, target rows,
    // head.
    let (normed, inverse) = rms_norm(&x, &scale.value, EPS, 0).unwrap();
    let (qkv, qkv_hidden) = to_qkv.forward(&normed, None, NO_DROPOUT).unwrap();
    let (mixed, log_sums) = attention(&qkv, &bounds, HEADS, Mask::Causal).unwrap();
    let (both, both_hidden) = gate_up.forward(&mixed, None, NO_DROPOUT).unwrap();
    let y = (swiglu(&both, 0).unwrap() + &x).unwrap();
    let found = linear_cross_entropy(
        &maqam::ops::rows::gather(&y, &rows).unwrap(),
        &head,
        targets,
        true,
    )
    .unwrap();
    let d_y = maqam::ops::rows::spread(&found.d_rows.unwrap(), &rows, tokens).unwrap();
    let d_both = swiglu_backward(&d_y, &both, 0).unwrap();
    let d_mixed = gate_up
        .backward(&d_both, &mixed, both_hidden.as_ref(), NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    let d_qkv = attention_backward(
        &d_mixed,
        &qkv,
        &mixed,
        &log_sums,
        &bounds,
        HEADS,
        Mask::Causal,
    )
    .unwrap();
    let d_normed = to_qkv
        .backward(&d_qkv, &normed, qkv_hidden.as_ref(), NO_DROPOUT, true)
        .unwrap()
        .unwrap();
    let dx = rms_norm_backward(
        &d_normed,
        &x,
        &scale.value,
        &inverse,
        Some(&d_y),
        scale.gradient.as_ref(),
        0,
    )
    .unwrap();

    // Candle's.
    let x_var = Var::from_tensor(&x).unwrap();
    let scale_var = Var::from_tensor(&scale.value).unwrap();
    let head_var = Var::from_tensor(&head.value).unwrap();
    let qkv_vars = variables(&to_qkv);
    let gate_up_vars = variables(&gate_up);
    let normed = candle_nn::ops::rms_norm_slow(&x_var, &scale_var, EPS as f32).unwrap();
    let qkv = oracle_linear(&normed, &to_qkv, &qkv_vars);
    let both = oracle_linear(&oracle_attention(&qkv), &gate_up, &gate_up_vars);
    let halves = both.chunk(2, 1).unwrap();
    let y = ((halves[0].silu().unwrap() * &halves[1]).unwrap() + x_var.as_tensor()).unwrap();
    let picked = y
        .index_select(&Tensor::new(rows.as_slice(), &Device::Cpu).unwrap(), 0)
        .unwrap();
    let log_probabilities =
        candle_nn::ops::log_softmax(&picked.matmul(&head_var.t().unwrap()).unwrap(), D::Minus1)
            .unwrap();
    let one_hot = (0..5)
        .flat_map(|row| {
            (0..VOCAB).map(move |id| {
                if id == ids[row] as usize {
                    -weights[row]
                } else {
                    0.0
                }
            })
        })
        .collect::<Vec<f64>>();
    let loss = (log_probabilities * Tensor::from_vec(one_hot, (5, VOCAB), &Device::Cpu).unwrap())
        .unwrap()
        .sum_all()
        .unwrap();
    let store = loss.backward().unwrap();

    let loss = loss.to_scalar::<f64>().unwrap();
    // Candle stores the norm's eps in single precision, which changes the eighth digit of eps only.
    let ours = found.loss.value().unwrap();
    assert!((ours - loss).abs() < 1e-11 * loss, "{ours} against {loss}");
    compare("qkv", &to_qkv, &qkv_vars, &store);
    compare("gate_up", &gate_up, &gate_up_vars, &store);
    assert_near("head", &gradient(&head), store.get(&head_var).unwrap(), BAR);
    assert_near(
        "norm",
        &gradient(&scale),
        store.get(&scale_var).unwrap(),
        BAR,
    );
    assert_near("x", &dx, store.get(&x_var).unwrap(), BAR);
}
