//! Effect of rounding the decoder's frozen linear layers to fp8, layer by layer, on the CPU;
//! `docs/experiments/fp8.md` has its tables.
//!
//! `cargo bench --bench fp8 -- MODEL ADAPTER [CLIPS]` takes a checkpoint, a PEFT folder that was
//! trained on it, and the first clips (4 by default) of each task of the sample's dev set in one
//! batch. It prints two tables: the error of each linear layer's output relative to `f32` for the
//! same input, with the accumulated error at the layer's end; and the cosine of the adapters'
//! gradients with those in `f32`. Errors are norms of differences over norms.

use std::path::Path;

use candle_core::Tensor;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::data::OnBadRow;
use maqam::data::read_manifest;
use maqam::featurise::Loader;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::models::trained::Trained;
use maqam::nn::decoder_layer::DecoderLayer;
use maqam::nn::decoder_layer::Packing;
use maqam::nn::saving::Save;
use maqam::ops::activation::swiglu;
use maqam::ops::attention::Mask;
use maqam::ops::attention::attention;
use maqam::ops::device::to_host;
use maqam::ops::linear::AdapterDropout;
use maqam::ops::linear::Linear;
use maqam::ops::rotary::Rotary;
use maqam::ops::rows::gather;
use maqam::ops::rows::overwrite;
use maqam::parts::Part;
use maqam::seed::Key;
use maqam::task::Mode;
use maqam::task::Tasks;
use maqam::task::Wording;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const TASKS: [&str; 4] = ["asr", "summarization", "dialect", "emotion"];
const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    tokens: &[],
};

fn main() -> Fallible<()> {
    // `cargo bench` adds a flag of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [model, adapter, rest @ ..] = &arguments[..] else {
        println!(
            "a model and an adapter are needed: cargo bench --bench fp8 -- MODEL ADAPTER [CLIPS]"
        );
        return Ok(());
    };
    let clips = rest.first().map_or(Ok(4), |clips| clips.parse())?;
    let dir = Path::new(model);
    let adapter = Path::new(adapter);
    let batch = batch(dir, clips)?;
    let exact = open(dir, adapter)?;
    let mut rounded = open(dir, adapter)?;
    rounded.quantise()?;
    println!(
        "{} sequences, {} tokens, {} target tokens",
        batch.cu_seqlens.len() - 1,
        batch.tokens.len(),
        batch.target_ids.len()
    );
    outputs(dir, &batch, &exact, &rounded)?;
    gradients(&batch, &exact, &rounded)
}

fn open(dir: &Path, adapter: &Path) -> Fallible<AudioLlm> {
    let config = Config::load(dir)?;
    let trained = Trained::load(adapter, &config)?;
    let adapter = trained.adapter.ok_or("a folder without an adapter")?;
    let weights = config.weights(dir)?;
    let model = AudioLlm::new(
        config,
        &weights,
        adapter.plan.clone(),
        true,
        &candle_core::Device::Cpu,
    )?;
    model.load_adapter(&adapter)?;
    Ok(model)
}

/// The first clips of each task's dev set, each target token of the same weight.
fn batch(dir: &Path, clips: usize) -> Fallible<Batch> {
    let config = Config::load(dir)?;
    let loader = Loader::new(dir, &config, None)?;
    let tasks = Tasks::load(None)?;
    let mut sequences: Vec<Sequence> = Vec::new();
    for task in TASKS {
        let rows = read_manifest(
            Path::new(&format!("data/sample/{task}-dev.jsonl")),
            None,
            OnBadRow::Error,
        )?
        .rows;
        for (i, row) in rows.iter().take(clips).enumerate() {
            let example =
                tasks
                    .get(task)?
                    .example(row, Wording::Train, Key::new(0, "fp8").with(i as u64))?;
            sequences.push(
                loader
                    .load(&example, Mode::Train, Key::new(0, "fp8"))?
                    .sequence,
            );
        }
    }
    let targets: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / targets as f64);
    Ok(Batch::pack(
        &sequences.iter().collect::<Vec<_>>(),
        config.audio.framing(),
    )?)
}

