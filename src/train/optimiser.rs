//! The optimiser: learning rate as a function of the step, clipping, AdamW over the flat buffer.

use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::nn::parameters::Entry;
use crate::nn::parameters::Parameters;
use crate::nn::parameters::TensorKind;
use crate::ops::adamw::AdamW;
use crate::ops::adamw::Buffers;
use crate::ops::adamw::Clip;
use crate::ops::adamw::Segment;
use crate::ops::adamw::norm;
use crate::ops::scalar::Scalar;
use crate::parts::Part;
use crate::parts::PerPart;

/// `optimiser:` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Peak learning rate. A stage may have its own.
    pub learning_rate: f64,
    /// Shape of the learning rate over the planned steps.
    pub schedule: Shape,
    /// Share of the planned steps over which the learning rate rises.
    pub warmup: f64,
    /// Decoupled weight decay. 1-D tensors never decay.
    pub weight_decay: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Term added to the root of the second moment.
    pub eps: f64,
    /// Factors of the learning rate, part by part.
    pub factors: Factors,
    /// Share of the planned steps over which the learning rate falls, for `schedule: wsd`.
    pub decay: f64,
    /// Largest gradient norm; a longer gradient is scaled down to it. 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Learning rate of LoRA's B over that of A (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
    #[serde(skip_serializing_if = "is_one")]
    pub lora_plus: f64,
    /// Whether the learning rate rises and falls anew in each stage.
    #[serde(skip_serializing_if = "is_off")]
    pub restart: bool,
}

/// Whether a factor has no effect.
fn is_one(factor: &f64) -> bool {
    *factor == 1.0
}

/// Whether a setting is off.
fn is_off(setting: &bool) -> bool {
    !setting
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            schedule: Shape::Cosine,
            warmup: 0.03,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            factors: Factors::default(),
            decay: 0.2,
            max_grad_norm: 1.0,
            lora_plus: 1.0,
            restart: false,
        }
    }
}

/// `factors:` of the optimiser: every learning rate, a stage's own too, is multiplied by its
/// part's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Factors {
    /// Factor for the audio encoder.
    pub audio_encoder: f64,
    /// Factor for the projector.
    pub projector: f64,
    /// Factor for the decoder.
    pub decoder: f64,
}

impl Default for Factors {
    fn default() -> Self {
        Self {
            audio_encoder: 1.0,
            projector: 1.0,
            decoder: 1.0,
        }
    }
}

impl Factors {
    fn of(&self, part: Part) -> f64 {
        PerPart {
            audio_encoder: self.audio_encoder,
            projector: self.projector,
            decoder: self.decoder,
        }
        .of(part)
    }
}

/// Schedule of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Not at all.
    Constant,
    /// In a straight line to zero at the end.
    Linear,
    /// Along half a cosine to zero at the end (Loshchilov and Hutter 2017).
    Cosine,
    /// Warm-up, stable, decay: not at all until the last `decay` of the steps, then to zero as 1 -
    /// sqrt(progress) (Hägele et al. 2024).
    Wsd,
}

