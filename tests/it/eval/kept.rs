//! The cache of answers: nothing is generated twice, and every changed input gives a new answer.

use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::command::Place;
use crate::command::fixture_text;
use crate::command::outcome;
use crate::eval::SUITE;
use crate::eval::counts;
use crate::eval::eval;
use crate::eval::eval_of;
use crate::eval::parts;
use crate::eval::place;

/// Everything below a folder, by its relative path, without hidden files.
fn contents(place: &Place, folder: &str) -> Vec<(PathBuf, String)> {
    let root = place.path(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                found.push((
                    path.strip_prefix(&root).unwrap().to_owned(),
                    std::fs::read_to_string(path).unwrap(),
                ));
            }
        }
    }
    found.sort();
    found
}

/// Compares the results of two runs with other batches: everything except numbers is equal, and
/// numbers are equal up to rounding, because the other prompts of a batch determine the order in
/// which its sums are added up.
fn assert_alike(found: &[(PathBuf, String)], expected: &[(PathBuf, String)]) {
    let names = |files: &[(PathBuf, String)]| {
        files
            .iter()
            .map(|(path, _)| path.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(found), names(expected));
    for ((path, found), (_, expected)) in found.iter().zip(expected) {
        let is_lines = path
            .extension()
            .is_some_and(|extension| extension == "jsonl");
        let values = |text: &str| -> Vec<Value> {
            let parts: Vec<&str> = if is_lines {
                text.lines().collect()
            } else {
                vec![text]
            };
            parts
                .into_iter()
                .map(|part| serde_json::from_str(part).unwrap())
                .collect()
        };
        if is_lines
            || path
                .extension()
                .is_some_and(|extension| extension == "json")
        {
            let found = Value::from(values(found));
            let expected = Value::from(values(expected));
            assert_values_alike(&found, &expected, &path.display().to_string());
        }
    }
}

fn assert_values_alike(found: &Value, expected: &Value, place: &str) {
    match (found, expected) {
        (Value::Number(found), Value::Number(expected)) => {
            let found = found.as_f64().unwrap();
            let expected = expected.as_f64().unwrap();
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{place}: {found}, expected {expected}"
            );
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}");
            found
                .iter()
                .zip(expected)
                .enumerate()
                .for_each(|(i, (found, expected))| {
                    assert_values_alike(found, expected, &format!("{place}[{i}]"))
                });
        }
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "{place}"
            );
            found.iter().for_each(|(key, found)| {
                assert_values_alike(found, &expected[key], &format!("{place}.{key}"))
            });
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

/// Questions of the suite: for the words a loss and an answer, for the moods a loss, the labels and
/// an answer, both also under the two controls; for the summaries an answer; all of it for two
/// systems.
const QUESTIONS: usize = 2 * (3 * (12 * 2 + 6 * 3) + 3);

#[test]
fn a_second_run_uses_only_the_cache() {
    let place = place();
    let first = eval(&place, &[]).succeeds();
    let [total, kept, asked] = counts(&first);
    assert_eq!((total, kept), (QUESTIONS, 0));
    assert!(asked <= total, "a question that comes twice is asked once");
    let before = contents(&place, "runs/eval/suite");
    let second = eval(&place, &[]).succeeds();
    assert_eq!(counts(&second), [total, total, 0]);
    assert!(
        !second.stderr.contains("loading")
            && first.stderr.contains("loading base")
            && first.stderr.contains("loading tuned"),
        "{}",
        second.stderr
    );
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(contents(&place, "runs/eval/suite"), before);
    // What is computed of the answers changes no question.
    place.write(
        "suite.yaml",
        SUITE
            .replace("[rouge1, rougeL, chrf]", "[rouge2, bleu, repetition]")
            .replace(", slices: [label]", ""),
    );
    let rescored = eval(&place, &[]).succeeds();
    assert_eq!(counts(&rescored), [total, total, 0]);
    assert!(
        rescored.stdout.contains("gist.bleu") && !rescored.stdout.contains("gist.chrf"),
        "{}",
        rescored.stdout
    );
}

