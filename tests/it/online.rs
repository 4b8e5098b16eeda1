//! Weights of tasks that follow a reward, end to end: what is logged follows from what was trained,
//! a killed run ends like an undisturbed one, and a plan says what is wrong.

use crate::command;
use crate::kills;

use std::collections::BTreeSet;
use std::time::Instant;

use command::Place;
use command::assert_close;
use command::damaged_flac;
use command::fixture;
use command::small_run;
use maqam::seed::Key;
use serde_json::Value;

const ODM: &str = "{online: odm, reward_scale: 2, warmup: 0.25}";
const DYNAMIX: &str = "{online: dynamix, beta: 4, every: 2, lookahead: 3, held_out: 2}";

/// A stage of one task, one whose weights follow a reward, one behind it.
fn online_run(mix: &str) -> Place {
    let place = small_run(4);
    let recipe = place.text("recipe.yaml").replace(
        "    - {name: discern, tasks: all, mix: uniform, steps: 4}\n",
        &format!("    - {{name: discern, tasks: all, mix: {mix}, steps: 8}}\n    - {{name: refine, tasks: all, steps: 2}}\n"),
    );
    assert!(recipe.contains("online"));
    place.write("recipe.yaml", recipe);
    place
}

fn train(place: &Place, more: &[&str]) {
    let arguments = [&["train", "recipe.yaml", "--allow-leakage"], more].concat();
    place.run(&arguments).succeeds();
}

fn of_kind(place: &Place, run: &str, kind: &str) -> Vec<Value> {
    place
        .lines(&format!("runs/{run}/log.jsonl"))
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect()
}

/// Two numbers by task, of `asr` and `emotion`.
fn pair(value: &Value) -> [f64; 2] {
    ["asr", "emotion"].map(|task| value[task].as_f64().unwrap())
}

#[test]
fn odm_weights_follow_the_logged_losses() {
    let place = online_run(ODM);
    train(&place, &[]);
    let found = of_kind(&place, "small", "mixture");
    let steps: Vec<u64> = found
        .iter()
        .map(|line| line["at_step"].as_u64().unwrap())
        .collect();
    // A quarter of eight steps of the stage, which begins after four, is warm-up.
    assert_eq!(steps, [4, 7, 8, 9, 10, 11]);
    assert_eq!(pair(&found[0]["weights"]), [0.5, 0.5]);

    // Two tasks: e_t = min(1/2, sqrt(ln 2 / (2 t))).
    let rate = |t: f64| (2f64.ln() / (2.0 * t)).sqrt().min(0.5);
    let lines = of_kind(&place, "small", "train");
    let mut rewards = [0.0; 2];
    let mut weights = [0.5; 2];
    for (t, line) in (1..).zip(&found[1..]) {
        let step = &lines[line["at_step"].as_u64().unwrap() as usize - 1];
        for (i, task) in ["asr", "emotion"].into_iter().enumerate() {
            if let Some(loss) = step["tasks"][task]["loss"].as_f64() {
                rewards[i] = 0.9 * rewards[i] + 0.1 * 2.0 * loss / weights[i];
            }
        }
        let before = if t == 1 { 0.5 } else { rate(t as f64 - 1.0) };
        let raised = rewards.map(|reward: f64| (before * reward).exp());
        let sum = raised[0] + raised[1];
        weights = raised.map(|x| (1.0 - 2.0 * rate(t as f64)) * x / sum + rate(t as f64));
        for i in 0..2 {
            let what = format!("update {t}, task {i}");
            assert_close(pair(&line["rewards"])[i], rewards[i], 1e-12, &what);
            assert_close(pair(&line["weights"])[i], weights[i], 1e-12, &what);
        }
    }
    assert!((weights[0] - weights[1]).abs() > 1e-3, "nothing was learnt");

    // Slots add up to the examples of the stage.
    let last = found.last().unwrap();
    let counts = pair(&last["counts"]);
    assert_eq!(counts[0] + counts[1], 4.0 * 7.0);
}

