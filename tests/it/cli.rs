//! The commands against what Hugging Face computes: features, audio tokens, scores, answers, merged
//! trees, adapters in both key forms.

use crate::command;

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use command::Place;
use command::assert_close;
use command::distance;
use command::fixture;
use command::fixture_text;
use command::numbers;
use command::row;
use serde_json::Value;
use serde_json::json;

const GOLDENS: [&str; 3] = ["qwen_omni", "qwen_omni_tied", "qwen_omni_wide"];

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn expected(golden: &str) -> Value {
    read_json(&fixture(golden).join("expected.json"))
}

fn expected_tensors(golden: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(
        fixture(golden).join("expected.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap()
}

/// A place with `rows.jsonl`: the examples of a golden, ids `0`, `1` ...
fn place_of(golden: &str) -> Place {
    let place = Place::new();
    let examples = expected(golden);
    let text = |example: &Value, name: &str| example[name].as_str().unwrap().to_owned();
    let rows: Vec<Value> = examples["examples"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(i, e)| {
            row(
                &i.to_string(),
                &text(e, "audio"),
                &text(e, "instruction"),
                &text(e, "target"),
            )
        })
        .collect();
    place.write_rows("rows.jsonl", &rows);
    place
}

fn score(place: &Place, model: &str, adapter: Option<&str>, out: &str) -> Vec<Value> {
    let mut arguments = vec![
        "score",
        "--model",
        model,
        "--data",
        "rows.jsonl",
        "--out",
        out,
    ];
    arguments.extend(adapter.iter().flat_map(|adapter| ["--adapter", adapter]));
    let ran = place.run(&arguments).succeeds();
    assert_eq!(ran.stdout, "");
    place.lines(out)
}

fn losses(lines: &[Value]) -> Vec<f64> {
    lines
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

fn assert_losses(found: &[Value], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in losses(found).into_iter().zip(expected) {
        assert_close(found, *expected, relative, what);
    }
}

fn assert_log_probabilities(line: &Value, expected: &[f64], what: &str) {
    let found = numbers(&line["logprobs"]);
    assert_eq!(
        (found.len(), line["num_target_tokens"].as_u64()),
        (expected.len(), Some(expected.len() as u64)),
        "{what}"
    );
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-3,
            "{what}: {found}, expected {expected}"
        );
    }
}

/// The tokens that have a clear margin over the second best are the reference's.
fn assert_greedy(found: &Value, expected: &Value, margins: &Value, what: &str) {
    let margins = numbers(margins);
    let clear = margins
        .iter()
        .position(|&margin| margin < 1e-3)
        .unwrap_or(margins.len());
    assert!(clear > 0);
    assert_eq!(
        numbers(found)[..clear],
        numbers(expected)[..clear],
        "{what}"
    );
}

#[test]
fn features_equal_the_official_processors() {
    let place = place_of("qwen_omni");
    place
        .run(&[
            "features",
            "--data",
            "rows.jsonl",
            "--out",
            "deep/er/features.safetensors",
        ])
        .succeeds();
    let found = place.tensors("deep/er/features.safetensors");
    let expected = expected_tensors("qwen_omni");
    assert_eq!(found.len(), 3);
    for (id, found) in &found {
        assert!(
            distance(found, &expected[&format!("mel.{id}")]) < 1e-4,
            "clip {id}"
        );
    }
}

#[test]
fn a_row_of_several_clips_gives_features_of_each() {
    let place = Place::new();
    let audios: Vec<String> = ["a3.wav", "odd.wav"]
        .iter()
        .map(|clip| fixture_text(&format!("audio/{clip}")))
        .collect();
    place.write_rows("rows.jsonl", &[json!({"id": "both", "audios": audios})]);
    place
        .run(&[
            "features",
            "--data",
            "rows.jsonl",
            "--out",
            "features.safetensors",
        ])
        .succeeds();
    let found = place.tensors("features.safetensors");
    let expected = expected_tensors("qwen_omni_tied");
    assert_eq!(found.len(), 2);
    for i in 0..2 {
        assert!(distance(&found[&format!("both.{i}")], &expected[&format!("mel.{i}")]) < 1e-4);
    }
}

#[test]
fn embeddings_equal_the_reference_and_its_mean() {
    for golden in GOLDENS {
        let place = place_of(golden);
        let model = fixture_text(golden);
        for pool in ["none", "mean"] {
            place
                .run(&[
                    "embed",
                    "--model",
                    &model,
                    "--data",
                    "rows.jsonl",
                    "--out",
                    &format!("{pool}.safetensors"),
                    "--pool",
                    pool,
                ])
                .succeeds();
        }
        let tokens = place.tensors("none.safetensors");
        let means = place.tensors("mean.safetensors");
        let expected = expected_tensors(golden);
        assert_eq!(
            (tokens.len(), means.len()),
            (
                expected
                    .keys()
                    .filter(|name| name.starts_with("audio."))
                    .count(),
                tokens.len()
            )
        );
        for (id, found) in &tokens {
            let expected = &expected[&format!("audio.{id}")];
            assert!(distance(found, expected) < 1e-3, "{golden} clip {id}");
            let mean = expected.mean(0).unwrap();
            let length = mean
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt();
            assert!(
                distance(&means[id], &(mean / f64::from(length)).unwrap()) < 1e-3,
                "{golden} clip {id}"
            );
            let found_length = means[id]
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt();
            assert!(
                (found_length - 1.0).abs() < 1e-5,
                "{golden} clip {id}: length {found_length}"
            );
        }
    }
}

#[test]
fn scores_equal_the_reference_with_each_adapter() {
    for golden in GOLDENS {
        let place = place_of(golden);
        let expected = expected(golden);
        let model = fixture_text(golden);
        let examples = expected["examples"].as_array().unwrap();
        let plain = score(&place, &model, None, "plain.jsonl");
        for (i, (line, example)) in plain.iter().zip(examples).enumerate() {
            assert_eq!(line["id"], i.to_string());
            assert_close(
                line["loss"].as_f64().unwrap(),
                example["loss"].as_f64().unwrap(),
                1e-4,
                golden,
            );
            assert_log_probabilities(line, &numbers(&example["target_logprobs"]), golden);
        }
        for when in ["init", "final"] {
            let adapter = fixture_text(&format!("{golden}/adapter_{when}"));
            let expected = numbers(&expected["lora"][format!("loss_with_adapter_{when}")]);
            assert_losses(
                &score(&place, &model, Some(&adapter), "adapted.jsonl"),
                &expected,
                1e-4,
                &format!("{golden} adapter_{when}"),
            );
            // Both forms of keys give the same scores, and written adapters are read again.
            for form in ["peft", "peft-thinker"] {
                let ran = place
                    .run(&[
                        "export",
                        "--model",
                        &model,
                        "--adapter",
                        &adapter,
                        "--out",
                        &format!("{when}-{form}"),
                        "--form",
                        form,
                    ])
                    .succeeds();
                assert!(ran.stdout.contains("adapted modules"), "{}", ran.stdout);
                let again = score(
                    &place,
                    &model,
                    Some(&format!("{when}-{form}")),
                    "again.jsonl",
                );
                assert_losses(
                    &again,
                    &expected,
                    1e-4,
                    &format!("{golden} adapter_{when} as {form}"),
                );
                assert_eq!(
                    place.text("again.jsonl"),
                    place.text("adapted.jsonl"),
                    "{golden} adapter_{when} as {form}: to the last bit"
                );
                let names: Vec<String> = place
                    .tensors(&format!("{when}-{form}/adapter_model.safetensors"))
                    .into_keys()
                    .collect();
                assert!(
                    names
                        .iter()
                        .all(|name| name.starts_with("base_model.model.thinker.")
                            == (form == "peft")),
                    "{names:?}"
                );
            }
        }
    }
}

#[test]
fn answers_equal_the_references_greedy_tokens() {
    for golden in GOLDENS {
        let place = place_of(golden);
        let expected = expected(golden);
        let model = fixture_text(golden);
        let examples = expected["examples"].as_array().unwrap();
        let limit = examples
            .iter()
            .map(|example| example["greedy"].as_array().unwrap().len())
            .max()
            .unwrap()
            .to_string();
        place
            .run(&[
                "generate",
                "--model",
                &model,
                "--data",
                "rows.jsonl",
                "--out",
                "answers.jsonl",
                "--max-new-tokens",
                &limit,
            ])
            .succeeds();
        for (i, (line, example)) in place
            .lines("answers.jsonl")
            .iter()
            .zip(examples)
            .enumerate()
        {
            assert_eq!(line["id"], i.to_string());
            assert!(line["prediction"].is_string());
            assert_greedy(
                &line["tokens"],
                &example["greedy"],
                &example["greedy_margin"],
                golden,
            );
        }
    }
}

#[test]
fn conversations_of_every_shape_equal_the_references() {
    let conversations = read_json(&fixture("conversations.json"));
    let conversations = conversations.as_array().unwrap();
    assert_eq!(conversations.len(), 6);
    let place = Place::new();
    let rows: Vec<Value> = conversations
        .iter()
        .map(|c| json!({"id": c["id"], "messages": c["messages"], "audios": c["audios"]}))
        .collect();
    place.write_rows("rows.jsonl", &rows);
    let model = fixture_text("qwen_omni");
    let root = fixture_text("audio");
    let from = [
        "--model",
        &model,
        "--data",
        "rows.jsonl",
        "--audio-root",
        &root,
    ];
    place
        .run(&[&["score"], &from[..], &["--out", "scores.jsonl"]].concat())
        .succeeds();
    place
        .run(
            &[
                &["generate"],
                &from[..],
                &["--out", "answers.jsonl", "--max-new-tokens", "12"],
            ]
            .concat(),
        )
        .succeeds();
    for ((score, answer), expected) in place
        .lines("scores.jsonl")
        .iter()
        .zip(place.lines("answers.jsonl"))
        .zip(conversations)
    {
        let id = expected["id"].as_str().unwrap();
        assert_eq!(
            (&score["id"], &answer["id"]),
            (&expected["id"], &expected["id"])
        );
        assert_close(
            score["loss"].as_f64().unwrap(),
            expected["loss"].as_f64().unwrap(),
            1e-4,
            id,
        );
        assert_log_probabilities(score, &numbers(&expected["target_logprobs"]), id);
        assert_greedy(
            &answer["tokens"],
            &expected["greedy"],
            &expected["greedy_margin"],
            id,
        );
    }
}

#[test]
fn a_batch_of_unequal_lengths_answers_as_one_by_one() {
    let place = place_of("qwen_omni");
    let model = fixture_text("qwen_omni");
    let sampled = [
        "--max-new-tokens",
        "12",
        "--temperature",
        "0.9",
        "--top-p",
        "0.95",
        "--repetition-penalty",
        "1.2",
        "--seed",
        "5",
    ];
    for how in [&["--max-new-tokens", "12"][..], &sampled[..]] {
        place
            .run(
                &[
                    &[
                        "generate",
                        "--model",
                        &model,
                        "--data",
                        "rows.jsonl",
                        "--out",
                        "together.jsonl",
                    ],
                    how,
                ]
                .concat(),
            )
            .succeeds();
        let alone: String = place
            .text("rows.jsonl")
            .lines()
            .map(|line| {
                place.write("one.jsonl", format!("{line}\n"));
                place
                    .run(
                        &[
                            &[
                                "generate",
                                "--model",
                                &model,
                                "--data",
                                "one.jsonl",
                                "--out",
                                "alone.jsonl",
                            ],
                            how,
                        ]
                        .concat(),
                    )
                    .succeeds();
                place.text("alone.jsonl")
            })
            .collect();
        assert_eq!(place.text("together.jsonl"), alone, "{how:?}");
    }
}

#[test]
fn a_seed_repeats_its_draws_and_another_draws_others() {
    let place = place_of("qwen_omni");
    let model = fixture_text("qwen_omni");
    let answers = |seed: &str| {
        let arguments = [
            "generate",
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            "o.jsonl",
            "--max-new-tokens",
            "12",
            "--temperature",
            "1",
            "--seed",
            seed,
        ];
        place.run(&arguments).succeeds();
        place.text("o.jsonl")
    };
    let first = answers("1");
    assert_eq!(first, answers("1"));
    assert_ne!(first, answers("2"));
}

/// The tensors of every safetensors file of a folder: name, type, shape and bytes.
fn stored(dir: &Path) -> HashMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("model"))
        {
            let bytes = std::fs::read(&path).unwrap();
            for (name, view) in safetensors::SafeTensors::deserialize(&bytes)
                .unwrap()
                .iter()
            {
                all.insert(
                    name.to_owned(),
                    (
                        format!("{:?}", view.dtype()),
                        view.shape().to_vec(),
                        view.data().to_vec(),
                    ),
                );
            }
        }
    }
    all
}

