//! `maqam bench generate`.

use std::path::PathBuf;

use clap::Args;

use crate::bench::generate::Settings;
use crate::cli::arguments::device::DeviceArguments;
use crate::cli::print;
use crate::error::Result;

#[derive(Args)]
pub struct Arguments {
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

pub fn run(arguments: Arguments) -> Result<()> {
    let settings = Settings {
        shape: arguments.shape,
        model: arguments.model,
        layers: arguments.layers,
        seconds: arguments.seconds,
        new_tokens: arguments.new_tokens,
        runs: arguments.runs,
    };
    settings.check(&arguments.batch)?;
    let model = settings.open(&arguments.device.open()?)?;

    for batch in arguments.batch {
        let speed = settings.measure(&model, batch)?;
        match arguments.json {
            true => print::line(speed.json())?,
            false => print::line(speed.text())?,
        }
    }
    Ok(())
}