#[test]
fn picks_are_recorded_as_they_are_drawn() {
    let place = online_run(ODM);
    train(&place, &[]);
    let picks = place.lines("runs/small/picks.jsonl");
    let steps: Vec<u64> = picks
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (5..=14).collect::<Vec<u64>>());
    let lines = of_kind(&place, "small", "train");
    for line in &picks {
        assert_eq!(line["depends_on_training"], true);
        let ids = line["ids"].as_array().unwrap();
        let of_asr = ids
            .iter()
            .filter(|id| id.as_str().unwrap().starts_with('a'));
        let step = &lines[line["step"].as_u64().unwrap() as usize - 1];
        let logged = step["tasks"]["asr"]["examples"].as_u64().unwrap_or(0);
        assert_eq!(of_asr.count() as u64, logged);
    }

    // A plan knows the first stage, and says so of the others.
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--picks",
            "plan.jsonl",
            "--allow-leakage",
        ])
        .succeeds();
    let planned = place.lines("plan.jsonl");
    assert_eq!(planned.len(), 14);
    for (i, line) in planned.iter().enumerate() {
        let follows = i >= 4;
        assert_eq!(line["depends_on_training"] == true, follows, "{line}");
    }
    // The weights before training hold until the first update.
    assert_eq!(planned[4]["ids"], picks[0]["ids"]);
    // Twelve rows are drawn once before one repeats, in the first stage and the others.
    let mut asr: Vec<String> = planned[..4]
        .iter()
        .chain(&picks)
        .flat_map(|line| line["ids"].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .filter(|id| id.starts_with('a'))
        .collect();
    asr.truncate(24);
    for epoch in asr.chunks(12) {
        let mut rows = epoch.to_vec();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), epoch.len());
    }
}

#[test]
fn look_aheads_leave_the_run_as_it_was() {
    // With beta 0 the weights never change, so only a look-ahead that leaves a trace could.
    let place = online_run("{online: dynamix, beta: 0, every: 2, lookahead: 3, held_out: 2}");
    train(&place, &[]);
    let seldom = [
        "--set",
        "name=seldom",
        "--set",
        "schedule.stages.1.mix.every=5",
    ];
    train(&place, &seldom);
    assert_eq!(
        of_kind(&place, "small", "train"),
        of_kind(&place, "seldom", "train")
    );
    assert_eq!(of_kind(&place, "small", "mixture").len(), 4);
    assert_eq!(of_kind(&place, "seldom", "mixture").len(), 2);
}

#[test]
fn dynamix_weights_follow_the_look_aheads() {
    let place = online_run(DYNAMIX);
    train(&place, &[]);
    let found = of_kind(&place, "small", "mixture");
    // Ten rows of twelve and four of six are left.
    let prior = [10.0 / 14.0, 4.0 / 14.0];
    let weights = |q: [f64; 2]| {
        let raised = [0, 1].map(|i| prior[i] * (4.0 * q[i]).exp());
        raised.map(|x| 0.7 * x / (raised[0] + raised[1]) + 0.15)
    };
    let mut average = [0.0; 2];
    for (i, line) in found.iter().enumerate() {
        if i > 0 {
            let gain = ["asr", "emotion"].map(|task| {
                let losses = &line["lookahead"][task];
                let before = losses[0].as_f64().unwrap();
                (before - losses[1].as_f64().unwrap()) / before
            });
            assert!(gain[0] != 0.0 && gain[0] != gain[1], "no step was made");
            // Of two tasks the better one has 1 and the other 0.
            let rewards = [gain[0] > gain[1], gain[1] > gain[0]].map(f64::from);
            average = [0, 1].map(|i| 0.95 * average[i] + 0.05 * rewards[i]);
        }
        for task in 0..2 {
            assert_close(
                pair(&line["weights"])[task],
                weights(average)[task],
                1e-12,
                &format!("line {i}"),
            );
        }
    }
    assert_eq!(found.len(), 4, "the start, and after 2, 4 and 6 of 8 steps");

    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(
        page.contains("Weights that followed a reward") && page.contains("Range of the weights")
    );
}

/// A run whose rows of emotions have a file each.
fn run_of_own_clips() -> Place {
    let place = online_run(DYNAMIX);
    let mut rows = command::emotion_rows();
    for (i, row) in rows.iter_mut().enumerate() {
        let name = format!("clips/e{i}.wav");
        place.write(&name, std::fs::read(fixture("audio/odd.wav")).unwrap());
        *row = serde_json::json!({"id": row["id"], "audio": name, "label": row["label"]});
    }
    place.write_rows("emotion.jsonl", &rows);
    place
}

