//! Training whole parts against PyTorch (`reference/full_training.py`): gradients, steps of AdamW,
//! factors by part, parts frozen for a while; and every gradient against central differences of the
//! loss.

use crate::golden;

use golden::Golden;
use golden::flat;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::nn::lora::Init;
use maqam::nn::lora::Plan;
use maqam::nn::lora::Settings;
use maqam::nn::saving::Save;
use maqam::parts::Part;
use maqam::parts::Parts;
use maqam::parts::PerPart;
use maqam::parts::Training;
use maqam::train::optimiser;
use maqam::train::optimiser::Factors;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;
use serde_json::Value;

const ALL: Parts = Parts {
    audio_encoder: Training::Full,
    projector: Training::Full,
    decoder: Training::Full,
};
const ADAPTERS: Parts = Parts {
    audio_encoder: Training::Lora,
    projector: Training::Lora,
    decoder: Training::Lora,
};

fn batch(golden: &Golden) -> Batch {
    let mut sequences: Vec<Sequence> = golden.sequences();
    let targets: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / targets as f64);
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

fn model(golden: &Golden, parts: &Parts) -> AudioLlm {
    let config = maqam::models::config::Config::load(&golden.dir).unwrap();
    golden.model(
        Plan::from_settings(&Settings::default(), parts, &config.adaptable()).unwrap(),
        true,
    )
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let golden = Golden::load(name);
        let model = model(&golden, &ALL);
        let batch = batch(&golden);
        model.train(&batch, None, Pass::default()).unwrap();
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
        let values = flat(&model.parameters.values);
        let gradients = flat(&model.parameters.gradients);
        for entry in &model.parameters.entries {
            let start = &values[entry.range.clone()];
            let slope = &gradients[entry.range.clone()];
            let square: f64 = slope.iter().map(|&g| f64::from(g).powi(2)).sum();
            let step = (2e-3 / square.sqrt()).min(0.5);
            let loss_at = |factor: f64| {
                let moved: Vec<f32> = start
                    .iter()
                    .zip(slope)
                    .map(|(&x, &g)| x + (factor * step * f64::from(g)) as f32)
                    .collect();
                model.parameters.set(entry, &moved).unwrap();
                model.score(&batch, 0.0).unwrap().loss
            };
            let found = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * step);
            model.parameters.set(entry, start).unwrap();
            assert!(
                (found - square).abs() < 0.03 * square,
                "{name}: {}: slope {found:e}, gradient {square:e}",
                entry.name
            );
        }
    }
}

#[test]
fn encoding_ahead_changes_no_bit() {
    let golden = Golden::load("qwen_omni");
    let batch = batch(&golden);
    let learning_rate = 1e-3;
    for (parts, dropout) in [(&ALL, 0.0), (&ADAPTERS, 0.2)] {
        let pass = Pass {
            dropout,
            label_smoothing: 0.1,
            ..Pass::default()
        };
        let run = |is_ahead: bool| {
            let mut model = model(&golden, parts);
            model.initialise(Init::Default, 3).unwrap();
            // Away from zero, or dropout would change nothing.
            for entry in model
                .parameters
                .entries
                .iter()
                .filter(|entry| entry.name.ends_with("lora_B.weight"))
            {
                model
                    .parameters
                    .set(entry, &vec![0.01; entry.range.len()])
                    .unwrap();
            }
            assert!(
                model.embed_audio_ahead(&batch, pass).unwrap().is_none(),
                "what is trained is heard as it is by then"
            );
            [Part::AudioEncoder, Part::Projector]
                .into_iter()
                .for_each(|part| model.set_trained(part, false));
            let mut optimiser = Optimiser::new(
                optimiser::Settings {
                    learning_rate,
                    ..optimiser::Settings::default()
                },
                &model.parameters,
            )
            .unwrap();
            let hear = || {
                model
                    .embed_audio_ahead(&batch, pass)
                    .unwrap()
                    .filter(|_| is_ahead)
            };
            let mut heard = hear();
            assert_eq!(heard.is_some(), is_ahead);
            let losses: Vec<f64> = (1..=3)
                .map(|step| {
                    model.parameters.zero_gradients().unwrap();
                    let loss = model.train(&batch, heard.take(), pass).unwrap().loss;
                    heard = hear();
                    let grad_norm = optimiser.grad_norm(&model.parameters).unwrap();
                    let counts =
                        PerPart::from_fn(|part| if part == Part::Decoder { step } else { 0 });
                    optimiser
                        .step(
                            &model.parameters,
                            Update {
                                loss: &loss,
                                grad_norm: &grad_norm,
                                learning_rate,
                                counts,
                            },
                        )
                        .unwrap();
                    loss.value().unwrap()
                })
                .collect();
            (losses, flat(&model.parameters.values))
        };
        let ahead = run(true);
        let without = run(false);
        assert!(
            ahead.0[2] < ahead.0[0] && ahead == without,
            "{:?} and {:?}",
            ahead.0,
            without.0
        );
    }
}

