//! A speech encoder in place of the audio tower: against PyTorch, in training, and in every command
//! that takes the result. `tests/reference/speech_encoder.py` made the numbers.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use candle_core::Tensor;
use maqam::audio::LogMel;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::models::fresh_projector;
use maqam::models::speech::Speech;
use maqam::nn::lora::Plan;
use maqam::parts::Part;
use maqam::seed::Key;
use serde_json::Value;
use serde_json::json;

use crate::command::Place;
use crate::command::asr_rows;
use crate::command::distance;
use crate::command::emotion_rows;
use crate::command::fixture;
use crate::command::fixture_text;

fn encoder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("crates/engine/tests/fixtures/hubert")
        .join(name)
}

fn encoder_text(name: &str) -> String {
    encoder(name).to_str().unwrap().to_owned()
}

/// Frames of a chain of convolutions without padding, one after the other.
fn frames(config: &Value, samples: usize) -> usize {
    let list = |key: &str| config[key].as_array().unwrap().clone();
    let windows = list("conv_kernel").into_iter().zip(list("conv_stride"));
    windows.fold(samples, |len, (kernel, stride)| {
        let beyond = len.checked_sub(kernel.as_u64().unwrap() as usize);
        beyond.map_or(0, |beyond| beyond / stride.as_u64().unwrap() as usize + 1)
    })
}

// Against PyTorch.

const STACK: usize = 3;

/// PyTorch's results with one of the encoders.
struct Golden {
    name: &'static str,
    config: Config,
    tensors: HashMap<String, Tensor>,
    sequences: Vec<Sequence>,
}

impl Golden {
    fn load(name: &'static str) -> Self {
        let path = fixture("speech_encoder.safetensors");
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let clips = encoder(name).join("expected.safetensors");
        let clips = candle_core::safetensors::load(clips, &Device::Cpu).unwrap();
        let speech = Speech::open(&encoder(name), STACK).unwrap();
        let config = Config::load(&fixture("qwen2_audio"))
            .unwrap()
            .with_speech(speech);
        let sequences = (0..2)
            .map(|i| {
                let tokens = tensors[&format!("{name}.tokens.{i}")]
                    .to_vec1::<i64>()
                    .unwrap();
                let samples = clips[&format!("clip.{i}")].to_vec1::<f32>().unwrap();
                sequence(&tokens, samples, config.audio_token, i)
            })
            .collect();
        Self {
            name,
            config,
            tensors,
            sequences,
        }
    }

    fn tensor(&self, key: &str) -> &Tensor {
        &self.tensors[&format!("{}.{key}", self.name)]
    }

    /// The model with the projector of the script, and these parts in full fine-tuning.
    fn model(&self, full: Vec<Part>) -> AudioLlm {
        let stem = format!("{}.projector.", self.name);
        let projector = self.tensors.iter().filter_map(|(key, tensor)| {
            let key = key.strip_prefix(&stem)?;
            Some((format!("multi_modal_projector.{key}"), tensor.clone()))
        });
        let weights = self.config.weights(&fixture("qwen2_audio")).unwrap();
        let plan = Plan {
            full,
            ..Plan::default()
        };
        let weights = weights.with(projector.collect());
        AudioLlm::new(self.config.clone(), &weights, plan, true, &Device::Cpu).unwrap()
    }

    fn batch(&self) -> Batch {
        let sequences: Vec<&Sequence> = self.sequences.iter().collect();
        Batch::pack(&sequences, self.config.framing()).unwrap()
    }
}

fn sequence(tokens: &[i64], samples: Vec<f32>, audio_token: u32, index: u64) -> Sequence {
    let start = tokens.iter().position(|&token| token < 0).unwrap();
    let end = tokens.iter().rposition(|&token| token < 0).unwrap() + 1;
    Sequence {
        tokens: tokens
            .iter()
            .map(|&token| u32::try_from(token).unwrap_or(audio_token))
            .collect(),
        targets: vec![tokens.len() - 3..tokens.len()],
        audio: vec![start..end],
        features: vec![Arc::new(LogMel {
            mels: 1,
            frames: samples.len(),
            tail: 0,
            values: samples,
        })],
        key: Key::new(1, "test").with(index),
        target_weight: 1.0 / 6.0,
    }
}

