//! Mistakes of new users in recipes and manifests: each message has the place, the fault and a
//! hint.

use crate::command;

use std::time::Duration;

use command::Place;
use command::fixture;
use command::outcome;
use command::row;
use command::small_run;
use serde_json::Value;
use serde_json::json;

/// The small recipe with a line replaced.
fn with_line(place: &Place, old: &str, new: &str) {
    let recipe = place.text("recipe.yaml");
    assert!(recipe.contains(old), "{recipe}");
    place.write("recipe.yaml", recipe.replace(old, new));
}

fn train(place: &Place) -> command::Outcome {
    place.run(&["train", "recipe.yaml"])
}

/// Sets a field of one row of a manifest.
fn with_field(place: &Place, manifest: &str, line: usize, field: &str, value: Value) {
    let mut rows = place.lines(manifest);
    rows[line - 1][field] = value;
    place.write_rows(manifest, &rows);
}

#[test]
fn a_typo_in_a_recipe_names_line_and_nearest_key() {
    let place = small_run(2);
    with_line(&place, "{learning_rate: 2e-3}", "{lerning_rate: 2e-3}");
    train(&place).fails(
        2,
        &[
            "error: recipe.yaml:13:13: ",
            "unknown field `lerning_rate`",
            "hint: did you mean `learning_rate`?",
        ],
    );
    assert!(!place.path("runs").exists(), "nothing is begun");
    place
        .run(&["plan", "recipe.yaml"])
        .fails(2, &["recipe.yaml:13:13", "did you mean `learning_rate`?"]);
}

#[test]
fn a_value_of_the_wrong_type_names_its_line() {
    let place = small_run(2);
    with_line(&place, "rank: 4", "rank: four");
    train(&place).fails(2, &["recipe.yaml:4:", "four"]);
}

#[test]
fn a_typo_in_set_names_the_nearest_key() {
    let place = small_run(2);
    let run = |set: &str| place.run(&["train", "recipe.yaml", "--set", set]);
    run("optimiser.lerning_rate=1e-5").fails(
        2,
        &[
            "--set optimiser.lerning_rate=1e-5",
            "unknown field `lerning_rate`",
            "did you mean `learning_rate`?",
        ],
    );
    run("optimiser.learning_rate").fails(2, &["expected KEY=VALUE", "hint:"]);
    run("schedule.stages.7.steps=3").fails(2, &["`7` is not an entry of a list of 2"]);
    run("optimiser.learning_rate=-1").fails(2, &["`optimiser.learning_rate` is -1"]);
}

#[test]
fn a_missing_recipe_manifest_or_model_is_named() {
    let place = small_run(2);
    place.run(&["train", "nowhere.yaml"]).fails(
        2,
        &[
            "nowhere.yaml: cannot read",
            "hint: name the YAML file of a recipe",
        ],
    );
    let suite = "evaluate={suite: dev/none.yaml, every: 1}";
    place.run(&["train", "recipe.yaml", "--set", suite]).fails(
        2,
        &[
            "dev/none.yaml: cannot read",
            "hint: name the YAML file of a suite",
        ],
    );
    place
        .run(&["train", "recipe.yaml", "--set", "prompts=nowhere"])
        .fails(
            2,
            &[
                "nowhere: cannot read the folder",
                "hint: name a folder of task files",
            ],
        );
    place
        .run(&["train", "recipe.yaml", "--set", "model.path=./nowhere"])
        .fails(2, &["./nowhere: no such folder", "hint: `model`"]);
    std::fs::remove_file(place.path("emotion.jsonl")).unwrap();
    train(&place).fails(
        2,
        &[
            "emotion.jsonl: cannot read",
            "hint: relative paths of manifests start from the folder",
        ],
    );
}

