//! `maqam prompts`: every instruction of a task on every row, and the best as task files.

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::assert_close;
use crate::command::fixture_text;

const TASK: &str = "\
kind: generate
metric: chrf
answer: {format: text, max_new_tokens: 8}
instructions:
  train: {en: [Say it., Sum it up in a word.], ar: [لخّص.]}
  dev: {en: [Say it again.], ar: [لخّص مرة أخرى.]}
  test: {en: [Not for a choice.], ar: [ليس للاختيار.]}
";

fn place() -> Place {
    let place = Place::new();
    place.write("mine/gist.yaml", TASK);
    let mut rows = asr_rows();
    rows.truncate(4);
    for row in &mut rows {
        row["summary"] = row["text"].clone();
        row["language"] = "en".into();
    }
    place.write_rows("rows.jsonl", &rows);
    for role in ["dev", "test"] {
        let set = "sets: [{name: gists, manifest: rows.jsonl, task: gist, metrics: [chrf]}]";
        place.write(&format!("{role}.yaml"), format!("role: {role}\n{set}\n"));
    }
    place
}

#[test]
fn the_best_instruction_is_found_and_written() {
    let place = place();
    let model = fixture_text("qwen_omni");
    let search = [
        "prompts",
        "dev.yaml",
        "--model",
        &model,
        "--prompts",
        "mine",
        "--out",
        "best",
    ];
    let ended = place.run(&search).succeeds();
    let said = ended.stdout;
    assert!(said.contains("gist, en: 4 rows"), "{said}");
    let found = place.json("best/search.json");
    assert_eq!(found.as_array().unwrap().len(), 1);
    let tried = found[0]["candidates"].as_array().unwrap();
    let instructions: Vec<&str> = tried
        .iter()
        .map(|one| one["instruction"].as_str().unwrap())
        .collect();
    // Those of training and of dev, not those of test.
    assert_eq!(
        instructions,
        ["Say it.", "Sum it up in a word.", "Say it again."]
    );
    let scores: Vec<f64> = tried
        .iter()
        .map(|one| one["score"].as_f64().unwrap())
        .collect();
    let is_tied = scores.iter().all(|&score| score == scores[0]);
    let is_said = ended
        .stderr
        .contains("all instructions have the same score");
    assert_eq!(is_said, is_tied, "{scores:?}: {}", ended.stderr);
    let best = found[0]["best"].as_u64().unwrap() as usize;
    let highest = scores.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(
        scores.iter().position(|&score| score == highest),
        Some(best)
    );

    // The task with that instruction, and the other language as dev asked in it.
    let task = place.text("best/gist.yaml");
    assert!(task.contains(instructions[best]), "{task}");
    assert!(task.contains("لخّص مرة أخرى."), "{task}");
    assert!(!task.contains("Not for a choice."), "{task}");
    let eval = [
        "eval",
        "dev.yaml",
        "--model",
        &model,
        "--prompts",
        "best",
        "--out",
        "evaluated",
    ];
    place.run(&eval).succeeds();
    let mean = place.json("evaluated/base/scores.json")["mean"].clone();
    assert_close(mean.as_f64().unwrap(), highest, 1e-9, "the score again");

    place.run(&search).fails(2, &["best", "exists already"]);
}

#[test]
fn instructions_are_not_chosen_on_a_test_suite() {
    let place = place();
    let model = fixture_text("qwen_omni");
    let search = |suite: &str| {
        place.run(&[
            "prompts",
            suite,
            "--model",
            &model,
            "--prompts",
            "mine",
            "--out",
            "best",
        ])
    };
    search("test.yaml").fails(2, &["has the role `test`", "hint:"]);

    let mut rows = asr_rows();
    rows.truncate(2);
    for row in &mut rows {
        row["summary"] = row["text"].clone();
        row["instruction"] = "Say what you like.".into();
    }
    place.write_rows("rows.jsonl", &rows);
    search("dev.yaml").fails(2, &["no row of the suite is asked", "hint:"]);
    assert!(!place.path("best").exists());
}
