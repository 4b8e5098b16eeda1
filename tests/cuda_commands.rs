//! The commands on a GPU: training with one wait per step, resuming on either device, diverging,
//! scoring, generating, benchmarks. These tests need a build with the feature `cuda` and a GPU, or
//! the emulated driver of `tests/cuda/driver`.
#![cfg(feature = "cuda")]

mod gpu;
#[path = "it/command/mod.rs"]
mod command;
#[path = "it/golden/mod.rs"]
mod golden;

use candle_core::Tensor;
use golden::numbers;
use gpu::GPU;
use serde_json::Value;

/// Relative error of a loss: what sums of products of 8 significant bits may differ by.
const LOSS_BAR: f64 = 1e-3;

/// Number of waits for the GPU and of reads from it, in the emulated driver's report; `None` for a
/// run on a GPU.
fn waits(told: &str) -> Option<(usize, usize)> {
    let count = |name: &str| {
        let line = told
            .lines()
            .find(|line| line.contains(&format!(" x {name} ")))?;
        line.split_whitespace()
            .find_map(|word| word.parse::<usize>().ok())
    };
    Some((count("cuStreamSynchronize")?, count("cuEventSynchronize")?))
}

#[test]
fn a_step_waits_for_the_gpu_once() {
    if GPU.is_none() {
        return;
    }
    let place = command::small_run(3);
    let told = |name: &str, tokens: usize, steps: usize, rest: &[&str]| {
        let settings = [
            format!("name={name}"),
            format!("memory.pack_tokens={tokens}"),
            format!("schedule.stages.0.steps={steps}"),
            FROZEN.into(),
        ];
        let mut command = place.command(&["train", "recipe.yaml", "--device", "cuda"]);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command::outcome(
            command
                .args(rest)
                .env("MAQAM_EMULATED_REPORT", "1")
                .output()
                .unwrap(),
        )
        .succeeds()
        .stderr
    };
    let whole = waits(&told("whole", 8192, 3, &[]));
    if let Some((stream, readings)) = whole {
        assert_eq!(
            waits(&told("split", 1, 3, &[])),
            whole,
            "waits for the stream and for readings"
        );
        let longer = waits(&told("longer", 8192, 5, &[])).unwrap();
        assert!(
            longer.0 > stream && longer.1 == readings + 2,
            "one reading a step, and what a checkpoint reads: {whole:?}, {longer:?}"
        );
    }

    // The third step was encoded ahead there; a resumed run encodes it in its turn.
    told("resumed", 8192, 3, &[]);
    for step in ["000004", "000006"] {
        std::fs::remove_dir_all(place.path(&format!("runs/resumed/checkpoints/step-{step}")))
            .unwrap();
    }
    told("resumed", 8192, 3, &["--resume"]);
    assert_eq!(
        place.bytes("runs/resumed/log.jsonl"),
        place.bytes("runs/whole/log.jsonl")
    );
}

/// Encoder and projector are frozen, so clips are encoded ahead.
const FROZEN: &str = "train={decoder: lora}";

/// A learning rate that throws the weights out of what can be computed: the run stops as it does on
/// the CPU, and before they move again.
#[test]
fn a_diverging_run_does_not_change_weights() {
    if GPU.is_none() {
        return;
    }
    let place = command::small_run(3);
    let arguments = [
        "train",
        "recipe.yaml",
        "--device",
        "cuda",
        "--set",
        "optimiser.learning_rate=1e30",
        "--set",
        "optimiser.warmup=0",
    ];
    let told = place
        .run(&arguments)
        .fails(3, &["the weights were not changed"])
        .stderr;
    let lines = place.lines("runs/small/log.jsonl");
    let last = lines
        .iter()
        .rev()
        .find(|line| line["kind"] == "train")
        .unwrap()["step"]
        .as_u64()
        .unwrap();
    assert!(
        told.contains(&format!("step {}: the loss is", last + 1)),
        "{told}"
    );
    for (name, tensor) in place.tensors(&format!(
        "runs/small/checkpoints/step-{last:06}/adapter_model.safetensors"
    )) {
        assert!(
            golden::flat(&tensor).iter().all(|value| value.is_finite()),
            "{name}"
        );
    }
}

