//! What a run's log says it saw: steps, examples, hours of audio, target tokens, and each task's
//! part of them.

use crate::error::Result;
use crate::experiment::Planned;
use crate::records::comparison::Budget;
use crate::records::log::Line;
use crate::records::log::StepRecord;

/// Seconds of an hour.
const HOUR_S: f64 = 3600.0;

/// The budget of each recipe, the mean over seeds; of a merge, of all runs that are merged; `seeds`
/// is `[seeds][recipes]`.
pub fn of_recipes(seeds: &[Vec<&Planned>]) -> Result<Vec<Budget>> {
    let share = 1.0 / seeds.len() as f64;
    let mut budgets = vec![Budget::default(); seeds[0].len()];
    for runs in seeds {
        for (budget, run) in budgets.iter_mut().zip(runs) {
            for line in run.logs()? {
                if let Line::Train(step) = line {
                    add(budget, &step, share);
                }
            }
        }
    }
    Ok(budgets)
}

fn add(budget: &mut Budget, step: &StepRecord, share: f64) {
    budget.steps += share;
    budget.examples += share * step.examples as f64;
    budget.audio_hours += share * step.seconds / HOUR_S;
    budget.target_tokens += share * step.target_tokens as f64;
    for (task, record) in &step.tasks {
        let examples = budget.examples_by_task.entry(task.clone()).or_default();
        *examples += share * record.examples as f64;
    }
}
