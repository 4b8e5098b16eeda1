//! Checkpoints and adapters whose files disagree, hold values that are not finite, or are something
//! else than they seem.
//!
//! Losses are those of transformers 5.17.0 and PEFT 0.21.2 (`tests/reference/checkpoints.py`).

use crate::command;

use std::collections::HashMap;
use std::path::Path;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use command::Outcome;
use command::Place;
use command::assert_close;
use command::fixture;
use command::fixture_text;
use serde_json::Value;
use serde_json::json;

/// A weight that is changed to see which file is read.
const CHANGED: &str = "thinker.model.layers.0.mlp.down_proj.weight";
const HEAD: &str = "thinker.lm_head.weight";
const EMBEDDINGS: &str = "thinker.model.embed_tokens.weight";
const SHARDS: [&str; 2] = [
    "model/model-00001-of-00002.safetensors",
    "model/model-00002-of-00002.safetensors",
];
const INDEX: &str = "model/model.safetensors.index.json";

/// A copy of a checkpoint, and the rows that the reference script scored.
fn with_model(fixture_name: &str) -> Place {
    let place = Place::new();
    place.copy(fixture_name, "model");
    place
}

fn score(place: &Place, more: &[&str]) -> Outcome {
    let rows = fixture_text("adapters/rows.jsonl");
    let all = [
        &[
            "score", "--model", "model", "--data", &rows, "--out", "o.jsonl",
        ],
        more,
    ];
    place.run(&all.concat())
}

fn losses(place: &Place, more: &[&str]) -> Vec<f64> {
    score(place, more).succeeds();
    let rows = place.lines("o.jsonl");
    rows.iter()
        .map(|row| row["loss"].as_f64().unwrap())
        .collect()
}

/// The reference's results, by name.
fn reference(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture("checkpoints.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all.pointer(name).unwrap().clone()
}

fn assert_losses(place: &Place, more: &[&str], expected: &str) {
    let found = losses(place, more);
    let expected = reference(expected);
    assert_eq!(found.len(), expected.as_array().unwrap().len());
    for (found, expected) in found.iter().zip(expected.as_array().unwrap()) {
        assert_close(*found, expected.as_f64().unwrap(), 1e-4, "loss");
    }
}

fn change_json(place: &Place, name: &str, change: impl FnOnce(&mut Value)) {
    let mut json = place.json(name);
    change(&mut json);
    place.write(name, json.to_string());
}

fn load(place: &Place, name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(place.path(name), &Device::Cpu).unwrap()
}

fn save(place: &Place, name: &str, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, place.path(name)).unwrap();
}

fn change_tensor(place: &Place, name: &str, change: impl Fn(&Tensor) -> Tensor) {
    for shard in SHARDS {
        let mut tensors = load(place, shard);
        if let Some(tensor) = tensors.get(name) {
            let changed = change(tensor);
            tensors.insert(name.to_owned(), changed);
            save(place, shard, &tensors);
        }
    }
}

fn all_tensors(place: &Place) -> HashMap<String, Tensor> {
    SHARDS.iter().flat_map(|shard| load(place, shard)).collect()
}

fn set_tie(place: &Place, root: bool, thinker: bool, text: bool) {
    change_json(place, "model/config.json", |config| {
        if root {
            config["tie_word_embeddings"] = json!(true);
        }
        config["thinker_config"]["tie_word_embeddings"] = json!(thinker);
        config["thinker_config"]["text_config"]["tie_word_embeddings"] = json!(text);
    });
}

/// One value of a tensor replaced, at its first place.
fn with_first(tensor: &Tensor, value: f32) -> Tensor {
    let mut values = tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    values[0] = value;
    Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
        .unwrap()
        .to_dtype(tensor.dtype())
        .unwrap()
}

fn export(place: &Place, more: &[&str]) -> Outcome {
    let adapter = fixture_text("qwen_omni/adapter_final");
    let all = [
        &[
            "export",
            "--model",
            "model",
            "--adapter",
            &adapter,
            "--out",
            "merged",
        ],
        more,
    ];
    place.run(&all.concat())
}

