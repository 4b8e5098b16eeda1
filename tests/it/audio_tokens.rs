//! Trained embeddings of the tokens that open and close a clip, against PEFT's
//! `trainable_token_indices`; `tests/reference/audio_tokens.py` made the numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use crate::command;
use crate::command::Place;
use crate::golden::assert_close;
use crate::golden::fixture;
use crate::golden::flat;
use crate::golden::json;
use crate::golden::numbers;
use crate::qwen2_audio::GOLDENS;
use crate::qwen2_audio::Golden;
use candle_core::Device;
use candle_core::Tensor;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::export::Origin;
use maqam::models::export::merge;
use maqam::models::trained;
use maqam::models::trained::Trained;
use maqam::nn::lora::Plan;
use maqam::nn::parameters::Entry;
use maqam::nn::parameters::TensorKind;
use maqam::nn::peft;
use maqam::nn::peft::Adapter;
use maqam::nn::peft::Metadata;
use maqam::nn::saving::Save;
use maqam::parts::PerPart;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Settings;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;
use serde_json::Value;

/// What PEFT computed for a checkpoint.
struct Expected {
    golden: Golden,
    dir: PathBuf,
    values: Value,
}

impl Expected {
    fn load(name: &str) -> Self {
        let dir = fixture("audio_tokens").join(name);
        Self {
            golden: Golden::load(name),
            values: json(&dir.join("expected.json")),
            dir,
        }
    }

    fn tokens(&self) -> Vec<u32> {
        let ids = numbers(&self.values["tokens"]).into_iter();
        ids.map(|id| id as u32).collect()
    }

    fn adapter(&self, name: &str) -> Adapter {
        Adapter::load(&self.dir.join(name), &self.golden.config.adaptable()).unwrap()
    }

    fn train_model(&self, adapter: &str) -> AudioLlm {
        let adapter = self.adapter(adapter);
        let model = self.golden.model(adapter.plan.clone(), true);
        model.load_adapter(&adapter).unwrap();
        model
    }

    /// The examples that the reference trained on.
    fn sequences(&self) -> Vec<Sequence> {
        let chosen = numbers(&self.values["train"]).into_iter();
        chosen
            .map(|i| self.golden.sequences[i as usize].clone())
            .collect()
    }

    /// Losses of the examples, each alone.
    fn losses(&self, model: &AudioLlm) -> Vec<f64> {
        let sequences = self.sequences();
        let batches = sequences
            .iter()
            .map(|sequence| self.golden.pack(std::slice::from_ref(sequence)));
        batches
            .map(|batch| model.score(&batch, 0.0).unwrap().loss)
            .collect()
    }

    fn assert_losses(&self, model: &AudioLlm, field: &str) {
        let expected = numbers(&self.values[field]);
        for (found, expected) in self.losses(model).into_iter().zip(expected) {
            assert_close(found, expected, 1e-4, field);
        }
    }
}

fn rows_of(model: &AudioLlm) -> &Entry {
    let mut entries = model.parameters.entries.iter();
    entries
        .find(|entry| entry.kind == TensorKind::Rows)
        .unwrap()
}

fn metadata() -> Metadata {
    Metadata {
        base: "base".into(),
        dropout: 0.0,
        variant: maqam::nn::lora::Variant::Lora,
    }
}

/// Losses and gradient norms of the reference's steps.
fn train(model: &AudioLlm, expected: &Expected, save: Save) -> Vec<(f64, f64)> {
    let learning_rate = expected.values["lr"].as_f64().unwrap();
    let settings = Settings {
        learning_rate,
        schedule: Shape::Constant,
        warmup: 0.0,
        ..Settings::default()
    };
    let mut sequences = expected.sequences();
    let total: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences
        .iter_mut()
        .for_each(|sequence| sequence.target_weight = 1.0 / total as f64);
    let batch = expected.golden.pack(&sequences);
    let pass = Pass {
        save,
        ..Pass::default()
    };
    let mut optimiser = Optimiser::new(settings, &model.parameters).unwrap();
    let steps = numbers(&expected.values["step_losses"]).len() as u64;
    (0..steps)
        .map(|step| {
            model.parameters.zero_gradients().unwrap();
            let found = model.train(&batch, None, pass).unwrap();
            if step == 0 {
                assert_first_gradient(model, expected);
            }
            let grad_norm = optimiser.grad_norm(&model.parameters).unwrap();
            let update = Update {
                loss: &found.loss,
                grad_norm: &grad_norm,
                learning_rate,
                counts: PerPart::from_fn(|_| step + 1),
            };
            optimiser.step(&model.parameters, update).unwrap();
            (found.loss.value().unwrap(), grad_norm.value().unwrap())
        })
        .collect()
}