/// Norm of the difference over the norm of what is expected.
fn error(found: &Tensor, expected: &Tensor) -> Fallible<f64> {
    let found = to_host(found)?;
    let expected = to_host(expected)?;
    let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let apart = squares(&mut found.iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
    Ok(apart / squares(&mut expected.iter().map(|&x| f64::from(x))))
}

fn outputs(dir: &Path, batch: &Batch, exact: &AudioLlm, rounded: &AudioLlm) -> Fallible<()> {
    let tensors =
        candle_core::safetensors::load(dir.join("model.safetensors"), &candle_core::Device::Cpu)?;
    let embeddings = tensors
        .iter()
        .find(|(name, _)| name.ends_with("embed_tokens.weight"))
        .ok_or("no embeddings")?
        .1;
    let mut x = gather(
        &embeddings.to_dtype(candle_core::DType::F32)?,
        &batch.tokens,
    )?;
    if let Some(heard) = exact.embed_audio(batch)? {
        overwrite(&x, &batch.audio_rows, &heard)?;
    }
    let text = &exact.config.text;
    let rotary = Rotary::new(&batch.positions, text.head_dim, text.rope_theta, &x)?;
    let packing = Packing {
        cu_seqlens: &batch.cu_seqlens,
        rotary: &rotary,
        dropout: NO_DROPOUT,
        save: Save::All,
    };
    let mut gathered = x.clone();
    println!(
        "\n| layer | q, k, v | o | gate, up | down | gathered at its end |\n|---|---|---|---|---|---|"
    );
    for (i, (a, b)) in exact.layers().iter().zip(rounded.layers()).enumerate() {
        gathered = b.forward(&gathered, &packing, None)?.0;
        let (y, each) = layer(&x, a, b, &packing)?;
        x = y;
        let cells: Vec<String> = each
            .iter()
            .chain([&error(&gathered, &x)?])
            .map(|error| format!("{:.2} %", 100.0 * error))
            .collect();
        println!("| {i} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// The output of a layer in `f32`, and the error of each of its four products in fp8 for the inputs
/// that they have there.
fn layer(
    x: &Tensor,
    a: &DecoderLayer,
    b: &DecoderLayer,
    packing: &Packing,
) -> Fallible<(Tensor, [f64; 4])> {
    let of = |a: &Linear, b: &Linear, x: &Tensor| -> Fallible<(Tensor, f64)> {
        let (exact, _) = a.forward(x, None, NO_DROPOUT)?;
        let found = error(&b.forward(x, None, NO_DROPOUT)?.0, &exact)?;
        Ok((exact, found))
    };
    let (attention_in, _) = a.attention_norm.forward(x, &a.qkv)?;
    let (qkv, first) = of(&a.qkv, &b.qkv, &attention_in)?;
    packing.rotary.apply(&qkv, a.heads.num_rotated())?;
    let (attended, _) = attention(&qkv, packing.cu_seqlens, a.heads, Mask::Causal)?;
    let (output, second) = of(&a.output, &b.output, &attended)?;
    let middle = (x + output)?;
    let (mlp_in, _) = a.mlp_norm.forward(&middle, &a.gate_up)?;
    let (gate_up, third) = of(&a.gate_up, &b.gate_up, &mlp_in)?;
    let (down, fourth) = of(&a.down, &b.down, &swiglu(&gate_up, 0)?)?;
    Ok(((middle + down)?, [first, second, third, fourth]))
}

fn gradients(batch: &Batch, exact: &AudioLlm, rounded: &AudioLlm) -> Fallible<()> {
    let pass = |model: &AudioLlm| -> Fallible<(f64, Vec<f32>)> {
        model.parameters.zero_gradients()?;
        Ok((
            model.train(batch, None, Pass::default())?.loss.value()?,
            to_host(&model.parameters.gradients)?,
        ))
    };
    let ((loss, a), (rounded_loss, b)) = (pass(exact)?, pass(rounded)?);
    println!(
        "\nloss {loss:.4} in f32, {rounded_loss:.4} in fp8\n\n| adapters of | cosine | least of one tensor | length beside f32's |\n|---|---|---|---|"
    );
    let row = |what: &str, is_of: &dyn Fn(Part, &str) -> bool| {
        let entries = exact
            .parameters
            .entries
            .iter()
            .filter(|entry| is_of(entry.part, &entry.name));
        let ranges: Vec<_> = entries.map(|entry| entry.range.clone()).collect();
        if ranges.is_empty() {
            return;
        }
        let dot = |a: &[f32], b: &[f32], range: &std::ops::Range<usize>| {
            range
                .clone()
                .map(|i| f64::from(a[i]) * f64::from(b[i]))
                .sum::<f64>()
        };
        let sum = |a: &[f32], b: &[f32]| ranges.iter().map(|range| dot(a, b, range)).sum::<f64>();
        let least = ranges
            .iter()
            .map(|range| dot(&a, &b, range) / (dot(&a, &a, range) * dot(&b, &b, range)).sqrt())
            .fold(1.0, f64::min);
        let aa = sum(&a, &a);
        let bb = sum(&b, &b);
        println!(
            "| {what} | {:.4} | {least:.4} | {:.3} |",
            sum(&a, &b) / (aa * bb).sqrt(),
            (bb / aa).sqrt()
        );
    };
    row("the audio encoder", &|part, _| part == Part::AudioEncoder);
    row("the projector", &|part, _| part == Part::Projector);
    for i in 0..exact.layers().len() {
        row(&format!("decoder layer {i}"), &|part, name| {
            part == Part::Decoder && name.contains(&format!(".layers.{i}."))
        });
    }
    row("all", &|_, _| true);
    Ok(())
}
