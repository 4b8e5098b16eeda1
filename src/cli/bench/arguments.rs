//! Arguments of `maqam bench train`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::bench::work::Work;
use crate::cli::device::DeviceArguments;
use crate::cli::device::PrecisionArguments;
use crate::nn::saving::Save;

#[derive(Args)]
pub struct TrainArguments {
    /// Shape of the model: tiny, 0.5b (Qwen2.5-0.5B's decoder), 3b, 7b (Qwen2.5-Omni's thinkers), qwen3-asr-0.6b, qwen3-asr-1.7b.
    #[arg(long, default_value = "tiny")]
    pub shape: String,
    /// A checkpoint folder whose configuration is the shape instead.
    #[arg(long, conflicts_with_all = ["shape", "layers"])]
    pub model: Option<PathBuf>,
    /// Cut the decoder to so many layers.
    #[arg(long)]
    pub layers: Option<usize>,
    /// Train every weight of all parts instead of adapters.
    #[arg(long, conflicts_with = "rank")]
    pub full: bool,
    /// asr: clips of 10 s. short: clips of 3 s, as data/sample has. ssum: clips of 60 s. mix: a quarter each of ASR, dialect, emotion, summaries.
    #[arg(long, value_enum, default_value_t = Work::Asr)]
    pub work: Work,
    /// Clips in a step; by default 16, for ssum 8.
    #[arg(long)]
    pub clips: Option<usize>,
    /// Steps that count.
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
    /// Steps before them that do not; by default 1, on a card 5.
    #[arg(long)]
    pub warm_up: Option<usize>,
    /// Rank of the adapters; alpha is twice that.
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// What layers keep for their backward.
    #[arg(long, value_enum, default_value_t = SaveName::Norms)]
    pub save: SaveName,
    #[command(flatten)]
    pub precision: PrecisionArguments,
    /// Most tokens of a micro-batch.
    #[arg(long, default_value_t = 8192)]
    pub pack_tokens: usize,
    /// Measure the decoder layers alone, from given states and gradients.
    #[arg(long, value_enum)]
    pub only: Option<Only>,
    /// Take the time of every kernel and matrix product on a GPU, for one step more.
    #[arg(long)]
    pub profile: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaveName {
    All,
    Norms,
    Layer,
}

impl From<SaveName> for Save {
    fn from(name: SaveName) -> Self {
        match name {
            SaveName::All => Self::All,
            SaveName::Norms => Self::Norms,
            SaveName::Layer => Self::Layer,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    Layers,
}
