//! `maqam plan` says what `maqam train` draws.

mod command;

use command::asr_rows;
use command::fixture_text;
use command::small_run;
use serde_json::Value;

#[test]
fn the_picks_are_the_rows_that_training_sees() {
    let place = small_run(4);
    place.run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"]).succeeds();
    place.run(&["plan", "recipe.yaml", "--picks", "again.jsonl"]).succeeds();
    assert_eq!(place.text("picks.jsonl"), place.text("again.jsonl"));
    place.run(&["train", "recipe.yaml"]).succeeds();

    let length = |row: &Value| row["end_s"].as_f64().unwrap() - row["start_s"].as_f64().unwrap_or(0.0);
    let rows: Vec<Value> = asr_rows().into_iter().chain(command::emotion_rows()).collect();
    let row_of = |id: &Value| rows.iter().find(|row| row["id"] == *id).unwrap();
    let picks = place.lines("picks.jsonl");
    let steps: Vec<Value> = place.lines("runs/small/log.jsonl").into_iter().filter(|line| line["kind"] == "train").collect();
    assert_eq!((picks.len(), steps.len()), (8, 8));
    for (i, (pick, step)) in picks.iter().zip(&steps).enumerate() {
        assert_eq!((&pick["step"], &pick["stage"]), (&step["step"], &step["stage"]));
        assert_eq!((pick["step"].as_u64().unwrap(), pick["stage"].as_str().unwrap()), (i as u64 + 1, if i < 4 { "listen" } else { "discern" }));
        let ids = pick["ids"].as_array().unwrap();
        assert_eq!(ids.len() as u64, step["examples"].as_u64().unwrap());
        // No two sets of the asr rows are equally long, so these seconds name the rows; emotion rows are told apart by number.
        let of_task = |start: char| ids.iter().filter(move |id| id.as_str().unwrap().starts_with(start)).map(row_of).collect::<Vec<_>>();
        for (start, task) in [('a', "asr"), ('e', "emotion")] {
            let planned = of_task(start);
            let logged = &step["tasks"][task];
            assert_eq!(planned.len() as u64, logged["examples"].as_u64().unwrap_or(0), "step {}", i + 1);
            let seconds: f64 = planned.into_iter().map(length).sum();
            // A span is rounded to whole samples.
            assert!((seconds - logged["seconds"].as_f64().unwrap_or(0.0)).abs() < 4.0 * 1.0 / 16_000.0, "step {}: {seconds} s, {logged}", i + 1);
        }
    }
    let uniform: Vec<usize> =
        picks[4..].iter().map(|pick| pick["ids"].as_array().unwrap().iter().filter(|id| id.as_str().unwrap().starts_with('e')).count()).collect();
    assert_eq!(uniform, [2; 4], "`mix: uniform` gives each task half");
}

#[test]
fn a_pass_over_a_task_repeats_no_row() {
    let place = small_run(3);
    place.run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"]).succeeds();
    let mut ids: Vec<String> =
        place.lines("picks.jsonl")[..3].iter().flat_map(|pick| pick["ids"].as_array().unwrap().clone()).map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12, "three steps of four are one pass over the twelve rows");
}

#[test]
fn ids_that_repeat_over_manifests_have_their_manifest_in_front() {
    let place = small_run(3);
    place.write_rows("emotion.jsonl", &asr_rows());
    place.run(&["plan", "recipe.yaml", "--set", "data.1.task=asr", "--set", "schedule.stages=[{steps: 6}]", "--picks", "picks.jsonl"]).succeeds();
    let mut ids: Vec<String> =
        place.lines("picks.jsonl").iter().flat_map(|pick| pick["ids"].as_array().unwrap().clone()).map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort();
    let mut expected: Vec<String> = ["asr.jsonl", "emotion.jsonl"].iter().flat_map(|manifest| (0..12).map(move |i| format!("{manifest}:a{i}"))).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

#[test]
fn a_plan_needs_no_weights() {
    let place = small_run(3);
    let ran = place.run(&["plan", "recipe.yaml", "--set", "model.path=someone/not-downloaded"]).succeeds();
    assert!(ran.stdout.contains("6 steps of 4 examples, 18 rows") && ran.stdout.contains("stage discern: steps 4 to 6"), "{}", ran.stdout);
    assert!(!fixture_text("qwen_omni").is_empty() && !place.path("runs").exists(), "nothing is written");
}
