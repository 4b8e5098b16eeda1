//! A HuBERT encoder's forward and training step, and k-means over hours of frames; one JSON line.
//!
//!     cargo bench --bench encoder -- [small | base] [CLIPS] [SECONDS]
//!     cargo bench --bench encoder -- kmeans [HOURS] [CLUSTERS]
//!
//! `benches/peers/hubert.py` compares it with transformers, `benches/peers/kmeans.py` with
//! scikit-learn.

use std::time::Instant;

use candle_core::Device;
use candle_core::Result;
use maqam::models::hubert::Clip;
use maqam::models::hubert::Head;
use maqam::models::hubert::Hubert;
use maqam::models::hubert::Pass;
use maqam::models::hubert::Scope;
use maqam::models::hubert::Source;
use maqam::models::hubert::config::Config;
use maqam::objective::masked_prediction;
use maqam::ops::adamw::AdamW;
use maqam::ops::adamw::Buffers;
use maqam::ops::adamw::Clip as Shorten;
use maqam::ops::adamw::Segment;
use maqam::ops::adamw::norm;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::scalar::Scalar;
use maqam::seed::Key;
use maqam::stats::kmeans_stream::Clusters;

const REPEATS: usize = 3;
const CODES: usize = 500;
const NO_DROPOUT: AdapterDropout<'static> = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    maqam::ops::cpu::keep_freed_pages();
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let at = |i: usize, default: f64| arguments.get(i).map_or(Ok(default), |text| text.parse());
    if arguments.first().is_some_and(|name| name == "kmeans") {
        kmeans(at(1, 10.0)?, at(2, 500.0)? as usize);
        return Ok(());
    }
    let name = arguments.first().map_or("small", String::as_str);
    let config = match name {
        "base" => Config::default(),
        _ => Config {
            hidden_size: 256,
            num_hidden_layers: 6,
            num_attention_heads: 4,
            intermediate_size: 1024,
            conv_dim: vec![128; 7],
            ..Config::default()
        },
    };
    let clips = at(1, 4.0)? as usize;
    let seconds = at(2, 4.0)?;
    Ok(encoder(name, config, clips, seconds)?)
}

fn encoder(name: &str, config: Config, num_clips: usize, seconds: f64) -> Result<()> {
    let head = |name: &str, shape: Vec<usize>| Head {
        name: name.into(),
        shape,
        deviation: 0.02,
    };
    let heads = [
        head("projection", vec![256, config.hidden_size]),
        head("codes", vec![CODES, 256]),
    ];
    let layers = config.num_hidden_layers;
    let model = Hubert::new(config, &Source::Random { seed: 1 }, Scope::Full, &heads)
        .map_err(candle_core::Error::wrap)?;
    let key = Key::new(1, "samples");
    let samples = (seconds * 16_000.0) as u64;
    let audio: Vec<Vec<f32>> = (0..num_clips as u64)
        .map(|clip| {
            (0..samples)
                .map(|i| key.with(clip).uniform(i) as f32 - 0.5)
                .collect()
        })
        .collect();
    let clips: Vec<Clip> = audio.iter().map(|samples| Clip::new(samples)).collect();
    let first = model.parameters.values.zeros_like()?;
    let second = model.parameters.values.zeros_like()?;
    let mut forwards = Vec::new();
    let mut steps = Vec::new();
    let mut frames = 0;
    for repeat in 0..=REPEATS {
        let begun = Instant::now();
        let encoded = model
            .encode(&clips, layers)
            .map_err(candle_core::Error::wrap)?;
        forwards.push(begun.elapsed().as_secs_f64());
        frames = encoded.frames.iter().sum();
        let begun = Instant::now();
        step(&model, &clips, frames, (&first, &second), repeat as u64 + 1)?;
        steps.push(begun.elapsed().as_secs_f64());
    }
    println!(
        "{{\"shape\": \"{name}\", \"clips\": {num_clips}, \"seconds\": {seconds}, \"frames\": {frames}, \"threads\": {}, \"forward_s\": {:.4}, \"step_s\": {:.4}}}",
        rayon::current_num_threads(),
        median(&forwards[1..]),
        median(&steps[1..])
    );
    Ok(())
}

