//! The section `gradients` of a recipe: how the gradients of a step's tasks become its own.

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::schedule::Schedule;
use crate::schedule::Stage;

/// `gradients:` of a recipe, or its method alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "method")]
pub struct GradientSettings {
    /// How the gradients of tasks become the step's.
    pub method: Method,
    /// Learning rate of FAMO's weights; 0.025.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Decay of FAMO's weights, added to their gradient; 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
}

/// Ways to make one gradient of those of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Sum of the tasks' gradients, each without what points against another.
    Pcgrad,
    /// Weighted sum, by weights that equalise the rates at which losses fall.
    Famo,
}

impl Method {
    /// Name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcgrad => "pcgrad",
            Self::Famo => "famo",
        }
    }
}

impl GradientSettings {
    /// Copies of the gradient in the host's memory, in steps of at most `num_tasks` tasks.
    pub fn num_copies(&self, num_tasks: usize) -> usize {
        match self.method {
            Method::Pcgrad => num_tasks + 2,
            Method::Famo => num_tasks + 1,
        }
    }

    /// Refuses values outside their range, keys of the other method, a schedule whose steps never
    /// have two tasks, and FAMO beside roll-backs.
    ///
    /// # Errors
    /// Such settings, by their key.
    pub fn check(&self, schedule: &Schedule) -> Result<()> {
        let method = self.method.name();
        let of_famo = [
            ("learning_rate", self.learning_rate, 0.0),
            ("decay", self.decay, -1.0),
        ];
        for (key, value, above) in of_famo {
            let Some(value) = value else { continue };
            if self.method != Method::Famo {
                return Err(Error::input(format!(
                    "`gradients.{key}` beside `method: {method}`, on which it has no effect"
                ))
                .hint(format!("remove `{key}`")));
            }
            if !(value.is_finite() && value > above && value >= 0.0) {
                return Err(
                    Error::input(format!("`gradients.{key}` is {value}")).hint(format!(
                        "give a number {}",
                        if above < 0.0 {
                            "of at least 0"
                        } else {
                            "above 0"
                        }
                    )),
                );
            }
        }
        if schedule.batch() < 2 {
            return Err(Error::input(format!(
                "`gradients: {method}` compares tasks of a step, and `schedule.batch` is {}",
                schedule.batch()
            ))
            .hint("write a batch of at least one row per task, or remove `gradients`"));
        }
        let mut stages = schedule.stages().iter();
        if let Some(stage) = stages.find(|stage| stage.msft.is_some())
            && self.method == Method::Famo
        {
            return Err(Error::input(format!(
                "`gradients: famo` beside `end: msft` of stage `{}`, whose roll-backs do not restore FAMO's weights",
                stage.name
            ))
            .hint("write `gradients: pcgrad`, which has no weights, or remove `gradients` or `end`"));
        }
        let is_mixed = |stage: &Stage| stage.tasks.len() + stage.replayed.len() > 1;
        if !schedule.stages().iter().any(is_mixed) {
            return Err(Error::input(format!(
                "`gradients: {method}` compares tasks of a step, and every stage has one task"
            ))
            .hint("list several tasks in a stage, or remove `gradients`"));
        }
        Ok(())
    }
}