#[test]
fn a_row_of_a_look_ahead_that_cannot_be_read_costs_no_step() {
    let seldom = ["--set", "checkpoint.every=99"];
    let whole = run_of_own_clips();
    train(&whole, &seldom);
    // Two rows of six are set aside, so nothing draws them.
    let mut aside: BTreeSet<String> = (0..6).map(|i| format!("e{i}")).collect();
    for line in whole.lines("runs/small/picks.jsonl") {
        for id in line["ids"].as_array().unwrap() {
            aside.remove(id.as_str().unwrap());
        }
    }
    assert_eq!(aside.len(), 2, "{aside:?}");

    let place = run_of_own_clips();
    let id = aside.first().unwrap();
    let name = format!("clips/{id}.wav");
    place.write(&name, damaged_flac());
    let stopped = place
        .run(&[&["train", "recipe.yaml", "--allow-leakage"], &seldom[..]].concat())
        .fails(2, &["look-ahead after step 6", &format!("{id}.wav")]);
    assert!(stopped.stderr.contains("hint:"), "{}", stopped.stderr);
    // The five steps before are kept, though no checkpoint was due.
    assert!(
        place
            .path("runs/small/checkpoints/step-000005/state.json")
            .is_file()
    );
    assert_eq!(of_kind(&place, "small", "train").len(), 5);

    let skip = ["--resume", "--set", "on_bad_row=skip"];
    let resumed = [
        &["train", "recipe.yaml", "--allow-leakage"],
        &skip[..],
        &seldom[..],
    ];
    let ran = place.run(&resumed.concat()).succeeds();
    let told = format!("row `{id}`");
    assert!(
        ran.stderr
            .lines()
            .any(|line| line.contains("row left out") && line.contains(&told)),
        "{}",
        ran.stderr
    );
    assert_eq!(of_kind(&place, "small", "train").len(), 14);
}

#[test]
fn losses_of_look_aheads_are_of_clips_as_they_are() {
    let place = online_run(DYNAMIX);
    let frozen = ["--set", "optimiser.learning_rate=1e-12"];
    train(&place, &frozen);
    let augmented = "augment={noise: {snr_db: [0, 5]}, gain_db: [-12, -6]}";
    let more = ["--set", "name=noisy", "--set", augmented];
    train(&place, &[&frozen[..], &more].concat());
    let plain = of_kind(&place, "small", "mixture");
    let noisy = of_kind(&place, "noisy", "mixture");
    assert_eq!((plain.len(), noisy.len()), (4, 4));
    for line in plain[1..].iter().chain(&noisy[1..]) {
        for task in ["asr", "emotion"] {
            let expected = plain[1]["lookahead"][task][0].as_f64().unwrap();
            let found = line["lookahead"][task][0].as_f64().unwrap();
            assert_close(found, expected, 1e-5, task);
        }
    }
}

/// Files of a run that must not depend on kills.
const LEFT: [&str; 5] = [
    "log.jsonl",
    "picks.jsonl",
    "checkpoints/step-000014/adapter_model.safetensors",
    "checkpoints/step-000014/optimiser.safetensors",
    "checkpoints/step-000014/state.json",
];

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    for mix in [ODM, DYNAMIX] {
        let whole = online_run(mix);
        let started = Instant::now();
        train(&whole, &[]);
        let took = started.elapsed();
        let expected = kills::files(&whole, &LEFT);
        for round in 0..2 {
            let delays = Key::new(28, "kill").with(round);
            let (place, kills, _) = kills::killed_run(&|| online_run(mix), took, delays);
            let when = format!("{mix}, round {round}, {kills} kills");
            kills::assert_same_files(&kills::files(&place, &LEFT), &expected, &when);
        }
    }
}

#[test]
fn a_resume_at_every_step_draws_the_same() {
    let whole = online_run(ODM);
    train(
        &whole,
        &["--set", "checkpoint.every=1", "--set", "checkpoint.keep=99"],
    );
    let expected = kills::files(&whole, &LEFT);
    let state = whole.json("runs/small/checkpoints/step-000009/state.json");
    assert_eq!(state["mixtures"]["1"]["from"], 5);
    assert_eq!(state["mixtures"]["1"]["updates"], 3);
    for step in (4..14).rev() {
        let later = format!("runs/small/checkpoints/step-{:06}", step + 1);
        std::fs::remove_dir_all(whole.path(&later)).unwrap();
        train(
            &whole,
            &[
                "--resume",
                "--set",
                "checkpoint.every=99",
                "--set",
                "checkpoint.keep=99",
            ],
        );
        let when = format!("resumed after {step}");
        kills::assert_same_files(&kills::files(&whole, &LEFT), &expected, &when);
        std::fs::remove_dir_all(whole.path("runs/small/checkpoints/step-000014")).unwrap();
    }
}

