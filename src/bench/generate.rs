//! Generation, timed: how fast prompts are read and answers are written.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use serde_json::Value;
use serde_json::json;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::bench::work::Example;
use crate::error::Error;
use crate::error::Result;
use crate::machine;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::generate::Limits;
use crate::models::generate::Sampling;
use crate::models::shapes;
use crate::nn::lora::Plan;
use crate::nn::weights::Weights;
use crate::seed::Key;

/// A model, and the prompts that it answers.
pub struct Settings {
    /// Name of the model's shape, with random weights.
    pub shape: String,
    /// Checkpoint folder instead, with its weights.
    pub model: Option<PathBuf>,
    /// Number of layers that the decoder is cut to.
    pub layers: Option<usize>,
    /// Seconds of each prompt's clip.
    pub seconds: usize,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Runs of each batch; the fastest counts.
    pub runs: usize,
}

/// Speed of one batch of prompts.
pub struct Speed {
    /// Prompts that were answered at once.
    pub batch: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Seconds until every answer has its first token.
    pub prefill_s: f64,
    /// Seconds until all answers are whole.
    pub generate_s: f64,
}

/// Tokens of a prompt beside its audio.
const PROMPT: usize = 32;

impl Settings {
    /// Refuses counts that measure nothing.
    ///
    /// # Errors
    /// The arguments that are too small.
    pub fn check(&self, batches: &[usize]) -> Result<()> {
        if batches.contains(&0) || self.runs == 0 || self.seconds == 0 {
            return Err(Error::input("--batch, --runs and --seconds count from 1"));
        }
        if self.new_tokens < 2 {
            return Err(Error::input("--new-tokens counts from 2"));
        }
        Ok(())
    }

    /// Opens the model.
    ///
    /// # Errors
    /// An unknown shape; a folder that is no checkpoint.
    pub fn open(&self, device: &Device) -> Result<AudioLlm> {
        let (config, weights) = match &self.model {
            Some(dir) => {
                let config = Config::load(dir)?;
                config.refuse_speech()?;
                let weights = config.weights(dir)?;
                (config, weights)
            }
            None => {
                let config = shapes::by_name(&self.shape, self.layers)?;
                (config, Weights::Random { seed: 1 })
            }
        };
        let mut model = AudioLlm::new(config, &weights, Plan::default(), false, device)?;
        machine::fit::prepare_to_generate(&mut model)?;
        Ok(model)
    }

    /// Times one batch of prompts.
    ///
    /// # Errors
    /// The device's.
    pub fn measure(&self, model: &AudioLlm, batch: usize) -> Result<Speed> {
        let prompts = prompts(&model.config, self.seconds, batch);
        // The first token of every answer belongs to the prompt's pass.
        let prefill_s = fastest(model, &prompts, 1, self.runs)?;
        let generate_s = fastest(model, &prompts, self.new_tokens, self.runs)?;
        Ok(Speed {
            batch,
            prompt_tokens: prompts.iter().map(|prompt| prompt.tokens.len()).sum(),
            new_tokens: self.new_tokens,
            prefill_s,
            generate_s,
        })
    }
}

impl Speed {
    /// Prompt tokens per second.
    fn read_per_s(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill_s
    }

    /// Generated tokens per second.
    fn written_per_s(&self) -> f64 {
        let tokens = self.batch * (self.new_tokens - 1);
        tokens as f64 / (self.generate_s - self.prefill_s).max(1e-9)
    }

    /// Returns it as a line.
    pub fn text(&self) -> String {
        let Self {
            batch,
            prompt_tokens: tokens,
            new_tokens,
            generate_s: whole,
            ..
        } = self;
        let read = self.read_per_s();
        let written = self.written_per_s();
        format!(
            "batch {batch}: {read:.0} tokens/s of {tokens} prompt tokens, {written:.1} tokens/s of {new_tokens} new tokens each, {whole:.2} s in all"
        )
    }

    /// Returns it as one object.
    pub fn json(&self) -> Value {
        json!({
            "batch": self.batch,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "prefill_s": self.prefill_s,
            "generate_s": self.generate_s,
            "prefill_tokens_per_s": self.read_per_s(),
            "decode_tokens_per_s": self.written_per_s(),
        })
    }
}

fn prompts(config: &Config, seconds: usize, count: usize) -> Vec<Sequence> {
    let example = Example {
        seconds,
        prompt: PROMPT,
        target: 0,
    };
    let vocab = config.text.vocab_size;
    let mels = config.audio.num_mel_bins;
    let framing = config.framing();
    let prompts = (0..count).map(|i| example.sequence(i, vocab, mels, framing));
    prompts
        .map(|prompt| Sequence {
            targets: Vec::new(),
            ..prompt
        })
        .collect()
}

/// Seconds of the fastest run after one that does not count.
fn fastest(model: &AudioLlm, prompts: &[Sequence], new_tokens: usize, runs: usize) -> Result<f64> {
    let framing = model.config.framing();
    let batch = Batch::pack(&prompts.iter().collect::<Vec<_>>(), framing)?;
    let keys: Vec<Key> = prompts.iter().map(|prompt| prompt.key).collect();
    let limits = Limits {
        max_new_tokens: new_tokens,
        ends: Vec::new(),
    };
    let mut best = f64::INFINITY;
    for run in 0..=runs {
        let start = Instant::now();
        model.generate(&batch, &keys, &limits, &Sampling::default())?;
        if run > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn copies_in_bf16_change_no_answer() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/maqam-tiny");
        let config = Config::load(&dir).unwrap();
        let weights = config.weights(&dir).unwrap();
        let plan = Plan::default();
        let mut model = AudioLlm::new(config, &weights, plan, false, &Device::Cpu).unwrap();
        let prompts = prompts(&model.config, 2, 3);
        let batch =
            Batch::pack(&prompts.iter().collect::<Vec<_>>(), model.config.framing()).unwrap();
        let keys: Vec<Key> = prompts.iter().map(|prompt| prompt.key).collect();
        let limits = Limits {
            max_new_tokens: 20,
            ends: Vec::new(),
        };
        let without = model.generate(&batch, &keys, &limits, &Sampling::default());
        assert!(model.bytes_of_halves() > 0);
        model.add_halves().unwrap();
        let with = model.generate(&batch, &keys, &limits, &Sampling::default());
        assert_eq!(with.unwrap(), without.unwrap());
    }
}
