//! `draw: uds` end to end: which candidates are drawn, that scores leave training as it is,
//! resuming after kills, and what a plan says.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::command::Place;
use crate::command::damaged_flac;
use crate::command::fixture;
use crate::command::small_run;
use crate::kills;
use maqam::seed::Key;
use serde_json::Value;

const UDS: &str = "draw: uds, uds: {candidates: 3, queue: 10}";

/// A stage of one task, one whose rows are chosen, one behind it.
fn uds_run(second: &str) -> Place {
    let place = small_run(4);
    let recipe = place.text("recipe.yaml").replace(
        "    - {name: discern, tasks: all, mix: uniform, steps: 4}\n",
        &format!("    - {{name: discern, tasks: all, {second}, steps: 6}}\n    - {{name: refine, tasks: all, draw: balanced, steps: 2}}\n"),
    );
    assert!(recipe.contains("refine"));
    place.write("recipe.yaml", recipe);
    place
}

fn train(place: &Place, more: &[&str]) {
    let arguments = [&["train", "recipe.yaml", "--allow-leakage"], more].concat();
    place.run(&arguments).succeeds();
}

fn of_kind(place: &Place, run: &str, kind: &str) -> Vec<Value> {
    place
        .lines(&format!("runs/{run}/log.jsonl"))
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap()
}

