//! NEFTune in a model: where its noise goes, and what does not change it.

use std::collections::HashMap;

use crate::command::small_run;
use crate::golden::Golden;
use candle_core::Device;
use candle_core::Tensor;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::EmbeddingNoise;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::nn::peft::Adapter;
use maqam::ops::noise::Noise;

const TABLE: &str = "thinker.model.embed_tokens.weight";
/// The adapter that is trained.
const ADAPTER: &str = "adapter_init";
const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

fn pass(alpha: f64, on_audio: bool) -> Pass {
    Pass {
        noise: EmbeddingNoise { alpha, on_audio },
        ..Pass::default()
    }
}

fn pack(sequences: &[Sequence]) -> Batch {
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

fn loss(model: &AudioLlm, batch: &Batch, pass: Pass) -> f64 {
    model.parameters.zero_gradients().unwrap();
    let found = model.train(batch, None, pass).unwrap();
    found.loss.value().unwrap()
}

/// An example in which no two tokens of text are the same.
fn distinct(golden: &Golden) -> Sequence {
    let mut sequence = golden.sequence(0);
    let audio = sequence.audio[0].clone();
    for (place, token) in sequence.tokens.iter_mut().enumerate() {
        if !audio.contains(&place) {
            *token = 3 + place as u32;
        }
    }
    sequence
}

/// A model whose table of embeddings has the noise of a batch at the rows of its tokens.
fn with_noisy_table(golden: &Golden, batch: &Batch, alpha: f64) -> AudioLlm {
    let config = Config::load(&golden.dir).unwrap();
    let plain = config.weights(&golden.dir).unwrap();
    let table = SHARDS
        .into_iter()
        .find_map(|shard| {
            let tensors =
                candle_core::safetensors::load(golden.dir.join(shard), &Device::Cpu).unwrap();
            tensors.get(TABLE).cloned()
        })
        .unwrap();
    let (rows, dim) = table.dims2().unwrap();
    let noise = Tensor::zeros(
        (batch.tokens.len(), dim),
        candle_core::DType::F32,
        &Device::Cpu,
    )
    .unwrap();
    let made = Noise {
        alpha,
        tokens: &batch.token_keys,
        cu_seqlens: &batch.cu_seqlens,
    };
    made.add_to(&noise).unwrap();
    let noise = noise.to_vec2::<f32>().unwrap();
    let mut values = table
        .to_dtype(candle_core::DType::F32)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    for (row, token) in batch.tokens.iter().enumerate() {
        if !batch.audio_rows.contains(&(row as u32)) {
            let embedding = &mut values[*token as usize];
            embedding
                .iter_mut()
                .zip(&noise[row])
                .for_each(|(x, n)| *x += n);
        }
    }
    let values = Tensor::from_vec(values.concat(), (rows, dim), &Device::Cpu).unwrap();
    let weights = plain.with(HashMap::from([(TABLE.to_owned(), values)]));
    let adapter = Adapter::load(&golden.dir.join(ADAPTER), &config.adaptable()).unwrap();
    let plan = adapter.plan.clone();
    let model = AudioLlm::new(config, &weights, plan, true, &Device::Cpu).unwrap();
    model.load_adapter(&adapter).unwrap();
    model
}

#[test]
fn noise_is_on_the_text_and_on_audio_if_asked() {
    let golden = Golden::load("qwen_omni");
    let batch = pack(&[distinct(&golden)]);
    let alpha = 20.0;
    let plain = golden.adapted(ADAPTER);
    let found = loss(&plain, &batch, pass(alpha, false));
    let expected = loss(
        &with_noisy_table(&golden, &batch, alpha),
        &batch,
        Pass::default(),
    );
    assert_eq!(found, expected, "the same values take the same way");

    let without = loss(&plain, &batch, Pass::default());
    let on_audio = loss(&plain, &batch, pass(alpha, true));
    assert!((found - without).abs() > 1e-4, "{found} {without}");
    assert!((found - on_audio).abs() > 1e-4, "{found} {on_audio}");
}

#[test]
fn losses_with_noise_do_not_depend_on_the_packing() {
    let golden = Golden::load("qwen_omni");
    let model = golden.adapted(ADAPTER);
    let all = golden.sequences();
    let alone: f64 = all
        .iter()
        .map(|one| loss(&model, &pack(std::slice::from_ref(one)), pass(10.0, true)))
        .sum();
    let together = loss(&model, &pack(&all), pass(10.0, true));
    assert!((alone / together - 1.0).abs() < 1e-5, "{alone} {together}");
}

#[test]
fn a_run_with_noise_resumes_to_the_same_bytes() {
    let place = small_run(6);
    let recipe = place.text("recipe.yaml");
    let train = |name: &str, more: &[&str]| {
        let name = format!("name={name}");
        let all = [&["train", "recipe.yaml", "--set", &name], more];
        place.run(&all.concat()).succeeds();
    };
    assert!(!recipe.contains("neftune"));
    let noisy = ["--set", "neftune={alpha: 5}"];
    train("plain", &[]);
    train("whole", &noisy);
    let log = |name: &str| place.text(&format!("runs/{name}/log.jsonl"));
    assert_ne!(log("plain"), log("whole"));
    assert!(!place.text("runs/plain/recipe.yaml").contains("neftune"));
    assert!(place.text("runs/whole/recipe.yaml").contains("neftune"));

    // A run that lost its last checkpoints goes on from the first.
    std::fs::rename(place.path("runs/whole"), place.path("runs/kept")).unwrap();
    train("whole", &noisy);
    let checkpoints = place.path("runs/whole/checkpoints");
    let mut steps: Vec<_> = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    steps.sort();
    assert!(steps.len() > 1, "{steps:?}");
    for step in &steps[1..] {
        std::fs::remove_dir_all(step).unwrap();
    }
    train("whole", &[&noisy[..], &["--resume"]].concat());
    assert_eq!(
        place.bytes("runs/whole/log.jsonl"),
        place.bytes("runs/kept/log.jsonl")
    );
}
