//! The program among hostile surroundings: outputs that are no files, printers that fail, disks and
//! memories that end, inputs without end, signals, and what dead processes left.

#![cfg(unix)]

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use command::Outcome;
use command::Place;
use command::asr_rows;
use command::fixture_text;
use command::outcome;
use command::row;
use command::small_run;
use serde_json::Value;
use serde_json::json;

use crate::command;

/// Rows of two clips, as `features`, `embed`, `score` and `generate` read them.
fn place() -> Place {
    let place = Place::new();
    place.write_rows(
        "rows.jsonl",
        &[
            row("a", "a1.wav", "What is said?", "yes"),
            row("b", "a3.wav", "What is said?", "no"),
        ],
    );
    place.write_rows(
        "predictions.jsonl",
        &[
            json!({"id": "a", "prediction": "one two", "reference": "one too"}),
            json!({"id": "b", "prediction": "three", "reference": "three"}),
        ],
    );
    place.write_rows("asr.jsonl", &asr_rows());
    write_suite(&place);
    place.write(
        "recipe.yaml",
        format!(
            "name: small\nmodel: {{path: {}}}\ntrain: {{decoder: lora}}\ndata: [{{manifest: asr.jsonl, task: asr}}]\nschedule: {{batch: 2, stages: [{{name: one, tasks: all, steps: 2}}]}}\n",
            fixture_text("qwen_omni")
        ),
    );
    place
}

/// A suite of instructions about `asr.jsonl`, and an answer to each of its rows.
fn write_suite(place: &Place) {
    let build =
        "instructions build --data asr.jsonl --task asr --rows 2 --ask asr --out asked.jsonl";
    place.run(&build.split(' ').collect::<Vec<_>>()).succeeds();
    let answers: Vec<Value> = place
        .text("asked.jsonl")
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            json!({"id": row["id"], "prediction": "yes"})
        })
        .collect();
    place.write_rows("answers.jsonl", &answers);
}

/// Every command that writes one file, with `OUT` in its place.
fn writers() -> Vec<Vec<String>> {
    let model = fixture_text("qwen_omni");
    let with_model = |command: &str| {
        format!("{command} --device cpu --model {model} --data rows.jsonl --out OUT")
    };
    [
        "features --data rows.jsonl --out OUT".to_owned(),
        with_model("embed"),
        with_model("score"),
        format!("{} --max-new-tokens 2", with_model("generate")),
        "metrics --task asr --predictions predictions.jsonl --alignments OUT".to_owned(),
        "plan recipe.yaml --device cpu --picks OUT".to_owned(),
        "plan recipe.yaml --device cpu --html OUT".to_owned(),
        "instructions build --data asr.jsonl --task asr --rows 2 --ask asr --out OUT".to_owned(),
        "instructions score --suite asked.jsonl --predictions answers.jsonl --out OUT".to_owned(),
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

/// The arguments with another output.
fn to<'a>(arguments: &'a [String], out: &'a str) -> Vec<&'a str> {
    arguments
        .iter()
        .map(|argument| if argument == "OUT" { out } else { argument })
        .collect()
}

/// A command started by a shell that sets limits first.
fn limited(place: &Place, limits: &str, arguments: &[&str]) -> Outcome {
    let maqam = place.command(&[]);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{limits}; exec \"$@\""))
        .arg("sh")
        .arg(maqam.get_program())
        .args(arguments)
        .current_dir(place.path(""))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", place.path("no-cache"))
        .stdin(Stdio::null());
    outcome(command.output().unwrap())
}

/// Returns whether two outputs are the same; a plan's page has a newly measured speed, so its ends
/// are compared.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let is_page = |bytes: &[u8]| bytes.starts_with(b"<!DOCTYPE") && bytes.ends_with(b"</html>\n");
    a == b || (is_page(a) && is_page(b))
}