fn assert_first_gradient(model: &AudioLlm, expected: &Expected) {
    let found = flat(&model.parameters.gradient(rows_of(model)).unwrap());
    let expected = numbers(&expected.values["gradient"]);
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    for (found, expected) in found.into_iter().zip(expected) {
        let error = (f64::from(found) - expected).abs();
        assert!(error < 1e-3 * size, "off by {error} of {size}");
    }
}

#[test]
fn training_follows_peft() {
    for (name, save) in GOLDENS.into_iter().zip([Save::Norms, Save::Layer]) {
        let expected = Expected::load(name);
        let model = expected.train_model("adapter_init");
        let losses = numbers(&expected.values["step_losses"]);
        let norms = numbers(&expected.values["grad_norms"]);
        let found = train(&model, &expected, save);
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
        for (step, (loss, norm)) in found.into_iter().enumerate() {
            assert_close(loss, losses[step], 1e-3, &format!("{name} loss {step}"));
            assert_close(norm, norms[step], 1e-2, &format!("{name} norm {step}"));
        }

        // The rows as PEFT left them: AdamW without weight decay.
        let rows = model.token_rows().unwrap().unwrap();
        let last = expected.adapter("adapter_final").rows.unwrap();
        let first = expected.adapter("adapter_init").rows.unwrap();
        let error = crate::golden::distance(&rows.values, &last.values);
        let moved = crate::golden::distance(&first.values, &last.values);
        assert!(moved > 0.02 && error < 0.02 * moved, "{error} of {moved}");
    }
}

#[test]
fn adapters_of_peft_compute_the_same() {
    for name in GOLDENS {
        let expected = Expected::load(name);
        let config = &expected.golden.config;
        let base = expected.golden.model(Plan::default(), false);
        expected.assert_losses(&base, "loss_of_base");
        for adapter in ["adapter_init", "adapter_final", "tokens_alone"] {
            let trained = Trained::load(&expected.dir.join(adapter), config).unwrap();
            assert!(trained.notes().is_empty(), "{:?}", trained.notes());
            assert_eq!(trained.plan().tokens, expected.tokens());
            let model = trained
                .open(&expected.golden.dir, config, &Device::Cpu, None)
                .unwrap();
            let field = match adapter {
                "tokens_alone" => "loss_with_tokens_alone".to_owned(),
                _ => format!("loss_with_{adapter}"),
            };
            expected.assert_losses(&model, &field);
        }
    }
}

fn stored(dir: &Path) -> BTreeMap<String, Tensor> {
    let path = dir.join(peft::TENSORS_FILE);
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors.into_iter().collect()
}

#[test]
fn adapters_are_written_as_peft_writes_them() {
    for name in GOLDENS {
        let expected = Expected::load(name);
        let form = &expected.golden.config.names.adapters[0];
        for adapter in ["adapter_final", "tokens_alone"] {
            let of_peft = expected.dir.join(adapter);
            let read = expected.adapter(adapter);
            let dir = tempfile::tempdir().unwrap();
            let rows = read.rows.as_ref();
            peft::save(
                dir.path(),
                &read.plan,
                &read.tensors,
                rows,
                &metadata(),
                form,
            )
            .unwrap();

            let found = stored(dir.path());
            let mut wanted = stored(&of_peft);
            // PEFT stores the rows of a tied head once more here, and maqam reads them.
            let of_head = wanted.remove("base_model.model.lm_head.trainable_tokens_delta");
            let is_tied = expected.golden.config.text.tie_word_embeddings;
            assert_eq!(of_head.is_some(), is_tied && adapter == "tokens_alone");
            assert!(found.keys().eq(wanted.keys()), "{:?}", found.keys());
            for (key, tensor) in &found {
                assert_eq!(flat(tensor), flat(&wanted[key]), "{key}");
            }
            let config = json(&dir.path().join(peft::CONFIG_FILE));
            let wanted = json(&of_peft.join(peft::CONFIG_FILE));
            for field in ["peft_type", "trainable_token_indices", "token_indices"] {
                assert_eq!(config[field], wanted[field], "{adapter}: {field}");
            }
            if adapter == "tokens_alone" {
                assert_eq!(config["target_modules"], wanted["target_modules"]);
            }

            let again = Adapter::load(dir.path(), &expected.golden.config.adaptable()).unwrap();
            assert_eq!(again.plan, read.plan);
        }
    }
}

