//! Milliseconds of every primitive, forward and backward, at the widths of a decoder of half a
//! billion parameters.
//!
//! `cargo bench --bench primitives` prints a table; the least of several runs counts. Element-wise
//! passes are held against the bytes that they must read and write, products against their
//! floating-point operations.

use std::time::Duration;
use std::time::Instant;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use maqam::ops::activation::gelu;
use maqam::ops::activation::gelu_backward;
use maqam::ops::activation::swiglu;
use maqam::ops::activation::swiglu_backward;
use maqam::ops::adamw::AdamW;
use maqam::ops::adamw::Buffers;
use maqam::ops::adamw::Clip;
use maqam::ops::adamw::Segment;
use maqam::ops::adamw::norm;
use maqam::ops::attention::Heads;
use maqam::ops::attention::Mask;
use maqam::ops::attention::attention;
use maqam::ops::attention::attention_backward;
use maqam::ops::convolution::unfold;
use maqam::ops::convolution::unfold_backward;
use maqam::ops::cross_entropy::Targets;
use maqam::ops::cross_entropy::linear_cross_entropy;
use maqam::ops::dropout::Dropout;
use maqam::ops::linear::Adapter;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::linear::Up;
use maqam::ops::norm::layer_norm;
use maqam::ops::norm::layer_norm_backward;
use maqam::ops::norm::rms_norm;
use maqam::ops::norm::rms_norm_backward;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows::add_to;
use maqam::ops::rows::pool_pairs;
use maqam::ops::rows::pool_pairs_backward;
use maqam::ops::scalar::Scalar;
use maqam::ops::weight::Weight;
use maqam::seed::Key;

/// Four sequences of 340 tokens.
const TOKENS: usize = 1360;
const HIDDEN: usize = 896;
const FFN: usize = 4864;
const VOCAB: usize = 151_936;
const TARGET_ROWS: usize = 200;
const HEADS: Heads = Heads {
    num_heads: 14,
    num_kv_heads: 2,
    head_dim: 64,
};
const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

/// Lower bound of a pass's work.
enum Cost {
    /// Numbers read and written, in `f32`.
    Numbers(usize),
    /// Floating-point operations.
    Operations(usize),
}

fn time(name: &str, cost: Cost, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    if wanted.is_some_and(|wanted| !name.contains(&wanted)) {
        return Ok(());
    }
    run()?;
    let mut best = Duration::MAX;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || (start.elapsed() < Duration::from_millis(700) && runs < 60) {
        let from = Instant::now();
        run()?;
        best = best.min(from.elapsed());
        runs += 1;
    }
    let seconds = best.as_secs_f64();
    let rate = match cost {
        Cost::Numbers(numbers) => format!("{:8.1} GB/s", 4.0 * numbers as f64 / seconds / 1e9),
        Cost::Operations(operations) => {
            format!("{:8.1} GFLOP/s", operations as f64 / seconds / 1e9)
        }
    };
    println!("{name:<40} {:>9.2} ms {rate}", seconds * 1e3);
    Ok(())
}

