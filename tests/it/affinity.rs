//! `maqam plan --affinity`: distances of gradients, groups and stages, on a small model.

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::damaged_flac;
use crate::command::emotion_rows;
use crate::command::fixture;
use crate::command::small_run;
use serde_json::Value;

/// Three manifests: two with the same rows of transcription, one of emotions.
fn place() -> Place {
    let place = small_run(4);
    place.write_rows("again.jsonl", &asr_rows());
    let recipe = place.text("recipe.yaml");
    place.write(
        "recipe.yaml",
        recipe.replace(
            "  - {manifest: emotion.jsonl, task: emotion}\n",
            "  - {manifest: again.jsonl, task: asr}\n  - {manifest: emotion.jsonl, task: emotion}\n",
        ),
    );
    place
}

fn plan(place: &Place, more: &[&str]) -> Value {
    let mut arguments = vec!["plan", "recipe.yaml", "--affinity", "--json"];
    arguments.extend(more);
    let told = place.run(&arguments).succeeds().stdout;
    serde_json::from_str(&told).unwrap()
}

fn affinity(place: &Place, more: &[&str]) -> Value {
    plan(place, more)["affinity"].clone()
}

#[test]
fn equal_rows_have_no_distance_and_share_a_group() {
    let place = place();
    let found = affinity(&place, &[]);
    assert_eq!(found["by"], "manifest");
    assert_eq!(found["names"].as_array().unwrap().len(), 3);
    let distance = |i: usize, j: usize| found["distances"][i][j].as_f64().unwrap();
    assert!(distance(0, 1) < 1e-5, "{found}");
    assert!(distance(0, 2) > 0.05, "{found}");
    assert!((distance(0, 2) - distance(2, 0)).abs() < 1e-9);
    // Totals of distances: about 0.0 + d for each manifest of transcription, 2 d for that of
    // emotions, which comes first.
    let names = &found["names"];
    assert_eq!(
        found["groups"],
        serde_json::json!([[names[2]], [names[0], names[1]]]),
        "{found}"
    );
    let halves = found["halves"].as_array().unwrap();
    assert!(
        halves
            .iter()
            .all(|cosine| cosine.as_f64().unwrap().abs() <= 1.0)
    );
    assert_eq!(
        affinity(&place, &[]),
        found,
        "two plans of one seed are the same"
    );

    let text = place
        .run(&["plan", "recipe.yaml", "--affinity", "--html", "plan.html"])
        .succeeds()
        .stdout;
    for words in [
        "affinity: distances",
        "dendrogram",
        "groups, in the order",
        "2605.19101",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let page = place.text("plan.html");
    assert!(page.contains("Affinity of tasks") && page.contains("Dendrogram"));
}

#[test]
fn only_rows_that_the_stages_draw_are_measured() {
    let place = place();
    place.write_rows("never.jsonl", &asr_rows());
    let recipe = place
        .text("recipe.yaml")
        .replace("tasks: all, mix: uniform", "tasks: [asr]")
        .replace(
            "  - {manifest: emotion.jsonl",
            "  - {manifest: never.jsonl, task: asr, weight: 0}\n  - {manifest: emotion.jsonl",
        );
    assert!(recipe.contains("weight: 0") && !recipe.contains("mix"));
    place.write("recipe.yaml", recipe);
    let found = affinity(&place, &[]);
    let names: Vec<&str> = found["names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].contains("asr") && names[1].contains("again"));
}

#[test]
fn doubts_are_told() {
    let place = place();
    let warnings = |told: &Value| -> Vec<String> {
        let all = told["warnings"].as_array().unwrap().iter();
        all.map(|line| line.as_str().unwrap().to_owned()).collect()
    };
    let lines = warnings(&plan(&place, &["--affinity-by", "task"]));
    let few = lines.iter().filter(|line| line.contains("fewer than 64"));
    assert_eq!(few.count(), 2, "{lines:?}");
    let lost = "do not have these keys of the recipe's: mix";
    assert!(lines.iter().any(|line| line.ends_with(lost)), "{lines:?}");

    // Six clips of emotions, one of which cannot be decoded.
    let mut rows = emotion_rows();
    for (i, row) in rows.iter_mut().enumerate() {
        let name = format!("clips/e{i}.wav");
        place.write(&name, std::fs::read(fixture("audio/odd.wav")).unwrap());
        *row = serde_json::json!({"id": row["id"], "audio": name, "label": row["label"]});
    }
    place.write("clips/e0.wav", damaged_flac());
    place.write_rows("emotion.jsonl", &rows);
    let skip = ["--affinity-by", "task", "--set", "on_bad_row=skip"];
    let told = plan(&place, &skip);
    assert_eq!(told["affinity"]["rows"], serde_json::json!([24, 5]));
    let line = "1 of 6 rows of `emotion` cannot be read";
    assert!(warnings(&told).iter().any(|found| found.contains(line)));
    // One row in each half.
    place.write_rows("emotion.jsonl", &rows[..2]);
    let arguments = [&["plan", "recipe.yaml", "--affinity"], &skip[..]].concat();
    place
        .run(&arguments)
        .fails(2, &["`emotion`", "none of 1 rows can be read", "hint:"]);
}

#[test]
fn stages_introduce_the_groups() {
    let place = place();
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--affinity",
            "--affinity-by",
            "task",
            "--affinity-groups",
            "2",
            "--affinity-stages",
            "stages.yaml",
        ])
        .succeeds();
    let stages = place.text("stages.yaml");
    let recipe = place.text("recipe.yaml");
    let before = recipe.find("schedule:").unwrap();
    let after = recipe.find("optimiser:").unwrap();
    place.write(
        "grown.yaml",
        format!("{}{stages}{}", &recipe[..before], &recipe[after..]),
    );
    let told = place
        .run(&["plan", "grown.yaml", "--json"])
        .succeeds()
        .stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let stages = told["stages"].as_array().unwrap();
    assert_eq!((stages.len(), &told["steps"]), (2, &Value::from(8)));
    let num_tasks = |stage: &Value| {
        let shares = stage["shares"].as_array().unwrap();
        shares
            .iter()
            .filter(|share| share["label"].is_null())
            .count()
    };
    assert_eq!([num_tasks(&stages[0]), num_tasks(&stages[1])], [1, 2]);
}

#[test]
fn wrong_affinities_are_refused() {
    let place = place();
    let plan = |more: &[&str]| {
        let mut arguments = vec!["plan", "recipe.yaml"];
        arguments.extend(more);
        place.run(&arguments)
    };
    plan(&["--affinity", "--affinity-groups", "9"])
        .fails(2, &["--affinity-groups takes a number from 1 to 3"]);
    plan(&["--affinity-groups", "2"]).fails(2, &["--affinity"]);
    plan(&[
        "--affinity",
        "--set",
        "train={audio_encoder: frozen, projector: full, decoder: frozen}",
    ])
    .fails(2, &["the recipe trains none", "hint:"]);
    plan(&["--affinity", "--set", "model.path=Qwen/Qwen2.5-Omni-7B"])
        .fails(2, &["the model is not on this machine"]);
}
