//! `maqam plan` shows the rows that `maqam train` draws.

use crate::command;

use std::path::Path;
use std::process::Command;

use command::Outcome;
use command::Place;
use command::asr_rows;
use command::fixture_text;
use command::outcome;
use command::small_recipe;
use command::small_run;
use maqam::recipe::Recipe;
use serde_json::Value;
use serde_json::json;

/// The cells of each line below the line that starts with `title`, up to the next that is empty.
fn cells(text: &str, title: &str) -> Vec<Vec<String>> {
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with(title))
        .skip(1)
        .take_while(|line| !line.is_empty());
    lines
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

fn number(cell: &str) -> f64 {
    cell.trim_end_matches(" s")
        .replace(',', "")
        .parse()
        .unwrap()
}

#[test]
fn the_picks_are_the_rows_of_training() {
    let place = small_run(4);
    let plan = place
        .run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"])
        .succeeds()
        .stdout;
    place
        .run(&["plan", "recipe.yaml", "--picks", "again.jsonl"])
        .succeeds();
    assert_eq!(place.text("picks.jsonl"), place.text("again.jsonl"));
    place.run(&["train", "recipe.yaml"]).succeeds();

    let length =
        |row: &Value| row["end_s"].as_f64().unwrap() - row["start_s"].as_f64().unwrap_or(0.0);
    let rows: Vec<Value> = asr_rows()
        .into_iter()
        .chain(command::emotion_rows())
        .collect();
    let row_of = |id: &Value| rows.iter().find(|row| row["id"] == *id).unwrap();
    let picks = place.lines("picks.jsonl");
    let steps: Vec<Value> = place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    assert_eq!((picks.len(), steps.len()), (8, 8));
    for (i, (pick, step)) in picks.iter().zip(&steps).enumerate() {
        assert_eq!(
            (&pick["step"], &pick["stage"]),
            (&step["step"], &step["stage"])
        );
        assert_eq!(
            (
                pick["step"].as_u64().unwrap(),
                pick["stage"].as_str().unwrap()
            ),
            (i as u64 + 1, if i < 4 { "listen" } else { "discern" })
        );
        let ids = pick["ids"].as_array().unwrap();
        assert_eq!(ids.len() as u64, step["examples"].as_u64().unwrap());
        // No two subsets of the asr rows are equally long, so these seconds identify the rows;
        // emotion rows are distinguished by number.
        let of_task = |start: char| {
            ids.iter()
                .filter(move |id| id.as_str().unwrap().starts_with(start))
                .map(row_of)
                .collect::<Vec<_>>()
        };
        for (start, task) in [('a', "asr"), ('e', "emotion")] {
            let planned = of_task(start);
            let logged = &step["tasks"][task];
            assert_eq!(
                planned.len() as u64,
                logged["examples"].as_u64().unwrap_or(0),
                "step {}",
                i + 1
            );
            let seconds: f64 = planned.into_iter().map(length).sum();
            // A span is rounded to whole samples.
            assert!(
                (seconds - logged["seconds"].as_f64().unwrap_or(0.0)).abs() < 4.0 * 1.0 / 16_000.0,
                "step {}: {seconds} s, {logged}",
                i + 1
            );
        }
    }
    // The table of the second stage agrees with the log.
    let table = cells(&plan, "stage discern: steps 5 to 8");
    for task in ["asr", "emotion"] {
        let row = table.iter().find(|row| row[0] == task).unwrap();
        let sum = |what: &str| {
            steps[4..]
                .iter()
                .map(|step| step["tasks"][task][what].as_f64().unwrap())
                .sum::<f64>()
        };
        assert_eq!(
            (number(&row[1]), number(&row[5])),
            (sum("examples"), sum("target_tokens")),
            "{task}: {row:?}"
        );
        assert!(
            (number(&row[3]) - sum("seconds")).abs() < 0.051,
            "{task}: {row:?} is rounded to a tenth"
        );
    }
    let uniform: Vec<usize> = picks[4..]
        .iter()
        .map(|pick| {
            pick["ids"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|id| id.as_str().unwrap().starts_with('e'))
                .count()
        })
        .collect();
    assert_eq!(uniform, [2; 4], "`mix: uniform` gives each task half");
}

#[test]
fn a_pass_over_a_task_repeats_no_row() {
    let place = small_run(3);
    place
        .run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"])
        .succeeds();
    let mut ids: Vec<String> = place.lines("picks.jsonl")[..3]
        .iter()
        .flat_map(|pick| pick["ids"].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(
        ids.len(),
        12,
        "three steps of four are one pass over the twelve rows"
    );
}

#[test]
fn repeated_ids_get_their_manifest_as_prefix() {
    let place = small_run(3);
    place.write_rows("emotion.jsonl", &asr_rows());
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--set",
            "data.1.task=asr",
            "--set",
            "schedule.stages=[{steps: 6}]",
            "--picks",
            "picks.jsonl",
        ])
        .succeeds();
    let mut ids: Vec<String> = place
        .lines("picks.jsonl")
        .iter()
        .flat_map(|pick| pick["ids"].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    let mut expected: Vec<String> = ["asr.jsonl", "emotion.jsonl"]
        .iter()
        .flat_map(|manifest| (0..12).map(move |i| format!("{manifest}:a{i}")))
        .collect();
    expected.sort();
    assert_eq!(ids, expected);
}

