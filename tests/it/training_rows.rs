//! `evaluate.train_rows`: training rows asked like those of dev after the last step.

use std::collections::BTreeSet;

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::assert_close;
use crate::command::emotion_rows;
use crate::command::small_run;
use serde_json::Value;

/// A small run with a dev suite of other ids, evaluated after its last step.
fn evaluated(more: &str) -> Place {
    let place = small_run(2);
    let mut dev = asr_rows();
    dev.truncate(3);
    for row in &mut dev {
        row["id"] = format!("dev-{}", row["id"].as_str().unwrap()).into();
    }
    place.write_rows("few.jsonl", &dev);
    place.write(
        "dev.yaml",
        "role: dev\nsets:\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [wer, loss]}\n",
    );
    let recipe = place.text("recipe.yaml");
    place.write(
        "recipe.yaml",
        format!("{recipe}evaluate: {{suite: dev.yaml, every: 2{more}}}\n"),
    );
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    place
}

fn evaluations(place: &Place) -> Vec<Value> {
    let mut lines = place.lines("runs/small/log.jsonl");
    lines.retain(|line| line["kind"] == "eval");
    lines
}

#[test]
fn training_rows_are_scored_beside_dev_at_the_end() {
    let place = evaluated(", train_rows: 5");
    let found = evaluations(&place);
    let controls: Vec<&Value> = found.iter().map(|line| &line["control"]).collect();
    let control = serde_json::json!("training-rows");
    assert_eq!(controls, [&Value::Null, &Value::Null, &control]);
    assert_eq!(found[2]["at_step"], 4);

    // The answers are to five different training rows, and score as `metrics` scores them.
    let answers = "runs/small/eval/step-000004/training-rows/words.jsonl";
    let rows = place.lines(answers);
    let ids: BTreeSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    let known: BTreeSet<String> = (0..12).map(|i| format!("a{i}")).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.iter().all(|id| known.contains(*id)), "{ids:?}");
    let said = place
        .run(&[
            "metrics",
            "--task",
            "asr",
            "--predictions",
            answers,
            "--json",
        ])
        .succeeds()
        .stdout;
    let scores: Value = serde_json::from_str(&said).unwrap();
    let wer = |value: &Value| value.as_f64().unwrap();
    assert_close(
        wer(&found[2]["scores"]["words.wer"]),
        wer(&scores["wer"]),
        1e-9,
        "wer",
    );

    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("training-rows") && page.contains("overfitting"));
    assert!(page.contains("Dotted lines are training rows after the last step."));
}

#[test]
fn rows_that_are_never_trained_are_not_asked() {
    let place = small_run(4);
    let named = |rows: &[Value], name: &str| -> Vec<Value> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            row["id"] = format!("{name}-{}", row["id"].as_str().unwrap()).into();
        }
        rows
    };
    // No slot is given to an entry of weight 0, and no stage trains emotions.
    place.write_rows("never.jsonl", &named(&asr_rows(), "never"));
    place.write_rows("few.jsonl", &named(&asr_rows()[..3], "dev"));
    place.write_rows("moods.jsonl", &named(&emotion_rows()[..3], "dev"));
    place.write(
        "dev.yaml",
        "role: dev\nsets:\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [wer]}\n  - {name: moods, manifest: moods.jsonl, task: emotion, metrics: [accuracy]}\n",
    );
    let recipe = place
        .text("recipe.yaml")
        .replace("tasks: all, mix: uniform", "tasks: [asr]")
        .replace(
            "  - {manifest: emotion.jsonl",
            "  - {manifest: never.jsonl, task: asr, weight: 0}\n  - {manifest: emotion.jsonl",
        );
    assert!(recipe.contains("weight: 0") && !recipe.contains("tasks: all"));
    place.write(
        "recipe.yaml",
        format!("{recipe}evaluate: {{suite: dev.yaml, every: 8, train_rows: 99}}\n"),
    );
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let answers = "runs/small/eval/step-000008/training-rows";
    let rows = place.lines(&format!("{answers}/words.jsonl"));
    let ids: BTreeSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..12).map(|i| format!("a{i}")).collect();
    assert_eq!(ids, expected.iter().map(String::as_str).collect());
    assert!(!place.path(&format!("{answers}/moods.jsonl")).exists());
}

#[test]
fn training_rows_change_no_other_line() {
    let with = evaluated(", train_rows: 3");
    let without = evaluated("");
    let lines = |place: &Place| -> Vec<String> {
        let text = place.text("runs/small/log.jsonl");
        text.lines().map(str::to_owned).collect()
    };
    let mut found = lines(&with);
    found.retain(|line| !line.contains("training-rows"));
    assert_eq!(found, lines(&without));
    let path = "runs/small/checkpoints/step-000004/adapter_model.safetensors";
    assert_eq!(with.bytes(path), without.bytes(path));
    assert!(
        !without
            .text("runs/small/recipe.yaml")
            .contains("train_rows")
    );
}
