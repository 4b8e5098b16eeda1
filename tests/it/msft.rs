//! Stages that end by mSFT: the log's exclusions against the rule applied to its scores, what a
//! roll-back restores, and resuming after kills.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::emotion_rows;
use crate::command::outcome;
use crate::command::small_run;
use crate::kills;
use maqam::seed::Key;
use serde_json::Value;
use serde_json::json;

const SCORES: &str = "msft: {budget: 0.5, scores: {asr: words.loss, emotion: moods.loss}}";

/// A run of one stage that ends by mSFT. Both tasks have 12 slots in their share of six steps, so a
/// round of half an epoch of the six emotion rows is 1.5 steps, and scores come after every step.
fn msft_run(steps: usize, settings: &str) -> Place {
    let place = small_run(steps);
    place.write_rows("few.jsonl", &asr_rows()[..4]);
    let mut moods = emotion_rows();
    // Labels that training makes less likely.
    for row in &mut moods {
        row["label"] = json!("neutral");
    }
    place.write_rows("moods.jsonl", &moods);
    place.write(
        "dev.yaml",
        "role: dev\ncontrols: [no-audio]\nsets:\n  - {name: moods, manifest: moods.jsonl, task: emotion, metrics: [loss]}\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [loss]}\n",
    );
    let recipe = place.text("recipe.yaml");
    let stages = recipe.find("    - {name: listen").unwrap();
    let after = recipe.find("optimiser:").unwrap();
    let rest = recipe[after..].replace("2e-3", "2e-2");
    place.write(
        "recipe.yaml",
        format!(
            "{}    - {{name: all, mix: uniform, steps: {steps}, end: msft, {settings}}}\n    - {{name: last, mix: uniform, steps: 2}}\n{rest}evaluate: {{suite: dev.yaml, every: 100}}\n",
            &recipe[..stages]
        ),
    );
    place
}

fn train(place: &Place) {
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
}

fn of_kind(place: &Place, kind: &str) -> Vec<Value> {
    let lines = place.lines("runs/small/log.jsonl");
    lines
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect()
}

/// Losses by task of a line of scores.
fn losses(line: &Value) -> BTreeMap<String, f64> {
    serde_json::from_value(line["selection"].clone()).unwrap()
}

/// Exclusions `(task, at, to)` that follow from the scores in the log, with a score after every
/// step and rounds of four: the definition, by trying all pairs of a place and a task.
fn expected_exclusions(rounds: &[Value]) -> Vec<(String, u64, u64)> {
    let mut found = Vec::new();
    let mut active: BTreeSet<String> = ["asr", "emotion"].map(str::to_owned).into();
    let mut curve: Vec<(u64, BTreeMap<String, f64>)> = Vec::new();
    let mut in_round = 0;
    for line in rounds {
        curve.push((line["at_step"].as_u64().unwrap(), losses(line)));
        in_round += 1;
        if in_round < 4 {
            continue;
        }
        in_round = 0;
        let mut peak = None;
        'search: for place in 0..curve.len() {
            for task in &active {
                let loss = |at: usize| curve[at].1[task];
                let is_best = (0..curve.len()).all(|at| loss(at) >= loss(place));
                let is_first = (0..place).all(|at| loss(at) > loss(place));
                let is_followed = (place + 1..curve.len()).any(|at| loss(at) > loss(place));
                if is_best && is_first && is_followed {
                    peak = Some((task.clone(), place));
                    break 'search;
                }
            }
        }
        let at = curve.last().unwrap().0;
        curve = match peak {
            Some((task, place)) => {
                active.remove(&task);
                found.push((task, at, curve[place].0));
                vec![curve.swap_remove(place)]
            }
            None => vec![curve.pop().unwrap()],
        };
    }
    found
}