impl Settings {
    /// Checks the settings; the message names the key.
    pub fn check(&self) -> Result<()> {
        let checks = [
            (
                "learning_rate",
                self.learning_rate,
                self.learning_rate > 0.0 && self.learning_rate.is_finite(),
                "a number above 0",
            ),
            (
                "warmup",
                self.warmup,
                (0.0..=1.0).contains(&self.warmup),
                "a share of the steps in [0, 1]",
            ),
            (
                "weight_decay",
                self.weight_decay,
                self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
                "0 or more",
            ),
            (
                "betas",
                self.betas[0],
                (0.0..1.0).contains(&self.betas[0]),
                "shares in [0, 1)",
            ),
            (
                "betas",
                self.betas[1],
                (0.0..1.0).contains(&self.betas[1]),
                "shares in [0, 1)",
            ),
            (
                "decay",
                self.decay,
                self.decay > 0.0 && self.decay <= 1.0,
                "a share of the steps in (0, 1]",
            ),
            (
                "eps",
                self.eps,
                self.eps > 0.0 && self.eps.is_finite(),
                "a number above 0",
            ),
            (
                "max_grad_norm",
                self.max_grad_norm,
                self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
                "0 (never clip) or more",
            ),
            (
                "lora_plus",
                self.lora_plus,
                self.lora_plus > 0.0 && self.lora_plus.is_finite(),
                "a number above 0, such as 16",
            ),
        ];
        let factors = Part::ALL.map(|part| (part.name(), self.factors.of(part)));

        if let Some((part, factor)) = factors
            .into_iter()
            .find(|(_, factor)| !(factor.is_finite() && *factor > 0.0))
        {
            return Err(Error::input(format!(
                "`optimiser.factors.{part}` is {factor}, expected a number above 0"
            ))
            .hint("set the part to `frozen` under `train` to leave it as it is"));
        }

        match checks.into_iter().find(|(_, _, is_right, _)| !is_right) {
            Some((key, value, _, expected)) => Err(Error::input(format!(
                "`optimiser.{key}` is {value}, expected {expected}"
            ))),
            None => Ok(()),
        }
    }

    /// Checks the settings of a training without adapters.
    ///
    /// # Errors
    /// As [`Settings::check`]; settings of adapters alone.
    pub fn check_without_adapters(&self) -> Result<()> {
        if self.lora_plus != 1.0 {
            return Err(Error::input(format!(
                "`optimiser.lora_plus` is {}, and nothing is trained through adapters here",
                self.lora_plus
            ))
            .hint("leave it out"));
        }
        self.check()
    }

    /// Checks the settings of a training without adapters and without stages.
    ///
    /// # Errors
    /// As [`Settings::check_without_adapters`]; settings of stages.
    pub fn check_without_stages(&self) -> Result<()> {
        if self.restart {
            return Err(Error::input(
                "`optimiser.restart` is true, and nothing is trained in stages here",
            )
            .hint("leave it out"));
        }
        self.check_without_adapters()
    }

    /// Factor of the learning rate of a tensor beside that of the step.
    fn factor_of(&self, entry: &Entry) -> f64 {
        let of_part = self.factors.of(entry.part);
        if entry.is_up() {
            of_part * self.lora_plus
        } else {
            of_part
        }
    }

    /// Factor of the learning rate in step `step` (from 0) of `num_steps` planned ones.
    ///
    /// With W = ceil(warmup * num_steps): (step + 1) / W while step < W, then the shape over the
    /// remaining steps.
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
            Shape::Wsd => {
                let fall = (self.decay * num_steps as f64).ceil();
                1.0 - ((step - (num_steps as f64 - fall)) / fall)
                    .clamp(0.0, 1.0)
                    .sqrt()
            }
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
}

/// Numbers of an update beside the gradient.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The step's loss: one that is not finite changes nothing.
    pub loss: &'a Scalar,
    /// Length of the gradient, for clipping; one that is not finite changes nothing.
    pub grad_norm: &'a Scalar,
    /// The step's learning rate, before the parts' factors.
    pub learning_rate: f64,
    /// Number of updates that each part has had with this one; 0 for a part that is frozen in it.
    pub counts: PerPart<u64>,
}

