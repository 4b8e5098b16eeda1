//! Gradient surgery: PCGrad's projections and FAMO's weights, on plain numbers.
//!
//! - PCGrad: Yu et al. 2020, *Gradient Surgery for Multi-Task Learning*, algorithm 1. The part of a
//!   task's gradient that points against another's is taken away.
//! - FAMO: Liu et al. 2023, *FAMO: Fast Adaptive Multitask Optimization*, algorithm 1, with the
//!   constants of the authors' code. Weights of tasks are learnt so that all losses fall at one
//!   rate.

use std::collections::BTreeMap;

use crate::records::checkpoint_state::FamoTask;
use crate::train::gradient_settings::GradientSettings;

/// Sum of the gradients, each projected: from a task's gradient, in the order of `orders`, the part
/// along every other's original gradient is taken away if their product is negative. Returns the
/// number of projections too.
///
/// `orders[i]` is a permutation of all places; its own place is passed over.
pub(super) fn project(gradients: &[Vec<f32>], orders: &[Vec<u32>]) -> (Vec<f32>, u64) {
    let squares: Vec<f64> = gradients
        .iter()
        .map(|gradient| dot(gradient, gradient))
        .collect();
    let len = gradients.first().map_or(0, Vec::len);
    let mut sum = vec![0.0; len];
    let mut conflicts = 0;
    for (i, order) in orders.iter().enumerate() {
        let mut projected = gradients[i].clone();
        for j in order.iter().map(|&j| j as usize).filter(|&j| j != i) {
            let other = &gradients[j];
            let product = dot(&projected, other);
            if product < 0.0 && squares[j] > 0.0 {
                conflicts += 1;
                add(&mut projected, -product / squares[j], other);
            }
        }
        add(&mut sum, 1.0, &projected);
    }
    (sum, conflicts)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b);
    products.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// Adds a factor times a term.
pub(super) fn add(sum: &mut [f32], factor: f64, term: &[f32]) {
    for (sum, &term) in sum.iter_mut().zip(term) {
        *sum = (f64::from(*sum) + factor * f64::from(term)) as f32;
    }
}

/// FAMO's weights of tasks.
pub(super) struct Famo {
    pub learning_rate: f64,
    pub decay: f64,
}

/// Added to losses before their logarithm.
const LEAST_LOSS: f64 = 1e-8;
/// Adam's constants, as PyTorch has them.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

impl Famo {
    pub fn of(settings: &GradientSettings) -> Self {
        Self {
            learning_rate: settings.learning_rate.unwrap_or(0.025),
            decay: settings.decay.unwrap_or(0.01),
        }
    }

    /// Weights of the tasks of a step: the softmax of their logits.
    pub fn weights(state: &BTreeMap<String, FamoTask>, tasks: &[&str]) -> Vec<f64> {
        let logit = |task: &&str| state.get(*task).map_or(0.0, |task| task.logit);
        let logits: Vec<f64> = tasks.iter().map(logit).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let raised: Vec<f64> = logits.iter().map(|logit| (logit - top).exp()).collect();
        let sum: f64 = raised.iter().sum();
        raised.into_iter().map(|x| x / sum).collect()
    }

    /// Factors of the tasks' gradients, which sum to 1: weight over loss, normalised.
    pub fn factors(weights: &[f64], losses: &[f64]) -> Vec<f64> {
        let over: Vec<f64> = weights
            .iter()
            .zip(losses)
            .map(|(weight, loss)| weight / (loss + LEAST_LOSS))
            .collect();
        let sum: f64 = over.iter().sum();
        over.into_iter().map(|x| x / sum).collect()
    }

    /// One Adam step of the logits of a step's tasks, by their losses on its rows before and after
    /// the update of the parameters. Other tasks keep logits and moments. All do where a loss is
    /// not finite: no later loss could bring a logit back.
    pub fn update(
        &self,
        state: &mut BTreeMap<String, FamoTask>,
        tasks: &[&str],
        before: &[f64],
        after: &[f64],
    ) {
        if before.iter().chain(after).any(|loss| !loss.is_finite()) {
            return;
        }
        let weights = Self::weights(state, tasks);
        let falls: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(before, after)| (before + LEAST_LOSS).ln() - (after + LEAST_LOSS).ln())
            .collect();
        let mean: f64 = weights.iter().zip(&falls).map(|(w, fall)| w * fall).sum();
        for ((task, weight), fall) in tasks.iter().zip(&weights).zip(&falls) {
            let of_task = state.entry((*task).to_owned()).or_default();
            // Row of the softmax's Jacobian times the falls.
            let gradient = weight * (fall - mean) + self.decay * of_task.logit;
            of_task.updates += 1;
            let [b1, b2] = BETAS;
            of_task.first = b1 * of_task.first + (1.0 - b1) * gradient;
            of_task.second = b2 * of_task.second + (1.0 - b2) * gradient * gradient;
            let step = of_task.updates as i32;
            let first = of_task.first / (1.0 - b1.powi(step));
            let second = of_task.second / (1.0 - b2.powi(step));
            of_task.logit -= self.learning_rate * first / (second.sqrt() + EPS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::train::gradient_settings::Method;
    use serde_json::Value;

    fn reference() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/surgery.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let bound = tolerance * expected.abs().max(1.0);
            assert!((found - expected).abs() <= bound, "{found} {expected}");
        }
    }

