//! Qwen2-Audio against transformers and PEFT, on checkpoints of random weights: frames, tokens,
//! embeddings, logits, losses, greedy tokens, gradients, 20 steps of LoRA; clips from 0.3 s to
//! beyond two windows. `tests/reference/make_qwen2_audio_fixture.py` made the numbers.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::command;
use crate::command::Place;
use crate::golden::assert_close;
use crate::golden::distance;
use crate::golden::fixture;
use crate::golden::flat;
use crate::golden::json;
use crate::golden::numbers;
use candle_core::Device;
use candle_core::Tensor;
use maqam::audio::LogMelExtractor;
use maqam::audio::num_audio_tokens;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::data::Message;
use maqam::data::Role;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::models::export::Origin;
use maqam::models::export::merge;
use maqam::models::generate::Limits;
use maqam::models::generate::Sampling;
use maqam::models::trained::Trained;
use maqam::nn::lora::Plan;
use maqam::nn::lora::Settings as Lora;
use maqam::nn::peft;
use maqam::nn::saving::Save;
use maqam::parts::Parts;
use maqam::parts::PerPart;
use maqam::parts::Training;
use maqam::seed::Key;
use maqam::task::Mode;
use maqam::task::TextCodec;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Settings;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;
use serde_json::Value;

/// 128 mel bands and a head of its own; 80 bands, one key head and a tied head.
pub const GOLDENS: [&str; 2] = ["qwen2_audio", "qwen2_audio_tied"];

/// Results of transformers and PEFT with a checkpoint, and its examples as maqam's sequences.
pub struct Golden {
    pub dir: PathBuf,
    pub config: Config,
    expected: Value,
    tensors: HashMap<String, Tensor>,
    /// Frames of each example's clips.
    pub sequences: Vec<Sequence>,
}

/// The noise that the script makes.
fn clip(seed: u64, samples: usize) -> Vec<f32> {
    let mut state = seed;
    (0..samples)
        .map(|i| {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            let loudness = 1 + (i / 8000) as i64 % 7;
            (((((state >> 15) as i64 - 32_768) * loudness) >> 4) as f32) / 32_768.0
        })
        .collect()
}

impl Golden {
    pub fn load(name: &str) -> Self {
        let dir = fixture(name);
        let config = Config::load(&dir).unwrap();
        let expected = json(&dir.join("expected.json"));
        let tensors =
            candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
        let extractor = LogMelExtractor::new(config.mel_form());
        let examples = expected["examples"].as_array().unwrap();
        let sequences = examples
            .iter()
            .map(|example| sequence(example, &config, &extractor))
            .collect();
        Self {
            dir,
            config,
            expected,
            tensors,
            sequences,
        }
    }

    fn examples(&self) -> &[Value] {
        self.expected["examples"].as_array().unwrap()
    }

    pub fn model(&self, plan: Plan, trained: bool) -> AudioLlm {
        open(&self.dir, plan, trained)
    }

    fn adapted(&self, adapter: &str) -> AudioLlm {
        let adapter =
            peft::Adapter::load(&self.dir.join(adapter), &self.config.adaptable()).unwrap();
        let model = self.model(adapter.plan.clone(), true);
        model.load_adapter(&adapter).unwrap();
        model
    }

    /// The examples that the reference trained on, every target token of the same weight.
    fn training(&self) -> Vec<Sequence> {
        let chosen = numbers(&self.expected["train"]);
        let mut sequences: Vec<Sequence> = chosen
            .into_iter()
            .map(|i| self.sequences[i as usize].clone())
            .collect();
        let total: usize = sequences.iter().map(Sequence::num_targets).sum();
        sequences
            .iter_mut()
            .for_each(|sequence| sequence.target_weight = 1.0 / total as f64);
        sequences
    }

    pub fn pack(&self, sequences: &[Sequence]) -> Batch {
        let window = self.config.audio.framing();
        Batch::pack(&sequences.iter().collect::<Vec<_>>(), window).unwrap()
    }