fn last_losses(place: &command::Place, run: &str) -> Vec<f64> {
    let lines = place.lines(&format!("runs/{run}/log.jsonl"));
    lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

#[test]
fn a_gpu_run_resumes_exactly_and_devices_can_change() {
    if GPU.is_none() {
        return;
    }
    let place = command::small_run(3);
    let train = |name: &str, device: &str, rest: &[&str]| {
        let name = format!("name={name}");
        let arguments = [
            "train",
            "recipe.yaml",
            "--set",
            &name,
            "--set",
            "checkpoint.every=3",
            "--device",
            device,
        ];
        place.run(&[&arguments[..], rest].concat()).succeeds()
    };
    let told = train("whole", "cuda", &[]).stderr;
    let split = train("split", "cuda", &["--set", "memory.pack_tokens=100000000"]).stderr;
    assert!(
        split.contains("`memory.pack_tokens` is 100000000, and")
            && split.contains("longer micro-batches are split"),
        "{split}"
    );
    assert_eq!(
        place.bytes("runs/whole/log.jsonl"),
        place.bytes("runs/split/log.jsonl")
    );
    assert!(
        told.contains("computing on") && told.contains("memory: frozen weights"),
        "{told}"
    );
    let first = &place.lines("runs/whole/log.jsonl")[0];
    assert_eq!(
        (
            &first["kind"],
            &first["device"],
            &first["precision"],
            &first["at_step"]
        ),
        (&"device".into(), &"cuda".into(), &"bf16".into(), &0.into())
    );

    // Three steps on one device and three on the other, by removing everything after the third.
    train("on-cpu", "cpu", &[]);
    let whole = last_losses(&place, "whole");
    for (from, to, name) in [
        ("cuda", "cuda", "same"),
        ("cuda", "cpu", "down"),
        ("cpu", "cuda", "up"),
    ] {
        train(name, from, &[]);
        std::fs::remove_dir_all(place.path(&format!("runs/{name}/checkpoints/step-000006")))
            .unwrap();
        train(name, to, &["--resume"]);
        let losses = last_losses(&place, name);
        let of = place.lines(&format!("runs/{name}/log.jsonl"));
        for (found, expected) in losses.iter().zip(&whole) {
            assert!(
                (found / expected - 1.0).abs() < 0.01,
                "{name}: {losses:?}, on the GPU {whole:?}"
            );
        }
        let devices: Vec<(String, u64)> = of
            .iter()
            .filter(|line| line["kind"] == "device")
            .map(|line| {
                (
                    line["device"].as_str().unwrap().to_owned(),
                    line["at_step"].as_u64().unwrap(),
                )
            })
            .collect();
        let expected: Vec<(String, u64)> = match name {
            "same" => vec![("cuda".into(), 0)],
            "down" => vec![("cuda".into(), 0), ("cpu".into(), 3)],
            _ => vec![("cuda".into(), 3)],
        };
        assert_eq!(devices, expected, "{name}");
    }
    for file in [
        "adapter_model.safetensors",
        "optimiser.safetensors",
        "state.json",
    ] {
        let of = |run: &str| place.bytes(&format!("runs/{run}/checkpoints/step-000006/{file}"));
        assert!(of("whole") == of("same"), "{file} of a resumed run differs");
    }
    assert_eq!(
        place.bytes("runs/whole/log.jsonl"),
        place.bytes("runs/same/log.jsonl")
    );
    assert!(command::distance(&tensor_of(&place, "whole"), &tensor_of(&place, "on-cpu")) < 0.02);
}

fn tensor_of(place: &command::Place, run: &str) -> Tensor {
    let tensors = place.tensors(&format!(
        "runs/{run}/checkpoints/step-000006/adapter_model.safetensors"
    ));
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    tensors[names[0]].clone()
}

#[test]
fn the_commands_compute_on_the_gpu() {
    if GPU.is_none() {
        return;
    }
    let place = command::Place::new();
    place.write_rows(
        "rows.jsonl",
        &[
            command::row("a", "a3.wav", "what is said?", "nothing"),
            command::row("b", "odd.wav", "and here?", "a word"),
        ],
    );
    let model = command::fixture_text("qwen_omni");
    let run = |what: &str, device: &str, rest: &[&str]| {
        let out = format!("{what}-{device}");
        let arguments = [
            what,
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            &out,
            "--device",
            device,
        ];
        place.run(&[&arguments[..], rest].concat()).succeeds();
        out
    };
    let losses = |device: &str| {
        place
            .lines(&run("score", device, &[]))
            .iter()
            .map(|line| line["loss"].as_f64().unwrap())
            .collect::<Vec<f64>>()
    };
    for (found, expected) in losses("cuda").iter().zip(losses("cpu")) {
        assert!(
            (found / expected - 1.0).abs() < 5.0 * LOSS_BAR,
            "{found} on the GPU, {expected} on the CPU"
        );
    }
    let found = place.tensors(&run("embed", "cuda", &[]));
    let expected = place.tensors(&run("embed", "cpu", &[]));
    assert!(command::distance(&found["a"], &expected["a"]) < 0.01);
    let lines = place.lines(&run("generate", "cuda", &["--max-new-tokens", "3"]));
    assert!(lines.iter().all(|line| numbers(&line["tokens"]).len() <= 3) && lines.len() == 2);
}

#[test]
fn what_has_no_kernels_is_refused_by_name() {
    if GPU.is_none() {
        return;
    }
    let place = command::Place::new();
    place.write_rows("rows.jsonl", &command::asr_rows());
    let model = command::fixture_text("qwen3_asr");
    let arguments = ["score", "--model", &model, "--data", "rows.jsonl", "--out"];
    let rest = ["scores.jsonl", "--task", "asr", "--device", "cuda"];
    place
        .run(&[&arguments[..], &rest].concat())
        .fails(2, &["the encoder of Qwen3-ASR", "`--device cpu`"]);

    let place = command::small_run(3);
    let set = "train={projector: full, audio_tokens: full}";
    place
        .run(&["train", "recipe.yaml", "--device", "cuda", "--set", set])
        .fails(2, &["`train.audio_tokens: full`", "`--device cpu`"]);
    assert!(!place.path("runs/small/log.jsonl").exists());
}

#[test]
fn a_gpu_benchmark_reports_time_and_memory() {
    if GPU.is_none() {
        return;
    }
    let arguments = [
        "bench",
        "train",
        "--shape",
        "tiny",
        "--layers",
        "2",
        "--work",
        "short",
        "--clips",
        "2",
        "--steps",
        "2",
        "--warm-up",
        "1",
    ];
    let ran = command::Place::new()
        .run(&[&arguments[..], &["--device", "cuda", "--json"]].concat())
        .succeeds();
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&found["device"], &found["precision"], &found["tokens"]),
        (&"cuda".into(), &"bf16".into(), &(2 * 145).into())
    );
    let number = |name: &str| found[name].as_f64().unwrap();
    assert!(
        number("useful_tflops") > 0.0
            && number("peak_memory_gb") > 0.0
            && number("peak_memory_gb") <= number("planned_memory_gb"),
        "{found}"
    );
    for phase in [
        "encoder",
        "decoder_forward",
        "head",
        "decoder_backward",
        "optimiser",
    ] {
        assert!(
            found["phases_s"][phase].as_f64().unwrap() > 0.0,
            "{phase}: {found}"
        );
    }
}