#[test]
fn a_merged_checkpoint_scores_like_the_adapter() {
    // The merged weights are rounded to the type they are stored in: with 8 bits (bf16) or 11 bits
    // (f16) of mantissa each weight moves by up to 2^-9 or 2^-12 of itself, which moved these
    // losses by 4e-4 and 5e-5 of themselves.
    for (golden, bar) in [
        ("qwen_omni", 1e-5),
        ("qwen_omni_tied", 2e-3),
        ("qwen_omni_wide", 2e-4),
    ] {
        let place = place_of(golden);
        let model = fixture_text(golden);
        place.copy(golden, "tree");
        // Weights of parts that maqam does not train are exported too.
        place.write("tree/spk_dict.pt", b"not read");
        let adapter = format!("{model}/adapter_final");
        let ran = place
            .run(&[
                "export",
                "--model",
                "tree",
                "--adapter",
                &adapter,
                "--out",
                "merged",
            ])
            .succeeds();
        assert!(
            ran.stdout.contains("weights merged into merged"),
            "{}",
            ran.stdout
        );

        let with_adapter = losses(&score(&place, &model, Some(&adapter), "adapter.jsonl"));
        assert_losses(
            &score(&place, "merged", None, "merged.jsonl"),
            &with_adapter,
            bar,
            golden,
        );
        let plain = losses(&score(&place, &model, None, "plain.jsonl"));
        assert!(
            plain
                .iter()
                .zip(&with_adapter)
                .any(|(a, b)| (a - b).abs() > 0.1 * a),
            "the adapter changes something"
        );

        let before = stored(&place.path("tree"));
        let after = stored(&place.path("merged"));
        let adapted =
            std::fs::read(fixture(golden).join("adapter_final/adapter_model.safetensors")).unwrap();
        let adapted = safetensors::SafeTensors::deserialize(&adapted).unwrap();
        let weight = |key: &&String| {
            key.strip_prefix("base_model.model.")
                .and_then(|key| key.strip_suffix(".lora_A.weight"))
                .map(|module| format!("{module}.weight"))
        };
        let names: Vec<String> = adapted
            .names()
            .into_iter()
            .map(|name| name.to_owned())
            .collect();
        let changed: Vec<String> = names.iter().filter_map(|name| weight(&name)).collect();
        assert!(!changed.is_empty());
        assert_eq!(before.len(), after.len());
        for (name, (dtype, shape, bytes)) in &before {
            let found = &after[name];
            assert_eq!((dtype, shape), (&found.0, &found.1), "{golden} {name}");
            assert_eq!(bytes != &found.2, changed.contains(name), "{golden} {name}");
        }
        for entry in std::fs::read_dir(place.path("tree")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // The fixture's goldens are safetensors as well, and no weights of the model.
            let is_weights = name.ends_with(".safetensors");
            assert!(
                is_weights
                    || place.bytes(&format!("tree/{name}"))
                        == place.bytes(&format!("merged/{name}")),
                "{golden}: {name}"
            );
        }
        place
            .run(&[
                "export",
                "--model",
                "tree",
                "--adapter",
                &adapter,
                "--out",
                "merged",
            ])
            .fails(2, &["merged: exists already"]);
    }
}