#[test]
fn a_checkpoint_gives_the_rows_back() {
    let expected = Expected::load("qwen2_audio");
    for adapter in ["adapter_final", "tokens_alone"] {
        let model = expected.train_model(adapter);
        let dir = tempfile::tempdir().unwrap();
        trained::save(dir.path(), &model, &metadata()).unwrap();
        let plan = model.plan.clone();
        let again = expected.golden.model(plan.clone(), true);
        trained::load_into(dir.path(), &again).unwrap();
        assert_eq!(
            flat(&again.parameters.values),
            flat(&model.parameters.values)
        );
        assert_eq!(expected.losses(&again), expected.losses(&model));

        // A run that trains other things does not take it.
        let without = Plan {
            tokens: Vec::new(),
            ..plan
        };
        let other = expected.golden.model(without, true);
        assert!(trained::load_into(dir.path(), &other).is_err());
    }
}

#[test]
fn merged_rows_are_in_the_table_and_a_tied_head() {
    for name in GOLDENS {
        let expected = Expected::load(name);
        let golden = &expected.golden;
        for adapter in ["adapter_final", "tokens_alone"] {
            let trained = Trained::load(&expected.dir.join(adapter), &golden.config).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("merged");
            let origin = Origin {
                base: "base".into(),
                adapter: "adapter".into(),
            };
            merge(&golden.dir, &golden.config, &trained, None, &origin, &out).unwrap();

            let file = |dir: &Path| {
                candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu)
            };
            let before = file(&golden.dir).unwrap();
            let after = file(&out).unwrap();
            let table = "language_model.model.model.embed_tokens.weight";
            let head = "language_model.lm_head.weight";
            let is_tied = golden.config.text.tie_word_embeddings;
            assert_eq!(flat(&after[head]) == flat(&after[table]), is_tied);
            assert_eq!(flat(&after[head]) == flat(&before[head]), !is_tied);
            let rows = trained.adapter.unwrap().rows.unwrap().values;
            let width = rows.dim(1).unwrap();
            let mut wanted = flat(&before[table]);
            for (row, id) in flat(&rows).chunks(width).zip(expected.tokens()) {
                wanted[id as usize * width..][..width].copy_from_slice(row);
            }
            assert_eq!(flat(&after[table]), wanted, "{name} {adapter}");

            let card = std::fs::read_to_string(out.join("README.md")).unwrap();
            assert!(card.contains("the embeddings of 2 tokens"), "{card}");
            let config = maqam::models::config::Config::load(&out).unwrap();
            let weights = config.weights(&out).unwrap();
            let plan = Plan::default();
            let model = AudioLlm::new(config, &weights, plan, false, &Device::Cpu).unwrap();
            let field = match adapter {
                "tokens_alone" => "loss_with_tokens_alone".to_owned(),
                _ => format!("loss_with_{adapter}"),
            };
            expected.assert_losses(&model, &field);
        }
    }
}

