//! `maqam bench compare`.

use clap::Args;

use crate::bench::compare;
use crate::bench::compare::Comparison;
use crate::bench::compare::Settings;
use crate::cli::arguments::device::DeviceArguments;
use crate::cli::print;
use crate::error::Result;

#[derive(Args)]
pub struct Arguments {
    /// Shape of the model: tiny, 0.5b, 3b, 7b, qwen3-asr-0.6b, qwen3-asr-1.7b.
    #[arg(long, default_value = "7b")]
    shape: String,
    /// Layers of the decoder; the audio encoder keeps its own.
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Clips of 10 s in the batch.
    #[arg(long, default_value_t = 1)]
    clips: usize,
    /// Rank of the adapters; alpha is twice that.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Compare the shape `tiny` instead, in a second on a CPU.
    #[arg(long)]
    tiny: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let settings = Settings {
        shape: match arguments.tiny {
            true => "tiny".to_owned(),
            false => arguments.shape,
        },
        layers: arguments.layers,
        clips: arguments.clips,
        rank: arguments.rank,
    };
    let comparison = Comparison::new(&settings)?;
    let line = comparison.run(&arguments.device.open()?)?;
    print::line(&line)?;
    compare::verdict(&line)
}
