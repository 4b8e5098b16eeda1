//! The recipes of `curricula/real-base` on a tiny base that `maqam compose` makes: step 0 learns 16
//! clips by heart, and does not if the audio says nothing; it trains what it says; every recipe can
//! be planned.

use crate::command;

use std::f64::consts::TAU;
use std::path::Path;

use candle_core::DType;
use candle_core::Tensor;
use command::Place;
use command::fixture_text;
use serde_json::Value;
use serde_json::json;

/// Sixteen words of one or two tokens each.
const WORDS: [&str; 16] = [
    "alif", "ba", "ta", "jim", "dal", "ra", "zay", "sin", "sad", "ayn", "fa", "qaf", "kaf", "lam",
    "mim", "nun",
];

/// A clip of a tone, 16-bit PCM at 16 kHz.
fn tone(hz: f64, seconds: f64) -> Vec<u8> {
    let samples: Vec<u8> = (0..(16_000.0 * seconds) as usize)
        .map(|i| (8000.0 * (TAU * hz * i as f64 / 16_000.0).sin()) as i16)
        .flat_map(i16::to_le_bytes)
        .collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + samples.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav
}

/// Copies a folder of the repository with all that is in it.
fn copy(place: &Place, folder: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            copy(place, &name);
        } else {
            place.write(&name, std::fs::read(entry.path()).unwrap());
        }
    }
}

/// Composes the fixtures to a base of this name.
fn compose(place: &Place, name: &str) {
    let encoder = fixture_text("compose/whisper");
    let decoder = fixture_text("compose/qwen2");
    let out = format!("data/models/{name}");
    let arguments = [
        "compose",
        "--encoder",
        &encoder,
        "--decoder",
        &decoder,
        "--out",
        &out,
    ];
    place.run(&arguments).succeeds();
}

/// The recipes, their suites, a tiny base, and rows of clips whose tone is given by `hz`.
fn place(hz: impl Fn(usize) -> f64) -> Place {
    let place = Place::new();
    copy(&place, "curricula/real-base");
    copy(&place, "eval/real-base");
    compose(&place, "real-base");
    let mut rows = Vec::new();
    for (i, word) in WORDS.into_iter().enumerate() {
        let name = format!("clips/{i}.wav");
        place.write(&format!("data/real-base/{name}"), tone(hz(i), 0.5));
        rows.push(json!({"id": format!("w{i}"), "audio": name, "text": word, "task": "asr"}));
    }
    place.write_rows("data/real-base/overfit.jsonl", &rows);
    place
}

/// Word error rate of the last evaluation under a control or none, and the last audio gap.
fn outcome(place: &Place, control: Option<&str>) -> (f64, f64) {
    let log = place.lines("runs/real-base-0-overfit/log.jsonl");
    let of_control = |line: &&Value| line.get("control").and_then(Value::as_str) == control;
    let last = |kind: &str, is_wanted: &dyn Fn(&&Value) -> bool| {
        let mut lines = log.iter().rev().filter(|line| line["kind"] == kind);
        lines.find(is_wanted).unwrap().clone()
    };
    let wer = last("eval", &of_control)["scores"]["overfit.wer"].as_f64();
    let gap = last("audio_gap", &|_| true)["tasks"]["asr"]["gap"].as_f64();
    (wer.unwrap(), gap.unwrap())
}

/// Step 0 with a decoder that learns, too: that of the fixture has random weights, and no projector
/// makes it answer. `audio_tokens` has no place beside it, because `decoder: full` trains all
/// embeddings.
fn overfit(place: &Place) {
    train_step_0(
        place,
        &[
            "train={audio_encoder: frozen, projector: full, decoder: full}",
            "optimiser.learning_rate=5e-3",
            "optimiser.schedule=cosine",
        ],
    );
}

fn train_step_0(place: &Place, sets: &[&str]) {
    let mut arguments = vec![
        "train",
        "curricula/real-base/0-overfit.yaml",
        "--allow-leakage",
    ];
    sets.iter()
        .for_each(|set| arguments.extend(["--set", *set]));
    place.run(&arguments).succeeds();
}