/// Settings of an adapter that PEFT would compute otherwise with, and a word of each refusal.
#[test]
fn other_rows_are_refused_by_name() {
    let expected = Expected::load("qwen2_audio");
    let refused = |change: &dyn Fn(&mut Value), word: &str| {
        let dir = tempfile::tempdir().unwrap();
        for file in [peft::CONFIG_FILE, peft::TENSORS_FILE] {
            let from = expected.dir.join("adapter_final").join(file);
            std::fs::copy(from, dir.path().join(file)).unwrap();
        }
        let path = dir.path().join(peft::CONFIG_FILE);
        let mut config = json(&path);
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        let error = Adapter::load(dir.path(), &expected.golden.config.adaptable()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(word), "{error}");
    };
    let tokens = expected.tokens();
    let [open, close] = tokens[..] else { panic!() };
    let set =
        |value: Value| move |config: &mut Value| config["trainable_token_indices"] = value.clone();
    refused(&set(serde_json::json!([open, open])), "twice");
    refused(
        &set(serde_json::json!([open, 1_000_000])),
        "names token 1000000",
    );
    refused(&set(serde_json::json!([open])), "has shape");
    refused(&set(Value::Null), "names no tokens");
    let both = serde_json::json!({"embed_tokens": [open, close], "lm_head": [open, close]});
    refused(&set(both), "of the table of token embeddings alone");

    // The form that names the table reads like the list.
    let dir = tempfile::tempdir().unwrap();
    let mut config = json(&expected.dir.join("adapter_final").join(peft::CONFIG_FILE));
    config["trainable_token_indices"] = serde_json::json!({"embed_tokens": [open, close]});
    std::fs::write(dir.path().join(peft::CONFIG_FILE), config.to_string()).unwrap();
    let tensors = expected.dir.join("adapter_final").join(peft::TENSORS_FILE);
    std::fs::copy(tensors, dir.path().join(peft::TENSORS_FILE)).unwrap();
    let read = Adapter::load(dir.path(), &expected.golden.config.adaptable()).unwrap();
    assert_eq!(read.plan, expected.adapter("adapter_final").plan);
}

/// A recipe of two stages over the Qwen2-Audio checkpoint. The second stage freezes the projector.
fn recipe(name: &str, train: &str, lora: &str) -> String {
    let model = command::fixture_text("qwen2_audio");
    format!(
        "name: {name}\nmodel: {{path: {model}}}\ntrain: {{{train}}}\nlora: {{rank: 2, targets: attention{lora}}}\n\
         data: [{{manifest: rows.jsonl, task: asr}}]\nschedule:\n  batch: 3\n  stages:\n    - {{name: a, steps: 4}}\n    - {{name: b, steps: 2, train: {{projector: frozen}}}}\n\
         optimiser: {{learning_rate: 5e-3}}\ncheckpoint: {{every: 2, keep: 9}}\nseed: 3\n"
    )
}

const BOTH: &str = "projector: full, decoder: lora, audio_tokens: full";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", &command::asr_rows());
    place
}

fn rows_at(place: &Place, run: &str, step: u64) -> Vec<f32> {
    let tensors = place.tensors(&format!(
        "runs/{run}/checkpoints/step-{step:06}/adapter_model.safetensors"
    ));
    let mut names = tensors.keys();
    let name = names
        .find(|name| name.ends_with("trainable_tokens_delta"))
        .unwrap();
    flat(&tensors[name])
}

#[test]
fn a_recipe_trains_them_and_resumes_exactly() {
    let place = place();
    place.write("recipe.yaml", recipe("whole", BOTH, ""));
    place.run(&["train", "recipe.yaml"]).succeeds();
    // They move with the projector, and stay where a stage freezes it.
    let after = [2, 4, 6].map(|step| rows_at(&place, "whole", step));
    assert!(after[0] != after[1]);
    assert_eq!(after[1], after[2]);

    let set = ["--set", "name=again"];
    place
        .run(&[&["train", "recipe.yaml"], &set[..]].concat())
        .succeeds();
    for step in ["000004", "000006"] {
        let folder = place.path(&format!("runs/again/checkpoints/step-{step}"));
        std::fs::remove_dir_all(folder).unwrap();
    }
    place
        .run(&[&["train", "recipe.yaml", "--resume"], &set[..]].concat())
        .succeeds();
    for file in [
        "log.jsonl",
        "checkpoints/step-000006/adapter_model.safetensors",
        "checkpoints/step-000006/trained.safetensors",
        "checkpoints/step-000006/optimiser.safetensors",
    ] {
        let of = |run: &str| place.bytes(&format!("runs/{run}/{file}"));
        assert!(of("whole") == of("again"), "{file} differs");
    }

    // The adapter and the merged checkpoint score alike.
    let model = command::fixture_text("qwen2_audio");
    let adapter = "runs/whole/checkpoints/step-000006";
    let of_model = ["--model", &model, "--adapter", adapter];
    place
        .run(&[&["export", "--out", "merged"], &of_model[..]].concat())
        .succeeds();
    let score = |rest: &[&str], out: &str| {
        let common = [
            "score",
            "--data",
            "rows.jsonl",
            "--task",
            "asr",
            "--out",
            out,
        ];
        place.run(&[&common, rest].concat()).succeeds();
        let lines = place.lines(out).into_iter();
        lines
            .map(|line| line["loss"].as_f64().unwrap())
            .collect::<Vec<f64>>()
    };
    let adapted = score(&of_model, "a.jsonl");
    let merged = score(&["--model", "merged"], "m.jsonl");
    for (merged, adapted) in merged.into_iter().zip(adapted) {
        assert_close(merged, adapted, 1e-4, "merged");
    }
}

