//! `checkpoint.average`: the mean of the last checkpoints of a run.

use std::collections::HashMap;

use crate::command::Place;
use crate::command::fixture_text;
use crate::command::small_run;
use candle_core::Tensor;

/// Trains with an average of three checkpoints; returns the messages.
fn train(place: &Place, more: &[&str]) -> String {
    let all = [
        &["train", "recipe.yaml", "--set", "checkpoint.average=3"],
        more,
    ];
    place.run(&all.concat()).succeeds().stderr
}

const ADAPTER: &str = "adapter_model.safetensors";

#[test]
fn the_average_is_the_mean_of_the_last_checkpoints() {
    let place = small_run(4);
    // 8 steps, a checkpoint every 3: the last three are 3, 6 and 8.
    let said = train(&place, &["--set", "checkpoint.every=3"]);
    let folder = "average of the last checkpoints: runs/small/average";
    assert!(said.contains(folder), "{said}");
    let of = |folder: &str| place.tensors(&format!("runs/small/{folder}/{ADAPTER}"));
    let all: Vec<HashMap<String, Tensor>> = ["000003", "000006", "000008"]
        .map(|step| of(&format!("checkpoints/step-{step}")))
        .into();
    let averaged = of("average");
    assert_eq!(averaged.len(), all[0].len());
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, average) in &averaged {
        let of_steps: Vec<Vec<f32>> = all.iter().map(|tensors| values(&tensors[name])).collect();
        for (place, &found) in values(average).iter().enumerate() {
            let sum: f64 = of_steps.iter().map(|values| f64::from(values[place])).sum();
            assert_eq!(found, (sum / 3.0) as f32, "{name}");
        }
    }
    assert_eq!(
        place.text("runs/small/average/average.json"),
        "{\"steps\":[3,6,8]}\n"
    );

    // An adapter like any other, with the recipe of its run.
    place
        .run(&[
            "score",
            "--model",
            &fixture_text("qwen_omni"),
            "--adapter",
            "runs/small/average",
            "--data",
            "asr.jsonl",
            "--task",
            "asr",
            "--out",
            "scores.jsonl",
        ])
        .succeeds();
    assert_eq!(place.lines("scores.jsonl").len(), 12);
}

#[test]
fn averaging_changes_no_byte_of_the_run() {
    let plain = small_run(3);
    plain.run(&["train", "recipe.yaml"]).succeeds();
    let averaged = small_run(3);
    train(&averaged, &[]);
    for file in [
        "log.jsonl",
        "checkpoints/step-000006/adapter_model.safetensors",
        "checkpoints/step-000006/optimiser.safetensors",
        "checkpoints/step-000006/state.json",
    ] {
        let path = format!("runs/small/{file}");
        assert_eq!(plain.bytes(&path), averaged.bytes(&path), "{file}");
    }
    assert!(!plain.path("runs/small/average").exists());
    assert!(!plain.text("runs/small/recipe.yaml").contains("average"));

    // A run that ended without an average gets one, equal to the byte, when it is resumed.
    train(&plain, &["--resume"]);
    let path = format!("runs/small/average/{ADAPTER}");
    assert_eq!(plain.bytes(&path), averaged.bytes(&path));
}
