//! Curricula end to end: stages that draw by embeddings, probes that change nothing, stages that
//! end early, and all of it resumed bit for bit.

use crate::command;

use command::Place;
use command::asr_rows;
use command::emotion_rows;
use command::fixture_text;
use serde_json::Value;
use serde_json::json;

/// First a mixture that waits for a score that cannot improve, then diverse batches by the current
/// model. Text rows take part.
fn recipe(embeddings: &str) -> String {
    format!(
        "\
name: small
model: {{path: {}}}
train: {{audio_encoder: lora, projector: lora, decoder: lora}}
lora: {{rank: 4, alpha: 8, targets: all-linear}}
data:
  - {{manifest: asr.jsonl, task: asr}}
  - {{manifest: emotion.jsonl, task: emotion}}
  - {{manifest: summaries.jsonl, task: summarization}}
schedule:
  batch: 4
  stages:
    - {{name: mixed, tasks: all, mix: uniform, steps: 8, early_stop: {{score: moods.accuracy, patience: 1}}}}
    - {{name: refine, tasks: all, draw: diverse, embeddings: {embeddings}, steps: 6, loss: {{normalise: example}}}}
optimiser: {{learning_rate: 2e-3}}
probe: {{every: 2}}
evaluate: {{suite: dev.yaml, every: 2, keep_best: mean}}
checkpoint: {{every: 3, keep: 9}}
seed: 7
",
        fixture_text("qwen_omni")
    )
}

fn place(embeddings: &str) -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    let texts = ["افتتاح نشرة", "مرحبا بكم في النشرة", "one two three"];
    let rows: Vec<Value> = (0..3).map(|i| json!({"id": format!("s{i}"), "language": "ar", "text": texts[i], "summary": "خبر"})).collect();
    place.write_rows("summaries.jsonl", &rows);
    place.write("dev.yaml", "role: dev\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion, metrics: [accuracy]}\n");
    place.write("recipe.yaml", recipe(embeddings));
    place
}

fn of_kind(place: &Place, run: &str, kind: &str) -> Vec<Value> {
    place
        .lines(&format!("runs/{run}/log.jsonl"))
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect()
}

/// Number of steps after which the first stage of [`recipe`] ends: an evaluation sets the mark, the
/// next is no better than it or is.
fn end_of_first_stage(place: &Place) -> u64 {
    let ends = of_kind(place, "small", "stage_end");
    assert_eq!(
        (ends.len(), ends[0]["stage"].as_str()),
        (1, Some("mixed")),
        "{ends:?}"
    );
    ends[0]["at_step"].as_u64().unwrap()
}

#[test]
fn restarts_give_each_stage_its_own_learning_rate() {
    let place = place("base");
    let recipe = place
        .text("recipe.yaml")
        .replace(
            "steps: 8, early_stop: {score: moods.accuracy, patience: 1}",
            "steps: 4",
        )
        .replace("draw: diverse, embeddings: base, steps: 6", "steps: 6")
        .replace(
            "{learning_rate: 2e-3}",
            "{learning_rate: 2e-3, schedule: linear, warmup: 0.5, restart: true}",
        );
    place.write("recipe.yaml", recipe);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();

    let rates: Vec<f64> = of_kind(&place, "small", "train")
        .iter()
        .map(|line| line["learning_rate"].as_f64().unwrap())
        .collect();
    // Half of each stage rises to 2e-3 in equal steps, the other half falls in a straight line
    // from there.
    let shares = [
        1.0 / 2.0,
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 3.0,
        2.0 / 3.0,
        1.0,
        1.0,
        2.0 / 3.0,
        1.0 / 3.0,
    ];
    assert_eq!(rates.len(), shares.len());
    for (rate, share) in rates.iter().zip(shares) {
        assert!((rate - 2e-3 * share).abs() < 1e-12, "{rates:?}");
    }
}