#[test]
fn unknown_or_contradicting_training_is_refused() {
    let place = small_run(2);
    with_line(&place, "decoder: lora", "decoder: half");
    train(&place).fails(
        2,
        &[
            "recipe.yaml:3:",
            "`half`",
            "one of `frozen`, `lora`, `full`",
        ],
    );
    with_line(
        &place,
        "train: {audio_encoder: lora, projector: lora, decoder: half}",
        "train: {decoder: frozen}",
    );
    train(&place).fails(
        2,
        &["freezes every part: there is nothing to train", "hint:"],
    );
    with_line(&place, "train: {decoder: frozen}", "train: {decoder: full}");
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "schedule.stages.1.train={decoder: lora}",
        ])
        .fails(2, &["trains decoder in another way", "hint:"]);
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "optimiser.factors={projector: 0}",
        ])
        .fails(2, &["`optimiser.factors.projector` is 0", "hint:"]);
}

#[test]
fn words_without_a_near_one_have_a_hint() {
    let place = small_run(2);
    for (set, words) in [
        (
            "schedule.stages.1.mix=odm",
            [
                "schedule.stages[1].mix: `odm` is a rule",
                "hint: write `mix: {online: odm}`",
                "--set",
            ],
        ),
        (
            "schedule.stages.1.mix=even",
            [
                "unknown value `even`",
                "`proportional`",
                "hint: use one of the expected names",
            ],
        ),
        (
            "schedule.stages.1.mix.online=odm",
            [
                "`online` is below something that is neither",
                "hint: change the whole value above `online`",
                "{online: ...}",
            ],
        ),
    ] {
        place
            .run(&["plan", "recipe.yaml", "--allow-leakage", "--set", set])
            .fails(2, &words);
    }
    place.write(
        "experiment.yaml",
        "name: e\nrecipes: [recipe.yaml]\nseeds: [1, 2]\n",
    );
    place.run(&["plan", "experiment.yaml"]).fails(
        2,
        &[
            "experiment.yaml:2:1: unknown field `recipes`",
            "hint: run `maqam experiment experiment.yaml`",
        ],
    );
}

#[test]
fn targets_that_match_nothing_are_named() {
    let place = small_run(2);
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "lora.targets=[q_proj, qproj]",
        ])
        .fails(2, &["`qproj` matches no linear layer", "hint:"]);
}

#[test]
fn missing_audio_is_named_by_line_and_path() {
    let place = small_run(2);
    with_field(&place, "asr.jsonl", 3, "audio", json!("clips/gone.wav"));
    train(&place).fails(
        2,
        &[
            "error: asr.jsonl:3: no audio file at clips/gone.wav",
            "hint: relative paths start from the manifest's folder",
        ],
    );
    let ran = place
        .run(&["train", "recipe.yaml", "--set", "on_bad_row=skip"])
        .succeeds();
    assert!(
        ran.stderr.contains("skipped: asr.jsonl:3: no audio file"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("17 rows"), "{}", ran.stderr);
}

/// A run whose sixth ASR row has a clip with the second half of its bytes overwritten.
fn run_with_a_damaged_clip(clip: &str, source: &str) -> Place {
    let place = small_run(4);
    let mut bytes = std::fs::read(fixture(source)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x55);
    place.write(clip, bytes);
    place.write_rows("asr.jsonl", &{
        let mut rows = command::asr_rows();
        rows[5] = json!({"id": "broken", "audio": clip, "text": "yes"});
        rows
    });
    place
}

#[test]
fn a_damaged_mp3_is_named_before_step_one() {
    let place = run_with_a_damaged_clip("clips/broken.mp3", "audio/formats/mono_16k.mp3");
    let words = ["asr.jsonl:6", "broken.mp3", "hint:"];
    train(&place).fails(2, &words);
    assert!(!place.path("runs/small/log.jsonl").exists());
    place.run(&["plan", "recipe.yaml"]).fails(2, &words);
}

#[test]
fn damage_behind_a_header_names_file_row_and_step() {
    let place = run_with_a_damaged_clip("clips/broken.flac", "audio/formats/s16_16k.flac");
    let ran = train(&place).fails(
        2,
        &["broken.flac", "row `broken`", "asr.jsonl", "step ", "hint:"],
    );
    place
        .run(&[
            "plan",
            "recipe.yaml",
            "--set",
            "on_bad_row=skip",
            "--picks",
            "picks.jsonl",
        ])
        .succeeds();
    let planned = place
        .lines("picks.jsonl")
        .iter()
        .position(|pick| pick["ids"].as_array().unwrap().contains(&json!("broken")))
        .unwrap()
        + 1;
    assert!(
        ran.stderr
            .contains(&format!("error: step {planned}: asr.jsonl:6: row `broken`")),
        "drawn in step {planned}:\n{}",
        ran.stderr
    );

    let ran = place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "name=skip",
            "--set",
            "on_bad_row=skip",
        ])
        .succeeds();
    let drawn = place
        .lines("picks.jsonl")
        .iter()
        .flat_map(|pick| pick["ids"].as_array().unwrap().clone())
        .filter(|id| id == "broken")
        .count() as u64;
    let log = place.lines("runs/skip/log.jsonl");
    let sum = |field: &str| {
        log.iter()
            .map(|line| line[field].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("skipped"), sum("examples")), (drawn, 8 * 4 - drawn));
    assert!(
        drawn > 0 && ran.stderr.contains("row `broken`"),
        "a skipped row is said, not only counted:\n{}",
        ran.stderr
    );
}

