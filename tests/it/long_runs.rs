//! Problems that must not cost hours: a bad row, a test set in the training data, too little
//! memory, a replaced input; and the records of machine and time.

use crate::command;

use std::path::Path;

use command::Outcome;
use command::Place;
use command::asr_rows;
use command::damaged_flac;
use command::fixture;
use command::fixture_text;
use command::small_run;
use serde_json::Value;
use serde_json::json;

/// A WAV file of a tone, 16 kHz, so that no two of different pitch are equal.
fn wav(seconds: f64, pitch: f64) -> Vec<u8> {
    let samples = (seconds * 16_000.0) as usize;
    let data = (samples * 2) as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(16_000u32.to_le_bytes());
    bytes.extend(32_000u32.to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    for i in 0..samples {
        let value = (i as f64 * pitch / 16_000.0 * std::f64::consts::TAU).sin();
        bytes.extend(((value * 8000.0) as i16).to_le_bytes());
    }
    bytes
}

/// Six training clips and two dev clips, and a recipe over them: every row is drawn once every
/// three steps.
fn place() -> Place {
    let place = Place::new();
    let row = |name: &str, i: usize| json!({"id": format!("{name}{i}"), "audio": format!("clips/{name}{i}.wav"), "text": "yes"});
    for i in 0..6 {
        place.write(
            &format!("clips/t{i}.wav"),
            wav(0.4, 300.0 + 10.0 * i as f64),
        );
    }
    for i in 0..2 {
        place.write(
            &format!("clips/d{i}.wav"),
            wav(0.3, 500.0 + 10.0 * i as f64),
        );
    }
    let rows = |name: &str, n: usize| (0..n).map(|i| row(name, i)).collect::<Vec<Value>>();
    place.write_rows("train.jsonl", &rows("t", 6));
    place.write_rows("dev.jsonl", &rows("d", 2));
    place.write(
        "dev.yaml",
        "role: dev\nsets: [{name: words, manifest: dev.jsonl, task: asr, metrics: [loss, wer]}]\n",
    );
    place.write(
        "recipe.yaml",
        format!(
            "name: small\nmodel: {{path: {}}}\nlora: {{rank: 4}}\ndata: [{{manifest: train.jsonl, task: asr}}]\n\
             schedule: {{batch: 2, stages: [{{steps: 6}}]}}\noptimiser: {{learning_rate: 1e-3}}\n\
             evaluate: {{suite: dev.yaml, every: 3}}\ncheckpoint: {{every: 2}}\nseed: 7\n",
            fixture_text("qwen_omni")
        ),
    );
    place
}

fn train(place: &Place, more: &[&str]) -> Outcome {
    place.run(&[&["train", "recipe.yaml"], more].concat())
}

fn steps(place: &Place) -> Vec<Value> {
    place
        .lines("runs/small/log.jsonl")
        .into_iter()
        .filter(|line| line["kind"] == "train")
        .collect()
}

#[test]
fn every_bad_header_is_named_before_step_one() {
    let place = place();
    place.write("clips/t1.wav", "<html>not found</html>");
    place.write("clips/t4.wav", "");
    place.write("clips/d0.wav", "not audio at all");
    let started = train(&place, &[]);
    started.fails(
        2,
        &[
            "3 of 8 rows",
            "train.jsonl:2",
            "t1.wav",
            "train.jsonl:5",
            "t4.wav",
            "dev.jsonl:1",
            "d0.wav",
            "on_bad_row: skip",
        ],
    );
    assert!(!place.path("runs/small/log.jsonl").exists());
    assert!(
        !place.path("runs/small/recipe.yaml").exists(),
        "nothing has begun: the same command starts it"
    );
    place
        .run(&["plan", "recipe.yaml"])
        .fails(2, &["3 of 8 rows"]);
    // The hint is followed: the rows leave, in the plan as in the training, and the suite has one
    // row left.
    let skip = ["--set", "on_bad_row=skip"];
    place
        .run(
            &[
                &["plan", "recipe.yaml", "--picks", "picks.jsonl"],
                &skip[..],
            ]
            .concat(),
        )
        .succeeds();
    let ran = train(&place, &skip).succeeds();
    assert_eq!(ran.stderr.matches("skipped: ").count(), 3, "{}", ran.stderr);
    for pick in place.lines("picks.jsonl") {
        let ids = pick["ids"].as_array().unwrap();
        assert!(ids.iter().all(|id| *id != "t1" && *id != "t4"), "{pick}");
    }
    assert!(
        steps(&place)
            .iter()
            .all(|step| step["skipped"] == 0 && step["examples"] == 2)
    );
    assert_eq!(
        place.lines("runs/small/eval/step-000006/words.jsonl").len(),
        1
    );
}

#[test]
fn a_span_past_the_end_is_found_before_step_one() {
    let place = place();
    let row = json!({"id": "t9", "audio": "clips/t0.wav", "start_s": 5, "text": "no"});
    let rows = place.text("train.jsonl") + &format!("{row}\n");
    place.write("train.jsonl", rows);
    for command in ["plan", "train"] {
        place
            .run(&[command, "recipe.yaml"])
            .fails(2, &["train.jsonl:7", "`start_s` (5)", "t0.wav"]);
    }
}

/// Replaces a clip by a file with an intact header and damaged contents.
fn damage_behind_the_headers(place: &Place, name: &str) {
    place.write(name, damaged_flac());
}

#[test]
fn a_row_that_fails_later_can_be_skipped_on_resume() {
    let place = place();
    damage_behind_the_headers(&place, "clips/t3.wav");
    let stopped = train(&place, &[]).fails(2, &["t3.wav", "--resume --set on_bad_row=skip"]);
    assert!(stopped.stderr.contains("step "), "{}", stopped.stderr);
    // The hint as it is written.
    let ran = train(&place, &["--resume", "--set", "on_bad_row=skip"]).succeeds();
    assert!(ran.stderr.contains("row left out"), "{}", ran.stderr);
    let steps = steps(&place);
    assert_eq!(steps.len(), 6);
    let skipped: u64 = steps
        .iter()
        .map(|step| step["skipped"].as_u64().unwrap())
        .sum();
    assert_eq!(
        skipped, 2,
        "drawn in each of two passes, dropped and counted"
    );
    // A run that skipped from the beginning draws the same rows and logs the same bytes.
    let log = place.bytes("runs/small/log.jsonl");
    std::fs::remove_dir_all(place.path("runs/small")).unwrap();
    train(&place, &["--set", "on_bad_row=skip"]).succeeds();
    assert!(place.bytes("runs/small/log.jsonl") == log);
}

#[test]
fn a_bad_row_can_be_replaced_on_resume() {
    let place = place();
    damage_behind_the_headers(&place, "clips/t3.wav");
    train(&place, &[]).fails(2, &["put a readable file in its place"]);
    place.write("clips/t3.wav", wav(0.4, 777.0));
    train(&place, &["--resume"]).succeeds();
    assert!(steps(&place).iter().all(|step| step["skipped"] == 0));
}

#[test]
fn rows_out_of_the_pool_stay_out_after_repair() {
    let place = place();
    let undisturbed = place_with_bad_t1();
    place.write("clips/t1.wav", "");
    let skip = ["--set", "on_bad_row=skip"];
    train(&undisturbed, &skip).succeeds();
    train(
        &place,
        &[&skip[..], &["--set", "schedule.stages.0.steps=6"]].concat(),
    )
    .succeeds();
    // Go back to the checkpoint after step 2 and mend the clip: the picks are bound to the run.
    for name in ["step-000004", "step-000006"] {
        std::fs::remove_dir_all(place.path(&format!("runs/small/checkpoints/{name}"))).unwrap();
    }
    place.write("clips/t1.wav", wav(0.4, 310.0));
    train(&place, &[&["--resume"], &skip[..]].concat()).succeeds();
    assert!(
        place.bytes("runs/small/log.jsonl") == undisturbed.bytes("runs/small/log.jsonl"),
        "a resumed run is the undisturbed one"
    );
}

fn place_with_bad_t1() -> Place {
    let place = place();
    place.write("clips/t1.wav", "");
    place
}

#[test]
fn a_clip_that_vanished_is_named_on_resume() {
    let place = place();
    train(&place, &["--set", "on_bad_row=skip"]).succeeds();
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000006")).unwrap();
    std::fs::remove_file(place.path("clips/t2.wav")).unwrap();
    train(&place, &["--resume", "--set", "on_bad_row=skip"])
        .fails(2, &["t2.wav", "could be used when the run began"]);
}

#[test]
fn a_bad_dev_row_is_skipped_in_every_evaluation() {
    let place = place();
    damage_behind_the_headers(&place, "clips/d1.wav");
    train(&place, &[]).fails(
        2,
        &["d1.wav", "set `words`", "--resume --set on_bad_row=skip"],
    );
    let ran = train(&place, &["--resume", "--set", "on_bad_row=skip"]).succeeds();
    assert_eq!(
        ran.stderr.matches("row left out").count(),
        1,
        "once, not in every evaluation: {}",
        ran.stderr
    );
    assert_eq!(
        place.lines("runs/small/eval/step-000006/words.jsonl").len(),
        1
    );
}

#[test]
fn an_evaluation_caches_answers_and_lists_bad_rows() {
    let place = place();
    damage_behind_the_headers(&place, "clips/d1.wav");
    let model = fixture_text("qwen_omni");
    let eval =
        |more: &[&str]| place.run(&[&["eval", "dev.yaml", "--model", &model], more].concat());
    eval(&[]).fails(
        2,
        &[
            "d1.wav",
            "--on-bad-row skip",
            "answers to all other rows are kept",
        ],
    );
    let ran = eval(&["--on-bad-row", "skip"]).succeeds();
    assert!(
        ran.stderr.contains("0 to ask")
            && ran.stderr.contains("skipped: ")
            && ran.stderr.contains("d1.wav"),
        "{}",
        ran.stderr
    );
    assert_eq!(place.lines("runs/eval/dev/base/words.jsonl").len(), 1);
    // A bad header is reported before any answer is generated.
    place.write("clips/d0.wav", "");
    eval(&[]).fails(2, &["d0.wav", "--on-bad-row skip"]);
}

#[test]
fn training_on_the_test_set_is_refused_everywhere() {
    let place = place();
    let suite = |name: &str, role: &str, manifest: &str| {
        place.write(
            name,
            format!("role: {role}\nsets: [{{name: words, manifest: {manifest}, task: asr, metrics: [loss]}}]\n"),
        )
    };
    suite("leaky.yaml", "dev", "train.jsonl");
    suite("test.yaml", "test", "train.jsonl");
    let leaky = ["--set", "evaluate.suite=leaky.yaml"];
    let refused = [
        "the suite judges what is trained on",
        "shares audio with",
        "shares its id",
        "--allow-leakage",
    ];
    for command in ["plan", "train"] {
        place
            .run(&[&[command, "recipe.yaml"], &leaky[..]].concat())
            .fails(2, &refused);
    }
    assert!(!place.path("runs/small/recipe.yaml").exists());
    let ran = train(
        &place,
        &[&leaky[..], &["--allow-leakage", "--set", "name=meant"]].concat(),
    )
    .succeeds();
    assert!(
        ran.stderr.contains("6 of the suite's 6 rows share audio"),
        "{}",
        ran.stderr
    );
    // One line where nothing is shared.
    let ran = train(&place, &[]).succeeds();
    let none = "no leakage by id, audio, speaker, group or text";
    assert_eq!(ran.stderr.matches(none).count(), 1, "{}", ran.stderr);
    let plan = place.run(&["plan", "recipe.yaml"]).succeeds();
    assert_eq!(plan.stdout.matches(none).count(), 1, "{}", plan.stdout);
    // The adapter lies in a run's folder: what it was trained on is known.
    let model = fixture_text("qwen_omni");
    let eval = |suite: &str, adapter: &str, more: &[&str]| {
        place.run(
            &[
                &["eval", suite, "--model", &model, "--adapter", adapter],
                more,
            ]
            .concat(),
        )
    };
    for adapter in ["runs/small/best", "runs/small/checkpoints/step-000006"] {
        eval("test.yaml", adapter, &[]).fails(2, &refused);
    }
    eval("test.yaml", "runs/small/best", &["--allow-leakage"]).succeeds();
    let ran = eval("dev.yaml", "runs/small/best", &[]).succeeds();
    assert!(ran.stderr.contains(none), "{}", ran.stderr);
    place.write(
        "experiment.yaml",
        "name: e\nrecipes: [{recipe: recipe.yaml}]\nseeds: [{initialisation: 1, order: 1}]\ntest: test.yaml\nresamples: 20\n",
    );
    place
        .run(&["experiment", "experiment.yaml"])
        .fails(2, &refused);
}

#[test]
fn a_shared_text_is_a_note() {
    let place = place();
    let text = "one two three four five six";
    for (manifest, clip) in [("train.jsonl", "t0"), ("dev.jsonl", "d0")] {
        let row = json!({"id": format!("{clip}-again"), "audio": format!("clips/{clip}.wav"), "start_s": 0.1, "text": text});
        let rows = place.text(manifest) + &format!("{row}\n");
        place.write(manifest, rows);
    }
    let plan = place.run(&["plan", "recipe.yaml"]).succeeds().stdout;
    assert!(
        plan.contains("1 of the suite's 3 rows shares text"),
        "{plan}"
    );
}

#[test]
fn a_model_beyond_the_memory_is_refused_at_once() {
    let place = place();
    // The toy's configuration with so many layers that no machine holds them; its weights are not
    // even there.
    let model = place.path("giant");
    std::fs::create_dir(&model).unwrap();
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.json",
        "generation_config.json",
    ];
    for name in names {
        if fixture("qwen_omni").join(name).exists() {
            std::fs::copy(fixture("qwen_omni").join(name), model.join(name)).unwrap();
        }
    }
    let mut config: Value = serde_json::from_str(&place.text("giant/config.json")).unwrap();
    config["thinker_config"]["text_config"]["intermediate_size"] = json!(1_000_000_000u64);
    place.write("giant/config.json", config.to_string());
    let refused = ["memory: ", "GB available", "--ignore-memory"];
    train(&place, &["--set", "model.path=giant"]).fails(4, &refused);
    assert!(!place.path("runs/small/recipe.yaml").exists());
    let on = ["--model", "giant"];
    let data = ["--data", "dev.jsonl", "--out", "out"];
    for command in ["score", "generate", "embed"] {
        let task: &[&str] = if command == "embed" {
            &[]
        } else {
            &["--task", "asr"]
        };
        place
            .run(&[&[command], &on[..], &data, task].concat())
            .fails(4, &refused);
    }
    place.write(
        "giant/model.safetensors",
        std::fs::read(fixture("qwen_omni_tied").join("model.safetensors")).unwrap_or_default(),
    );
    place
        .run(&[&["eval", "dev.yaml"], &on[..]].concat())
        .fails(4, &refused);
    let ignored = train(&place, &["--set", "model.path=giant", "--ignore-memory"]);
    assert!(
        !ignored.stderr.contains("GB available"),
        "{}",
        ignored.stderr
    );
    assert_ne!(ignored.code, Some(0));
}