fn norm(tensor: &Tensor) -> f64 {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn embeddings_loss_and_gradients_equal_pytorch() {
    for name in ["base", "large"] {
        let golden = Golden::load(name);
        let batch = golden.batch();
        let model = golden.model(vec![Part::AudioEncoder, Part::Projector]);

        let found = model.embed_audio(&batch).unwrap().unwrap();
        let mut start = 0;
        for i in 0..2 {
            let expected = golden.tensor(&format!("embeddings.{i}"));
            let rows = expected.dim(0).unwrap();
            let off = distance(&found.narrow(0, start, rows).unwrap(), expected);
            assert!(
                off < 1e-4,
                "{name}: embeddings of clip {i} are off by {off}"
            );
            start += rows;
        }
        assert_eq!(found.dim(0).unwrap(), start);

        let loss = model.train(&batch, None, Pass::default()).unwrap();
        let loss = loss.loss.value().unwrap();
        let expected = f64::from(golden.tensor("loss").to_scalar::<f32>().unwrap());
        assert!(
            (loss / expected - 1.0).abs() < 1e-5,
            "{name}: {loss}, {expected}"
        );

        let mut compared = 0;
        for entry in &model.parameters.entries {
            let key = match entry.name.strip_prefix("multi_modal_projector.") {
                Some(key) => format!("gradient.projector.{key}"),
                None => {
                    let key = entry.name.strip_prefix("audio_tower.").unwrap();
                    format!("gradient.encoder.{key}")
                }
            };
            let expected = golden.tensor(&key);
            let found = model.parameters.gradient(entry).unwrap();
            let off = norm(&(&found - expected).unwrap());
            // A bias of keys changes nothing, so its gradient is rounding.
            let bar = 1e-3 * norm(expected) + 1e-6;
            assert!(off < bar, "{name}: {} is off by {off}", entry.name);
            compared += 1;
        }
        let script = golden.tensors.keys();
        let stem = format!("{name}.gradient.");
        assert_eq!(
            compared,
            script.filter(|key| key.starts_with(&stem)).count()
        );
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_frozen_encoder_gives_the_projector_the_same_gradients() {
    let golden = Golden::load("base");
    let batch = golden.batch();
    let model = golden.model(vec![Part::Projector]);
    model.train(&batch, None, Pass::default()).unwrap();
    assert_eq!(model.parameters.entries.len(), 6);
    for entry in &model.parameters.entries {
        let key = entry.name.strip_prefix("multi_modal_projector.").unwrap();
        let expected = golden.tensor(&format!("gradient.projector.{key}"));
        let off = norm(&(model.parameters.gradient(entry).unwrap() - expected).unwrap());
        assert!(
            off < 1e-3 * norm(expected),
            "{} is off by {off}",
            entry.name
        );
    }

    // Alone or packed with others, a clip of a frozen encoder has the same embeddings, bit for bit.
    let together = model.embed_audio(&batch).unwrap().unwrap();
    let alone = Batch::pack(&[&golden.sequences[1]], golden.config.framing()).unwrap();
    let alone = model.embed_audio(&alone).unwrap().unwrap();
    let rows = alone.dim(0).unwrap();
    let last = together.narrow(0, together.dim(0).unwrap() - rows, rows);
    assert_eq!(distance(&last.unwrap(), &alone), 0.0);
}

#[test]
fn a_fresh_projector_speaks_as_loud_as_the_embeddings() {
    for family in ["qwen_omni", "qwen2_audio", "qwen3_asr"] {
        let dir = fixture(family);
        let speech = Speech::open(&encoder("base"), 2).unwrap();
        let config = Config::load(&dir).unwrap().with_speech(speech);
        let weights = config.weights(&dir).unwrap();
        let fresh = fresh_projector::tensors(&config, &weights, 3).unwrap();
        let again = fresh_projector::tensors(&config, &weights, 3).unwrap();
        let other = fresh_projector::tensors(&config, &weights, 4).unwrap();
        assert_eq!(fresh.len(), 6);
        let first = format!("{}.weight", config.names.projector);
        assert_eq!(distance(&fresh[&first], &again[&first]), 0.0);
        assert!(distance(&fresh[&first], &other[&first]) > 0.0);

        let table = [config.text.vocab_size, config.text.hidden_size];
        let embeddings = weights
            .get(&config.names.embeddings(), &table, candle_core::DType::F32)
            .unwrap();
        let weights = weights.with(fresh);
        let framing = config.framing();
        let audio_token = config.audio_token;
        let model = AudioLlm::new(config, &weights, Plan::default(), false, &Device::Cpu).unwrap();
        let key = Key::new(1, "noise");
        let samples: Vec<f32> = (0..16_000).map(|i| (key.uniform(i) - 0.5) as f32).collect();
        let tokens: Vec<i64> = [vec![7, 8], vec![-1; framing.tokens(16_000)], vec![9; 4]].concat();
        let sequence = sequence(&tokens, samples, audio_token, 0);
        let batch = Batch::pack(&[&sequence], framing).unwrap();
        let found = model.embed_audio(&batch).unwrap().unwrap();
        let rms = |x: &Tensor| norm(x) / (x.elem_count() as f64).sqrt();
        let ratio = rms(&found) / rms(&embeddings);
        // Of random matrices the outputs of one clip scatter by a quarter at a few dozen inputs.
        assert!((0.4..2.0).contains(&ratio), "{family}: {ratio}");
    }
}

// By the command line.

/// A recipe that aligns the projector alone and then trains on with the decoder's adapters.
fn recipe(family: &str, encoder: &str, how: &str) -> String {
    format!(
        "\
name: small
model: {{path: {}}}
audio_encoder: {{from: {encoder}, stack: 3}}
train: {{audio_encoder: {how}, projector: full, decoder: lora}}
lora: {{rank: 4, alpha: 8, dropout: 0.1, targets: all-linear}}
data:
  - {{manifest: asr.jsonl, task: asr}}
  - {{manifest: emotion.jsonl, task: emotion}}
schedule:
  batch: 4
  stages:
    - {{name: align, tasks: [asr], steps: 3, train: {{audio_encoder: frozen, decoder: frozen}}}}
    - {{name: joint, tasks: all, mix: uniform, steps: 3}}
optimiser: {{learning_rate: 2e-3, factors: {{projector: 2}}}}
checkpoint: {{every: 2, keep: 9}}
seed: 7
",
        fixture_text(family)
    )
}

fn place(recipe: &str) -> Place {
    let place = Place::new();
    place.write_rows("asr.jsonl", &asr_rows());
    place.write_rows("emotion.jsonl", &emotion_rows());
    place.write("recipe.yaml", recipe);
    place
}

const LAST: &str = "runs/small/checkpoints/step-000006";

#[test]
fn a_resumed_run_ends_as_an_undisturbed_one() {
    for (how, name) in [("frozen", "base"), ("full", "large"), ("lora", "base")] {
        let place = place(&recipe("qwen_omni", &encoder_text(name), how));
        place.run(&["train", "recipe.yaml"]).succeeds();
        let files = [
            "trained.safetensors",
            "adapter_model.safetensors",
            "optimiser.safetensors",
        ];
        let left = |place: &Place| -> Vec<Vec<u8>> {
            let mut found: Vec<Vec<u8>> = files
                .iter()
                .map(|file| place.bytes(&format!("{LAST}/{file}")))
                .collect();
            found.push(place.bytes("runs/small/log.jsonl"));
            found
        };
        let before = left(&place);
        let steps = place.lines("runs/small/log.jsonl");
        assert_eq!(
            steps.iter().filter(|line| line["kind"] == "train").count(),
            6
        );

        // As if it had been killed in the second stage, and in the first one.
        for step in ["step-000004", "step-000002"] {
            for later in ["step-000004", "step-000006"] {
                if later > step {
                    let folder = format!("runs/small/checkpoints/{later}");
                    std::fs::remove_dir_all(place.path(&folder)).unwrap();
                }
            }
            place.run(&["train", "recipe.yaml", "--resume"]).succeeds();
            assert!(left(&place) == before, "{how}: resumed at {step}");
        }

        let trained = place.tensors(&format!("{LAST}/trained.safetensors"));
        let of_encoder = trained
            .keys()
            .filter(|key| key.starts_with("thinker.audio_tower.encoder.layers."))
            .count();
        let projector = trained
            .keys()
            .filter(|key| key.starts_with("thinker.audio_projector."))
            .count();
        assert_eq!(
            (of_encoder, projector),
            (if how == "full" { 32 } else { 0 }, 6)
        );
        let record = place.json(&format!("{LAST}/audio_encoder.json"));
        assert_eq!(record["stack"], 3);
        assert_eq!(record["from"].is_string(), how != "full");
        let adapters = place.tensors(&format!("{LAST}/adapter_model.safetensors"));
        let adapted = adapters
            .keys()
            .any(|key| key.contains("audio_tower.encoder.layers.0.attention.q_proj.lora_A"));
        assert_eq!(adapted, how == "lora");
    }
}

#[test]
fn the_projector_alone_learns() {
    let text = recipe("qwen2_audio", &encoder_text("base"), "frozen")
        .replace("decoder: lora}", "decoder: frozen}")
        .replace("steps: 3,", "steps: 30,");
    let place = place(&text);
    place.run(&["train", "recipe.yaml"]).succeeds();
    let lines = place.lines("runs/small/log.jsonl");
    let losses: Vec<f64> = lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[25..30]) < mean(&losses[..5]), "{losses:?}");
    // The frozen encoder's outputs are cached by clip.
    let cached: Vec<_> = std::fs::read_dir(place.path("runs/.encoded"))
        .unwrap()
        .collect();
    assert_eq!(cached.len(), 1, "one encoder");
}

#[test]
fn an_exported_model_answers_as_its_checkpoint() {
    for (family, how) in [
        ("qwen_omni", "frozen"),
        ("qwen2_audio", "full"),
        ("qwen3_asr", "lora"),
    ] {
        let text = recipe(family, &encoder_text("base"), how);
        let text = match family {
            // The template of Qwen3-ASR has one task.
            "qwen3_asr" => text
                .replace("  - {manifest: emotion.jsonl, task: emotion}\n", "")
                .replace("tasks: all, mix: uniform", "tasks: [asr]"),
            _ => text,
        };
        let place = place(&text);
        place.run(&["train", "recipe.yaml"]).succeeds();
        let model = fixture_text(family);
        place
            .run(&[
                "export",
                "--model",
                &model,
                "--adapter",
                LAST,
                "--out",
                "exported",
            ])
            .succeeds();

        let rows: Vec<Value> = asr_rows().into_iter().take(3).collect();
        place.write_rows("few.jsonl", &rows);
        let turns: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({"id": row["id"], "audios": [row["audio"]], "messages": [
                    {"role": "user", "content": match family {
                        "qwen3_asr" => "<audio>",
                        _ => "<audio>What is said?",
                    }},
                    {"role": "assistant", "content": row["text"]},
                ]})
            })
            .collect();
        place.write_rows("turns.jsonl", &turns);
        let trained = ["--model", &model, "--adapter", LAST];
        let exported = ["--model", "exported"];
        for (out, of) in [("trained", &trained[..]), ("exported", &exported[..])] {
            let run = |command: &str, data: &str, ending: &str, more: &[&str]| {
                let out = format!("{command}-{out}.{ending}");
                let fixed = [command, "--data", data, "--out", &out];
                place.run(&[&fixed, of, more].concat()).succeeds();
            };
            run("embed", "few.jsonl", "safetensors", &["--pool", "none"]);
            run("score", "turns.jsonl", "jsonl", &[]);
            run(
                "generate",
                "turns.jsonl",
                "jsonl",
                &["--max-new-tokens", "4"],
            );
        }

        let before = place.tensors("embed-trained.safetensors");
        let after = place.tensors("embed-exported.safetensors");
        let config =
            serde_json::from_slice(&std::fs::read(encoder("base").join("config.json")).unwrap());
        let config: Value = config.unwrap();
        for (row, i) in rows.iter().zip(0u32..) {
            let id = row["id"].as_str().unwrap();
            let samples = ((0.5 + 0.001 * f64::from(1 << i)) * 16_000.0) as usize;
            let tokens = frames(&config, samples).div_ceil(3);
            assert_eq!(before[id].dim(0).unwrap(), tokens, "{family}: {id}");
            // Adapters of the encoder are merged in other orders of rounding.
            let off = distance(&before[id], &after[id]);
            assert!(off < 1e-4, "{family}: {id} is off by {off}");
        }
        let scores = |name: &str| -> Vec<f64> {
            let lines = place.lines(name);
            lines
                .iter()
                .map(|line| line["loss"].as_f64().unwrap())
                .collect()
        };
        let before = scores("score-trained.jsonl");
        let after = scores("score-exported.jsonl");
        assert_eq!(before.len(), 3);
        for (a, b) in before.iter().zip(&after) {
            assert!(
                (a - b).abs() < 1e-4 * a.abs(),
                "{family}: {before:?} {after:?}"
            );
        }
        assert_eq!(
            place.text("generate-trained.jsonl"),
            place.text("generate-exported.jsonl"),
            "{family}"
        );

        // The tower is gone, and the card says who reads the folder.
        let stored: Vec<String> = stored_names(&place.path("exported"));
        assert!(
            !stored
                .iter()
                .any(|name| name.contains("conv1") || name.contains("conv2d"))
        );
        assert!(
            stored
                .iter()
                .any(|name| name.contains("audio_tower.feature_extractor."))
        );
        let card = place.text("exported/README.md");
        assert!(
            card.contains("HuBERT encoder of 2 layers") && !card.contains("vllm"),
            "{card}"
        );

        // A run goes on from it with the decoder alone, its checkpoints need no other folder, and
        // it is exported again.
        let next = text
            .replace(&format!("path: {model}"), "path: exported")
            .replace(
                &format!(
                    "audio_encoder: {{from: {}, stack: 3}}\n",
                    encoder_text("base")
                ),
                "",
            )
            .replace(
                &format!("audio_encoder: {how}, projector: full"),
                "audio_encoder: frozen, projector: frozen",
            )
            .replace("audio_encoder: frozen, decoder: frozen", "decoder: lora")
            .replace("name: small", "name: next");
        place.write("next.yaml", next);
        place.run(&["train", "next.yaml"]).succeeds();
        let last = "runs/next/checkpoints/step-000006";
        assert!(!place.path(last).join("audio_encoder.json").exists());
        place
            .run(&[
                "export",
                "--model",
                "exported",
                "--adapter",
                last,
                "--out",
                "again",
            ])
            .succeeds();
        place
            .run(&[
                "embed",
                "--model",
                "again",
                "--data",
                "few.jsonl",
                "--out",
                "again.safetensors",
                "--pool",
                "none",
            ])
            .succeeds();
        let again = place.tensors("again.safetensors");
        for row in &rows {
            let id = row["id"].as_str().unwrap();
            assert_eq!(distance(&again[id], &after_embedding(&place, id)), 0.0);
        }
    }
}

