//! `maqam merge` against PEFT (`tests/reference/merge.py`), and what it refuses.

use std::collections::HashMap;

use crate::command::Outcome;
use crate::command::Place;
use crate::command::assert_close;
use crate::command::fixture;
use crate::command::fixture_text;
use candle_core::Device;
use candle_core::Tensor;
use serde_json::Value;

const MODULES: [&str; 3] = [
    "thinker.model.layers.0.self_attn.q_proj",
    "thinker.model.layers.1.mlp.down_proj",
    "thinker.model.layers.0.self_attn.k_proj",
];

fn merge(place: &Place, out: &str, more: &[&str]) -> Outcome {
    let model = fixture_text("qwen_omni");
    let first = fixture_text("qwen_omni/adapter_final");
    let other = fixture_text("merge/other");
    let all = [
        &[
            "merge",
            "--model",
            &model,
            "--adapter",
            &first,
            "--adapter",
            &other,
            "--out",
            out,
        ],
        more,
    ];
    place.run(&all.concat())
}

/// The relative distance of what the module's adapter in a folder adds from an expected matrix;
/// every scale is 1. With it the adapter's rank.
fn distance(
    tensors: &HashMap<String, Tensor>,
    module: &str,
    expected: &HashMap<String, Tensor>,
    case: &str,
) -> (f32, usize) {
    let matrix =
        |letter: char| &tensors[&format!("base_model.model.{module}.lora_{letter}.weight")];
    let found = matrix('B').matmul(matrix('A')).unwrap();
    let expected = &expected[&format!("{case}.{module}")];
    let norm = |matrix: &Tensor| {
        let squares = matrix.sqr().unwrap().sum_all().unwrap();
        squares.to_scalar::<f32>().unwrap().sqrt()
    };
    let relative = norm(&(&found - expected).unwrap()) / norm(expected);
    (relative, matrix('A').dim(0).unwrap())
}

#[test]
fn merges_equal_those_of_peft() {
    let place = Place::new();
    let expected =
        candle_core::safetensors::load(fixture("merge/expected.safetensors"), &Device::Cpu)
            .unwrap();
    let text = std::fs::read_to_string(fixture("merge/expected.json")).unwrap();
    let losses: Value = serde_json::from_str(&text).unwrap();
    let ties = &["--method", "ties"];
    // The ranks of the modules: 4 and 3 are those of the adapters.
    for (case, more, ranks) in [
        ("linear", vec![], [7, 7, 4]),
        ("linear_weights", vec!["--weights", "1.5,-0.25"], [7, 7, 4]),
        ("linear_rank_2", vec!["--rank", "2"], [2, 2, 2]),
        (
            "ties",
            [&ties[..], &["--rank", "full"]].concat(),
            [96, 96, 32],
        ),
        (
            "ties_weights",
            [
                &ties[..],
                &["--rank", "full", "--weights", "0.7,1.3", "--density", "0.5"],
            ]
            .concat(),
            [96, 96, 32],
        ),
        (
            "ties_rank_3",
            [&ties[..], &["--rank", "3"]].concat(),
            [3, 3, 3],
        ),
    ] {
        let said = merge(&place, case, &more).succeeds().stdout;
        assert_eq!(
            said.contains("exact"),
            !case.contains("rank"),
            "{case}: {said}"
        );
        let tensors = place.tensors(&format!("{case}/adapter_model.safetensors"));
        for (module, rank) in MODULES.into_iter().zip(ranks) {
            // f32 products of a few dozen terms, in another order; the decompositions are f64 here
            // and f32 there.
            let bar = if case.contains("rank") { 1e-4 } else { 2e-6 };
            let (found, of_rank) = distance(&tensors, module, &expected, case);
            assert!(found < bar, "{case} {module}: {found}");
            assert_eq!(of_rank, rank, "{case} {module}");
        }

        let score = [
            "score",
            "--model",
            &fixture_text("qwen_omni"),
            "--adapter",
            case,
            "--data",
            &fixture_text("adapters/rows.jsonl"),
            "--out",
            "scores.jsonl",
        ];
        place.run(&score).succeeds();
        let rows = place.lines("scores.jsonl");
        let expected = losses[case].as_array().unwrap();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(expected) {
            assert_close(
                row["loss"].as_f64().unwrap(),
                expected.as_f64().unwrap(),
                1e-4,
                case,
            );
        }
    }
}