/// Names of the files under way in a folder and below it.
fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with(".writing-") || name.starts_with(".old-") {
            found.push(name);
        } else if entry.path().is_dir() {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn an_output_is_a_file_a_link_or_a_pipe() {
    let place = place();
    make_fifo(&place.path("pipe"));
    symlink("target", place.path("link")).unwrap();
    symlink("fresh/target", place.path("dangling")).unwrap();
    for writer in writers() {
        place.run(&to(&writer, "file")).succeeds();
        let expected = place.bytes("file");

        place.write("target", "before");
        for (link, target) in [("link", "target"), ("dangling", "fresh/target")] {
            place.run(&to(&writer, link)).succeeds();
            assert!(place.path(link).is_symlink(), "{writer:?}");
            assert!(is_same(&place.bytes(target), &expected), "{writer:?}");
        }
        std::fs::remove_dir_all(place.path("fresh")).unwrap();

        let child = place.command(&to(&writer, "pipe")).spawn().unwrap();
        let came = place.bytes("pipe");
        outcome(child.wait_with_output().unwrap()).succeeds();
        assert!(
            std::fs::symlink_metadata(place.path("pipe"))
                .unwrap()
                .file_type()
                .is_fifo(),
            "{writer:?}"
        );
        assert!(is_same(&came, &expected), "{writer:?}");
        assert_eq!(leftovers(&place.path("")), [""; 0], "{writer:?}");
    }
}

#[test]
fn a_device_is_written_through_and_stays() {
    let place = place();
    let null = place.path("null");
    let made = Command::new("mknod")
        .arg(&null)
        .args(["c", "1", "3"])
        .status()
        .is_ok_and(|status| status.success());
    let opens = made && File::options().write(true).open(&null).is_ok();
    if !opens {
        eprintln!("no device can be made here: it takes the superuser");
        return;
    }
    symlink("null", place.path("link")).unwrap();
    for writer in writers() {
        for name in ["null", "link"] {
            place.run(&to(&writer, name)).succeeds();
            let kind = std::fs::symlink_metadata(&null).unwrap().file_type();
            assert!(
                kind.is_char_device() && place.path("link").is_symlink(),
                "{writer:?}"
            );
        }
    }
    // A folder is no place for a device, and a device no place for a folder.
    let export = [
        "export",
        "--model",
        &fixture_text("qwen_omni"),
        "--adapter",
        "a",
        "--out",
        "null",
    ];
    assert_eq!(place.run(&export).code, Some(2));
    assert!(
        std::fs::symlink_metadata(&null)
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn the_standard_output_can_be_named_as_an_output() {
    let place = place();
    let arguments =
        |out: &str| ["features", "--data", "rows.jsonl", "--out", out].map(str::to_owned);
    place.run(&to(&arguments("file"), "")).succeeds();
    let expected = place.bytes("file");
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let found = place.command(&to(&arguments(name), "")).output().unwrap();
        assert!(found.status.success() && found.stdout == expected, "{name}");
        // The earlier contents of the file stay.
        place.write("log", "before ");
        let log = File::options()
            .append(true)
            .open(place.path("log"))
            .unwrap();
        let mut command = place.command(&to(&arguments(name), ""));
        assert!(command.stdout(log).status().unwrap().success());
        assert_eq!(
            place.bytes("log"),
            [b"before ".as_slice(), &expected].concat()
        );
    }
    let closed = place.run(&to(&arguments("/dev/fd/77"), ""));
    closed.fails(2, &["/dev/fd/77", "hint: choose another place"]);
}

/// Commands that print a result and nothing but it.
fn printers() -> Vec<Vec<&'static str>> {
    [
        "metrics --task asr --predictions predictions.jsonl",
        "metrics --task asr --predictions predictions.jsonl --json",
        "plan recipe.yaml --device cpu",
        "instructions build --data asr.jsonl --task asr --rows 2 --ask asr --out suite.jsonl",
        "instructions score --suite asked.jsonl --predictions answers.jsonl",
        "instructions score --suite asked.jsonl --predictions answers.jsonl --json",
        "bench train --device cpu --clips 1 --steps 1 --warm-up 0",
        "bench train --device cpu --clips 1 --steps 1 --warm-up 0 --json",
        "bench check --device cpu --tiny --only swiglu",
        "bench compare --device cpu --tiny",
        "--help",
        "train --help",
        "--version",
    ]
    .iter()
    .map(|line| line.split(' ').collect())
    .collect()
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let place = place();
    for printer in printers() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = outcome(place.command(&printer).stdout(writer).output().unwrap());
        assert_eq!(ran.code, Some(0), "{printer:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}

#[test]
fn a_full_device_is_an_error_of_the_machine() {
    let place = place();
    for printer in printers() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = outcome(place.command(&printer).stdout(full).output().unwrap());
        assert_eq!(ran.code, Some(4), "{printer:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("error: standard output: cannot print")
                && !ran.stderr.contains("panicked"),
            "{printer:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn nothing_that_cannot_be_printed_ends_a_training() {
    let undisturbed = small_run(2);
    undisturbed
        .run(&["train", "recipe.yaml", "--device", "cpu"])
        .succeeds();
    let log = undisturbed.text("runs/small/log.jsonl");
    for broken in ["full", "closed"] {
        let place = small_run(2);
        let sink = || -> Stdio {
            match broken {
                "full" => File::options()
                    .write(true)
                    .open("/dev/full")
                    .unwrap()
                    .into(),
                _ => std::io::pipe().unwrap().1.into(),
            }
        };
        let mut command = place.command(&["train", "recipe.yaml", "--device", "cpu"]);
        let status = command.stdout(sink()).stderr(sink()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{broken}");
        assert_eq!(place.text("runs/small/log.jsonl"), log, "{broken}");
        // A fault keeps its exit code, whether or not it can be printed.
        let mut command = place.command(&["train", "recipe.yaml", "--device", "cpu"]);
        let status = command.stdout(sink()).stderr(sink()).status().unwrap();
        assert_eq!(status.code(), Some(2), "{broken}");
    }
}

#[test]
fn a_full_disk_costs_only_the_output() {
    let place = place();
    for writer in writers() {
        // In blocks of 512 bytes: every write fails, or the first one after the limit.
        for blocks in [0, 1] {
            let ran = limited(&place, &format!("ulimit -f {blocks}"), &to(&writer, "out"));
            if ran.code == Some(0) {
                // What is shorter than a block was written.
                assert!(place.bytes("out").len() <= 512 * blocks, "{writer:?}");
                std::fs::remove_file(place.path("out")).unwrap();
                continue;
            }
            assert_eq!(ran.code, Some(4), "{writer:?}: {}", ran.stderr);
            assert!(
                ran.stderr.contains("out: cannot write") && !ran.stderr.contains("panicked"),
                "{writer:?}: {}",
                ran.stderr
            );
            assert!(!place.path("out").exists(), "{writer:?}");
            assert_eq!(leftovers(&place.path("")), [""; 0], "{writer:?}");
        }
    }
}

#[test]
fn a_full_disk_in_training_costs_no_finished_step() {
    let undisturbed = small_run(2);
    undisturbed
        .run(&["train", "recipe.yaml", "--device", "cpu"])
        .succeeds();
    let state = "runs/small/checkpoints/step-000004/state.json";
    for blocks in [0, 4, 40] {
        let place = small_run(2);
        let arguments = ["train", "recipe.yaml", "--device", "cpu"];
        let ran = limited(&place, &format!("ulimit -f {blocks}"), &arguments);
        assert_eq!(ran.code, Some(4), "{blocks}: {}", ran.stderr);
        place
            .run(&["train", "recipe.yaml", "--device", "cpu", "--resume"])
            .succeeds();
        for name in ["runs/small/log.jsonl", state] {
            assert_eq!(place.text(name), undisturbed.text(name), "{blocks}: {name}");
        }
        assert_eq!(leftovers(&place.path("")), [""; 0]);
    }
}

/// Commands that work on a run, on a checkpoint or on a suite, with what each of them writes.
const OF_RUNS: [(&str, &str); 6] = [
    ("report runs/small --out page.html", "page.html"),
    (
        "export --model MODEL --adapter runs/small/checkpoints/step-000004 --out merged",
        "merged",
    ),
    (
        "export --model MODEL --adapter runs/small/checkpoints/step-000004 --form peft --out peft",
        "peft",
    ),
    (
        "eval suite.yaml --model MODEL --prompts prompts --device cpu --resamples 100 --out judged --answers answers",
        "judged/base/scores.json",
    ),
    (
        "compare evaluated/base evaluated/again --out compared",
        "compared/report.html",
    ),
    (
        "experiment experiment.yaml --device cpu --allow-leakage",
        "runs/pair/comparison.json",
    ),
];

/// A run that was trained, and a suite.
fn trained() -> Place {
    let place = small_run(2);
    place
        .run(&["train", "recipe.yaml", "--device", "cpu"])
        .succeeds();
    place.write(
        "suite.yaml",
        "role: test\nsets: [{name: words, manifest: asr.jsonl, task: asr, metrics: [wer]}]\n",
    );
    let wordings = ["train", "dev", "test"]
        .map(|set| format!("{set}: {{en: [\"{set} one\", \"{set} two\"]}}"));
    place.write(
        "prompts/asr.yaml",
        format!(
            "# A task.\nkind: transcribe\nanswer: {{format: text, max_new_tokens: 4}}\ninstructions: {{{}}}\n",
            wordings.join(", ")
        ),
    );
    let words = words(
        "eval suite.yaml --model MODEL --prompts prompts --device cpu --resamples 100 --out evaluated --answers answers",
    );
    place
        .run(&words.iter().map(String::as_str).collect::<Vec<_>>())
        .succeeds();
    std::fs::create_dir(place.path("evaluated/again")).unwrap();
    for entry in std::fs::read_dir(place.path("evaluated/base")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(
            entry.path(),
            place.path("evaluated/again").join(entry.file_name()),
        )
        .unwrap();
    }
    place.write(
        "experiment.yaml",
        "\
name: pair
recipes:
  - {name: one, recipe: recipe.yaml, set: ['schedule.stages=[{tasks: all, steps: 1}]']}
  - {name: two, recipe: recipe.yaml, set: ['schedule.stages=[{tasks: all, steps: 1, draw: balanced}]']}
seeds: [{initialisation: 1, order: 11}, {initialisation: 2, order: 12}]
test: suite.yaml
resamples: 50
",
    );
    place
}

fn words(line: &str) -> Vec<String> {
    line.replace("MODEL", &fixture_text("qwen_omni"))
        .split(' ')
        .map(str::to_owned)
        .collect()
}

#[test]
fn commands_on_runs_fail_as_disk_and_printer_do() {
    let place = trained();
    for (line, written) in OF_RUNS {
        let words = words(line);
        let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        let remove = || {
            for name in [
                "page.html",
                "merged",
                "peft",
                "judged",
                "compared",
                "runs/pair",
            ] {
                let _ = std::fs::remove_dir_all(place.path(name));
                let _ = std::fs::remove_file(place.path(name));
            }
        };
        for blocks in [0, 2] {
            let ran = limited(&place, &format!("ulimit -f {blocks}"), &arguments);
            // An adapter's configuration alone may fit into the limit, its tensors do not.
            assert_eq!(ran.code, Some(4), "{line}: {}", ran.stderr);
            assert!(!place.path(written).exists(), "{line}");
            assert_eq!(leftovers(&place.path("")), [""; 0], "{line}");
        }
        remove();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = outcome(place.command(&arguments).stdout(full).output().unwrap());
        assert_eq!(ran.code, Some(4), "{line}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("standard output"),
            "{line}: {}",
            ran.stderr
        );
        // The work was done all the same.
        assert!(place.path(written).exists(), "{line}");
        remove();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = outcome(place.command(&arguments).stdout(writer).output().unwrap());
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
        assert!(place.path(written).exists(), "{line}");
        remove();
    }
}

#[test]
fn no_limit_of_memory_ends_in_an_abort() {
    let place = place();
    let long: Vec<_> = (0..40_000)
        .map(|i| json!({"id": i.to_string(), "prediction": "one two three", "reference": "one"}))
        .collect();
    place.write_rows("long.jsonl", &long);
    let model = fixture_text("qwen_omni");
    let commands: [&[&str]; 3] = [
        &["metrics", "--task", "asr", "--predictions", "long.jsonl"],
        &["features", "--data", "rows.jsonl", "--out", "f.safetensors"],
        &[
            "score",
            "--device",
            "cpu",
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            "s.jsonl",
        ],
    ];
    // In KiB, from hardly enough to begin with.
    let begins = |limit: &u32| {
        let ran = limited(&place, &format!("ulimit -v {limit}"), &["--version"]);
        [Some(0), Some(4)].contains(&ran.code)
    };
    let least = (1..200).map(|i| 20_000 * i).find(begins).unwrap();
    let mut failed = 0;
    for command in commands {
        for more in [0, 20_000, 60_000, 80_000, 120_000, 200_000] {
            let limit = least + more;
            let ran = limited(&place, &format!("ulimit -v {limit}"), command);
            assert!(
                [Some(0), Some(4)].contains(&ran.code),
                "{command:?} in {limit} KiB: {:?}\n{}",
                ran.code,
                ran.stderr
            );
            failed += usize::from(ran.code == Some(4));
            if ran.code == Some(4) {
                assert!(ran.stderr.contains("error: "), "{}", ran.stderr);
            }
        }
    }
    assert!(failed > 0, "some limit is too low for some command");
}

#[test]
fn inputs_without_end_are_refused() {
    let place = place();
    let model = place.copy("qwen_omni", "model");
    let model = model.to_str().unwrap();
    std::fs::remove_file(place.path("model/config.json")).unwrap();
    symlink("/dev/zero", place.path("model/config.json")).unwrap();
    symlink("/dev/zero", place.path("zero.yaml")).unwrap();
    symlink("/dev/zero", place.path("zero.parquet")).unwrap();
    let commands: [&[&str]; 9] = [
        &["features", "--data", "/dev/zero", "--out", "o"],
        &["features", "--data", "zero.parquet", "--out", "o"],
        &["metrics", "--task", "asr", "--predictions", "/dev/zero"],
        &[
            "metrics",
            "--task",
            "asr",
            "--predictions",
            "predictions.jsonl",
            "--references",
            "/dev/zero",
        ],
        &[
            "metrics",
            "--task",
            "emotion",
            "--predictions",
            "predictions.jsonl",
            "--labels",
            "zero.yaml",
        ],
        &["train", "zero.yaml"],
        &["eval", "zero.yaml", "--model", model],
        &[
            "score",
            "--model",
            model,
            "--data",
            "rows.jsonl",
            "--out",
            "o",
        ],
        &[
            "instructions",
            "score",
            "--suite",
            "/dev/zero",
            "--predictions",
            "predictions.jsonl",
        ],
    ];
    for command in commands {
        let started = Instant::now();
        let ran = limited(&place, "ulimit -v 4000000", command);
        assert_eq!(ran.code, Some(2), "{command:?}: {}", ran.stderr);
        assert!(started.elapsed() < Duration::from_secs(20), "{command:?}");
    }
    // Files next to the weights: a template is ignored, an adapter is refused, and maqam waits for
    // neither a device nor a pipe.
    place.copy("qwen_omni", "odd");
    for (name, is_pipe) in [
        ("processor_config.json", true),
        ("chat_template.json", false),
        ("chat_template.jinja", true),
    ] {
        let path = place.path("odd").join(name);
        let _ = std::fs::remove_file(&path);
        if is_pipe {
            make_fifo(&path);
        } else {
            symlink("/dev/zero", &path).unwrap();
        }
    }
    let score = |more: &[&str]| {
        let fixed = [
            "score",
            "--device",
            "cpu",
            "--model",
            "odd",
            "--data",
            "rows.jsonl",
            "--out",
            "o",
        ];
        let limits = "ulimit -v 4000000; set -- timeout 20 \"$@\"";
        limited(&place, limits, &[&fixed[..], more].concat())
    };
    score(&[]).succeeds();
    for (name, is_pipe) in [("piped", true), ("linked", false)] {
        std::fs::create_dir(place.path(name)).unwrap();
        let path = place.path(name).join("adapter_config.json");
        if is_pipe {
            make_fifo(&path);
        } else {
            symlink("/dev/zero", &path).unwrap();
        }
        score(&["--adapter", name]).fails(2, &["adapter_config.json"]);
    }
    // A line without an end that holds no zero byte.
    let long = format!("{{\"id\": \"{}", "x".repeat(17 << 20));
    place.write("long.jsonl", &long);
    for command in [
        ["features", "--data", "long.jsonl", "--out", "o"],
        ["metrics", "--predictions", "long.jsonl", "--task", "asr"],
    ] {
        limited(&place, "ulimit -v 4000000", &command)
            .fails(2, &["long.jsonl:1: the line is longer than 16 MiB"]);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_pipe() {
    let place = place();
    make_fifo(&place.path("pipe"));
    let metrics = ["metrics", "--task", "asr", "--predictions", "pipe"];
    let expected = place
        .run(&[
            "metrics",
            "--task",
            "asr",
            "--predictions",
            "predictions.jsonl",
        ])
        .succeeds()
        .stdout;
    let child = place.command(&metrics).spawn().unwrap();
    std::fs::write(place.path("pipe"), place.bytes("predictions.jsonl")).unwrap();
    let ran = outcome(child.wait_with_output().unwrap()).succeeds();
    assert_eq!(ran.stdout, expected);

    let waits: [&[&str]; 3] = [
        &metrics,
        &["train", "pipe"],
        &["features", "--data", "rows.jsonl", "--out", "pipe"],
    ];
    for command in waits {
        for signal in ["-TERM", "-INT"] {
            let mut child = place.command(command).spawn().unwrap();
            wait_for_handler(child.id());
            std::thread::sleep(Duration::from_millis(1000));
            assert!(child.try_wait().unwrap().is_none(), "{command:?} waits");
            let pid = child.id().to_string();
            Command::new("kill").args([signal, &pid]).status().unwrap();
            let started = Instant::now();
            let ran = outcome(child.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(130), "{command:?}: {}", ran.stderr);
            assert!(started.elapsed() < Duration::from_secs(10), "{command:?}");
        }
    }
}

/// Waits until a process handles a termination itself.
fn wait_for_handler(process: u32) {
    for _ in 0..1000 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
        if caught & (1 << (libc::SIGTERM - 1)) != 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no handler was set");
}

#[test]
fn wrong_input_is_never_called_a_bug() {
    let place = place();
    let model = fixture_text("qwen_omni");
    // Rust's own padding ends at 65,535 columns.
    let label = "x".repeat(65_536);
    place.write_rows(
        "labels.jsonl",
        &[
            json!({"id": "a", "prediction": label, "reference": "happy"}),
            json!({"id": "b", "prediction": "sad", "reference": label}),
        ],
    );
    let ran = place.run(&[
        "metrics",
        "--task",
        "emotion",
        "--predictions",
        "labels.jsonl",
    ]);
    assert_ne!(ran.code, Some(1), "{}", ran.stderr);
    place
        .run(&["metrics", "--task", "asr", "--predictions", "labels.jsonl"])
        .succeeds();
    place.write_rows(
        "label.jsonl",
        &[json!({"audio": fixture_text("audio/a1.wav"), "label": label})],
    );
    let run = |command: &str, model: &str, data: &str, more: &[&str]| {
        let fixed = [
            command, "--device", "cpu", "--model", model, "--data", data, "--out", "o",
        ];
        place.run(&[&fixed[..], more].concat())
    };
    run("score", &model, "label.jsonl", &["--task", "emotion"])
        .fails(2, &["is not in the inventory of task `emotion`"]);
    for limit in ["18446744073709551615", "9223372036854775807"] {
        run(
            "generate",
            &model,
            "rows.jsonl",
            &["--max-new-tokens", limit],
        )
        .fails(2, &["the model's longest sequence"]);
    }

    place.write_rows("nul.jsonl", &[json!({"audio": "a\u{0}b.wav", "text": "x"})]);
    run("score", &model, "nul.jsonl", &["--task", "asr"]).fails(2, &["nul.jsonl:1"]);
    for (name, kind) in [("folder", true), ("looped", false)] {
        place.copy("qwen_omni", name);
        let weights = place.path(name).join("model-00001-of-00002.safetensors");
        std::fs::remove_file(&weights).unwrap();
        if kind {
            std::fs::create_dir(&weights).unwrap();
        } else {
            symlink("model-00001-of-00002.safetensors", &weights).unwrap();
        }
        let ran = run("score", name, "rows.jsonl", &[]);
        assert_eq!(ran.code, Some(2), "{name}: {}", ran.stderr);
    }
}

#[test]
fn every_bad_clip_is_listed_and_others_are_written() {
    let place = place();
    let mut rows: Vec<_> = (0..4)
        .map(|i| row(&format!("r{i}"), "a1.wav", "What is said?", "yes"))
        .collect();
    for i in [1, 3] {
        let path = place.write(&format!("bad{i}.wav"), "RIFF but no more");
        rows[i]["audios"] = json!([path]);
    }
    place.write_rows("mixed.jsonl", &rows);
    place.write_rows("good.jsonl", &[rows[0].clone(), rows[2].clone()]);
    place.write_rows("bad.jsonl", &[rows[1].clone(), rows[3].clone()]);
    for writer in writers()
        .iter()
        .filter(|writer| writer.contains(&"rows.jsonl".to_owned()))
    {
        let with = |data: &str, out: &str| {
            let writer = to(writer, out);
            let line = writer
                .iter()
                .map(|word| if *word == "rows.jsonl" { data } else { word });
            place.run(&line.collect::<Vec<_>>())
        };
        let ran = with("mixed.jsonl", "mixed");
        assert_eq!(ran.code, Some(2), "{writer:?}: {}", ran.stderr);
        for said in [
            "2 of 4 rows cannot be used",
            "bad1.wav",
            "bad3.wav",
            "holds the other 2",
        ] {
            assert!(
                ran.stderr.contains(said),
                "{writer:?}: no `{said}` in {}",
                ran.stderr
            );
        }
        assert_eq!(ran.stderr.matches("bad1.wav").count(), 1, "{}", ran.stderr);
        with("good.jsonl", "good").succeeds();
        assert_eq!(place.bytes("mixed"), place.bytes("good"), "{writer:?}");
        // Where no row can be used nothing is written.
        let ran = with("bad.jsonl", "bad");
        assert_eq!(ran.code, Some(2), "{writer:?}");
        assert!(ran.stderr.contains("2 of 2 rows") && !place.path("bad").exists());
        for name in ["mixed", "good"] {
            std::fs::remove_file(place.path(name)).unwrap();
        }
    }
}

#[test]
fn a_name_that_no_folder_can_have_is_refused() {
    let place = place();
    let long = "n".repeat(300);
    for name in ["a\nb", "a\u{1b}[31mb", "a/b", ".a", &long] {
        let name = format!("name={}", json!(name));
        let ran = place.run(&["train", "recipe.yaml", "--set", &name]);
        assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
        ran.fails(2, &["cannot name a folder"]);
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn no_control_character_reaches_the_terminal() {
    let place = Place::new();
    let title = "\u{1b}]0;owned\u{7}\u{9b}2J";
    place.write_rows(
        "predictions.jsonl",
        &[
            json!({"id": title, "prediction": "x", "reference": "x"}),
            json!({"id": title, "prediction": "x", "reference": "x"}),
        ],
    );
    place.write_rows(
        "rows.jsonl",
        &[json!({"id": title, "audio": title, "text": "x"})],
    );
    place.write(
        "suite.yaml",
        format!(
            "role: test\nsets: [{{name: {}, manifest: m, task: asr}}]\n",
            json!(title)
        ),
    );
    place.write("recipe.yaml", format!("{}: 1\n", json!(title)));
    let commands: [&[&str]; 5] = [
        &[
            "metrics",
            "--task",
            "asr",
            "--predictions",
            "predictions.jsonl",
        ],
        &[
            "metrics",
            "--task",
            title,
            "--predictions",
            "predictions.jsonl",
        ],
        &["features", "--data", "rows.jsonl", "--out", "o"],
        &["train", "recipe.yaml"],
        &["report", title],
    ];
    for command in commands {
        let ran = place.run(command);
        assert_eq!(ran.code, Some(2), "{command:?}: {}", ran.stderr);
        for byte in ['\u{1b}', '\u{7}', '\u{9b}'] {
            assert!(
                !ran.stderr.contains(byte) && !ran.stdout.contains(byte),
                "{command:?}"
            );
        }
    }
    let labels: Vec<_> = ["a", "b"]
        .iter()
        .map(|id| json!({"id": id, "prediction": format!("{title}{id}"), "reference": format!("{title}{id}")}))
        .collect();
    place.write_rows("labels.jsonl", &labels);
    let ran = place
        .run(&[
            "metrics",
            "--task",
            "emotion",
            "--predictions",
            "labels.jsonl",
        ])
        .succeeds();
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

#[test]
fn a_damaged_parquet_file_is_refused_in_our_own_words() {
    let place = Place::new();
    let whole = std::fs::read(command::fixture("manifest/hugging_face.parquet")).unwrap();
    let mut refused = 0;
    for at in (4..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        place.write("damaged.parquet", &damaged);
        let ran = place.run(&["features", "--data", "damaged.parquet", "--out", "o"]);
        assert!(
            !ran.stderr.contains("panicked") && ran.code != Some(1),
            "byte {at}: {}",
            ran.stderr
        );
        refused += usize::from(ran.code == Some(2));
    }
    assert!(refused > 0);
}

#[test]
fn a_kill_between_two_writes_costs_no_finished_step() {
    let undisturbed = small_run(3);
    undisturbed
        .run(&["train", "recipe.yaml", "--device", "cpu"])
        .succeeds();
    let state = "runs/small/checkpoints/step-000006/state.json";
    for writes in [1, 2, 3, 4, 6, 7, 8] {
        let place = small_run(3);
        let checkpoints = place.path("runs/small/checkpoints");
        std::fs::create_dir_all(&checkpoints).unwrap();
        let events = watch::Folder::new(&checkpoints);
        let mut child = place
            .command(&["train", "recipe.yaml", "--device", "cpu"])
            .spawn()
            .unwrap();
        // These names appear and disappear when checkpoints are started, moved into place and
        // removed.
        events.wait_for(writes, &mut child);
        let _ = child.kill();
        child.wait().unwrap();
        place
            .run(&["train", "recipe.yaml", "--device", "cpu", "--resume"])
            .succeeds();
        for name in ["runs/small/log.jsonl", state] {
            assert_eq!(place.text(name), undisturbed.text(name), "{writes}: {name}");
        }
        assert_eq!(leftovers(&place.path("")), [""; 0], "{writes}");
    }
}

/// Waits for changes of a folder, as the kernel reports them.
mod watch {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::Child;
    use std::time::Duration;

    pub struct Folder(i32);

    impl Folder {
        pub fn new(path: &Path) -> Self {
            let path = CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: the path is a string that ends in a zero byte.
            let watch = unsafe {
                let watch = libc::inotify_init1(libc::IN_NONBLOCK);
                let mask = libc::IN_CREATE | libc::IN_MOVE | libc::IN_DELETE;
                assert!(libc::inotify_add_watch(watch, path.as_ptr(), mask) >= 0);
                watch
            };
            Self(watch)
        }

        /// Returns after so many changes, or when the child has ended.
        pub fn wait_for(&self, mut changes: usize, child: &mut Child) {
            const HEAD: usize = size_of::<libc::inotify_event>();
            let mut buffer = [0u8; 4096];
            while changes > 0 && child.try_wait().unwrap().is_none() {
                // SAFETY: the buffer takes as many bytes as the call may write.
                let read = unsafe { libc::read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) };
                let mut at = 0;
                while at + HEAD <= read.max(0) as usize && changes > 0 {
                    let length = &buffer[at + HEAD - 4..at + HEAD];
                    at += HEAD + u32::from_ne_bytes(length.try_into().unwrap()) as usize;
                    changes -= 1;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // SAFETY: no one else has the descriptor.
            unsafe {
                libc::close(self.0);
            }
        }
    }
}
