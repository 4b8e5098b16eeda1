//! Faults of checkpoints, adapters, outputs and disks: the error names the damage, and nothing is
//! written partially.

use crate::command;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use command::Place;
use command::fixture_text;
use command::row;
use command::small_run;

/// A place with one row and a copy of a fixture to spoil.
fn with_model(golden: &str) -> Place {
    let place = Place::new();
    place.copy(golden, "model");
    place.write_rows(
        "rows.jsonl",
        &[row("r", "a3.wav", "Which emotion is spoken?", "happy")],
    );
    place
}

fn score(place: &Place, more: &[&str]) -> command::Outcome {
    place.run(
        &[
            &[
                "score",
                "--model",
                "model",
                "--data",
                "rows.jsonl",
                "--out",
                "o.jsonl",
            ],
            more,
        ]
        .concat(),
    )
}

fn change_tensors(path: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn a_folder_without_a_checkpoint_names_the_lack() {
    let place = with_model("qwen_omni");
    for file in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ] {
        std::fs::remove_file(place.path(&format!("model/{file}"))).unwrap();
    }
    score(&place, &[]).fails(
        2,
        &[
            "model: ",
            "no model.safetensors and no model.safetensors.index.json here",
            "hint:",
        ],
    );
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    score(&place, &[]).fails(2, &["model/tokenizer.json: there is no tokenizer", "hint:"]);
    std::fs::remove_file(place.path("model/config.json")).unwrap();
    score(&place, &[]).fails(2, &["model/config.json: cannot read", "hint:"]);
}

#[test]
fn a_missing_or_short_shard_is_named() {
    let place = with_model("qwen_omni");
    let shard = "model/model-00002-of-00002.safetensors";
    let bytes = place.bytes(shard);
    place.write(shard, &bytes[..bytes.len() - 1000]);
    score(&place, &[]).fails(2, &[shard, "damaged", "hint:"]);
    std::fs::remove_file(place.path(shard)).unwrap();
    score(&place, &[]).fails(
        2,
        &[shard, "hint: all files of a checkpoint belong together"],
    );
    place.write(shard, b"");
    score(&place, &[]).fails(2, &[shard, "damaged"]);
}

#[test]
fn a_missing_misshapen_or_foreign_tensor_is_named() {
    let name = "thinker.model.layers.1.mlp.up_proj.weight";
    let file = "model/model.safetensors";
    let place = with_model("qwen_omni_wide");
    change_tensors(&place.path(file), |tensors| {
        tensors.remove(name).unwrap();
    });
    score(&place, &[]).fails(
        2,
        &[
            "model: ",
            &format!("the checkpoint has no tensor `{name}`"),
            "hint:",
        ],
    );

    let place = with_model("qwen_omni_wide");
    change_tensors(&place.path(file), |tensors| {
        let fewer = tensors[name].narrow(0, 0, 8).unwrap().contiguous().unwrap();
        tensors.insert(name.to_owned(), fewer);
    });
    score(&place, &[]).fails(
        2,
        &[
            "model: ",
            &format!("`{name}` has shape [8, "),
            "config.json asks for [",
        ],
    );

    let place = with_model("qwen_omni_wide");
    change_tensors(&place.path(file), |tensors| {
        let bytes = tensors[name].to_dtype(DType::U8).unwrap();
        tensors.insert(name.to_owned(), bytes);
    });
    score(&place, &[]).fails(
        2,
        &[&format!(
            "`{name}` is stored as U8; maqam reads F32, F16 and BF16"
        )],
    );
}

#[test]
fn a_checkpoint_of_another_kind_is_refused() {
    let place = with_model("qwen_omni");
    let config = place.text("model/config.json").replace(
        "\"model_type\": \"qwen2_5_omni\"",
        "\"model_type\": \"voxtral\"",
    );
    place.write("model/config.json", config);
    score(&place, &[]).fails(2, &["model/config.json: ", "voxtral", "hint:"]);
}

#[test]
fn an_adapter_of_another_model_is_refused_and_named() {
    let place = with_model("qwen_omni");
    // Another width, then one layer more than this model has.
    let other = fixture_text("qwen_omni_wide/adapter_final");
    score(&place, &["--adapter", &other]).fails(2, &["adapter_final", "shape", "hint:"]);
    let place = with_model("qwen_omni_wide");
    let other = fixture_text("qwen_omni/adapter_final");
    score(&place, &["--adapter", &other]).fails(2, &["adapter_final", "hint:"]);
    place
        .run(&[
            "export",
            "--model",
            "model",
            "--adapter",
            &other,
            "--out",
            "merged",
        ])
        .fails(2, &["adapter_final", "hint:"]);
    let left: Vec<_> = std::fs::read_dir(place.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "nothing is left behind: {left:?}");
}

#[test]
fn an_adapter_that_would_do_nothing_is_refused() {
    let place = with_model("qwen_omni");
    place.copy("qwen_omni/adapter_final", "adapter");
    change_tensors(
        &place.path("adapter/adapter_model.safetensors"),
        |tensors| {
            *tensors = tensors
                .drain()
                .map(|(name, tensor)| (name.replace("thinker.model", "talker.model"), tensor))
                .collect();
        },
    );
    score(&place, &["--adapter", "adapter"]).fails(
        2,
        &[
            "adapter/adapter_model.safetensors",
            "talker.model.layers",
            "belongs to no linear layer of this model",
            "hint:",
        ],
    );

    change_tensors(
        &place.path("adapter/adapter_model.safetensors"),
        |tensors| tensors.clear(),
    );
    score(&place, &["--adapter", "adapter"]).fails(
        2,
        &["adapter/adapter_model.safetensors", "holds no tensors"],
    );
    std::fs::remove_file(place.path("adapter/adapter_model.safetensors")).unwrap();
    score(&place, &["--adapter", "adapter"])
        .fails(2, &["the adapter's tensors are missing", "hint:"]);
    score(&place, &["--adapter", "nowhere"]).fails(
        2,
        &[
            "nowhere/adapter_config.json: cannot read",
            "hint: `--adapter` takes",
        ],
    );
}

