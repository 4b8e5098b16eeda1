//! `maqam bench`: speed and memory on work of a stated shape.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

use crate::audio::LogMel;
use crate::audio::MELS;
use crate::audio::num_audio_tokens;
use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::cli::DeviceArguments;
use crate::error::Error;
use crate::error::Result;
use crate::model::AudioLlm;
use crate::model::Pass;
use crate::model::config::Config;
use crate::model::decoder::Save;
use crate::model::lora;
use crate::model::lora::Init;
use crate::model::lora::Plan;
use crate::model::lora::Targets;
use crate::model::shapes;
use crate::model::weights::Weights;
use crate::parts::Parts;
use crate::parts::PerPart;
use crate::parts::Training;
use crate::seed::Key;
use crate::train::optimiser;
use crate::train::optimiser::Optimiser;
use crate::train::optimiser::Update;

#[derive(Subcommand)]
pub enum Command {
    /// Training steps with random weights and AdamW: LoRA on all linear layers of the decoder, tower frozen; or every weight.
    Train(TrainArguments),
}

#[derive(Args)]
pub struct TrainArguments {
    /// Shape of the model: tiny, 0.5b (Qwen2.5-0.5B's decoder), 3b, 7b (Qwen2.5-Omni's thinkers).
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
    /// asr: clips of 10 s. short: clips of 3 s, as data/sample has. ssum: clips of 60 s. mix: a quarter each of ASR, dialect, emotion, summaries.
    #[arg(long, value_enum, default_value_t = Work::Asr)]
    work: Work,
    /// Clips in a step; by default 16, for ssum 8.
    #[arg(long)]
    clips: Option<usize>,
    /// Steps that count; one before them does not.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Rank of the adapters; alpha is twice that.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// What layers keep for their backward.
    #[arg(long, value_enum, default_value_t = SaveName::Norms)]
    save: SaveName,
    /// Most tokens of a micro-batch.
    #[arg(long, default_value_t = 8192)]
    pack_tokens: usize,
    /// Measure the decoder layers alone, from given states and gradients.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    Asr,
    Short,
    Ssum,
    Mix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SaveName {
    All,
    Norms,
    Layer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Layers,
}

/// Tokens and audio of one example: prompt and target tokens, seconds of audio.
#[derive(Clone, Copy)]
struct Load {
    prompt: usize,
    seconds: usize,
    target: usize,
}

impl Work {
    fn loads(self, clips: Option<usize>) -> Vec<Load> {
        let asr = Load { prompt: 40, seconds: 10, target: 50 };
        let ssum = Load { prompt: 40, seconds: 60, target: 80 };
        match self {
            Self::Asr => vec![asr; clips.unwrap_or(16)],
            Self::Short => vec![Load { prompt: 60, seconds: 3, target: 10 }; clips.unwrap_or(16)],
            Self::Ssum => vec![ssum; clips.unwrap_or(8)],
            Self::Mix => {
                let kinds = [
                    Load { prompt: 40, seconds: 8, target: 45 },
                    Load { prompt: 60, seconds: 10, target: 4 },
                    Load { prompt: 60, seconds: 4, target: 4 },
                    ssum,
                ];
                (0..clips.unwrap_or(16)).map(|i| kinds[i * kinds.len() / clips.unwrap_or(16)]).collect()
            }
        }
    }
}

impl Load {
    /// A sequence of these lengths; which tokens and frames does not matter to the time.
    fn sequence(self, index: usize, vocab: usize) -> Sequence {
        let frames = self.seconds * 100;
        let audio = num_audio_tokens(frames);
        let key = Key::new(0, "bench").with(index as u64);
        let before = self.prompt / 2;
        let len = self.prompt + audio + self.target;
        let tokens = (0..len as u64).map(|i| key.below(i, vocab.min(100_000)) as u32).collect();
        let values = (0..(frames * MELS) as u64).map(|i| key.with(1).uniform(i) as f32).collect();
        let features = std::sync::Arc::new(LogMel { frames, values });
        let (targets, clip) = (len - self.target..len, before..before + audio);
        Sequence { tokens, targets: vec![targets], audio: vec![clip], features: vec![features], key, target_weight: 1.0 }
    }
}

pub fn run(command: Command) -> Result<()> {
    let Command::Train(arguments) = command;
    arguments.device.check()?;
    if arguments.steps == 0 || arguments.clips == Some(0) {
        return Err(Error::input("--steps and --clips count from 1"));
    }
    let config = match &arguments.model {
        Some(dir) => Config::load(dir)?,
        None => shapes::by_name(&arguments.shape, arguments.layers)?,
    };
    let window = config.audio.window_frames();
    let loads = arguments.work.loads(arguments.clips);
    let mut sequences: Vec<Sequence> = loads.iter().enumerate().map(|(i, load)| load.sequence(i, config.text.vocab_size)).collect();
    let num_targets: usize = sequences.iter().map(Sequence::num_targets).sum();
    sequences.iter_mut().for_each(|sequence| sequence.target_weight = 1.0 / num_targets as f64);

    let settings =
        lora::Settings { rank: arguments.rank, alpha: 2.0 * arguments.rank as f64, targets: Targets::Named("all-linear".into()), ..lora::Settings::default() };
    let parts = if arguments.full { Parts { audio_encoder: Training::Full, projector: Training::Full, decoder: Training::Full } } else { Parts::default() };
    let plan = Plan::from_settings(&settings, &parts, &config)?;
    let model = AudioLlm::new(config, &Weights::Random { seed: 1 }, plan, true)?;
    model.initialise(Init::Default, 1)?;
    let mut optimiser = Optimiser::new(optimiser::Settings::default(), &model.parameters)?;

    let save = match arguments.save {
        SaveName::All => Save::All,
        SaveName::Norms => Save::Norms,
        SaveName::Layer => Save::Layer,
    };
    let pass = Pass { save, ..Pass::default() };
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
    let tokens: usize = lengths.iter().sum();
    let batches = micro_batches(&lengths, arguments.pack_tokens)
        .into_iter()
        .map(|range| Batch::pack(&sequences[range].iter().collect::<Vec<_>>(), window))
        .collect::<Result<Vec<_>>>()?;
    let mut times = Vec::with_capacity(arguments.steps);
    for step in 0..=arguments.steps {
        model.parameters.zero_gradients()?;
        let mut seconds = 0.0;
        for batch in &batches {
            // Making states for the layers alone is not their time.
            let state = |purpose| random_states(purpose, batch.tokens.len(), model.config.text.hidden_size);
            let states = arguments.only.map(|Only::Layers| Ok::<_, Error>((state("x")?, state("dy")?))).transpose()?;
            let started = Instant::now();
            match states {
                None => drop(model.train(batch, pass)?),
                Some((x, dy)) => model.train_layers(batch, &x, &dy, pass)?,
            }
            seconds += started.elapsed().as_secs_f64();
        }
        if arguments.only.is_none() {
            let started = Instant::now();
            let norm = optimiser.grad_norm(&model.parameters)?;
            optimiser.step(&model.parameters, Update { grad_norm: norm, learning_rate: 1e-5, counts: PerPart::from_fn(|_| step as u64 + 1) })?;
            seconds += started.elapsed().as_secs_f64();
        }
        if step > 0 {
            times.push(seconds);
        }
    }
    report(&arguments, &times, loads.len(), tokens);
    Ok(())
}

fn random_states(purpose: &str, tokens: usize, dim: usize) -> Result<Tensor> {
    let key = Key::new(0, purpose);
    let values: Vec<f32> = (0..(tokens * dim) as u64).map(|i| key.uniform(i) as f32 - 0.5).collect();
    Ok(Tensor::from_vec(values, (tokens, dim), &Device::Cpu)?.to_dtype(DType::F32)?)
}

fn report(arguments: &TrainArguments, times: &[f64], examples: usize, tokens: usize) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    let memory = peak_memory_gb();
    if arguments.json {
        let line = serde_json::json!({
            "shape": arguments.model.as_ref().map_or(arguments.shape.clone(), |dir| dir.display().to_string()), "full": arguments.full, "layers": arguments.layers, "work": format!("{:?}", arguments.work).to_lowercase(), "examples": examples, "tokens": tokens,
            "only": arguments.only.map(|only| format!("{only:?}").to_lowercase()), "threads": rayon::current_num_threads(),
            "seconds_per_step": median, "seconds": times, "examples_per_s": examples as f64 / median, "tokens_per_s": tokens as f64 / median, "peak_memory_gb": memory,
        });
        println!("{line}");
        return;
    }
    println!("{} examples, {tokens} tokens a step, {} threads", examples, rayon::current_num_threads());
    println!("step      {median:.3} s (median of {}; {:.3} to {:.3})", times.len(), sorted[0], sorted[sorted.len() - 1]);
    println!("examples  {:.2}/s", examples as f64 / median);
    println!("tokens    {:.0}/s", tokens as f64 / median);
    if let Some(memory) = memory {
        println!("memory    {memory:.2} GB at the most");
    }
}

/// The process' largest resident memory so far, in 10^9 bytes, where the system says it.
fn peak_memory_gb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024.0 / 1e9)
}