#[test]
fn tasks_leave_at_their_peaks_and_training_goes_back() {
    let place = msft_run(24, SCORES);
    train(&place);
    let rounds = of_kind(&place, "round");
    let backs = of_kind(&place, "roll_back");
    let found: Vec<(String, u64, u64)> = backs
        .iter()
        .map(|line| {
            (
                line["task"].as_str().unwrap().to_owned(),
                line["at_step"].as_u64().unwrap(),
                line["to_step"].as_u64().unwrap(),
            )
        })
        .collect();
    assert!(!found.is_empty(), "no task left: {rounds:#?}");
    assert_eq!(found, expected_exclusions(&rounds));

    // The learning rate and the draws go on from the peak; a task that left is drawn no more.
    let steps = of_kind(&place, "train");
    let rate = |step: u64| steps[step as usize - 1]["learning_rate"].as_f64().unwrap();
    let mut picks = place.lines("runs/small/picks.jsonl");
    assert_eq!(picks.len(), steps.len(), "the stage behind it, too");
    assert!(picks.iter().all(|line| line["depends_on_training"] == true));
    picks.retain(|line| line["stage"] == "all");
    let ids = |step: u64| -> Vec<String> {
        serde_json::from_value(picks[step as usize - 1]["ids"].clone()).unwrap()
    };
    let last = picks.len() as u64;
    let mut kept: Vec<u64> = Vec::new();
    for step in 1..=last {
        if let Some((_, at, to)) = found.iter().find(|(_, at, _)| at + 1 == step) {
            assert!(at > to);
            assert_eq!(rate(step), rate(to + 1), "step {step}");
            kept.retain(|kept| kept <= to);
        }
        kept.push(step);
    }
    for (task, at, _) in &found {
        let is_of_task = |id: &String| id.starts_with(&task[..1]);
        assert!(
            (at + 1..=last).all(|step| !ids(step).iter().any(is_of_task)),
            "{task}"
        );
    }
    let of_asr: Vec<String> = kept
        .iter()
        .flat_map(|step| ids(*step))
        .filter(|id| id.starts_with('a'))
        .collect();
    for epoch in of_asr.chunks_exact(12) {
        let distinct: BTreeSet<&String> = epoch.iter().collect();
        assert_eq!(distinct.len(), 12, "no row repeats on the way that counts");
    }

    // Both halves together are what the whole suite scores, and the page says who left.
    let of_whole = of_kind(&place, "eval");
    let mean = |line: &Value, task: &str| {
        let half = |name: &str| line[name][task].as_f64().unwrap();
        (half("selection"), half("reported"))
    };
    let (selection, reported) = mean(&rounds[0], "emotion");
    let whole = of_whole[0]["scores"]["moods.loss"].as_f64().unwrap();
    assert!(selection != reported);
    assert!(
        (whole - (selection + reported) / 2.0).abs() < 1e-9 * whole,
        "three rows in each half, with targets of one length"
    );
    place.run(&["report", "runs/small"]).succeeds();
    let page = place.text("runs/small/report.html");
    assert!(page.contains("Tasks that left at their peak"));
}

/// A run of four steps that ends as a task leaves.
fn short_run() -> Place {
    let place = msft_run(4, SCORES);
    let recipe = place.text("recipe.yaml");
    let last = recipe.find("    - {name: last").unwrap();
    let after = recipe.find("optimiser:").unwrap();
    place.write(
        "recipe.yaml",
        format!("{}{}", &recipe[..last], &recipe[after..]),
    );
    place
}

/// A stage that ends as a task leaves: the run goes on with the parameters and moments of the peak.
#[test]
fn a_roll_back_restores_parameters_and_moments() {
    let place = short_run();
    train(&place);
    let backs = of_kind(&place, "roll_back");
    let to = backs[0]["to_step"].as_u64().unwrap();
    assert_eq!((backs.len(), &backs[0]["at_step"]), (1, &json!(4)));
    for file in ["adapter_model.safetensors", "optimiser.safetensors"] {
        let restored = place.bytes(&format!("runs/small/checkpoints/step-000004/{file}"));
        let peak = place.bytes(&format!("runs/small/msft/step-{to:06}/{file}"));
        assert!(restored == peak, "{file}");
    }
    // The model that the run ends with is evaluated, with its controls.
    let evaluations = of_kind(&place, "eval");
    let at = |line: &&Value| line["at_step"] == json!(4);
    let last: Vec<&Value> = evaluations.iter().filter(at).collect();
    assert_eq!(last.len(), 3);
    let of_peak = evaluations.iter().find(|line| line["at_step"] == json!(to));
    assert_eq!(last[1]["scores"], of_peak.unwrap()["scores"]);
    assert_eq!(last[2]["control"], "no-audio");
}