#[test]
fn a_plan_answers_from_the_name_of_a_model() {
    let place = place();
    let plan = |name: &str, flag: &str| {
        place
            .run(&[
                "plan",
                "recipe.yaml",
                "--set",
                &format!("model.path={name}"),
                flag,
                "80",
            ])
            .succeeds()
            .stdout
    };
    for flag in ["--gpu-memory", "--card"] {
        let seven = plan("Qwen/Qwen2.5-Omni-7B", flag);
        // 8.25 billion parameters: 33.0 GB in f32; in bf16 16.5 GB, and copies of the adapters in
        // addition.
        assert!(
            seven.contains("frozen weights 33.0 GB")
                && seven.contains("bf16: frozen weights 16.6 GB"),
            "{seven}"
        );
    }
    let unknown = plan("somebody/else", "--gpu-memory");
    assert!(
        unknown.contains("tokens, memory and time are not"),
        "{unknown}"
    );
}

#[test]
fn environment_has_machine_time_and_build() {
    let place = place();
    train(&place, &["--set", "evaluate.every=100"]).succeeds();
    std::fs::remove_dir_all(place.path("runs/small/checkpoints/step-000006")).unwrap();
    train(&place, &["--resume"]).succeeds();
    let found = place.json("runs/small/environment.json");
    let sessions = found["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!(
        (
            &sessions[0]["to_step"],
            &sessions[1]["from_step"],
            &sessions[1]["to_step"]
        ),
        (&json!(6), &json!(4), &json!(6))
    );
    assert_eq!(
        (&sessions[0]["outcome"], &found["steps"]),
        (&json!("done"), &json!(8))
    );
    for key in [
        "wall_s",
        "training_s",
        "steps_per_s",
        "audio_s_per_s",
        "tokens_per_s",
    ] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key}: {found}");
    }
    let waiting_s = found["waiting_s"].as_f64().unwrap();
    assert!(
        (0.0..found["training_s"].as_f64().unwrap()).contains(&waiting_s),
        "{found}"
    );
    assert!(sessions[0]["machine"]["cores"].as_u64().unwrap() >= 1);
    let version = place.run(&["--version"]).succeeds().stdout;
    let commit = sessions[0]["commit"].as_str().unwrap();
    assert!(
        version.starts_with("maqam ") && version.contains(commit),
        "{version} {commit}"
    );
    // The log knows nothing of it.
    let log = place.text("runs/small/log.jsonl");
    assert!(!log.contains("wall_s") && !log.contains(commit) && !log.contains("started"));
}

