//! Times of a benchmark, as lines or as one JSON object.

use std::time::Instant;

use candle_core::Device;
use serde_json::Value;
use serde_json::json;

use crate::bench::settings::Settings;
use crate::error::Result;
use crate::models::Phase;
use crate::models::cost::Load;
use crate::models::memory::Fit;
use crate::nn::precision::Computes;
use crate::ops::device::synchronise;
use crate::ops::profile::Timed;

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

/// Times and memory of a benchmark.
pub struct Measured<'a> {
    /// What was measured.
    pub settings: &'a Settings,
    /// How it fits the GPU's memory; `None` on the CPU.
    pub fit: Option<Fit>,
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
    /// The most bytes that tensors held on a GPU.
    pub gpu_bytes: Option<u64>,
    /// The most bytes that tensors on a GPU and the gaps between them took.
    pub reserved_bytes: Option<u64>,
    /// The least bytes that the GPU's driver had left after a step.
    pub least_free_bytes: Option<u64>,
    /// Seconds of the host from the first thing asked of a GPU in a step to the last.
    pub host_seconds: Vec<f64>,
    /// Times of kernels and products in one step.
    pub profile: Vec<Timed>,
}

impl Measured<'_> {
    /// Returns it as lines.
    pub fn text(&self) -> String {
        let step = median(&self.seconds);
        let threads = rayon::current_num_threads();
        let fastest = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let slowest = self.seconds.iter().copied().fold(0.0, f64::max);
        let mut lines = vec![
            format!(
                "{} examples, {} tokens a step, {}, {threads} threads",
                self.examples, self.load.tokens, self.computes
            ),
            format!(
                "step      {step:.3} s (median of {}; {fastest:.3} to {slowest:.3})",
                self.seconds.len()
            ),
            format!("examples  {:.2}/s", self.examples as f64 / step),
            format!("tokens    {:.0}/s", self.load.tokens / step),
        ];

        if let Some(useful) = self.useful {
            lines.push(format!("useful    {:.3} TFLOP/s", useful / step / 1e12));
        }
        if let Some(memory) = self.peak_gb() {
            lines.push(format!("memory    {memory:.2} GB at the most"));
        }
        if let (Some(reserved), Some(free)) = (self.reserved_bytes, self.least_free_bytes) {
            lines.push(format!(
                "reserved  {:.2} GB at the most, {:.2} GB of the GPU never used",
                gigabytes(reserved),
                gigabytes(free)
            ));
        }
        if !self.host_seconds.is_empty() {
            let host = median(&self.host_seconds);
            lines.push(format!(
                "host      {host:.4} s of a step until all of it is asked"
            ));
        }
        for (name, seconds) in self.by_phase() {
            lines.push(format!("  {name:<17} {seconds:.4} s"));
        }
        lines.extend(self.profile_lines());
        lines.join("\n") + "\n"
    }

    /// The kernels and products that take a thousandth of the time or more.
    fn profile_lines(&self) -> Vec<String> {
        if self.profile.is_empty() {
            return Vec::new();
        }
        let total: f64 = self.profile.iter().map(|timed| timed.seconds).sum();
        let mut lines = vec![
            format!("kernels and products, {:.1} ms in all", 1e3 * total),
            "  count       ms      %     GB/s  TFLOP/s  name, sizes".to_owned(),
        ];
        let is_shown = |timed: &&Timed| timed.seconds >= 1e-3 * total;
        lines.extend(
            self.profile
                .iter()
                .filter(is_shown)
                .map(|timed| profile_line(timed, total)),
        );
        lines
    }

    /// Returns it as one object.
    pub fn json(&self) -> Value {
        let settings = self.settings;
        let step = median(&self.seconds);
        let phases: serde_json::Map<String, Value> = self
            .by_phase()
            .map(|(name, seconds)| (name.replace(' ', "_"), seconds.into()))
            .collect();
        let planned = |fit: &Fit| (fit.need.fixed() + fit.batch) / 1e9;
        json!({
            "shape": settings.model.as_ref().map_or(settings.shape.clone(), |dir| dir.display().to_string()),
            "full": settings.full, "layers": settings.layers, "work": format!("{:?}", settings.work).to_lowercase(),
            "save": format!("{:?}", settings.save).to_lowercase(), "rank": settings.rank,
            "device": self.computes.device, "precision": self.computes.precision,
            "examples": self.examples, "tokens": self.load.tokens as u64, "target_tokens": self.load.targets as u64, "micro_batches": self.micro_batches,
            "only": settings.only.map(|only| format!("{only:?}").to_lowercase()), "threads": rayon::current_num_threads(),
            "seconds_per_step": step, "seconds": self.seconds, "examples_per_s": self.examples as f64 / step, "tokens_per_s": self.load.tokens / step,
            "useful_tflops": self.useful.map(|useful| useful / step / 1e12), "peak_memory_gb": self.peak_gb(),
            "planned_memory_gb": self.fit.as_ref().map(planned),
            "phases_s": phases, "losses": self.losses,
            // All 64 bits, so that two runs can be compared without a rounding.
            "losses_bits": self.losses.iter().map(|loss| format!("{:016x}", loss.to_bits())).collect::<Vec<_>>(),
            "reserved_memory_gb": self.reserved_bytes.map(gigabytes), "least_free_memory_gb": self.least_free_bytes.map(gigabytes),
            "host_seconds": (!self.host_seconds.is_empty()).then(|| median(&self.host_seconds)),
            "profile": self.profile.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Medians over the steps that were looked at; phases that take no time are left out.
    fn by_phase(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let mut medians = Vec::new();
        if !self.phases.is_empty() {
            for (place, name) in NAMES.into_iter().enumerate() {
                let seconds = self.phases.iter().map(|phases| phases.seconds[place]);
                medians.push((name, median(&seconds.collect::<Vec<_>>())));
            }
        }
        medians.into_iter().filter(|(_, seconds)| *seconds > 0.0)
    }

    /// Of the GPU, or else of the process, in 10^9 bytes.
    fn peak_gb(&self) -> Option<f64> {
        self.gpu_bytes
            .map_or_else(process_peak_gb, |bytes| Some(bytes as f64 / 1e9))
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Bytes moved in a second, in 10^9, where they are known.
fn gb_per_s(timed: &Timed) -> Option<f64> {
    let bytes = timed.bytes.filter(|_| timed.seconds > 0.0)?;
    Some(bytes / timed.seconds / 1e9)
}

/// Floating-point operations in a second, in 10^12, of what has any.
fn tflop_per_s(timed: &Timed) -> Option<f64> {
    let has_any = timed.operations > 0.0 && timed.seconds > 0.0;
    has_any.then(|| timed.operations / timed.seconds / 1e12)
}

/// A line of the profile to read; `total` is the time of all of it.
fn profile_line(timed: &Timed, total: f64) -> String {
    let rate = |value: Option<f64>, digits| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "  {:>5} {:>8.3} {:>6.1} {:>8} {:>8}  {}, {}",
        timed.count,
        1e3 * timed.seconds,
        1e2 * timed.seconds / total,
        rate(gb_per_s(timed), 0),
        rate(tflop_per_s(timed), 1),
        timed.name,
        timed.shape
    )
}

/// A line of the profile as an object.
fn row(timed: &Timed) -> Value {
    json!({
        "name": timed.name, "shape": timed.shape, "count": timed.count, "ms": 1e3 * timed.seconds,
        "gb_per_s": gb_per_s(timed), "tflop_per_s": tflop_per_s(timed),
    })
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
    fn rates_of_a_profile_are_divided_by_its_time() {
        let timed = Timed {
            name: "swiglu".into(),
            shape: "5440".into(),
            count: 28,
            seconds: 0.002,
            bytes: Some(6e9),
            operations: 0.0,
        };
        assert_eq!(
            row(&timed),
            json!({
                "name": "swiglu", "shape": "5440", "count": 28, "ms": 2.0,
                "gb_per_s": 3000.0, "tflop_per_s": null,
            })
        );
        let product = Timed {
            operations: 1e12,
            ..timed
        };
        assert_eq!(row(&product)["tflop_per_s"], 500.0);
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(
            (median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])),
            (2.0, 2.5)
        );
    }
}
