//! Encoders by the command line: hidden states, training from nothing, distillation, heads; resumed
//! bit for bit.

use std::path::PathBuf;

use crate::command::Outcome;
use crate::command::Place;
use crate::command::asr_rows;
use crate::command::emotion_rows;
use serde_json::Value;
use serde_json::json;

/// A checkpoint with what transformers computes of it; `tests/reference/hubert.py` made it.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("crates/engine/tests/fixtures/hubert")
        .join(name)
}

/// A WAV file of 32-bit floats at 16 kHz.
fn wav(samples: &[f32]) -> Vec<u8> {
    let bytes = (samples.len() * 4) as u32;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    file.extend([3u16, 1].map(u16::to_le_bytes).concat());
    file.extend([16_000u32, 64_000].map(u32::to_le_bytes).concat());
    file.extend([4u16, 32].map(u16::to_le_bytes).concat());
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    file.extend(samples.iter().flat_map(|x| x.to_le_bytes()));
    file
}

#[test]
fn embed_gives_hidden_states_of_transformers() {
    let place = Place::new();
    let path = golden("base").join("expected.safetensors");
    let expected = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let samples: Vec<f32> = expected["clip.0"].to_vec1().unwrap();
    place.write("clip.wav", wav(&samples));
    place.write_rows("rows.jsonl", &[json!({"id": "a", "audio": "clip.wav"})]);
    let model = golden("base").to_str().unwrap().to_owned();
    let embed = |more: &[&str]| -> Outcome {
        let fixed = [
            "embed",
            "--model",
            &model,
            "--data",
            "rows.jsonl",
            "--out",
            "o.safetensors",
        ];
        place.run(&[&fixed, more].concat())
    };
    for layer in ["0", "1", "2"] {
        embed(&["--layer", layer, "--pool", "none"]).succeeds();
        let found = &place.tensors("o.safetensors")["a"];
        let off = crate::command::distance(found, &expected[&format!("hidden.0.{layer}")]);
        assert!(off < 1e-4, "layer {layer} is off by {off}");
    }
    // Without a layer, the last one. The mean over time has length one.
    embed(&[]).succeeds();
    let found = &place.tensors("o.safetensors")["a"];
    let mean = expected["hidden.0.2"].mean(0).unwrap();
    let length = mean
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .to_scalar::<f32>()
        .unwrap()
        .sqrt();
    assert!(crate::command::distance(found, &(mean / f64::from(length)).unwrap()) < 1e-4);
    embed(&["--device", "cuda"]).fails(2, &["speech encoders compute on the CPU", "hint:"]);
    embed(&["--layer", "3"]).fails(
        2,
        &[
            "--layer: layer 3 of an encoder of 2 layers",
            "hint: name a layer from 0 to 2",
        ],
    );
}

const SHAPE: &str = "{hidden_size: 24, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48, conv_dim: [12, 12, 12, 12, 12, 12, 12], num_conv_pos_embeddings: 16, num_conv_pos_embedding_groups: 2}";

/// A place with rows and the recipe of a teacher of two iterations.
fn place() -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    place.write(
        "teacher.yaml",
        format!(
            "\
data: [asr.jsonl]
dev: [emotion.jsonl]
encoder: {SHAPE}
iterations:
  - {{steps: 4, targets: [{{clusters: 8, width: 16}}]}}
  - {{steps: 4, targets: [{{layer: 1, clusters: 10, pca: 6, width: 16}}, {{from: mfcc, clusters: 8, width: 16}}]}}
batch: {{clips: 5, crop_s: 1.0, pack_s: 2.5}}
optimiser: {{learning_rate: 2e-3, warmup: 0.0}}
evaluate: {{every: 2, against: [label, manifest]}}
checkpoint: {{every: 2, keep: 9}}
seed: 5
"
        ),
    );
    place
}