#[test]
fn a_label_outside_the_inventory_names_the_nearest() {
    let place = small_run(2);
    with_field(&place, "emotion.jsonl", 2, "label", json!("hapy"));
    train(&place).fails(2, &["emotion.jsonl:2: ", "`hapy`", "did you mean `happy`?"]);
}

#[test]
fn an_unknown_task_names_the_nearest() {
    let place = small_run(2);
    with_line(
        &place,
        "manifest: emotion.jsonl, task: emotion",
        "manifest: emotion.jsonl, task: emotoin",
    );
    train(&place).fails(
        2,
        &[
            "emotion.jsonl",
            "unknown task `emotoin`",
            "did you mean `emotion`?",
            "known tasks: asr, dialect, emotion, summarization",
        ],
    );
    with_line(&place, "task: emotoin", "task: emotion");
    with_line(&place, "tasks: [asr]", "tasks: [asrr]");
    train(&place).fails(2, &["`asrr`", "did you mean `asr`?"]);
}

#[test]
fn a_row_and_a_recipe_of_other_tasks_are_refused() {
    let place = small_run(2);
    with_field(&place, "asr.jsonl", 4, "task", json!("dialect"));
    train(&place).fails(2, &["asr.jsonl:4: ", "`dialect`", "`asr`", "hint:"]);
}

#[test]
fn a_test_suite_is_not_looked_at_in_training() {
    let place = small_run(2);
    place.write(
        "test.yaml",
        "role: test\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion}\n",
    );
    place
        .run(&[
            "train",
            "recipe.yaml",
            "--set",
            "evaluate={suite: test.yaml}",
        ])
        .fails(2, &["test.yaml", "role `test`", "hint:"]);
    place.write(
        "dev.yaml",
        "role: dev\nsets:\n  - {name: moods, manifest: emotion.jsonl, task: emotion}\n",
    );
    let ran = place.run(&[
        "train",
        "recipe.yaml",
        "--set",
        "evaluate={suite: dev.yaml, keep_best: moods.wer}",
    ]);
    ran.fails(2, &["`evaluate.keep_best`", "`moods.wer`", "moods.uar"]);
    assert!(
        !place.path("runs/small/log.jsonl").exists(),
        "said before the first step, not after the first evaluation"
    );
}