#[test]
fn the_error_of_a_rank_is_said_and_recorded() {
    let place = Place::new();
    let full = merge(&place, "full", &["--method", "ties", "--rank", "full"]).succeeds();
    assert!(!full.stderr.contains("warning"), "{}", full.stderr);
    let cut = merge(&place, "cut", &["--method", "ties", "--rank", "3"]).succeeds();
    let said = cut.stdout;
    let record = place.json("cut/merge.json");
    let error = record["error"].as_f64().unwrap();
    assert!(said.contains(&format!("relative error of the rank {error:.2e}")));
    assert!(record["worst"]["error"].as_f64().unwrap() >= error);
    let warned = cut.stderr.contains("`--rank full` is exact");
    assert_eq!(warned, error > 0.1, "{error}: {}", cut.stderr);
    assert_eq!(record["method"], "ties");
    assert_eq!(record["density"], 0.2);
    assert_eq!(record["sources"][1]["weight"], 1.0);

    // The distance of both folders, over all modules.
    let full = place.tensors("full/adapter_model.safetensors");
    let cut = place.tensors("cut/adapter_model.safetensors");
    let mut lost = 0.0;
    let mut whole = 0.0;
    for name in full.keys().filter(|name| name.contains("lora_A")) {
        let up = name.replace("lora_A", "lora_B");
        let product =
            |tensors: &HashMap<String, Tensor>| tensors[&up].matmul(&tensors[name]).unwrap();
        let square = |matrix: Tensor| {
            let squares = matrix.sqr().unwrap().sum_all().unwrap();
            f64::from(squares.to_scalar::<f32>().unwrap())
        };
        whole += square(product(&full));
        lost += square((product(&full) - product(&cut)).unwrap());
    }
    assert_close((lost / whole).sqrt(), error, 1e-4, "the recorded error");

    let again = merge(&place, "again", &["--method", "ties", "--rank", "3"]);
    again.succeeds();
    assert_eq!(
        place.bytes("again/adapter_model.safetensors"),
        place.bytes("cut/adapter_model.safetensors"),
        "two merges write the same bytes"
    );
}

#[test]
fn sources_are_found_from_any_folder() {
    let place = Place::new();
    let model = fixture_text("qwen_omni");
    let other = fixture_text("merge/other");
    place.copy("merge/other", "near");
    let arguments = [
        "merge",
        "--model",
        &model,
        "--adapter",
        "near",
        "--adapter",
        &other,
        "--out",
        "both",
    ];
    place.run(&arguments).succeeds();
    let record = place.json("both/merge.json");
    let near = place.path("near").canonicalize().unwrap();
    assert_eq!(record["sources"][0]["adapter"], near.to_str().unwrap());

    let score = [
        "score",
        "--model",
        &model,
        "--adapter",
        "both",
        "--data",
        &fixture_text("adapters/rows.jsonl"),
        "--out",
        "scores.jsonl",
    ];
    place.run(&score).succeeds();
    std::fs::remove_dir_all(near).unwrap();
    place.run(&score).fails(
        2,
        &[
            "merge.json",
            "which is not a folder here",
            "hint:",
            "--prompts",
        ],
    );
}

#[test]
fn what_is_no_merge_is_refused() {
    let place = Place::new();
    merge(&place, "m", &["--weights", "1"]).fails(2, &["1 weights for 2 adapters", "hint:"]);
    merge(&place, "m", &["--density", "1.5"]).fails(2, &["the density is 1.5", "hint:"]);
    merge(&place, "m", &["--density", "0.5"])
        .fails(2, &["0.5 beside the method `linear`", "hint:"]);
    merge(&place, "m", &["--rank", "none"]).fails(2, &["--rank", "`full`"]);
    std::fs::create_dir(place.path("there")).unwrap();
    merge(&place, "there", &[]).fails(2, &["there", "exists already", "hint:"]);
    let model = fixture_text("qwen_omni");
    let adapter = fixture_text("qwen_omni/adapter_final");
    let one = [
        "merge",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--out",
        "m",
    ];
    place
        .run(&one)
        .fails(2, &["1 adapter to merge", "at least two"]);

    // Embeddings of tokens are replaced, not added.
    let model = fixture_text("qwen2_audio");
    let adapter = fixture_text("audio_tokens/qwen2_audio/adapter_final");
    let two = [
        "merge",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--adapter",
        &adapter,
        "--out",
        "m",
    ];
    place
        .run(&two)
        .fails(2, &["embeddings of tokens", "cannot be merged", "hint:"]);
    assert!(!place.path("m").exists());
}