#[test]
fn missing_rows_name_the_script_that_writes_them() {
    let place = Place::new();
    copy(&place, "curricula/real-base");
    copy(&place, "eval/real-base");
    compose(&place, "real-base");
    let base = "model.path=data/models/real-base";
    let plan = |recipe: &str| place.run(&["plan", recipe, "--allow-leakage", "--set", base]);
    for recipe in ["0-overfit.yaml", "schedules/uniform.yaml"] {
        plan(&format!("curricula/real-base/{recipe}")).fails(
            2,
            &[
                "data/real-base/",
                "`python curricula/real-base/rows.py --help`",
            ],
        );
    }
    // Elsewhere there is no such script.
    let text = place.text("curricula/real-base/0-overfit.yaml");
    place.write("mine.yaml", text);
    let told = plan("mine.yaml").fails(2, &["data/real-base/overfit.jsonl"]);
    assert!(!told.stderr.contains("rows.py"), "{}", told.stderr);
}

#[test]
fn step_0_learns_sixteen_clips() {
    let place = place(|i| 200.0 * 1.2f64.powi(i as i32));
    overfit(&place);
    let (wer, gap) = outcome(&place, None);
    assert!(wer < 0.05 && gap > 1.0, "word errors {wer}, gap {gap}");
    let (shuffled, _) = outcome(&place, Some("shuffled-audio"));
    assert!(shuffled > 0.9, "with other clips: {shuffled}");
    // The decoder may learn to tell the outputs of a random projector apart: it must learn as well.
    let base = tensor(&place, "data/models/real-base/model.safetensors", PROJECTOR);
    let turned = turned(&base, &trained(&place, 300, "trained", PROJECTOR));
    assert!(turned > 1e-3, "the projector turned by {turned}");
}

/// The recipe as it is shipped, in fewer steps. Its decoder is frozen, so what the loss falls by is
/// learnt by the projector and the embeddings of the tokens around a clip.
#[test]
fn step_0_as_it_is_shipped_trains_projector_and_token_embeddings() {
    let place = place(|i| 200.0 * 1.2f64.powi(i as i32));
    let sets = [
        "schedule.stages.0.steps=60",
        "checkpoint.every=10",
        "checkpoint.keep=9",
    ];
    train_step_0(&place, &sets);
    let mut losses = place.lines("runs/real-base-0-overfit/log.jsonl");
    losses.retain(|line| line["kind"] == "train");
    let losses: Vec<f64> = losses
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 60);
    // Every step has the same 16 rows.
    let last = losses[55..].iter().sum::<f64>() / 5.0;
    assert!(last < losses[0], "loss {} at first, then {last}", losses[0]);

    let projector = [10, 60].map(|step| trained(&place, step, "trained", PROJECTOR));
    let turn = turned(&projector[0], &projector[1]);
    assert!(turn > 1e-3, "the projector turned by {turn}");
    let rows = [10, 60].map(|step| trained(&place, step, "adapter_model", TOKEN_ROWS));
    assert_eq!(rows[0].dims()[0], 2);
    for row in 0..2 {
        let row = rows.each_ref().map(|rows| rows.get(row).unwrap());
        let turn = turned(&row[0], &row[1]);
        assert!(turn > 1e-3, "a token's embedding turned by {turn}");
    }
}

/// End of the name of the projector's weights.
const PROJECTOR: &str = "multi_modal_projector.linear.weight";

/// End of the name of the embeddings of the tokens around a clip.
const TOKEN_ROWS: &str = "trainable_tokens_delta";

/// The tensor of a file whose name ends so.
fn tensor(place: &Place, file: &str, end: &str) -> Tensor {
    let mut tensors = place.tensors(file).into_iter();
    let found = tensors.find(|(name, _)| name.ends_with(end));
    found.unwrap_or_else(|| panic!("{file} has no {end}")).1
}

/// A tensor of a checkpoint of step 0.
fn trained(place: &Place, step: u64, file: &str, end: &str) -> Tensor {
    let folder = format!("runs/real-base-0-overfit/checkpoints/step-{step:06}");
    tensor(place, &format!("{folder}/{file}.safetensors"), end)
}

