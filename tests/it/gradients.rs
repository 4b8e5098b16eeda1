//! `gradients:` of a recipe end to end: steps of one task are as without it, lines of the log add up,
//! a killed run ends like an undisturbed one, and a plan says what is wrong.

use crate::command;
use crate::kills;

use std::time::Instant;

use command::Place;
use command::assert_close;
use command::small_run;
use maqam::seed::Key;
use serde_json::Value;

fn surgery_run(gradients: &str) -> Place {
    let place = small_run(4);
    let recipe = place.text("recipe.yaml");
    place.write("recipe.yaml", format!("{recipe}gradients: {gradients}\n"));
    place
}

fn train(place: &Place, more: &[&str]) {
    let arguments = [&["train", "recipe.yaml", "--allow-leakage"], more].concat();
    place.run(&arguments).succeeds();
}

fn of_kind(place: &Place, kind: &str) -> Vec<Value> {
    place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect()
}

#[test]
fn steps_of_one_task_are_as_without() {
    let plain = small_run(4);
    train(&plain, &[]);
    let expected = of_kind(&plain, "train");
    for gradients in ["pcgrad", "famo"] {
        let place = surgery_run(gradients);
        train(&place, &[]);
        let found = of_kind(&place, "train");
        // The first stage has one task.
        for (found, expected) in found.iter().zip(&expected).take(4) {
            for number in ["loss", "grad_norm", "learning_rate"] {
                assert_close(
                    found[number].as_f64().unwrap(),
                    expected[number].as_f64().unwrap(),
                    1e-6,
                    &format!("{gradients}: {number} of step {}", found["step"]),
                );
            }
        }
        // In a step of two tasks the loss is the mean of theirs.
        let step = &found[5];
        let of_task = |task: &str| step["tasks"][task]["loss"].as_f64().unwrap();
        assert_close(
            step["loss"].as_f64().unwrap(),
            (of_task("asr") + of_task("emotion")) / 2.0,
            1e-5,
            "mean of the tasks",
        );
        assert_ne!(found[7]["grad_norm"], expected[7]["grad_norm"]);
        assert_eq!(found[5]["tasks"]["asr"]["examples"], 2);
    }
}

#[test]
fn lines_say_what_was_done() {
    let place = surgery_run("pcgrad");
    train(
        &place,
        &["--set", "probe.every=1", "--set", "lora.dropout=0"],
    );
    let probes = of_kind(&place, "probe");
    let lines = of_kind(&place, "gradients");
    assert_eq!((probes.len(), lines.len()), (8, 8));
    for (probe, line) in probes.iter().zip(&lines) {
        // Of two tasks, both gradients are projected where their cosine is negative.
        let cosine = probe["cosines"]["asr|emotion"].as_f64();
        let expected = match cosine {
            None => [0, 0],
            Some(cosine) if cosine < 0.0 => [2, 2],
            Some(_) => [0, 2],
        };
        assert_eq!(line["conflicts"], serde_json::json!(expected), "{probe}");
    }
    // What is taken away follows from lengths and cosine alone.
    let steps = of_kind(&place, "train");
    let mut compared = 0;
    for (probe, step) in probes.iter().zip(&steps) {
        let Some(cosine) = probe["cosines"]["asr|emotion"].as_f64() else {
            continue;
        };
        let [a, b] = ["asr", "emotion"].map(|task| probe["norms"][task].as_f64().unwrap());
        let square = match cosine < 0.0 {
            // Each keeps 1 - cosine^2 of its square, and the product of both is minus the cosine
            // times what is left.
            true => (1.0 - cosine * cosine) * (a * a + b * b - 2.0 * a * b * cosine),
            false => a * a + b * b + 2.0 * a * b * cosine,
        };
        let norm = step["grad_norm"].as_f64().unwrap();
        assert_close(norm, square.sqrt(), 1e-4, "length of the sum");
        compared += 1;
    }
    assert_eq!(compared, 4);
    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("Gradients of tasks into one"));

    let place = surgery_run("{method: famo, learning_rate: 0.5}");
    train(&place, &[]);
    let lines = of_kind(&place, "gradients");
    let number = |line: &Value, of: &str, task: &str| line[of][task].as_f64().unwrap();
    for line in &lines[4..] {
        for of in ["weights", "factors"] {
            let sum = number(line, of, "asr") + number(line, of, "emotion");
            assert_close(sum, 1.0, 1e-12, of);
        }
    }
    let steps = of_kind(&place, "train");
    for (step, line) in steps.iter().zip(&lines).skip(4) {
        // Factors are weights over losses, normalised.
        let over = ["asr", "emotion"].map(|task| {
            number(line, "weights", task) / step["tasks"][task]["loss"].as_f64().unwrap()
        });
        let expected = over[0] / (over[0] + over[1]);
        assert_close(number(line, "factors", "asr"), expected, 1e-5, "factor");
    }
    let last = number(&lines[7], "weights", "asr");
    assert!((last - 0.5).abs() > 0.05, "nothing was learnt: {last}");
    let state = place.json("runs/small/checkpoints/step-000008/state.json");
    assert_eq!(state["famo"]["asr"]["updates"], 8);
    assert_eq!(state["famo"]["emotion"]["updates"], 4);
}

