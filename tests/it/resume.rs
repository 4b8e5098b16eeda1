//! A run that is stopped and resumed ends like an undisturbed one, bit for bit; the error names the
//! reason if a run cannot be resumed.

use crate::command;
use crate::kills;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use command::Outcome;
use command::Place;
use command::asr_rows;
use command::assert_close;
use command::outcome;
use command::small_run;
use maqam::seed::Key;
use serde_json::Value;

/// Two stages of six steps with dropout, a checkpoint every two steps, an evaluation every three.
fn evaluated_run() -> Place {
    let place = small_run(6);
    place.write_rows("few.jsonl", &asr_rows()[..3]);
    place.write(
        "dev.yaml",
        "role: dev\ncontrols: [no-audio, shuffled-audio]\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion}\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [loss, wer]}\n",
    );
    let recipe = place.text("recipe.yaml");
    place.write(
        "recipe.yaml",
        format!("{recipe}evaluate: {{suite: dev.yaml, every: 3, at_start: true}}\n"),
    );
    place
}

/// Everything that a run leaves for its user and for its next part.
const LEFT: [&str; 13] = [
    "recipe.yaml",
    "log.jsonl",
    "checkpoints/step-000012/adapter_model.safetensors",
    "checkpoints/step-000012/adapter_config.json",
    "checkpoints/step-000012/optimiser.safetensors",
    "checkpoints/step-000012/state.json",
    "best/adapter_model.safetensors",
    "best/state.json",
    "eval/step-000012/moods.jsonl",
    "eval/step-000012/scores.json",
    "eval/step-000000/scores.json",
    "eval/step-000012/controls.json",
    "eval/step-000012/shuffled-audio/words.jsonl",
];

fn left_by(place: &Place) -> Vec<Vec<u8>> {
    LEFT.iter()
        .map(|name| place.bytes(&format!("runs/small/{name}")))
        .collect()
}

/// Results of the undisturbed run, its steps, and its duration.
struct Uninterrupted {
    left: Vec<Vec<u8>>,
    steps: Vec<Value>,
    took: Duration,
}

static UNINTERRUPTED: LazyLock<Uninterrupted> = LazyLock::new(|| {
    let place = evaluated_run();
    let started = Instant::now();
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    assert_every_step_once(&place);
    Uninterrupted {
        took: started.elapsed(),
        left: left_by(&place),
        steps: train_lines(&place, "small"),
    }
});

fn assert_uninterrupted(place: &Place, when: &str) {
    for (name, (found, expected)) in LEFT
        .iter()
        .zip(left_by(place).iter().zip(&UNINTERRUPTED.left))
    {
        assert!(found == expected, "{when}: {name} differs");
    }
    assert_every_step_once(place);
}

fn train_lines(place: &Place, run: &str) -> Vec<Value> {
    place
        .lines(&format!("runs/{run}/log.jsonl"))
        .into_iter()
        .filter(|line| line["kind"] == "train")
        .collect()
}

fn assert_every_step_once(place: &Place) {
    let steps: Vec<u64> = train_lines(place, "small")
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=12).collect::<Vec<u64>>());
    let evaluated: Vec<u64> = place
        .lines("runs/small/log.jsonl")
        .iter()
        .filter_map(|line| line["at_step"].as_u64())
        .collect();
    assert_eq!(
        evaluated,
        [0, 3, 6, 9, 12, 12, 12],
        "the last is also asked under two controls"
    );
}

/// Waits until the run's log has `lines` lines.
fn wait_for_lines(place: &Place, lines: usize, child: &mut Child) {
    let log = place.path("runs/small/log.jsonl");
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < lines {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the run ended before its log had {lines} lines: {status}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn interrupt(child: &Child) {
    signal(child, libc::SIGINT);
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: no one has waited for this child process, so its id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

/// Starts the run, sends it Ctrl-C once its log has `lines` lines, and returns how it ended.
fn interrupted_after(place: &Place, lines: usize) -> Outcome {
    let mut child = place
        .command(&["train", "recipe.yaml", "--allow-leakage"])
        .spawn()
        .unwrap();
    wait_for_lines(place, lines, &mut child);
    interrupt(&child);
    outcome(child.wait_with_output().unwrap())
}

#[test]
fn two_runs_of_one_seed_leave_the_same_bytes() {
    let place = evaluated_run();
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    assert_uninterrupted(&place, "a second run");
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "name=other",
            "--set",
            "seed=8",
        ])
        .succeeds();
    assert_ne!(
        place.bytes("runs/other/log.jsonl"),
        place.bytes("runs/small/log.jsonl"),
        "another seed trains otherwise"
    );
    // At the end there is nothing left to do, and nothing is done.
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .succeeds();
    assert_uninterrupted(&place, "resumed at the end");
}

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    for round in 0..3 {
        let delays = Key::new(20, "kill").with(round);
        let (place, kills, last) = kills::killed_run(&evaluated_run, UNINTERRUPTED.took, delays);
        let how = format!("round {round}: {kills} kills, at the end:\n{}", last.stderr);
        assert_uninterrupted(&place, &how);
        let leftovers = |folder: &Path| {
            let entries = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries.filter(|name| name.starts_with("step-")).count()
        };
        assert!(
            leftovers(&place.path("runs/small/checkpoints")) <= 3,
            "old checkpoints are removed all the same"
        );
    }
}