/// Share of a tensor's length that does not lie along an earlier one. Weight decay scales numbers
/// and gives none.
fn turned(before: &Tensor, after: &Tensor) -> f64 {
    let before = numbers(before);
    let after = numbers(after);
    let along = dot(&before, &after) / dot(&before, &before);
    let pairs = after.iter().zip(&before);
    let rest: Vec<f64> = pairs
        .map(|(after, before)| after - along * before)
        .collect();
    (dot(&rest, &rest) / dot(&after, &after)).sqrt()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let wide = tensor.to_dtype(DType::F64).unwrap();
    wide.flatten_all().unwrap().to_vec1().unwrap()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// All clips are one and the same, as if the audio did not reach the decoder.
#[test]
fn step_0_fails_where_the_audio_says_nothing() {
    let place = place(|_| 440.0);
    overfit(&place);
    let (wer, gap) = outcome(&place, None);
    assert!(wer > 0.5, "word errors {wer}");
    // The same clips in other places of a batch differ in the last digits of f32.
    assert!(gap.abs() < 1e-4, "gap {gap}");
}

#[test]
fn every_recipe_of_the_guide_can_be_planned() {
    let place = place(|i| 200.0 + 50.0 * i as f64);
    let rows = place.lines("data/real-base/overfit.jsonl");
    let of = |name: &str, task: &str, field: &str, value: &dyn Fn(usize) -> String| {
        for split in ["train", "dev"] {
            let row = |(i, row): (usize, &Value)| {
                let id = format!("{name}-{split}-{i}");
                json!({"id": id, "audio": row["audio"], "task": task, field: value(i)})
            };
            let rows: Vec<Value> = rows.iter().enumerate().map(row).collect();
            place.write_rows(&format!("data/real-base/{name}-{split}.jsonl"), &rows);
        }
    };
    of("words", "asr", "text", &|i| WORDS[i].to_owned());
    of("verses", "asr", "text", &|i| {
        format!("{} {}", WORDS[i], WORDS[15 - i])
    });
    let labels = ["low", "neutral", "high"];
    of("intensity", "intensity", "label", &|i| {
        labels[i % 3].to_owned()
    });
    for split in ["train", "dev"] {
        let row = |i: usize| json!({"id": format!("n-{split}-{i}"), "task": "summarization", "text": WORDS[i], "summary": "ba"});
        let rows: Vec<Value> = (0..16).map(row).collect();
        place.write_rows(&format!("data/real-base/news-{split}.jsonl"), &rows);
    }
    let clip = |i: usize| place.path(&format!("data/real-base/clips/{i}.wav"));
    let rows: Vec<Value> = (0..16)
        .map(|i| json!({"id": format!("s{i}"), "audio": clip(i), "task": "asr", "text": WORDS[i]}))
        .collect();
    place.write_rows("data/base/sentences.jsonl", &rows);

    let mut planned = 0;
    for folder in ["curricula/real-base", "curricula/real-base/schedules"] {
        for entry in std::fs::read_dir(place.path(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.ends_with(".yaml") || name == "experiment.yaml" {
                continue;
            }
            let recipe = format!("{folder}/{name}");
            // Later steps start from exports of earlier ones. The tiny encoder has two layers.
            let mut arguments = vec!["plan", &recipe, "--allow-leakage"];
            arguments.extend(["--set", "model.path=data/models/real-base"]);
            let targets = "lora.targets=.*(language_model.*_proj|audio_tower\\.layers\\.[01]\\..*(_proj|fc1|fc2))";
            if name == "a-align-lora.yaml" {
                arguments.extend(["--set", targets]);
            }
            let plan = place.run(&arguments).succeeds();
            assert!(
                plan.stdout.contains("for the audio gap"),
                "{name}: {}",
                plan.stdout
            );
            planned += 1;
        }
    }
    assert_eq!(planned, 11);

    // The experiment agrees with its recipes on data and budget, and has no runs to compare.
    compose(&place, "real-base-adapted");
    let found = place.run(&[
        "experiment",
        "curricula/real-base/schedules/experiment.yaml",
        "--compare-only",
        "--allow-leakage",
    ]);
    let is_compared = found
        .stderr
        .contains("0 seeds are finished with every recipe");
    assert!(found.code == Some(2) && is_compared, "{}", found.stderr);
    assert!(found.stdout.contains("6 recipes, 3 seeds, 18 runs"));
}
