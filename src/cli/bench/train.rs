//! `maqam bench train`.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::bench::settings::Only;
use crate::bench::settings::Settings;
use crate::bench::train;
use crate::bench::work::Work;
use crate::cli::arguments::device::DeviceArguments;
use crate::cli::arguments::device::PrecisionArguments;
use crate::cli::print;
use crate::error::Result;
use crate::nn::saving::Save;

#[derive(Args)]
pub struct Arguments {
    /// Shape of the model: tiny, 0.5b (Qwen2.5-0.5B's decoder), 3b, 7b (Qwen2.5-Omni's thinkers),
    /// qwen3-asr-0.6b, qwen3-asr-1.7b.
    #[arg(long, default_value = "tiny")]
    shape: String,
    /// A checkpoint folder whose configuration is the shape instead.
    #[arg(long, conflicts_with_all = ["shape", "layers"])]
    model: Option<PathBuf>,
    /// Cut the decoder to so many layers.
    #[arg(long)]
    layers: Option<usize>,
    /// Train every weight of all parts instead of adapters.
    #[arg(long, conflicts_with = "rank")]
    full: bool,
    /// asr: clips of 10 s. short: clips of 3 s, as data/sample has. ssum: clips of 60 s. mix: a
    /// quarter each of ASR, dialect, emotion, summaries.
    #[arg(long, value_enum, default_value_t = WorkName::Asr)]
    work: WorkName,
    /// Clips in a step; by default 16, for ssum 8.
    #[arg(long)]
    clips: Option<usize>,
    /// Steps that count.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Steps before them that do not; by default 1, on a GPU 5.
    #[arg(long)]
    warm_up: Option<usize>,
    /// Rank of the adapters; alpha is twice that.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// What layers keep for their backward.
    #[arg(long, value_enum, default_value_t = SaveName::Norms)]
    save: SaveName,
    #[command(flatten)]
    precision: PrecisionArguments,
    /// Most tokens of a micro-batch.
    #[arg(long, default_value_t = 8192)]
    pack_tokens: usize,
    /// Measure the decoder layers alone, from given states and gradients.
    #[arg(long, value_enum)]
    only: Option<OnlyName>,
    /// Take the time of every kernel and matrix product on a GPU, for one step more.
    #[arg(long)]
    profile: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Kinds of work.
#[derive(Clone, Copy, ValueEnum)]
enum WorkName {
    /// Clips of 10 s and what was said.
    Asr,
    /// Clips of 3 s.
    Short,
    /// Clips of 60 s and a summary.
    Ssum,
    /// A quarter each of ASR, dialect, emotion, summaries.
    Mix,
}

#[derive(Clone, Copy, ValueEnum)]
enum SaveName {
    All,
    Norms,
    Layer,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnlyName {
    Layers,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let is_json = arguments.json;
    let place = arguments.device;
    let precision = arguments.precision;
    let settings = arguments.settings();
    let config = settings.config()?;
    let device = place.open()?;
    if settings.profile && device.is_cpu() {
        print::message("note: --profile takes times on a GPU; on the CPU it finds nothing");
    }
    let computes = precision.on(&device)?;

    let measured = train::measure(&settings, &config, &device, computes, &mut |line| {
        print::message(line);
    })?;
    match is_json {
        true => print::line(measured.json()),
        false => print::result(measured.text()),
    }
}

impl Arguments {
    fn settings(self) -> Settings {
        Settings {
            shape: self.shape,
            model: self.model,
            layers: self.layers,
            full: self.full,
            work: self.work.into(),
            clips: self.clips,
            steps: self.steps,
            warm_up: self.warm_up,
            rank: self.rank,
            save: self.save.into(),
            pack_tokens: self.pack_tokens,
            only: self.only.map(|OnlyName::Layers| Only::Layers),
            profile: self.profile,
        }
    }
}

impl From<WorkName> for Work {
    fn from(name: WorkName) -> Self {
        match name {
            WorkName::Asr => Self::Asr,
            WorkName::Short => Self::Short,
            WorkName::Ssum => Self::Ssum,
            WorkName::Mix => Self::Mix,
        }
    }
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
