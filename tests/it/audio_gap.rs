//! `probe: {audio_gap: N}`: the losses are those of `maqam score` with the clips swapped by hand,
//! and nothing else of a run changes.

use crate::command;

use std::ffi::OsString;
use std::ops::RangeInclusive;

use command::Place;
use command::asr_rows;
use command::assert_close;
use command::emotion_rows;
use command::fixture_text;
use command::row;
use serde_json::Value;
use serde_json::json;

/// Question of all rows.
const QUESTION: &str = "Transcribe.";

fn recipe(data: &str, rest: &str) -> String {
    format!(
        "\
name: small
model: {{path: {}}}
train: {{audio_encoder: frozen, projector: lora, decoder: lora}}
lora: {{rank: 4, alpha: 8, targets: all-linear}}
data: {data}
optimiser: {{learning_rate: 2e-3}}
checkpoint: {{every: 2, keep: 9}}
seed: 7
{rest}",
        fixture_text("qwen_omni")
    )
}

fn of_kind(place: &Place, run: &str, kind: &str) -> Vec<Value> {
    let lines = place.lines(&format!("runs/{run}/log.jsonl")).into_iter();
    lines.filter(|line| line["kind"] == kind).collect()
}

/// Sum of the losses that `maqam score` gives for rows, nats, and the number of target tokens.
fn scored(place: &Place, rows: &[Value]) -> (f64, f64) {
    place.write_rows("scored.jsonl", rows);
    let model = fixture_text("qwen_omni");
    let arguments = [
        "score",
        "--model",
        &model,
        "--data",
        "scored.jsonl",
        "--out",
        "losses.jsonl",
    ];
    place.run(&arguments).succeeds();
    let found = place.lines("losses.jsonl");
    let tokens = |row: &Value| row["num_target_tokens"].as_f64().unwrap();
    let nats = |row: &Value| row["loss"].as_f64().unwrap() * tokens(row);
    (found.iter().map(nats).sum(), found.iter().map(tokens).sum())
}

/// Before the first step the adapters are zero, so the losses are those of the checkpoint.
#[test]
fn gap_equals_scores_with_swapped_clips() {
    // In one micro-batch, and with each sequence in its own.
    for memory in ["", "memory: {pack_tokens: 1}\n"] {
        assert_swapped(memory);
    }
}

