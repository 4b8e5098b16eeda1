//! The engine on a GPU against the engine on the CPU, which `tests/it/parity.rs` compares with
//! PyTorch: losses, gradients, training, generation. These tests need a build with the feature
//! `cuda` and a GPU, or the emulated driver of `tests/cuda/driver`. `tests/cuda_commands.rs` has
//! the commands.
#![cfg(feature = "cuda")]

mod gpu;
#[path = "it/golden/mod.rs"]
mod golden;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use golden::Golden;
use gpu::GPU;
use maqam::audio::LogMelExtractor;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::models::generate::Limits;
use maqam::models::generate::Sampling;
use maqam::nn::lora::Init;
use maqam::nn::lora::Plan;
use maqam::nn::lora::Settings as Lora;
use maqam::nn::lora::Targets;
use maqam::nn::peft;
use maqam::nn::saving::Save;
use maqam::nn::weights::Weights;
use maqam::ops::device;
use maqam::parts::Part;
use maqam::parts::Parts;
use maqam::parts::PerPart;
use maqam::parts::Training;
use maqam::seed::Key;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Settings;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;

/// Goldens with head sizes that the kernels support: multiples of 8.
const GOLDENS: [&str; 2] = ["qwen_omni", "qwen_omni_tied"];

/// Relative error of a loss, and least cosine of a gradient with the CPU's: what sums of products
/// of 8 significant bits may differ by.
const LOSS_BAR: f64 = 1e-3;
const COSINE_BAR: f64 = 0.995;

fn pack(sequences: &[Sequence]) -> Batch {
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

fn batch(golden: &Golden) -> Batch {
    let mut sequences = golden.sequences();
    let total: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / total as f64);
    pack(&sequences)
}

/// The golden's weights in bf16, as in checkpoints of this size. The CPU widens the same values
/// that the GPU uses.
fn weights(golden: &Golden) -> Weights {
    let mut tensors = HashMap::new();
    for file in maqam::nn::checkpoint::weight_files(&golden.dir).unwrap() {
        for (name, tensor) in candle_core::safetensors::load(file, &Device::Cpu).unwrap() {
            let name = if name.starts_with("thinker.") {
                name
            } else {
                format!("thinker.{name}")
            };
            tensors.insert(
                name,
                tensor
                    .to_dtype(DType::BF16)
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap(),
            );
        }
    }
    config(golden).weights(&golden.dir).unwrap().with(tensors)
}

fn config(golden: &Golden) -> Config {
    Config::load(&golden.dir).unwrap()
}

/// The model with the golden's first or last adapter.
fn adapted(golden: &Golden, adapter: &str, device: &Device) -> AudioLlm {
    let adapter =
        peft::Adapter::load(&golden.dir.join(adapter), &config(golden).adaptable()).unwrap();
    let model = AudioLlm::new(
        config(golden),
        &weights(golden),
        adapter.plan.clone(),
        true,
        device,
    )
    .unwrap();
    model.load_adapter(&adapter).unwrap();
    model
}

/// The model with every part trained in one way; adapters away from zero, where the gradient of A
/// would vanish.
fn trained(golden: &Golden, how: Training, device: &Device) -> AudioLlm {
    trained_of(config(golden), &weights(golden), how, device)
}

