//! Frozen linear layers rounded to fp8 on the CPU: the effect on losses and gradients of whole
//! models, and the output of commands.

use crate::command;
use crate::golden;

use command::Place;
use command::small_run;
use golden::Golden;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::nn::saving::Save;
use maqam::ops::device;
use serde_json::Value;
use serde_json::json;

const GOLDENS: [&str; 3] = ["qwen_omni", "qwen_omni_tied", "qwen_omni_wide"];

fn batch(golden: &Golden) -> Batch {
    let mut sequences = golden.sequences();
    let total: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / total as f64);
    Batch::pack(&sequences.iter().collect::<Vec<_>>(), 200).unwrap()
}

/// A golden's model as its training begins, as it is and with rounded layers: near the end a
/// gradient is a small difference of large parts.
fn both(golden: &Golden) -> [AudioLlm; 2] {
    let mut rounded = golden.adapted("adapter_init");
    rounded.quantise().unwrap();
    [golden.adapted("adapter_init"), rounded]
}

/// Loss of a pass, and its gradients by tensor.
fn pass(model: &AudioLlm, batch: &Batch, save: Save) -> (f64, Vec<(String, Vec<f32>)>) {
    model.parameters.zero_gradients().unwrap();
    let loss = model
        .train(
            batch,
            None,
            Pass {
                save,
                ..Pass::default()
            },
        )
        .unwrap()
        .loss
        .value()
        .unwrap();
    let gradients = device::to_host(&model.parameters.gradients).unwrap();
    let named = model
        .parameters
        .entries
        .iter()
        .map(|entry| (entry.name.clone(), gradients[entry.range.clone()].to_vec()));
    (loss, named.collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn fp8_losses_and_gradients_stay_near_f32() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let batch = batch(&golden);
        let [exact, rounded] = both(&golden);
        let ((loss, gradients), (rounded_loss, rounded_gradients)) = (
            pass(&exact, &batch, Save::All),
            pass(&rounded, &batch, Save::All),
        );
        let apart = (rounded_loss / loss - 1.0).abs();
        let all = |gradients: &[(String, Vec<f32>)]| {
            gradients
                .iter()
                .flat_map(|(_, values)| values.clone())
                .collect::<Vec<_>>()
        };
        let whole = cosine(&all(&rounded_gradients), &all(&gradients));
        let each: Vec<f64> = gradients
            .iter()
            .zip(&rounded_gradients)
            .map(|((_, a), (_, b))| cosine(a, b))
            .collect();
        let least = each.iter().copied().fold(1.0, f64::min);
        eprintln!(
            "{name}: loss {loss:.4}, {apart:.2e} away in fp8; cosine of all gradients {whole:.5}, least of one tensor {least:.5}"
        );
        assert!(
            apart > 1e-7 && apart < 0.02,
            "{name}: {loss} became {rounded_loss}"
        );
        assert!(whole > 0.99 && whole < 0.999_999, "{name}: {whole}");
        assert!(least > 0.96, "{name}: {least}");
        assert_eq!(rounded.unreached().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn save_policies_change_no_bit_in_fp8() {
    let golden = Golden::load("qwen_omni");
    let batch = batch(&golden);
    let [_, rounded] = both(&golden);
    let all = pass(&rounded, &batch, Save::All);
    assert!(
        all == pass(&rounded, &batch, Save::Norms) && all == pass(&rounded, &batch, Save::Layer)
    );
}

#[test]
fn an_fp8_run_is_logged_and_resumes_bit_for_bit() {
    let place = small_run(3);
    let train = |name: &str, rest: &[&str]| {
        let name = format!("name={name}");
        let arguments = [
            "train",
            "recipe.yaml",
            "--set",
            &name,
            "--set",
            "checkpoint.every=3",
            "--device",
            "cpu",
        ];
        place.run(&[&arguments[..], rest].concat())
    };
    let fp8 = ["--set", "model.precision=fp8"];
    let told = train("whole", &fp8).succeeds().stderr;
    assert_eq!(
        told.matches("note: the CPU computes in f32 over values rounded to fp8")
            .count(),
        1,
        "{told}"
    );
    let log = place.lines("runs/whole/log.jsonl");
    assert_eq!(
        log[0],
        json!({"kind": "device", "at_step": 0, "device": "cpu", "precision": "fp8"})
    );
    assert_eq!(
        place.json("runs/whole/checkpoints/step-000006/state.json")["computes"],
        json!({"device": "cpu", "precision": "fp8"})
    );

    train("single", &[]).succeeds();
    let losses = |name: &str| {
        let log = place.lines(&format!("runs/{name}/log.jsonl"));
        log.iter()
            .filter(|line| line["kind"] == "train")
            .map(|line| line["loss"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };
    let found = losses("whole");
    let exact = losses("single");
    assert_eq!(found.len(), 6);
    assert!(
        found != exact
            && found
                .iter()
                .zip(&exact)
                .all(|(a, b)| (a / b - 1.0).abs() < 0.02),
        "{found:?}, in f32 {exact:?}"
    );

    train("stopped", &fp8).succeeds();
    std::fs::remove_dir_all(place.path("runs/stopped/checkpoints/step-000006")).unwrap();
    train("stopped", &["--resume"]).fails(
        2,
        &["`model.precision` was `fp8` when the run began and is `auto` now"],
    );
    train("stopped", &[&fp8[..], &["--resume"]].concat()).succeeds();
    for file in [
        "log.jsonl",
        "checkpoints/step-000006/adapter_model.safetensors",
        "checkpoints/step-000006/optimiser.safetensors",
    ] {
        assert_eq!(
            place.bytes(&format!("runs/stopped/{file}")),
            place.bytes(&format!("runs/whole/{file}")),
            "{file}"
        );
    }
}

/// If a run computed in `f32` under this setting, as the CPU once did, the rest of it is in fp8,
/// and the log names the step.
#[test]
fn a_run_that_changes_to_fp8_logs_the_step() {
    let place = small_run(3);
    let arguments = [
        "train",
        "recipe.yaml",
        "--set",
        "checkpoint.every=3",
        "--device",
        "cpu",
    ];
    place.run(&arguments).succeeds();
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000006")).unwrap();
    let stored = place.text("runs/small/recipe.yaml");
    assert!(stored.contains("precision: auto"));
    place.write(
        "runs/small/recipe.yaml",
        stored.replace("precision: auto", "precision: fp8"),
    );
    place
        .run(
            &[
                &arguments[..],
                &["--set", "model.precision=fp8", "--resume"],
            ]
            .concat(),
        )
        .succeeds();
    let devices: Vec<Value> = place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == "device")
        .collect();
    assert_eq!(
        devices,
        [json!({"kind": "device", "at_step": 3, "device": "cpu", "precision": "fp8"})]
    );
}

#[test]
fn full_fine_tuning_of_the_decoder_refuses_fp8() {
    let place = small_run(2);
    for command in ["plan", "train"] {
        let arguments = [
            command,
            "recipe.yaml",
            "--set",
            "train={decoder: full}",
            "--set",
            "model.precision=fp8",
        ];
        place.run(&arguments).fails(
            2,
            &[
                "`model.precision` is fp8",
                "`train.decoder: full` leaves none",
                "hint: train the decoder through adapters",
            ],
        );
    }
    let bench = [
        "bench",
        "train",
        "--shape",
        "tiny",
        "--layers",
        "1",
        "--work",
        "short",
        "--clips",
        "1",
        "--steps",
        "1",
        "--full",
        "--precision",
        "fp8",
    ];
    place
        .run(&bench)
        .fails(2, &["all of them are trained here"]);
}

#[test]
fn a_plan_counts_the_rounded_weights_twice() {
    let place = small_run(2);
    let plan = |rest: &[&str]| {
        place
            .run(&[&["plan", "recipe.yaml"], rest].concat())
            .succeeds()
            .stdout
    };
    let exact = plan(&[]);
    let rounded = plan(&["--set", "model.precision=fp8"]);
    assert!(
        exact.contains("frozen weights") && !exact.contains("twice"),
        "{exact}"
    );
    assert!(
        rounded.contains("frozen weights, the decoder's linear layers twice,"),
        "{rounded}"
    );
}

#[test]
fn fp8_scores_and_answers_use_rounded_layers() {
    let place = Place::new();
    let model = command::fixture_text("qwen_omni");
    place.write_rows(
        "rows.jsonl",
        &[
            command::row("a", "a1.wav", "what is said?", "nothing at all"),
            command::row("b", "a2.wav", "and here?", "a word"),
        ],
    );
    let run = |what: &str, out: &str, rest: &[&str]| {
        let arguments = [
            what,
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            out,
            "--device",
            "cpu",
        ];
        place.run(&[&arguments[..], rest].concat()).succeeds()
    };
    assert_eq!(
        run("score", "exact.jsonl", &[])
            .stderr
            .matches("note:")
            .count(),
        0
    );
    let told = run("score", "rounded.jsonl", &["--precision", "fp8"]).stderr;
    assert_eq!(told.matches("rounded to fp8").count(), 1, "{told}");
    run("score", "bf16.jsonl", &["--precision", "bf16"]);
    assert_eq!(
        place.bytes("exact.jsonl"),
        place.bytes("bf16.jsonl"),
        "the CPU has no bf16"
    );
    for (exact, rounded) in place
        .lines("exact.jsonl")
        .iter()
        .zip(place.lines("rounded.jsonl"))
    {
        let loss = |line: &Value| line["loss"].as_f64().unwrap();
        let apart = (loss(&rounded) / loss(exact) - 1.0).abs();
        assert!(apart > 1e-7 && apart < 0.02, "{exact} became {rounded}");
    }
    run(
        "generate",
        "answers.jsonl",
        &["--precision", "fp8", "--max-new-tokens", "4"],
    );
    assert_eq!(place.lines("answers.jsonl").len(), 2);
}
