//! Qwen3-ASR against transformers and PEFT, on checkpoints of random weights in both layouts:
//! frames, tokens, embeddings, logits, losses, greedy tokens, gradients, 20 steps of LoRA; clips
//! from 0.3 s to 65 s. `tests/reference/make_qwen3_asr_fixture.py` made the numbers.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::command::Place;
use crate::command::fixture_text;
use crate::golden::assert_close;
use crate::golden::distance;
use crate::golden::fixture;
use crate::golden::flat;
use crate::golden::json;
use crate::golden::numbers;
use candle_core::Device;
use candle_core::Tensor;
use maqam::audio::LogMelExtractor;
use maqam::batch::Batch;
use maqam::batch::Sequence;
use maqam::data::Message;
use maqam::data::Role;
use maqam::data::Row;
use maqam::models::AudioLlm;
use maqam::models::Pass;
use maqam::models::config::Config;
use maqam::models::export::Origin;
use maqam::models::export::merge;
use maqam::models::generate::Limits;
use maqam::models::generate::Sampling;
use maqam::models::trained::Trained;
use maqam::nn::lora::Init;
use maqam::nn::lora::Plan;
use maqam::nn::lora::Settings as Lora;
use maqam::nn::lora::Targets;
use maqam::nn::peft;
use maqam::nn::saving::Save;
use maqam::parts::Parts;
use maqam::parts::PerPart;
use maqam::parts::Training;
use maqam::seed::Key;
use maqam::task::Encoded;
use maqam::task::Example;
use maqam::task::ForcedLanguage;
use maqam::task::Mode;
use maqam::task::Tasks;
use maqam::task::TextCodec;
use maqam::task::Wording;
use maqam::train::optimiser::Optimiser;
use maqam::train::optimiser::Settings;
use maqam::train::optimiser::Shape;
use maqam::train::optimiser::Update;
use serde_json::Value;

/// 128 mel bands, chunks of 100 frames, windows of two chunks and a tied head; 80 bands, chunks of
/// 104, one key head and a head of its own.
const GOLDENS: [&str; 2] = ["qwen3_asr", "qwen3_asr_wide"];

