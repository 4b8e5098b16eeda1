//! Devices and precisions in commands and recipes, and the memory of training on a GPU, on a
//! machine without one.

use crate::command;

use command::Place;
use command::fixture;
use command::row;
use command::small_run;
use maqam::data::OnBadRow;
use maqam::data::read_manifest;
use maqam::featurise::Loader;
use maqam::models::config::Config;
use maqam::seed::Key;
use maqam::task::Mode;
use maqam::task::example_without_task;
use serde_json::Value;
use serde_json::json;

#[test]
fn a_benchmark_reports_work_and_time_by_part() {
    let arguments = [
        "bench", "train", "--shape", "tiny", "--layers", "2", "--work", "mix", "--clips", "4",
        "--steps", "2", "--device", "cpu",
    ];
    let ran = Place::new()
        .run(&[&arguments[..], &["--json", "--precision", "fp8"]].concat())
        .succeeds();
    assert_eq!(
        ran.stderr
            .matches("the CPU computes in f32 over values rounded to fp8")
            .count(),
        1,
        "{}",
        ran.stderr
    );
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&found["device"], &found["precision"], &found["save"]),
        (&"cpu".into(), &"fp8".into(), &"norms".into())
    );
    // One of each kind: 40 + 200 + 45, 60 + 250 + 4, 60 + 100 + 4, 40 + 1500 + 80.
    assert_eq!(
        (&found["tokens"], &found["target_tokens"]),
        (&(285 + 314 + 164 + 1620).into(), &(45 + 4 + 4 + 80).into())
    );
    let number = |name: &str| found[name].as_f64().unwrap();
    let seconds = number("seconds_per_step");
    assert!(
        (number("examples_per_s") * seconds / 4.0 - 1.0).abs() < 1e-9
            && (number("tokens_per_s") * seconds / 2383.0 - 1.0).abs() < 1e-9
    );
    // By hand: two layers of 4 heads of 32 with 2 key heads, 384 inside; 2048 tokens in the head;
    // two encoder layers of 128 and 512.
    let layers = 2.0 * (128.0 * 256.0 + 128.0 * 128.0 + 3.0 * 128.0 * 384.0);
    let tower = 2.0 * (4.0 * 128.0 * 128.0 + 2.0 * 128.0 * 512.0)
        + 3.0 * 128.0 * (128.0 + 128.0)
        + 128.0 * 128.0;
    let useful = 4.0 * layers * 2383.0 + 4.0 * 2048.0 * 128.0 * 133.0 + 2.0 * tower * 2.0 * 2050.0;
    assert!((number("useful_tflops") * seconds * 1e12 / useful - 1.0).abs() < 1e-9);
    let phases = found["phases_s"].as_object().unwrap();
    let names: Vec<&str> = phases
        .keys()
        .map(String::as_str)
        .filter(|name| *name != "encoder_backward")
        .collect();
    assert_eq!(
        names,
        [
            "encoder",
            "decoder_forward",
            "head",
            "decoder_backward",
            "optimiser"
        ]
    );
    assert!(
        phases
            .values()
            .all(|seconds| seconds.as_f64().unwrap() > 0.0)
    );
    assert_eq!(found["losses"].as_array().unwrap().len(), 2);
}

#[test]
fn an_unsupported_precision_is_one_note_on_the_cpu() {
    let place = small_run(2);
    place
        .run(&["train", "recipe.yaml", "--device", "cpu"])
        .succeeds();
    let ran = place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "name=bf16",
            "--set",
            "model.precision=bf16",
            "--device",
            "cpu",
        ])
        .succeeds();
    assert_eq!(
        ran.stderr
            .matches("`model.precision: bf16` takes effect on a GPU")
            .count(),
        1,
        "{}",
        ran.stderr
    );
    assert_eq!(
        place.bytes("runs/bf16/log.jsonl"),
        place.bytes("runs/small/log.jsonl")
    );
    assert!(
        place
            .text("runs/bf16/recipe.yaml")
            .contains("precision: bf16")
    );
    assert!(
        !place
            .text("runs/small/log.jsonl")
            .contains("\"kind\":\"device\""),
        "a log begins on the CPU"
    );
    let stored = place.text("runs/small/recipe.yaml");
    // What earlier versions wrote.
    place.write(
        "runs/small/recipe.yaml",
        stored.replace("precision: auto", "dtype: auto"),
    );
    place
        .run(&["train", "recipe.yaml", "--resume", "--device", "cpu"])
        .succeeds();
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "name=other",
            "--set",
            "model.precision=fp4",
        ])
        .fails(2, &["fp4"]);
    place
        .run(&["train", "recipe.yaml", "--device", "gpu"])
        .fails(2, &["gpu", "auto, cpu, cuda"]);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_that_this_build_cannot_use_is_refused() {
    let place = small_run(2);
    place
        .run(&["train", "recipe.yaml", "--device", "cuda"])
        .fails(2, &["--device cuda", "hint: ", "--features cuda"]);
    assert!(!place.path("runs").exists(), "nothing was begun");
    place
        .run(&["bench", "train", "--device", "cuda"])
        .fails(2, &["--device cuda"]);
}

