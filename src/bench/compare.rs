//! One training pass of a model of real width and few layers, on the device and on the CPU in
//! `f32`.

use std::time::Instant;

use candle_core::Device;
use half::bf16;
use serde_json::Value;
use serde_json::json;

use crate::batch::Batch;
use crate::bench::work::Work;
use crate::bench::work::sequences;
use crate::error::Error;
use crate::error::Result;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::models::config::Config;
use crate::models::shapes;
use crate::nn::lora;
use crate::nn::lora::Init;
use crate::nn::lora::Plan;
use crate::nn::lora::Targets;
use crate::nn::weights::Weights;
use crate::ops::device::synchronise;
use crate::ops::device::to_host;
use crate::parts::Parts;
use crate::seed::Key;

/// Relative error of the loss, and least cosine of a gradient: what sums of products of 8
/// significant bits may differ by.
const LOSS_BAR: f64 = 1e-3;
const COSINE_BAR: f64 = 0.995;
/// Most that the length of a gradient may differ, relative to the CPU's.
const LENGTH_BAR: f64 = 0.05;

/// A model and a batch.
pub struct Settings {
    /// Name of the model's shape.
    pub shape: String,
    /// Layers of the decoder; the audio encoder keeps its own.
    pub layers: usize,
    /// Clips of 10 s in the batch.
    pub clips: usize,
    /// Rank of the adapters; alpha is twice that.
    pub rank: usize,
}

/// Loss and gradients of one pass.
struct Passed {
    loss: f64,
    /// By the names of the adapters' matrices.
    gradients: Vec<(String, Vec<f32>)>,
    seconds: f64,
}

/// A model, and the batch of its one pass.
pub struct Comparison<'a> {
    settings: &'a Settings,
    config: Config,
    batch: Batch,
}

impl<'a> Comparison<'a> {
    /// Makes the batch.
    ///
    /// # Errors
    /// Counts of 0, an unknown shape.
    pub fn new(settings: &'a Settings) -> Result<Self> {
        if settings.layers == 0 || settings.clips == 0 {
            return Err(Error::input("--layers and --clips count from 1"));
        }
        let config = shapes::by_name(&settings.shape, Some(settings.layers))?;
        let sequences = sequences(Work::Asr, Some(settings.clips), &config);
        let batch = Batch::pack(&sequences.iter().collect::<Vec<_>>(), config.framing())?;
        Ok(Self {
            settings,
            config,
            batch,
        })
    }

    /// Computes the pass on a device and on the CPU. `passes` of the object says whether both
    /// agree.
    ///
    /// # Errors
    /// The device's.
    pub fn run(&self, device: &Device) -> Result<Value> {
        let rank = self.settings.rank;
        let found = pass(&self.config, rank, &self.batch, device)?;
        let expected = pass(&self.config, rank, &self.batch, &Device::Cpu)?;
        Ok(compared(
            &found,
            &expected,
            self.settings,
            self.batch.tokens.len(),
        ))
    }
}

/// Ends a comparison.
///
/// # Errors
/// A loss or a gradient beyond its bar.
pub fn verdict(line: &Value) -> Result<()> {
    match line["passes"] == Value::Bool(true) {
        true => Ok(()),
        false => Err(Error::bug(
            "the loss or a gradient differs from the CPU's by more than rounding",
        )),
    }
}

/// One pass of a model of random numbers, which are the same on every device.
fn pass(config: &Config, rank: usize, batch: &Batch, device: &Device) -> Result<Passed> {
    let settings = lora::Settings {
        rank,
        alpha: 2.0 * rank as f64,
        targets: Targets::Named("all-linear".into()),
        ..lora::Settings::default()
    };
    let plan = Plan::from_settings(&settings, &Parts::default(), &config.adaptable())?;
    let weights = Weights::Noise { seed: 1 };
    let model = AudioLlm::new(config.clone(), &weights, plan, true, device)?;
    initialise(&model)?;
    synchronise(device)?;

    let started = Instant::now();
    let loss = model.train(batch, None, Pass::default())?.loss.value()?;
    let seconds = started.elapsed().as_secs_f64();
    let gradients = to_host(&model.parameters.gradients)?;
    let gradients = model
        .parameters
        .entries
        .iter()
        .map(|entry| (entry.name.clone(), gradients[entry.range.clone()].to_vec()))
        .collect();
    Ok(Passed {
        loss,
        gradients,
        seconds,
    })
}

