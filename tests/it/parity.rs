//! maqam's model against transformers and PEFT, on checkpoints of random weights: audio tokens,
//! logits, losses, greedy tokens, gradients, 20 steps of LoRA training. The bars are the project's;
//! `tests/reference` has the scripts.

use crate::golden;

use candle_core::D;
use candle_core::Device;
use golden::Golden;
use golden::assert_close;
use golden::distance;
use golden::flat;
use golden::numbers;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::generate::Limits;
use maqam::models::generate::Sampling;
use maqam::nn::lora::Plan;
use maqam::nn::saving::Save;
use maqam::parts::PerPart;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Settings;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;

const GOLDENS: [&str; 3] = ["qwen_omni", "qwen_omni_tied", "qwen_omni_wide"];

fn pack(sequences: &[Sequence]) -> Batch {
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

/// Every target token weighs the same, and together they weigh one.
fn with_equal_weights(mut sequences: Vec<Sequence>) -> Vec<Sequence> {
    let total: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / total as f64);
    sequences
}

#[test]
fn audio_tokens_equal_the_references() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        for (i, sequence) in golden.sequences().into_iter().enumerate() {
            let heard = model.embed_audio(&pack(&[sequence])).unwrap().unwrap();
            let error = distance(&heard, &golden.tensors[&format!("audio.{i}")]);
            assert!(error < 1e-3, "{name} clip {i}: {error}");
        }
    }
}

#[test]
fn logits_equal_the_reference_alone_and_packed() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let all = golden.sequences();
        let packed = model.logits(&pack(&all)).unwrap();
        let mut start = 0;
        for (i, sequence) in all.into_iter().enumerate() {
            let len = sequence.tokens.len();
            let expected = &golden.tensors[&format!("logits.{i}")];
            assert!(
                distance(&packed.narrow(0, start, len).unwrap(), expected) < 1e-3,
                "{name} clip {i} in a pack"
            );
            assert!(
                distance(&model.logits(&pack(&[sequence])).unwrap(), expected) < 1e-3,
                "{name} clip {i} alone"
            );
            start += len;
        }
    }
}

#[test]
fn logits_of_targets_are_rows_of_all() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let batch = pack(&golden.sequences());
        let all = flat(&model.logits(&batch).unwrap());
        let vocabulary = model.vocabulary().unwrap();
        assert_eq!(all.len(), batch.tokens.len() * vocabulary);
        let mut found: Vec<(usize, Vec<f32>)> = Vec::new();
        model
            .each_target_logits(&batch, &mut |sequence, logits| {
                found.push((sequence, logits));
            })
            .unwrap();
        let mut targets = batch.target_rows.iter().zip(&batch.target_sequences);
        for (sequence, logits) in &found {
            for of_target in logits.chunks_exact(vocabulary) {
                let (&row, &of) = targets.next().unwrap();
                assert_eq!(of as usize, *sequence, "{name}");
                let expected = &all[row as usize * vocabulary..][..vocabulary];
                let largest = of_target
                    .iter()
                    .zip(expected)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(largest < 1e-3, "{name}: {largest}");
            }
        }
        assert!(targets.next().is_none() && !found.is_empty(), "{name}");
    }
}

#[test]
fn losses_and_log_probabilities_equal_the_references() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let adapted = golden.adapted("adapter_init");
        let finished = golden.adapted("adapter_final");
        for (i, example) in golden.examples().iter().enumerate() {
            let batch = pack(&with_equal_weights(vec![golden.sequence(i)]));
            let scored = model.score(&batch, 0.0).unwrap();
            assert_close(scored.loss, example["loss"].as_f64().unwrap(), 1e-4, name);
            for (found, expected) in scored
                .log_probabilities
                .iter()
                .zip(numbers(&example["target_logprobs"]))
            {
                assert!((found - expected).abs() < 1e-3);
            }
            let lora = &golden.expected["lora"];
            assert_close(
                adapted.score(&batch, 0.0).unwrap().loss,
                numbers(&lora["loss_with_adapter_init"])[i],
                1e-4,
                "with the first adapter",
            );
            assert_close(
                finished.score(&batch, 0.0).unwrap().loss,
                numbers(&lora["loss_with_adapter_final"])[i],
                1e-4,
                "with the last adapter",
            );
        }
    }
}