/// As [`trained`], of any configuration and weights.
fn trained_of(config: Config, weights: &Weights, how: Training, device: &Device) -> AudioLlm {
    let parts = Parts {
        audio_encoder: how,
        projector: how,
        decoder: how,
    };
    let settings = Lora {
        rank: 8,
        alpha: 16.0,
        targets: Targets::Named("all-linear".into()),
        ..Lora::default()
    };
    let plan = Plan::from_settings(&settings, &parts, &config.adaptable()).unwrap();
    let model = AudioLlm::new(config, weights, plan, true, device).unwrap();
    model.initialise(Init::Default, 3).unwrap();
    for entry in model
        .parameters
        .entries
        .iter()
        .filter(|entry| entry.name.ends_with("lora_B.weight"))
    {
        let key = Key::new(4, &entry.name);
        let values: Vec<f32> = (0..entry.range.len() as u64)
            .map(|i| 0.1 * (key.uniform(i) as f32 - 0.5))
            .collect();
        model.parameters.set(entry, &values).unwrap();
    }
    model
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn gradients(model: &AudioLlm) -> Vec<f32> {
    device::to_host(&model.parameters.gradients).unwrap()
}

/// The loss of a pass, which leaves its gradient.
fn loss_of(model: &AudioLlm, batch: &Batch, pass: Pass) -> f64 {
    model
        .train(batch, None, pass)
        .unwrap()
        .loss
        .value()
        .unwrap()
}

/// One pass on either device: losses near each other, every tensor's gradient in the same direction
/// and of the same length.
fn assert_same_pass(what: &str, on_gpu: &AudioLlm, on_cpu: &AudioLlm, batch: &Batch, pass: Pass) {
    let found = loss_of(on_gpu, batch, pass);
    let expected = loss_of(on_cpu, batch, pass);
    let error = (found / expected - 1.0).abs();
    assert!(
        error < LOSS_BAR,
        "{what}: loss {found} on the GPU, {expected} on the CPU"
    );
    let found = gradients(on_gpu);
    let expected = gradients(on_cpu);
    let mut least = 1f64;
    let mut worst = String::new();
    for entry in &on_cpu.parameters.entries {
        let a = &found[entry.range.clone()];
        let b = &expected[entry.range.clone()];
        if entry.name.ends_with("k_proj.bias") {
            // A constant added to every key changes no softmax: its true gradient is zero, and what
            // is found is rounding.
            continue;
        }
        let length = (cosine(a, a) * norm(a)) / norm(b);
        let cosine = cosine(a, b);
        assert!(
            cosine > COSINE_BAR && (length - 1.0).abs() < 0.05,
            "{what}: {} has a cosine of {cosine} and {length} of the length",
            entry.name
        );
        if cosine < least {
            (least, worst) = (cosine, entry.name.clone());
        }
    }
    eprintln!("{what}: loss off by {error:.1e}, least cosine {least:.5} ({worst})");
}

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn a_first_step_has_the_cpus_loss_and_gradients() {
    let Some(gpu) = &*GPU else { return };
    for name in GOLDENS {
        let golden = Golden::load(name);
        let of = |device| adapted(&golden, "adapter_init", device);
        assert_same_pass(
            name,
            &of(gpu),
            &of(&Device::Cpu),
            &batch(&golden),
            Pass::default(),
        );
        let smooth = Pass {
            dropout: 0.1,
            label_smoothing: 0.1,
            ..Pass::default()
        };
        assert_same_pass(
            &format!("{name} with dropout"),
            &of(gpu),
            &of(&Device::Cpu),
            &batch(&golden),
            smooth,
        );
    }
}

#[test]
fn every_part_trains_with_lora_and_in_full() {
    let Some(gpu) = &*GPU else { return };
    let golden = Golden::load("qwen_omni");
    for (what, how) in [
        ("adapters everywhere", Training::Lora),
        ("every weight", Training::Full),
    ] {
        let of = |device| trained(&golden, how, device);
        let on_gpu = of(gpu);
        assert_same_pass(
            what,
            &on_gpu,
            &of(&Device::Cpu),
            &batch(&golden),
            Pass::default(),
        );
        assert_eq!(on_gpu.unreached().unwrap(), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn save_policies_change_no_bit() {
    let Some(gpu) = &*GPU else { return };
    let golden = Golden::load("qwen_omni");
    // Without dropout the adapters read rows with padding after them, and rows that are computed
    // again must have the same padding.
    for dropout in [0.0, 0.1] {
        let of = |save| {
            let model = trained(&golden, Training::Lora, gpu);
            let loss = loss_of(
                &model,
                &batch(&golden),
                Pass {
                    save,
                    dropout,
                    label_smoothing: 0.1,
                    ..Pass::default()
                },
            );
            (loss, gradients(&model))
        };
        let all = of(Save::All);
        for save in [Save::Norms, Save::Layer] {
            assert!(
                all == of(save),
                "`{save}` differs from `all` at dropout {dropout}"
            );
        }
    }
}

/// The losses of some steps over all clips at a share of the golden's rate, and the values at their
/// end.
fn train(
    golden: &Golden,
    model: &AudioLlm,
    steps: usize,
    share: f64,
    pass: Pass,
) -> (Vec<f64>, Vec<f32>) {
    let learning_rate = share * golden.expected["lora"]["lr"].as_f64().unwrap();
    let settings = Settings {
        learning_rate,
        schedule: Shape::Constant,
        warmup: 0.0,
        ..Settings::default()
    };
    let mut optimiser = Optimiser::new(settings, &model.parameters).unwrap();
    let batch = batch(golden);
    let losses = (1..=steps as u64)
        .map(|step| {
            model.parameters.zero_gradients().unwrap();
            let loss = model.train(&batch, None, pass).unwrap().loss;
            let grad_norm = optimiser.grad_norm(&model.parameters).unwrap();
            optimiser
                .step(
                    &model.parameters,
                    Update {
                        loss: &loss,
                        grad_norm: &grad_norm,
                        learning_rate,
                        counts: PerPart::from_fn(|_| step),
                    },
                )
                .unwrap();
            loss.value().unwrap()
        })
        .collect();
    (losses, device::to_host(&model.parameters.values).unwrap())
}

fn apart(found: &[f64], expected: &[f64]) -> Vec<f64> {
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a / b - 1.0).abs())
        .collect()
}

fn largest(errors: &[f64]) -> f64 {
    errors.iter().copied().fold(0.0, f64::max)
}

/// Largest relative difference of the GPU's loss from the CPU's at any of the first twenty steps.
const CURVE_BAR: f64 = 0.01;

/// Two runs of PyTorch in bf16, with eager and fused attention, show how much a step's losses may
/// differ: `tests/reference/bf16_curve.py`. All use a quarter of the goldens' learning rate. The
/// full rate reduces the loss to a quarter within twenty steps, and any rounding grows tenfold
/// every five steps.
#[test]
fn fifty_steps_stay_near_pytorch_and_the_cpu() {
    let Some(gpu) = &*GPU else { return };
    let of_pytorch = golden::json(&golden::fixture("bf16_curves.json"));
    let share = of_pytorch["share_of_rate"].as_f64().unwrap();
    for name in GOLDENS {
        let golden = Golden::load(name);
        let run = |device: &Device, steps| {
            train(
                &golden,
                &adapted(&golden, "adapter_init", device),
                steps,
                share,
                Pass::default(),
            )
            .0
        };
        let [eager, fused] = ["eager", "sdpa"]
            .map(|attention| golden::numbers(&of_pytorch["curves"][name][attention]));
        let found = run(gpu, eager.len());
        let expected = run(&Device::Cpu, 20);
        let errors = apart(&found[..20], &expected);
        let nearest: Vec<f64> = apart(&found, &eager)
            .into_iter()
            .zip(apart(&found, &fused))
            .map(|(a, b)| a.min(b))
            .collect();
        let off = largest(&nearest);
        let spread = largest(&apart(&eager, &fused));
        eprintln!(
            "{name}: {:.3} to {:.3}; {:.4} from the CPU's at most, {off:.4} from the nearer run of PyTorch's, which are {spread:.4} apart",
            found[0],
            found[49],
            largest(&errors)
        );
        assert!(
            found[49] < 0.5 * found[0] && errors[0] < LOSS_BAR && largest(&errors) < CURVE_BAR,
            "{name}: {found:?}, on the CPU {expected:?}"
        );
        // Two runs are a small sample of correct results, so the engine may differ from them as
        // much as they differ from each other.
        assert!(
            off < 2.0 * spread,
            "{name}: {found:?}, PyTorch's {eager:?} and {fused:?}"
        );
    }
}

#[test]
fn fp8_in_frozen_layers_changes_the_loss_little() {
    let Some(gpu) = &*GPU else { return };
    for name in GOLDENS {
        let golden = Golden::load(name);
        let of = |is_rounded: bool| {
            let mut model = adapted(&golden, "adapter_init", gpu);
            if is_rounded {
                model.quantise().unwrap();
            }
            train(&golden, &model, 20, 1.0, Pass::default())
        };
        let found = of(true).0;
        let expected = of(false).0;
        let errors = apart(&found, &expected);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        eprintln!(
            "{name} in fp8: {:.3} to {:.3}; {errors:.4?} from bf16's, {mean:.4} on average",
            found[0], found[19]
        );
        assert!(
            errors[0] < 0.01 && mean < 0.05 && found[19] < 0.5 * found[0],
            "{name}: {found:?}, in bf16 {expected:?}"
        );
    }
}

#[test]
fn two_trainings_of_one_seed_have_the_same_bits() {
    let Some(gpu) = &*GPU else { return };
    let golden = Golden::load("qwen_omni_tied");
    let run = || {
        train(
            &golden,
            &adapted(&golden, "adapter_init", gpu),
            3,
            1.0,
            Pass {
                dropout: 0.1,
                ..Pass::default()
            },
        )
    };
    assert!(run() == run());
}

#[test]
fn embeddings_scores_and_answers_equal_the_cpus() {
    let Some(gpu) = &*GPU else { return };
    for name in GOLDENS {
        let golden = Golden::load(name);
        let on_gpu = adapted(&golden, "adapter_final", gpu);
        let on_cpu = adapted(&golden, "adapter_final", &Device::Cpu);
        let batch = batch(&golden);
        let found = on_gpu.embed_audio(&batch).unwrap().unwrap();
        let expected = on_cpu.embed_audio(&batch).unwrap().unwrap();
        assert!(found.device().is_cpu());
        assert!(
            cosine(&golden::flat(&found), &golden::flat(&expected)) > 0.9999,
            "{name}: what is heard"
        );
        let found = on_gpu.score(&batch, 0.0).unwrap();
        let expected = on_cpu.score(&batch, 0.0).unwrap();
        assert!(
            (found.loss / expected.loss - 1.0).abs() < 10.0 * LOSS_BAR,
            "{name}: {} and {}",
            found.loss,
            expected.loss
        );
        assert_same_answers(name, &golden, &on_gpu, &on_cpu);
    }
}

/// The same greedy tokens as long as the likeliest is clearly ahead, whatever a prompt is batched
/// with.
fn assert_same_answers(name: &str, golden: &Golden, on_gpu: &AudioLlm, on_cpu: &AudioLlm) {
    let prompts: Vec<Sequence> = (0..golden.examples().len())
        .map(|i| golden.prompt(i))
        .collect();
    let keys: Vec<Key> = prompts.iter().map(|prompt| prompt.key).collect();
    let limits = Limits {
        max_new_tokens: 6,
        ends: Vec::new(),
    };
    let answers = |model: &AudioLlm| {
        model
            .generate(&pack(&prompts), &keys, &limits, &Sampling::default())
            .unwrap()
    };
    let found = answers(on_gpu);
    let expected = answers(on_cpu);
    let mut clear = 0;
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let alone = on_gpu
            .generate(
                &pack(&prompts[i..=i]),
                &keys[i..=i],
                &limits,
                &Sampling::default(),
            )
            .unwrap();
        for (step, token) in expected.iter().enumerate() {
            let mut so_far = prompts[i].clone();
            so_far.tokens.extend(&expected[..step]);
            if margin(on_cpu, &so_far) < 0.1 {
                break;
            }
            assert_eq!(
                (found[step], alone[0][step]),
                (*token, *token),
                "{name} clip {i}, token {step}"
            );
            clear += 1;
        }
    }
    assert!(clear > 3, "{name}: only {clear} tokens are clear");
    let endings: Vec<Vec<Vec<u32>>> = expected
        .iter()
        .map(|answer| vec![answer.clone(), answer[..2].to_vec()])
        .collect();
    let found = on_gpu.continuations(&pack(&prompts), &endings).unwrap();
    let expected = on_cpu.continuations(&pack(&prompts), &endings).unwrap();
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!(
            (found - expected).abs() < 0.05 * expected.abs().max(1.0),
            "{name}: {found} and {expected}"
        );
    }
}