/// The model that such a run ends with is evaluated at the step of the roll-back, a second time.
#[test]
fn experiments_compare_runs_that_end_by_a_roll_back() {
    let place = short_run();
    place.write(
        "test.yaml",
        "role: test\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion, metrics: [accuracy]}\n  - {name: words, manifest: few.jsonl, task: asr, metrics: [wer]}\n",
    );
    place.write(
        "experiment.yaml",
        "\
name: pairs
recipes:
  - {name: msft, recipe: recipe.yaml}
  - {name: plain, recipe: recipe.yaml, set: ['schedule.stages=[{name: all, mix: uniform, steps: 4}]']}
seeds: [7, 8]
test: test.yaml
resamples: 50
contrasts: [{recipe: msft, against: plain, score: mean}]
",
    );
    place
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    let log = place.lines("runs/pairs/msft-seed1/log.jsonl");
    let is_last = |line: &&Value| line["kind"] == "eval" && line["at_step"] == 4;
    let mut last: Vec<&Value> = log.iter().filter(is_last).collect();
    last.retain(|line| line["control"].is_null());
    assert_eq!(last.len(), 2, "{last:#?}");

    let found = place.json("runs/pairs/comparison.json");
    let dynamics = &found["dynamics"];
    assert_eq!(dynamics["convergence"].as_array().unwrap().len(), 1);
    let at_last = &dynamics["seed_curves"][0]["moods.loss"]["4"];
    assert_eq!(
        at_last.as_array().unwrap().len(),
        2,
        "a value for each seed"
    );
    assert_eq!(at_last[0], last[1]["scores"]["moods.loss"]);
}

/// Steps that were rolled back are in no average, and the model that the run ends with is measured.
#[test]
fn averages_and_audio_gaps_follow_roll_backs() {
    let place = short_run();
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "checkpoint={every: 1, keep: 9, average: 9}",
            "--set",
            "probe.audio_gap=1",
        ])
        .succeeds();
    let to = of_kind(&place, "roll_back")[0]["to_step"].as_u64().unwrap();
    assert!(to < 4);
    // The checkpoint after step 4 has the parameters of the peak.
    let kept: Vec<u64> = (1..to).chain([4]).collect();
    assert_eq!(
        place.json("runs/small/average/average.json"),
        json!({"steps": kept})
    );
    let gaps = of_kind(&place, "audio_gap");
    let steps: Vec<u64> = gaps
        .iter()
        .map(|line| line["at_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 4], "after the roll-back, too");
    assert_eq!(gaps[5]["tasks"], gaps[to as usize]["tasks"]);
    assert_ne!(gaps[5]["tasks"], gaps[4]["tasks"]);
}

/// Evaluations as they are, controls left out.
fn evaluations(place: &Place) -> Vec<Value> {
    let mut lines = of_kind(place, "eval");
    lines.retain(|line| line["control"].is_null());
    lines
}

#[test]
fn the_best_checkpoint_is_chosen_on_half_of_dev() {
    let place = msft_run(8, SCORES);
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "evaluate.keep_best=moods.loss",
        ])
        .succeeds();
    let lines = evaluations(&place);
    let first = of_kind(&place, "round").swap_remove(0);
    assert_eq!(lines[0]["selecting"], first["selection"]["emotion"]);
    assert_ne!(lines[0]["selecting"], lines[0]["scores"]["moods.loss"]);
    let values: Vec<f64> = lines
        .iter()
        .map(|line| line["selecting"].as_f64().unwrap())
        .collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let chosen = values.iter().position(|value| *value == least).unwrap();
    let best = place.json("runs/small/best/state.json");
    assert_eq!(best["step"], lines[chosen]["at_step"]);
    assert_eq!(best["best"].as_f64(), Some(least));
}

/// A run whose first stage of 40 steps stops early, before the stage that ends by mSFT.
fn run_after_early_stop() -> Place {
    let place = msft_run(4, SCORES);
    let recipe = place.text("recipe.yaml");
    let recipe = recipe.replace("every: 100", "every: 1, keep_best: moods.loss");
    let first = "    - {name: first, mix: uniform, steps: 40, early_stop: {score: moods.loss, patience: 1}}\n";
    let all = recipe.find("    - {name: all").unwrap();
    place.write(
        "recipe.yaml",
        format!("{}{first}{}", &recipe[..all], &recipe[all..]),
    );
    place
}