#[test]
fn pretraining_learns_and_resumes_bit_for_bit() {
    let place = place();
    place
        .run(&["encoder", "pretrain", "teacher.yaml"])
        .succeeds();
    let log = place.text("runs/teacher/log.jsonl");
    let lines = place.lines("runs/teacher/log.jsonl");
    let steps: Vec<&Value> = lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .collect();
    assert_eq!(steps.len(), 8);
    assert!(
        steps
            .iter()
            .enumerate()
            .all(|(i, line)| line["step"] == i + 1)
    );
    assert_eq!(
        (&steps[3]["stage"], &steps[4]["stage"]),
        (&json!("iteration-1"), &json!("iteration-2"))
    );
    let chance = 8f64.ln();
    let first = steps[0]["loss"].as_f64().unwrap();
    assert!(first > 0.5 * chance && first < 5.0 * chance, "{first}");
    let measured = lines.iter().rfind(|line| line["kind"] == "eval").unwrap();
    assert_eq!(measured["at_step"], 8);
    for name in [
        "dev.masked_accuracy",
        "dev.rank.layer-2",
        "dev.target-1.perplexity",
        "dev.target-2.label.pnmi",
    ] {
        assert!(
            measured["scores"][name]
                .as_f64()
                .is_some_and(f64::is_finite),
            "{name}: {measured}"
        );
    }
    let report = place.json("runs/teacher/iteration-2/target-1/report.json");
    assert_eq!(
        (&report["dims"], &report["width"], &report["reduction"]),
        (&json!(6), &json!(24), &json!(0.75))
    );
    let encoder = place.bytes("runs/teacher/iteration-2/encoder/model.safetensors");

    // What a kill in the second iteration leaves: no encoder, an earlier checkpoint, lines beyond
    // it.
    let run = place.path("runs/teacher");
    std::fs::remove_dir_all(run.join("iteration-2/encoder")).unwrap();
    std::fs::remove_dir_all(run.join("iteration-2/checkpoints/step-000004")).unwrap();
    std::fs::write(run.join("log.jsonl"), format!("{log}{{\"half")).unwrap();
    place
        .run(&["encoder", "pretrain", "teacher.yaml"])
        .fails(2, &["this run exists already", "--resume"]);
    place
        .run(&["encoder", "pretrain", "teacher.yaml", "--resume"])
        .succeeds();
    assert_eq!(place.text("runs/teacher/log.jsonl"), log);
    assert_eq!(
        place.bytes("runs/teacher/iteration-2/encoder/model.safetensors"),
        encoder
    );

    // What a kill before the first checkpoint leaves, with half of the targets.
    std::fs::remove_dir_all(run.join("iteration-1")).unwrap();
    std::fs::remove_dir_all(run.join("iteration-2")).unwrap();
    place
        .run(&["encoder", "pretrain", "teacher.yaml", "--resume"])
        .succeeds();
    assert_eq!(place.text("runs/teacher/log.jsonl"), log);
    assert_eq!(
        place.bytes("runs/teacher/iteration-2/encoder/model.safetensors"),
        encoder
    );

    place
        .run(&[
            "encoder",
            "pretrain",
            "teacher.yaml",
            "--resume",
            "--set",
            "seed=6",
        ])
        .fails(
            2,
            &["recipe.yaml: the run began with another one; now `seed: 6`"],
        );
    // The packs of a step change memory, not the gradient. Only rounding differs, which changes ids
    // in later iterations.
    place
        .run(&[
            "encoder",
            "pretrain",
            "teacher.yaml",
            "--set",
            "name=packed",
            "--set",
            "batch.pack_s=100",
        ])
        .succeeds();
    let other = place.lines("runs/packed/log.jsonl");
    for (a, b) in lines
        .iter()
        .zip(&other)
        .filter(|(a, _)| a["kind"] == "train")
        .take(4)
    {
        crate::command::assert_close(
            b["loss"].as_f64().unwrap(),
            a["loss"].as_f64().unwrap(),
            1e-3,
            "loss",
        );
    }
}

