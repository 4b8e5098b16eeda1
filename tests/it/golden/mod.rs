//! Goldens of transformers and PEFT as maqam's batches; scripts in `tests/reference`.
#![allow(
    dead_code,
    missing_docs,
    reason = "each test program uses its own part of these helpers"
)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use candle_core::Tensor;
use maqam::audio::LogMel;
use maqam::batch::Sequence;
use maqam::models::AudioLlm;
use maqam::models::config::Config;
use maqam::nn::lora::Plan;
use maqam::nn::peft;
use maqam::seed::Key;
use serde_json::Value;

/// Below the repository that a variable names, as cargo's does, else below that of the build: tests
/// run on other machines too.
pub fn fixture(name: &str) -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join("tests/fixtures").join(name)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Results of Hugging Face's libraries with a checkpoint.
pub struct Golden {
    pub dir: PathBuf,
    pub expected: Value,
    pub tensors: std::collections::HashMap<String, Tensor>,
}

impl Golden {
    pub fn load(name: &str) -> Self {
        let dir = fixture(name);
        let tensors =
            candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
        Self {
            expected: json(&dir.join("expected.json")),
            tensors,
            dir,
        }
    }

    pub fn examples(&self) -> &[Value] {
        self.expected["examples"].as_array().unwrap()
    }

    pub fn model(&self, plan: Plan, trained: bool) -> AudioLlm {
        self.model_on(&Device::Cpu, plan, trained)
    }

    pub fn model_on(&self, device: &Device, plan: Plan, trained: bool) -> AudioLlm {
        let config = Config::load(&self.dir).unwrap();
        let weights = config.weights(&self.dir).unwrap();
        AudioLlm::new(config, &weights, plan, trained, device).unwrap()
    }

    /// The model with one of the golden's adapters.
    pub fn adapted(&self, adapter: &str) -> AudioLlm {
        self.adapted_on(&Device::Cpu, adapter)
    }

    pub fn adapted_on(&self, device: &Device, adapter: &str) -> AudioLlm {
        let model = Config::load(&self.dir).unwrap().adaptable();
        let adapter = peft::Adapter::load(&self.dir.join(adapter), &model).unwrap();
        let model = self.model_on(device, adapter.plan.clone(), true);
        model.load_adapter(&adapter).unwrap();
        model
    }

    /// The golden's example as the reference saw it.
    pub fn sequence(&self, index: usize) -> Sequence {
        let example = &self.examples()[index];
        let tokens: Vec<u32> = numbers(&example["input_ids"])
            .into_iter()
            .map(|id| id as u32)
            .collect();
        let audio_token = Config::load(&self.dir).unwrap().audio_token;
        let start = tokens.iter().position(|&t| t == audio_token).unwrap();
        let len = example["audio_tokens"].as_u64().unwrap() as usize;
        let audio = start..start + len;
        let targets = tokens.len() - example["target_len"].as_u64().unwrap() as usize..tokens.len();
        let mel = mel_of(example["audio"].as_str().unwrap())
            .t()
            .unwrap()
            .contiguous()
            .unwrap();
        let features = LogMel {
            mels: mel.dim(1).unwrap(),
            frames: mel.dim(0).unwrap(),
            tail: 0,
            values: mel.flatten_all().unwrap().to_vec1().unwrap(),
        };
        Sequence {
            targets: vec![targets],
            audio: vec![audio],
            features: vec![Arc::new(features)],
            key: Key::new(1, "golden").with(index as u64),
            target_weight: 1.0,
            tokens,
        }
    }

    pub fn sequences(&self) -> Vec<Sequence> {
        (0..self.examples().len())
            .map(|i| self.sequence(i))
            .collect()
    }

    /// The prompt of an example, without its answer.
    pub fn prompt(&self, index: usize) -> Sequence {
        let mut sequence = self.sequence(index);
        sequence.tokens.truncate(sequence.targets[0].start);
        sequence.targets.clear();
        sequence
    }
}

/// The official processor's log-mel frames of a clip, `[128, frames]`.
pub fn mel_of(clip: &str) -> Tensor {
    for name in ["qwen_omni", "qwen_omni_tied"] {
        let golden = Golden::load(name);
        if let Some(i) = golden
            .examples()
            .iter()
            .position(|example| example["audio"] == clip)
        {
            return golden.tensors[&format!("mel.{i}")].clone();
        }
    }
    panic!("no golden has heard {clip}")
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference.
pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    flat(a)
        .iter()
        .zip(flat(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

pub fn assert_close(found: f64, expected: f64, relative: f64, what: &str) {
    assert!(
        (found - expected).abs() <= relative * expected.abs().max(1e-12),
        "{what}: {found}, expected {expected}"
    );
}
