//! `maqam eval` end to end on small checkpoints: what it scores, what it remembers, what it
//! refuses.

use crate::command;
mod errors;
mod kept;
mod scored;

use std::path::PathBuf;

use command::Outcome;
use command::Place;
use command::asr_rows;
use command::emotion_rows;
use command::fixture_text;
use serde_json::Value;
use serde_json::json;

/// Three tasks with short answers, so that an untrained model stops.
const TASKS: [(&str, &str); 3] = [
    (
        "asr",
        "kind: transcribe\nanswer: {format: text, max_new_tokens: 6}\n",
    ),
    (
        "emotion",
        "kind: classify\nlabels: {happy: {en: happy, ar: سعيد}, sad: {en: sad, ar: حزين}, angry: {en: angry, ar: غاضب}}\nanswer: {format: label, max_new_tokens: 4}\n",
    ),
    (
        "summarization",
        "kind: generate\nanswer: {format: text, max_new_tokens: 6}\n",
    ),
];

/// A suite: words by speakers, moods with likelihood, summaries of texts with two references.
pub const SUITE: &str = "\
role: test
sets:
  - {name: words, manifest: words.jsonl, task: asr, metrics: [loss, wer, cer, hit_limit, length_ratio], normaliser: [none, arabic-leaderboard], slices: [speaker, gender]}
  - {name: moods, manifest: moods.jsonl, task: emotion, likelihood: true, parse: [lenient, strict], slices: [label]}
  - {name: gist, manifest: gist.jsonl, task: summarization, metrics: [rouge1, rougeL, chrf]}
controls: [no-audio, shuffled-audio]
baselines: [majority, lead, transcript]
";

/// A place with the suite, its rows, its tasks, and an adapter of its own.
pub fn place() -> Place {
    let place = Place::new();
    for (name, head) in TASKS {
        let slot = if name == "emotion" { ": {labels}" } else { "" };
        let set = |wording: &str| {
            format!("{wording}: {{en: [\"{wording} one{slot}\", \"{wording} two{slot}\"]}}")
        };
        let instructions = ["train", "dev", "test"].map(set).join(", ");
        place.write(
            &format!("prompts/{name}.yaml"),
            format!("# A task.\n{head}instructions: {{{instructions}}}\n"),
        );
    }
    let mut words = asr_rows();
    for (i, row) in words.iter_mut().enumerate() {
        row["speaker"] = format!("s{}", i % 4).into();
        row["gender"] = (if i % 4 < 2 { "f" } else { "m" }).into();
    }
    place.write_rows("words.jsonl", &words);
    let mut moods = emotion_rows();
    moods.iter_mut().enumerate().for_each(|(i, row)| {
        row["label"] = ["happy", "sad", "sad", "angry", "sad", "happy"][i].into()
    });
    place.write_rows("moods.jsonl", &moods);
    place.write_rows("gist.jsonl", &gist_rows());
    place.write("suite.yaml", SUITE);
    place.copy("qwen_omni/adapter_final", "adapter");
    place
}

fn gist_rows() -> Vec<Value> {
    vec![
        json!({"id": "g1", "text": "one two three. four five", "summary": "one two", "references": ["one two", "two three four"]}),
        json!({"id": "g2", "text": "وصل الوفد؟ ثم غادر.", "references": ["وصل الوفد", "غادر الوفد"]}),
        json!({"id": "g3", "text": "no marks at all", "summary": "marks at all"}),
    ]
}

/// Runs the suite on the small checkpoint with its adapter.
pub fn eval(place: &Place, more: &[&str]) -> Outcome {
    eval_of(place, &fixture_text("qwen_omni"), more)
}

/// The same on another checkpoint.
pub fn eval_of(place: &Place, model: &str, more: &[&str]) -> Outcome {
    let arguments = [
        "eval",
        "suite.yaml",
        "--model",
        model,
        "--adapter",
        "tuned=adapter",
        "--prompts",
        "prompts",
        "--resamples",
        "200",
    ];
    place.run(&[&arguments[..], more].concat())
}

/// The numbers of prompts, of cached answers and of generated answers, in a printed sentence.
pub fn counts(outcome: &Outcome) -> [usize; 3] {
    let line = outcome
        .stderr
        .lines()
        .find(|line| line.contains(" questions: "))
        .unwrap_or_else(|| panic!("{}", outcome.stderr));
    let numbers: Vec<usize> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect();
    numbers.try_into().unwrap()
}

/// Files of the cache of answers.
pub fn parts(place: &Place) -> Vec<PathBuf> {
    let root = place.path("runs/.answers");
    let folders = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    folders
        .flat_map(|folder| {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        })
        .collect()
}