/// A mono WAV file of 8-bit silence at 8 kHz.
fn silence(seconds: u32) -> Vec<u8> {
    let rate = 8000u32;
    let len = 8000 * seconds;
    let mut wav = [
        &b"RIFF"[..],
        &(36 + len).to_le_bytes(),
        b"WAVEfmt ",
        &16u32.to_le_bytes(),
    ]
    .concat();
    wav.extend([1u16, 1].iter().flat_map(|n| n.to_le_bytes()));
    wav.extend([rate, rate].iter().flat_map(|n| n.to_le_bytes()));
    wav.extend([1u16, 8].iter().flat_map(|n| n.to_le_bytes()));
    wav.extend([&b"data"[..], &len.to_le_bytes()].concat());
    wav.resize(wav.len() + len as usize, 128);
    wav
}

#[test]
fn a_clip_over_300_s_is_encoded_in_full_with_a_note() {
    let place = Place::new();
    place.write("long.wav", silence(301));
    place.write_rows(
        "rows.jsonl",
        &[json!({"id": "long", "audio": "long.wav", "text": "yes"})],
    );
    let model = fixture_text("qwen_omni_wide");
    let ran = place
        .run(&[
            "score",
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--task",
            "asr",
            "--out",
            "o.jsonl",
        ])
        .succeeds();
    assert!(
        ran.stderr.contains(
            "note: row `long`: 301.0 s of audio; the official processor cuts clips at 300 s"
        ),
        "{}",
        ran.stderr
    );
    place
        .run(&[
            "embed",
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            "o.safetensors",
            "--pool",
            "none",
        ])
        .succeeds();
    assert_eq!(
        place.tensors("o.safetensors")["long"].dims()[0],
        7525,
        "25 tokens a second"
    );
}

