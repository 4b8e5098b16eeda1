//! Stages that order their rows by difficulty: the rows that `plan` shows are those that `train`
//! draws, by every measure, and also after a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::outcome;
use crate::command::small_run;
use serde_json::Value;
use serde_json::json;

/// A run of one stage of transcription, ordered as `difficulty` says.
fn ordered_run(difficulty: &str) -> Place {
    let place = small_run(6);
    let mut rows = asr_rows();
    for (i, row) in rows.iter_mut().enumerate() {
        row["snr"] = json!(5 * i % 12);
        // The same question for training and for `score`.
        row["instruction"] = json!("Write down what is said.");
    }
    place.write_rows("asr.jsonl", &rows);
    let recipe = place.text("recipe.yaml");
    let stages = recipe.find("    - {name: listen").unwrap();
    let after = recipe.find("optimiser:").unwrap();
    let stage =
        format!("    - {{name: listen, tasks: [asr], steps: 6, difficulty: {difficulty}}}\n");
    place.write(
        "recipe.yaml",
        format!("{}{stage}{}", &recipe[..stages], &recipe[after..]),
    );
    place
}

/// Seconds of each row by its id.
fn seconds() -> BTreeMap<String, f64> {
    let rows = asr_rows();
    let pair = |row: &Value| {
        (
            row["id"].as_str().unwrap().to_owned(),
            row["end_s"].as_f64().unwrap(),
        )
    };
    rows.iter().map(pair).collect()
}

fn planned(place: &Place) -> Vec<Vec<String>> {
    place
        .run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"])
        .succeeds();
    let ids = |line: Value| serde_json::from_value(line["ids"].clone()).unwrap();
    place.lines("picks.jsonl").into_iter().map(ids).collect()
}

/// The log's lines of steps draw what was planned: no two sets of rows have the same seconds.
fn assert_drawn(place: &Place, planned: &[Vec<String>]) -> Vec<Value> {
    let steps: Vec<Value> = place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    assert_eq!(steps.len(), planned.len());
    let seconds = seconds();
    for (step, ids) in steps.iter().zip(planned) {
        let expected: f64 = ids.iter().map(|id| seconds[id]).sum();
        let found = step["seconds"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-3, "{found} s of {expected} s");
    }
    steps
}

#[test]
fn a_column_orders_what_plan_shows_and_train_draws() {
    let place = ordered_run("{by: snr, order: descending}");
    let ids = planned(&place);
    // Row i has 5 i mod 12: 11 at i = 7, 10 at i = 2, 9 at i = 9, and so on, 7 back each time.
    let expected: Vec<String> = (0..24).map(|n| format!("a{}", (7 + 7 * n) % 12)).collect();
    assert_eq!(ids.concat(), expected);
    let text = place.run(&["plan", "recipe.yaml"]).succeeds().stdout;
    assert!(text.contains("descending by snr"), "{text}");

    place.run(&["train", "recipe.yaml"]).succeeds();
    let steps = assert_drawn(&place, &ids);
    let means: Vec<f64> = steps
        .iter()
        .map(|step| step["difficulty"].as_f64().unwrap())
        .collect();
    assert_eq!(means, [9.5, 5.5, 1.5, 9.5, 5.5, 1.5]);
    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("Difficulty of the rows"));
    assert!(page.contains("Mean of <code>snr</code> over the rows of each step"));
}