impl Optimiser {
    /// An optimiser that has not moved yet.
    pub fn new(settings: Settings, parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            settings,
            first: parameters.values.zeros_like()?,
            second: parameters.values.zeros_like()?,
        })
    }

    /// Length of the gradient before clipping.
    pub fn grad_norm(&self, parameters: &Parameters) -> Result<Scalar> {
        Ok(norm(&parameters.gradients)?)
    }

    /// One update, clipped, of which nothing is waited for on a GPU. Frozen parts keep values and
    /// moments; every part corrects its moments' bias by its own count.
    pub fn step(&mut self, parameters: &Parameters, update: Update) -> Result<()> {
        self.step_with_auxiliary(parameters, update, 0)
    }

    /// As [`Optimiser::step`]; `num_auxiliary` is the number of updates that heads of auxiliary
    /// losses have had with this one, 0 if they are not trained in it.
    pub fn step_with_auxiliary(
        &mut self,
        parameters: &Parameters,
        update: Update,
        num_auxiliary: u64,
    ) -> Result<()> {
        let Settings {
            betas: [beta1, beta2],
            eps,
            weight_decay,
            max_grad_norm,
            ..
        } = self.settings;
        let count = |entry: &Entry| match entry.kind {
            TensorKind::Auxiliary => num_auxiliary,
            _ => update.counts.of(entry.part),
        };
        let segments: Vec<Segment> = parameters
            .entries
            .iter()
            .filter(|entry| count(entry) > 0)
            .map(|entry| Segment {
                range: entry.range.clone(),
                learning_rate: update.learning_rate * self.settings.factor_of(entry),
                decay: entry.decays(),
                step: count(entry),
            })
            .collect();

        let buffers = Buffers {
            values: &parameters.values,
            copy: parameters.copy.as_ref(),
            gradients: &parameters.gradients,
            first: &self.first,
            second: &self.second,
        };

        let clip = Clip {
            loss: update.loss,
            norm: update.grad_norm,
            max_norm: max_grad_norm,
        };

        AdamW {
            beta1,
            beta2,
            eps,
            weight_decay,
        }
        .update(buffers, &segments, clip)?;
        parameters.renew_copies()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_zero() {
        let settings = |schedule| Settings {
            schedule,
            warmup: 0.1,
            ..Settings::default()
        };
        let at = |schedule, step| settings(schedule).factor(step, 100);
        for schedule in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd] {
            assert!(
                (at(schedule, 0) - 0.1).abs() < 1e-12
                    && at(schedule, 9) == 1.0
                    && at(schedule, 10) == 1.0
            );
        }
        assert_eq!(at(Shape::Constant, 99), 1.0);
        assert!((at(Shape::Linear, 55) - 0.5).abs() < 1e-12);
        assert!(
            (at(Shape::Cosine, 55) - 0.5).abs() < 1e-12 && (at(Shape::Cosine, 100)).abs() < 1e-12
        );
        // The last 20 of 100 steps: full at their beginning, half after a quarter of them, a step
        // short of zero at the end.
        assert_eq!((at(Shape::Wsd, 80), at(Shape::Wsd, 85)), (1.0, 0.5));
        assert!(
            at(Shape::Wsd, 99) > 0.0 && at(Shape::Wsd, 99) < 0.03 && at(Shape::Wsd, 100) == 0.0
        );
        assert_eq!(
            Settings {
                warmup: 0.0,
                ..Settings::default()
            }
            .factor(0, 1),
            1.0
        );
    }

    #[test]
    fn settings_outside_their_range_are_refused_by_key() {
        assert!(
            Settings {
                learning_rate: -1.0,
                ..Settings::default()
            }
            .check()
            .unwrap_err()
            .to_string()
            .contains("`optimiser.learning_rate` is -1")
        );
        assert!(Settings::default().check().is_ok());
        let plus = Settings {
            lora_plus: 16.0,
            ..Settings::default()
        };
        assert!(plus.check().is_ok());
        let error = plus.check_without_adapters().unwrap_err().to_string();
        assert!(error.contains("`optimiser.lora_plus` is 16"), "{error}");
        let restarts = Settings {
            restart: true,
            ..Settings::default()
        };
        assert!(restarts.check_without_adapters().is_ok());
        let error = restarts.check_without_stages().unwrap_err().to_string();
        assert!(error.contains("`optimiser.restart` is true"), "{error}");
    }
}