/// A second of noise and a second of silence: 99 frames, of which the 49 from sample 16,000 on are
/// quiet.
fn half_silent(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let samples: Vec<f32> = (0..32_000)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            if i < 16_000 { noise } else { 0.0 }
        })
        .collect();
    wav(&samples)
}

#[test]
fn targets_are_fitted_on_the_frames_that_fit_chooses() {
    let place = place();
    let row = |i: u32| {
        place.write(&format!("c{i}.wav"), half_silent(i));
        json!({"id": format!("c{i}"), "audio": format!("c{i}.wav"), "text": "yes"})
    };
    place.write_rows("many.jsonl", &[row(1), row(2), row(3)]);
    place.write_rows("few.jsonl", &[row(4)]);
    let run = |name: &str, fit: &str| {
        place.run(&[
            "encoder",
            "pretrain",
            "teacher.yaml",
            "--set",
            &format!("name={name}"),
            "--set",
            "data=[many.jsonl, few.jsonl]",
            "--set",
            &format!("iterations=[{{steps: 1, targets: [{{clusters: 4, width: 16{fit}}}]}}]"),
        ])
    };
    let file = |name: &str, file: &str| format!("runs/{name}/iteration-1/target-1/{file}");

    run("all", "").succeeds();
    assert!(place.json(&file("all", "report.json"))["fit"].is_null());

    run("loud", ", fit: {quiet_db: 30}").succeeds();
    let fit = &place.json(&file("loud", "report.json"))["fit"];
    assert_eq!(fit["frames"], 200);
    assert_eq!(fit["quiet_frames"], 196.0 / 396.0);
    assert!(fit["quiet_codes"].as_f64().unwrap() < 1.0, "{fit}");
    assert_ne!(
        place.bytes(&file("loud", "codebook.safetensors")),
        place.bytes(&file("all", "codebook.safetensors"))
    );
    // Quiet frames have ids too.
    let ids = |name: &str| -> usize {
        let codes = place.tensors(&file(name, "codes.safetensors"));
        codes.values().map(|ids| ids.elem_count()).sum()
    };
    assert_eq!(ids("loud"), ids("all"));

    run("even", ", fit: {quiet_db: 30, balance: manifest}").succeeds();
    let fit = &place.json(&file("even", "report.json"))["fit"];
    // 50 frames of `few` and an expected 50 of `many`, with a standard deviation of 6.
    let frames = fit["frames"].as_u64().unwrap();
    assert!((76..125).contains(&frames), "{frames}");

    run("none", ", fit: {balance: genre}").fails(
        2,
        &["no `genre`", "hint: name another field in `fit.balance`"],
    );
}