    #[test]
    fn projections_are_those_of_the_algorithm() {
        let reference = reference();
        let cases = reference["pcgrad"].as_array().unwrap();
        assert_eq!(cases.len(), 10);
        for case in cases {
            let gradients: Vec<Vec<f32>> =
                serde_json::from_value(case["gradients"].clone()).unwrap();
            let orders: Vec<Vec<u32>> = serde_json::from_value(case["orders"].clone()).unwrap();
            let (sum, projections) = project(&gradients, &orders);
            let sum: Vec<f64> = sum.into_iter().map(f64::from).collect();
            // Sums are stored in f32.
            assert_near(&sum, &numbers(&case["sum"]), 1e-6);
            assert_eq!(projections, case["projections"].as_u64().unwrap());
        }
    }

    #[test]
    fn gradients_that_agree_are_added() {
        let gradients = [vec![1.0, 0.0], vec![1.0, 2.0]];
        let orders = [vec![0, 1], vec![1, 0]];
        assert_eq!(project(&gradients, &orders), (vec![2.0, 2.0], 0));
        let zero = [vec![0.0, 0.0], vec![-1.0, 2.0]];
        assert_eq!(project(&zero, &orders), (vec![-1.0, 2.0], 0));
    }

    #[test]
    fn famo_is_that_of_autograd_and_adam() {
        let reference = reference();
        let cases = reference["famo"].as_array().unwrap();
        assert_eq!(cases.len(), 2);
        for case in cases {
            let famo = Famo::of(&GradientSettings {
                method: Method::Famo,
                learning_rate: case["learning_rate"].as_f64(),
                decay: case["decay"].as_f64(),
            });
            let mut state = BTreeMap::new();
            let tasks = ["a", "b", "c"];
            let steps = case["steps"].as_array().unwrap();
            assert_eq!(steps.len(), 10);
            for step in steps {
                let before = numbers(&step["before"]);
                let weights = Famo::weights(&state, &tasks);
                assert_near(&weights, &numbers(&step["weights"]), 1e-12);
                let factors = Famo::factors(&weights, &before);
                let of_tasks: Vec<[f64; 2]> =
                    serde_json::from_value(step["gradients"].clone()).unwrap();
                let sum = [0, 1].map(|at| {
                    let terms = of_tasks.iter().zip(&factors);
                    terms.map(|(of_task, factor)| factor * of_task[at]).sum()
                });
                assert_near(&sum, &numbers(&step["gradient"]), 1e-12);
                famo.update(&mut state, &tasks, &before, &numbers(&step["after"]));
                let logits = tasks.map(|task| state[task].logit);
                assert_near(&logits, &numbers(&step["logits"]), 1e-10);
            }
        }
    }

    #[test]
    fn a_loss_that_is_not_finite_moves_no_logit() {
        let famo = Famo {
            learning_rate: 0.1,
            decay: 0.01,
        };
        let mut state = BTreeMap::new();
        famo.update(&mut state, &["a", "b"], &[2.0, 2.0], &[1.0, 2.0]);
        let before = state.clone();
        for loss in [f64::NAN, f64::INFINITY] {
            famo.update(&mut state, &["a", "b"], &[2.0, 2.0], &[1.0, loss]);
            famo.update(&mut state, &["a", "b"], &[loss, 2.0], &[1.0, 1.0]);
        }
        assert_eq!(state, before);
    }

    #[test]
    fn an_absent_task_keeps_its_logit() {
        let famo = Famo {
            learning_rate: 0.1,
            decay: 0.0,
        };
        let mut state = BTreeMap::new();
        famo.update(&mut state, &["a", "b"], &[2.0, 2.0], &[1.0, 2.0]);
        let before = state["b"];
        famo.update(&mut state, &["a", "c"], &[2.0, 2.0], &[1.0, 2.0]);
        assert_eq!(state["b"], before);
        assert_eq!((state["a"].updates, state["c"].updates), (2, 1));
        assert!(
            state["a"].logit < 0.0,
            "a task that falls fast loses weight"
        );
    }
}