#[test]
fn greedy_tokens_equal_where_the_margin_is_clear() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let prompts: Vec<Sequence> = (0..golden.examples().len())
            .map(|i| golden.prompt(i))
            .collect();
        let keys: Vec<_> = prompts.iter().map(|prompt| prompt.key).collect();
        let longest = golden
            .examples()
            .iter()
            .map(|e| e["greedy"].as_array().unwrap().len())
            .max()
            .unwrap();
        let limits = Limits {
            max_new_tokens: longest,
            ends: vec![end_of_turn(&golden)],
        };
        let together = model
            .generate(&pack(&prompts), &keys, &limits, &Sampling::default())
            .unwrap();
        for (i, answer) in together.iter().enumerate() {
            let expected = numbers(&golden.examples()[i]["greedy"]);
            let margins = numbers(&golden.examples()[i]["greedy_margin"]);
            let clear = margins
                .iter()
                .position(|&m| m < 1e-3)
                .unwrap_or(margins.len());
            assert!(clear > 0);
            let found: Vec<f64> = answer.iter().take(clear).map(|&id| f64::from(id)).collect();
            assert_eq!(found, expected[..clear], "{name} clip {i}");
            let alone = model
                .generate(
                    &pack(&prompts[i..=i]),
                    &keys[i..=i],
                    &limits,
                    &Sampling::default(),
                )
                .unwrap();
            assert_eq!(
                alone[0][..clear],
                answer[..clear],
                "{name} clip {i}: alone and in a batch of unequal lengths"
            );
        }
    }
}

fn end_of_turn(golden: &Golden) -> u32 {
    golden::json(&golden.dir.join("generation_config.json"))["eos_token_id"]
        .as_u64()
        .unwrap() as u32
}

fn settings_of(golden: &Golden) -> (Settings, f64) {
    let lora = &golden.expected["lora"];
    let learning_rate = lora["lr"].as_f64().unwrap();
    let settings = Settings {
        learning_rate,
        schedule: Shape::Constant,
        warmup: 0.0,
        ..Settings::default()
    };
    (settings, learning_rate)
}

/// The losses and gradient norms of training over all clips in every step.
fn train(model: &AudioLlm, golden: &Golden, steps: usize, pass: Pass) -> Vec<(f64, f64)> {
    train_by(model, golden, steps, pass, settings_of(golden))
}

/// The same with an optimiser and a learning rate of its own.
fn train_by(
    model: &AudioLlm,
    golden: &Golden,
    steps: usize,
    pass: Pass,
    (settings, learning_rate): (Settings, f64),
) -> Vec<(f64, f64)> {
    let mut optimiser = Optimiser::new(settings, &model.parameters).unwrap();
    let batch = pack(&with_equal_weights(golden.sequences()));
    (0..steps)
        .map(|step| {
            model.parameters.zero_gradients().unwrap();
            let found = model.train(&batch, None, pass).unwrap();
            let norm = optimiser.grad_norm(&model.parameters).unwrap();
            let counts = PerPart::from_fn(|_| step as u64 + 1);
            optimiser
                .step(
                    &model.parameters,
                    Update {
                        loss: &found.loss,
                        grad_norm: &norm,
                        learning_rate,
                        counts,
                    },
                )
                .unwrap();
            (found.loss.value().unwrap(), norm.value().unwrap())
        })
        .collect()
}

#[test]
fn twenty_steps_of_lora_plus_follow_peft() {
    let golden = Golden::load("qwen_omni");
    let expected = golden::json(&golden::fixture("lora_plus.json"));
    let learning_rate = expected["lr"].as_f64().unwrap();
    let run = |lora_plus: f64| {
        let model = golden.adapted("adapter_init");
        let settings = Settings {
            learning_rate,
            lora_plus,
            ..settings_of(&golden).0
        };
        let by = (settings, learning_rate);
        train_by(&model, &golden, 20, Pass::default(), by)
    };
    let losses = numbers(&expected["step_losses"]);
    let norms = numbers(&expected["grad_norms"]);
    let found = run(expected["ratio"].as_f64().unwrap());
    for (step, (loss, norm)) in found.iter().enumerate() {
        assert_close(*loss, losses[step], 1e-3, &format!("loss of step {step}"));
        assert_close(*norm, norms[step], 1e-2, &format!("norm of step {step}"));
    }
    let (plain, _) = run(1.0)[19];
    assert!((plain / losses[19] - 1.0).abs() > 0.05, "the ratio matters");
}

#[test]
fn twenty_steps_of_lora_follow_peft_step_by_step() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        for save in [Save::All, Save::Norms, Save::Layer] {
            let model = golden.adapted("adapter_init");
            let lora = &golden.expected["lora"];
            let losses = numbers(&lora["step_losses"]);
            let norms = numbers(&lora["grad_norms"]);
            for (step, (loss, norm)) in train(
                &model,
                &golden,
                losses.len(),
                Pass {
                    save,
                    ..Pass::default()
                },
            )
            .into_iter()
            .enumerate()
            {
                assert_close(
                    loss,
                    losses[step],
                    1e-3,
                    &format!("{name} loss of step {step}"),
                );
                assert_close(
                    norm,
                    norms[step],
                    1e-2,
                    &format!("{name} gradient norm of step {step}"),
                );
            }
            let expected = candle_core::safetensors::load(
                golden.dir.join("adapter_final/adapter_model.safetensors"),
                &Device::Cpu,
            )
            .unwrap();
            for entry in &model.parameters.entries {
                let error = distance(
                    &model.parameters.value(entry).unwrap(),
                    &expected[&entry.name],
                );
                assert!(error < 2e-2, "{name} {} ends {error} away", entry.name);
            }
        }
    }
}