#[test]
fn distillation_and_its_controls() {
    let place = place();
    place
        .run(&[
            "encoder",
            "pretrain",
            "teacher.yaml",
            "--set",
            "iterations=[{steps: 2, targets: [{clusters: 8, width: 16}]}]",
        ])
        .succeeds();
    let student = |name: &str, target: &str| {
        let recipe = format!(
            "\
name: {name}
teacher: runs/teacher/iteration-1/encoder
data: [{{manifest: asr.jsonl}}]
encoder: {SHAPE}
iterations:
  - {{steps: 12, encoder: {{hidden_size: 16, num_hidden_layers: 1}}, masks: {{share: 0.0}}, loss: {{unmasked: 1.0, feature_gradient: 1.0}}, targets: [{target}]}}
batch: {{clips: 6}}
optimiser: {{learning_rate: 5e-3, warmup: 0.0, schedule: constant}}
"
        );
        place.write(&format!("{name}.yaml"), recipe);
        place.run(&["encoder", "distill", &format!("{name}.yaml")])
    };
    for (name, target) in [
        ("pca", "{layer: 1, clusters: 6, pca: 4, width: 8}"),
        ("random", "{layer: 1, clusters: 6, random: 4, width: 8}"),
        ("plain", "{layer: 2, at: 0, clusters: 6, width: 8}"),
        ("features", "{layer: 1, learn: features}"),
    ] {
        student(name, target).succeeds();
        let lines = place.lines(&format!("runs/{name}/log.jsonl"));
        let losses: Vec<f64> = lines
            .iter()
            .filter_map(|line| line["loss"].as_f64())
            .collect();
        assert!(losses[11] < losses[0], "{name}: {losses:?}");
        let last = lines.iter().rfind(|line| line["kind"] == "train").unwrap();
        assert_eq!(last["cosine"].is_number(), name == "features", "{name}");
        assert_eq!(
            last["unmasked_accuracy"].is_number(),
            name != "features",
            "{name}"
        );
        let config = place.json(&format!("runs/{name}/iteration-1/encoder/config.json"));
        assert_eq!(
            (&config["hidden_size"], &config["conv_dim"][0]),
            (&json!(16), &json!(12))
        );
    }
    student("wide", "{layer: 1, clusters: 6, pca: 25}")
        .fails(2, &["25 directions of features of 24", "hint:"]);
    student("deep", "{layer: 3, clusters: 6}").fails(2, &["layer 3 of an encoder of 2 layers"]);
    student("many", "{layer: 1, clusters: 5000}").fails(2, &["training frames for 5000 clusters"]);
    student("typo", "{layer: 1, cluster: 5}").fails(2, &["typo.yaml:", "clusters"]);
    let text = place
        .text("plain.yaml")
        .replace("name: plain", "name: stride");
    let text = text.replace(
        "num_conv_pos_embeddings",
        "conv_stride: [5, 2, 2, 2, 2, 2, 1], num_conv_pos_embeddings",
    );
    place.write("stride.yaml", text);
    place.run(&["encoder", "distill", "stride.yaml"]).fails(
        2,
        &[
            "the teacher's frames come every 320 samples",
            "the student's every 160",
        ],
    );
    place
        .run(&["encoder", "distill", "teacher.yaml"])
        .fails(2, &["teacher.yaml: no `teacher`"]);
}