fn after_embedding(place: &Place, id: &str) -> Tensor {
    place.tensors("embed-exported.safetensors")[id].clone()
}

/// Names of all tensors in the safetensors files of a folder.
fn stored_names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "safetensors")
        });
    files
        .flat_map(|path| {
            candle_core::safetensors::load(path, &Device::Cpu)
                .unwrap()
                .into_keys()
        })
        .collect()
}

#[test]
fn diverse_drawing_and_evaluation_use_the_encoder() {
    let text = recipe("qwen_omni", &encoder_text("base"), "frozen").replace(
        "    - {name: joint, tasks: all, mix: uniform, steps: 3}",
        "    - {name: joint, tasks: all, draw: diverse, embeddings: current, steps: 3}",
    ) + "evaluate: {suite: dev.yaml, every: 3}\n";
    let place = place(&text);
    place.write_rows("few.jsonl", &emotion_rows()[..3]);
    place.write(
        "dev.yaml",
        "role: dev\nsets:\n  - {name: moods, manifest: few.jsonl, task: emotion, metrics: [loss]}\n",
    );
    place
        .run(&["train", "recipe.yaml", "--allow-leakage"])
        .succeeds();
    let model = fixture_text("qwen_omni");
    place.write(
        "test.yaml",
        "role: test\nsets:\n  - {name: moods, manifest: few.jsonl, task: emotion, metrics: [loss]}\n",
    );
    let asked = [
        "eval",
        "test.yaml",
        "--model",
        &model,
        "--adapter",
        LAST,
        "--allow-leakage",
    ];
    place
        .run(&asked)
        .fails(2, &["different audio encoders", "hint:", "--no-base"]);
    place.run(&[&asked[..], &["--no-base"]].concat()).succeeds();
}