fn random(shape: &[usize]) -> Result<Tensor> {
    let key = Key::new(1, "bench");
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| key.uniform(i) as f32 - 0.5)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn norms_and_activations() -> Result<()> {
    let n = TOKENS * HIDDEN;
    let x = random(&[TOKENS, HIDDEN])?;
    let dy = random(&[TOKENS, HIDDEN])?;
    let w = random(&[HIDDEN])?;
    let (_, inverse) = rms_norm(&x, &w, 1e-6, 0)?;
    time("rms_norm", Cost::Numbers(2 * n), || {
        rms_norm(&x, &w, 1e-6, 0).map(drop)
    })?;
    time("rms_norm_backward, residual", Cost::Numbers(4 * n), || {
        rms_norm_backward(&dy, &x, &w, &inverse, Some(&dy), None, 0).map(drop)
    })?;
    let d_w = w.zeros_like()?;
    time("rms_norm_backward, weight", Cost::Numbers(5 * n), || {
        rms_norm_backward(&dy, &x, &w, &inverse, None, Some(&d_w), 0).map(drop)
    })?;
    let (_, statistics) = layer_norm(&x, &w, &w, 1e-6)?;
    time("layer_norm", Cost::Numbers(2 * n), || {
        layer_norm(&x, &w, &w, 1e-6).map(drop)
    })?;
    time(
        "layer_norm_backward, residual",
        Cost::Numbers(4 * n),
        || layer_norm_backward(&dy, &x, &w, &statistics, Some(&dy), None).map(drop),
    )?;
    let d_b = w.zeros_like()?;
    time(
        "layer_norm_backward, weight, bias",
        Cost::Numbers(6 * n),
        || layer_norm_backward(&dy, &x, &w, &statistics, None, Some((&d_w, &d_b))).map(drop),
    )?;
    time("add_to", Cost::Numbers(3 * n), || add_to(&x, &dy))?;
    let keys: Vec<Key> = (0..TOKENS as u64)
        .map(|i| Key::new(1, "bench").with(i))
        .collect();
    time("dropout", Cost::Numbers(2 * n), || {
        Dropout {
            probability: 0.1,
            tokens: &keys,
            site: 1,
        }
        .apply(&x)
        .map(drop)
    })?;

    let both = random(&[TOKENS, 2 * FFN])?;
    let d_ffn = random(&[TOKENS, FFN])?;
    let n = TOKENS * FFN;
    time("swiglu", Cost::Numbers(3 * n), || {
        swiglu(&both, 0).map(drop)
    })?;
    time("swiglu_backward", Cost::Numbers(5 * n), || {
        swiglu_backward(&d_ffn, &both, 0).map(drop)
    })?;
    time("gelu", Cost::Numbers(2 * n), || gelu(&d_ffn).map(drop))?;
    time("gelu_backward", Cost::Numbers(3 * n), || {
        gelu_backward(&d_ffn, &d_ffn).map(drop)
    })?;

    let windows = [340; 4];
    let d_unfolded = random(&[TOKENS / 2, 3 * HIDDEN])?;
    time(
        "unfold, stride 2",
        Cost::Numbers(2 * TOKENS * HIDDEN),
        || unfold(&x, &windows, 2).map(drop),
    )?;
    time(
        "unfold_backward, stride 2",
        Cost::Numbers(3 * TOKENS * HIDDEN),
        || unfold_backward(&d_unfolded, &windows, 2).map(drop),
    )?;
    let pooled = pool_pairs(&x, &windows)?;
    time("pool_pairs", Cost::Numbers(TOKENS * HIDDEN * 3 / 2), || {
        pool_pairs(&x, &windows).map(drop)
    })?;
    time(
        "pool_pairs_backward",
        Cost::Numbers(TOKENS * HIDDEN * 3 / 2),
        || pool_pairs_backward(&pooled, &windows).map(drop),
    )
}

fn attention_and_rotary() -> Result<()> {
    let qkv = random(&[TOKENS, HEADS.width()])?;
    let positions: Vec<u32> = (0..TOKENS as u32).map(|i| i % 340).collect();
    let rotary = Rotary::new(&positions, HEADS.head_dim, 1e6, &qkv)?;
    time("rotary", Cost::Numbers(2 * TOKENS * 16 * 64), || {
        rotary.apply(&qkv, 16)
    })?;
    let bounds = [0, 340, 680, 1020, 1360];
    for (mask, name, share) in [(Mask::Causal, "causal", 1), (Mask::Full, "full", 2)] {
        // Two products of head_dim for every visible pair of query and key forwards, five
        // backwards.
        let pairs = 4 * HEADS.num_heads * 340 * 340 * share / 2;
        let (out, log_sums) = attention(&qkv, &bounds, HEADS, mask)?;
        time(
            &format!("attention, {name}"),
            Cost::Operations(4 * pairs * 64),
            || attention(&qkv, &bounds, HEADS, mask).map(drop),
        )?;
        let d_out = random(&[TOKENS, HEADS.query_width()])?;
        time(
            &format!("attention_backward, {name}"),
            Cost::Operations(10 * pairs * 64),
            || attention_backward(&d_out, &qkv, &out, &log_sums, &bounds, HEADS, mask).map(drop),
        )?;
    }
    Ok(())
}