    /// The prompt of an example, without its answer.
    fn prompt(&self, index: usize) -> Sequence {
        let mut prompt = self.sequences[index].clone();
        prompt.tokens.truncate(prompt.targets[0].start);
        prompt.targets.clear();
        prompt
    }
}

fn open(dir: &Path, plan: Plan, trained: bool) -> AudioLlm {
    let config = Config::load(dir).unwrap();
    let weights = config.weights(dir).unwrap();
    AudioLlm::new(config, &weights, plan, trained, &Device::Cpu).unwrap()
}

fn sequence(example: &Value, config: &Config, extractor: &LogMelExtractor) -> Sequence {
    let tokens: Vec<u32> = numbers(&example["input_ids"])
        .into_iter()
        .map(|id| id as u32)
        .collect();
    let mut audio = Vec::new();
    for (at, _) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| **token == config.audio_token)
    {
        match audio.last_mut() {
            Some(std::ops::Range { end, .. }) if *end == at => *end += 1,
            _ => audio.push(at..at + 1),
        }
    }
    let features = clips(example)
        .iter()
        .map(|samples| Arc::new(extractor.extract(samples)))
        .collect();
    let targets = tokens.len() - example["target_len"].as_u64().unwrap() as usize..tokens.len();
    Sequence {
        targets: vec![targets.clone()],
        target_weight: 1.0 / targets.len() as f64,
        tokens,
        audio,
        features,
        key: Key::new(7, "golden"),
    }
}

fn clips(example: &Value) -> Vec<Vec<f32>> {
    let said = example["clips"].as_array().unwrap();
    said.iter()
        .map(|clip_| {
            clip(
                clip_[0].as_u64().unwrap(),
                clip_[1].as_u64().unwrap() as usize,
            )
        })
        .collect()
}

#[test]
fn frames_of_every_window_equal_the_processors() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        for (i, sequence) in golden.sequences.iter().enumerate() {
            for (j, mel) in sequence.features.iter().enumerate() {
                let rows: Vec<&[f32]> = mel.values.chunks(mel.mels).collect();
                for (w, start) in (0..mel.frames).step_by(3000).enumerate() {
                    let frames = 3000.min(mel.frames - start);
                    let is_last = start + frames == mel.frames;
                    let end = frames + if is_last { mel.tail } else { 0 };
                    let shown = (0..20)
                        .filter(|&row| row < end)
                        .chain(frames - 5.min(frames)..end);
                    let expected = &golden.tensors[&format!("mel.{i}.{j}.{w}")];
                    // The reference gives padding of a short window, which maqam does not compute.
                    let of_reference = (0..20)
                        .filter(|&row| row < end)
                        .chain(20..expected.dim(0).unwrap());
                    for (row, of_reference) in shown.zip(of_reference) {
                        let found = rows[start + row];
                        let expected = flat(&expected.get(of_reference).unwrap());
                        let error = worst(found, &expected);
                        assert!(
                            error < 1e-4,
                            "{name} clip {i}.{j} window {w} row {row}: {error}"
                        );
                    }
                }
            }
        }
    }
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn conversations_are_tokenised_as_the_processor_does() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let codec = TextCodec::load(&golden.dir).unwrap();
        for example in golden.examples() {
            let marks = "<audio>".repeat(example["clips"].as_array().unwrap().len());
            let said = |field: &str| example[field].as_str().unwrap().to_owned();
            let messages = [
                Message::new(Role::User, format!("{marks}{}", said("instruction"))),
                Message::new(Role::Assistant, said("target")),
            ];
            let audio_tokens: Vec<usize> = clips(example)
                .iter()
                .map(|samples| num_audio_tokens(samples.len().div_ceil(160)))
                .collect();
            let expected: Vec<usize> = numbers(&example["audio_tokens"])
                .into_iter()
                .map(|count| count as usize)
                .collect();
            assert_eq!(audio_tokens, expected, "{name}");
            let encoded = codec.encode(&messages, &audio_tokens, Mode::Train).unwrap();
            let ids: Vec<f64> = encoded.tokens.into_iter().map(f64::from).collect();
            assert_eq!(ids, numbers(&example["input_ids"]), "{name}");
        }
    }
}

