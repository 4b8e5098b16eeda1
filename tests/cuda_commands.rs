//! The commands on a card: training, its one wait a step, resuming on either device, diverging, scoring, generating, benchmarks. It takes a
//! build with the feature `cuda` and a card, or the emulated driver of `tests/cuda/driver`.
#![cfg(feature = "cuda")]

mod card;
mod command;
mod golden;

use candle_core::Tensor;
use card::CARD;
use golden::numbers;

/// Relative error of a loss: what sums of products of 8 significant bits may differ by.
const LOSS_BAR: f64 = 1e-3;

/// How often a run waited for the card and how often for a reading of it, of the emulated driver's report; `None` of a card's run.
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
fn a_step_waits_for_the_card_once_however_it_is_split() {
    if CARD.is_none() {
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

    // The third step was heard ahead there; a run that goes on with it hears it as it comes.
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

/// Nothing that hears is trained, so it is heard ahead.
const FROZEN: &str = "train={decoder: lora}";

/// A learning rate that throws the weights out of what can be computed: the run stops as it does on the CPU, and before they move again.
#[test]
fn a_run_that_diverges_keeps_the_weights_it_had() {
    if CARD.is_none() {
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
fn a_run_on_the_card_resumes_bit_for_bit_and_either_device_goes_on_with_the_others() {
    if CARD.is_none() {
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

    // Three steps on one device, three on the other; by removing what came after the third.
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
        let (losses, of) = (
            last_losses(&place, name),
            place.lines(&format!("runs/{name}/log.jsonl")),
        );
        for (found, expected) in losses.iter().zip(&whole) {
            assert!(
                (found / expected - 1.0).abs() < 0.01,
                "{name}: {losses:?}, on the card {whole:?}"
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
fn the_commands_compute_on_the_card() {
    if CARD.is_none() {
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
            "{found} on the card, {expected} on the CPU"
        );
    }
    let (found, expected) = (
        place.tensors(&run("embed", "cuda", &[])),
        place.tensors(&run("embed", "cpu", &[])),
    );
    assert!(command::distance(&found["a"], &expected["a"]) < 0.01);
    let lines = place.lines(&run("generate", "cuda", &["--max-new-tokens", "3"]));
    assert!(lines.iter().all(|line| numbers(&line["tokens"]).len() <= 3) && lines.len() == 2);
}

#[test]
fn a_benchmark_on_the_card_says_what_it_took() {
    if CARD.is_none() {
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