/// Masked prediction over all frames, every second one masked, and an update.
fn step(
    model: &Hubert,
    clips: &[Clip],
    frames: usize,
    (first, second): (&candle_core::Tensor, &candle_core::Tensor),
    number: u64,
) -> Result<()> {
    let wrap = |error: maqam::error::Error| candle_core::Error::wrap(error);
    let masked: Vec<u32> = (0..frames as u32).step_by(2).collect();
    let pass = Pass {
        masked: &masked,
        ..Pass::plain(model.config.num_hidden_layers, true)
    };
    model.parameters.zero_gradients().map_err(wrap)?;
    let (encoded, saved) = model.forward(clips, pass).map_err(wrap)?;
    let projection = Linear {
        weight: model.head("projection").map_err(wrap)?.clone(),
        bias: None,
        adapter: None,
    };
    let (x, _) = projection.forward(&encoded.output, None, NO_DROPOUT)?;
    let codes: Vec<u32> = (0..frames).map(|i| (i % CODES) as u32).collect();
    let weights = vec![1.0 / frames as f64; frames];
    let targets = masked_prediction::Targets {
        codes: &codes,
        weights: &weights,
        temperature: 0.1,
    };
    let found =
        masked_prediction::masked_prediction(&x, model.head("codes").map_err(wrap)?, targets)?;
    let d = projection.backward(&found.d_frames, &encoded.output, None, NO_DROPOUT, true)?;
    if let Some(saved) = &saved {
        model.backward(saved, d, Vec::new(), 1.0).map_err(wrap)?;
    }
    let parameters = &model.parameters;
    let all = Segment {
        range: 0..parameters.values.elem_count(),
        learning_rate: 1e-4,
        decay: true,
        step: number,
    };
    let buffers = Buffers {
        values: &parameters.values,
        gradients: &parameters.gradients,
        first,
        second,
        copy: None,
    };
    let clip = Shorten {
        loss: &Scalar::new(found.loss, &Device::Cpu)?,
        norm: &norm(&parameters.gradients)?,
        max_norm: 1.0,
    };
    AdamW {
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.01,
    }
    .update(buffers, &[all], clip)
}

/// One pass of batches over frames of 768 numbers around as many centres as there are clusters;
/// frames are made batch by batch.
fn kmeans(hours: f64, k: usize) {
    const DIMS: usize = 768;
    const BATCH: usize = 10_000;
    let frames = (hours * 3600.0 * 50.0) as usize;
    let key = Key::new(1, "frames");
    let truth: Vec<f32> = (0..(k * DIMS) as u64)
        .map(|i| key.uniform(i) as f32)
        .collect();
    let noise: Vec<f32> = (0..1 << 20)
        .map(|i| key.with(1).uniform(i) as f32 - 0.5)
        .collect();
    let batch = |start: usize| -> Vec<f32> {
        let rows = BATCH.min(frames - start);
        let mut out = Vec::with_capacity(rows * DIMS);
        for row in start..start + rows {
            let centre = key.with(2).below(row as u64, k);
            let offset = key.with(3).below(row as u64, noise.len() - DIMS);
            let of_noise = &noise[offset..][..DIMS];
            out.extend(
                truth[centre * DIMS..][..DIMS]
                    .iter()
                    .zip(of_noise)
                    .map(|(t, n)| t + n),
            );
        }
        out
    };
    let mut clusters = Clusters::new(batch(0)[..k * DIMS].to_vec(), DIMS);
    let mut work = 0.0;
    let mut inertia = 0.0;
    for start in (0..frames).step_by(BATCH) {
        let values = batch(start);
        let begun = Instant::now();
        inertia = clusters.learn(&values) / (values.len() / DIMS) as f64;
        work += begun.elapsed().as_secs_f64();
    }
    println!(
        "{{\"hours\": {hours}, \"frames\": {frames}, \"clusters\": {k}, \"threads\": {}, \"seconds\": {work:.2}, \"inertia_per_frame\": {inertia:.4}, \"peak_mib\": {}}}",
        rayon::current_num_threads(),
        peak_mib()
    );
}

/// Peak memory of the process, in MiB; 0 if the system does not report it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|text| text.parse::<u64>().ok());
    number.map_or(0, |kib| kib / 1024)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