#[test]
fn nothing_is_cut_to_make_it_fit() {
    let place = small_run(2);
    place
        .run(&["train", "recipe.yaml", "--set", "max_audio_s=1.5"])
        .fails(
            2,
            &[
                "asr.jsonl:11",
                "s of audio, `max_audio_s` is 1.5",
                "asr.jsonl",
                "hint: nothing is cut silently",
            ],
        );

    place.copy("qwen_omni", "short");
    let config = place.text("short/config.json");
    place.write(
        "short/config.json",
        config.replace(
            "\"max_position_embeddings\": 32768",
            "\"max_position_embeddings\": 90",
        ),
    );
    place.write_rows(
        "rows.jsonl",
        &[row("long", "a1.wav", "Transcribe the speech.", "yes")],
    );
    let words = [
        "rows.jsonl",
        "row `long`",
        "the model's longest sequence is 90",
        "hint: nothing is cut silently",
    ];
    place
        .run(&[
            "score",
            "--model",
            "short",
            "--data",
            "rows.jsonl",
            "--out",
            "o.jsonl",
        ])
        .fails(2, &words);
    place
        .run(&[
            "generate",
            "--model",
            "short",
            "--data",
            "rows.jsonl",
            "--out",
            "o.jsonl",
        ])
        .fails(2, &words);
    assert!(!place.path("o.jsonl").exists());
}

#[test]
fn an_answer_ends_where_the_model_does() {
    let place = Place::new();
    place.copy("qwen_omni", "short");
    let config = place.text("short/config.json");
    place.write(
        "short/config.json",
        config.replace(
            "\"max_position_embeddings\": 32768",
            "\"max_position_embeddings\": 70",
        ),
    );
    place.write_rows("rows.jsonl", &[json!({"id": "t", "messages": [{"role": "user", "content": "What is the capital of Egypt? Answer in Arabic."}]})]);
    let ran = place.run(&[
        "generate",
        "--model",
        "short",
        "--data",
        "rows.jsonl",
        "--out",
        "o.jsonl",
        "--max-new-tokens",
        "40",
    ]);
    ran.fails(2, &["row `t`", "60 tokens", "70", "--max-new-tokens"]);
}

#[test]
fn a_non_finite_loss_ends_before_weights_change() {
    let place = small_run(4);
    let ran = place.run(&[
        "train",
        "recipe.yaml",
        "--set",
        "optimiser.learning_rate=1e30",
        "--set",
        "optimiser.warmup=0",
    ]);
    ran.fails(
        3,
        &[
            "the weights were not changed",
            "step ",
            "hint: lower `optimiser.learning_rate`",
        ],
    );
    let steps = place.lines("runs/small/log.jsonl").len();
    assert!((1..8).contains(&steps));
    let saved = place.tensors(&format!(
        "runs/small/checkpoints/step-{steps:06}/adapter_model.safetensors"
    ));
    assert!(!saved.is_empty(), "the last finished step is whole");
    for (name, tensor) in saved {
        assert!(
            tensor
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .iter()
                .all(|x| x.is_finite()),
            "{name}"
        );
    }
}

#[test]
fn a_run_belongs_to_one_process_at_a_time() {
    let place = small_run(500);
    let mut first = place.command(&["train", "recipe.yaml"]).spawn().unwrap();
    while !place.path("runs/small/log.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    let words = [
        &format!("process {} is at work here", first.id()),
        "runs/small",
        "hint:",
    ];
    place
        .run(&["train", "recipe.yaml", "--resume"])
        .fails(2, &words);
    place
        .run(&["train", "recipe.yaml"])
        .fails(2, &["runs/small"]);
    first.kill().unwrap();
    assert_eq!(outcome(first.wait_with_output().unwrap()).code, None);
    // The claim of a process that was killed is gone with it.
    let mut second = place
        .command(&["train", "recipe.yaml", "--resume"])
        .spawn()
        .unwrap();
    let before = place.lines("runs/small/log.jsonl").len();
    while place.text("runs/small/log.jsonl").lines().count() <= before.max(4) {
        assert!(second.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    second.kill().unwrap();
    second.wait().unwrap();
}