#[test]
fn a_folder_without_a_template_has_the_processors() {
    let golden = Golden::load("qwen2_audio");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let with = TextCodec::load(&golden.dir).unwrap();
    let without = TextCodec::load(dir.path()).unwrap();
    let messages = [
        Message::new(Role::User, "<audio><audio>a"),
        Message::new(Role::Assistant, "b"),
        Message::new(Role::User, "c<audio>"),
        Message::new(Role::Assistant, "d"),
    ];
    let of = |codec: &TextCodec| codec.encode(&messages, &[3, 2, 1], Mode::Train).unwrap();
    assert_eq!(of(&with), of(&without));
}

#[test]
fn embeddings_and_logits_equal_the_references() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        for (i, sequence) in golden.sequences.iter().enumerate() {
            let batch = golden.pack(std::slice::from_ref(sequence));
            let heard = model.embed_audio(&batch).unwrap().unwrap();
            let error = distance(&heard, &golden.tensors[&format!("audio.{i}")]);
            assert!(error < 1e-3, "{name} example {i}: {error}");
            let logits = model.logits(&batch).unwrap();
            let expected = &golden.tensors[&format!("logits.{i}")];
            let rows = expected.dim(0).unwrap();
            let last = logits
                .narrow(0, sequence.tokens.len() - rows, rows)
                .unwrap();
            let error = distance(&last, expected);
            assert!(error < 1e-3, "{name} example {i}: {error}");
        }
    }
}

#[test]
fn a_clip_sounds_the_same_whatever_it_is_packed_with() {
    let golden = Golden::load("qwen2_audio");
    let model = golden.model(Plan::default(), false);
    let packed = model
        .embed_audio(&golden.pack(&golden.sequences))
        .unwrap()
        .unwrap();
    let mut start = 0;
    for i in 0..golden.sequences.len() {
        let expected = &golden.tensors[&format!("audio.{i}")];
        let rows = expected.dim(0).unwrap();
        let error = distance(&packed.narrow(0, start, rows).unwrap(), expected);
        assert!(error < 1e-3, "example {i}: {error}");
        start += rows;
    }
}

#[test]
fn losses_equal_the_reference_with_each_adapter() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let plain = golden.model(Plan::default(), false);
        for (example, sequence) in golden.examples().iter().zip(&golden.sequences) {
            let batch = golden.pack(std::slice::from_ref(sequence));
            let scored = plain.score(&batch, 0.0).unwrap();
            assert_close(scored.loss, example["loss"].as_f64().unwrap(), 1e-4, name);
            let expected = numbers(&example["target_logprobs"]);
            for (found, expected) in scored.log_probabilities.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-3);
            }
        }
        for (adapter, losses) in [
            ("adapter_init", "loss_with_adapter_init"),
            ("adapter_final", "loss_with_adapter_final"),
        ] {
            let model = golden.adapted(adapter);
            let expected = numbers(&golden.expected["lora"][losses]);
            for (i, expected) in numbers(&golden.expected["train"]).into_iter().zip(expected) {
                let batch = golden.pack(std::slice::from_ref(&golden.sequences[i as usize]));
                let found = model.score(&batch, 0.0).unwrap().loss;
                assert_close(found, expected, 1e-4, &format!("{name} {adapter} {i}"));
            }
        }
    }
}