/// Difference between the logits of the likeliest next token and the second.
fn margin(model: &AudioLlm, prompt: &Sequence) -> f32 {
    let logits = model.logits(&pack(std::slice::from_ref(prompt))).unwrap();
    let mut last = golden::flat(&logits.narrow(0, prompt.tokens.len() - 1, 1).unwrap());
    last.sort_by(|a, b| b.total_cmp(a));
    last[0] - last[1]
}

#[test]
fn a_bf16_checkpoint_is_exact_on_the_gpu() {
    let Some(gpu) = &*GPU else { return };
    let golden = Golden::load("qwen_omni_tied");
    let name = "thinker.model.embed_tokens.weight";
    let shape = [352, 64];
    let on_gpu = weights(&golden).on(name, &shape, gpu).unwrap();
    assert_eq!(on_gpu.dtype(), DType::BF16);
    assert_eq!(
        device::to_host(&on_gpu).unwrap(),
        golden::flat(&weights(&golden).get(name, &shape, DType::F32).unwrap())
    );
    let noise = |device: &Device| {
        device::to_host(
            &Weights::Noise { seed: 3 }
                .on(name, &[50, 64], device)
                .unwrap(),
        )
        .unwrap()
    };
    let a = noise(gpu);
    let b = noise(&Device::Cpu);
    assert!(
        cosine(&a, &b) > 0.99999 && (norm(&a) / norm(&b) - 1.0).abs() < 1e-3,
        "random weights are the same on both"
    );
}