/// Returns whether the emulated driver is used, which can simulate faults.
fn is_emulated() -> bool {
    GPU.as_ref()
        .is_some_and(|gpu| maqam::ops::device::name(gpu).unwrap() == "emulated GPU")
}

/// A command with variables of its environment.
fn with(arguments: &[&str], variables: &[(&str, &str)]) -> command::Outcome {
    let place = command::Place::new();
    let mut command = place.command(arguments);
    command.envs(variables.iter().copied());
    command::outcome(command.output().unwrap())
}

/// The lines of `bench check` at small widths, by whether they pass.
fn checked(variables: &[(&str, &str)]) -> (command::Outcome, Vec<Value>, Vec<Value>) {
    let ran = with(&["bench", "check", "--tiny", "--device", "cuda"], variables);
    let lines = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (passed, failed) = lines.partition(|line| line["passes"] == true);
    (ran, passed, failed)
}

#[test]
fn every_primitive_passes_its_check() {
    if GPU.is_none() {
        return;
    }
    let (ran, passed, failed) = checked(&[]);
    assert!(ran.code == Some(0) && failed.is_empty(), "{failed:#?}");
    assert!(passed.len() > 60);
}

#[test]
fn a_faulting_kernel_hides_no_other_check() {
    if !is_emulated() {
        return;
    }
    let (_, all, _) = checked(&[]);
    let (ran, passed, failed) = checked(&[
        ("MAQAM_EMULATED_FAULT", "swiglu"),
        ("MAQAM_CUDA_CHECK", "1"),
    ]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(passed.len() + failed.len(), all.len());
    // Both token counts of the one primitive that launches it.
    assert_eq!(failed.len(), 2, "{failed:#?}");
    for line in &failed {
        let error = line["error"].as_str().unwrap();
        assert!(
            line["primitive"] == "swiglu"
                && error.starts_with("swiglu failed: ")
                && error.contains("ILLEGAL_ADDRESS")
                && error.contains("grid 1 x "),
            "{line}"
        );
    }
}

/// A training step that ends in an error, and its message.
fn step(variables: &[(&str, &str)]) -> command::Outcome {
    let arguments = [
        "bench",
        "train",
        "--shape",
        "tiny",
        "--layers",
        "1",
        "--work",
        "short",
        "--clips",
        "1",
        "--steps",
        "1",
        "--warm-up",
        "0",
        "--device",
        "cuda",
        "--json",
        "--profile",
    ];
    with(&arguments, variables)
}

#[test]
fn a_checked_step_names_the_kernel_that_fails() {
    if !is_emulated() {
        return;
    }
    let fault = ("MAQAM_EMULATED_FAULT", "swiglu_backward");
    let late = step(&[fault]);
    assert_eq!(late.code, Some(1));
    assert!(
        late.stderr
            .contains("hint: run again with MAQAM_CUDA_CHECK=1"),
        "{}",
        late.stderr
    );
    let named = step(&[fault, ("MAQAM_CUDA_CHECK", "1")]);
    assert!(
        named.stderr.contains("swiglu_backward failed: ")
            && named.stderr.contains("sizes 384")
            && !named.stderr.contains("hint: run again"),
        "{}",
        named.stderr
    );
    let product = step(&[
        ("MAQAM_EMULATED_FAULT", "product"),
        ("MAQAM_CUDA_CHECK", "1"),
    ]);
    assert!(
        product.stderr.contains("product failed: ") && product.stderr.contains(" -> bf16"),
        "{}",
        product.stderr
    );
}

#[test]
fn an_allocation_is_tried_again_after_a_trim() {
    if !is_emulated() {
        return;
    }
    for number in ["40", "400"] {
        step(&[("MAQAM_EMULATED_FULL", number)]).succeeds();
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_in_a_sentence() {
    if !is_emulated() {
        return;
    }
    for (setting, value, code, words) in [
        (
            "MAQAM_EMULATED_DRIVER",
            "12040",
            2,
            "no NVIDIA GPU can be computed on: its driver knows CUDA 12.4\n",
        ),
        (
            "MAQAM_EMULATED_CAPABILITY",
            "75",
            2,
            "no NVIDIA GPU can be computed on: emulated GPU has compute capability 7.5\n",
        ),
        (
            "MAQAM_EMULATED_MEMORY_GIB",
            "0",
            4,
            "the GPU has no free memory: emulated GPU has 0.00 of 0.0 GB free\n",
        ),
    ] {
        let ran = step(&[(setting, value)]);
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(words) && ran.stderr.contains("hint: "),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_step_without_memory_says_what_fits() {
    if !is_emulated() {
        return;
    }
    let place = command::small_run(3);
    let train = |name: &str, variables: &[(&str, &str)]| {
        let name = format!("name={name}");
        let mut command = place.command(&["train", "recipe.yaml", "--device", "cuda"]);
        command
            .args(["--set", &name])
            .env("MAQAM_EMULATED_REPORT", "1")
            .envs(variables.iter().copied());
        command::outcome(command.output().unwrap())
    };
    // Allocations of a whole run, of which most are those of its steps.
    let told = train("whole", &[]).succeeds().stderr;
    let all = told
        .lines()
        .find_map(|line| line.split_once(" allocations, at most"))
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse::<usize>().ok())
        .unwrap();
    let in_a_step = (all / 2).to_string();
    let full = train("full", &[("MAQAM_EMULATED_TAKEN", &in_a_step)]);
    assert_eq!(full.code, Some(4), "{}", full.stderr);
    for words in [
        "a micro-batch of ",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "hint: about ",
        "--set memory.pack_tokens=",
    ] {
        assert!(full.stderr.contains(words), "{words}: {}", full.stderr);
    }
}

#[test]
fn a_default_pack_follows_from_the_gpu_and_stays_with_the_run() {
    if !is_emulated() {
        return;
    }
    let place = command::small_run(3);
    let train = |name: &str, gib: &str, rest: &[&str]| {
        let name = format!("name={name}");
        let mut command = place.command(&["train", "recipe.yaml", "--device", "cuda"]);
        command
            .args(["--set", &name])
            .args(rest)
            .env("MAQAM_EMULATED_MEMORY_GIB", gib);
        command::outcome(command.output().unwrap()).succeeds();
        let stored = place.bytes(&format!("runs/{}/recipe.yaml", &name[5..]));
        String::from_utf8(stored).unwrap()
    };
    assert!(train("large", "8", &[]).contains("  pack_tokens: 16384\n"));
    // Of 1 GiB nothing is left beside the driver and the workspace, by the rule for all memory.
    assert!(train("small", "1", &[]).contains("  pack_tokens: 8192\n"));
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000006")).unwrap();
    assert!(train("small", "8", &["--resume"]).contains("  pack_tokens: 8192\n"));
}

#[test]
fn a_profile_has_kernels_and_products() {
    if GPU.is_none() {
        return;
    }
    let found: Value = serde_json::from_str(&step(&[]).succeeds().stdout).unwrap();
    let rows = found["profile"].as_array().unwrap();
    let count = |name: &str| -> u64 {
        rows.iter()
            .filter(|row| row["name"] == name)
            .map(|row| row["count"].as_u64().unwrap())
            .sum()
    };
    // One layer, whose activation is computed again, one micro-batch; two layers of the audio
    // encoder and its two convolutions.
    assert_eq!(
        [
            "swiglu",
            "swiglu_backward",
            "cross_entropy",
            "adamw",
            "gelu"
        ]
        .map(count),
        [2, 1, 1, 1, 4]
    );
    assert!(count("product") > 20);
    for row in rows {
        let is_product =
            row["name"] == "product" || row["name"].as_str().unwrap().starts_with("attention");
        assert!(row["gb_per_s"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["tflop_per_s"].is_number(), is_product, "{row}");
    }
    assert!(
        found["host_seconds"].as_f64().unwrap() > 0.0
            && found["reserved_memory_gb"].as_f64().unwrap()
                >= found["peak_memory_gb"].as_f64().unwrap()
            && found["least_free_memory_gb"].as_f64().unwrap() > 0.0
    );
    let bits = u64::from_str_radix(found["losses_bits"][0].as_str().unwrap(), 16).unwrap();
    assert_eq!(f64::from_bits(bits), found["losses"][0].as_f64().unwrap());
}

#[test]
fn products_that_are_refused_are_made_in_parts() {
    if !is_emulated() {
        return;
    }
    for (setting, note) in [
        ("MAQAM_EMULATED_PLAIN_PRODUCTS", "is added apart"),
        ("MAQAM_EMULATED_EVEN_PRODUCTS", ""),
    ] {
        let (ran, passed, failed) = checked(&[(setting, "1")]);
        assert!(
            failed.is_empty() && passed.len() > 60,
            "{setting}: {failed:#?}"
        );
        assert!(ran.stderr.contains(note), "{setting}: {}", ran.stderr);
    }
}

#[test]
fn a_pass_of_two_layers_is_the_cpus() {
    if GPU.is_none() {
        return;
    }
    let ran = with(&["bench", "compare", "--tiny", "--device", "cuda"], &[]).succeeds();
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(line["least_cosine"].as_f64().unwrap() < 1.0, "two devices");
}

/// A training run on the GPU whose cache is in its place, with variables of its environment.
fn trained(
    place: &command::Place,
    name: &str,
    rest: &[&str],
    variables: &[(&str, &str)],
) -> String {
    let named = format!("name={name}");
    let every = "checkpoint.every=3";
    let arguments = [
        "train",
        "recipe.yaml",
        "--device",
        "cuda",
        "--set",
        &named,
        "--set",
        every,
    ];
    let mut command = place.command(&[&arguments[..], rest].concat());
    command
        .env("XDG_CACHE_HOME", place.path("cache"))
        .envs(variables.iter().copied());
    let ran = command::outcome(command.output().unwrap()).succeeds();
    ran.stderr
}

/// The choices in a folder's one file, by the key of their products, without the first line.
fn choices(place: &command::Place, folder: &str) -> Vec<Value> {
    let entries = std::fs::read_dir(place.path(folder)).unwrap();
    let mut files: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jsonl"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let mut lines = place.lines(&format!("{folder}/{}", files.remove(0)));
    assert!(lines[0]["gpu"].is_string() && lines[0]["cublaslt"].is_string());
    lines.remove(0);
    lines
}

/// Log and last checkpoint of a run.
fn results(place: &command::Place, run: &str) -> [Vec<u8>; 3] {
    let checkpoint = format!("runs/{run}/checkpoints/step-000006");
    [
        place.bytes(&format!("runs/{run}/log.jsonl")),
        place.bytes(&format!("{checkpoint}/adapter_model.safetensors")),
        place.bytes(&format!("{checkpoint}/optimiser.safetensors")),
    ]
}

const CACHE: &str = "cache/maqam/products";
const TWO: (&str, &str) = ("MAQAM_EMULATED_CANDIDATES", "2");

#[test]
fn timed_algorithms_are_stored_and_used_again() {
    if GPU.is_none() {
        return;
    }
    let place = command::small_run(3);
    trained(&place, "first", &[], &[TWO]);
    let stored = choices(&place, CACHE);
    assert!(!stored.is_empty());
    assert_eq!(choices(&place, "runs/first/products"), stored);

    trained(&place, "second", &[], &[TWO]);
    assert_eq!(choices(&place, CACHE), stored, "nothing is timed again");
    assert!(results(&place, "first") == results(&place, "second"));

    if !is_emulated() {
        return;
    }
    assert!(
        stored.iter().all(|choice| choice["candidate"] == 1),
        "{stored:#?}"
    );
    // The first algorithm sums in another order, so the choice was computed with.
    let off = [TWO, ("MAQAM_CUDA_AUTOTUNE", "0")];
    trained(&place, "off", &[], &off);
    assert!(!place.path("runs/off/products").exists());
    let [_, first, _] = results(&place, "first");
    let [_, library, _] = results(&place, "off");
    assert!(first != library);
    // So does a GPU whose library offers one algorithm: nothing is timed there.
    let one = [
        ("MAQAM_EMULATED_CANDIDATES", "1"),
        ("XDG_CACHE_HOME", "other"),
    ];
    trained(&place, "one", &[], &one);
    assert!(results(&place, "one") == results(&place, "off"));
    assert!(!place.path("other/maqam").exists());
}

#[test]
fn a_resumed_run_uses_its_own_algorithms() {
    if !is_emulated() {
        return;
    }
    let place = command::small_run(3);
    trained(&place, "whole", &[], &[TWO]);
    trained(&place, "resumed", &[], &[TWO]);
    let cut = |run: &str| {
        let last = format!("runs/{run}/checkpoints/step-000006");
        std::fs::remove_dir_all(place.path(&last)).unwrap();
    };
    cut("resumed");
    std::fs::remove_dir_all(place.path(CACHE)).unwrap();
    // Timing now prefers the other algorithm, which sums in another order.
    let other = [TWO, ("MAQAM_EMULATED_FASTEST", "0")];
    trained(&place, "resumed", &["--resume"], &other);
    assert!(results(&place, "whole") == results(&place, "resumed"));
    trained(&place, "anew", &[], &other);
    let candidates = choices(&place, CACHE);
    assert!(candidates.iter().all(|choice| choice["candidate"] == 0));
    assert!(results(&place, "whole") != results(&place, "anew"));
}

#[test]
fn a_stored_algorithm_may_be_refused_or_damaged() {
    if !is_emulated() {
        return;
    }
    let place = command::small_run(3);
    trained(&place, "first", &[], &[TWO]);
    let refusing = [TWO, ("MAQAM_EMULATED_REFUSED", "1")];
    let told = trained(&place, "refused", &[], &refusing);
    assert!(
        told.contains("cuBLASLt refuses the stored algorithm"),
        "{told}"
    );
    trained(&place, "off", &[], &[("MAQAM_CUDA_AUTOTUNE", "0")]);
    assert!(results(&place, "refused") == results(&place, "off"));

    let stored = choices(&place, CACHE);
    let file = std::fs::read_dir(place.path(CACHE))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"candidate\":1", "\"candidate\":", 1)).unwrap();
    let told = trained(&place, "second", &[], &[TWO]);
    assert!(
        told.contains(":2:") && told.contains("are timed again"),
        "{told}"
    );
    assert_eq!(choices(&place, CACHE).len(), stored.len());
    assert!(results(&place, "first") == results(&place, "second"));
}
