//! An experiment from start to end: recipes with paired seeds, resumed after a stop, evaluated
//! once, compared; and unfair comparisons.

use crate::command;

use command::Place;
use command::asr_rows;
use command::emotion_rows;
use command::fixture_text;
use serde_json::Value;
use serde_json::json;

fn recipe(name: &str, stages: &str) -> String {
    format!(
        "\
name: {name}
model: {{path: {}}}
train: {{audio_encoder: frozen, projector: frozen, decoder: lora}}
lora: {{rank: 4, alpha: 8}}
data:
  - {{manifest: asr.jsonl, task: asr}}
  - {{manifest: emotion.jsonl, task: emotion}}
schedule: {{batch: 4, stages: [{stages}]}}
optimiser: {{learning_rate: 2e-3}}
probe: {{every: 2}}
evaluate: {{suite: dev.yaml, every: 2}}
checkpoint: {{every: 2, keep: 1}}
",
        fixture_text("qwen_omni")
    )
}

const EXPERIMENT: &str = "\
name: pairs
recipes:
  - {recipe: uniform.yaml}
  - {recipe: balanced.yaml}
  - {name: alone, recipe: uniform.yaml, set: ['schedule.stages=[{tasks: [asr], steps: 2}]'], own_budget: true}
seeds: [{initialisation: 1, order: 11}, {initialisation: 2, order: 12}]
test: test.yaml
resamples: 50
contrasts: [{recipe: balanced, against: uniform, score: moods.accuracy}, {recipe: uniform, against: alone, score: mean}]
";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    for role in ["dev", "test"] {
        let sets = "sets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion, metrics: [accuracy]}\n  - {name: words, manifest: asr.jsonl, task: asr, metrics: [wer], limit: 3}\n";
        place.write(&format!("{role}.yaml"), format!("role: {role}\n{sets}"));
    }
    place.write(
        "uniform.yaml",
        recipe("uniform", "{mix: uniform, steps: 4}"),
    );
    place.write(
        "balanced.yaml",
        recipe("balanced", "{draw: balanced, steps: 4}"),
    );
    place.write("experiment.yaml", EXPERIMENT);
    place
}

fn json_of(place: &Place, run: &str, name: &str) -> Value {
    place.json(&format!("runs/pairs/{run}/{name}"))
}

