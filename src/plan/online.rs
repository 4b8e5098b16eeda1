//! Notes on stages whose weights of tasks follow a reward: what a plan does not know of them, and
//! the cost of look-aheads.

use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::schedule::online::Rule;
use crate::text_table::count;

/// Notes on stages whose picks depend on training through weights.
pub fn notes(schedule: &Schedule) -> Vec<String> {
    let mut found = Vec::new();
    for (index, stage) in schedule.stages().iter().enumerate() {
        let name = &stage.name;
        match stage.online {
            Some(rule) => {
                found.push(format!(
                    "stage `{name}`: weights of tasks follow training; rows, shares and cost here are those of the weights before it, {}",
                    weights(schedule, index)
                ));
                found.push(updates(schedule, stage, rule));
            }
            None if schedule.follows_reward(index) => found.push(format!(
                "stage `{name}`: its rows depend on how many an earlier stage draws of each task, which follows training"
            )),
            None => {}
        }
    }
    found
}

/// `asr 0.5, emotion 0.5`.
fn weights(schedule: &Schedule, stage: usize) -> String {
    let tasks = &schedule.stages()[stage].tasks;
    let weights = schedule.shares(stage).map(|shares| &shares.weights);
    let weights = weights.into_iter().flatten();
    let said = tasks
        .iter()
        .zip(weights)
        .map(|(task, weight)| format!("{task} {weight:.3}"));
    said.collect::<Vec<_>>().join(", ")
}

fn updates(schedule: &Schedule, stage: &Stage, rule: Rule) -> String {
    let name = &stage.name;
    let num = count(rule.num_updates(stage.steps) as f64);
    match rule {
        Rule::Odm(odm) => format!(
            "stage `{name}`: ODM updates the weights {num} times, after every step from step {} of the stage on, at no cost but that steps are not read ahead",
            odm.warmup + 1
        ),
        Rule::Dynamix(dynamix) => {
            let steps = rule.lookahead_steps(stage.steps, stage.tasks.len(), schedule.batch());
            format!(
                "stage `{name}`: DynamiX updates the weights {num} times, after every {} steps. Each update costs one optimiser step on {} rows and two evaluations of {} rows per task: in all about {} steps, {:.0} % of the stage, and copies of the trained parameters and both moments. {} rows of each task are set aside and not trained on",
                count(dynamix.every as f64),
                dynamix.lookahead,
                dynamix.held_out,
                count(steps.ceil()),
                100.0 * steps / stage.steps as f64,
                dynamix.held_out
            )
        }
    }
}
