//! Data sets from models on this machine: small random checkpoints that summarise, judge and
//! transcribe.

#![cfg(unix)]

use crate::build::assert_reconciled;
use crate::build::assert_same;
use crate::build::contents;
use crate::build::documents;
use crate::build::has_python;
use crate::build::place;
use crate::build::recipe;
use crate::command::Place;
use crate::command::fixture_text;

/// Sampling by which a random model ends its answers: it draws from nearly equal logits, so that an
/// end token comes soon.
const SAMPLING: &str = "parameters: {temperature: 10, max_tokens: 2000}";

/// Bytes of all cached answers.
fn cached_bytes(place: &Place) -> u64 {
    let entries = std::fs::read_dir(place.path("datasets/.cache")).unwrap();
    let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.sum()
}

#[test]
fn local_models_summarise_and_judge() {
    if !has_python() {
        return;
    }
    let place = place(&documents(6));
    place.copy("local_engines/qwen2", "model");
    let more = format!(
        "summarise: {{engine: local, model: model, num: 2, {SAMPLING}}}\nverify: {{reject: false, judge: {{model: {}, parameters: {{max_tokens: 20}}}}}}\n",
        fixture_text("local_engines/qwen3.gguf"),
    );
    place.write("recipe.yaml", recipe(&more));
    let build = ["build", "recipe.yaml", "--device", "cpu"];
    let done = place.run(&build).succeeds();
    assert_eq!(done.stdout, "6 collected = 6 published + 0 rejected\n");
    let (manifest, _) = assert_reconciled(&place, 6);
    for row in &manifest {
        let summary = row["summary"].as_str().unwrap();
        assert!(!summary.is_empty());
        assert_ne!(row["references"][0], summary, "two draws");
    }
    for row in place.lines("datasets/news/rows.jsonl") {
        // Random words are no grade.
        let warnings = row["warnings"].to_string();
        assert!(warnings.contains("not_judged"), "{warnings}");
        assert_eq!(row["summaries"], "model");
    }
    let card = place.text("datasets/news/README.md");
    assert!(card.contains("Engine: `local`. Model: `model`"), "{card}");

    // Answers are cached by content.
    let first = contents(&place.path("datasets/news"));
    let bytes = cached_bytes(&place);
    for folder in ["datasets/news", "datasets/.work"] {
        std::fs::remove_dir_all(place.path(folder)).unwrap();
    }
    place.run(&build).succeeds();
    assert_same(
        &contents(&place.path("datasets/news")),
        &first,
        "from the cache",
    );
    assert_eq!(cached_bytes(&place), bytes);

    // Another model in the same folder gives other answers, although the recipe is the same.
    let config = place.text("model/config.json");
    let changed = config.replace("1000000.0", "10000.0");
    assert_ne!(config, changed);
    place.write("model/config.json", changed);
    place.run(&build).succeeds();
    assert!(cached_bytes(&place) > bytes);
    let (changed, _) = assert_reconciled(&place, 6);
    assert_ne!(manifest, changed);
}

#[test]
fn a_local_model_translates() {
    if !has_python() {
        return;
    }
    let place = place(&documents(4));
    let more = format!(
        "summarise: {{translate: {{to: ar, model: {}, {SAMPLING}}}}}\nverify: {{reject: false}}\nlisten: {{min_active: 0}}\n",
        fixture_text("local_engines/qwen3"),
    );
    let english = recipe(&more).replace("language: ar", "language: en, min_script: 0");
    place.write("recipe.yaml", english);
    let run = place.run(&[
        "build",
        "recipe.yaml",
        "--until",
        "verify",
        "--device",
        "cpu",
    ]);
    assert!(
        run.succeeds()
            .stdout
            .contains("4 collected, 0 rejected, 4 go on after verify")
    );
    // The texts of the next steps are the translations.
    let work = std::fs::read_dir(place.path("datasets/.work/news")).unwrap();
    let journal = work
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("summarise-")
        })
        .unwrap();
    let lines = std::fs::read_to_string(journal.join("0-of-1.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 4);
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let row = line["row"].as_u64().unwrap() as usize;
        let document = &documents(4)[row];
        for (name, found) in [
            ("text", &line["done"]["text"]),
            ("summary", &line["done"]["summaries"][0]),
        ] {
            assert!(!found.as_str().unwrap().is_empty());
            assert_ne!(*found, document[name], "{name}");
        }
    }
}

