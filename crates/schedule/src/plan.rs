//! Resolves the stages as written: lengths in steps, and slots divided among pools. If the rows do
//! not suffice, the error names the key.

use std::collections::BTreeMap;

use crate::balance::BalanceCell;
use crate::balance::Tree;
use crate::draw::Pools;
use crate::online::Online;
use crate::online::OnlinePlan;
use crate::online::normalised;
use crate::population::Cell;
use crate::population::Population;
use crate::settings::Draw;
use crate::settings::Mix;
use crate::settings::StageSettings;
use crate::settings::TaskList;
use crate::slots::Slots;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// More picks than any run makes; up to here every slot's rank is exact.
const MAX_PICKS: u64 = 1 << 50;

/// A stage that can run.
pub(super) struct Planned {
    /// Optimiser steps.
    pub(super) steps: u64,
    /// Indices of the stage's own tasks, rising.
    pub(super) tasks: Vec<usize>,
    /// Places of the tasks it replays, rising.
    pub(super) replayed: Vec<usize>,
    /// Assignment of the stage's slots to pools; before training if weights follow a reward.
    pub(super) slots: Slots,
    /// Rule and pools of weights that follow a reward.
    pub(super) online: Option<OnlinePlan>,
    /// The cells of its balance, in the order of tasks, labels and forms; none for a mixture.
    pub(super) cells: Vec<BalanceCell>,
    /// Most times that a row may be drawn.
    pub(super) max_repeats: Option<u64>,
    /// Draws from a pool for each of its slots: 1, or the candidates of `draw: uds`.
    pub(super) draws_per_slot: u64,
}

impl Planned {
    /// Adds the draws from each pool for the first `slots` slots.
    pub(super) fn add_draws(&self, slots: u64, drawn: &mut [u64]) {
        let mut counts = vec![0; drawn.len()];
        self.slots.at(slots).add_counts(&mut counts);
        for (drawn, count) in drawn.iter_mut().zip(counts) {
            *drawn += count * self.draws_per_slot;
        }
    }
}

/// Inputs of the planning of a stage.
pub(super) struct Planner<'a> {
    /// Examples per step, at least one.
    pub(super) batch: usize,
    /// All rows.
    pub(super) population: &'a Population,
    /// The same rows by task, entry, label and form.
    pub(super) cells: &'a [Cell],
}

/// A task's pools with their weights, which add up to the task's share under the mix.
type TaskPools = Vec<(f64, Vec<usize>)>;

