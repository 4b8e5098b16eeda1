//! Which examples the model sees at which step: a curriculum of stages, a mixture of tasks in each, and an order in every
//! pool of rows.
//!
//! Position is a number. What a step draws follows from the settings, the rows and the seed, whatever was asked before: a
//! slot's pool comes from Webster's method (slots are counted, never replayed), a pool's row from a seeded order
//! at the number of draws the pool has had in all stages so far.
//!
//! - `settings`: the recipe's section as written.
//! - `population`: the rows there are.
//! - `plan`: stages as they will run.
//! - `slots`: which pool a slot goes to.
//! - `draw`: which row of the pool fills it.

mod draw;
mod plan;
mod population;
mod settings;
mod slots;

pub use draw::Pick;
pub use population::Entry;
pub use population::Population;
pub use settings::Draw;
pub use settings::Mix;
pub use settings::Settings;
pub use settings::StageSettings;
pub use settings::TaskList;

use crate::error::Error;
use crate::error::Result;
use crate::parts::StageParts;
use crate::schedule::draw::Pool;
use crate::schedule::draw::Pools;
use crate::schedule::plan::Planner;
use crate::schedule::slots::Slots;

/// One part of the curriculum, as it will run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name, unique in the schedule.
    pub name: String,
    /// Its first step, counted from 0 over the run.
    pub start: u64,
    /// Its length in optimiser steps, at least one.
    pub steps: u64,
    /// Its own tasks, in the population's order.
    pub tasks: Vec<String>,
    /// Tasks of earlier stages that get the `replay` share, in the population's order.
    pub replayed: Vec<String>,
    /// Which example fills a slot.
    pub draw: Draw,
    /// Peak learning rate, where the stage has one of its own.
    pub learning_rate: Option<f64>,
    /// How it trains the parts, where it says otherwise than the recipe.
    pub train: StageParts,
}

/// The whole curriculum over a population: from a step to the rows it draws.
pub struct Schedule {
    batch: usize,
    stages: Vec<Stage>,
    /// By stage: how its slots go to pools.
    slots: Vec<Slots>,
    /// By stage and pool: how often the pool was drawn from before the stage.
    drawn_before: Vec<Vec<u64>>,
    pools: Vec<Pool>,
}

impl Schedule {
    /// Plans `settings` over `population`. Start-up reads each row's task a few times; no order is made yet.
    ///
    /// # Errors
    /// Settings that contradict each other or the data, naming the stage and the key.
    pub fn new(settings: &Settings, population: &Population, seed: u64) -> Result<Self> {
        if settings.batch == 0 {
            return Err(Error::input("schedule: `batch` is 0").hint("give the number of examples in an optimiser step"));
        }
        if settings.stages.is_empty() {
            return Err(Error::input("schedule: `stages` is empty").hint("a plain run is one stage: `stages: [{epochs: 1}]`"));
        }
        let cells = population.cells()?;
        let planner = Planner { batch: settings.batch, population, cells: &cells };
        let mut pools = Pools::new(&cells, seed);
        let (mut stages, mut slots, mut seen): (Vec<Stage>, _, _) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (index, written) in settings.stages.iter().enumerate() {
            let name = written.name_at(index);
            let place = format!("schedule: stage `{name}`");
            if stages.iter().any(|stage| stage.name == name) {
                return Err(Error::input("`name` is that of an earlier stage")
                    .at(place)
                    .hint("give each stage a name of its own: logs tell stages apart by name"));
            }
            let planned = planner.plan(written, &seen, &mut pools).map_err(|error| error.at(place))?;
            let names = |tasks: &[usize]| tasks.iter().map(|&task| population.tasks[task].clone()).collect();
            let (tasks, replayed) = (names(&planned.tasks), names(&planned.replayed));
            let StageSettings { draw, learning_rate, train, .. } = *written;
            stages.push(Stage { name, start, steps: planned.steps, tasks, replayed, draw, learning_rate, train });
            slots.push(planned.slots);
            seen.extend(planned.tasks);
            start += planned.steps;
        }

        let pools = pools.pools;
        let mut drawn = vec![0; pools.len()];
        let mut drawn_before = Vec::with_capacity(stages.len());
        for (stage, slots) in stages.iter().zip(&slots) {
            drawn_before.push(drawn.clone());
            slots.at(stage.steps * settings.batch as u64).add_counts(&mut drawn);
        }
        Ok(Self { batch: settings.batch, stages, slots, drawn_before, pools })
    }

    /// Examples per optimiser step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Optimiser steps over all stages.
    pub fn num_steps(&self) -> u64 {
        self.stages.last().map_or(0, |stage| stage.start + stage.steps)
    }

    /// The stages in order; at least one.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The stage that a step (from 0 over the run) belongs to, and the step's number in that stage, from 0. Steps past the
    /// end belong to the last stage.
    pub fn stage_of(&self, step: u64) -> (usize, u64) {
        let stage = self.stages.partition_point(|stage| stage.start <= step) - 1;
        (stage, step - self.stages[stage].start)
    }

    /// The rows that a step draws, in slot order, exactly [`Schedule::batch`] of them. The same answer whenever it is asked;
    /// past the end the last stage goes on.
    pub fn picks(&self, step: u64) -> Vec<Pick> {
        let (stage, step) = self.stage_of(step);
        let mut cursor = self.slots[stage].at(step.saturating_mul(self.batch as u64));
        let mut draw = || {
            let (pool, in_stage) = cursor.next();
            self.pools[pool].pick(self.drawn_before[stage][pool] + in_stage)
        };
        (0..self.batch).map(|_| draw()).collect()
    }
}

#[cfg(test)]
mod tests;