#[test]
fn an_experiment_is_run_once_and_compared() {
    let place = place();
    let ran = place
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    assert!(
        ran.stdout.contains("3 recipes, 2 seeds, 6 runs") && ran.stdout.contains("not resolved"),
        "{}",
        ran.stdout
    );
    let found = place.json("runs/pairs/comparison.json");
    assert_eq!(
        (found["recipes"].clone(), found["num_seeds"].clone()),
        (json!(["uniform", "balanced", "alone"]), json!(2))
    );
    // The tables have the means of the runs' own scores.
    for table in found["last"].as_array().unwrap() {
        let score = table["score"].as_str().unwrap();
        for (place_of, (recipe, estimate)) in ["uniform", "balanced", "alone"]
            .iter()
            .zip(table["estimates"].as_array().unwrap())
            .enumerate()
        {
            let of_seed = |seed: u32| {
                json_of(
                    &place,
                    &format!("{recipe}-seed{seed}"),
                    "eval/test/scores.json",
                )[score]
                    .as_f64()
                    .unwrap()
            };
            for seed in [1, 2] {
                let shown = table["seeds"][place_of][seed as usize - 1]
                    .as_f64()
                    .unwrap();
                assert!(
                    (shown - of_seed(seed)).abs() < 1e-9,
                    "{recipe} {score} {seed}"
                );
            }
            let mean = (of_seed(1) + of_seed(2)) / 2.0;
            assert!(
                (estimate["value"].as_f64().unwrap() - mean).abs() < 1e-9,
                "{recipe} {score}"
            );
        }
    }
    // The same as a page, with its figures and tables.
    let report =
        |name: &str| String::from_utf8(place.bytes(&format!("runs/pairs/report/{name}"))).unwrap();
    assert!(ran.stdout.contains("report.html"), "{}", ran.stdout);
    for name in [
        "report.html",
        "scores-last.md",
        "contrasts.tex",
        "scores-bars.svg",
        "contrasts-figure.svg",
        "dev-curves.svg",
        "failures.svg",
        "cosines.svg",
        "budgets.md",
    ] {
        assert!(report(name).len() > 100, "{name}");
    }
    assert!(
        report("contrasts.md").contains("not resolved")
            && report("cosines.svg").contains("uniform"),
        "{}",
        report("contrasts.md")
    );
    // Both seeds of three recipes are circles in each panel, and a caveat names its sets.
    let circles = report("scores-bars.svg").matches("<circle").count();
    assert_eq!(circles, 6 * found["last"].as_array().unwrap().len());
    let notes = found["notes"].as_array().unwrap();
    assert!(
        notes.iter().all(|note| ["moods", "words", "mean"]
            .iter()
            .any(|set| note.as_str().unwrap().starts_with(set))),
        "{notes:?}"
    );
    // The budgets are those of the logs: four steps of four examples, but two for the recipe with
    // its own budget.
    let examples: Vec<f64> = found["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|budget| budget["examples"].as_f64().unwrap())
        .collect();
    assert_eq!(examples, [16.0, 16.0, 8.0]);

    // A second call trains nothing, generates nothing, and prints the same.
    let before = place.bytes("runs/pairs/comparison.json");
    std::fs::remove_dir_all(place.path("runs/pairs/uniform-seed1/checkpoints")).unwrap();
    place
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    assert!(place.bytes("runs/pairs/comparison.json") == before);
    assert!(
        !place.path("runs/pairs/uniform-seed1/checkpoints").exists(),
        "a whole run is left as it is"
    );
}

#[test]
fn an_interrupted_experiment_ends_with_equal_bytes() {
    let whole = place();
    let cut = place();
    whole
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    let early = cut.run(&[
        "experiment",
        "experiment.yaml",
        "--compare-only",
        "--allow-leakage",
    ]);
    assert!(
        early.code == Some(2)
            && early
                .stderr
                .contains("0 seeds are finished with every recipe"),
        "{}",
        early.stderr
    );
    let mut child = cut
        .command(&["experiment", "experiment.yaml", "--allow-leakage"])
        .spawn()
        .unwrap();
    while !cut.path("runs/pairs/balanced-seed1/log.jsonl").is_file() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the experiment ended early"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // SAFETY: no one has waited for this child process, so its id is still its own.
    assert_eq!(
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) },
        0
    );
    let stopped = command::outcome(child.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(130), "{}", stopped.stderr);
    assert!(
        stopped
            .stderr
            .contains("error: stopped\nhint: start the experiment again"),
        "{}",
        stopped.stderr
    );
    cut.run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    for run in ["uniform-seed1", "balanced-seed1", "balanced-seed2"] {
        let log = format!("runs/pairs/{run}/log.jsonl");
        assert!(cut.bytes(&log) == whole.bytes(&log), "{run}");
    }
    assert!(cut.bytes("runs/pairs/comparison.json") == whole.bytes("runs/pairs/comparison.json"));
}

#[test]
fn runs_without_evaluations_compare_by_their_ends() {
    let place = place();
    for (name, stages) in [
        ("uniform", "{mix: uniform, steps: 2}"),
        ("balanced", "{draw: balanced, steps: 2}"),
    ] {
        place.write(
            &format!("{name}.yaml"),
            recipe(name, stages).replace("evaluate: {suite: dev.yaml, every: 2}\n", ""),
        );
    }
    place
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    let found = place.json("runs/pairs/comparison.json");
    assert_eq!(found["dynamics"]["convergence"], json!([]));
    assert_eq!(found["contrasts"].as_array().unwrap().len(), 2);
}