fn names_in(place: &Place, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(place.path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_separate_head_is_used_whatever_the_flags() {
    for (root, thinker, text) in [
        (false, false, true),
        (false, true, false),
        (false, true, true),
        (true, false, false),
        (true, true, true),
    ] {
        let place = with_model("qwen_omni");
        set_tie(&place, root, thinker, text);
        assert_losses(&place, &[], "/untied_head/all");
    }
}

#[test]
fn an_equal_head_and_a_missing_one_are_tied() {
    let place = with_model("qwen_omni");
    set_tie(&place, false, true, true);
    let table = all_tensors(&place)[EMBEDDINGS].clone();
    change_tensor(&place, HEAD, |_| table.clone());
    assert_losses(&place, &[], "/equal_head");
    for shard in SHARDS {
        let mut tensors = load(&place, shard);
        tensors.remove(HEAD);
        save(&place, shard, &tensors);
    }
    assert_losses(&place, &[], "/missing_head");
    // transformers would draw a head at random then; maqam ties, as before.
    set_tie(&place, false, false, false);
    assert_losses(&place, &[], "/missing_head");
}

#[test]
fn an_exported_head_agrees_with_its_flags() {
    let place = with_model("qwen_omni");
    set_tie(&place, true, false, true);
    export(&place, &[]).succeeds();
    let config = place.json("merged/config.json");
    for at in [
        "/tie_word_embeddings",
        "/thinker_config/tie_word_embeddings",
        "/thinker_config/text_config/tie_word_embeddings",
    ] {
        assert_eq!(config.pointer(at), Some(&json!(false)), "{at}");
    }
    let head = |folder: &str| {
        load(
            &place,
            &format!("{folder}/model-00002-of-00002.safetensors"),
        )
    };
    assert!(head("merged").contains_key(HEAD) == head("model").contains_key(HEAD));
}

#[test]
fn a_single_file_is_read_before_a_stale_index() {
    let place = with_model("qwen_omni");
    let mut tensors = all_tensors(&place);
    let changed = (&tensors[CHANGED] * 3.0).unwrap();
    tensors.insert(CHANGED.to_owned(), changed);
    save(&place, "model/model.safetensors", &tensors);
    assert_losses(&place, &[], "/single_beside_index");
    let said = score(&place, &[]).stderr;
    assert!(
        said.contains("note: model: model.safetensors is read, as in transformers"),
        "{said}"
    );

    export(&place, &[]).succeeds();
    let names = names_in(&place, "merged");
    let weights: Vec<&String> = names.iter().filter(|n| n.contains("safetensors")).collect();
    assert_eq!(weights, ["model.safetensors"], "one set of weights");
    let merged = load(&place, "merged/model.safetensors");
    assert_eq!(merged.len(), tensors.len());
    let q = "thinker.model.layers.0.self_attn.q_proj.weight";
    assert!(command::distance(&merged[q], &tensors[q]) > 0.0, "merged");
}

#[test]
fn only_safetensors_are_read_and_exported() {
    let place = with_model("qwen_omni");
    for name in [
        "pytorch_model.bin",
        "model.gguf",
        "optimizer.pt",
        "original/consolidated.00.pth",
        "model-00003-of-00003.safetensors",
        "adapter_config.json",
        "make_shape.py",
        "prompts/words.yaml",
    ] {
        place.write(&format!("model/{name}"), "not read");
    }
    place.write("model/README.md", "# the base");
    place.write("model/LICENSE", "the base's licence");
    place.write("model/spk_dict.pt", "voices");
    assert_losses(&place, &[], "/base");
    let said = score(&place, &[]).stderr;
    assert!(said.contains("pytorch_model.bin is not"), "{said}");
    assert!(said.contains("the adapter beside the weights"), "{said}");
    export(&place, &[]).succeeds();
    let names = names_in(&place, "merged");
    let expected = [
        "LICENSE",
        "README.md",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "spk_dict.pt",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let names: Vec<&String> = names
        .iter()
        .filter(|name| !name.contains("expected"))
        .collect();
    assert_eq!(names, expected);
}

#[test]
fn a_tensor_in_two_shards_is_read_from_the_later() {
    for is_first in [true, false] {
        let place = with_model("qwen_omni");
        let original = all_tensors(&place)[CHANGED].clone();
        for (number, shard) in SHARDS.into_iter().enumerate() {
            let mut tensors = load(&place, shard);
            let factor = if (number == 0) == is_first { 3.0 } else { 1.0 };
            tensors.insert(CHANGED.to_owned(), (&original * factor).unwrap());
            save(&place, shard, &tensors);
        }
        let which = if is_first { "first" } else { "last" };
        assert_losses(
            &place,
            &[],
            &format!("/tensor_in_two_shards/changed in the {which}"),
        );
        let said = score(&place, &[]).stderr;
        assert!(said.contains("stands in two files"), "{said}");
        export(&place, &[]).succeeds();
        let holders: usize = SHARDS
            .iter()
            .map(|shard| load(&place, &shard.replace("model/", "merged/")))
            .filter(|tensors| tensors.contains_key(CHANGED))
            .count();
        assert_eq!(holders, 1, "one set of weights");
        let map = place.json("merged/model.safetensors.index.json");
        assert_eq!(
            map["weight_map"][CHANGED],
            "model-00002-of-00002.safetensors"
        );
    }
}

#[test]
fn an_index_with_missing_or_foreign_files_fails() {
    let place = with_model("qwen_omni");
    let index = place.text(INDEX);
    let with = |name: &str| index.replace("model-00002-of-00002.safetensors", name);
    place.write(INDEX, with("model-00009-of-00009.safetensors"));
    score(&place, &[]).fails(2, &["model/model-00009-of-00009.safetensors", "hint:"]);
    let outside = fixture_text("qwen_omni/model-00002-of-00002.safetensors");
    for name in ["../secret.safetensors", &outside, "a/../../x.safetensors"] {
        place.write(INDEX, with(name));
        score(&place, &[]).fails(2, &[INDEX, "which lies outside the folder", "hint:"]);
    }
    place.write(INDEX, with("pytorch_model-00002-of-00002.bin"));
    score(&place, &[]).fails(2, &[INDEX, "is not a safetensors file", "hint: convert"]);
    place.write(INDEX, "{\"weight_map\": {\"a\": 3}}");
    score(&place, &[]).fails(2, &[INDEX, "expected the name of a file", "hint:"]);
    place.write(INDEX, "{\"weight_map\": {}}");
    score(&place, &[]).fails(2, &[INDEX, "`weight_map` is empty", "hint:"]);
}

#[cfg(unix)]
#[test]
fn links_that_lead_outside_are_refused() {
    use std::os::unix::fs::symlink;
    // A shard elsewhere.
    let place = with_model("qwen_omni");
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    std::fs::rename(place.path(SHARDS[1]), place.path("elsewhere/x")).unwrap();
    symlink(place.path("elsewhere/x"), place.path(SHARDS[1])).unwrap();
    score(&place, &[]).fails(
        2,
        &[
            SHARDS[1],
            "a link to",
            "outside the checkpoint's folder",
            "hint:",
        ],
    );
    // The same in the Hub's cache is how its snapshots look.
    let blobs = "hub/models--Q--Omni/blobs";
    std::fs::create_dir_all(place.path(blobs)).unwrap();
    std::fs::rename(
        place.path("elsewhere/x"),
        place.path(&format!("{blobs}/abc")),
    )
    .unwrap();
    std::fs::remove_file(place.path(SHARDS[1])).unwrap();
    symlink(place.path(&format!("{blobs}/abc")), place.path(SHARDS[1])).unwrap();
    assert_losses(&place, &[], "/base");
    export(&place, &[]).succeeds();
    std::fs::remove_dir_all(place.path("merged")).unwrap();
    // Files that export copies in addition to the weights.
    place.write("secret", "a secret");
    symlink(place.path("secret"), place.path("model/notes.txt")).unwrap();
    export(&place, &[]).fails(2, &["model/notes.txt: a link to", "hint:"]);
    std::fs::remove_file(place.path("model/notes.txt")).unwrap();
    symlink(".", place.path("model/loop")).unwrap();
    export(&place, &[]).fails(2, &["model/loop", "a link to a folder", "hint:"]);
    assert!(!place.path("merged").exists());
}

#[test]
fn folders_and_link_loops_as_weights_are_bad_input() {
    let place = with_model("qwen_omni");
    std::fs::remove_file(place.path(SHARDS[0])).unwrap();
    std::fs::create_dir(place.path(SHARDS[0])).unwrap();
    score(&place, &[]).fails(2, &[SHARDS[0], "a folder in place of a file", "hint:"]);
    #[cfg(unix)]
    {
        std::fs::remove_dir(place.path(SHARDS[0])).unwrap();
        std::os::unix::fs::symlink("model-00001-of-00002.safetensors", place.path(SHARDS[0]))
            .unwrap();
        score(&place, &[]).fails(2, &[SHARDS[0], "hint:"]);
    }
}

#[test]
fn values_that_are_not_finite_name_tensor_and_file() {
    for (value, what) in [
        (f32::NAN, "NaN at [0, 0]"),
        (f32::INFINITY, "an infinite value at [0, 0]"),
        (f32::NEG_INFINITY, "an infinite value"),
    ] {
        let place = with_model("qwen_omni");
        change_tensor(&place, CHANGED, |tensor| with_first(tensor, value));
        let file = SHARDS
            .into_iter()
            .find(|shard| load(&place, shard).contains_key(CHANGED))
            .unwrap();
        let words = [file, CHANGED, what, "hint:"];
        score(&place, &[]).fails(2, &words);
        export(&place, &[]).fails(2, &words);
        let rows = fixture_text("adapters/rows.jsonl");
        for command in ["generate", "embed"] {
            let out = if command == "embed" {
                "o.safetensors"
            } else {
                "o.jsonl"
            };
            place
                .run(&[command, "--model", "model", "--data", &rows, "--out", out])
                .fails(2, &words);
        }
    }
}

#[test]
fn an_adapter_that_is_not_finite_is_refused() {
    let place = with_model("qwen_omni");
    let adapter = fixture_text("adapters/nan_inside");
    let words = [
        "nan_inside/adapter_model.safetensors",
        "lora_",
        "NaN",
        "hint:",
    ];
    score(&place, &["--adapter", &adapter]).fails(2, &words);
    let rows = fixture_text("adapters/rows.jsonl");
    let generate = [
        "generate",
        "--model",
        "model",
        "--adapter",
        &adapter,
        "--data",
        &rows,
        "--out",
        "o.jsonl",
    ];
    place.run(&generate).fails(2, &words);
    let export = [
        "export",
        "--model",
        "model",
        "--adapter",
        &adapter,
        "--out",
        "merged",
    ];
    place.run(&export).fails(2, &words);
    assert!(!place.path("merged").exists());
    // A scale beyond all bounds.
    place.copy("qwen_omni/adapter_final", "adapter");
    change_json(&place, "adapter/adapter_config.json", |json| {
        json["lora_alpha"] = json!(1e300)
    });
    score(&place, &["--adapter", "adapter"]).fails(2, &["which is not finite"]);
}

#[test]
fn weights_beyond_f16_are_not_exported_to_it() {
    let place = with_model("qwen_omni");
    let stored = "thinker.model.norm.weight";
    change_tensor(&place, stored, |tensor| with_first(tensor, 70_000.0));
    let words = [
        stored,
        "up to 70000",
        "float16 stores at most 65504",
        "hint:",
    ];
    export(&place, &["--dtype", "f16"]).fails(2, &words);
    assert!(!place.path("merged").exists());
    export(&place, &["--dtype", "bf16"]).succeeds();
    std::fs::remove_dir_all(place.path("merged")).unwrap();
    // What f16 rounds to zero or to its largest value is stored.
    change_tensor(&place, stored, |tensor| with_first(tensor, 65_510.0));
    change_tensor(&place, CHANGED, |tensor| with_first(tensor, 1e-30));
    export(&place, &["--dtype", "f16"]).succeeds();
    let merged: HashMap<String, Tensor> = SHARDS
        .iter()
        .flat_map(|shard| load(&place, &shard.replace("model/", "merged/")))
        .collect();
    assert!(merged.values().all(|tensor| tensor.dtype() == DType::F16));
    let config = place.json("merged/config.json");
    assert_eq!(config["torch_dtype"], "float16");
    let total: usize = merged.values().map(|tensor| 2 * tensor.elem_count()).sum();
    let index = place.json("merged/model.safetensors.index.json");
    assert_eq!(index["metadata"]["total_size"], total);
}

#[test]
fn a_merge_that_overflows_is_not_exported() {
    let place = with_model("qwen_omni");
    place.copy("qwen_omni/adapter_final", "adapter");
    let file = "adapter/adapter_model.safetensors";
    let tensors = load(&place, file)
        .into_iter()
        .map(|(name, tensor)| (name, (tensor * 1e5).unwrap()))
        .collect();
    save(&place, file, &tensors);
    let arguments = [
        "export",
        "--model",
        "model",
        "--adapter",
        "adapter",
        "--out",
        "merged",
        "--dtype",
        "f16",
    ];
    place
        .run(&arguments)
        .fails(2, &["thinker.", "float16 stores at most", "hint:"]);
}

#[test]
fn patterns_are_read_as_peft_reads_them() {
    let place = with_model("qwen_omni");
    for name in ["thinker_pattern_caret_alpha", "thinker_pattern_caret_rank"] {
        let adapter = fixture_text(&format!("adapters/{name}"));
        assert_losses(
            &place,
            &["--adapter", &adapter],
            &format!("/adapters/{name}"),
        );
    }
}

#[test]
fn adapters_of_two_forms_or_no_targets_are_refused() {
    let place = with_model("qwen_omni");
    place.copy("adapters/thinker_pattern_caret_alpha", "adapter");
    let config = "adapter/adapter_config.json";
    let before = place.text(config);
    change_json(&place, config, |json| {
        json["target_modules"] = json!("thinker\\..*q_proj")
    });
    score(&place, &["--adapter", "adapter"]).fails(2, &["targets none of the modules", "hint:"]);
    // A tensor that is not targeted has no effect in PEFT, and a note names it here.
    place.write(config, before);
    change_json(&place, config, |json| {
        json["target_modules"] = json!(["q_proj"])
    });
    let said = score(&place, &["--adapter", "adapter"]).succeeds().stderr;
    assert!(said.contains("3 modules have tensors that"), "{said}");
    let file = "adapter/adapter_model.safetensors";
    let tensors = load(&place, file)
        .into_iter()
        .map(|(name, tensor)| {
            (
                name.replace("model.model.layers.0", "model.thinker.model.layers.0"),
                tensor,
            )
        })
        .collect();
    save(&place, file, &tensors);
    score(&place, &["--adapter", "adapter"]).fails(2, &["relative to the full model", "hint:"]);
}

/// A recipe of two steps that continues from an adapter.
fn recipe(train: &str, lora: &str) -> String {
    format!(
        "name: on\nmodel: {{path: model}}\ndata: [{{manifest: rows.jsonl, task: asr}}]\nschedule: {{batch: 2, stages: [{{steps: 2}}]}}\ntrain: {{{train}}}\nlora: {{{lora}}}\n"
    )
}

#[test]
fn the_hint_for_adapter_patterns_works() {
    let place = with_model("qwen_omni");
    place.write_rows("rows.jsonl", &command::asr_rows());
    for name in ["thinker_pattern_caret_alpha", "thinker_pattern_caret_rank"] {
        place.copy(&format!("adapters/{name}"), "adapter");
        let _ = std::fs::remove_dir_all(place.path("runs"));
        place.write("recipe.yaml", recipe("decoder: lora", "init: adapter"));
        let said = place
            .run(&["train", "recipe.yaml"])
            .fails(2, &["hint:"])
            .stderr;
        let part = |start: &str, end: &str| {
            let rest = &said[said.find(start).unwrap() + start.len()..];
            rest[..rest.find(end).unwrap()].to_owned()
        };
        let followed = recipe(&part("`train: {", "}`"), &part("`lora: {", "}` into"));
        place.write("recipe.yaml", followed);
        place.run(&["train", "recipe.yaml"]).succeeds();
        // The run's own adapter gives the same note.
        let more = ["--adapter", "runs/on/checkpoints/step-000002"];
        score(&place, &more).succeeds();
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_plan_too() {
    let place = with_model("qwen_omni");
    place.write_rows("rows.jsonl", &command::asr_rows());
    place.copy("adapters/thinker_pattern_caret_rank", "adapter");
    for (train, init, expected) in [
        ("decoder: lora", "adapter", "the recipe asks for"),
        ("decoder: lora", "adapter", "targets: [q_proj, v_proj]"),
        ("decoder: lora", "nowhere", "`lora.init` is `nowhere`"),
    ] {
        place.write("recipe.yaml", recipe(train, &format!("init: {init}")));
        for command in ["plan", "train"] {
            place.run(&[command, "recipe.yaml"]).fails(2, &[expected]);
            assert!(
                !place.path("runs/on/recipe.yaml").exists(),
                "{command} {init}"
            );
        }
    }
}

#[test]
fn other_formats_are_named_with_a_hint() {
    let config = |change: &dyn Fn(&mut Value)| {
        let place = with_model("qwen_omni");
        change_json(&place, "model/config.json", change);
        place
    };
    for (method, name) in [
        ("awq", "AWQ"),
        ("gptq", "GPTQ"),
        ("bitsandbytes", "bitsandbytes"),
    ] {
        for at in ["", "/thinker_config"] {
            let place = config(&|json| {
                json.pointer_mut(at).unwrap()["quantization_config"] =
                    json!({"quant_method": method});
            });
            score(&place, &[]).fails(
                2,
                &["config.json", &format!("quantised by {name}"), "hint: use"],
            );
        }
    }
    for (model_type, name) in [
        ("voxtral", "Voxtral"),
        ("whisper", "Whisper"),
        ("qwen3_omni_moe", "Qwen3-Omni"),
    ] {
        let place = config(&|json| json["model_type"] = json!(model_type));
        score(&place, &[]).fails(2, &[model_type, name, "hint:"]);
    }
}

#[test]
fn quantised_tensors_are_found_without_a_config() {
    let place = with_model("qwen_omni");
    let mut tensors = load(&place, SHARDS[0]);
    let packed = Tensor::zeros((4, 4), DType::U8, &Device::Cpu).unwrap();
    tensors.insert("thinker.model.layers.0.mlp.up_proj.qweight".into(), packed);
    save(&place, SHARDS[0], &tensors);
    score(&place, &[]).fails(2, &["quantised by GPTQ or AWQ", "qweight", "hint:"]);
}

#[test]
fn folders_of_other_formats_are_named() {
    let cases: [(&str, &[&str]); 4] = [
        ("model.gguf", &["model.gguf, a GGUF file", "hint: use"]),
        (
            "pytorch_model.bin",
            &["pytorch_model.bin, PyTorch's format", "hint: convert"],
        ),
        (
            "consolidated.00.pth",
            &["consolidated.00.pth, PyTorch's format", "hint: convert"],
        ),
        (
            "model-00001-of-00002.safetensors",
            &["hint: download model.safetensors.index.json"],
        ),
    ];
    for (name, words) in cases {
        let place = with_model("qwen_omni");
        for file in [SHARDS[0], SHARDS[1], INDEX] {
            std::fs::remove_file(place.path(file)).unwrap();
        }
        place.write(&format!("model/{name}"), "x");
        score(&place, &[]).fails(2, words);
    }
    // An adapter, and a file, where a checkpoint is wanted.
    let place = Place::new();
    place.copy("qwen_omni/adapter_final", "model");
    score(&place, &[]).fails(
        2,
        &[
            "an adapter (adapter_config.json)",
            "hint: give the folder with `--adapter`",
        ],
    );
    let place = Place::new();
    place.write("model", "GGUF\x03\0\0\0");
    score(&place, &[]).fails(2, &["model: a GGUF file", "hint:"]);
}

#[test]
fn web_pages_and_pointers_are_named_in_every_file() {
    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";
    for file in [SHARDS[0], INDEX, "model/config.json"] {
        let place = with_model("qwen_omni");
        place.write(file, POINTER);
        score(&place, &[]).fails(2, &[file, "a Git LFS pointer", "hint: run `git lfs pull`"]);
        place.write(file, PAGE);
        score(&place, &[]).fails(2, &[file, "an HTML page", "hint: download the file again"]);
        place.write(file, "");
        score(&place, &[]).fails(2, &[file, "an empty file", "hint:"]);
    }
    let place = with_model("qwen_omni");
    for file in [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ] {
        place.copy("qwen_omni/adapter_final", "adapter");
        place.write(file, POINTER);
        score(&place, &["--adapter", "adapter"]).fails(2, &[file, "a Git LFS pointer", "hint:"]);
    }
    place.write("model/config.json", "{\"model_type\": NaN}");
    score(&place, &[]).fails(2, &["holds NaN, which JSON does not have", "hint:"]);
}

#[test]
fn a_model_card_replaces_the_bases_documents() {
    let place = with_model("qwen_omni");
    place.write("model/README.md", "the base's card");
    place.write("model/picture.png", "a picture");
    export(&place, &[]).succeeds();
    let card = place.text("merged/README.md");
    for words in [
        "base_model: \"model\"",
        "# license: name the licence here",
        "LoRA adapter of rank 4",
        "Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(\"merged\"",
        "vllm serve merged",
    ] {
        assert!(card.contains(words), "{words} in\n{card}");
    }
    assert!(!card.contains("the base's card") && !place.path("merged/picture.png").exists());
    assert!(Path::new(&place.path("merged/tokenizer.json")).is_file());
}

#[test]
fn a_model_card_loads_only_what_is_there() {
    // Like maqam-tiny, the fixture has a feature extractor and no settings of images and videos,
    // which the processor needs.
    let place = with_model("qwen_omni");
    export(&place, &[]).succeeds();
    let card = place.text("merged/README.md");
    assert!(!card.contains("Qwen2_5OmniProcessor"), "{card}");
    for line in [
        "from transformers import AutoTokenizer, WhisperFeatureExtractor, Qwen2_5Omni",
        "tokenizer = AutoTokenizer.from_pretrained(\"merged\")",
        "feature_extractor = WhisperFeatureExtractor.from_pretrained(\"merged\")",
    ] {
        assert!(card.contains(line), "{line} in\n{card}");
    }

    // The Hub's checkpoints name the class.
    let mut settings = place.json("model/preprocessor_config.json");
    settings["processor_class"] = "Qwen2_5OmniProcessor".into();
    place.write("model/preprocessor_config.json", settings.to_string());
    std::fs::remove_dir_all(place.path("merged")).unwrap();
    export(&place, &[]).succeeds();
    let card = place.text("merged/README.md");
    let line = "processor = Qwen2_5OmniProcessor.from_pretrained(\"merged\")";
    assert!(
        card.contains(line) && !card.contains("AutoTokenizer"),
        "{card}"
    );
}