/// A Qwen2-Audio checkpoint with 3 heads of 8 numbers in the encoder, which the kernels support, in
/// place of 2 of 12; and its weights in bf16.
fn qwen2_audio() -> (Config, Weights) {
    let dir = golden::fixture("qwen2_audio");
    let mut config = Config::load(&dir).unwrap();
    config.audio.encoder_attention_heads = 3;
    let stored =
        candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let rounded = stored.into_iter().map(|(name, tensor)| {
        let name = name.replace("language_model.model.model.", "language_model.model.");
        let tensor = tensor.to_dtype(DType::BF16).unwrap();
        (name, tensor.to_dtype(DType::F32).unwrap())
    });
    let weights = config.weights(&dir).unwrap().with(rounded.collect());
    (config, weights)
}

/// A conversation over clips of noise with these lengths, in samples. Its last six tokens are
/// learnt.
fn noise_sequence(config: &Config, lengths: &[usize]) -> Sequence {
    let extractor = LogMelExtractor::new(config.mel_form());
    let mut tokens = vec![1, 2];
    let mut audio = Vec::new();
    let mut features = Vec::new();
    for (clip, &samples) in lengths.iter().enumerate() {
        let key = Key::new(5, "noise").with(clip as u64);
        let wave: Vec<f32> = (0..samples as u64)
            .map(|i| key.uniform(i) as f32 - 0.5)
            .collect();
        let start = tokens.len();
        tokens.extend(vec![config.audio_token; config.audio_tokens(samples)]);
        audio.push(start..tokens.len());
        tokens.push(3);
        features.push(Arc::new(extractor.extract(&wave)));
    }
    let start = tokens.len();
    tokens.extend(4..10);
    Sequence {
        targets: vec![start..tokens.len()],
        target_weight: 1.0 / 6.0,
        tokens,
        audio,
        features,
        key: Key::new(6, "noise"),
    }
}