#[test]
fn gradients_of_every_adapter_equal_pytorchs() {
    let golden = Golden::load("qwen_omni_wide");
    let model = golden.adapted("adapter_init");
    model
        .train(
            &pack(&with_equal_weights(golden.sequences())),
            None,
            Pass::default(),
        )
        .unwrap();
    let expected =
        candle_core::safetensors::load(golden.dir.join("gradients.safetensors"), &Device::Cpu)
            .unwrap();
    assert_eq!(expected.len(), model.parameters.entries.len());
    for entry in &model.parameters.entries {
        let found = model
            .parameters
            .gradients
            .narrow(0, entry.range.start, entry.range.len())
            .unwrap();
        let expected = flat(&expected[&entry.name]);
        let size = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
        let error = flat(&found)
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            size > 0.0 && error < 1e-3 * size,
            "{}: off by {error} of {size}",
            entry.name
        );
    }
}

#[test]
fn every_tensor_has_a_gradient_under_each_policy() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let batch = pack(&with_equal_weights(golden.sequences()));
        let gradients: Vec<Vec<f32>> = [Save::All, Save::Norms, Save::Layer]
            .into_iter()
            .map(|save| {
                let model = golden.adapted("adapter_init");
                model
                    .train(
                        &batch,
                        None,
                        Pass {
                            save,
                            dropout: 0.1,
                            label_smoothing: 0.1,
                            ..Pass::default()
                        },
                    )
                    .unwrap();
                assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
                flat(&model.parameters.gradients)
            })
            .collect();
        assert_eq!(
            gradients[0], gradients[2],
            "{name}: what is computed again changes no gradient"
        );
        assert_eq!(
            gradients[0], gradients[1],
            "{name}: what is kept changes memory and time, never gradients"
        );
    }
}

#[test]
fn a_packed_batch_is_the_sum_of_its_examples() {
    for dropout in [0.0, 0.2] {
        let golden = Golden::load("qwen_omni_wide");
        let pass = Pass {
            dropout,
            ..Pass::default()
        };
        let sequences = with_equal_weights(golden.sequences());
        let packed = golden.adapted("adapter_init");
        let loss_of = |model: &AudioLlm, batch: &Batch| {
            model
                .train(batch, None, pass)
                .unwrap()
                .loss
                .value()
                .unwrap()
        };
        let loss = loss_of(&packed, &pack(&sequences));
        let one_by_one = golden.adapted("adapter_init");
        let sum: f64 = sequences
            .iter()
            .map(|sequence| loss_of(&one_by_one, &pack(std::slice::from_ref(sequence))))
            .sum();
        assert_close(loss, sum, 1e-6, "loss");
        let a = flat(&packed.parameters.gradients);
        let b = flat(&one_by_one.parameters.gradients);
        let size = a.iter().fold(0f32, |m, x| m.max(x.abs()));
        let error = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(error < 1e-5 * size, "gradients differ by {error} of {size}");
    }
}

#[test]
fn two_trainings_of_one_seed_have_the_same_bits() {
    let golden = Golden::load("qwen_omni_wide");
    let run = || {
        let model = golden.adapted("adapter_init");
        let losses = train(
            &model,
            &golden,
            3,
            Pass {
                dropout: 0.1,
                ..Pass::default()
            },
        );
        (losses, flat(&model.parameters.values))
    };
    assert_eq!(run(), run());
}

#[test]
fn frozen_weights_stay_as_they_are() {
    let golden = Golden::load("qwen_omni");
    let model = golden.adapted("adapter_init");
    train(&model, &golden, 2, Pass::default());
    let entries = model.parameters.entries.clone();
    for entry in &entries {
        model
            .parameters
            .set(entry, &vec![0.0; entry.range.len()])
            .unwrap();
    }
    let batch = pack(&[golden.sequence(0)]);
    let untouched = golden.model(Plan::default(), false);
    let a = model.logits(&batch).unwrap();
    let b = untouched.logits(&batch).unwrap();
    assert_eq!(
        flat(&a),
        flat(&b),
        "with adapters of zeros the model is the checkpoint's, bit for bit"
    );
    assert_eq!(
        a.argmax(D::Minus1).unwrap().dims(),
        [golden.sequence(0).tokens.len()]
    );
}
