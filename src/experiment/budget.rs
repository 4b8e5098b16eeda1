//! What a run's log says it saw: steps, examples, hours of audio, target tokens, and each task's part of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::experiment::Planned;
use crate::files;
use crate::json;

/// What a run saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Optimiser steps.
    pub steps: f64,
    /// Examples.
    pub examples: f64,
    /// Audio, in hours.
    pub audio_hours: f64,
    /// Tokens learned.
    pub target_tokens: f64,
    /// Examples by task.
    pub examples_by_task: BTreeMap<String, f64>,
}

/// Seconds of an hour.
const HOUR_S: f64 = 3600.0;

/// The budget of each recipe, the mean over seeds; `seeds` is `[seeds][recipes]`.
pub fn of_recipes(seeds: &[Vec<&Planned>]) -> Result<Vec<Budget>> {
    let share = 1.0 / seeds.len() as f64;
    let mut budgets = vec![Budget::default(); seeds[0].len()];
    for runs in seeds {
        for (budget, run) in budgets.iter_mut().zip(runs) {
            for line in lines(&run.recipe.folder(), "train")? {
                budget.add(&line, share);
            }
        }
    }
    Ok(budgets)
}

impl Budget {
    fn add(&mut self, line: &Value, share: f64) {
        let number = |value: &Value| share * value.as_f64().unwrap_or(0.0);
        self.steps += share;
        self.examples += number(&line["examples"]);
        self.audio_hours += number(&line["seconds"]) / HOUR_S;
        self.target_tokens += number(&line["target_tokens"]);
        for (task, record) in line["tasks"].as_object().into_iter().flatten() {
            *self.examples_by_task.entry(task.clone()).or_default() += number(&record["examples"]);
        }
    }
}

/// The lines of one kind of a run's log.
pub fn lines(folder: &Path, kind: &str) -> Result<Vec<Value>> {
    let path = folder.join("log.jsonl");
    let text = files::read_text(&path)?;
    let parse = |(i, line)| {
        json::parse::<Value>(line).map_err(|e| e.at(format!("{}:{}", path.display(), i + 1)))
    };
    let all = text
        .lines()
        .enumerate()
        .map(parse)
        .collect::<Result<Vec<_>>>()?;
    Ok(all
        .into_iter()
        .filter(|line| line["kind"] == kind)
        .collect())
}