#[test]
fn a_plan_needs_no_weights() {
    let place = small_run(3);
    let ran = place
        .run(&[
            "plan",
            "recipe.yaml",
            "--set",
            "model.path=someone/not-downloaded",
        ])
        .succeeds();
    assert!(
        ran.stdout
            .contains("`someone/not-downloaded` is not on this machine"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains("6 steps of 4 examples, 18 rows")
            && ran.stdout.contains("stage discern: steps 4 to 6"),
        "{}",
        ran.stdout
    );
    assert!(
        !fixture_text("qwen_omni").is_empty() && !place.path("runs/small").exists(),
        "no run begins"
    );
}

#[test]
fn shares_and_repeats_are_those_of_the_picks() {
    let place = small_run(7);
    place.write(
        "recipe.yaml",
        small_recipe(&fixture_text("qwen_omni"), 7).replace("mix: uniform", "draw: balanced"),
    );
    let text = place
        .run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"])
        .succeeds()
        .stdout;
    assert!(
        text.lines().all(|line| line.chars().count() <= 110),
        "{text}"
    );
    let labels: Vec<(String, String)> = command::emotion_rows()
        .iter()
        .map(|row| {
            (
                row["id"].as_str().unwrap().to_owned(),
                row["label"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let drawn: Vec<String> = place.lines("picks.jsonl")[7..]
        .iter()
        .flat_map(|pick| pick["ids"].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    let table = cells(&text, "stage discern: steps 8 to 14");
    let row = |name: &str| {
        table
            .iter()
            .find(|row| row[0] == name)
            .unwrap_or_else(|| panic!("{name}: {table:?}"))
            .clone()
    };
    for (name, ids) in [
        ("asr", (0..12).map(|i| format!("a{i}")).collect::<Vec<_>>()),
        ("emotion", labels.iter().map(|(id, _)| id.clone()).collect()),
        (
            "happy",
            labels
                .iter()
                .filter(|(_, label)| label == "happy")
                .map(|(id, _)| id.clone())
                .collect(),
        ),
    ] {
        let draws: Vec<usize> = ids
            .iter()
            .map(|id| drawn.iter().filter(|drawn| *drawn == id).count())
            .collect();
        let all = draws.iter().sum::<usize>();
        let reached = draws.iter().filter(|&&draws| draws > 0).count();
        let row = row(name);
        assert_eq!(number(&row[1]) as usize, all, "{row:?}");
        assert_eq!(
            row[2],
            format!("{:.1}", 100.0 * all as f64 / drawn.len() as f64)
        );
        assert_eq!(
            (
                number(&row[7]) as usize,
                number(&row[8]) as usize,
                number(&row[11]) as usize
            ),
            (ids.len(), reached, *draws.iter().max().unwrap()),
            "{row:?}"
        );
        assert_eq!(row[10], format!("{:.2}", all as f64 / reached as f64));
    }
    assert!(
        text.contains("about") && text.contains("memory") && text.contains("time"),
        "{text}"
    );
    assert!(
        text.contains(
            "`emotion`: no row has the label `disgusted`, `fearful`, `neutral`, `surprised`"
        ),
        "{text}"
    );
}

#[test]
fn a_diverse_stage_is_planned_as_it_will_be_drawn() {
    let place = small_run(4);
    let recipe =
        small_recipe(&fixture_text("qwen_omni"), 4).replace("mix: uniform", "draw: diverse");
    place.write("recipe.yaml", &recipe);
    let text = place
        .run(&[
            "plan",
            "recipe.yaml",
            "--picks",
            "picks.jsonl",
            "--html",
            "plan.html",
        ])
        .succeeds()
        .stdout;
    assert!(
        text.contains("what the embeddings know") && text.contains("in order"),
        "{text}"
    );
    assert!(place.text("plan.html").contains("<svg") && !place.path("runs/small").exists());
    place.run(&["train", "recipe.yaml"]).succeeds();
    let steps: Vec<Value> = place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    for (pick, step) in place.lines("picks.jsonl").iter().zip(&steps) {
        let ids: Vec<&str> = pick["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        // No two sets of the asr rows are equally long.
        let seconds: f64 = asr_rows()
            .iter()
            .filter(|row| ids.contains(&row["id"].as_str().unwrap()))
            .map(|row| row["end_s"].as_f64().unwrap())
            .sum();
        assert!(
            (seconds - step["tasks"]["asr"]["seconds"].as_f64().unwrap_or(0.0)).abs()
                < 4.0 / 16_000.0,
            "{pick} {step}"
        );
    }
    // What a stage compares after its encoder was trained cannot be known before; how often rows
    // are drawn can.
    place.write(
        "recipe.yaml",
        recipe.replace("draw: diverse", "draw: diverse, embeddings: current"),
    );
    let later = place.run(&["plan", "recipe.yaml"]).succeeds().stdout;
    assert!(
        later.contains("stage `listen` trains its audio_encoder before"),
        "{later}"
    );
    assert_eq!(
        cells(&later, "stage discern"),
        cells(&text, "stage discern"),
        "blocks hold the same rows, however they are chosen from"
    );
    place
        .run(&["plan", "recipe.yaml", "--picks", "more.jsonl"])
        .fails(
            2,
            &["--picks: the picks of stage `discern` are not known before training"],
        );
    let elsewhere = "model.path=someone/not-downloaded";
    place.write("recipe.yaml", &recipe);
    assert!(
        place
            .run(&["plan", "recipe.yaml", "--set", elsewhere])
            .succeeds()
            .stdout
            .contains("is not known")
    );
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--set",
            elsewhere,
            "--picks",
            "more.jsonl",
        ])
        .fails(2, &["--picks", "not on this machine"]);
}

#[test]
fn embeddings_of_another_model_are_refused() {
    let place = small_run(2);
    place.write(
        "recipe.yaml",
        small_recipe(&fixture_text("qwen_omni"), 2).replace("mix: uniform", "draw: diverse"),
    );
    place
        .run(&["plan", "recipe.yaml", "--set", "embeddings.cache=cache"])
        .succeeds();
    let parts = || -> Vec<_> {
        let folders = std::fs::read_dir(place.path("cache"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        folders
            .flat_map(|folder| std::fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    let part = parts().remove(0);
    let mut bytes = std::fs::read(&part).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let model = names["model"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[header + model] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    place
        .run(&["plan", "recipe.yaml", "--set", "embeddings.cache=cache"])
        .fails(2, &["computed by another model", "remove the folder"]);
}

/// A place whose suite has one row that is unrelated to the training, and the given rows.
fn judged(rows: &[Value]) -> Place {
    let place = small_run(2);
    let mut training = asr_rows();
    training[3]["speaker"] = json!("adel");
    training[4]["group"] = json!("news");
    place.write_rows("asr.jsonl", &training);
    let clean = json!({"id": "z", "audio": fixture_text("audio/a3.wav"), "text": "نعم", "speaker": "omar", "group": "film"});
    place.write_rows("dev.jsonl", &[&[clean], rows].concat());
    place.write(
        "dev.yaml",
        "role: dev\nsets: [{name: words, manifest: dev.jsonl, task: asr}]\n",
    );
    let recipe = small_recipe(&fixture_text("qwen_omni"), 2);
    place.write(
        "recipe.yaml",
        recipe.replace(
            "seed: 7",
            "evaluate: {suite: dev.yaml, every: 100}\nseed: 7",
        ),
    );
    place
}

#[test]
fn every_leakage_is_refused_and_can_be_allowed() {
    judged(&[]).run(&["plan", "recipe.yaml"]).succeeds();
    let clip = fixture_text("audio/a3.wav");
    let same_clip =
        json!({"id": "copy", "audio": "renamed.wav", "start_s": 0.2, "end_s": 0.4, "text": "لا"});
    let leaks = [
        (
            "id",
            json!({"id": "a5", "audio": clip, "text": "لا"}),
            "asr.jsonl:6 (`a5`)",
        ),
        ("audio", same_clip, "asr.jsonl:1 (`a0`)"),
        (
            "speaker",
            json!({"id": "new", "audio": clip, "text": "لا", "speaker": "adel"}),
            "asr.jsonl:4 (`a3`)",
        ),
        (
            "group",
            json!({"id": "new", "audio": clip, "text": "لا", "group": "news"}),
            "asr.jsonl:5 (`a4`)",
        ),
    ];
    for (kind, row, training) in &leaks {
        let place = judged(std::slice::from_ref(row));
        place.copy("audio", ".");
        std::fs::rename(place.path("a2.wav"), place.path("renamed.wav")).unwrap();
        let said = format!("dev.jsonl:2 (`{}`)", row["id"].as_str().unwrap());
        place.run(&["plan", "recipe.yaml"]).fails(
            2,
            &[
                "the suite judges what is trained on",
                training,
                &said,
                "set `words`",
                &format!("--allow {kind}"),
            ],
        );
        place
            .run(&["plan", "recipe.yaml", "--allow", kind])
            .succeeds();
    }
    let place = judged(&leaks.clone().map(|(kind, mut row, _)| {
        row["id"] = if kind == "id" {
            row["id"].clone()
        } else {
            json!(format!("{kind}-row"))
        };
        row
    }));
    place.copy("audio", ".");
    std::fs::rename(place.path("a2.wav"), place.path("renamed.wav")).unwrap();
    place.run(&["plan", "recipe.yaml", "--allow", "id"]).fails(
        2,
        &[
            "shares audio with",
            "shares its speaker",
            "shares its group",
        ],
    );
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--allow",
            "id",
            "--allow",
            "audio",
            "--allow",
            "speaker",
            "--allow",
            "group",
        ])
        .succeeds();
}

#[test]
fn line_numbers_are_no_ids() {
    let place = judged(&[]);
    let mut rows = asr_rows();
    rows.iter_mut()
        .for_each(|row| drop(row.as_object_mut().unwrap().remove("id")));
    place.write_rows("asr.jsonl", &rows);
    place.write_rows(
        "dev.jsonl",
        &[json!({"audio": fixture_text("audio/a3.wav"), "text": "نعم"})],
    );
    place.run(&["plan", "recipe.yaml"]).succeeds();
}

#[test]
fn mistakes_of_new_users_have_hints() {
    let place = small_run(2);
    let recipe = small_recipe(&fixture_text("qwen_omni"), 2);
    for (from, to, words) in [
        (
            "tasks: [asr]",
            "tasks: [asrr]",
            &["the data has no task `asrr`", "did you mean `asr`?"][..],
        ),
        ("task: emotion}", "task: emotions}", &["emotion"]),
        (
            "mix: uniform",
            "mix: uniform, draw: diverse",
            &["`mix: uniform` beside `draw: diverse`"],
        ),
        (
            "manifest: emotion.jsonl",
            "manifest: emotions.jsonl",
            &["emotions.jsonl", "cannot read"],
        ),
        (
            "task: emotion}",
            "task: emotion, weight: 0}\n  - {manifest: none.jsonl, task: dialect}",
            &["none.jsonl"],
        ),
        (
            "targets: all-linear",
            "targets: atention",
            &["did you mean `attention`?"],
        ),
        (
            "model: {path: ",
            "model: {path: ./nowhere",
            &["no such folder"],
        ),
    ] {
        assert!(recipe.contains(from), "{from}");
        place.write("recipe.yaml", recipe.replacen(from, to, 1));
        place.run(&["plan", "recipe.yaml"]).fails(2, words);
    }
    // All rows of a task have weight 0: an empty pool.
    place.write(
        "recipe.yaml",
        recipe
            .replace("task: emotion}", "task: emotion, weight: 0}")
            .replace(
                "tasks: all, mix: uniform",
                "tasks: [emotion], draw: balanced",
            ),
    );
    place
        .run(&["plan", "recipe.yaml"])
        .fails(2, &["`weight: 0`"]);
    // One row of a label under equal slots is no error, but needs a warning.
    let mut rows = command::emotion_rows();
    (1..6).for_each(|i| rows[i]["label"] = json!("happy"));
    rows[0]["label"] = json!("sad");
    place.write_rows("emotion.jsonl", &rows);
    place.write(
        "recipe.yaml",
        small_recipe(&fixture_text("qwen_omni"), 20).replace("mix: uniform", "draw: balanced"),
    );
    let text = place.run(&["plan", "recipe.yaml"]).succeeds().stdout;
    assert!(
        text.contains("`sad` of `emotion` has one row, each drawn 20.0 times")
            && text.contains("max_repeats"),
        "{text}"
    );
}

fn in_the_repository(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maqam"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HF_HUB_OFFLINE", "1");
    outcome(command.output().unwrap())
}

fn recipes(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

#[test]
fn every_recipe_whose_data_ships_can_be_planned() {
    let place = Place::new();
    let cache = format!("embeddings.cache={}", place.path("cache").display());
    let shipped = ["curricula/first.yaml", "curricula/quickstart.yaml"].map(str::to_owned);
    let adaptive = recipes("curricula/adaptive");
    let sample = recipes("curricula/sample").into_iter().chain(adaptive);
    for recipe in sample.chain(shipped) {
        let text = in_the_repository(&["plan", &recipe, "--set", &cache])
            .succeeds()
            .stdout;
        assert!(
            text.contains("examples")
                && text.contains("memory  about")
                && text.lines().all(|line| line.chars().count() <= 110),
            "{recipe}: {text}"
        );
    }
}

#[test]
fn every_recipe_for_large_models_reads() {
    let large = recipes("curricula/qwen2.5-omni-7b");
    for recipe in large.into_iter().chain(recipes("curricula/qwen3-asr")) {
        Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(&recipe), &[])
            .unwrap_or_else(|error| panic!("{error}"));
    }
}