#[test]
fn a_whisper_listens() {
    if !has_python() {
        return;
    }
    let place = place(&documents(8));
    // Transcripts of random weights are wrong, so every error rate passes here.
    let listen = format!(
        "listen: {{transcribe: whisper, model: {}, floor_cer: 0.1, over_floor: 10}}\n",
        fixture_text("local_engines/whisper")
    );
    place.write("recipe.yaml", recipe(&listen));
    let build = ["build", "recipe.yaml", "--device", "cpu"];
    place.run(&build).succeeds();
    let (manifest, rejected) = assert_reconciled(&place, 8);
    assert!(
        rejected
            .iter()
            .all(|row| row["reason"] == "transcript_loop"),
        "{rejected:?}"
    );
    assert!(!manifest.is_empty());
    for row in place.lines("datasets/news/rows.jsonl") {
        if row["state"] == "published" {
            assert!(row["listened"]["cer"].as_f64().unwrap() > 0.1, "{row}");
            assert!(!row["listened"]["transcript"].as_str().unwrap().is_empty());
        }
    }
    let bytes = cached_bytes(&place);
    std::fs::remove_dir_all(place.path("datasets/.work")).unwrap();
    place.run(&build).succeeds();
    assert_eq!(cached_bytes(&place), bytes);

    // The Whisper compares texts by their likelihood too: by chance, about half of two are the
    // likeliest.
    let matched = [&build[..], &["--set", "listen.match=2"]].concat();
    place.run(&matched).succeeds();
    let (_, rejected) = assert_reconciled(&place, 8);
    assert!(
        rejected.iter().any(|row| row["reason"] == "not_its_text"),
        "{rejected:?}"
    );

    // Under a real bound nothing passes.
    let strict = [&build[..], &["--set", "listen.over_floor=0.1"]].concat();
    place
        .run(&strict)
        .fails(2, &["every document was rejected"]);
}

#[test]
fn models_that_do_not_fit_have_hints() {
    let place = place(&documents(2));
    let whisper = fixture_text("local_engines/whisper");
    let qwen = fixture_text("local_engines/qwen2");
    for (more, words) in [
        (
            "summarise: {engine: local}\n".to_owned(),
            &["summarise: `engine: local` needs a model", "hint: add"][..],
        ),
        (
            format!("summarise: {{engine: local, model: {whisper}}}\n"),
            &[
                "config.json: a model of the architecture `whisper`",
                "hint:",
            ],
        ),
        (
            format!("summarise: {{engine: local, model: {qwen}, parameters: {{temperatur: 1}}}}\n"),
            &["parameters: unknown field `temperatur`", "hint:"],
        ),
        (
            "summarise: {engine: local, model: gone.gguf}\n".to_owned(),
            &["summarise.model", "gone.gguf"],
        ),
        (
            format!("listen: {{transcribe: whisper, model: {qwen}, floor_cer: 0.1}}\n"),
            &["listen.model", "the checkpoint is no Whisper", "hint:"],
        ),
        (
            "listen: {transcribe: whisper, floor_cer: 0.1}\n".to_owned(),
            &["listen: `transcribe: whisper` needs a model", "hint:"],
        ),
        (
            "verify: {judge: {min_grade: 3}}\n".to_owned(),
            &["verify: judge: a judge needs a language model", "hint:"],
        ),
        (
            format!(
                "verify: {{judge: {{model: {qwen}, endpoint: {{url: \"http://a/v1\", model: m}}}}}}\n"
            ),
            &["both `endpoint` and `model` are set", "hint:"],
        ),
    ] {
        place.write("recipe.yaml", recipe(&more));
        place
            .run(&["build", "recipe.yaml", "--device", "cpu"])
            .fails(2, words);
    }
}
