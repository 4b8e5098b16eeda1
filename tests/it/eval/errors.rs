//! Errors of `maqam eval`.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use serde_json::json;

use crate::command::Place;
use crate::command::fixture_text;
use crate::eval::SUITE;
use crate::eval::eval;
use crate::eval::parts;
use crate::eval::place;

/// A changed suite is refused with these words, before any answer is generated.
fn refused(place: &Place, from: &str, to: &str, words: &[&str]) {
    let text = SUITE.replace(from, to);
    assert_ne!(text, SUITE);
    place.write("suite.yaml", text);
    eval(place, &[]).fails(2, words);
    for folder in ["runs/eval", "runs/.answers"] {
        assert!(!place.path(folder).exists(), "{to}: {folder}");
    }
}

#[test]
fn invalid_suites_are_refused() {
    let place = place();
    let cases: [(&str, &str, &[&str]); 17] = [
        (
            "slices: [label]",
            "slices: [gendre]",
            &[
                "suite.yaml: set `moods`: slice `gendre`: no row has `gendre`",
                "hint: the rows have language, wording, length, label",
            ],
        ),
        (
            "slices: [label]",
            "slices: [label, label]",
            &["`slices` has `label` twice"],
        ),
        (
            "slices: [speaker, gender]",
            "slices: [speaker, gendre]",
            &["the rows have speaker, language, wording, length, gender"],
        ),
        (
            "[rouge1, rougeL, chrf]",
            "[rouge1, rouge]",
            &[
                "set `gist`: unknown metric `rouge`; this task has loss, rouge1",
                "did you mean `rouge",
            ],
        ),
        (
            "[rouge1, rougeL, chrf]",
            "[rouge1, uar]",
            &["unknown metric `uar`"],
        ),
        (
            "[rouge1, rougeL, chrf]",
            "[loss]",
            &["metric `loss` needs what should be said, and row `g2` does not have it"],
        ),
        (
            "likelihood: true, ",
            "metrics: [likelihood_uar], ",
            &["metric `likelihood_uar` without `likelihood: true`"],
        ),
        (
            "task: asr,",
            "task: asr, likelihood: true,",
            &["`likelihood` in a set of task `asr`, which has no labels"],
        ),
        (
            "task: asr,",
            "task: asr, parse: [strict],",
            &["`parse` in a set of task `asr`"],
        ),
        (
            "task: asr,",
            "task: asr, cluster: group,",
            &["`cluster: group`, but row `a0` has no `group`"],
        ),
        (
            "task: asr,",
            "task: asr, bleu_tokeniser: 13b,",
            &["set `words`:", "13b"],
        ),
        (
            "parse: [lenient, strict]",
            "parse: []",
            &["`parse` is an empty list"],
        ),
        (
            "parse: [lenient, strict]",
            "parse: [loose]",
            &["suite.yaml:", "unknown value `loose`"],
        ),
        (
            "task: emotion,",
            "task: emotion, slice: [label],",
            &[
                "suite.yaml:",
                "unknown field `slice`",
                "did you mean `slices`?",
            ],
        ),
        (
            "name: gist",
            "name: a/b",
            &["the set's name cannot name a file"],
        ),
        (
            "[majority, lead, transcript]",
            "[majority, leed]",
            &["unknown value `leed`", "did you mean `lead`?"],
        ),
        (
            "task: summarization,",
            "task: summarization, text_from: words.jsonl, limit: 0,",
            &["`limit` is 0"],
        ),
    ];
    for (from, to, words) in cases {
        refused(&place, from, to, words);
    }
}