#[test]
fn candidates_with_the_highest_scores_are_drawn() {
    // One cell, so that the chosen rows are the best of all candidates.
    let place = uds_run("draw: uds, uds: {candidates: 3, queue: 6, alpha: 0.01}");
    train(&place, &["--set", "schedule.stages.1.tasks=[asr]"]);
    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("Rows that the logits chose"));
    let lines = of_kind(&place, "small", "selection");
    let steps: Vec<u64> = lines
        .iter()
        .map(|line| line["at_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [5, 6, 7, 8, 9, 10]);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["stage"], "discern");
        let candidates = line["candidates"].as_u64().unwrap();
        // Twelve draws of twelve rows, of which those behind the end of an epoch may come twice.
        assert!((8..=12).contains(&candidates), "{line}");
        let mean = number(line, "norm") + 0.01 * number(line, "distance");
        let chosen = number(line, "chosen_norm") + 0.01 * number(line, "chosen_distance");
        assert!(chosen > mean, "{line}");
        assert_eq!(number(line, "distance") > 0.0, i > 0, "the queue: {line}");
    }

    // Every step draws distinct rows.
    let picks = place.lines("runs/small/picks.jsonl");
    assert_eq!(picks.len(), 8, "the stage behind it, too");
    for line in &picks[..6] {
        assert_eq!(line["depends_on_training"], true);
        let ids: BTreeSet<&str> = line["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 4, "{line}");
    }
}

#[test]
fn one_candidate_trains_as_balanced_drawing_does() {
    let uds = uds_run("draw: uds, uds: {candidates: 1}");
    train(&uds, &[]);
    let balanced = uds_run("draw: balanced");
    train(&balanced, &[]);
    assert_eq!(
        of_kind(&uds, "small", "train"),
        of_kind(&balanced, "small", "train")
    );
    assert_eq!(of_kind(&uds, "small", "selection").len(), 6);
    assert!(of_kind(&balanced, "small", "selection").is_empty());
}

/// Files of a run that must not depend on kills.
const LEFT: [&str; 6] = [
    "log.jsonl",
    "picks.jsonl",
    "checkpoints/step-000012/adapter_model.safetensors",
    "checkpoints/step-000012/optimiser.safetensors",
    "checkpoints/step-000012/state.json",
    "checkpoints/step-000010/adapter_model.safetensors",
];

#[test]
fn a_killed_run_chooses_the_same_rows() {
    let whole = uds_run(UDS);
    let started = Instant::now();
    train(&whole, &[]);
    let took = started.elapsed();
    let expected = kills::files(&whole, &LEFT);
    for round in 0..2 {
        let delays = Key::new(30, "kill").with(round);
        let (place, kills, _) = kills::killed_run(&|| uds_run(UDS), took, delays);
        let when = format!("round {round}, {kills} kills");
        kills::assert_same_files(&kills::files(&place, &LEFT), &expected, &when);
    }
}

#[test]
fn a_resume_at_every_step_chooses_the_same_rows() {
    let place = uds_run(UDS);
    train(
        &place,
        &["--set", "checkpoint.every=1", "--set", "checkpoint.keep=99"],
    );
    let queue =
        |step: usize| format!("runs/small/checkpoints/step-{step:06}/uds_queue.safetensors");
    // After the first step of the stage, and inside of it alone.
    let with_queue: Vec<usize> = (1..=12)
        .filter(|&step| place.path(&queue(step)).is_file())
        .collect();
    assert_eq!(with_queue, [5, 6, 7, 8, 9]);
    let expected = kills::files(&place, &LEFT[..5]);
    let of_nine = place.bytes(&queue(9));
    for step in (4..12).rev() {
        let later = format!("runs/small/checkpoints/step-{:06}", step + 1);
        std::fs::remove_dir_all(place.path(&later)).unwrap();
        train(
            &place,
            &[
                "--resume",
                "--set",
                "checkpoint.every=9",
                "--set",
                "checkpoint.keep=99",
            ],
        );
        let when = format!("resumed after {step}");
        kills::assert_same_files(&kills::files(&place, &LEFT[..5]), &expected, &when);
        if step < 9 {
            assert!(place.bytes(&queue(9)) == of_nine, "{when}: the queue");
            std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000009")).unwrap();
        }
        std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000012")).unwrap();
    }

    // A checkpoint that lost its queue is not taken for one without.
    train(&place, &["--resume", "--set", "checkpoint.every=6"]);
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000012")).unwrap();
    std::fs::remove_file(place.path(&queue(6))).unwrap();
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .fails(2, &["uds_queue.safetensors", "hint: remove the checkpoint"]);
}

/// A candidate that cannot be read stops the run with its place, or is passed over.
#[test]
fn a_candidate_that_cannot_be_read_is_named() {
    let run = || {
        let place = uds_run(UDS);
        let mut rows = crate::command::emotion_rows();
        for (i, row) in rows.iter_mut().enumerate() {
            let name = format!("clips/e{i}.wav");
            place.write(&name, std::fs::read(fixture("audio/odd.wav")).unwrap());
            *row = serde_json::json!({"id": row["id"], "audio": name, "label": row["label"]});
        }
        place.write_rows("emotion.jsonl", &rows);
        place.write("clips/e3.wav", damaged_flac());
        place
    };
    let place = run();
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .fails(2, &["candidates of step", "e3.wav", "hint:"]);

    let place = run();
    train(&place, &["--set", "on_bad_row=skip"]);
    assert_eq!(of_kind(&place, "small", "train").len(), 12);
}

#[test]
fn a_plan_says_what_uds_costs_and_refuses() {
    let place = uds_run(UDS);
    let planned = place
        .run(&["plan", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let text = planned
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    // Three candidates for each of four slots, in six steps; a forward pass is a third of a step.
    for said in [
        "3 candidates for each slot",
        "stage `discern`: UDS passes up to 12 candidates forward before each step, 72 forward passes of a row in all: about 100 %",
        "stage `discern`: which rows are drawn is not known: `draw: uds` chooses among candidates",
        // Two slots of a step go to three labels of two rows each.
        "stage `discern`: fewer rows compete than `uds.candidates` says: in a step, `angry` of `emotion` has 2 rows for 3 candidates of 1 slot, and 2 other cells have too few",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let json = place
        .run(&["plan", "recipe.yaml", "--json", "--allow-leakage"])
        .succeeds();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let marks = [0, 1, 2].map(|i| json["stages"][i]["depends_on_training"] == true);
    assert_eq!(marks, [false, true, true]);
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--allow-leakage",
            "--picks",
            "picks.jsonl",
        ])
        .fails(
            2,
            &[
                "stage `discern` are not known before training",
                "`draw: uds`",
            ],
        );

    for (set, words) in [
        (
            "draw=balanced",
            ["`uds` beside `draw: balanced`", "hint: write `draw: uds`"],
        ),
        (
            "mix=uniform",
            ["`mix: uniform` beside `draw: uds`", "hint: remove `mix`"],
        ),
        (
            "max_repeats=2",
            ["`max_repeats` beside `draw: uds`", "hint: remove"],
        ),
        (
            "uds.candidates=0",
            ["`uds.candidates` is 0", "hint: give a number"],
        ),
        (
            "uds={candidate: 2}",
            ["unknown field `candidate`", "did you mean `candidates`?"],
        ),
    ] {
        let set = format!("schedule.stages.1.{set}");
        place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--set", &set])
            .fails(2, &words);
    }
}