/// PyTorch's numbers for a checkpoint.
fn expected(name: &str) -> Value {
    golden::json(&golden::fixture("full_training.json"))[name].clone()
}

#[test]
fn every_gradient_is_pytorchs() {
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let golden = Golden::load(name);
        let model = model(&golden, &ALL);
        model.train(&batch(&golden), None, Pass::default()).unwrap();
        let expected = expected(name)["gradients"].as_object().unwrap().clone();
        let names: Vec<&String> = model
            .parameters
            .entries
            .iter()
            .map(|entry| &entry.name)
            .collect();
        assert!(
            expected.keys().all(|key| names.contains(&key)) && names.len() == expected.len(),
            "{name}: {names:?}"
        );
        for entry in &model.parameters.entries {
            let gradient = flat(&model.parameters.gradient(entry).unwrap());
            let norm = gradient
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum::<f64>()
                .sqrt();
            let dot: f64 = gradient
                .iter()
                .enumerate()
                .map(|(i, &g)| f64::from(g) * (i as f64).cos())
                .sum();
            let of_pytorch = golden::numbers(&expected[&entry.name]);
            assert!(
                (norm - of_pytorch[0]).abs() < 1e-4 * of_pytorch[0],
                "{name}: {}: length {norm}, expected {}",
                entry.name,
                of_pytorch[0]
            );
            assert!(
                (dot - of_pytorch[1]).abs() < 1e-3 * of_pytorch[0],
                "{name}: {}: {dot}, expected {}",
                entry.name,
                of_pytorch[1]
            );
        }
    }
}

/// The losses of `steps` steps; `is_trained` decides for each step and part whether it is trained.
fn losses(
    name: &str,
    steps: u64,
    factors: Factors,
    save: Save,
    is_trained: impl Fn(u64, Part) -> bool,
) -> Vec<f64> {
    let golden = Golden::load(name);
    let mut model = model(&golden, &ALL);
    let batch = batch(&golden);
    let learning_rate = 1e-3;
    let settings = optimiser::Settings {
        learning_rate,
        schedule: Shape::Constant,
        warmup: 0.0,
        factors,
        ..optimiser::Settings::default()
    };
    let mut optimiser = Optimiser::new(settings, &model.parameters).unwrap();
    (0..steps)
        .map(|step| {
            Part::ALL
                .into_iter()
                .for_each(|part| model.set_trained(part, is_trained(step, part)));
            model.parameters.zero_gradients().unwrap();
            let found = model
                .train(
                    &batch,
                    None,
                    Pass {
                        save,
                        ..Pass::default()
                    },
                )
                .unwrap();
            assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
            for entry in model
                .parameters
                .entries
                .iter()
                .filter(|entry| !is_trained(step, entry.part))
            {
                assert!(
                    flat(&model.parameters.gradient(entry).unwrap())
                        .iter()
                        .all(|&g| g == 0.0),
                    "{} is frozen and has a gradient",
                    entry.name
                );
            }
            let grad_norm = optimiser.grad_norm(&model.parameters).unwrap();
            let counts = PerPart::from_fn(|part| {
                if is_trained(step, part) {
                    (0..=step).filter(|&s| is_trained(s, part)).count() as u64
                } else {
                    0
                }
            });
            optimiser
                .step(
                    &model.parameters,
                    Update {
                        loss: &found.loss,
                        grad_norm: &grad_norm,
                        learning_rate,
                        counts,
                    },
                )
                .unwrap();
            found.loss.value().unwrap()
        })
        .collect()
}

fn assert_follows(name: &str, what: &str, found: &[f64]) {
    let expected = golden::numbers(&expected(name)[what]);
    assert_eq!(found.len(), expected.len());
    for (step, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
        golden::assert_close(
            found,
            expected,
            1e-3,
            &format!("{name}: {what}: step {step}"),
        );
    }
}

#[test]
fn steps_of_full_training_follow_pytorch() {
    let scaled = Factors {
        audio_encoder: 0.1,
        projector: 10.0,
        ..Factors::default()
    };
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let everything = |_, _| true;
        let found = losses(name, 10, Factors::default(), Save::All, everything);
        assert_follows(name, "losses", &found);
        assert_eq!(
            found,
            losses(name, 10, Factors::default(), Save::Layer, everything),
            "what is computed again changes nothing"
        );
        assert_follows(
            name,
            "factors",
            &losses(name, 5, scaled, Save::Norms, everything),
        );
        let staged = |step: u64, part: Part| step >= 3 || part == Part::Projector;
        assert_follows(
            name,
            "staged",
            &losses(name, 6, Factors::default(), Save::Norms, staged),
        );
    }
}