const MERGES: &str = "\
name: pairs
recipes:
  - {name: summed, merge: {of: [only-asr, only-emotion]}}
  - {recipe: uniform.yaml}
  - {name: only-asr, recipe: uniform.yaml, set: ['schedule.stages=[{tasks: [asr], steps: 2}]'], own_budget: true}
  - {name: only-emotion, recipe: uniform.yaml, set: ['schedule.stages=[{tasks: [emotion], steps: 2}]'], own_budget: true}
  - {name: elected, merge: {of: [only-asr, only-emotion], method: ties, density: 0.5, rank: full}}
seeds: [{initialisation: 1, order: 11}, {initialisation: 2, order: 12}]
test: test.yaml
resamples: 50
contrasts: [{recipe: uniform, against: summed, score: mean}, {recipe: elected, against: summed, score: moods.accuracy}]
";

#[test]
fn merged_adapters_are_compared_like_recipes() {
    let place = place();
    place.write("experiment.yaml", MERGES);
    let run = ["experiment", "experiment.yaml", "--allow-leakage"];
    let ran = place.run(&run).succeeds();
    assert!(
        ran.stdout.contains("5 recipes, 2 seeds, 10 runs"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stderr
            .contains("elected-seed2, merged of only-asr-seed2, only-emotion-seed2"),
        "{}",
        ran.stderr
    );

    // What is merged are the last adapters of the same seed, and their best on dev.
    let model = fixture_text("qwen_omni");
    let linear: &[&str] = &[];
    let ties: &[&str] = &["--method", "ties", "--density", "0.5", "--rank", "full"];
    for (folder, of) in [
        ("adapter", "checkpoints/step-000002"),
        ("adapter-best", "best"),
    ] {
        for (name, more) in [("summed", linear), ("elected", ties)] {
            for seed in [1, 2] {
                let source = |task: &str| format!("runs/pairs/only-{task}-seed{seed}/{of}");
                let out = format!("merged/{folder}-{name}-{seed}");
                let asr = source("asr");
                let emotion = source("emotion");
                let merge = [
                    &[
                        "merge",
                        "--model",
                        &model,
                        "--adapter",
                        &asr,
                        "--adapter",
                        &emotion,
                        "--out",
                        &out,
                    ],
                    more,
                ];
                place.run(&merge.concat()).succeeds();
                for file in ["adapter_model.safetensors", "merge.json"] {
                    let found =
                        place.bytes(&format!("runs/pairs/{name}-seed{seed}/{folder}/{file}"));
                    let expected = place.bytes(&format!("{out}/{file}"));
                    assert!(found == expected, "{out}/{file}");
                }
            }
        }
    }

    // The tables have the scores of the merged adapters, and the budget of all that was trained.
    let found = place.json("runs/pairs/comparison.json");
    let recipes = ["summed", "uniform", "only-asr", "only-emotion", "elected"];
    assert_eq!(found["recipes"], json!(recipes));
    let budgets = found["budgets"].as_array().unwrap().iter();
    let examples: Vec<f64> = budgets
        .map(|budget| budget["examples"].as_f64().unwrap())
        .collect();
    assert_eq!(examples, [16.0, 16.0, 8.0, 8.0, 16.0]);
    assert_eq!(
        found["budgets"][0]["examples_by_task"],
        json!({"asr": 8.0, "emotion": 8.0})
    );
    let table = &found["last"].as_array().unwrap()[0];
    let score = table["score"].as_str().unwrap();
    for (seed, shown) in table["seeds"][4].as_array().unwrap().iter().enumerate() {
        let run = format!("elected-seed{}", seed + 1);
        let own = json_of(&place, &run, "eval/test/scores.json")[score].clone();
        assert!((shown.as_f64().unwrap() - own.as_f64().unwrap()).abs() < 1e-9);
    }
    assert_eq!(found["contrasts"].as_array().unwrap().len(), 2);
    assert_eq!(found["dynamics"]["convergence"], json!([]), "no dev curve");

    // An adapter answers here as it does in an evaluation of its own.
    let adapter = "elected=runs/pairs/elected-seed1/adapter";
    place
        .run(&[
            "eval",
            "test.yaml",
            "--model",
            &model,
            "--adapter",
            adapter,
            "--no-base",
            "--allow-leakage",
            "--out",
            "alone",
        ])
        .succeeds();
    let told = |lines: Vec<Value>| -> Vec<Value> {
        lines
            .iter()
            .map(|line| line["prediction"].clone())
            .collect()
    };
    assert_eq!(
        told(place.lines("runs/pairs/elected-seed1/eval/test/words.jsonl")),
        told(place.lines("alone/elected/words.jsonl"))
    );

    // A merge that was interrupted is made again, and what is finished stays.
    let before = place.bytes("runs/pairs/comparison.json");
    std::fs::remove_dir_all(place.path("runs/pairs/summed-seed2/eval/test-best")).unwrap();
    std::fs::remove_dir_all(place.path("runs/pairs/elected-seed1/adapter")).unwrap();
    place.run(&run).succeeds();
    assert!(place.bytes("runs/pairs/comparison.json") == before);
    assert!(!place.path("runs/pairs/elected-seed1/adapter").exists());

    std::fs::remove_dir_all(place.path("runs/pairs/summed-seed1")).unwrap();
    std::fs::remove_dir_all(place.path("runs/pairs/only-asr-seed1/checkpoints")).unwrap();
    let ended = place.run(&run);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    for word in ["no checkpoint of a finished run", "hint: put"] {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
}

#[test]
fn merges_that_cannot_work_are_refused() {
    let place = place();
    for (from, to, words) in [
        (
            "of: [only-asr, only-emotion]}}",
            "of: [only-asr, only-emotoin]}}",
            [
                "`merge.of` names `only-emotoin`",
                "did you mean `only-emotion`?",
            ],
        ),
        (
            "of: [only-asr, only-emotion]}}",
            "of: [only-asr, elected]}}",
            ["`merge.of` names `elected`", "hint: "],
        ),
        (
            "of: [only-asr, only-emotion]}}",
            "of: [only-asr, only-asr]}}",
            ["`merge.of` names `only-asr` twice", "hint: name each"],
        ),
        (
            "of: [only-asr, only-emotion]}}",
            "of: [only-asr]}}",
            ["`summed`", "1 adapter to merge"],
        ),
        (
            "of: [only-asr, only-emotion]}}",
            "of: [only-asr, only-emotion], weights: [1]}}",
            ["1 weights for 2 adapters", "hint: give one weight"],
        ),
        (
            "method: ties, density: 0.5",
            "density: 0.5",
            [
                "the density is 0.5 beside the method `linear`",
                "hint: leave",
            ],
        ),
        (
            "density: 0.5",
            "density: 2",
            ["the density is 2", "hint: give a share"],
        ),
        (
            "rank: full",
            "rank: whole",
            ["a whole number or `full`", "experiment.yaml"],
        ),
        (
            "method: ties",
            "method: dare",
            ["unknown value `dare`", "ties"],
        ),
        (
            "{name: summed, merge",
            "{merge",
            ["an entry with `merge` has no `name`", "hint: write `name"],
        ),
        (
            "{name: summed, merge",
            "{name: summed, set: [seed=1], merge",
            ["`set` beside `merge` in `summed`", "hint: write `set`"],
        ),
        (
            "{name: summed, merge",
            "{name: summed, recipe: uniform.yaml, merge",
            ["both `recipe` and `merge`", "hint: keep one"],
        ),
        (
            "  - {recipe: uniform.yaml}",
            "  - {name: nothing}",
            ["neither `recipe` nor `merge`", "hint: write `recipe: FILE`"],
        ),
        (
            "tasks: [asr], steps: 2",
            "tasks: [asr], steps: 3",
            ["`uniform` has 4 steps, `summed` 5", "own_budget"],
        ),
        (
            "name: pairs\n",
            "name: pairs\nset: [train.projector=full]\n",
            [
                "`merge.of` names `only-asr`, whose recipe has `train.projector: full`",
                "hint: merge recipes",
            ],
        ),
    ] {
        assert!(MERGES.contains(from), "{from}");
        place.write("experiment.yaml", MERGES.replacen(from, to, 1));
        let ended = place.run(&["experiment", "experiment.yaml", "--allow-leakage"]);
        assert_eq!(ended.code, Some(2), "{to}: {}", ended.stderr);
        for word in words {
            assert!(
                ended.stderr.contains(word),
                "{to}: `{word}` is not in {}",
                ended.stderr
            );
        }
        assert!(!place.path("runs/pairs/uniform-seed1").exists(), "{to}");
    }
}

#[test]
fn unfair_comparisons_are_refused() {
    let place = place();
    let with = |from: &str, to: &str| place.write("experiment.yaml", EXPERIMENT.replace(from, to));
    for (from, to, words) in [
        (
            "{recipe: balanced.yaml}",
            "{recipe: balanced.yaml, set: [optimiser.learning_rate=1e-3]}",
            &["`optimiser` of `balanced` is not that of `uniform`"][..],
        ),
        (
            "{recipe: balanced.yaml}",
            "{recipe: balanced.yaml, set: [model.weights=random]}",
            &["`model` of `balanced` is not that of `uniform`"],
        ),
        (
            "{recipe: balanced.yaml}",
            "{recipe: balanced.yaml, set: [schedule.stages.0.steps=5]}",
            &["`balanced` has 5 steps, `uniform` 4", "own_budget"],
        ),
        (
            "{recipe: balanced.yaml}",
            "{recipe: balanced.yaml, set: [schedule.stages.0.learning_rate=1e-3]}",
            &["a stage of `balanced` has `learning_rate`"],
        ),
        (
            "{recipe: balanced.yaml}",
            "{recipe: balanced.yaml, set: ['schedule.stages.0.early_stop={score: mean, patience: 1}']}",
            &[
                "a stage of `balanced` has `early_stop`",
                "hint: remove it",
                "only stages with `end: msft` may end early",
            ],
        ),
        (
            "{recipe: balanced.yaml}",
            "{name: uniform, recipe: balanced.yaml}",
            &["two recipes are named `uniform`"],
        ),
        (
            "against: uniform",
            "against: uniforn",
            &["`contrasts` names `uniforn`", "did you mean `uniform`?"],
        ),
        (
            "against: uniform, score: moods.accuracy",
            "against: uniform, score: moods.acuracy",
            &[
                "experiment.yaml",
                "the test suite gives no score `moods.acuracy`",
                "hint: did you mean `moods.accuracy`?",
            ],
        ),
        (
            "order: 12",
            "order: 11, initialisation: 1",
            &["experiment.yaml"],
        ),
        (
            "recipe: uniform.yaml}",
            "recipe: missing.yaml}",
            &["missing.yaml"],
        ),
    ] {
        with(from, to);
        let ended = place.run(&["experiment", "experiment.yaml", "--allow-leakage"]);
        assert_eq!(ended.code, Some(2), "{to}: {}", ended.stderr);
        for word in words {
            assert!(
                ended.stderr.contains(word),
                "{to}: `{word}` is not in {}",
                ended.stderr
            );
        }
        assert!(
            !place.path("runs/pairs").join("uniform-seed1").exists(),
            "{to}: nothing was trained"
        );
    }
}

#[test]
fn power_is_told_from_statements_and_from_finished_runs() {
    let place = place();
    let contrasts = "contrasts: [{recipe: balanced, against: uniform, score: moods.accuracy}, {recipe: uniform, against: alone, score: mean}]\n";
    assert!(EXPERIMENT.ends_with(contrasts));

    // Nothing is known before the first seeds are trained.
    let power = ["experiment", "experiment.yaml", "--power"];
    place.run(&power).fails(
        2,
        &["no two recipes have two finished seeds", "`power.pilot`"],
    );

    // Stated: one contrast over 6 rows of emotion, each its own cluster, and 2 seeds.
    let one = EXPERIMENT.replace(
        contrasts,
        "contrasts: [{recipe: balanced, against: uniform, score: moods.accuracy}]\npower: {deviations: [{score: moods.accuracy, seeds: 0.1, clusters: 0.2}]}\n",
    );
    place.write("stated.yaml", &one);
    let stated = ["experiment", "stated.yaml", "--power"];
    let said = place.run(&stated).succeeds().stdout;
    assert!(
        said.contains("| balanced | uniform | moods.accuracy | 2 | 6 | 6 |"),
        "{said}"
    );
    let found = place.json("runs/pairs/power.json");
    let of = &found["contrasts"][0];
    let variance = 0.1f64.powi(2) / 2.0 + 0.2f64.powi(2) / 6.0;
    let error = of["standard_error"].as_f64().unwrap();
    assert!((error - variance.sqrt()).abs() < 1e-12, "{found}");
    let smallest = of["smallest"].as_f64().unwrap();
    assert!(
        smallest > 2.8 * error,
        "at least the normal quantiles: {smallest}"
    );
    assert!(of["with_twice_the_seeds"].as_f64().unwrap() < smallest);

    // Two contrasts halve the level, which 6 clusters cannot reach.
    let two = EXPERIMENT.to_owned()
        + "power: {deviations: [{score: moods.accuracy, seeds: 0.1}, {score: mean, clusters: 1}]}\n";
    place.write("two.yaml", &two);
    let said = place
        .run(&["experiment", "two.yaml", "--power"])
        .succeeds()
        .stdout;
    assert!(
        said.contains("none of any size") && said.contains("not more seeds"),
        "{said}"
    );

    place.write(
        "odd.yaml",
        one.replace(
            "score: moods.accuracy, seeds",
            "score: moods.acuracy, seeds",
        ),
    );
    place.run(&["experiment", "odd.yaml", "--power"]).fails(
        2,
        &[
            "gives no score `moods.acuracy`",
            "did you mean `moods.accuracy`",
        ],
    );
    place.write(
        "none.yaml",
        one.replace("seeds: 0.1, clusters: 0.2", "seeds: 0"),
    );
    place
        .run(&["experiment", "none.yaml", "--power"])
        .fails(2, &["names no deviation", "hint:"]);

    // A pilot under another name, from its finished runs.
    place
        .run(&["experiment", "experiment.yaml", "--allow-leakage"])
        .succeeds();
    let before = place.json("runs/pairs/comparison.json");
    place.run(&power).succeeds();
    let own = place.json("runs/pairs/power.json");
    assert_eq!(own["contrasts"][0]["pilot_seeds"], 2);
    assert_eq!(own["contrasts"][1]["from"], "2 seeds of pairs");
    assert_eq!(place.json("runs/pairs/comparison.json"), before);
    let next = one.replace("name: pairs", "name: next").replace(
        "{deviations: [{score: moods.accuracy, seeds: 0.1, clusters: 0.2}]}",
        "{pilot: experiment.yaml, chance: 0.9}",
    );
    place.write("next.yaml", next);
    place
        .run(&["experiment", "next.yaml", "--power"])
        .succeeds();
    let next = place.json("runs/next/power.json");
    assert_eq!(
        next["contrasts"][0]["components"],
        own["contrasts"][0]["components"]
    );
    assert_eq!(next["chance"], 0.9);
}