#[test]
fn a_hang_up_stops_a_run_except_under_nohup() {
    // What these tests were started under must not matter, so the action is set either way.
    let began_with = |place: &Place, action: libc::sighandler_t| {
        let mut command = place.command(&["train", "recipe.yaml", "--allow-leakage"]);
        // SAFETY: between fork and exec only a signal's action is set, which is allowed there.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, action);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        wait_for_lines(place, 1, &mut child);
        signal(&child, libc::SIGHUP);
        outcome(child.wait_with_output().unwrap())
    };
    began_with(&evaluated_run(), libc::SIG_DFL).fails(
        130,
        &[
            "stopping after what is under way",
            "hint: continue with `--resume`",
        ],
    );
    let place = evaluated_run();
    let ended = began_with(&place, libc::SIG_IGN);
    assert!(
        ended.code == Some(0) && !ended.stderr.contains("stopping"),
        "{}",
        ended.stderr
    );
    assert_uninterrupted(&place, "hung up under nohup");
}

#[test]
fn ctrl_c_saves_the_last_step_for_a_resume() {
    // 15 lines: the last step is done, its evaluation not yet.
    for lines in [1, 4, 9, 15] {
        let place = evaluated_run();
        let ended = interrupted_after(&place, lines);
        // The last evaluation may be over before the signal arrives.
        if lines < 15 || ended.code != Some(0) {
            ended.fails(
                130,
                &[
                    "stopping after what is under way",
                    "error: stopped",
                    "hint: continue with `--resume`",
                ],
            );
        }
        let steps = train_lines(&place, "small").len();
        // Before the first step there is nothing to save: the run then begins again.
        let is_saved = place
            .path(&format!(
                "runs/small/checkpoints/step-{steps:06}/state.json"
            ))
            .is_file();
        assert!(
            is_saved || steps == 0,
            "step {steps} is saved, whatever the cadence"
        );
        place
            .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
            .succeeds();
        assert_uninterrupted(&place, &format!("interrupted after {lines} lines"));
    }
}

#[test]
fn unfinished_checkpoints_are_ignored() {
    let place = evaluated_run();
    interrupted_after(&place, 6).fails(130, &[]);
    place.write(
        "runs/small/checkpoints/.writing-9-99/adapter_model.safetensors",
        b"half a file",
    );
    let log = place.text("runs/small/log.jsonl");
    place.write(
        "runs/small/log.jsonl",
        format!("{log}{{\"kind\":\"train\",\"step\":7,\"sta"),
    );
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .succeeds();
    assert_uninterrupted(&place, "after leftovers");

    // Without its later checkpoints the run continues from an earlier one, and without any from the
    // beginning.
    for gone in [
        &["step-000012"][..],
        &["step-000008", "step-000010", "step-000012"],
    ] {
        for name in gone {
            let _ = std::fs::remove_dir_all(place.path(&format!("runs/small/checkpoints/{name}")));
        }
        place
            .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
            .succeeds();
        assert_uninterrupted(&place, &format!("without {gone:?}"));
    }
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let place = evaluated_run();
    interrupted_after(&place, 6).fails(130, &[]);
    let steps = train_lines(&place, "small").len();
    let file = format!("runs/small/checkpoints/step-{steps:06}/optimiser.safetensors");
    let bytes = place.bytes(&file);
    place.write(&file, &bytes[..bytes.len() / 2]);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .fails(2, &[&file, "damaged", "hint: remove"]);
}

