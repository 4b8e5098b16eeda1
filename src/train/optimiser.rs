//! The optimiser: learning rate as a function of the step, clipping, AdamW over the flat buffer.

use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::model::parameters::Parameters;
use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Segment;
use crate::ops::adamw::norm;

/// `optimiser:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The highest learning rate; a stage may have its own.
    pub learning_rate: f64,
    /// How it changes over the planned steps.
    pub schedule: Shape,
    /// Share of the planned steps over which it rises.
    pub warmup: f64,
    /// Decoupled decay; 1-D tensors never decay.
    pub weight_decay: f64,
    /// Decays of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Gradients longer than this are shortened to it; 0 for never.
    pub max_grad_norm: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { learning_rate: 1e-4, schedule: Shape::Cosine, warmup: 0.03, weight_decay: 0.01, betas: [0.9, 0.999], eps: 1e-8, max_grad_norm: 1.0 }
    }
}

/// How the learning rate changes after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Not at all.
    Constant,
    /// In a straight line to zero at the end.
    Linear,
    /// Along half a cosine to zero at the end (Loshchilov and Hutter 2017).
    Cosine,
}

impl Settings {
    /// Checks the settings; the message names the key.
    pub fn check(&self) -> Result<()> {
        let checks = [
            ("learning_rate", self.learning_rate, self.learning_rate > 0.0 && self.learning_rate.is_finite(), "a number above 0"),
            ("warmup", self.warmup, (0.0..=1.0).contains(&self.warmup), "a share of the steps in [0, 1]"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "0 or more"),
            ("betas", self.betas[0], (0.0..1.0).contains(&self.betas[0]), "shares in [0, 1)"),
            ("betas", self.betas[1], (0.0..1.0).contains(&self.betas[1]), "shares in [0, 1)"),
            ("eps", self.eps, self.eps > 0.0 && self.eps.is_finite(), "a number above 0"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(), "0 (never clip) or more"),
        ];
        match checks.into_iter().find(|(_, _, is_right, _)| !is_right) {
            Some((key, value, _, expected)) => Err(Error::input(format!("`optimiser.{key}` is {value}, expected {expected}"))),
            None => Ok(()),
        }
    }

    /// Factor of the learning rate in step `step` (from 0) of `num_steps` planned ones.
    ///
    /// With W = ceil(warmup * num_steps): (step + 1) / W while step < W, then the shape over the remaining steps.
    pub fn factor(&self, step: u64, num_steps: u64) -> f64 {
        let warmup = (self.warmup * num_steps as f64).ceil();
        let step = step as f64;
        if step < warmup {
            return (step + 1.0) / warmup;
        }
        let progress = ((step - warmup) / (num_steps as f64 - warmup).max(1.0)).min(1.0);
        match self.schedule {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

/// AdamW with its moments.
pub struct Optimiser {
    settings: Settings,
    /// Running mean of the gradient, `[parameters]`.
    pub first: Tensor,
    /// Running mean of its square, `[parameters]`.
    pub second: Tensor,
    /// Updates made so far.
    pub updates: u64,
}

impl Optimiser {
    /// An optimiser that has not moved yet.
    pub fn new(settings: Settings, parameters: &Parameters) -> Result<Self> {
        Ok(Self { settings, first: parameters.values.zeros_like()?, second: parameters.values.zeros_like()?, updates: 0 })
    }

    /// Length of the gradient before clipping.
    pub fn grad_norm(&self, parameters: &Parameters) -> Result<f64> {
        Ok(norm(&parameters.gradients)?)
    }

    /// One update with a gradient of length `grad_norm`, clipped.
    pub fn step(&mut self, parameters: &Parameters, grad_norm: f64, learning_rate: f64) -> Result<()> {
        let Settings { betas: [beta1, beta2], eps, weight_decay, max_grad_norm, .. } = self.settings;
        // PyTorch's clip_grad_norm_: the norm has 1e-6 added before the division.
        let scale = if max_grad_norm > 0.0 { (max_grad_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        let segments: Vec<Segment> =
            parameters.entries.iter().map(|entry| Segment { range: entry.range.clone(), learning_rate, decay: entry.shape.len() > 1 }).collect();
        self.updates += 1;
        let buffers = Buffers { values: &parameters.values, gradients: &parameters.gradients, first: &self.first, second: &self.second };
        AdamW { beta1, beta2, eps, weight_decay }.update(buffers, &segments, self.updates, scale)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_zero() {
        let settings = |schedule| Settings { schedule, warmup: 0.1, ..Settings::default() };
        let at = |schedule, step| settings(schedule).factor(step, 100);
        for schedule in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            assert!((at(schedule, 0) - 0.1).abs() < 1e-12 && at(schedule, 9) == 1.0 && at(schedule, 10) == 1.0);
        }
        assert_eq!(at(Shape::Constant, 99), 1.0);
        assert!((at(Shape::Linear, 55) - 0.5).abs() < 1e-12);
        assert!((at(Shape::Cosine, 55) - 0.5).abs() < 1e-12 && (at(Shape::Cosine, 100)).abs() < 1e-12);
        assert_eq!(Settings { warmup: 0.0, ..Settings::default() }.factor(0, 1), 1.0);
    }

    #[test]
    fn settings_outside_their_range_are_refused_by_key() {
        assert!(Settings { learning_rate: -1.0, ..Settings::default() }.check().unwrap_err().to_string().contains("`optimiser.learning_rate` is -1"));
        assert!(Settings::default().check().is_ok());
    }
}