/// The encoder with stored positions and windows of 30 s, the mean of pairs before its last norm,
/// and the projector: embeddings, losses and every gradient. An odd number of positions, two clips,
/// and a clip of two windows.
#[test]
fn qwen2_audio_passes_equal_the_cpus() {
    let Some(gpu) = &*GPU else { return };
    let (config, weights) = qwen2_audio();
    let framing = config.audio.framing();
    for lengths in [&[4960, 20_000][..], &[30 * 16_000 + 5000]] {
        let sequence = noise_sequence(&config, lengths);
        let batch = Batch::pack(&[&sequence], framing).unwrap();
        for how in [Training::Lora, Training::Full] {
            let on_gpu = trained_of(config.clone(), &weights, how, gpu);
            let on_cpu = trained_of(config.clone(), &weights, how, &Device::Cpu);
            let found = on_gpu.embed_audio(&batch).unwrap().unwrap();
            let expected = on_cpu.embed_audio(&batch).unwrap().unwrap();
            assert_eq!(found.dims(), expected.dims());
            assert!(
                cosine(&golden::flat(&found), &golden::flat(&expected)) > 0.9999,
                "{how:?} {lengths:?}: audio embeddings"
            );
            let what = format!("Qwen2-Audio, {how:?}, {lengths:?}");
            assert_same_pass(&what, &on_gpu, &on_cpu, &batch, Pass::default());
        }
    }
}

/// The same test as in `tests/it/full_training.rs` on the CPU.
#[test]
fn encoding_ahead_changes_no_bit() {
    let Some(gpu) = &*GPU else { return };
    let golden = Golden::load("qwen_omni");
    let batch = batch(&golden);
    let pass = Pass {
        dropout: 0.1,
        ..Pass::default()
    };
    let run = |is_ahead: bool| {
        let mut model = trained(&golden, Training::Lora, gpu);
        assert!(model.embed_audio_ahead(&batch, pass).unwrap().is_none());
        [Part::AudioEncoder, Part::Projector]
            .into_iter()
            .for_each(|part| model.set_trained(part, false));
        let heard = model
            .embed_audio_ahead(&batch, pass)
            .unwrap()
            .filter(|_| is_ahead);
        assert_eq!(heard.is_some(), is_ahead);
        let found = model.train(&batch, heard, pass).unwrap().read().unwrap();
        (found, gradients(&model))
    };
    assert!(run(true) == run(false));
}