impl Planner<'_> {
    /// Plans one stage whose keys were checked; `seen` holds the places of all tasks that earlier
    /// stages list.
    pub(super) fn plan(
        &self,
        stage: &StageSettings,
        seen: &[usize],
        pools: &mut Pools<'_>,
    ) -> Result<Planned> {
        match stage.draw {
            Draw::Shuffled => self.mixture(stage, seen, pools),
            Draw::Balanced | Draw::Diverse | Draw::Uds => self.balance(stage, pools),
        }
    }

    fn mixture(
        &self,
        stage: &StageSettings,
        seen: &[usize],
        pools: &mut Pools<'_>,
    ) -> Result<Planned> {
        let mix = stage.mix.unwrap_or_default();
        let (tasks, split) = self.listed(stage, mix.before_training())?;
        let (replayed, replay) = self.replayed(stage, &tasks, seen)?;
        let num_rows: u64 = split
            .iter()
            .flat_map(|(_, task)| task)
            .flat_map(|(_, cells)| cells)
            .map(|&cell| pools.num_rows(cell))
            .sum();
        let steps = self.steps(stage, num_rows, 1.0 - replay)?;

        let listed = of_tasks(split, pools);
        let online = match mix {
            Mix::Online(online) => Some(self.online(online, steps, &listed)?),
            _ => None,
        };
        let listed = Slots::split(listed);
        let slots = match self.shares(&replayed, Mix::Proportional, 1.0) {
            again if replay > 0.0 => {
                let again = Slots::split(of_tasks(again, pools));
                Slots::split(vec![(1.0 - replay, listed), (replay, again)])
            }
            _ => listed,
        };
        Ok(Planned {
            steps,
            tasks,
            replayed,
            slots,
            online,
            cells: Vec::new(),
            max_repeats: None,
            draws_per_slot: 1,
        })
    }

    /// The rule of a stage whose weights follow a reward, and the pools of its tasks.
    fn online(&self, online: Online, steps: u64, tasks: &[(f64, Slots)]) -> Result<OnlinePlan> {
        if tasks.len() < 2 {
            return Err(Error::input(
                "`mix: {online: ...}` divides slots among tasks, and the stage has one task",
            )
            .hint("list at least two tasks that have rows, or leave `mix` out"));
        }
        let floor = online.floor.unwrap_or(0.0);
        if floor * tasks.len() as f64 > 1.0 {
            return Err(Error::input(format!(
                "`mix.floor` is {floor}, and the stage has {} tasks",
                tasks.len()
            ))
            .hint("give at most one divided by the number of tasks"));
        }
        Ok(OnlinePlan {
            rule: online.rule(steps, self.batch),
            prior: normalised(tasks.iter().map(|(share, _)| *share).collect()),
            inner: tasks.iter().map(|(_, slots)| slots.clone()).collect(),
        })
    }

    fn balance(&self, stage: &StageSettings, pools: &mut Pools<'_>) -> Result<Planned> {
        let (tasks, _) = self.listed(stage, Mix::Proportional)?;
        let tree = Tree::of(
            &tasks,
            self.cells,
            |cell| self.population.entries[cell.entry].weight > 0.0,
            pools,
        );
        let steps = self.steps(stage, tree.num_rows(), 1.0)?;
        let max_repeats = stage.max_repeats.map(u64::from);
        let slots = match max_repeats {
            Some(most) => {
                let needed = steps * self.batch as u64;
                let capacity = tree.num_rows() * most;
                if capacity < needed {
                    let found = format!(
                        "`max_repeats: {most}` allows {capacity} draws of {} rows; {steps} steps of {} examples are {needed}",
                        tree.num_rows(),
                        self.batch
                    );
                    return Err(Error::input(found)
                        .hint("allow more repeats, make the stage shorter, or add rows"));
                }
                tree.capped(needed, most)
            }
            None => tree.equal(),
        };
        Ok(Planned {
            steps,
            tasks,
            replayed: Vec::new(),
            slots,
            online: None,
            cells: tree.cells(),
            max_repeats,
            draws_per_slot: match stage.draw {
                Draw::Uds => stage.uds.unwrap_or_default().candidates,
                _ => 1,
            },
        })
    }

    /// The stage's own tasks that get slots, with their shares.
    fn listed(
        &self,
        stage: &StageSettings,
        mix: Mix,
    ) -> Result<(Vec<usize>, Vec<(f64, TaskPools)>)> {
        let mut tasks = match &stage.tasks {
            TaskList::All => (0..self.population.tasks.len()).collect(),
            TaskList::Named(names) => names
                .iter()
                .map(|name| self.task(name))
                .collect::<Result<Vec<_>>>()?,
        };
        tasks.sort_unstable();
        if tasks.is_empty() {
            return Err(
                Error::input("`tasks` names none").hint("list tasks, or write `tasks: all`")
            );
        }
        let split = self.shares(&tasks, mix, stage.temperature.unwrap_or(1.0));
        let without: Vec<usize> = (0..tasks.len())
            .filter(|&i| split[i].1.is_empty())
            .collect();
        if let (TaskList::Named(_), Some(&i)) = (&stage.tasks, without.first()) {
            let found = format!(
                "`tasks`: every row of `{}` comes from a data entry with `weight: 0`",
                self.population.tasks[tasks[i]]
            );
            return Err(Error::input(found)
                .hint("give the entry a weight above 0, or leave the task out of the stage"));
        }
        let (tasks, split): (Vec<usize>, Vec<_>) = tasks
            .into_iter()
            .zip(split)
            .filter(|(_, (_, pools))| !pools.is_empty())
            .unzip();
        if tasks.is_empty() {
            return Err(
                Error::input("`tasks: all` finds no row with a weight above 0")
                    .hint("give a data entry rows and a `weight` above 0"),
            );
        }
        Ok((tasks, split))
    }

    /// The place of a task that has rows.
    fn task(&self, name: &str) -> Result<usize> {
        let names = &self.population.tasks;
        let Some(task) = names.iter().position(|known| known == name) else {
            let found = Error::input(format!("`tasks`: the data has no task `{name}`"));
            let nearest = names
                .iter()
                .map(|known| (strsim::osa_distance(known, name), known))
                .min();
            return Err(match nearest {
                Some((distance, nearest)) if distance <= 2.max(name.chars().count() / 3) => {
                    found.hint(format!("did you mean `{nearest}`?"))
                }
                _ => found.hint(format!("it has: {}", names.join(", "))),
            });
        };
        if self.cells.iter().all(|cell| cell.task != task) {
            return Err(
                Error::input(format!("`tasks`: no data entry has a row of `{name}`"))
                    .hint("add a manifest with rows of this task, or leave it out of the stage"),
            );
        }
        Ok(task)
    }

    /// The tasks that the stage replays, with their share of the slots.
    fn replayed(
        &self,
        stage: &StageSettings,
        tasks: &[usize],
        seen: &[usize],
    ) -> Result<(Vec<usize>, f64)> {
        let replay = stage.replay.unwrap_or(0.0);
        if replay == 0.0 {
            return Ok((Vec::new(), 0.0));
        }
        let mut replayed: Vec<usize> = seen
            .iter()
            .copied()
            .filter(|task| !tasks.contains(task))
            .collect();
        replayed.retain(|&task| self.shares(&[task], Mix::Proportional, 1.0)[0].0 > 0.0);
        replayed.sort_unstable();
        replayed.dedup();
        if replayed.is_empty() {
            let found = format!(
                "`replay` is {replay}, but no earlier stage has a task that this one does not list"
            );
            return Err(Error::input(found).hint("leave `replay` out; to go on training an earlier task fully, list it under `tasks`"));
        }
        Ok((replayed, replay))
    }

    /// Each task's share and pools under a mix; a task without available rows has share 0 and no
    /// pools.
    fn shares(&self, tasks: &[usize], mix: Mix, temperature: f64) -> Vec<(f64, TaskPools)> {
        let all: Vec<TaskPools> = tasks
            .iter()
            .map(|&task| self.task_pools(task, tasks, mix))
            .collect();
        let sums: Vec<f64> = all
            .iter()
            .map(|pools| pools.iter().map(|(weight, _)| weight).sum())
            .collect();
        let largest = sums.iter().copied().fold(0.0, f64::max);
        let share = |sum: f64| match mix {
            _ if sum == 0.0 => 0.0,
            Mix::Proportional | Mix::Uniform | Mix::Weights | Mix::Online(_) => sum,
            // Relative to the largest, so that a small T neither overflows nor takes the last slot
            // from a small task.
            Mix::Temperature => (sum / largest)
                .powf(1.0 / temperature)
                .max(f64::MIN_POSITIVE),
        };
        sums.into_iter().map(share).zip(all).collect()
    }

    /// The pools of one task, each with its weight and its cells.
    fn task_pools(&self, task: usize, tasks: &[usize], mix: Mix) -> TaskPools {
        let weight_of = |entry: usize| self.population.entries[entry].weight;
        let entries = self.entries_of(task);
        match mix {
            Mix::Uniform => {
                let cells: Vec<usize> = entries
                    .into_iter()
                    .flat_map(|(_, _, cells)| cells)
                    .collect();
                if cells.is_empty() {
                    Vec::new()
                } else {
                    vec![(1.0, cells)]
                }
            }
            Mix::Proportional | Mix::Temperature | Mix::Online(_) => {
                // Rows of equal weight share a pool. The bits of positive floats sort as their
                // values do.
                let mut by_weight: BTreeMap<u64, (f64, Vec<usize>)> = BTreeMap::new();
                for (entry, rows, cells) in entries
                    .into_iter()
                    .filter(|(entry, ..)| weight_of(*entry) > 0.0)
                {
                    let pool = by_weight.entry(weight_of(entry).to_bits()).or_default();
                    pool.0 += weight_of(entry) * rows as f64;
                    pool.1.extend(cells);
                }
                by_weight.into_values().collect()
            }
            Mix::Weights => {
                // An entry with rows of several tasks of the stage splits its share among them by
                // rows.
                let rows_of = |entry: usize| {
                    self.cells
                        .iter()
                        .filter(|cell| cell.entry == entry && tasks.contains(&cell.task))
                        .map(|cell| cell.rows.len())
                        .sum::<usize>()
                };
                let weight = |entry: usize, rows: usize| {
                    weight_of(entry) * (rows as f64 / rows_of(entry) as f64)
                };
                entries
                    .into_iter()
                    .map(|(entry, rows, cells)| (weight(entry, rows), cells))
                    .filter(|(weight, _)| *weight > 0.0)
                    .collect()
            }
        }
    }

    /// The data entries with rows of a task, each with the number of those rows and the places of
    /// their cells.
    fn entries_of(&self, task: usize) -> Vec<(usize, usize, Vec<usize>)> {
        let mut entries: Vec<(usize, usize, Vec<usize>)> = Vec::new();
        for (place, cell) in self
            .cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.task == task)
        {
            if entries
                .last()
                .is_none_or(|(entry, ..)| *entry != cell.entry)
            {
                entries.push((cell.entry, 0, Vec::new()));
            }
            if let Some((_, rows, cells)) = entries.last_mut() {
                *rows += cell.rows.len();
                cells.push(place);
            }
        }
        entries
    }

    /// The stage's length in steps, when its own tasks get `share` of the slots.
    fn steps(&self, stage: &StageSettings, num_rows: u64, share: f64) -> Result<u64> {
        let steps = match (stage.steps, stage.epochs) {
            (Some(_), Some(_)) => {
                return Err(Error::input("`steps` and `epochs` are both given")
                    .hint("keep the one that is meant"));
            }
            (None, None) => {
                return Err(Error::input("neither `steps` nor `epochs` is given")
                    .hint("say how long the stage is, for example `epochs: 1`"));
            }
            (Some(0), _) => {
                return Err(
                    Error::input("`steps` is 0").hint("give at least 1, or remove the stage")
                );
            }
            (Some(steps), _) => steps,
            (_, Some(epochs)) if epochs.is_finite() && epochs > 0.0 => {
                let exact = epochs * num_rows as f64 / (self.batch as f64 * share);
                // If rounding raises a whole number of steps slightly, the stage must not become a
                // step longer.
                ((exact * (1.0 - 1e-12)).ceil() as u64).max(1)
            }
            (_, Some(epochs)) => {
                return Err(
                    Error::input(format!("`epochs` is {epochs}")).hint("give a number above 0")
                );
            }
        };
        match steps.checked_mul(self.batch as u64) {
            Some(picks) if picks <= MAX_PICKS => Ok(steps),
            _ => Err(Error::input(format!(
                "{steps} steps of {} examples are more than this program can count",
                self.batch
            ))
            .hint("look for a number with too many digits")),
        }
    }
}

/// Share and slots of each task, the slots split among its pools.
fn of_tasks(tasks: Vec<(f64, TaskPools)>, pools: &mut Pools<'_>) -> Vec<(f64, Slots)> {
    let mut found = Vec::with_capacity(tasks.len());
    for (share, of_task) in tasks {
        let pool = |(weight, cells)| (weight, Slots::Pool(pools.of(cells)));
        found.push((share, Slots::split(of_task.into_iter().map(pool).collect())));
    }
    found
}