#[test]
fn a_too_large_example_is_refused_only_in_training() {
    let place = Place::new();
    let rows = place.write_rows(
        "rows.jsonl",
        &[row("long", "a2.wav", "what is said?", "nothing")],
    );
    let rows = read_manifest(&rows, None, OnBadRow::Error).unwrap().rows;
    let dir = fixture("qwen_omni");
    let example = example_without_task(&rows[0]).unwrap();
    let config = Config::load(&dir).unwrap();
    let mut loader = Loader::new(&dir, &config, None).unwrap();
    let key = Key::new(1, "test");
    let tokens = loader
        .load(&example, Mode::Train, key)
        .unwrap()
        .sequence
        .tokens
        .len();
    loader.limit(tokens, "not said".to_owned(), String::new());
    assert!(loader.load(&example, Mode::Train, key).is_ok());
    loader.limit(
        tokens - 1,
        format!("the GPU has memory for {}", tokens - 1),
        "split the clip".to_owned(),
    );
    let refused = loader
        .load(&example, Mode::Train, key)
        .unwrap_err()
        .to_string();
    let begin = format!("row `long`: {tokens} tokens");
    assert!(
        refused.starts_with(&begin)
            && refused.contains(&format!("the GPU has memory for {}", tokens - 1))
            && refused.contains("hint: split the clip"),
        "{refused}"
    );
    assert!(
        loader.load(&example, Mode::Generate, key).is_ok(),
        "nothing is kept for a backward then"
    );
}

#[test]
fn a_plan_shows_the_memory_of_training_on_a_gpu() {
    let place = small_run(2);
    let plan = |rest: &[&str]| {
        place
            .run(&[&["plan", "recipe.yaml"], rest].concat())
            .succeeds()
            .stdout
    };
    assert!(!plan(&[]).lines().any(|line| line.starts_with("GPU")));
    let text = plan(&["--card", "80"]);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let begin = "GPU in bf16: frozen weights 0.00 GB + what is trained 0.00 GB + workspace 0.47 GB + a micro-batch of 16384 tokens";
    assert!(
        words.contains(begin)
            && words.contains("of 85.3 GB free")
            && words.contains("the largest micro-batch drawn has"),
        "{text}"
    );
    let fp8 = plan(&["--card", "80", "--set", "model.precision=fp8"]);
    assert!(fp8.contains("GPU     in fp8"), "{fp8}");
    let written = plan(&["--card", "80", "--set", "memory.pack_tokens=4096"]);
    let words = written.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("a micro-batch of 4096 tokens"), "{written}");
    // 60 MB remain after the driver's part and the workspace: not enough for 8192 tokens.
    let small = plan(&["--card", "1.05"])
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(
        small.contains("`memory.pack_tokens` is 8192, and")
            && small.contains("tokens fit the GPU: longer micro-batches are split"),
        "{small}"
    );
    let tiny = plan(&["--card", "0.9"])
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(
        tiny.contains("the training does not fit the GPU") && tiny.contains("hint:"),
        "{tiny}"
    );
    place
        .run(&["plan", "recipe.yaml", "--card", "0"])
        .fails(2, &["--gpu-memory"]);
}

#[test]
fn a_run_keeps_the_size_of_its_micro_batches() {
    let place = small_run(1);
    let train = |name: &str, rest: &[&str]| {
        let name = format!("name={name}");
        let arguments = ["train", "recipe.yaml", "--device", "cpu", "--set", &name];
        place.run(&[&arguments[..], rest].concat())
    };
    let stored = |name: &str| place.text(&format!("runs/{name}/recipe.yaml"));
    train("whole", &[]).succeeds();
    assert!(
        stored("whole").contains("  pack_tokens: 8192\n"),
        "{}",
        stored("whole")
    );
    train("short", &["--set", "memory.pack_tokens=64"]).succeeds();
    // A recipe that does not write it continues with what the run began with.
    train("short", &["--resume"]).succeeds();
    assert!(stored("short").contains("  pack_tokens: 64\n"));
    let other = ["--resume", "--set", "memory.pack_tokens=65"];
    train("short", &other).fails(2, &["`memory.pack_tokens` was `64`", "is `65` now"]);
    train("none", &["--set", "memory.pack_tokens=0"]).fails(2, &["`memory.pack_tokens` is 0"]);
}

#[test]
fn a_check_of_primitives_has_a_line_for_each() {
    let ran = Place::new()
        .run(&["bench", "check", "--tiny", "--device", "cpu"])
        .succeeds();
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        assert_eq!(line["passes"], true, "{line}");
        assert!(
            line["rows_checked"].as_u64().unwrap() > 0 && line["seconds"].as_f64().unwrap() >= 0.0
        );
        assert!(line["largest_error"].as_f64().unwrap() <= line["bar"].as_f64().unwrap());
    }
    // Two batches, an odd one for 8 bits, three lengths.
    let count = |name: &str| {
        lines
            .iter()
            .filter(|line| line["primitive"] == name)
            .count()
    };
    assert_eq!(
        [
            "linear_down",
            "fp8_down_backward",
            "attention_backward",
            "adamw"
        ]
        .map(count),
        [2, 2, 3, 1]
    );

    let some = Place::new()
        .run(&[
            "bench", "check", "--tiny", "--device", "cpu", "--only", "swiglu", "--only", "gather",
        ])
        .succeeds();
    assert_eq!(some.stdout.lines().count(), 4);
    Place::new()
        .run(&["bench", "check", "--tiny", "--only", "gemm"])
        .fails(2, &["no primitive `gemm`", "hint: use some of attention"]);
}