#[test]
fn a_plan_sets_the_encoder_beside_the_tower() {
    let place = place(&recipe("qwen_omni", &encoder_text("base"), "frozen"));
    let plan = place
        .run(&["plan", "recipe.yaml", "--json"])
        .succeeds()
        .stdout;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let line = plan["estimates"]["encoder"].as_str().unwrap();
    for words in [
        "HuBERT encoder of 2 layers, 24 wide in place of the tower of Qwen2.5-Omni",
        "parameters in place of",
        "16.7 audio tokens per second in place of 25.0",
        "real-time factor",
        "activations in place of",
    ] {
        assert!(line.contains(words), "`{words}` is not in {line}");
    }
    // A GPU is refused by the encoder's name, also before there is one.
    let text = place
        .run(&["plan", "recipe.yaml", "--gpu-memory", "80"])
        .succeeds()
        .stdout;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(
        words
            .join(" ")
            .contains("24 wide has no kernels for the GPU"),
        "{text}"
    );
    place
        .run(&["train", "recipe.yaml", "--device", "cuda"])
        .fails(2, &["speech encoders compute on the CPU", "hint:"]);
}

#[test]
fn settings_that_cannot_work_are_refused_with_hints() {
    let good = recipe("qwen_omni", "enc", "frozen");
    let place = place(&good);
    let copy = |name: &str| {
        for file in [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ] {
            place.write(
                &format!("{name}/{file}"),
                std::fs::read(encoder("base").join(file)).unwrap(),
            );
        }
    };
    let refused = |text: String, words: &[&str]| {
        place.write("wrong.yaml", text.replace("name: small", "name: wrong"));
        let words = [words, &["hint: "]].concat();
        place.run(&["train", "wrong.yaml"]).fails(2, &words);
        place.run(&["plan", "wrong.yaml"]).fails(2, &words);
    };

    refused(
        good.clone(),
        &["enc", "no such folder", "name the folder of a HuBERT"],
    );
    place.write("enc/notes.txt", "nothing");
    refused(good.clone(), &["without config.json"]);
    refused(
        recipe("qwen_omni", &fixture_text("qwen2_audio"), "frozen"),
        &["`model_type` is qwen2_audio, which is no speech encoder"],
    );
    copy("enc");
    refused(
        good.replace("stack: 3", "stack: 0"),
        &["`audio_encoder.stack` is 0"],
    );
    refused(
        good.replace("{from: enc, stack: 3}", "{from: model, stack: 3}"),
        &["`audio_encoder.stack` has no effect without a speech encoder"],
    );
    refused(
        good.replace("projector: full", "projector: frozen")
            .replace(
                "audio_encoder: frozen, decoder: frozen",
                "audio_encoder: frozen",
            ),
        &["a fresh projector", "write `train: {projector: full}`"],
    );
    refused(
        good.replace("projector: full", "projector: lora"),
        &["a fresh projector"],
    );
    refused(
        good.clone() + "augment: {spec_augment: {}}\n",
        &["`augment.spec_augment` masks log-mel spectrograms"],
    );

    // A clip of 380 samples is one audio token of the tower, and no frame of the encoder.
    let mut rows = asr_rows();
    rows[0]["end_s"] = json!(380.0 / 16_000.0);
    place.write_rows("asr.jsonl", &rows);
    place.write("short.yaml", good.replace("name: small", "name: short"));
    place.run(&["train", "short.yaml"]).fails(
        2,
        &[
            "380 samples are too short for one frame of the speech encoder, which sees 400",
            "leave such rows out: --resume --set on_bad_row=skip",
        ],
    );
    place.write_rows("asr.jsonl", &asr_rows());

    // A finished run, whose encoder changes, moves and comes back.
    place.run(&["train", "recipe.yaml"]).succeeds();
    let last = place.path("runs/small/checkpoints/step-000006");
    std::fs::remove_dir_all(&last).unwrap();
    let weights = place.bytes("enc/model.safetensors");
    let mut changed = weights.clone();
    let end = changed.len() - 3;
    changed[end] ^= 1;
    place.write("enc/model.safetensors", changed);
    place.run(&["train", "recipe.yaml", "--resume"]).fails(
        2,
        &[
            "enc/model.safetensors",
            "has changed since the run began",
            "hint:",
        ],
    );
    let model = fixture_text("qwen_omni");
    let checkpoint = "runs/small/checkpoints/step-000004";
    let embed = [
        "embed",
        "--model",
        &model,
        "--adapter",
        checkpoint,
        "--data",
        "asr.jsonl",
        "--out",
        "o.safetensors",
    ];
    place.run(&embed).fails(
        2,
        &[
            "enc",
            "are not those that the model was trained with",
            "hint:",
        ],
    );
    std::fs::rename(place.path("enc"), place.path("moved")).unwrap();
    place
        .run(&embed)
        .fails(2, &["enc", "no such folder", "hint:"]);
    copy("enc");
    place.run(&embed).succeeds();
    place.run(&["train", "recipe.yaml", "--resume"]).succeeds();

    // What was trained with an encoder does not fit a run without it, nor one with another stack.
    let from = good.replace(
        "lora: {rank: 4",
        "lora: {init: runs/small/checkpoints/step-000006, rank: 4",
    );
    place.write(
        "wrong.yaml",
        from.replace("audio_encoder: {from: enc, stack: 3}\n", "")
            .replace("name: small", "name: wrong"),
    );
    place.run(&["train", "wrong.yaml"]).fails(
        2,
        &[
            "it was trained with a speech encoder",
            "hint:",
            "from: enc, stack: 3",
        ],
    );
    place.write(
        "wrong.yaml",
        from.replace("stack: 3", "stack: 2")
            .replace("name: small", "name: wrong"),
    );
    place
        .run(&["train", "wrong.yaml"])
        .fails(2, &["another `stack`", "hint:"]);
    place.write(
        "continued.yaml",
        from.replace("name: small", "name: continued"),
    );
    place.run(&["train", "continued.yaml"]).succeeds();

    // Work on log-mel frames is refused by name.
    place
        .run(&[
            "export",
            "--model",
            &model,
            "--adapter",
            "runs/small/checkpoints/step-000006",
            "--out",
            "exported",
        ])
        .succeeds();
    place
        .run(&[
            "features",
            "--model",
            "exported",
            "--data",
            "asr.jsonl",
            "--out",
            "f.safetensors",
        ])
        .fails(
            2,
            &[
                "HuBERT encoder of 2 layers",
                "reads no log-mel frames",
                "hint:",
            ],
        );
}
