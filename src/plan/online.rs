//! Notes on stages whose weights of tasks follow a reward: what a plan does not know of them, the
//! cost of look-aheads, and settings under which the rule does little.

use crate::schedule::Population;
use crate::schedule::Schedule;
use crate::schedule::Stage;
use crate::schedule::online::Rule;
use crate::text_table::count;
use crate::text_table::counted;

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
                "stage `{name}`: DynamiX updates the weights {num} times, after every {}. Each update costs one optimiser step on {} rows and two evaluations of {} rows per task: in all about {} steps, {:.0} % of the stage, and copies of the trained parameters and both moments. {} rows of each task are set aside and not trained on",
                every(dynamix.every),
                dynamix.lookahead,
                dynamix.held_out,
                count(steps.ceil()),
                100.0 * steps / stage.steps as f64,
                dynamix.held_out
            )
        }
    }
}

/// `step`, `20 steps`.
fn every(steps: u64) -> String {
    match steps {
        1 => "step".to_owned(),
        _ => counted(steps, "step"),
    }
}

/// Warnings of stages whose weights never change, whose look-aheads cost more than the stage, or
/// whose look-aheads repeat rows.
pub fn warnings(population: &Population, schedule: &Schedule) -> Vec<String> {
    let mut found = Vec::new();
    for stage in schedule.stages() {
        let Some(rule) = stage.online else {
            continue;
        };
        let name = &stage.name;
        if rule.num_updates(stage.steps) == 0 {
            let key = match rule {
                Rule::Odm(_) => "warmup",
                Rule::Dynamix(_) => "every",
            };
            found.push(format!(
                "stage `{name}` has {} and no update of its weights, which stay those before training; give it more steps, or lower `mix.{key}`",
                counted(stage.steps, "step")
            ));
        }
        let Rule::Dynamix(dynamix) = rule else {
            continue;
        };
        let cost = rule.lookahead_steps(stage.steps, stage.tasks.len(), schedule.batch());
        if cost > stage.steps as f64 {
            found.push(format!(
                "stage `{name}`: the look-aheads cost about {:.1} times what the stage costs without them; raise `mix.every`, or lower `mix.lookahead`",
                cost / stage.steps as f64
            ));
        }
        for task in &stage.tasks {
            let rows = num_rows(population, task).saturating_sub(dynamix.held_out);
            if rows < dynamix.lookahead {
                found.push(format!(
                    "stage `{name}`: a look-ahead takes {} rows of `{task}`, of which {} are left to train on, so rows repeat; lower `mix.lookahead`",
                    count(dynamix.lookahead as f64),
                    count(rows as f64)
                ));
            }
        }
    }
    found
}

fn num_rows(population: &Population, task: &str) -> usize {
    let place = population.tasks.iter().position(|name| name == task);
    let of_task = |row: &&u16| Some(usize::from(**row)) == place;
    population.row_task.iter().filter(of_task).count()
}