#[test]
fn only_changed_inputs_generate_new_answers() {
    let place = place();
    let audio = place.path("clip.wav");
    std::fs::copy(fixture_text("audio/a2.wav"), &audio).unwrap();
    let rows = place.text("words.jsonl").replacen(
        &fixture_text("audio/a2.wav"),
        audio.to_str().unwrap(),
        3,
    );
    place.write("words.jsonl", rows);
    place.write(
        "suite.yaml",
        SUITE.replace("controls: [no-audio, shuffled-audio]\n", ""),
    );
    let [total, _, _] = counts(&eval(&place, &[]).succeeds());
    let half = total / 2;
    let asked = |place: &Place| counts(&eval(place, &[]).succeeds())[2];
    assert_eq!((asked(&place), total), (0, 2 * (12 * 2 + 6 * 3 + 3)));

    let settings = |from: &str, to: &str| {
        let text = place.text("suite.yaml");
        let now = place.text("suite.yaml").replace(from, to);
        assert_ne!(text, now);
        place.write("suite.yaml", now);
        let asked = asked(&place);
        place.write("suite.yaml", text);
        asked
    };
    assert_eq!(
        settings("task: asr,", "task: asr, system: Be brief.,"),
        2 * 24,
        "the system message of one set: its losses and answers"
    );
    assert_eq!(
        settings(
            "role: test",
            "role: test\ngeneration: {repetition_penalty: 1.5}"
        ),
        2 * 21,
        "every answer, and no likelihood"
    );
    assert_eq!(
        settings("role: test", "role: test\ngeneration: {temperature: 0.5}"),
        0,
        "nothing is drawn where the likeliest token is taken"
    );
    assert_eq!(
        settings("role: test", "role: test\ngeneration: {strategy: sample}"),
        2 * 21
    );
    assert_eq!(settings("task: asr,", "task: asr, wording: dev,"), 2 * 24);

    let task = place.text("prompts/asr.yaml");
    place.write(
        "prompts/asr.yaml",
        task.replace("max_new_tokens: 6", "max_new_tokens: 5"),
    );
    assert_eq!(asked(&place), 2 * 12, "the limit of one task: its answers");
    place.write("prompts/asr.yaml", task);

    let clip = std::fs::read(&audio).unwrap();
    let mut louder = clip.clone();
    louder[5000] ^= 1;
    std::fs::write(&audio, &louder).unwrap();
    assert_eq!(
        asked(&place),
        2 * 2 * 3,
        "one sample of a clip that three rows are cut from"
    );
    std::fs::write(&audio, &clip).unwrap();
    assert_eq!(asked(&place), 0, "the clip as it was");

    let adapter = place.path("adapter/adapter_model.safetensors");
    let mut weights = std::fs::read(&adapter).unwrap();
    let last = weights.len() - 4;
    weights[last] ^= 1;
    std::fs::write(&adapter, &weights).unwrap();
    assert_eq!(
        asked(&place),
        half,
        "one bit of the adapter: all of it, and nothing of the base"
    );

    place.copy("qwen_omni", "model");
    let model = place.path("model").to_str().unwrap().to_owned();
    assert_eq!(
        counts(&eval_of(&place, &model, &[]).succeeds())[2],
        0,
        "a copy of the checkpoint is the same model"
    );
    let mut weights = std::fs::read(place.path("model/model-00002-of-00002.safetensors")).unwrap();
    let last = weights.len() - 4;
    weights[last] ^= 1;
    std::fs::write(
        place.path("model/model-00002-of-00002.safetensors"),
        weights,
    )
    .unwrap();
    assert_eq!(
        counts(&eval_of(&place, &model, &[]).succeeds())[2],
        total,
        "one bit of the checkpoint: everything"
    );
}

#[test]
fn an_interrupted_run_continues_and_ends_equal() {
    let whole = place();
    let [total, _, asked] = counts(&eval(&whole, &[]).succeeds());
    let expected = contents(&whole, "runs/eval/suite");
    for share in [1, 2, 3] {
        let cut = place();
        for part in parts(&whole) {
            // What a kill leaves: some whole lines, and the beginning of one.
            let text = std::fs::read_to_string(&part).unwrap();
            let lines = text.lines().count() * share / 4;
            let kept = text
                .split_inclusive('\n')
                .take(lines)
                .map(str::len)
                .sum::<usize>()
                + 20;
            let name = part.strip_prefix(whole.path("")).unwrap().to_str().unwrap();
            cut.write(name, &text[..kept]);
        }
        let went_on = eval(&cut, &[]).succeeds();
        let [again, kept, rest] = counts(&went_on);
        assert_eq!(again, total);
        assert!(
            kept > 0 && rest > 0 && rest < asked,
            "{kept} kept, {rest} to ask of {asked}"
        );
        assert_alike(&contents(&cut, "runs/eval/suite"), &expected);
    }
}

#[test]
fn a_killed_run_has_its_answers_in_the_cache() {
    let whole = place();
    let cut = place();
    eval(&whole, &[]).succeeds();
    let model = fixture_text("qwen_omni");
    let arguments = [
        "eval",
        "suite.yaml",
        "--model",
        &model,
        "--adapter",
        "tuned=adapter",
        "--prompts",
        "prompts",
        "--resamples",
        "200",
    ];
    let mut child = cut.command(&arguments).spawn().unwrap();
    let started = Instant::now();
    while parts(&cut)
        .iter()
        .all(|part| std::fs::metadata(part).map_or(0, |file| file.len()) == 0)
        && started.elapsed() < Duration::from_secs(60)
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let killed = outcome(child.wait_with_output().unwrap());
    let went_on = eval(&cut, &[]).succeeds();
    assert!(
        counts(&went_on)[1] > 0,
        "{}\n{}",
        killed.stderr,
        went_on.stderr
    );
    assert_alike(
        &contents(&cut, "runs/eval/suite"),
        &contents(&whole, "runs/eval/suite"),
    );
}