#[test]
fn the_default_changes_no_byte_of_a_log() {
    let place = place();
    for (name, train) in [
        ("unsaid", "projector: full"),
        ("said", "projector: full, audio_tokens: frozen"),
    ] {
        place.write("recipe.yaml", recipe(name, train, ""));
        place.run(&["train", "recipe.yaml"]).succeeds();
    }
    let log = |run: &str| place.bytes(&format!("runs/{run}/log.jsonl"));
    assert_eq!(log("unsaid"), log("said"));
    let config = "checkpoints/step-000006/adapter_config.json";
    assert!(place.json(&format!("runs/unsaid/{config}"))["trainable_token_indices"].is_null());
}

#[test]
fn a_run_goes_on_from_the_rows_of_another() {
    let place = place();
    // The projector and the tokens alone: an adapter without LoRA.
    let alone = recipe(
        "alone",
        "projector: full, decoder: frozen, audio_tokens: full",
        "",
    );
    let alone = alone.replace(", train: {projector: frozen}", "");
    place.write("alone.yaml", alone);
    place.run(&["train", "alone.yaml"]).succeeds();
    let folder = "runs/alone/checkpoints/step-000006";
    let config = place.json(&format!("{folder}/adapter_config.json"));
    assert_eq!(config["peft_type"], "TRAINABLE_TOKENS");

    let init = format!(", init: {folder}");
    let slow = ["--set", "optimiser.learning_rate=1e-12"];
    place.write("more.yaml", recipe("more", BOTH, &init));
    place
        .run(&[&["train", "more.yaml"], &slow[..]].concat())
        .succeeds();
    let from = rows_at(&place, "alone", 6);
    let to = rows_at(&place, "more", 6);
    let worst = from.iter().zip(&to).map(|(a, b)| (a - b).abs());
    assert!(worst.fold(0f32, f32::max) < 1e-6);

    // Rows that the recipe would lose.
    place.write("lost.yaml", recipe("lost", "projector: full", &init));
    for command in ["plan", "train"] {
        place
            .run(&[command, "lost.yaml"])
            .fails(2, &["embeddings of the tokens", "`audio_tokens: full`"]);
    }
}

#[test]
fn settings_without_effect_are_refused() {
    let place = place();
    for (train, words) in [
        (
            "audio_tokens: full",
            ["no stage trains the projector", "hint:"],
        ),
        (
            "projector: full, decoder: full, audio_tokens: full",
            ["trains all embeddings already", "hint:"],
        ),
        (
            "audio_tokens: lora",
            ["unknown value `lora`", "recipe.yaml:"],
        ),
    ] {
        place.write("recipe.yaml", recipe("refused", train, ""));
        place.run(&["plan", "recipe.yaml"]).fails(2, &words);
    }
}

#[test]
fn a_plan_for_a_gpu_says_that_it_cannot() {
    let place = place();
    place.write("recipe.yaml", recipe("gpu", BOTH, ""));
    let plan = place
        .run(&["plan", "recipe.yaml", "--gpu-memory", "80"])
        .succeeds()
        .stdout;
    assert!(
        plan.contains("`train.audio_tokens: full`") && plan.contains("--device cpu"),
        "{plan}"
    );
}