#[test]
fn noise_on_embeddings_teaches_famo_nothing() {
    // Steps too short to change a loss: what moved a weight could only be the noise.
    let place = surgery_run("{method: famo, learning_rate: 0.5}");
    train(
        &place,
        &[
            "--set",
            "lora.dropout=0",
            "--set",
            "neftune={alpha: 50, audio: true}",
            "--set",
            "optimiser.learning_rate=1e-30",
        ],
    );
    let lines = of_kind(&place, "gradients");
    assert_eq!(lines.len(), 8);
    for line in &lines[4..] {
        for task in ["asr", "emotion"] {
            let weight = line["weights"][task].as_f64().unwrap();
            assert_close(weight, 0.5, 1e-9, task);
        }
    }
}

/// Files of a run that must not depend on kills.
const LEFT: [&str; 4] = [
    "log.jsonl",
    "checkpoints/step-000008/adapter_model.safetensors",
    "checkpoints/step-000008/optimiser.safetensors",
    "checkpoints/step-000008/state.json",
];

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    for (round, gradients) in (0..).zip(["pcgrad", "famo"]) {
        let whole = surgery_run(gradients);
        let started = Instant::now();
        train(&whole, &[]);
        let took = started.elapsed();
        let delays = Key::new(29, "kill").with(round);
        let (place, kills, _) = kills::killed_run(&|| surgery_run(gradients), took, delays);
        let when = format!("{gradients}, {kills} kills");
        let expected = kills::files(&whole, &LEFT);
        kills::assert_same_files(&kills::files(&place, &LEFT), &expected, &when);
    }
}

#[test]
fn a_plan_says_what_is_wrong_and_what_it_costs() {
    let place = surgery_run("famo");
    let planned = place
        .run(&["plan", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let text = planned
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for said in [
        "surgery `gradients: famo`: one gradient for each task of a step, of at most 2 tasks",
        "two more forward passes of every step, because of dropout or noise",
        "3 copies of the gradient in memory",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    for (more, passes) in [
        (
            &["lora.dropout=0", "neftune={alpha: 5}"][..],
            "two more forward",
        ),
        (&["lora.dropout=0"], "one more forward"),
    ] {
        let mut arguments = vec!["plan", "recipe.yaml", "--allow-leakage"];
        for set in more {
            arguments.extend(["--set", set]);
        }
        let told = place.run(&arguments).succeeds().stdout;
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(passes), "{passes}: {told}");
    }
    for (set, words) in [
        ("gradients=pcgard", ["unknown value `pcgard`", "pcgrad"]),
        (
            "gradients={method: pcgrad, decay: 0.1}",
            [
                "`gradients.decay` beside `method: pcgrad`",
                "hint: remove `decay`",
            ],
        ),
        (
            "gradients={method: famo, learning_rate: 0}",
            [
                "`gradients.learning_rate` is 0",
                "hint: give a number above 0",
            ],
        ),
        (
            "schedule.batch=1",
            [
                "compares tasks of a step, and `schedule.batch` is 1",
                "hint: write a batch",
            ],
        ),
        (
            "schedule.stages.1.tasks=[emotion]",
            ["and every stage has one task", "hint: list several tasks"],
        ),
    ] {
        place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--set", set])
            .fails(2, &words);
    }
}
