//! What a benchmark found, as lines or as one JSON object.

use std::time::Instant;

use candle_core::Device;
use serde_json::Value;
use serde_json::json;

use crate::cli::bench::TrainArguments;
use crate::cli::print;
use crate::error::Result;
use crate::model::Phase;
use crate::model::cost::Load;
use crate::model::memory::Fit;
use crate::model::precision::Computes;
use crate::ops::device::synchronise;

/// Names of the phases of a step, in their order.
const NAMES: [&str; 6] = [
    "encoder",
    "decoder forward",
    "head",
    "decoder backward",
    "encoder backward",
    "optimiser",
];

/// Seconds of one step by phase.
pub struct Phases {
    seconds: [f64; NAMES.len()],
    last: Instant,
}

impl Phases {
    /// Begins to look at a step.
    pub fn begin(device: &Device) -> Result<Self> {
        synchronise(device)?;
        Ok(Self {
            seconds: [0.0; NAMES.len()],
            last: Instant::now(),
        })
    }

    /// A phase of a micro-batch is over.
    pub fn done(&mut self, phase: Phase, device: &Device) -> Result<()> {
        let place = match phase {
            Phase::Encoder => 0,
            Phase::Forward => 1,
            Phase::Head => 2,
            Phase::Backward => 3,
            Phase::EncoderBackward => 4,
        };
        self.add(place, device)
    }

    /// The update is over.
    pub fn optimiser(&mut self, device: &Device) -> Result<()> {
        self.add(NAMES.len() - 1, device)
    }

    fn add(&mut self, place: usize, device: &Device) -> Result<()> {
        synchronise(device)?;
        self.seconds[place] += self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        Ok(())
    }
}

/// What a benchmark found.
pub struct Measured {
    /// What computed.
    pub computes: Computes,
    /// Seconds of each step that counts.
    pub seconds: Vec<f64>,
    /// Their losses.
    pub losses: Vec<f64>,
    /// Steps that were looked at phase by phase.
    pub phases: Vec<Phases>,
    /// Examples of a step.
    pub examples: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Tokens of a step.
    pub load: Load,
    /// Operations of a step that adapters cannot do without.
    pub useful: Option<f64>,
    /// The most bytes that tensors held on a card.
    pub card_bytes: Option<u64>,
}

impl Measured {
    /// Prints it.
    ///
    /// # Errors
    /// As [`print::result`].
    pub fn print(&self, arguments: &TrainArguments, fit: Option<&Fit>) -> Result<()> {
        if arguments.json {
            print::line(format_args!("{}", self.json(arguments, fit)))?;
            return Ok(());
        }
        let (step, threads) = (median(&self.seconds), rayon::current_num_threads());
        print::line(format_args!(
            "{} examples, {} tokens a step, {}, {threads} threads",
            self.examples, self.load.tokens, self.computes
        ))?;
        let fastest = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let slowest = self.seconds.iter().copied().fold(0.0, f64::max);
        print::line(format_args!(
            "step      {step:.3} s (median of {}; {fastest:.3} to {slowest:.3})",
            self.seconds.len()
        ))?;
        print::line(format_args!(
            "examples  {:.2}/s",
            self.examples as f64 / step
        ))?;
        print::line(format_args!("tokens    {:.0}/s", self.load.tokens / step))?;
        if let Some(useful) = self.useful {
            print::line(format_args!(
                "useful    {:.3} TFLOP/s",
                useful / step / 1e12
            ))?;
        }
        if let Some(memory) = self.peak_gb() {
            print::line(format_args!("memory    {memory:.2} GB at the most"))?;
        }
        for (name, seconds) in self.by_phase() {
            print::line(format_args!("  {name:<17} {seconds:.4} s"))?;
        }
        Ok(())
    }

    fn json(&self, arguments: &TrainArguments, fit: Option<&Fit>) -> Value {
        let step = median(&self.seconds);
        let phases: serde_json::Map<String, Value> = self
            .by_phase()
            .map(|(name, seconds)| (name.replace(' ', "_"), seconds.into()))
            .collect();
        json!({
            "shape": arguments.model.as_ref().map_or(arguments.shape.clone(), |dir| dir.display().to_string()),
            "full": arguments.full, "layers": arguments.layers, "work": format!("{:?}", arguments.work).to_lowercase(),
            "save": format!("{:?}", arguments.save).to_lowercase(), "rank": arguments.rank,
            "device": self.computes.device, "precision": self.computes.precision,
            "examples": self.examples, "tokens": self.load.tokens as u64, "target_tokens": self.load.targets as u64, "micro_batches": self.micro_batches,
            "only": arguments.only.map(|only| format!("{only:?}").to_lowercase()), "threads": rayon::current_num_threads(),
            "seconds_per_step": step, "seconds": self.seconds, "examples_per_s": self.examples as f64 / step, "tokens_per_s": self.load.tokens / step,
            "useful_tflops": self.useful.map(|useful| useful / step / 1e12), "peak_memory_gb": self.peak_gb(),
            "planned_memory_gb": fit.map(|fit| (fit.need.fixed() + fit.batch) / 1e9),
            "phases_s": phases, "losses": self.losses,
        })
    }

    /// Medians over the steps that were looked at; phases that take no time are left out.
    fn by_phase(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let of = |place: usize| {
            median(
                &self
                    .phases
                    .iter()
                    .map(|phases| phases.seconds[place])
                    .collect::<Vec<_>>(),
            )
        };
        let found: Vec<f64> = if self.phases.is_empty() {
            Vec::new()
        } else {
            (0..NAMES.len()).map(of).collect()
        };
        NAMES
            .into_iter()
            .zip(found)
            .filter(|(_, seconds)| *seconds > 0.0)
    }

    /// Of the card, or else of the process, in 10^9 bytes.
    fn peak_gb(&self) -> Option<f64> {
        self.card_bytes
            .map_or_else(process_peak_gb, |bytes| Some(bytes as f64 / 1e9))
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// The process' largest resident memory so far, in 10^9 bytes, where the system says it.
fn process_peak_gb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(
            (median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])),
            (2.0, 2.5)
        );
    }
}