#[test]
fn an_existing_run_is_not_replaced_or_mixed() {
    let place = evaluated_run();
    interrupted_after(&place, 6).fails(130, &[]);
    let before = place.bytes("runs/small/log.jsonl");
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .fails(
            2,
            &[
                "runs/small: this run exists already",
                "--resume",
                "--set name=NAME",
            ],
        );
    let resume = |change: &str| {
        place.run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--resume",
            "--set",
            change,
        ])
    };
    resume("lora.rank=8").fails(
        2,
        &[
            "`lora.rank` was `4` when the run began and is `8` now",
            "hint:",
        ],
    );
    resume("schedule.stages.1.steps=7").fails(
        2,
        &["`schedule.stages.1.steps` was `6` when the run began and is `7` now"],
    );
    resume("optimiser.learning_rate=1e-5").fails(2, &["`optimiser.learning_rate`"]);
    resume("evaluate.keep_best=words.wer").fails(2, &["`evaluate.keep_best`"]);

    for (manifest, row) in [("asr.jsonl", 0), ("few.jsonl", 1)] {
        let rows = place.text(manifest);
        let changed: Vec<&str> = rows
            .lines()
            .enumerate()
            .filter(|(i, _)| *i != row)
            .map(|(_, line)| line)
            .collect();
        place.write(manifest, changed.join("\n"));
        place
            .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
            .fails(
                2,
                &[
                    &format!("{manifest}: the file has changed since the run began"),
                    "hint:",
                ],
            );
        place.write(manifest, rows);
    }
    assert_eq!(
        place.bytes("runs/small/log.jsonl"),
        before,
        "a refused run is left as it was"
    );
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .succeeds();
}

#[test]
fn a_changed_task_file_is_named() {
    let place = evaluated_run();
    let task =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts/emotion.yaml"))
            .unwrap();
    place.write("tasks/emotion.yaml", &task);
    let recipe = place.text("recipe.yaml");
    place.write("recipe.yaml", format!("{recipe}prompts: tasks\n"));
    interrupted_after(&place, 4).fails(130, &[]);
    place.write("tasks/emotion.yaml", format!("{task}# another\n"));
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .fails(
            2,
            &["tasks/emotion.yaml: the file has changed since the run began"],
        );
    place.write("tasks/emotion.yaml", &task);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .succeeds();
}

#[test]
fn the_cadence_may_change_on_the_way() {
    let place = evaluated_run();
    interrupted_after(&place, 6).fails(130, &[]);
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--resume",
            "--set",
            "checkpoint.every=5",
            "--set",
            "checkpoint.keep=1",
            "--set",
            "evaluate.every=100",
        ])
        .succeeds();
    assert_eq!(train_lines(&place, "small"), UNINTERRUPTED.steps);
    assert_eq!(LEFT[2], "checkpoints/step-000012/adapter_model.safetensors");
    assert_eq!(
        place.bytes(&format!("runs/small/{}", LEFT[2])),
        UNINTERRUPTED.left[2]
    );
    assert_eq!(
        std::fs::read_dir(place.path("runs/small/checkpoints"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn a_step_in_many_micro_batches_is_the_same_step() {
    let place = small_run(4);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "name=split",
            "--set",
            "memory.pack_tokens=1",
        ])
        .succeeds();
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "name=all",
            "--set",
            "memory.save=all",
        ])
        .succeeds();
    let whole = train_lines(&place, "small");
    let split = train_lines(&place, "split");
    assert_eq!((whole.len(), split.len()), (8, 8));
    for (whole, split) in whole.iter().zip(&split) {
        for number in ["loss", "grad_norm"] {
            assert_close(
                split[number].as_f64().unwrap(),
                whole[number].as_f64().unwrap(),
                1e-5,
                &format!("{number} of step {}", whole["step"]),
            );
        }
        assert_eq!(
            (&whole["tokens"], &whole["target_tokens"]),
            (&split["tokens"], &split["target_tokens"])
        );
    }
    assert_eq!(
        train_lines(&place, "all"),
        whole,
        "what is kept for the backward changes no bit"
    );
}