#[test]
fn early_stop_waits_on_the_half_that_selects() {
    let place = run_after_early_stop();
    train(&place);
    let mut least = f64::INFINITY;
    let mut expected = None;
    for line in evaluations(&place) {
        let loss = line["selecting"].as_f64().unwrap();
        if loss >= least {
            expected = Some((line["at_step"].clone(), least));
            break;
        }
        least = loss;
    }
    let (at_step, least) = expected.unwrap();
    let end = of_kind(&place, "stage_end").swap_remove(0);
    assert_eq!(end["stage"], "first");
    assert_eq!(end["at_step"], at_step);
    let reason = format!("`moods.loss` has been no better than {least:.4} for 1 evaluations");
    assert_eq!(end["reason"], reason);
}

/// The first stage ends before the step at which the plan begins the stage with `end: msft`.
#[test]
fn missing_picks_are_told_after_a_stage_that_stopped_early() {
    let place = run_after_early_stop();
    train(&place);
    let steps = of_kind(&place, "train").len();
    let picks = place.lines("runs/small/picks.jsonl");
    assert!(steps < 40, "{steps}");
    assert_eq!(picks.len(), steps, "both stages draw by the training");
    let cut = place.text("runs/small/picks.jsonl");
    let last = cut.trim_end().rfind('\n').unwrap() + 1;
    place.write("runs/small/picks.jsonl", &cut[..last]);
    let said = format!("has the picks of {} steps", steps - 1);
    place
        .run(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
        .fails(2, &["picks.jsonl", &said]);
}

/// Checkpoints of rounds that are there now.
fn num_rounds_stored(place: &Place) -> usize {
    let Ok(entries) = std::fs::read_dir(place.path("runs/small/msft")) else {
        return 0;
    };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    names
        .filter(|name| name.to_string_lossy().starts_with("step-"))
        .count()
}

/// A round has four scores and its start.
#[test]
fn checkpoints_of_earlier_rounds_go_before_the_next_checkpoint() {
    let place = msft_run(24, SCORES);
    let mut child = place
        .command(&[
            "train",
            "recipe.yaml",
            "--allow-leakage",
            "--set",
            "checkpoint={every: 100, keep: 1}",
        ])
        .spawn()
        .unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(num_rounds_stored(&place));
        std::thread::sleep(Duration::from_millis(1));
    }
    outcome(child.wait_with_output().unwrap()).succeeds();
    assert!(of_kind(&place, "round").len() > 6);
    assert!((1..=5).contains(&most), "{most} at once");
}

/// Names and bytes of what a run of so many steps leaves.
fn files_after(place: &Place, steps: usize) -> kills::Files {
    let step = format!("checkpoints/step-{steps:06}");
    let adapter = format!("{step}/adapter_model.safetensors");
    let optimiser = format!("{step}/optimiser.safetensors");
    let state = format!("{step}/state.json");
    let names: [&str; 6] = [
        "log.jsonl",
        "picks.jsonl",
        &adapter,
        &optimiser,
        &state,
        "best/adapter_model.safetensors",
    ];
    kills::files(place, &names)
}

/// A run whose roll-back fails leaves a checkpoint between the evaluation and the roll-back.
#[test]
fn a_checkpoint_before_a_roll_back_goes_on_with_it() {
    let place = msft_run(16, SCORES);
    let arguments = [
        "train",
        "recipe.yaml",
        "--allow-leakage",
        "--resume",
        "--set",
        "checkpoint={every: 1, keep: 99}",
    ];
    place.run(&arguments).succeeds();
    let last = of_kind(&place, "train").len();
    let expected = files_after(&place, last);
    let back = of_kind(&place, "roll_back").swap_remove(0);
    let at = back["at_step"].as_u64().unwrap();
    let to = back["to_step"].as_u64().unwrap();

    // The run as it was before the step of the roll-back, without the parameters of the peak.
    for step in at..=last as u64 {
        let folder = place.path(&format!("runs/small/checkpoints/step-{step:06}"));
        std::fs::remove_dir_all(folder).unwrap();
    }
    let peak = place.path(&format!("runs/small/msft/step-{to:06}"));
    std::fs::rename(&peak, place.path("peak")).unwrap();
    place.run(&arguments).fails(
        2,
        &[
            "the checkpoint of a roll-back is missing",
            "hint: put the folder back",
        ],
    );
    let state = place.json(&format!("runs/small/checkpoints/step-{at:06}/state.json"));
    assert_eq!(state["msft"]["0"]["pending"], json!(to));

    std::fs::rename(place.path("peak"), &peak).unwrap();
    place.run(&arguments).succeeds();
    for ((name, found), (_, expected)) in files_after(&place, last).iter().zip(&expected) {
        assert!(found == expected, "{name} differs");
    }
}