#[test]
fn a_stage_after_an_early_stop_uses_the_current_model() {
    let place = place("current");
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let end = end_of_first_stage(&place);
    assert!((4..8).contains(&end), "{end}");
    let steps = of_kind(&place, "small", "train");
    assert_eq!(steps.len() as u64, end + 6);
    for line in &steps {
        let step = line["step"].as_u64().unwrap();
        let stage = line["stage"].as_str().unwrap();
        assert_eq!(stage, if step <= end { "mixed" } else { "refine" });
    }
    // Learning rates count planned steps: the second stage begins at the rate of step 9 of 14.
    let rates: Vec<f64> = steps
        .iter()
        .map(|line| line["learning_rate"].as_f64().unwrap())
        .collect();
    let planned =
        |step: f64| 2e-3 * 0.5 * (1.0 + (std::f64::consts::PI * (step - 1.0) / 13.0).cos());
    assert!(
        (rates[end as usize] - planned(8.0)).abs() < 1e-12,
        "{rates:?}"
    );
    let state = place.json(&format!(
        "runs/small/checkpoints/step-{:06}/state.json",
        end + 6
    ));
    assert_eq!(state["stage_ends"], json!({"0": end}));
    assert_eq!(
        state["snapshots"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["refine"]
    );
    assert!(
        place
            .path("runs/small/embeddings/refine.safetensors")
            .is_file()
    );
    // Equal slots for three tasks: of 24 picks each gets eight.
    let mut examples = std::collections::BTreeMap::<String, u64>::new();
    for line in &steps[end as usize..] {
        for (task, record) in line["tasks"].as_object().unwrap() {
            *examples.entry(task.clone()).or_default() += record["examples"].as_u64().unwrap();
        }
    }
    assert_eq!(examples.into_values().collect::<Vec<_>>(), [8, 8, 8]);
}

#[test]
fn a_curriculum_resumes_from_every_checkpoint() {
    for embeddings in ["base", "current"] {
        let whole = place(embeddings);
        whole
            .run(&["train", "recipe.yaml", "--allow-leakage"])
            .succeeds();
        let last = of_kind(&whole, "small", "train").len();
        let left = |place: &Place| {
            [
                format!("runs/small/checkpoints/step-{last:06}/adapter_model.safetensors"),
                "runs/small/log.jsonl".to_owned(),
            ]
            .map(|name| place.bytes(&name))
        };
        for from in (3..last).step_by(3) {
            let resumed = place(embeddings);
            let copied = std::process::Command::new("cp")
                .args([
                    "-r",
                    whole.path("runs").to_str().unwrap(),
                    resumed.path("").to_str().unwrap(),
                ])
                .status();
            assert!(copied.unwrap().success());
            for step in (from + 1)..=last {
                let _ = std::fs::remove_dir_all(
                    resumed.path(&format!("runs/small/checkpoints/step-{step:06}")),
                );
            }
            resumed
                .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
                .succeeds();
            assert!(
                left(&resumed) == left(&whole),
                "{embeddings}: resumed after step {from}"
            );
        }
    }
}

/// The marks of a plan's stages.
fn marks(place: &Place) -> Vec<bool> {
    let told = place
        .run(&["plan", "recipe.yaml", "--json", "--allow-leakage"])
        .succeeds()
        .stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let stages = told["stages"].as_array().unwrap().iter();
    stages
        .map(|stage| stage["depends_on_training"] == true)
        .collect()
}

#[test]
fn picks_that_depend_on_training_are_marked_and_recorded() {
    let place = place("current");
    assert_eq!(marks(&place), [true, true]);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let steps = of_kind(&place, "small", "train");
    let picks = place.lines("runs/small/picks.jsonl");
    assert_eq!(picks.len(), steps.len());
    for (line, step) in picks.iter().zip(&steps) {
        assert_eq!(line["step"], step["step"]);
        assert_eq!(line["stage"], step["stage"]);
        assert_eq!(line["depends_on_training"], true);
        for (task, letter) in [("asr", 'a'), ("emotion", 'e'), ("summarization", 's')] {
            let ids = line["ids"].as_array().unwrap().iter();
            let drawn = ids.filter(|id| id.as_str().unwrap().starts_with(letter));
            let trained = step["tasks"][task]["examples"].as_u64().unwrap_or(0);
            assert_eq!(drawn.count() as u64, trained, "{line}");
        }
    }

    // A run that began before its picks were recorded has those of the steps since a resume,
    // however often it is resumed.
    let whole = place.text("runs/small/picks.jsonl");
    let log = place.text("runs/small/log.jsonl");
    let later: String = whole.split_inclusive('\n').skip(3).collect();
    std::fs::remove_file(place.path("runs/small/picks.jsonl")).unwrap();
    for from in [3, 3, 6] {
        for step in (from + 1)..=steps.len() {
            let folder = format!("runs/small/checkpoints/step-{step:06}");
            let _ = std::fs::remove_dir_all(place.path(&folder));
        }
        place
            .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
            .succeeds();
        assert_eq!(place.text("runs/small/log.jsonl"), log);
        assert_eq!(place.text("runs/small/picks.jsonl"), later, "from {from}");
    }
}

#[test]
fn picks_that_do_not_depend_on_training_are_not_recorded() {
    let place = place("current");
    let recipe = place.text("recipe.yaml");
    let stop = ", early_stop: {score: moods.accuracy, patience: 1}";
    place.write("recipe.yaml", recipe.replace(stop, ""));
    assert_eq!(marks(&place), [false, true]);
    let recipe = place.text("recipe.yaml");
    let base = recipe.replace("embeddings: current", "embeddings: base");
    place.write("recipe.yaml", base);
    assert_eq!(marks(&place), [false, false]);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    assert!(!place.path("runs/small/picks.jsonl").exists());
}

#[test]
fn probes_log_cosines_and_change_nothing() {
    let place = place("base");
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "name=unlooked",
            "--set",
            "probe.every=0",
        ])
        .succeeds();
    assert_eq!(
        of_kind(&place, "small", "train"),
        of_kind(&place, "unlooked", "train")
    );
    let probes = of_kind(&place, "small", "probe");
    assert!(
        of_kind(&place, "unlooked", "probe").is_empty()
            && probes.len() == of_kind(&place, "small", "train").len() / 2
    );
    for probe in &probes {
        let norms = probe["norms"].as_object().unwrap();
        let cosines = probe["cosines"].as_object().unwrap();
        assert_eq!(
            cosines.len(),
            norms.len() * (norms.len() - 1) / 2,
            "{probe}"
        );
        assert!(
            norms.values().all(|norm| norm.as_f64().unwrap() > 0.0)
                && cosines
                    .values()
                    .all(|cosine| cosine.as_f64().unwrap().abs() <= 1.0)
        );
    }
}