#[test]
fn greedy_tokens_equal_where_the_margin_is_clear() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let prompts: Vec<Sequence> = (0..golden.sequences.len())
            .map(|i| golden.prompt(i))
            .collect();
        let keys: Vec<Key> = prompts.iter().map(|prompt| prompt.key).collect();
        let end = json(&golden.dir.join("generation_config.json"))["eos_token_id"].clone();
        let limits = Limits {
            max_new_tokens: 12,
            ends: vec![end.as_u64().unwrap() as u32],
        };
        let answers = model
            .generate(&golden.pack(&prompts), &keys, &limits, &Sampling::default())
            .unwrap();
        for (i, answer) in answers.iter().enumerate() {
            let example = &golden.examples()[i];
            let margins = numbers(&example["greedy_margin"]);
            let clear = margins
                .iter()
                .position(|&m| m < 1e-3)
                .unwrap_or(margins.len());
            assert!(clear > 0);
            let found: Vec<f64> = answer.iter().take(clear).map(|&id| f64::from(id)).collect();
            assert_eq!(
                found,
                numbers(&example["greedy"])[..clear],
                "{name} example {i}"
            );
        }
    }
}

/// The losses and gradient norms of training over the reference's examples in every step.
fn train(model: &AudioLlm, golden: &Golden, steps: usize, save: Save) -> Vec<(f64, f64)> {
    let learning_rate = golden.expected["lora"]["lr"].as_f64().unwrap();
    let settings = Settings {
        learning_rate,
        schedule: Shape::Constant,
        warmup: 0.0,
        ..Settings::default()
    };
    let mut optimiser = Optimiser::new(settings, &model.parameters).unwrap();
    let batch = golden.pack(&golden.training());
    let pass = Pass {
        save,
        ..Pass::default()
    };
    (0..steps)
        .map(|step| {
            model.parameters.zero_gradients().unwrap();
            let found = model.train(&batch, None, pass).unwrap();
            let grad_norm = optimiser.grad_norm(&model.parameters).unwrap();
            let update = Update {
                loss: &found.loss,
                grad_norm: &grad_norm,
                learning_rate,
                counts: PerPart::from_fn(|_| step as u64 + 1),
            };
            optimiser.step(&model.parameters, update).unwrap();
            (found.loss.value().unwrap(), grad_norm.value().unwrap())
        })
        .collect()
}

#[test]
fn twenty_steps_of_lora_follow_peft() {
    for (name, save) in [
        ("qwen2_audio", Save::Norms),
        ("qwen2_audio_tied", Save::Layer),
    ] {
        let golden = Golden::load(name);
        let model = golden.adapted("adapter_init");
        let lora = &golden.expected["lora"];
        let losses = numbers(&lora["step_losses"]);
        let norms = numbers(&lora["grad_norms"]);
        let found = train(&model, &golden, losses.len(), save);
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
        for (step, (loss, norm)) in found.into_iter().enumerate() {
            assert_close(
                loss,
                losses[step],
                1e-3,
                &format!("{name} loss of step {step}"),
            );
            assert_close(
                norm,
                norms[step],
                1e-2,
                &format!("{name} norm of step {step}"),
            );
        }
    }
}

/// Gradients of the first step against PyTorch's, by the names that the reference gives them.
fn compare_gradients(model: &AudioLlm, golden: &Golden, named: impl Fn(&str) -> String) -> usize {
    let batch = golden.pack(&golden.training());
    model.train(&batch, None, Pass::default()).unwrap();
    let expected =
        candle_core::safetensors::load(golden.dir.join("gradients.safetensors"), &Device::Cpu)
            .unwrap();
    let mut compared = 0;
    for entry in &model.parameters.entries {
        let Some(expected) = expected.get(&named(&entry.name)) else {
            continue;
        };
        let range = &entry.range;
        let gradients = &model.parameters.gradients;
        let mut found = gradients.narrow(0, range.start, range.len()).unwrap();
        if let [outputs, inputs, kernel] = entry.shape[..] {
            // Convolutions lie in the buffer as matrices over unfolded rows.
            let unfolded = found.reshape((outputs, kernel, inputs)).unwrap();
            found = unfolded.transpose(1, 2).unwrap().contiguous().unwrap();
        }
        let expected = flat(expected);
        let size = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
        let error = worst(&flat(&found), &expected);
        assert!(
            size > 0.0 && error < 1e-3 * size,
            "{}: off by {error} of {size}",
            entry.name
        );
        compared += 1;
    }
    compared
}

