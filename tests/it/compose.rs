//! `maqam compose`: the tree is transformers', weight for weight and logit for logit;
//! `tests/reference/make_compose_fixture.py` made the numbers.

use std::path::Path;
use std::sync::Arc;

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
use maqam::compose::Request;
use maqam::compose::compose;
use maqam::data::Message;
use maqam::data::Role;
use maqam::models::AudioLlm;
use maqam::models::config::Config;
use maqam::nn::lora::Plan;
use maqam::seed::Key;
use maqam::task::Mode;
use maqam::task::TextCodec;

fn request(decoder: &str, out: &Path) -> Request {
    let parts = fixture("compose");
    Request {
        encoder: parts.join("whisper"),
        decoder: parts.join(decoder),
        out: out.to_owned(),
        dtype: None,
        seed: 0,
        licences: [None, None],
    }
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

/// The prompt of the reference as the composed tree's tokenizer writes it, with its clip.
fn prompt(tree: &Path, config: &Config) -> Sequence {
    let expected = json(&fixture("compose/expected.json"));
    let said = &expected["clip"];
    let samples = clip(
        said[0].as_u64().unwrap(),
        said[1].as_u64().unwrap() as usize,
    );
    let mel = LogMelExtractor::new(config.mel_form()).extract(&samples);
    let text = expected["instruction"].as_str().unwrap();
    let messages = [Message::new(Role::User, format!("<audio>{text}"))];
    let codec = TextCodec::load(tree).unwrap();
    let encoded = codec
        .encode(&messages, &[num_audio_tokens(mel.frames)], Mode::Generate)
        .unwrap();
    let ids: Vec<f64> = encoded.tokens.iter().map(|&id| f64::from(id)).collect();
    assert_eq!(ids, numbers(&expected["input_ids"]));
    Sequence {
        tokens: encoded.tokens,
        targets: Vec::new(),
        audio: encoded.audio,
        features: vec![Arc::new(mel)],
        key: Key::new(1, "test"),
        target_weight: 0.0,
    }
}

#[test]
fn a_composed_tree_is_the_one_transformers_loads() {
    let expected =
        candle_core::safetensors::load(fixture("compose/expected.safetensors"), &Device::Cpu)
            .unwrap();
    for (name, decoder) in [("folder", "qwen2"), ("gguf", "qwen2.gguf")] {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("composed");
        compose(&request(decoder, &tree)).unwrap();
        let config = Config::load(&tree).unwrap();
        assert!(config.text.tie_word_embeddings);
        assert_eq!(
            (config.audio.num_mel_bins, config.text.rms_norm_eps),
            (80, 1e-6)
        );
        let sequence = prompt(&tree, &config);
        let batch = Batch::pack(&[&sequence], config.audio.framing()).unwrap();
        let weights = config.weights(&tree).unwrap();
        let model = AudioLlm::new(config, &weights, Plan::default(), false, &Device::Cpu).unwrap();
        let logits = model.logits(&batch).unwrap();
        let last = logits.narrow(0, sequence.tokens.len() - 4, 4).unwrap();
        let error = distance(&last, &expected[&format!("logits.{name}")]);
        assert!(error < 1e-3, "{name}: {error}");

        let card = std::fs::read_to_string(tree.join("README.md")).unwrap();
        assert!(card.contains("| licence | mit | apache-2.0 |"), "{card}");
    }
}

#[test]
fn the_projector_speaks_as_loud_as_the_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("composed");
    compose(&request("qwen2", &tree)).unwrap();
    let tensors =
        candle_core::safetensors::load(tree.join("model.safetensors"), &Device::Cpu).unwrap();
    let config = Config::load(&tree).unwrap();
    let sequence = prompt(&tree, &config);
    let batch = Batch::pack(&[&sequence], config.audio.framing()).unwrap();
    let weights = config.weights(&tree).unwrap();
    let model = AudioLlm::new(config, &weights, Plan::default(), false, &Device::Cpu).unwrap();
    let rms = |tensor: &Tensor| {
        let values = flat(&tensor.to_dtype(candle_core::DType::F32).unwrap());
        (values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64).sqrt()
    };
    let heard = rms(&model.embed_audio(&batch).unwrap().unwrap());
    let embedding = rms(&tensors["language_model.model.embed_tokens.weight"]);
    // Of a random matrix the outputs of one clip scatter about the mean by a fifth at 24 inputs.
    assert!(
        (heard / embedding - 1.0).abs() < 0.3,
        "{heard} beside {embedding}"
    );
}

#[test]
fn the_tokens_of_audio_are_the_mean_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("composed");
    let composed = compose(&request("qwen2", &tree)).unwrap();
    let of = |dir: &Path, name: &str| {
        let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu);
        tensors.unwrap()[name]
            .to_dtype(candle_core::DType::F32)
            .unwrap()
    };
    let before = of(&fixture("compose/qwen2"), "model.embed_tokens.weight");
    let after = of(&tree, "language_model.model.embed_tokens.weight");
    let first = composed.config.audio_token as usize;
    // One free row was there, two are new.
    assert_eq!(
        (before.dim(0).unwrap(), after.dim(0).unwrap()),
        (first + 1, first + 3)
    );
    let known = before.narrow(0, 0, first).unwrap();
    assert_eq!(flat(&after.narrow(0, 0, first).unwrap()), flat(&known));
    let mean = known.mean(0).unwrap();
    for row in first..first + 3 {
        // Stored in bf16.
        assert!(distance(&after.get(row).unwrap(), &mean) < 4e-3);
    }
}

#[test]
fn the_same_seed_composes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, seed: u64| {
        let tree = dir.path().join(name);
        compose(&Request {
            seed,
            ..request("qwen2", &tree)
        })
        .unwrap();
        std::fs::read(tree.join("model.safetensors")).unwrap()
    };
    let first = bytes("a", 3);
    assert_eq!(first, bytes("b", 3));
    assert_ne!(first, bytes("c", 4));
}

#[test]
fn other_kinds_of_parts_fail_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("composed");
    let refused = |change: &dyn Fn(&mut Request), what: &str| {
        let mut request = request("qwen2", &out);
        change(&mut request);
        let error = compose(&request).err().unwrap();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(!out.exists());
    };
    let parts = fixture("compose");
    refused(&|r| r.encoder = parts.join("qwen2"), "expected whisper");
    refused(&|r| r.decoder = parts.join("whisper"), "expected qwen2");
    refused(
        &|r| r.decoder = parts.join("expected.json"),
        "not a GGUF file",
    );
    // A file that ends early is refused by whichever tensor is cut off.
    let cut = dir.path().join("cut.gguf");
    let whole = std::fs::read(parts.join("qwen2.gguf")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 5000]).unwrap();
    refused(&|r| r.decoder = cut.clone(), "cannot be read");
    std::fs::create_dir(&out).unwrap();
    assert!(
        compose(&request("qwen2", &out))
            .err()
            .unwrap()
            .to_string()
            .contains("exists already")
    );
}