#[test]
fn probes_and_fine_tuning() {
    let place = place();
    let model = golden("large").to_str().unwrap().to_owned();
    let head = |name: &str, command: &str, more: &str| {
        place.write(&format!("{name}.yaml"), format!("dev: [emotion.jsonl]\nsteps: 30\nbatch: {{clips: 6}}\noptimiser: {{learning_rate: 1e-2, warmup: 0.0, schedule: constant}}\ncheckpoint: {{every: 10, keep: 9}}\n{more}\n"));
        place.run(&["encoder", command, &format!("{name}.yaml")])
    };
    let fell = |name: &str| {
        let lines = place.lines(&format!("runs/{name}/log.jsonl"));
        let losses: Vec<f64> = lines
            .iter()
            .filter_map(|line| line["loss"].as_f64())
            .collect();
        assert!(
            losses.len() == 30 && losses[29] < 0.8 * losses[0],
            "{name}: {losses:?}"
        );
        lines.last().unwrap().clone()
    };
    for encoder in ["mfcc", &model] {
        let name = if encoder == "mfcc" {
            "of-mfcc"
        } else {
            "of-encoder"
        };
        head(
            name,
            "probe",
            &format!("encoder: {encoder}\nhead: classify\ndata: [emotion.jsonl]"),
        )
        .succeeds();
        let last = fell(name);
        assert!(
            last["scores"]["dev.accuracy"].as_f64().unwrap() > 0.6,
            "seen rows are learned: {last}"
        );
        let shares =
            place.json(&format!("runs/{name}/eval/step-000030/scores.json"))["layer_shares"]
                .clone();
        let sum: f64 = crate::command::numbers(&shares).iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{shares}");
    }
    let more = format!("encoder: {model}\nhead: ctc\ndata: [asr.jsonl]\nencoder_rate: 0.2");
    head("spell", "finetune", &more.replace("dev:", "")).fails(2, &["no `text`"]);
    place.write(
        "spell.yaml",
        place
            .text("spell.yaml")
            .replace("dev: [emotion.jsonl]", "dev: [asr.jsonl]"),
    );
    std::fs::remove_dir_all(place.path("runs/spell")).unwrap();
    place.run(&["encoder", "finetune", "spell.yaml"]).succeeds();
    let last = fell("spell");
    assert!(last["scores"]["dev.cer"].is_number(), "{last}");
    let config = place.json("runs/spell/model/config.json");
    assert_eq!(config["architectures"][0], "HubertForCTC");
    assert!(
        place
            .tensors("runs/spell/model/model.safetensors")
            .contains_key("lm_head.weight")
    );

    // The same training, decoded with a beam and a model of words.
    let model_of_words = "\\data\\\n\n\\1-grams:\n-0.3\tyes\n-9\t<unk>\n-0.3\t</s>\n\n\\end\\\n";
    place.write("words.arpa", model_of_words);
    let beam = [
        "--set",
        "name=beam",
        "--set",
        "beam={width: 8, model: words.arpa}",
    ];
    let spell = ["encoder", "finetune", "spell.yaml"];
    place.run(&[&spell[..], &beam].concat()).succeeds();
    let said = place.lines("runs/beam/eval/step-000030/predictions.jsonl");
    assert_eq!(said.len(), 12);

    // Resumed from the middle, the run ends as it did.
    let log = place.text("runs/spell/log.jsonl");
    let weights = place.bytes("runs/spell/model/model.safetensors");
    std::fs::remove_dir_all(place.path("runs/spell/checkpoints/step-000030")).unwrap();
    std::fs::remove_dir_all(place.path("runs/spell/checkpoints/step-000020")).unwrap();
    place
        .run(&["encoder", "finetune", "spell.yaml", "--resume"])
        .succeeds();
    assert_eq!(place.text("runs/spell/log.jsonl"), log);
    assert!(place.bytes("runs/spell/model/model.safetensors") == weights);
    // What is frozen stays: the convolutions are those of the checkpoint.
    let trained = place.tensors("runs/spell/model/model.safetensors");
    let before = candle_core::safetensors::load(
        golden("large").join("model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let name = "feature_extractor.conv_layers.0.conv.weight";
    assert_eq!(
        crate::command::distance(&trained[&format!("hubert.{name}")], &before[name]),
        0.0
    );
    let name = "encoder.layers.0.attention.q_proj.weight";
    assert!(crate::command::distance(&trained[&format!("hubert.{name}")], &before[name]) > 0.0);
}

/// Six rows of three labels by three speakers, who say each label in turn.
fn rows_with_speakers() -> Vec<Value> {
    let mut rows = emotion_rows();
    for (i, row) in rows.iter_mut().enumerate() {
        row["speaker"] = json!(["ann", "ben", "cy"][i / 2]);
    }
    rows
}

#[test]
fn probes_choose_by_training_speakers() {
    let place = place();
    let model = golden("base").to_str().unwrap().to_owned();
    place.write_rows("spoken.jsonl", &rows_with_speakers());
    let recipe = |encoder: &str, pool: &str| {
        format!(
            "encoder: {encoder}\nhead: classify\ndata: [spoken.jsonl]\ndev: [spoken.jsonl]\npool: {pool}\nchoose: {{folds: 3, weight_decay: [1, 0.1]}}\nsteps: 6\nbatch: {{clips: 4}}\noptimiser: {{learning_rate: 1e-2}}\ncheckpoint: {{every: 3, keep: 9}}\n"
        )
    };
    for (name, encoder, pool, vectors) in [
        ("mfcc-two", "mfcc", "mean_std", 2),
        ("mfcc-five", "mfcc", "segments", 5),
        ("two", model.as_str(), "mean_std", 2),
        ("five", model.as_str(), "segments", 5),
    ] {
        place.write(&format!("{name}.yaml"), recipe(encoder, pool));
        place
            .run(&["encoder", "probe", &format!("{name}.yaml")])
            .succeeds();
        let choice = place.json(&format!("runs/{name}/choice.json"));
        let candidates = choice["candidates"].as_array().unwrap();
        let pairs: Vec<(&Value, &Value)> = candidates
            .iter()
            .map(|candidate| (&candidate["classifier"], &candidate["weight_decay"]))
            .collect();
        let linear = json!("linear");
        let mlp = json!("mlp");
        let strong = json!(1.0);
        let weak = json!(0.1);
        assert_eq!(
            pairs,
            [
                (&linear, &strong),
                (&linear, &weak),
                (&mlp, &strong),
                (&mlp, &weak)
            ]
        );
        let scores: Vec<f64> = candidates
            .iter()
            .map(|candidate| candidate["uar"].as_f64().unwrap())
            .collect();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let first = scores.iter().position(|&score| score == best);
        assert_eq!(choice["chosen"].as_u64().map(|i| i as usize), first);
        assert_eq!(candidates[0]["fold_uar"].as_array().unwrap().len(), 3);

        let head = place.tensors(&format!("runs/{name}/model/head.safetensors"));
        let (_, width) = head["projector.weight"].dims2().unwrap();
        assert_eq!(
            width,
            vectors * head["scales.0.mean"].elem_count(),
            "{name}"
        );
        let scored = place.lines(&format!("runs/{name}/log.jsonl"));
        let evaluations = scored.iter().filter(|line| line["kind"] == "eval");
        assert_eq!(evaluations.count(), 1, "dev is scored once");
    }

    // Resumed from the middle, the run ends as it did and reads the choice.
    let log = place.text("runs/two/log.jsonl");
    let head = place.bytes("runs/two/model/head.safetensors");
    let choice = place.json("runs/two/choice.json");
    std::fs::remove_dir_all(place.path("runs/two/checkpoints/step-000006")).unwrap();
    place
        .run(&["encoder", "probe", "two.yaml", "--resume"])
        .succeeds();
    assert_eq!(place.text("runs/two/log.jsonl"), log);
    assert!(place.bytes("runs/two/model/head.safetensors") == head);
    // Computed again, the choice is the same.
    std::fs::remove_dir_all(place.path("runs/two")).unwrap();
    place.run(&["encoder", "probe", "two.yaml"]).succeeds();
    assert_eq!(place.json("runs/two/choice.json"), choice);
    assert_eq!(place.text("runs/two/log.jsonl"), log);

    let refused = |more: &[&str], expected: &str| {
        let fixed = ["encoder", "probe", "two.yaml", "--set", "name=refused"];
        place
            .run(&[&fixed[..], more].concat())
            .fails(2, &[expected, "hint:"]);
    };
    refused(&["--set", "choose.folds=1"], "`choose.folds` is 1");
    refused(&["--set", "choose.weight_decay=[]"], "an empty list");
    refused(&["--set", "choose.weight_decay=[-1]"], "not 0 or more");
    refused(&["--set", "evaluate_every=2"], "`evaluate_every` with");
    refused(&["--set", "open=transformer"], "encoder that is trained");
    refused(&["--set", "head=ctc"], "with `head: ctc`");
    place.write(
        "four.yaml",
        recipe("mfcc", "mean_std").replace("folds: 3", "folds: 4"),
    );
    place
        .run(&["encoder", "probe", "four.yaml"])
        .fails(2, &["3 speakers in the training rows for 4 folds", "hint:"]);
    let nameless = recipe("mfcc", "mean").replace("data: [spoken", "data: [emotion");
    place.write("nameless.yaml", nameless);
    place
        .run(&["encoder", "probe", "nameless.yaml"])
        .fails(2, &["emotion.jsonl", "no `speaker`", "hint:"]);
}

#[test]
fn deviations_train_an_open_encoder() {
    let place = place();
    let model = golden("base").to_str().unwrap().to_owned();
    place.write("open.yaml", format!("encoder: {model}\nhead: classify\ndata: [emotion.jsonl]\ndev: [emotion.jsonl]\npool: mean_std\nclassifier: mlp\nweighted: true\nsteps: 20\nbatch: {{clips: 6}}\noptimiser: {{learning_rate: 3e-3, warmup: 0.0, schedule: constant}}\n"));
    place.run(&["encoder", "finetune", "open.yaml"]).succeeds();
    let lines = place.lines("runs/open/log.jsonl");
    let losses: Vec<f64> = lines
        .iter()
        .filter_map(|line| line["loss"].as_f64())
        .collect();
    assert!(losses[19] < losses[0], "{losses:?}");
    // transformers has no class for this head: the encoder and the head are two files.
    let config = place.json("runs/open/model/config.json");
    assert_eq!(config["architectures"][0], "HubertModel");
    let head = place.tensors("runs/open/model/head.safetensors");
    assert!(head.contains_key("projector.weight") && head.contains_key("layer_weights"));
    let trained = place.tensors("runs/open/model/model.safetensors");
    let before = candle_core::safetensors::load(
        golden("base").join("model.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let name = "encoder.layers.0.attention.q_proj.weight";
    assert!(crate::command::distance(&trained[name], &before[name]) > 0.0);
}

#[test]
fn dropout_resumes_and_off_changes_nothing() {
    let place = place();
    let pretrain = |name: &str, more: &[&str]| {
        let name = format!("name={name}");
        let fixed = ["encoder", "pretrain", "teacher.yaml", "--set", &name];
        place.run(&[&fixed, more].concat())
    };
    let log = |name: &str| place.text(&format!("runs/{name}/log.jsonl"));
    pretrain("plain", &[]).succeeds();
    pretrain("off", &["--set", "dropout=0", "--set", "layer_drop=0.0"]).succeeds();
    assert_eq!(log("plain"), log("off"));
    let stored = place.text("runs/off/recipe.yaml");
    assert!(!stored.contains("dropout") && !stored.contains("layer_drop"));

    let dropped = ["--set", "dropout=0.2", "--set", "layer_drop=0.5"];
    pretrain("dropped", &dropped).succeeds();
    let before = log("dropped");
    assert_ne!(before, log("plain"));
    let run = place.path("runs/dropped");
    std::fs::remove_dir_all(run.join("iteration-2/encoder")).unwrap();
    std::fs::remove_dir_all(run.join("iteration-2/checkpoints/step-000004")).unwrap();
    pretrain("dropped", &[&dropped[..], &["--resume"]].concat()).succeeds();
    assert_eq!(log("dropped"), before);
    pretrain("wrong", &["--set", "dropout=1"]).fails(2, &["`dropout` is 1", "hint:"]);

    // A head with an open encoder, of which half of the layers are left out.
    let model = golden("base").to_str().unwrap().to_owned();
    let recipe = format!(
        "encoder: {model}\nhead: ctc\ndata: [asr.jsonl]\ndev: [asr.jsonl]\nsteps: 4\nbatch: {{clips: 4}}\ncheckpoint: {{every: 2, keep: 9}}\n"
    );
    place.write("head.yaml", recipe);
    let tune = |name: &str, more: &[&str]| {
        let name = format!("name={name}");
        let fixed = ["encoder", "finetune", "head.yaml", "--set", &name];
        place.run(&[&fixed, more].concat())
    };
    tune("tuned", &[]).succeeds();
    tune("tuned-dropped", &dropped).succeeds();
    let before = log("tuned-dropped");
    assert_ne!(before, log("tuned"));
    let last = place.path("runs/tuned-dropped/checkpoints/step-000004");
    std::fs::remove_dir_all(last).unwrap();
    tune("tuned-dropped", &[&dropped[..], &["--resume"]].concat()).succeeds();
    assert_eq!(log("tuned-dropped"), before);
    let probe = ["encoder", "probe", "head.yaml", "--set", "dropout=0.2"];
    place
        .run(&probe)
        .fails(2, &["with a frozen encoder", "hint:"]);
}