#[test]
fn gradients_of_every_adapter_equal_pytorchs() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.adapted("adapter_init");
        let form = &golden.config.names.adapters[0];
        let compared = compare_gradients(&model, &golden, |name| {
            let module = name.strip_prefix("base_model.model.").unwrap();
            format!("base_model.model.{}", form.written(module))
        });
        assert_eq!(compared, model.parameters.entries.len(), "{name}");
    }
}

#[test]
fn gradients_of_full_fine_tuning_equal_pytorch() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let parts = Parts {
            audio_encoder: Training::Full,
            projector: Training::Full,
            decoder: Training::Full,
        };
        let plan =
            Plan::from_settings(&Lora::default(), &parts, &golden.config.adaptable()).unwrap();
        let model = golden.model(plan, true);
        assert_eq!(
            compare_gradients(&model, &golden, str::to_owned),
            10,
            "{name}"
        );
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
    }
}

/// A folder with the fixture's files, its tensors renamed.
fn renamed(golden: &Golden, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let tensors =
        candle_core::safetensors::load(golden.dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor))
        .collect();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn every_form_of_names_is_read() {
    let golden = Golden::load("qwen2_audio");
    let batch = golden.pack(&golden.sequences[..1]);
    let expected = flat(&golden.model(Plan::default(), false).logits(&batch).unwrap());
    let saved = "language_model.model.model.";
    let hub = renamed(&golden, |name| name.replace(saved, "language_model.model."));
    let nested = renamed(&golden, |name| {
        if name.starts_with("language_model.lm_head") {
            return name.replace("language_model.", "");
        }
        format!("model.{}", name.replace(saved, "language_model."))
    });
    for dir in [&hub, &nested] {
        let model = open(dir.path(), Plan::default(), false);
        assert_eq!(flat(&model.logits(&batch).unwrap()), expected);
    }
}

#[test]
fn exports_score_like_the_adapter() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let trained = Trained::load(&golden.dir.join("adapter_final"), &golden.config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let origin = Origin {
            base: "base".into(),
            adapter: "adapter".into(),
        };
        merge(&golden.dir, &golden.config, &trained, None, &origin, &out).unwrap();
        let batch = golden.pack(&golden.sequences[..1]);
        let expected = golden
            .adapted("adapter_final")
            .score(&batch, 0.0)
            .unwrap()
            .loss;
        let merged = open(&out, Plan::default(), false)
            .score(&batch, 0.0)
            .unwrap();
        assert_close(merged.loss, expected, 1e-5, "merged");
        let names = |path: PathBuf| {
            let mut names: Vec<String> = candle_core::safetensors::load(path, &Device::Cpu)
                .unwrap()
                .into_keys()
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(out.join("model.safetensors")),
            names(golden.dir.join("model.safetensors"))
        );
        let card = std::fs::read_to_string(out.join("README.md")).unwrap();
        assert!(card.contains("Qwen2AudioForConditionalGeneration.from_pretrained"));

        let adapter = trained.adapter.unwrap();
        for form in golden.config.names.adapters {
            let metadata = peft::Metadata {
                base: "base".into(),
                dropout: 0.0,
                variant: adapter.variant,
            };
            let to = tempfile::tempdir().unwrap();
            peft::save(
                to.path(),
                &adapter.plan,
                &adapter.tensors,
                None,
                &metadata,
                form,
            )
            .unwrap();
            let again = peft::Adapter::load(to.path(), &golden.config.adaptable()).unwrap();
            assert_eq!(again.plan, adapter.plan);
        }
        // The usual form has PEFT's own keys.
        let to = tempfile::tempdir().unwrap();
        let metadata = peft::Metadata {
            base: "base".into(),
            dropout: 0.0,
            variant: adapter.variant,
        };
        let form = &golden.config.names.adapters[0];
        peft::save(
            to.path(),
            &adapter.plan,
            &adapter.tensors,
            None,
            &metadata,
            form,
        )
        .unwrap();
        assert_eq!(
            names(to.path().join(peft::TENSORS_FILE)),
            names(golden.dir.join("adapter_final").join(peft::TENSORS_FILE))
        );
    }
}