fn linears() -> Result<()> {
    for (name, inputs, outputs) in [
        ("qkv", HIDDEN, HEADS.width()),
        ("o", HIDDEN, HIDDEN),
        ("gate_up", HIDDEN, 2 * FFN),
        ("down", FFN, HIDDEN),
    ] {
        let up = Up {
            weight: with_gradient(random(&[outputs, 16])?)?,
            columns: 0..outputs,
            ranks: 0..16,
            scale: 2.0,
            site: 1,
        };
        let adapter = Adapter {
            down: with_gradient(random(&[16, inputs])?)?,
            ups: vec![up],
            joined: None,
        };
        let plain = Linear::frozen(random(&[outputs, inputs])?, None);
        let adapted = Linear {
            adapter: Some(adapter),
            ..plain.clone()
        };
        for rows in [1, 4, 16] {
            let x = random(&[rows, inputs])?;
            let numbers = Cost::Numbers(inputs * outputs);
            time(&format!("step {name}, {rows} rows"), numbers, || {
                plain.step(&x, None).map(drop)
            })?;
            let numbers = Cost::Numbers(inputs * outputs);
            time(&format!("linear {name}, {rows} rows"), numbers, || {
                plain.forward(&x, None, NO_DROPOUT).map(drop)
            })?;
        }
        let x = random(&[TOKENS, inputs])?;
        let dy = random(&[TOKENS, outputs])?;
        let operations = 2 * TOKENS * inputs * outputs;
        time(
            &format!("linear {name}"),
            Cost::Operations(operations),
            || plain.forward(&x, None, NO_DROPOUT).map(drop),
        )?;
        time(
            &format!("linear {name}, residual"),
            Cost::Operations(operations),
            || plain.forward(&x, Some(&dy), NO_DROPOUT).map(drop),
        )?;
        time(
            &format!("linear {name}, backward"),
            Cost::Operations(operations),
            || plain.backward(&dy, &x, None, NO_DROPOUT, true).map(drop),
        )?;
        let keys: Vec<Key> = (0..TOKENS as u64)
            .map(|i| Key::new(1, "bench").with(i))
            .collect();
        let dropout = AdapterDropout {
            probability: 0.1,
            tokens: &keys,
        };
        let extra = 2 * TOKENS * 16 * (inputs + outputs);
        for (kind, dropout) in [("LoRA 16", NO_DROPOUT), ("LoRA 16, dropout", dropout)] {
            let (_, hidden) = adapted.forward(&x, None, dropout)?;
            time(
                &format!("linear {name}, {kind}"),
                Cost::Operations(operations + extra),
                || adapted.forward(&x, None, dropout).map(drop),
            )?;
            time(
                &format!("linear {name}, {kind}, backward"),
                Cost::Operations(operations + 2 * extra),
                || {
                    adapted
                        .backward(&dy, &x, hidden.as_ref(), dropout, true)
                        .map(drop)
                },
            )?;
        }
    }
    Ok(())
}

fn with_gradient(value: Tensor) -> Result<Weight> {
    let gradient = value.zeros_like()?;
    Ok(Weight::trained(value, gradient))
}

fn loss_and_update() -> Result<()> {
    let x = random(&[TARGET_ROWS, HIDDEN])?;
    let head = Weight::frozen(random(&[VOCAB, HIDDEN])?);
    let ids: Vec<u32> = (0..TARGET_ROWS as u32).map(|i| i * 701).collect();
    let operations = 2 * TARGET_ROWS * HIDDEN * VOCAB;
    let targets = Targets {
        ids: &ids,
        weights: &[1.0; TARGET_ROWS],
        label_smoothing: 0.0,
    };
    time("cross-entropy", Cost::Operations(operations), || {
        linear_cross_entropy(&x, &head, targets, false).map(drop)
    })?;
    time(
        "cross-entropy, gradient",
        Cost::Operations(2 * operations),
        || linear_cross_entropy(&x, &head, targets, true).map(drop),
    )?;

    let n = 10_000_000;
    let values = random(&[n])?;
    let gradients = random(&[n])?;
    let first = values.zeros_like()?;
    let second = values.zeros_like()?;
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let segments = [Segment {
        range: 0..n,
        learning_rate: 1e-4,
        decay: true,
        step: 1,
    }];
    let buffers = Buffers {
        values: &values,
        gradients: &gradients,
        first: &first,
        second: &second,
        copy: None,
    };
    let one = Scalar::new(1.0, values.device())?;
    let clip = Clip {
        loss: &one,
        norm: &one,
        max_norm: 0.0,
    };
    time("adamw", Cost::Numbers(7 * n), || {
        adamw.update(buffers, &segments, clip)
    })?;
    time("gradient norm", Cost::Numbers(n), || {
        norm(&gradients).map(drop)
    })
}

fn main() -> Result<()> {
    maqam::ops::cpu::keep_freed_pages();
    println!(
        "{TOKENS} tokens, hidden {HIDDEN}, {} threads, {:?}",
        rayon::current_num_threads(),
        DType::F32
    );
    norms_and_activations()?;
    attention_and_rotary()?;
    linears()?;
    loss_and_update()
}