struct Golden {
    dir: PathBuf,
    config: Config,
    expected: Value,
    tensors: HashMap<String, Tensor>,
    sequences: Vec<Sequence>,
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

fn samples_of(example: &Value) -> Vec<f32> {
    let clip_ = &example["clips"][0];
    let samples = clip_[1].as_u64().unwrap() as usize;
    clip(clip_[0].as_u64().unwrap(), samples)
}

impl Golden {
    fn load(name: &str) -> Self {
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

    fn model(&self, plan: Plan, trained: bool) -> AudioLlm {
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

    fn pack(&self, sequences: &[Sequence]) -> Batch {
        let framing = self.config.audio.framing();
        Batch::pack(&sequences.iter().collect::<Vec<_>>(), framing).unwrap()
    }

    /// The row that the example is made of.
    fn row(&self, index: usize) -> Row {
        let example = &self.examples()[index];
        let row = serde_json::json!({
            "id": "a", "audio": "a.wav", "text": example["text"], "language": example["language"], "prompt": example["context"],
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, format!("{row}\n")).unwrap();
        std::fs::write(dir.path().join("a.wav"), wav(&[0.0])).unwrap();
        let read = maqam::data::read_manifest(&path, None, maqam::data::OnBadRow::Error);
        read.unwrap().rows.remove(0)
    }

    /// The example that the built-in task makes of it.
    fn example(&self, index: usize) -> Example {
        let tasks = Tasks::load(None).unwrap();
        let asr = tasks.get("asr").unwrap();
        let draw = Key::new(0, "draw");
        asr.example(&self.row(index), Wording::Train, draw).unwrap()
    }

    fn audio_tokens(&self, index: usize) -> usize {
        self.examples()[index]["audio_tokens"][0].as_u64().unwrap() as usize
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
    let is_audio = |token: &u32| *token == config.audio_token;
    let first = tokens.iter().position(is_audio).unwrap();
    let last = tokens.iter().rposition(is_audio).unwrap();
    let targets = tokens.len() - example["target_len"].as_u64().unwrap() as usize..tokens.len();
    Sequence {
        targets: vec![targets.clone()],
        target_weight: 1.0 / targets.len() as f64,
        tokens,
        audio: vec![first..last + 1],
        features: vec![Arc::new(extractor.extract(&samples_of(example)))],
        key: Key::new(7, "golden"),
    }
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn ids(encoded: &Encoded) -> Vec<f64> {
    encoded.tokens.iter().map(|&id| f64::from(id)).collect()
}

#[test]
fn frames_and_tokens_equal_the_processors() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        for (i, example) in golden.examples().iter().enumerate() {
            let mel = &golden.sequences[i].features[0];
            assert_eq!(mel.frames, example["frames"].as_u64().unwrap() as usize);
            let samples = samples_of(example).len();
            assert_eq!(golden.config.audio_tokens(samples), golden.audio_tokens(i));
            let rows: Vec<&[f32]> = mel.values.chunks(mel.mels).collect();
            let shown = (0..20).chain(mel.frames - 5..mel.frames);
            let expected = &golden.tensors[&format!("mel.{i}")];
            for (place, row) in shown.enumerate() {
                let error = worst(rows[row], &flat(&expected.get(place).unwrap()));
                assert!(error < 1e-4, "{name} clip {i} row {row}: {error}");
            }
        }
    }
}

#[test]
fn rows_are_tokenised_as_the_processor_does() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let codec = TextCodec::load(&golden.dir).unwrap();
        for (i, example) in golden.examples().iter().enumerate() {
            let audio = [golden.audio_tokens(i)];
            let encoded = codec
                .encode_example(&golden.example(i), &audio, Mode::Train)
                .unwrap();
            assert_eq!(ids(&encoded), numbers(&example["input_ids"]), "{name} {i}");
            let learnt = encoded.targets[0].len() as u64;
            assert_eq!(example["target_len"], learnt, "the prompt is not learnt");
        }
    }
}

#[test]
fn conversations_of_rows_stay_as_they_are() {
    let golden = Golden::load("qwen3_asr");
    let codec = TextCodec::load(&golden.dir).unwrap();
    for (i, example) in golden.examples().iter().enumerate() {
        let said = |field: &str| example[field].as_str().unwrap().to_owned();
        let mut messages = vec![
            Message::new(Role::System, said("context")),
            Message::new(Role::User, "<audio>"),
            Message::new(Role::Assistant, said("target")),
        ];
        if said("context").is_empty() {
            messages.remove(0);
        }
        let audio = [golden.audio_tokens(i)];
        let encoded = codec.encode(&messages, &audio, Mode::Train).unwrap();
        assert_eq!(ids(&encoded), numbers(&example["input_ids"]));
    }
}

#[test]
fn what_the_template_would_drop_is_refused() {
    let golden = Golden::load("qwen3_asr");
    let codec = TextCodec::load(&golden.dir).unwrap();
    let refused = |user: &str, audio: &[usize]| {
        let messages = [
            Message::new(Role::User, user),
            Message::new(Role::Assistant, "a"),
        ];
        let error = codec.encode(&messages, audio, Mode::Train).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let error = refused("<audio>Transcribe!", &[3]);
    assert!(
        error.contains("no text of a user's message, found `Transcribe!`"),
        "{error}"
    );
    assert!(error.contains("\nhint: leave it out"), "{error}");
    let error = refused("<audio><audio>", &[3, 3]);
    assert!(
        error.contains("one clip in a conversation, found 2"),
        "{error}"
    );

    let tasks = Tasks::load(None).unwrap();
    let mut row = golden.row(0);
    row.label = Some("EGY".into());
    let task = tasks.get("dialect").unwrap();
    let example = task.example(&row, Wording::Train, Key::new(0, "draw"));
    let error = codec
        .encode_example(&example.unwrap(), &[3], Mode::Train)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("task `dialect` asks for more than a transcript"),
        "{error}"
    );
}

#[test]
fn a_forced_language_stands_before_the_answer() {
    let golden = Golden::load("qwen3_asr");
    let codec = TextCodec::load(&golden.dir).unwrap();
    codec.expect_languages().unwrap();
    for (i, example) in golden.examples().iter().enumerate() {
        let found = codec
            .encode_example(
                &forced(golden.example(i), "row"),
                &[golden.audio_tokens(i)],
                Mode::Generate,
            )
            .unwrap();
        let whole = numbers(&example["input_ids"]);
        let prompt = whole.len() - example["target_len"].as_u64().unwrap() as usize;
        let text = example["text"].as_str().unwrap();
        let mark = whole.iter().rposition(|&id| id == 336.0).unwrap();
        let end = if example["language"].is_null() {
            prompt
        } else {
            mark + 1
        };
        assert_eq!(ids(&found), whole[..end], "{text}");
    }
    // One language for all rows: dialects are Arabic.
    let example = forced(golden.example(1), "arz");
    let found = codec.encode_example(&example, &[7], Mode::Generate);
    let found = codec.decode(&found.unwrap().tokens);
    assert!(found.ends_with("language Arabic<asr_text>"), "{found}");

    let other = TextCodec::load(&fixture("qwen2_audio")).unwrap();
    assert!(other.expect_languages().is_err());
}

#[test]
fn a_template_without_answers_gives_way_to_ours() {
    let golden = Golden::load("qwen3_asr");
    let original = original(&golden);
    let bare = renamed(&golden, str::to_owned);
    let with = TextCodec::load(&golden.dir).unwrap();
    for dir in [original.path(), bare.path()] {
        let without = TextCodec::load(dir).unwrap();
        for (i, mode) in [(0, Mode::Train), (1, Mode::Train), (3, Mode::Generate)] {
            let of = |codec: &TextCodec| codec.encode_example(&golden.example(i), &[5], mode);
            assert_eq!(of(&with).unwrap(), of(&without).unwrap(), "{i}");
        }
    }
}

#[test]
fn embeddings_and_logits_equal_the_references() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        for (i, sequence) in golden.sequences.iter().enumerate() {
            let batch = golden.pack(std::slice::from_ref(sequence));
            let embeddings = model.embed_audio(&batch).unwrap().unwrap();
            let error = distance(&embeddings, &golden.tensors[&format!("audio.{i}")]);
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
    let golden = Golden::load("qwen3_asr");
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

/// Prompts of all examples, as a codec writes them.
/// The example whose answer begins with a language, as `--language` takes it.
fn forced(mut example: Example, language: &str) -> Example {
    let language: ForcedLanguage = language.parse().unwrap();
    language.apply(&mut example);
    example
}

fn prompts(golden: &Golden, codec: &TextCodec, is_forced: bool) -> Vec<Sequence> {
    let prompt = |(i, sequence): (usize, &Sequence)| {
        let audio = [golden.audio_tokens(i)];
        let example = match is_forced {
            true => forced(golden.example(i), "row"),
            false => golden.example(i),
        };
        let encoded = codec.encode_example(&example, &audio, Mode::Generate);
        let encoded = encoded.unwrap();
        Sequence {
            tokens: encoded.tokens,
            targets: Vec::new(),
            audio: encoded.audio,
            ..sequence.clone()
        }
    };
    golden.sequences.iter().enumerate().map(prompt).collect()
}

#[test]
fn greedy_answers_are_the_references() {
    for (name, is_forced) in [
        ("qwen3_asr", false),
        ("qwen3_asr", true),
        ("qwen3_asr_wide", false),
    ] {
        let golden = Golden::load(name);
        let model = golden.model(Plan::default(), false);
        let codec = TextCodec::load(&golden.dir).unwrap();
        let prompts = prompts(&golden, &codec, is_forced);
        let keys: Vec<Key> = prompts.iter().map(|prompt| prompt.key).collect();
        let limits = Limits {
            max_new_tokens: 12,
            ends: codec.ids_that_end(),
        };
        assert_eq!(limits.ends.len(), 2, "both official end tokens");
        let answers = model
            .generate(&golden.pack(&prompts), &keys, &limits, &Sampling::default())
            .unwrap();
        let mut num_clear = 0;
        for (i, answer) in answers.iter().enumerate() {
            let example = &golden.examples()[i];
            // A row without a language is not forced to one.
            let (tokens, margins) = match is_forced && !example["language"].is_null() {
                true => (&example["forced"], &example["forced_margin"]),
                false => (&example["greedy"], &example["greedy_margin"]),
            };
            let margins = numbers(margins);
            let clear = margins
                .iter()
                .position(|&m| m < 1e-3)
                .unwrap_or(margins.len());
            num_clear += clear;
            let found: Vec<f64> = answer.iter().take(clear).map(|&id| f64::from(id)).collect();
            assert_eq!(found, numbers(tokens)[..clear], "{name} example {i}");
        }
        assert!(num_clear > 2 * answers.len(), "{name}: {num_clear}");
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
    for (name, save) in [("qwen3_asr", Save::Norms), ("qwen3_asr_wide", Save::Layer)] {
        let golden = Golden::load(name);
        let model = golden.adapted("adapter_init");
        let lora = &golden.expected["lora"];
        let losses = numbers(&lora["step_losses"]);
        let norms = numbers(&lora["grad_norms"]);
        let found = train(&model, &golden, losses.len(), save);
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
        for (step, (loss, norm)) in found.into_iter().enumerate() {
            let what = format!("{name} step {step}");
            assert_close(loss, losses[step], 1e-3, &what);
            assert_close(norm, norms[step], 1e-2, &what);
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
        let found = flat(&model.parameters.gradient(entry).unwrap());
        let expected = flat(expected);
        let size = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
        let error = worst(&found, &expected);
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
        let compared = compare_gradients(&model, &golden, str::to_owned);
        assert_eq!(compared, model.parameters.entries.len(), "{name}");
    }
}

fn plan_of(config: &Config, parts: Parts) -> Plan {
    let settings = Lora {
        targets: Targets::Named("all-linear".into()),
        ..Lora::default()
    };
    Plan::from_settings(&settings, &parts, &config.adaptable()).unwrap()
}

const EVERYTHING: Parts = Parts {
    audio_encoder: Training::Full,
    projector: Training::Full,
    decoder: Training::Full,
};

#[test]
fn gradients_of_full_fine_tuning_equal_pytorch() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let model = golden.model(plan_of(&golden.config, EVERYTHING), true);
        let compared = compare_gradients(&model, &golden, str::to_owned);
        assert_eq!(compared, 21, "{name}");
        assert_eq!(model.unreached().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn every_part_trains_alone() {
    let golden = Golden::load("qwen3_asr");
    let frozen = Parts {
        audio_encoder: Training::Frozen,
        projector: Training::Frozen,
        decoder: Training::Frozen,
    };
    for training in [Training::Lora, Training::Full] {
        for parts in [
            Parts {
                audio_encoder: training,
                ..frozen
            },
            Parts {
                projector: training,
                ..frozen
            },
            Parts {
                decoder: training,
                ..frozen
            },
        ] {
            let model = golden.model(plan_of(&golden.config, parts), true);
            model.initialise(Init::Default, 3).unwrap();
            let found = train(&model, &golden, 4, Save::Norms);
            assert!(found[3].0 < found[0].0, "{parts:?}: {found:?}");
            assert_eq!(
                model.unreached().unwrap(),
                Vec::<String>::new(),
                "{parts:?}"
            );
        }
    }
}

/// A folder with the fixture's files, its tensors renamed.
fn renamed(golden: &Golden, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
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

/// The fixture in the original layout.
fn original(golden: &Golden) -> tempfile::TempDir {
    let dir = renamed(golden, |name| {
        let parts = [
            ("model.language_model.", "thinker.model."),
            (
                "model.multi_modal_projector.linear_1.",
                "thinker.audio_tower.proj1.",
            ),
            (
                "model.multi_modal_projector.linear_2.",
                "thinker.audio_tower.proj2.",
            ),
            ("model.audio_tower.", "thinker.audio_tower."),
            ("lm_head.", "thinker.lm_head."),
        ];
        let (from, to) = parts
            .into_iter()
            .find(|(from, _)| name.starts_with(from))
            .unwrap();
        name.replacen(from, to, 1)
    });
    for file in ["config.json", "chat_template.json"] {
        let from = golden.dir.join("original").join(file);
        std::fs::copy(from, dir.path().join(file)).unwrap();
    }
    store_slow_tokenizer(dir.path());
    dir
}

/// Stores the tokenizer of a folder as the original checkpoints do: ids by piece, merges, and added
/// tokens in `tokenizer_config.json`.
fn store_slow_tokenizer(dir: &Path) {
    let path = dir.join("tokenizer.json");
    let tokenizer = json(&path);
    std::fs::remove_file(&path).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    write("vocab.json", tokenizer["model"]["vocab"].to_string());
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let merge = |pair: &Value| {
        format!(
            "{} {}\n",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        )
    };
    let merges: String = merges.iter().map(merge).collect();
    write("merges.txt", format!("#version: 0.2\n{merges}"));
    let mut config = json(&dir.join("tokenizer_config.json"));
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        config["added_tokens_decoder"][token["id"].to_string()] = token.clone();
    }
    write("tokenizer_config.json", config.to_string());
}

#[test]
fn both_layouts_compute_the_same() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let dir = original(&golden);
        let batch = golden.pack(&golden.sequences[..2]);
        let logits = |model: &AudioLlm| flat(&model.logits(&batch).unwrap());
        let expected = logits(&golden.model(Plan::default(), false));
        let model = open(dir.path(), Plan::default(), false);
        assert_eq!(model.config.text, golden.config.text);
        assert_eq!(logits(&model), expected, "{name}");
    }
}

#[test]
fn a_stored_head_that_is_the_table_is_tied() {
    let golden = Golden::load("qwen3_asr");
    let dir = original(&golden);
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let table = tensors["thinker.model.embed_tokens.weight"].clone();
    tensors.insert("thinker.lm_head.weight".to_owned(), table);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let config = Config::load(dir.path()).unwrap();
    assert!(config.text.tie_word_embeddings);
    let wide = Golden::load("qwen3_asr_wide");
    assert!(!wide.config.text.tie_word_embeddings);
}

fn names(path: &Path) -> Vec<String> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut names: Vec<String> = tensors.into_keys().collect();
    names.sort();
    names
}

fn origin() -> Origin {
    Origin {
        base: "base".into(),
        adapter: "adapter".into(),
    }
}

#[test]
fn exports_score_like_the_adapter() {
    for name in GOLDENS {
        let golden = Golden::load(name);
        let trained = Trained::load(&golden.dir.join("adapter_final"), &golden.config).unwrap();
        let batch = golden.pack(&golden.sequences[..1]);
        let score = |model: AudioLlm| model.score(&batch, 0.0).unwrap().loss;
        let expected = score(golden.adapted("adapter_final"));
        let original = original(&golden);
        for base in [golden.dir.as_path(), original.path()] {
            let config = Config::load(base).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("merged");
            merge(base, &config, &trained, None, &origin(), &out).unwrap();
            let merged = score(open(&out, Plan::default(), false));
            assert_close(merged, expected, 1e-5, "merged");
            let of = |dir: &Path| names(&dir.join("model.safetensors"));
            assert_eq!(of(&out), of(base));
            let card = std::fs::read_to_string(out.join("README.md")).unwrap();
            let class = match base == original.path() {
                true => "Qwen3ASRModel.from_pretrained",
                false => "Qwen3ASRForConditionalGeneration.from_pretrained",
            };
            assert!(card.contains(class), "{card}");

            // Adapters are written in the names of their layout, and read in those of both.
            let adapter = trained.adapter.as_ref().unwrap();
            let metadata = peft::Metadata {
                base: "base".into(),
                dropout: 0.0,
                variant: adapter.variant,
            };
            for (i, form) in config.names.adapters.iter().enumerate() {
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
                let written = names(&to.path().join(peft::TENSORS_FILE));
                let is_original = base == original.path();
                if (i == 0) != is_original {
                    let of_peft = golden.dir.join("adapter_final").join(peft::TENSORS_FILE);
                    assert_eq!(written, names(&of_peft));
                } else {
                    let is_one = |name: &String| name.starts_with("base_model.model.thinker.");
                    assert!(written.iter().all(is_one));
                    let proj = "base_model.model.thinker.audio_tower.proj1.lora_A.weight";
                    assert!(written.iter().any(|name| name == proj));
                }
            }
        }
    }
}

#[test]
fn cached_encoder_outputs_change_no_bit() {
    let golden = Golden::load("qwen3_asr");
    let parts = Parts {
        audio_encoder: Training::Frozen,
        projector: Training::Full,
        decoder: Training::Lora,
    };
    let plan = plan_of(&golden.config, parts);
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let mut model = golden.model(plan.clone(), true);
        model.initialise(Init::Default, 1).unwrap();
        model.cache_encoded(dir.path(), 1 << 30).unwrap();
        let losses = train(&model, &golden, 3, Save::Norms);
        (losses, flat(&model.parameters.values))
    };
    let first = run();
    assert_eq!(run(), first, "read from the disk");
}

/// A place with the rows of all examples in the official format, and their clips.
fn place_of(golden: &Golden) -> Place {
    let place = Place::new();
    let mut rows = Vec::new();
    for (i, example) in golden.examples().iter().enumerate() {
        place.write(&format!("{i}.wav"), wav(&samples_of(example)));
        rows.push(serde_json::json!({
            "id": i.to_string(), "audio": format!("{i}.wav"), "text": example["target"], "prompt": example["context"],
        }));
    }
    place.write_rows("rows.jsonl", &rows);
    place
}

/// A WAV file of 16 kHz in 32-bit floats.
fn wav(samples: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    // IEEE floats, one channel, 16,000 samples of 4 bytes a second.
    file.extend(3u16.to_le_bytes());
    file.extend(1u16.to_le_bytes());
    file.extend(16_000u32.to_le_bytes());
    file.extend(64_000u32.to_le_bytes());
    file.extend(4u16.to_le_bytes());
    file.extend(32u16.to_le_bytes());
    file.extend(b"data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

#[test]
fn official_rows_are_scored_and_answered() {
    let golden = Golden::load("qwen3_asr");
    let place = place_of(&golden);
    let model = fixture_text("qwen3_asr");
    let of_task = ["--model", &model, "--data", "rows.jsonl", "--task", "asr"];
    let run = |first: &[&str], more: &[&str]| {
        place.run(&[first, &of_task, more].concat()).succeeds();
    };
    run(&["score"], &["--out", "scores.jsonl"]);
    for (line, example) in place.lines("scores.jsonl").iter().zip(golden.examples()) {
        let found = line["loss"].as_f64().unwrap();
        let expected = example["loss"].as_f64().unwrap();
        assert_close(found, expected, 1e-4, "loss");
        assert_eq!(line["num_target_tokens"], example["target_len"]);
    }
    let few = ["--max-new-tokens", "3", "--out", "answers.jsonl"];
    for (more, field) in [(&[][..], "greedy"), (&["--language", "row"][..], "forced")] {
        run(&["generate"], &[&few, more].concat());
        let answers = place.lines("answers.jsonl");
        for (line, example) in answers.iter().zip(golden.examples()) {
            let field = if example["language"].is_null() {
                "greedy"
            } else {
                field
            };
            let expected = &numbers(&example[field])[..3];
            assert_eq!(numbers(&line["tokens"]), expected, "{field}");
        }
    }
    let embed = [
        "embed",
        "--model",
        &model,
        "--data",
        "rows.jsonl",
        "--pool",
        "none",
    ];
    place
        .run(&[&embed[..], &["--out", "e.safetensors"]].concat())
        .succeeds();
    for (id, found) in place.tensors("e.safetensors") {
        let error = distance(&found, &golden.tensors[&format!("audio.{id}")]);
        assert!(error < 1e-3, "clip {id}: {error}");
    }
}

#[test]
fn a_recipe_trains_every_part_and_exports() {
    let golden = Golden::load("qwen3_asr");
    let place = place_of(&golden);
    let model = fixture_text("qwen3_asr");
    let recipe = format!(
        "name: small\nmodel: {{path: {model}}}\ntrain: {{audio_encoder: lora, projector: full, decoder: lora}}\n\
         lora: {{rank: 2, alpha: 4, dropout: 0.1, targets: all-linear}}\ndata: [{{manifest: rows.jsonl, task: asr}}]\n\
         schedule: {{batch: 3, stages: [{{name: a, tasks: [asr], steps: 4}}]}}\noptimiser: {{learning_rate: 5e-3}}\n\
         checkpoint: {{every: 2, keep: 2}}\nseed: 3\n"
    );
    place.write("recipe.yaml", recipe);
    place.run(&["plan", "recipe.yaml"]).succeeds();
    place.run(&["train", "recipe.yaml"]).succeeds();
    let steps = place.lines("runs/small/log.jsonl");
    let losses: Vec<f64> = steps
        .iter()
        .filter(|line| line["kind"] == "train")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 4);
    let adapter = "runs/small/checkpoints/step-000004";
    place
        .run(&[
            "export",
            "--model",
            &model,
            "--adapter",
            adapter,
            "--out",
            "merged",
        ])
        .succeeds();
    let score = |arguments: &[&str], out: &str| {
        let common = [
            "score",
            "--data",
            "rows.jsonl",
            "--task",
            "asr",
            "--out",
            out,
        ];
        place.run(&[&common, arguments].concat()).succeeds();
        let lines = place.lines(out);
        lines
            .iter()
            .map(|line| line["loss"].as_f64().unwrap())
            .collect::<Vec<f64>>()
    };
    let adapted = score(&["--model", &model, "--adapter", adapter], "a.jsonl");
    let merged = score(&["--model", "merged"], "m.jsonl");
    for (merged, adapted) in merged.into_iter().zip(adapted) {
        assert_close(merged, adapted, 1e-4, "merged");
    }
}

#[test]
fn a_suite_forces_the_language_of_answers() {
    let golden = Golden::load("qwen3_asr");
    let place = place_of(&golden);
    let model = fixture_text("qwen3_asr");
    let suite = "role: dev\ngeneration: {language: row}\nsets: [{name: a, task: asr, manifest: rows.jsonl}]\n";
    place.write("suite.yaml", suite);
    place
        .run(&["eval", "--model", &model, "suite.yaml", "--out", "found"])
        .succeeds();
    let given = [
        "generate",
        "--model",
        &model,
        "--data",
        "rows.jsonl",
        "--task",
        "asr",
    ];
    place
        .run(&[&given[..], &["--language", "row", "--out", "answers.jsonl"]].concat())
        .succeeds();
    let predicted = |name: &str| -> Vec<serde_json::Value> {
        let lines = place.lines(name);
        lines
            .iter()
            .map(|line| line["prediction"].clone())
            .collect()
    };
    let answers = predicted("answers.jsonl");
    assert_eq!(predicted("found/base/a.jsonl"), answers);
    place
        .run(&[&given[..], &["--out", "free.jsonl"]].concat())
        .succeeds();
    assert_ne!(predicted("free.jsonl"), answers);

    let other = fixture_text("qwen2_audio");
    let refused = place.run(&["eval", "--model", &other, "suite.yaml", "--out", "o"]);
    refused.fails(
        2,
        &["suite `suite`: `generation.language`: answers of this checkpoint name no language"],
    );
}