/// With one task in a step, its probe's gradient equals the step's own, to the last bit.
#[test]
fn the_gradient_of_a_lone_task_is_that_of_the_step() {
    let place = place("base");
    let stages = "schedule.stages=[{name: alone, tasks: [asr], steps: 4}]";
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            stages,
            "--set",
            "probe.every=1",
            "--set",
            "evaluate=null",
        ])
        .succeeds();
    for (probe, step) in of_kind(&place, "small", "probe")
        .iter()
        .zip(of_kind(&place, "small", "train"))
    {
        let found = probe["norms"]["asr"].as_f64().unwrap();
        let expected = step["grad_norm"].as_f64().unwrap();
        assert!(
            (found - expected).abs() <= 1e-6 * expected,
            "{found} of {expected}"
        );
    }
}

#[test]
fn embeddings_are_cached_and_snapshots_checked() {
    let place = place("base");
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let parts = || {
        let folders = std::fs::read_dir(place.path("runs/.embeddings"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        folders
            .map(|folder| std::fs::read_dir(folder).unwrap().count())
            .sum::<usize>()
    };
    let before = parts();
    let snapshot = place.bytes("runs/small/embeddings/base.safetensors");
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "name=again",
        ])
        .succeeds();
    assert_eq!(
        (
            parts(),
            place.bytes("runs/again/embeddings/base.safetensors")
        ),
        (before, snapshot),
        "nothing is computed twice"
    );
    let last = of_kind(&place, "small", "train").len();
    std::fs::remove_dir_all(place.path(&format!("runs/small/checkpoints/step-{last:06}"))).unwrap();
    place.write("runs/small/embeddings/base.safetensors", "another");
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .fails(
            2,
            &[
                "embeddings/base.safetensors",
                "missing or has changed",
                "put the file back",
            ],
        );
}

#[test]
fn contradictions_are_refused_before_training() {
    let place = place("base");
    for (set, words) in [
        (
            "schedule.stages.0.early_stop.score=moods.uar",
            [
                "`early_stop.score`: the suite gives no score `moods.uar`",
                "moods.accuracy",
            ],
        ),
        (
            "evaluate=null",
            ["a stage has `early_stop`", "name a suite of role `dev`"],
        ),
        (
            "schedule.stages.1.mix=uniform",
            ["stage `refine`: `mix", "beside `draw: diverse`"],
        ),
        (
            "schedule.shuffle=true",
            ["beside `schedule.shuffle: true`", "remove"],
        ),
    ] {
        place
            .run(&["train", "recipe.yaml", "--allow-leakage", "--set", set])
            .fails(2, &words);
    }
}