#[test]
fn rows_that_lack_something_are_named() {
    let place = place();
    let moods = place.text("moods.jsonl");
    place.write("moods.jsonl", moods.replacen("\"happy\"", "\"hapy\"", 1));
    eval(&place, &[]).fails(
        2,
        &[
            "moods.jsonl:1: label `hapy` is not in the inventory of task `emotion`",
            "did you mean `happy`?",
        ],
    );
    place.write("moods.jsonl", &moods);
    place.write_rows("other.jsonl", &[json!({"id": "elsewhere", "text": "x"})]);
    place.write_rows(
        "gist.jsonl",
        &[json!({"id": "g1", "instruction": "Sum up what you know.", "summary": "x"})],
    );
    place.write(
        "suite.yaml",
        SUITE.replace(
            "task: summarization,",
            "task: summarization, text_from: other.jsonl,",
        ),
    );
    eval(&place, &[]).fails(
        2,
        &["other.jsonl: row `g1` has no `text`, and there is none here either"],
    );
    place.write("suite.yaml", SUITE);
    eval(&place, &[]).fails(
        2,
        &[
            "suite.yaml: baseline `lead` fits none of the sets",
            "it is for sets of summaries whose rows have a `text`",
        ],
    );
}

#[test]
fn results_of_another_suite_are_not_mixed_in() {
    let place = place();
    place.write("first.yaml", "role: dev\nsets: [{name: gist, manifest: gist.jsonl, task: summarization, metrics: [rouge1]}]\n");
    let model = fixture_text("qwen_omni");
    place
        .run(&[
            "eval",
            "first.yaml",
            "--model",
            &model,
            "--prompts",
            "prompts",
            "--out",
            "out",
        ])
        .succeeds();
    eval(&place, &["--out", "out"]).fails(
        2,
        &[
            "out: holds predictions of first.yaml",
            "choose another folder with --out",
        ],
    );
    place.write("notes/mine.txt", "x");
    eval(&place, &["--out", "notes"]).fails(2, &["notes: holds something else than an evaluation"]);
}

#[test]
fn systems_need_names_of_their_own() {
    let place = place();
    let none = place.path("nowhere").to_str().unwrap().to_owned();
    eval(&place, &["--adapter", &none]).fails(2, &["nowhere: no such folder"]);
    eval(&place, &["--adapter", "tuned=adapter"]).fails(
        2,
        &[
            "--adapter: two systems are named `tuned`",
            "--adapter NAME=DIR",
        ],
    );
    eval(&place, &["--adapter", "base=adapter"]).fails(2, &["two systems are named `base`"]);
    eval(&place, &["--adapter", "lead=adapter"]).fails(2, &["a baseline or control named `lead`"]);
    eval(&place, &["--adapter", "a/b=adapter"]).fails(2, &["`a/b` cannot name a folder"]);
    place.write("empty/readme", "x");
    eval(&place, &["--adapter", "empty"]).fails(2, &["empty: holds no adapter"]);
    let model = fixture_text("qwen_omni");
    place
        .run(&["eval", "suite.yaml", "--model", &model, "--no-base"])
        .fails(2, &["--adapter"]);
}

#[test]
fn foreign_weights_stop_before_any_answer() {
    let place = place();
    let of_another_width = format!("wide={}", fixture_text("qwen_omni_wide/adapter_final"));
    eval(&place, &["--adapter", &of_another_width]).fails(
        2,
        &[
            "adapter_final/adapter_model.safetensors: `base_model.model.thinker.",
            ".lora_A.weight` has shape [",
            "this model needs [",
            "hint: give the model that the adapter was trained on: its adapter_config.json names the base model `",
            "qwen_omni` was given",
        ],
    );
    assert_eq!(parts(&place), Vec::<PathBuf>::new());

    let name = "thinker.model.norm.weight";
    let trained = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    std::fs::create_dir(place.path("full")).unwrap();
    let tensors = HashMap::from([(name, trained)]);
    candle_core::safetensors::save(&tensors, place.path("full/trained.safetensors")).unwrap();
    eval(&place, &["--adapter", "full"]).fails(
        2,
        &[
            &format!("full/trained.safetensors: `{name}` has shape [3], this model needs ["),
            "hint: give the model that these weights were trained from; `",
            "qwen_omni` was given",
        ],
    );
    assert_eq!(parts(&place), Vec::<PathBuf>::new());
}