#[test]
fn a_plan_warns_where_the_rule_does_little() {
    let place = online_run(DYNAMIX);
    let text = |mix: &str| {
        let set = format!("schedule.stages.1.mix={mix}");
        let planned = place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--set", &set])
            .succeeds();
        let words: Vec<&str> = planned.stdout.split_whitespace().collect();
        words.join(" ")
    };
    let none = "stage `discern` has 8 steps and no update of its weights";
    let never = text("{online: dynamix, every: 8, lookahead: 3, held_out: 2}");
    assert!(never.contains(none), "{never}");
    assert!(never.contains("lower `mix.every`"), "{never}");
    let never = text("{online: odm, warmup: 0.9}");
    assert!(never.contains(none), "{never}");
    assert!(never.contains("lower `mix.warmup`"), "{never}");

    // Seven updates of two tasks, each a step on 5 rows and two thirds of one on 2: 88.7 rows of 4
    // are 22.2 steps of 8. Of 6 rows of emotion 2 are set aside.
    let dear = text("{online: dynamix, every: 1, lookahead: 5, held_out: 2}");
    for said in [
        "updates the weights 7 times, after every step.",
        "the look-aheads cost about 2.8 times what the stage costs",
        "a look-ahead takes 5 rows of `emotion`, of which 4 are left to train on",
    ] {
        assert!(dear.contains(said), "{said}: {dear}");
    }
    assert!(!dear.contains("rows of `asr`, of which"), "{dear}");
    let usual = text(DYNAMIX);
    assert!(
        !usual.contains("look-aheads cost") && !usual.contains(none),
        "{usual}"
    );
}

#[test]
fn a_plan_says_what_is_wrong_and_what_it_costs() {
    let place = online_run(DYNAMIX);
    let planned = place
        .run(&["plan", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let text = planned
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    // Three updates of two tasks, each a step on 3 rows and two thirds of one on 2: 26 rows of 4.
    for said in [
        "mix online dynamix",
        "those of the weights before it, asr 0.650, emotion 0.350",
        "DynamiX updates the weights 3 times, after every 2 steps",
        "in all about 7 steps, 81 % of the stage",
        "2 rows of each task are set aside",
        "stage `refine`: its rows depend on how many an earlier stage draws",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let json = place
        .run(&["plan", "recipe.yaml", "--json", "--allow-leakage"])
        .succeeds();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let marks = [0, 1, 2].map(|i| json["stages"][i]["depends_on_training"] == true);
    assert_eq!(marks, [false, true, true]);

    for (set, words) in [
        ("mix={online: exp4}", ["unknown value `exp4`", "odm"]),
        (
            "mix.lookahead=1",
            [
                "`mix.lookahead` is 1: one row says nothing",
                "hint: write `lookahead: N`",
            ],
        ),
        (
            "mix.held_out=5",
            [
                "stage `discern`: `emotion` has 6 rows",
                "hint: write a smaller `held_out`",
            ],
        ),
        (
            "mix.gamma=2",
            ["`mix.gamma` is 2, expected a share", "hint: change `gamma`"],
        ),
        (
            "tasks=[asr, dialect]",
            [
                "the data has no task `dialect`",
                "hint: it has: asr, emotion",
            ],
        ),
        (
            "tasks=[asr]",
            ["the stage has one task", "hint: list at least two"],
        ),
        (
            "loss={ctc: 0.3}",
            [
                "`mix: {online: dynamix}` beside `loss.ctc` in stage `discern`",
                "hint: write `mix: {online: odm}`",
            ],
        ),
    ] {
        let set = format!("schedule.stages.1.{set}");
        place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--set", &set])
            .fails(2, &words);
    }
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "gradients=pcgrad",
        ])
        .fails(2, &["`mix: {online: dynamix}` beside `gradients`", "hint:"]);
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "schedule.batch=1",
            "--set",
            "schedule.stages.1.mix={online: dynamix}",
        ])
        .fails(2, &["`mix.lookahead` is 1, the schedule's `batch`"]);
}