fn assert_swapped(memory: &str) {
    let place = Place::new();
    let said = ["yes", "yes", "one two"];
    let clips = ["a1.wav", "a2.wav", "odd.wav"];
    let with = |of_text: usize, clip: usize| {
        let id = format!("r{of_text}{clip}");
        row(&id, clips[clip], QUESTION, said[of_text])
    };
    let rows: Vec<Value> = (0..3).map(|i| with(i, i)).collect();
    place.write_rows("rows.jsonl", &rows);
    let rest = format!(
        "{memory}schedule: {{batch: 2, stages: [{{name: only, steps: 3}}]}}\nprobe: {{audio_gap: 2}}\n"
    );
    place.write("recipe.yaml", recipe("[{manifest: rows.jsonl}]", &rest));
    place.run(&["train", "recipe.yaml"]).succeeds();
    let lines = of_kind(&place, "small", "audio_gap");
    let steps: Vec<u64> = lines
        .iter()
        .map(|line| line["at_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 2, 3], "the start, every second step, the end");
    assert!(lines[0].get("sets").is_none(), "there is no suite");

    let found = &lines[0]["tasks"]["conversation"];
    let number = |key: &str| found[key].as_f64().unwrap();
    let (right, tokens) = scored(&place, &rows);
    assert_eq!((number("rows"), number("target_tokens")), (3.0, tokens));
    assert_close(number("loss"), right / tokens, 1e-5, "loss");
    // Rows with the target `yes` never stand for each other. The third has 4 s, and of the others
    // the first is nearer: they have 3 s and 10 s.
    let (wrong, _) = scored(&place, &[with(0, 2), with(1, 2), with(2, 0)]);
    assert_close(number("wrong_loss"), wrong / tokens, 1e-5, "wrong loss");
    let gap = number("wrong_loss") - number("loss");
    assert!((number("gap") - gap).abs() < 1e-12, "{found}");
}

/// Clips of 3, 4, 10 and 2 s. No circle of the rows has the first two in each other's place.
#[test]
fn the_other_clip_is_the_nearest_in_length() {
    let place = Place::new();
    let said = ["yes", "no", "one two", "three"];
    let clips = ["a1.wav", "odd.wav", "a2.wav", "a3.wav"];
    let with = |of_text: usize, clip: usize| {
        let id = format!("r{of_text}{clip}");
        row(&id, clips[clip], QUESTION, said[of_text])
    };
    let rows: Vec<Value> = (0..4).map(|i| with(i, i)).collect();
    place.write_rows("rows.jsonl", &rows);
    let rest = "schedule: {batch: 2, stages: [{name: only, steps: 1}]}\nprobe: {audio_gap: 1}\n";
    place.write("recipe.yaml", recipe("[{manifest: rows.jsonl}]", rest));
    place.run(&["train", "recipe.yaml"]).succeeds();
    let found = of_kind(&place, "small", "audio_gap")[0]["tasks"]["conversation"].clone();
    let (wrong, tokens) = scored(&place, &[with(0, 1), with(1, 0), with(2, 1), with(3, 0)]);
    let wrong_loss = found["wrong_loss"].as_f64().unwrap();
    assert_close(wrong_loss, wrong / tokens, 1e-5, "wrong loss");
}

#[test]
fn the_sample_is_the_same_for_every_seed() {
    let place = place();
    let of_seed = |seed: u64| {
        let name = format!("name=seed-{seed}");
        let set = format!("seed={seed}");
        let sets = ["--set", &name, "--set", &set];
        let steps = ["--set", "schedule.stages.0.steps=1"];
        place
            .run(&[&TRAIN[..], &sets[..], &steps[..]].concat())
            .succeeds();
        of_kind(&place, &format!("seed-{seed}"), "audio_gap")[0].clone()
    };
    // The adapters are zero before the first step, whatever the seed.
    let expected = of_seed(7);
    for seed in 8..11 {
        assert_eq!(of_seed(seed), expected, "{seed}");
    }
}

fn place() -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    place.write("dev.yaml", "role: dev\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion, metrics: [accuracy]}\n");
    let data = "[{manifest: asr.jsonl, task: asr}, {manifest: emotion.jsonl, task: emotion}]";
    let rest = "schedule: {batch: 4, stages: [{name: only, mix: uniform, steps: 6}]}\nevaluate: {suite: dev.yaml, every: 3}\nprobe: {audio_gap: 2}\n";
    place.write("recipe.yaml", recipe(data, rest));
    place
}

const TRAIN: [&str; 3] = ["train", "recipe.yaml", "--allow-leakage"];

#[test]
fn a_run_is_the_same_without_the_gap() {
    let place = place();
    place.run(&TRAIN).succeeds();
    let without = ["--set", "name=without", "--set", "probe.audio_gap=0"];
    place.run(&[&TRAIN[..], &without[..]].concat()).succeeds();
    let log = place.text("runs/small/log.jsonl");
    let others: String = log
        .lines()
        .filter(|line| !line.starts_with("{\"kind\":\"audio_gap\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(others, place.text("runs/without/log.jsonl"));
    for file in ["adapter_model.safetensors", "optimiser.safetensors"] {
        let of_run = |run: &str| place.bytes(&format!("runs/{run}/checkpoints/step-000006/{file}"));
        assert!(of_run("small") == of_run("without"), "{file}");
    }
    assert!(!place.text("runs/without/recipe.yaml").contains("audio_gap"));

    let gaps = of_kind(&place, "small", "audio_gap");
    assert_eq!(gaps.len(), 4);
    for line in &gaps {
        assert_eq!(line["tasks"]["asr"]["rows"], json!(12), "{line}");
        assert_eq!(line["tasks"]["emotion"]["rows"], json!(6));
        assert_eq!(line["sets"]["moods"]["rows"], json!(6));
    }
    // Training and suite have the same six rows here, with other wordings of the question.
    assert_ne!(gaps[0], gaps[3], "the model has changed");
}

#[test]
fn a_run_with_the_gap_resumes_byte_for_byte() {
    let whole = place();
    whole.run(&TRAIN).succeeds();
    for from in [2, 4] {
        // The outputs of the encoder are kept, gone, or half of them gone.
        for nth in [0, 1, 2] {
            let resumed = place();
            resumed.take_runs(&whole, "small", from);
            resumed.forget_encoded(nth);
            resumed
                .run(&[&TRAIN[..], &["--resume"][..]].concat())
                .succeeds();
            let when = format!("from {from} without every file {nth} of the cache");
            assert_same_run(&resumed, &whole, from..=6, &when);
        }
    }
}

/// Compares logs, and the checkpoints of every second step.
fn assert_same_run(place: &Place, other: &Place, steps: RangeInclusive<u64>, when: &str) {
    let log = "runs/small/log.jsonl";
    assert_eq!(place.text(log), other.text(log), "{when}");
    for step in steps.step_by(2) {
        let checkpoint = format!("runs/small/checkpoints/step-{step:06}");
        place.assert_same_folder(other, &checkpoint, when);
    }
}

/// The disk fails as the clips of the suite are encoded after step 2. That step is saved, and the
/// next part of the run measures what is missing.
#[test]
fn a_failed_measurement_loses_no_step() {
    let data = "[{manifest: asr.jsonl, task: asr}]";
    let rest = "schedule: {batch: 4, stages: [{name: only, steps: 6}]}\n";
    let trained = place();
    trained.write("recipe.yaml", recipe(data, rest));
    trained.run(&TRAIN).succeeds();
    let of_training: Vec<OsString> = trained
        .encoded()
        .iter()
        .map(|file| file.file_name().unwrap().to_owned())
        .collect();

    let measured = || {
        let rest =
            format!("{rest}evaluate: {{suite: dev.yaml, every: 3}}\nprobe: {{audio_gap: 2}}\n");
        let recipe = recipe(data, &rest).replace("checkpoint: {every: 2", "checkpoint: {every: 1");
        let place = place();
        place.write("recipe.yaml", recipe);
        place
    };
    let whole = measured();
    whole.run(&TRAIN).succeeds();
    let resumed = measured();
    resumed.take_runs(&whole, "small", 1);
    let mut of_suite = resumed.encoded();
    of_suite.retain(|file| !of_training.iter().any(|name| file.ends_with(name)));
    assert!(!of_suite.is_empty());
    for file in &of_suite {
        std::fs::remove_file(file).unwrap();
        std::fs::create_dir(file).unwrap();
    }
    let resume = [&TRAIN[..], &["--resume"][..]].concat();
    let failed = resumed.run(&resume);
    assert_ne!(failed.code, Some(0), "{}", failed.stdout);
    assert_eq!(of_kind(&resumed, "small", "train").len(), 2);
    let state = resumed.json("runs/small/checkpoints/step-000002/state.json");
    assert_eq!(state["is_gap_due"], json!(true), "{}", failed.stderr);

    for file in &of_suite {
        std::fs::remove_dir(file).unwrap();
    }
    resumed.run(&resume).succeeds();
    assert_same_run(&resumed, &whole, 2..=6, "after a failure");
}

#[test]
fn plan_and_report_show_the_gap() {
    let place = place();
    let plan = place
        .run(&["plan", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    // 12, 6 and 6 rows, each twice.
    let said = "for the audio gap: a forward of 48 sequences before the first step";
    let unwrapped = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains(said), "{}", plan.stdout);
    place.run(&TRAIN).succeeds();
    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("Does the model use the audio?"));
}

#[test]
fn bad_values_of_the_gap_are_refused() {
    let place = place();
    for (set, words) in [
        ("probe.audio_gap=-1", ["audio_gap", "-1"]),
        ("probe.audio_gap=often", ["audio_gap", "often"]),
    ] {
        place
            .run(&[&TRAIN[..], &["--set", set][..]].concat())
            .fails(2, &words);
    }
    place.write_rows(
        "text.jsonl",
        &[json!({"id": "t", "text": "a", "summary": "b"})],
    );
    let data = "data=[{manifest: text.jsonl, task: summarization}]";
    for command in ["train", "plan"] {
        place
            .run(&[command, "recipe.yaml", "--allow-leakage", "--set", data])
            .fails(
                2,
                &[
                    "`probe.audio_gap`",
                    "no task has two rows",
                    "leave `audio_gap` out",
                ],
            );
    }
}
