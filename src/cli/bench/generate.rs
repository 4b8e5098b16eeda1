//! `maqam bench generate`: how fast prompts are read and answers are written.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::cli::bench::work::Example;
use crate::cli::device::DeviceArguments;
use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::models::AudioLlm;
use crate::models::config::Config;
use crate::models::generate::Limits;
use crate::models::generate::Sampling;
use crate::models::shapes;
use crate::nn::lora::Plan;
use crate::nn::weights::Weights;
use crate::seed::Key;

#[derive(Args)]
pub struct GenerateArguments {
    /// Shape of the model, with random weights: tiny, 0.5b, 3b, 7b, qwen3-asr-0.6b, qwen3-asr-1.7b.
    #[arg(long, default_value = "tiny")]
    shape: String,
    /// A checkpoint folder instead, with its weights.
    #[arg(long, conflicts_with_all = ["shape", "layers"])]
    model: Option<PathBuf>,
    /// Cut the decoder to so many layers.
    #[arg(long)]
    layers: Option<usize>,
    /// Prompts that are answered at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    batch: Vec<usize>,
    /// Length of each prompt's clip, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 48)]
    new_tokens: usize,
    /// Runs of each; the fastest counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Tokens of a prompt beside its audio.
const PROMPT: usize = 32;

pub fn run(arguments: &GenerateArguments) -> Result<()> {
    let GenerateArguments {
        new_tokens, runs, ..
    } = *arguments;
    if arguments.batch.contains(&0) || runs == 0 || arguments.seconds == 0 {
        return Err(Error::input("--batch, --runs and --seconds count from 1"));
    }
    if new_tokens < 2 {
        return Err(Error::input("--new-tokens counts from 2"));
    }
    let device = arguments.device.open()?;
    let (config, weights) = match &arguments.model {
        Some(dir) => {
            let config = Config::load(dir)?;
            let weights = config.weights(dir)?;
            (config, weights)
        }
        None => {
            let config = shapes::by_name(&arguments.shape, arguments.layers)?;
            (config, Weights::Random { seed: 1 })
        }
    };
    let model = AudioLlm::new(config, &weights, Plan::default(), false, &device)?;
    for &batch in &arguments.batch {
        let prompts = prompts(&model.config, arguments.seconds, batch);
        let tokens: usize = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        // The first token of every answer belongs to the prompt's pass.
        let prefill = fastest(&model, &prompts, 1, runs)?;
        let whole = fastest(&model, &prompts, new_tokens, runs)?;
        let read = tokens as f64 / prefill;
        let written = (batch * (new_tokens - 1)) as f64 / (whole - prefill).max(1e-9);
        if arguments.json {
            print::line(json!({
                "batch": batch,
                "prompt_tokens": tokens,
                "new_tokens": new_tokens,
                "prefill_s": prefill,
                "generate_s": whole,
                "prefill_tokens_per_s": read,
                "decode_tokens_per_s": written,
            }))?;
        } else {
            print::line(format_args!(
                "batch {batch}: {read:.0} tokens/s of {tokens} prompt tokens, {written:.1} tokens/s of {new_tokens} new tokens each, {whole:.2} s in all"
            ))?;
        }
    }
    Ok(())
}

fn prompts(config: &Config, seconds: usize, count: usize) -> Vec<Sequence> {
    let example = Example {
        seconds,
        prompt: PROMPT,
        target: 0,
    };
    let (vocab, mels) = (config.text.vocab_size, config.audio.num_mel_bins);
    let framing = config.audio.framing();
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
    let window = model.config.audio.framing();
    let batch = Batch::pack(&prompts.iter().collect::<Vec<_>>(), window)?;
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