#[test]
fn a_comparison_with_the_cpu_has_every_adapter() {
    let ran = Place::new()
        .run(&["bench", "compare", "--tiny", "--device", "cpu"])
        .succeeds();
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&line["passes"], &line["tokens"]),
        (&true.into(), &340.into())
    );
    // Two layers of seven projections, A and B of each.
    let gradients = line["gradients"].as_array().unwrap();
    assert_eq!(gradients.len(), 2 * 7 * 2);
    for gradient in gradients {
        assert!(
            gradient["cosine"].as_f64().unwrap() > 0.999,
            "an adapter without a gradient has no direction: {gradient}"
        );
    }
}

/// Generation: a line for each batch, whose counts are those that were asked for.
#[test]
fn generation_is_timed_for_each_batch() {
    let place = crate::command::Place::new();
    let short = ["--seconds", "1", "--new-tokens", "3", "--runs", "1"];
    let command = ["bench", "generate", "--batch", "1,2", "--json"];
    let checkpoint = crate::command::fixture_text("qwen2_audio");
    for model in [
        &["--shape", "tiny", "--layers", "2"][..],
        &["--model", &checkpoint],
    ] {
        let arguments = [&command[..], &short, model, &["--device", "cpu"]].concat();
        let stdout = place.run(&arguments).succeeds().stdout;
        let lines: Vec<Value> = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{stdout}");
        for (line, batch) in lines.iter().zip([1u64, 2]) {
            assert_eq!(
                (&line["batch"], &line["new_tokens"]),
                (&json!(batch), &json!(3))
            );
            // 25 audio tokens and 32 others in each prompt.
            assert_eq!(line["prompt_tokens"], json!(batch * (25 + 32)));
            let number = |name: &str| line[name].as_f64().unwrap();
            assert!(number("prefill_s") > 0.0 && number("prefill_tokens_per_s") > 0.0);
            assert!(number("generate_s") > 0.0 && number("decode_tokens_per_s") > 0.0);
        }
    }
    for (wrong, words) in [
        (["--new-tokens", "1"], "--new-tokens counts from 2"),
        (["--runs", "0"], "count from 1"),
    ] {
        let arguments = [&["bench", "generate"][..], &wrong].concat();
        place.run(&arguments).fails(2, &[words]);
    }
}

/// Reading alone, of all steps of a recipe: the counts are those of its rows.
#[test]
fn reading_of_a_recipe_is_timed() {
    let place = crate::command::small_run(6);
    let outcome = place
        .run(&[
            "bench",
            "data",
            "recipe.yaml",
            "--steps",
            "6",
            "--step-seconds",
            "0.2",
            "--json",
        ])
        .succeeds();
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    place
        .run(&["plan", "recipe.yaml", "--picks", "picks.jsonl"])
        .succeeds();
    let picks = place.lines("picks.jsonl");
    let num_rows: usize = picks[..6]
        .iter()
        .map(|step| step["ids"].as_array().unwrap().len())
        .sum();
    assert_eq!(
        (&found["steps"], &found["rows"]),
        (&json!(6), &json!(num_rows))
    );
    assert_eq!(found["skipped"], 0);
    assert_eq!(found["seconds"].as_array().unwrap().len(), 6);
    // A step of 0.2 s hides most of the reading of a few short clips.
    let share = found["waiting_share"].as_f64().unwrap();
    assert!((0.0..0.5).contains(&share), "{share}");
    for rate in [
        "rows_per_s",
        "audio_hours_per_minute",
        "audio_hours",
        "tokens_per_s",
    ] {
        assert!(found[rate].as_f64().unwrap() > 0.0, "{rate}: {found}");
    }

    let text = place
        .run(&[
            "bench",
            "data",
            "recipe.yaml",
            "--steps",
            "2",
            "--step-seconds",
            "1e-9",
        ])
        .succeeds()
        .stdout;
    assert!(text.starts_with("2 steps of "), "{text}");
    assert!(text.contains(" hours per minute"), "{text}");
    assert!(text.contains("waiting   100.0 % of the time"), "{text}");
    place
        .run(&[
            "bench",
            "data",
            "recipe.yaml",
            "--set",
            "model.path=someone/absent",
        ])
        .fails(
            2,
            &[
                "model.path: `someone/absent` is not on this machine",
                "hint: ",
            ],
        );
    place
        .run(&["bench", "data", "recipe.yaml", "--step-seconds", "0"])
        .fails(2, &["--step-seconds is no time"]);
    place
        .run(&[
            "bench",
            "data",
            "recipe.yaml",
            "--steps",
            "1",
            "--step-seconds",
            "1",
        ])
        .fails(2, &["--step-seconds with one step"]);
}