#[test]
fn audio_and_text_measure_difficulty() {
    let place = ordered_run("{by: duration}");
    let rising: Vec<String> = (0..24).map(|n| format!("a{}", n % 12)).collect();
    assert_eq!(planned(&place).concat(), rising);

    let place = ordered_run("{by: words_per_second, order: descending}");
    let mut rows: Vec<(f64, String)> = asr_rows()
        .iter()
        .map(|row| {
            let words = row["text"].as_str().unwrap().split_whitespace().count();
            let rate = words as f64 / row["end_s"].as_f64().unwrap();
            (rate, row["id"].as_str().unwrap().to_owned())
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let expected: Vec<String> = rows.into_iter().map(|(_, id)| id).collect();
    assert_eq!(planned(&place).concat()[..12], expected);
}

#[test]
fn base_losses_are_those_of_score_and_cached() {
    let place = ordered_run("{by: base_loss}");
    let ids = planned(&place);
    let model = crate::command::fixture_text("qwen_omni");
    place
        .run(&[
            "score",
            "--model",
            &model,
            "--data",
            "asr.jsonl",
            "--task",
            "asr",
            "--out",
            "scores.jsonl",
        ])
        .succeeds();
    let losses: BTreeMap<String, f64> = place
        .lines("scores.jsonl")
        .iter()
        .map(|line| {
            (
                line["id"].as_str().unwrap().to_owned(),
                line["loss"].as_f64().unwrap(),
            )
        })
        .collect();
    let drawn = ids.concat();
    let first: Vec<f64> = drawn[..12].iter().map(|id| losses[id]).collect();
    let mut ids_once = drawn[..12].to_vec();
    ids_once.sort();
    ids_once.dedup();
    assert_eq!(ids_once.len(), 12);
    assert!(
        first.windows(2).all(|pair| pair[0] <= pair[1] + 1e-4),
        "{first:?}"
    );
    assert!(first[11] - first[0] > 0.01, "{first:?}");

    let parts = || walk(&place, "runs/.embeddings");
    let before = parts();
    assert_eq!(before, 1);
    place.run(&["train", "recipe.yaml"]).succeeds();
    assert_eq!(parts(), before, "train takes what plan computed");
    let steps = assert_drawn(&place, &ids);
    let mean = drawn[..4].iter().map(|id| losses[id]).sum::<f64>() / 4.0;
    let found = steps[0]["difficulty"].as_f64().unwrap();
    assert!((found - mean).abs() < 1e-4, "{found} of {mean}");
}

/// Files in the folders of a folder.
fn walk(place: &Place, name: &str) -> usize {
    let folders = std::fs::read_dir(place.path(name)).unwrap();
    folders
        .map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count())
        .sum()
}

#[test]
fn a_killed_run_draws_on_in_the_same_order() {
    let difficulty = "{by: base_loss, order: competence, start: 0.3}";
    let whole = ordered_run(difficulty);
    let ids = planned(&whole);
    let started = std::time::Instant::now();
    whole.run(&["train", "recipe.yaml"]).succeeds();
    let took = started.elapsed();
    assert_drawn(&whole, &ids);

    let place = ordered_run(difficulty);
    let mut kills = 0;
    for share in [0.3, 0.5, 0.6, 0.7, 0.8, 10.0] {
        let mut child = place
            .command(&["train", "recipe.yaml", "--resume"])
            .spawn()
            .unwrap();
        if share < 1.0 {
            std::thread::sleep(Duration::from_secs_f64(took.as_secs_f64() * share));
            child.kill().unwrap();
            kills += 1;
        }
        let ended = outcome(child.wait_with_output().unwrap());
        if ended.code.is_some() {
            ended.succeeds();
            break;
        }
    }
    assert!(kills > 0);
    for name in [
        "log.jsonl",
        "checkpoints/step-000006/adapter_model.safetensors",
        "checkpoints/step-000006/state.json",
        "difficulty/base_loss.safetensors",
    ] {
        let name = format!("runs/small/{name}");
        assert!(place.bytes(&name) == whole.bytes(&name), "{name} differs");
    }

    // A run that began with other losses would draw other rows.
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000006")).unwrap();
    place.write("runs/small/difficulty/base_loss.safetensors", "another");
    place
        .run(&["train", "recipe.yaml", "--resume"])
        .fails(2, &["difficulty/base_loss.safetensors", "have changed"]);
}

#[test]
fn rows_without_the_measure_are_named() {
    let place = ordered_run("{by: srn}");
    place.run(&["plan", "recipe.yaml"]).fails(
        2,
        &[
            "stage `listen`",
            "asr.jsonl:1",
            "`difficulty.by` names the column `srn`, and the row has none",
            "hint: give every row",
        ],
    );
    let place = ordered_run("{by: duration, ordre: ascending}");
    place
        .run(&["plan", "recipe.yaml"])
        .fails(2, &["unknown field `ordre`", "did you mean `order`?"]);
}