#[test]
fn cached_encoder_outputs_change_no_bit() {
    let golden = Golden::load("qwen2_audio");
    let parts = Parts {
        audio_encoder: Training::Frozen,
        projector: Training::Full,
        decoder: Training::Lora,
    };
    let plan = Plan::from_settings(&Lora::default(), &parts, &golden.config.adaptable()).unwrap();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let run = |root: &Path| {
        let mut model = golden.model(plan.clone(), true);
        model.initialise(maqam::nn::lora::Init::Default, 1).unwrap();
        model.cache_encoded(root, 1 << 30).unwrap();
        let losses = train(&model, &golden, 3, Save::Norms);
        (losses, flat(&model.parameters.values))
    };
    let files = |root: &Path| {
        let folder = std::fs::read_dir(root)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        std::fs::read_dir(folder).unwrap().count()
    };
    let first = run(dirs[0].path());
    let clips: usize = golden.training().iter().map(|s| s.features.len()).sum();
    assert_eq!(files(dirs[0].path()), clips);
    assert_eq!(run(dirs[0].path()), first, "read from the disk");
    assert_eq!(run(dirs[1].path()), first, "encoded again");

    // The output of a trained encoder is not cached.
    let everywhere = Parts {
        audio_encoder: Training::Lora,
        ..parts
    };
    let plan =
        Plan::from_settings(&Lora::default(), &everywhere, &golden.config.adaptable()).unwrap();
    let mut model = golden.model(plan, true);
    let empty = tempfile::tempdir().unwrap();
    model.cache_encoded(empty.path(), 1 << 30).unwrap();
    train(&model, &golden, 1, Save::Norms);
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// The same through the program: a run's log does not depend on the cache, which is off where clips
/// or the encoder change.
#[test]
fn the_folder_of_encoder_outputs_can_be_removed() {
    let place = Place::new();
    place.write_rows("rows.jsonl", &command::asr_rows());
    let recipe = format!(
        "name: a\nmodel: {{path: {}}}\ntrain: {{projector: full, decoder: lora}}\nlora: {{rank: 2}}\n\
         data: [{{manifest: rows.jsonl, task: asr}}]\nschedule: {{batch: 4, stages: [{{epochs: 1}}]}}\nseed: 3\n",
        command::fixture_text("qwen2_audio")
    );
    place.write("recipe.yaml", recipe);
    let log = |name: &str, more: &[&str]| {
        let name_is = format!("name={name}");
        let arguments = ["train", "recipe.yaml", "--set", &name_is];
        place.run(&[&arguments[..], more].concat()).succeeds();
        place.bytes(&format!("runs/{name}/log.jsonl"))
    };
    let cache = place.path("runs/.encoded");
    let num_files = || {
        let mut folders = std::fs::read_dir(&cache).unwrap();
        let folder = folders.next().unwrap().unwrap().path();
        assert!(folders.next().is_none(), "one encoder");
        std::fs::read_dir(folder).unwrap().count()
    };

    let first = log("cold", &[]);
    assert_eq!(num_files(), command::asr_rows().len());
    assert!(log("warm", &[]) == first);
    assert_eq!(num_files(), command::asr_rows().len());
    std::fs::remove_dir_all(&cache).unwrap();
    assert!(log("removed", &[]) == first);

    std::fs::remove_dir_all(&cache).unwrap();
    log("augmented", &["--set", "augment={gain_db: [-3, 3]}"]);
    log("trained", &["--set", "train.audio_encoder=lora"]);
    assert!(!cache.exists());
}