#[test]
fn full_training_stage_by_stage_resumes_bit_for_bit() {
    let recipe = |place: &Place| {
        let text = place.text("recipe.yaml").replace(
            "train: {audio_encoder: lora, projector: lora, decoder: lora}",
            "train: {audio_encoder: lora, projector: full, decoder: full}",
        );
        assert!(text.contains("projector: full"));
        place.write("recipe.yaml", text);
    };
    let first_stage = "schedule.stages.0.train={audio_encoder: frozen, decoder: frozen}";
    let arguments = [
        "train",
        "recipe.yaml",
        "--allow-leakage",
        "--set",
        first_stage,
        "--set",
        "memory.save=layer",
    ];
    let whole = small_run(4);
    let cut = small_run(4);
    recipe(&whole);
    recipe(&cut);
    whole.run(&arguments).succeeds();
    let mut child = cut.command(&arguments).spawn().unwrap();
    wait_for_lines(&cut, 5, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    cut.run(&[&arguments[..], &["--resume"]].concat())
        .succeeds();
    let last = train_lines(&whole, "small").len();
    for name in [
        "adapter_model.safetensors",
        "trained.safetensors",
        "optimiser.safetensors",
        "state.json",
    ] {
        let path = format!("runs/small/checkpoints/step-{last:06}/{name}");
        assert!(whole.bytes(&path) == cut.bytes(&path), "{name} differs");
    }
    assert_eq!(
        whole.bytes("runs/small/log.jsonl"),
        cut.bytes("runs/small/log.jsonl")
    );

    // Parts trained in full are evaluated, merged, and refused where only an adapter fits.
    let checkpoint = format!("runs/small/checkpoints/step-{last:06}");
    let model = command::fixture_text("qwen_omni");
    let export = [
        "export",
        "--model",
        &model,
        "--adapter",
        &checkpoint,
        "--out",
    ];
    whole
        .run(&[&export[..], &["peft", "--form", "peft"]].concat())
        .fails(2, &["trained in full", "--form merged"]);
    whole
        .run(&[&export[..], &["merged", "--dtype", "f32"]].concat())
        .succeeds();
    whole
        .run(&[
            "score",
            "--model",
            &model,
            "--adapter",
            &checkpoint,
            "--data",
            "asr.jsonl",
            "--task",
            "asr",
            "--out",
            "a.jsonl",
        ])
        .succeeds();
    whole
        .run(&[
            "score",
            "--model",
            "merged",
            "--data",
            "asr.jsonl",
            "--task",
            "asr",
            "--out",
            "b.jsonl",
        ])
        .succeeds();
    whole
        .run(&[
            "score",
            "--model",
            &model,
            "--data",
            "asr.jsonl",
            "--task",
            "asr",
            "--out",
            "c.jsonl",
        ])
        .succeeds();
    let a = whole.lines("a.jsonl");
    let b = whole.lines("b.jsonl");
    let c = whole.lines("c.jsonl");
    for ((a, b), c) in a.iter().zip(&b).zip(&c) {
        let loss = |row: &Value| row["loss"].as_f64().unwrap();
        assert_close(loss(a), loss(b), 1e-5, "merged");
        assert!((loss(a) - loss(c)).abs() > 1e-3, "training changed nothing");
    }
}

#[test]
fn a_table_shows_the_change_of_scores() {
    let place = evaluated_run();
    let first = place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let head = first
        .stdout
        .lines()
        .find(|line| line.contains("before"))
        .unwrap();
    assert!(
        head.contains("after 12") && head.contains("no-audio") && head.contains("shuffled-audio"),
        "{head}"
    );
    let scores = place.json("runs/small/eval/step-000012/scores.json");
    let wer = scores["words.wer"].as_f64().unwrap();
    assert!(
        first
            .stdout
            .lines()
            .any(|line| line.starts_with("words.wer")
                && line.contains(&format!("{:.1} %", 100.0 * wer))),
        "{}",
        first.stdout
    );
    let again = place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .succeeds();
    assert_eq!(first.stdout, again.stdout, "a finished run shows it again");
}

#[test]
fn a_run_without_dropout_masks_resumes_with_shared() {
    let names = [
        "log.jsonl",
        "checkpoints/step-000012/adapter_model.safetensors",
        "checkpoints/step-000012/optimiser.safetensors",
    ];
    let left = |place: &Place| names.map(|name| place.bytes(&format!("runs/small/{name}")));
    let trained = |more: &[&str]| {
        let place = small_run(6);
        place
            .run(&[&["train", "recipe.yaml", "--allow-leakage"], more].concat())
            .succeeds();
        place
    };
    let shared = ["--set", "lora.dropout_masks=shared"];
    let place = trained(&shared);
    let expected = left(&place);
    assert!(
        expected != left(&trained(&[])),
        "masks of their own are the default, and change the run"
    );

    // As it was left by a version without the key, two steps before its end.
    let stored = place.text("runs/small/recipe.yaml");
    assert!(stored.contains("dropout_masks: shared"), "{stored}");
    let before = stored.replace("  dropout_masks: shared\n", "");
    place.write("runs/small/recipe.yaml", &before);
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000012")).unwrap();
    let own = ["--set", "lora.dropout_masks=per_module"];
    let resume = ["train", "recipe.yaml", "--allow-leakage", "--resume"];
    place
        .run(&[&resume[..], &own].concat())
        .fails(2, &["`lora.dropout_masks` was `shared`", "hint:"]);
    place.run(&resume).succeeds();
    assert!(
        expected == left(&place),
        "it ends as if nothing had changed"
    );
}