#[test]
fn a_resume_finds_replaced_clips_and_models() {
    let place = place();
    place.copy("qwen_omni", "model");
    let model = ["--set", "model.path=model"];
    train(&place, &model).succeeds();
    let inputs = place.json("runs/small/inputs.json");
    assert_eq!(
        inputs["num_clips"], 8,
        "six of the training, two of the suite"
    );
    let clip = |name: &str| {
        let clips = inputs["clips"].as_object().unwrap();
        clips
            .iter()
            .find(|(path, _)| path.ends_with(name))
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(clip("t0.wav")["bytes"], wav(0.4, 300.0).len() as u64);
    let back = || {
        drop(std::fs::remove_dir_all(
            place.path("runs/small/checkpoints/step-000006"),
        ))
    };
    let resume = || train(&place, &[&["--resume"], &model[..]].concat());
    back();
    for (name, other) in [
        ("clips/t0.wav", wav(0.4, 999.0)),
        ("clips/d0.wav", wav(0.5, 500.0)),
    ] {
        let before = place.bytes(name);
        place.write(name, other);
        resume().fails(2, &["1 of the 8 clips", name, "put back"]);
        place.write(name, before);
    }
    for name in ["config.json", "tokenizer.json"] {
        let before = place.bytes(&format!("model/{name}"));
        place.write(
            &format!("model/{name}"),
            [before.as_slice(), b"\n"].concat(),
        );
        resume().fails(2, &[&format!("model/{name}: the model's file has changed")]);
        place.write(&format!("model/{name}"), before);
    }
    let weights = place.path("model/model-00001-of-00002.safetensors");
    let before = std::fs::read(&weights).unwrap();
    let mut other = before.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, other).unwrap();
    let name = Path::new(weights.file_name().unwrap());
    resume().fails(2, &[name.to_str().unwrap(), "the model's file has changed"]);
    std::fs::write(&weights, before).unwrap();
    resume().succeeds();
}

#[test]
fn a_run_without_recorded_inputs_resumes() {
    let place = small_run(4);
    place.run(&["train", "recipe.yaml"]).succeeds();
    let log = place.bytes("runs/small/log.jsonl");
    std::fs::remove_file(place.path("runs/small/inputs.json")).unwrap();
    for name in ["step-000006", "step-000008"] {
        std::fs::remove_dir_all(place.path(&format!("runs/small/checkpoints/{name}"))).unwrap();
    }
    let ran = place.run(&["train", "recipe.yaml", "--resume"]).succeeds();
    assert!(
        ran.stderr
            .contains("began before clips and model files were recorded"),
        "{}",
        ran.stderr
    );
    assert!(place.bytes("runs/small/log.jsonl") == log);
    assert_eq!(asr_rows().len(), 12);
    assert!(
        place.json("runs/small/inputs.json")["num_clips"]
            .as_u64()
            .unwrap()
            >= 1
    );
}