#[test]
fn incomplete_or_wrong_adapters_are_refused() {
    let place = with_model("qwen_omni");
    place.copy("qwen_omni/adapter_final", "adapter");
    let config = place.text("adapter/adapter_config.json");
    place.write(
        "adapter/adapter_config.json",
        config.replace("\"r\": 4", "\"r\": 8"),
    );
    score(&place, &["--adapter", "adapter"])
        .fails(2, &["adapter_config.json says rank 8, the tensors have 4"]);
    place.write("adapter/adapter_config.json", config);
    change_tensors(
        &place.path("adapter/adapter_model.safetensors"),
        |tensors| {
            tensors
                .remove("base_model.model.thinker.model.layers.0.mlp.up_proj.lora_B.weight")
                .unwrap();
        },
    );
    score(&place, &["--adapter", "adapter"]).fails(
        2,
        &[
            "thinker.model.layers.0.mlp.up_proj",
            "has only one of lora_A and lora_B",
        ],
    );
}

#[test]
fn an_unwritable_output_fails_before_the_work() {
    let place = with_model("qwen_omni");
    place.write("file", b"not a folder");
    // The data do not exist either: what cannot be written is found first.
    for (command, out) in [
        ("score", "file/o.jsonl"),
        ("generate", "file/o.jsonl"),
        ("score", "model"),
        ("embed", "file/o.safetensors"),
        ("features", "model"),
    ] {
        let mut arguments = vec![command, "--data", "nowhere.jsonl", "--out", out];
        if command != "features" {
            arguments.extend(["--model", "model"]);
        }
        place.run(&arguments).fails(2, &[out, "cannot write"]);
    }
    place
        .run(&[
            "export",
            "--model",
            "model",
            "--adapter",
            &fixture_text("qwen_omni/adapter_final"),
            "--out",
            "file/merged",
        ])
        .fails(2, &["file"]);
    assert_eq!(place.text("file"), "not a folder");
}

#[test]
fn a_row_without_a_task_is_refused_with_a_hint() {
    let place = with_model("qwen_omni");
    place.write_rows(
        "rows.jsonl",
        &[serde_json::json!({"id": "r", "text": "yes"})],
    );
    score(&place, &[]).fails(2, &["rows.jsonl", "1", "no task", "hint: add --task NAME"]);
    score(&place, &["--task", "ars"]).fails(2, &["unknown task `ars`", "did you mean `asr`?"]);
    place
        .run(&[
            "embed",
            "--model",
            "model",
            "--data",
            "rows.jsonl",
            "--out",
            "o.safetensors",
        ])
        .fails(2, &["rows.jsonl", "row `r` has no audio"]);
    place
        .run(&[
            "generate",
            "--model",
            "model",
            "--data",
            "rows.jsonl",
            "--out",
            "o.jsonl",
            "--temperature",
            "0",
        ])
        .fails(2, &["`temperature` is 0"]);
    place
        .run(&["score", "--model", "model"])
        .fails(2, &["--data"]);
}

/// A file system of 2 MiB in memory, unmounted at the end; `None` if this user may not mount one.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(at))
    }

    /// Leaves no page of the disk free.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_stops_the_run_and_space_resumes_it() {
    let expected = small_run(10);
    expected.run(&["train", "recipe.yaml"]).succeeds();

    let place = small_run(10);
    let runs = place.path("runs");
    let Some(disk) = SmallDisk::mount(&runs) else {
        eprintln!(
            "SKIPPED: this user may not mount a small disk, so nothing was shown about full ones"
        );
        return;
    };
    let no_space = [
        "No space left on device",
        "hint: free some space and run the command again",
    ];
    // Space for one checkpoint and not for two.
    std::fs::write(place.path("runs/filler"), vec![0u8; 1550 * 1024]).unwrap();
    place
        .run(&["train", "recipe.yaml"])
        .fails(4, &[&["runs/small/checkpoints"], &no_space[..]].concat());
    // The log grows to the end of its last page, which has space only for the beginning of a line.
    disk.fill();
    let ran = place.run(&[
        "train",
        "recipe.yaml",
        "--resume",
        "--set",
        "checkpoint.every=100",
    ]);
    ran.fails(
        4,
        &[&["runs/small/log.jsonl: cannot append to"], &no_space[..]].concat(),
    );
    assert!(
        place.text("runs/small/log.jsonl").ends_with("}\n"),
        "no half of a line stays"
    );
    std::fs::remove_file(place.path("runs/filler")).unwrap();
    place.run(&["train", "recipe.yaml", "--resume"]).succeeds();
    for name in [
        "log.jsonl",
        "checkpoints/step-000020/adapter_model.safetensors",
        "checkpoints/step-000020/optimiser.safetensors",
    ] {
        let name = format!("runs/small/{name}");
        assert_eq!(place.bytes(&name), expected.bytes(&name), "{name}");
    }
    let events = "runs/small/events.out.tfevents.maqam";
    assert_eq!(place.bytes(events).len(), expected.bytes(events).len());
}