/// A cache as huggingface_hub lays it out, with one snapshot.
fn fake_cache(place: &Place, golden: &str) {
    let repo = "cache/hub/models--someone--something";
    place.write(&format!("{repo}/refs/main"), "0123456789abcdef");
    place.copy(golden, &format!("{repo}/snapshots/0123456789abcdef"));
}

#[test]
fn a_hub_id_is_found_in_the_cache_without_a_network() {
    let place = place_of("qwen_omni_wide");
    fake_cache(&place, "qwen_omni_wide");
    let run = |model: &str| {
        let mut command = place.command(&[
            "score",
            "--model",
            model,
            "--data",
            "rows.jsonl",
            "--out",
            "scores.jsonl",
        ]);
        command::outcome(
            command
                .env("HF_HOME", place.path("cache"))
                .output()
                .unwrap(),
        )
    };
    run("someone/something").succeeds();
    let expected = expected("qwen_omni_wide");
    let losses: Vec<f64> = expected["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| example["loss"].as_f64().unwrap())
        .collect();
    assert_losses(
        &place.lines("scores.jsonl"),
        &losses,
        1e-4,
        "from the cache",
    );

    run("someone/else").fails(4, &["someone/else", "HF_HUB_OFFLINE is set", "hint:"]);
    run("./no/such/folder").fails(2, &["./no/such/folder: no such folder", "hint:"]);
}

#[test]
fn an_incomplete_snapshot_is_not_used() {
    let place = place_of("qwen_omni");
    fake_cache(&place, "qwen_omni");
    std::fs::remove_file(place.path("cache/hub/models--someone--something/snapshots/0123456789abcdef/model-00002-of-00002.safetensors")).unwrap();
    let mut command = place.command(&[
        "score",
        "--model",
        "someone/something",
        "--data",
        "rows.jsonl",
        "--out",
        "scores.jsonl",
    ]);
    command::outcome(
        command
            .env("HF_HOME", place.path("cache"))
            .output()
            .unwrap(),
    )
    .fails(4, &["someone/something", "not (wholly) in the cache"]);
}