/// Adapters away from zero, where the gradient of A would vanish, in numbers that bf16 holds.
fn initialise(model: &AudioLlm) -> Result<()> {
    model.initialise(Init::Default, 3)?;
    for entry in &model.parameters.entries {
        let values = to_host(&model.parameters.value(entry)?)?;
        let key = Key::new(4, &entry.name);
        let is_up = entry.name.ends_with("lora_B.weight");
        let rounded: Vec<f32> = values
            .into_iter()
            .enumerate()
            .map(|(i, value)| {
                let value = if is_up {
                    0.1 * (key.uniform(i as u64) as f32 - 0.5)
                } else {
                    value
                };
                bf16::from_f32(value).to_f32()
            })
            .collect();
        model.parameters.set(entry, &rounded)?;
    }
    Ok(())
}

/// The line of a comparison.
fn compared(found: &Passed, expected: &Passed, settings: &Settings, tokens: usize) -> Value {
    let loss_error = (found.loss / expected.loss - 1.0).abs();
    let gradients: Vec<(&str, f64, f64)> = found
        .gradients
        .iter()
        .zip(&expected.gradients)
        .map(|((name, a), (_, b))| (name.as_str(), cosine(a, b), norm(a) / norm(b)))
        .collect();
    // NaN passes no bar.
    let passes = loss_error < LOSS_BAR
        && gradients
            .iter()
            .all(|(_, cosine, length)| *cosine > COSINE_BAR && (length - 1.0).abs() < LENGTH_BAR);
    let rank = |cosine: f64| if cosine.is_nan() { -2.0 } else { cosine };
    let worst = gradients
        .iter()
        .min_by(|a, b| rank(a.1).total_cmp(&rank(b.1)));
    json!({
        "shape": settings.shape, "layers": settings.layers, "clips": settings.clips, "tokens": tokens,
        "loss": found.loss, "loss_cpu": expected.loss, "loss_error": loss_error, "loss_bar": LOSS_BAR,
        "least_cosine": worst.map(|worst| worst.1), "worst": worst.map(|worst| worst.0), "cosine_bar": COSINE_BAR,
        "passes": passes, "seconds": found.seconds, "seconds_cpu": expected.seconds,
        "gradients": gradients.iter().map(|(name, cosine, length)| json!({"name": name, "cosine": cosine, "length": length})).collect::<Vec<_>>(),
    })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (norm(a) * norm(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_of_nan_or_in_another_direction_does_not_pass() {
        let settings = Settings {
            shape: "tiny".into(),
            layers: 1,
            clips: 1,
            rank: 4,
        };
        let of = |gradient: &[f32]| Passed {
            loss: 2.0,
            gradients: vec![
                ("a".into(), vec![1.0, 2.0]),
                ("b".into(), gradient.to_vec()),
            ],
            seconds: 0.0,
        };
        let passes = |gradient: &[f32]| {
            let line = compared(&of(gradient), &of(&[3.0, 1.0]), &settings, 340);
            (line["passes"] == Value::Bool(true), line["worst"].clone())
        };
        assert!(passes(&[3.0, 1.0]).0);
        assert_eq!(passes(&[1.0, 3.0]), (false, "b".into()));
        assert_eq!(passes(&[f32::NAN, 1.0]), (false, "b".into()));
        assert!(!passes(&[6.0, 2.0]).0, "twice the length");
    }
}
