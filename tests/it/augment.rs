//! `augment:` changes what is trained on and nothing else, and a run that is stopped goes on with
//! the same draws.

use crate::command;

use std::time::Duration;

use command::Place;
use command::asr_rows;
use command::small_run;
use serde_json::Value;

const AUGMENT: &str = "augment: {speed: [0.9, 1.1], noise: {snr_db: [5, 20], share: 0.5}, gain_db: [-6, 6], spec_augment: {}}\n";

/// A run of two stages that is evaluated before its first step, with further lines of its recipe.
fn run_with(lines: &str) -> Place {
    let place = small_run(6);
    place.write_rows("few.jsonl", &asr_rows()[..3]);
    place.write(
        "dev.yaml",
        "role: dev\nsets:\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [loss, wer]}\n",
    );
    let recipe = place.text("recipe.yaml");
    place.write(
        "recipe.yaml",
        format!("{recipe}evaluate: {{suite: dev.yaml, every: 6, at_start: true}}\n{lines}"),
    );
    place
}

fn train(place: &Place, extra: &[&str]) -> command::Outcome {
    let mut arguments = vec!["train", "recipe.yaml", "--allow-leakage"];
    arguments.extend(extra);
    place.run(&arguments)
}

fn log(place: &Place) -> Vec<Value> {
    place.lines("runs/small/log.jsonl")
}

#[test]
fn training_alone_is_augmented() {
    let plain = run_with("");
    train(&plain, &[]).succeeds();
    assert!(!plain.text("runs/small/recipe.yaml").contains("augment"));
    let augmented = run_with(AUGMENT);
    train(&augmented, &[]).succeeds();

    let pairs: Vec<(Value, Value)> = log(&plain).into_iter().zip(log(&augmented)).collect();
    let (first_plain, first_augmented) = &pairs[0];
    assert_eq!(first_plain["kind"], "eval");
    assert_eq!(
        first_plain, first_augmented,
        "the evaluation before the first step sees the clips as they are"
    );
    let steps: Vec<&(Value, Value)> = pairs
        .iter()
        .filter(|(plain, _)| plain["kind"] == "train")
        .collect();
    assert_eq!(steps.len(), 12);
    assert!(
        steps
            .iter()
            .all(|(plain, augmented)| plain["loss"] != augmented["loss"])
    );
}

#[test]
fn an_augmented_run_killed_and_resumed_is_the_same() {
    let whole = run_with(AUGMENT);
    train(&whole, &[]).succeeds();

    let place = run_with(AUGMENT);
    let mut child = place
        .command(&["train", "recipe.yaml", "--allow-leakage"])
        .spawn()
        .unwrap();
    let path = place.path("runs/small/log.jsonl");
    while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < 6 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    train(&place, &["--resume"]).succeeds();
    for file in [
        "log.jsonl",
        "checkpoints/step-000012/adapter_model.safetensors",
    ] {
        let file = format!("runs/small/{file}");
        assert!(place.bytes(&file) == whole.bytes(&file), "{file} differs");
    }
}

#[test]
fn micro_batches_change_no_draw() {
    let losses = |packed: &str| -> Vec<f64> {
        let place = run_with(AUGMENT);
        train(&place, &["--set", packed]).succeeds();
        log(&place)
            .iter()
            .filter_map(|line| line["loss"].as_f64())
            .collect()
    };
    let together = losses("memory.pack_tokens=8192");
    let apart = losses("memory.pack_tokens=1");
    assert_eq!(together.len(), apart.len());
    for (a, b) in together.iter().zip(&apart) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{a} {b}");
    }
}

#[test]
fn plan_counts_the_audio_that_is_trained_on() {
    let seconds = |lines: &str| -> f64 {
        let place = run_with(lines);
        let outcome = place.run(&["plan", "recipe.yaml", "--allow-leakage", "--json"]);
        let plan: Value = serde_json::from_str(&outcome.succeeds().stdout).unwrap();
        plan["total"]["audio_s"].as_f64().unwrap()
    };
    let plain = seconds("");
    let slow = seconds("augment: {speed: [0.5]}\n");
    assert!((slow / plain - 2.0).abs() < 1e-3, "{plain} {slow}");
}

#[test]
fn recordings_of_noise_are_part_of_the_run() {
    let place = run_with("augment: {noise: {snr_db: [0, 5], manifest: noise.jsonl}}\n");
    train(&place, &[]).fails(2, &["noise.jsonl"]);
    place.write_rows("noise.jsonl", &asr_rows()[..1]);
    train(&place, &[]).succeeds();
    let with_one = place.bytes("runs/small/log.jsonl");
    place.write_rows("noise.jsonl", &asr_rows()[1..2]);
    train(&place, &["--resume"]).fails(2, &["noise.jsonl", "hint: "]);
    train(&place, &["--set", "name=other"]).succeeds();
    assert_ne!(place.bytes("runs/other/log.jsonl"), with_one);
}

#[test]
fn wrong_augmentations_are_refused() {
    for (lines, expected) in [
        ("augment: {sped: [0.9]}\n", "unknown field `sped`"),
        ("augment: {speed: [3]}\n", "`augment.speed` holds 3"),
        ("augment: {noise: {share: 1}}\n", "snr_db"),
    ] {
        train(&run_with(lines), &[]).fails(2, &[expected]);
    }
}
