//! Weights of examples: the loss of a step is the weighted mean over its target tokens, independent
//! of packing.

use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// `loss:` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Unit that weighs the same in a step.
    pub normalise: Normalise,
    /// Share of each target's probability that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Weights of labels in classification tasks.
    pub class_weights: ClassWeights,
    /// Factor of the auxiliary CTC loss; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub ctc: f64,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// `loss:` of a stage, in place of the recipe's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSettings {
    /// Unit that weighs the same in a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Normalise>,
    /// Share of each target's probability that is spread over the vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Weights of labels in classification tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// Factor of the auxiliary CTC loss; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctc: Option<f64>,
}

impl StageSettings {
    /// The stage's settings; `otherwise` holds those of the recipe.
    pub fn or(&self, otherwise: &Settings) -> Settings {
        Settings {
            normalise: self.normalise.unwrap_or(otherwise.normalise),
            label_smoothing: self.label_smoothing.unwrap_or(otherwise.label_smoothing),
            class_weights: self.class_weights.unwrap_or(otherwise.class_weights),
            ctc: self.ctc.unwrap_or(otherwise.ctc),
        }
    }
}

/// Unit that weighs the same in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// Every target token.
    #[default]
    Token,
    /// Every example: its tokens share its weight.
    Example,
    /// Every task in the step weighs the same; its tokens share its weight.
    Task,
}

/// Factors of labels in classification tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All 1.
    #[default]
    None,
    /// All labels of a task weigh the same over its rows.
    Balanced,
}

impl Settings {
    /// Checks the settings; the message names the key.
    pub fn check(&self) -> Result<()> {
        if !(self.ctc.is_finite() && self.ctc >= 0.0) {
            return Err(Error::input(format!(
                "`loss.ctc` is {}, expected a factor of 0 (no CTC loss) or more",
                self.ctc
            )));
        }
        if (0.0..1.0).contains(&self.label_smoothing) {
            return Ok(());
        }
        Err(Error::input(format!(
            "`loss.label_smoothing` is {}, expected a share in [0, 1)",
            self.label_smoothing
        )))
    }
}

/// Inputs of an example's weight.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Number of its task.
    pub task: usize,
    /// Number of target tokens.
    pub num_targets: usize,
    /// Factor of its label.
    pub class_weight: f64,
}

/// The weight of each example's target tokens; weights times tokens sum to one over the step.
pub fn weights(examples: &[Counted], normalise: Normalise) -> Vec<f64> {
    let of_task = |task: usize| {
        examples
            .iter()
            .filter(|other| other.task == task)
            .map(|other| other.num_targets as f64 * other.class_weight)
            .sum::<f64>()
    };
    let raw: Vec<f64> = examples
        .iter()
        .map(|example| {
            let share = match normalise {
                Normalise::Token => 1.0,
                Normalise::Example => 1.0 / example.num_targets as f64,
                Normalise::Task => 1.0 / of_task(example.task),
            };
            share * example.class_weight
        })
        .collect();
    let total: f64 = raw
        .iter()
        .zip(examples)
        .map(|(weight, example)| weight * example.num_targets as f64)
        .sum();
    raw.into_iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: [Counted; 3] = [
        Counted {
            task: 0,
            num_targets: 10,
            class_weight: 1.0,
        },
        Counted {
            task: 0,
            num_targets: 30,
            class_weight: 1.0,
        },
        Counted {
            task: 1,
            num_targets: 2,
            class_weight: 1.0,
        },
    ];

    fn shares(normalise: Normalise) -> Vec<f64> {
        weights(&EXAMPLES, normalise)
            .iter()
            .zip(&EXAMPLES)
            .map(|(weight, example)| weight * example.num_targets as f64)
            .collect()
    }

    fn assert_shares(found: &[f64], expected: &[f64]) {
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{found:?}, expected {expected:?}"
        );
    }

    #[test]
    fn tokens_examples_or_tasks_weigh_the_same() {
        assert_shares(
            &shares(Normalise::Token),
            &[10.0 / 42.0, 30.0 / 42.0, 2.0 / 42.0],
        );
        assert_shares(&shares(Normalise::Example), &[1.0 / 3.0; 3]);
        assert_shares(&shares(Normalise::Task), &[0.125, 0.375, 0.5]);
    }

    #[test]
    fn a_labels_factor_changes_its_share() {
        let mut examples = EXAMPLES;
        examples[2].class_weight = 3.0;
        let found = weights(&examples, Normalise::Example);
        assert_shares(
            &[found[0] * 10.0, found[1] * 30.0, found[2] * 2.0],
            &[0.2, 0.2, 0.6],
        );
    }
}