#[test]
fn a_killed_run_rolls_back_like_an_undisturbed_one() {
    let whole = msft_run(16, SCORES);
    let started = Instant::now();
    train(&whole);
    let took = started.elapsed();
    let last = of_kind(&whole, "train").len();
    assert!(!of_kind(&whole, "roll_back").is_empty());
    let expected = files_after(&whole, last);
    for round in 0..3 {
        let delays = Key::new(21, "kill").with(round);
        let (place, kills, _) = kills::killed_run(&|| msft_run(16, SCORES), took, delays);
        let when = format!("round {round}, {kills} kills");
        kills::assert_same_files(&files_after(&place, last), &expected, &when);
    }
}

#[test]
fn plan_says_what_is_missing() {
    let place = msft_run(24, SCORES);
    let plan =
        |change: &str| place.run(&["plan", "recipe.yaml", "--allow-leakage", "--set", change]);
    let text = plan("seed=7").succeeds().stdout;
    assert!(
        text.contains("ends by mSFT: rounds of 4 steps at first, tasks scored every 1")
            && text.contains("leaves tasks out as they peak"),
        "{text}"
    );
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--allow-leakage",
            "--picks",
            "p.jsonl",
        ])
        .fails(
            2,
            &["stage `all` are not known before training", "`end: msft`"],
        );
    let told: Value = serde_json::from_str(
        &place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--json"])
            .succeeds()
            .stdout,
    )
    .unwrap();
    let marks = [0, 1].map(|i| told["stages"][i]["depends_on_training"] == true);
    assert_eq!(marks, [true, true]);

    for (change, words) in [
        (
            "evaluate=null",
            ["stage `all`", "the recipe has no `evaluate`"],
        ),
        (
            "schedule.stages.0.msft.scores.asr=words.los",
            [
                "no score `words.los` for `asr`",
                "did you mean `words.loss`?",
            ],
        ),
        (
            "schedule.stages.0.msft.scores.dialect=words.loss",
            [
                "names `dialect`, which the stage does not train",
                "asr, emotion",
            ],
        ),
        (
            "schedule.stages.0.msft.budget=0",
            ["`msft.budget` is 0", "hint:"],
        ),
        (
            "schedule.stages.0.end=mstf",
            ["unknown value `mstf`", "`msft`"],
        ),
        (
            "schedule.stages.0.draw=diverse",
            ["`mix: uniform` beside `draw: diverse`", "hint:"],
        ),
        (
            "schedule.stages.0.early_stop={score: mean, patience: 2}",
            ["`early_stop` beside `end: msft`", "hint:"],
        ),
        (
            "schedule.stages.0.mix={online: odm}",
            [
                "`mix: {online: ...}` beside `end: msft`",
                "hint: remove `mix: {online: ...}`, or `end`",
            ],
        ),
        (
            "gradients=famo",
            [
                "`gradients: famo` beside `end: msft` of stage `all`",
                "hint: write `gradients: pcgrad`",
            ],
        ),
    ] {
        plan(change).fails(2, &words);
    }
    place.write(
        "dev.yaml",
        "role: dev\nsets: [{name: words, manifest: few.jsonl, task: asr}]\n",
    );
    plan("schedule.stages.0.msft=null").fails(
        2,
        &[
            "stage `all`",
            "dev.yaml",
            "the dev suite has no set of task `emotion`",
        ],
    );
}
