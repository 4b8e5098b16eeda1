//! Schedule of examples: a curriculum of stages, slots of each stage that go to tasks and labels,
//! and an order in every pool of rows.
//!
//! The picks of a step follow from the settings, the rows, the seed, the stages that ended early,
//! in a diverse stage the embeddings, in a stage with `mix: {online: ...}` the weights so far, in
//! one with `end: msft` its roll-backs so far, and in one with `draw: uds` the choice of the
//! trainer. They do not depend on earlier calls. Webster's method gives a slot's pool by counting
//! slots, without replaying them. A seeded order gives the pool's row at the number of draws that
//! the pool has had in all stages so far. A diverse stage replays at most the steps of one block.
//!
//! - `settings`: the recipe's section as written; `check`: its invalid values.
//! - `population`: the available rows.
//! - `plan`: the resolved stages; `balance`: the cells of stages with equal slots.
//! - [`msft`]: tasks that leave a stage, and its roll-backs.
//! - `slots`: the pool of a slot.
//! - [`online`]: weights of tasks that follow a reward; `set_aside`: rows for that reward.
//! - `draw`: the row of the pool for a slot; `order`: the orders of rows.
//! - `difficulty`: rows by their difficulty, in place of that order.
//! - `timeline`: start of stages in the run and in each pool, also after some ended early.
//! - `embeddings`: vectors that diverse stages compare; `blocks`, `select`: the rows of a cell that
//!   share a batch.
//! - [`uds`]: candidates for slots, of which the model's logits choose.
//! - [`kmeans`], [`kdpp`], [`pca`] and `eigen`: the mathematics behind them.
//! - [`spread`]: statistics of batches for plans and reports.

#![deny(clippy::unwrap_used, clippy::expect_used)]

mod balance;
mod blocks;
mod check;
mod difficulty;
mod draw;
mod embeddings;
pub mod loss_weights;
pub mod msft;
pub use maqam_stats::kdpp;
pub use maqam_stats::kmeans;
pub mod online;
mod order;
pub use maqam_stats::pca;
mod plan;
mod population;
mod select;
mod set_aside;
mod settings;
mod slots;
pub mod spread;
mod timeline;
pub mod uds;

pub use difficulty::Difficulty;
pub use difficulty::DifficultyOrder;
pub use difficulty::Measure;
pub use draw::Pick;
pub use embeddings::Embeddings;
pub use embeddings::PROJECT_ABOVE;
pub use embeddings::PROJECTED_DIMS;
pub use embeddings::Projection;
pub use embeddings::Vectors;
pub use population::Entry;
pub use population::NO_LABEL;
pub use population::Population;
pub use settings::Draw;
pub use settings::EarlyStop;
pub use settings::EmbeddingSource;
pub use settings::Mix;
pub use settings::Select;
pub use settings::Settings;
pub use settings::StageSettings;
pub use settings::TaskList;
pub use timeline::Diverse;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::blocks::LastBlock;
use crate::blocks::Origin;
use crate::blocks::Source;
use crate::difficulty::Ranking;
use crate::draw::Pool;
use crate::draw::Pools;
use crate::msft::EVALUATIONS;
use crate::msft::EndRule;
use crate::msft::MsftSettings;
use crate::msft::Segments;
use crate::online::OnlineSlots;
use crate::online::Rule;
use crate::online::Shares;
use crate::order::Orders;
use crate::plan::Planned;
use crate::plan::Planner;
use crate::slots::Slots;
use crate::timeline::Timeline;
use crate::uds::CellCandidates;
use crate::uds::UdsSettings;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::parts::StageParts;
use maqam_base::seed::Key;
use maqam_stats::msft::Exclusion;

/// The name of a shuffled run's one stage.
const SHUFFLED: &str = "shuffled";

/// Default number of steps of a block.
const BLOCK: u64 = 8;

/// Number of orders of a pool that are cached: a batch may cross from one epoch into the next, and
/// so may a reader that is ahead of the loop. A shuffled run needs all epochs at once and caches
/// all of them, at four bytes for each pick.
const CACHED_ORDERS: usize = 2;

/// One part of the curriculum, as it will run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Name of the stage, unique in the schedule.
    pub name: String,
    /// First step, counted from 0 over the run.
    pub start: u64,
    /// Length in optimiser steps: the planned length, or the actual one if the stage ended early.
    pub steps: u64,
    /// First step if no earlier stage had ended early.
    pub planned_start: u64,
    /// Planned length, at least one step.
    pub planned_steps: u64,
    /// Tasks of the stage itself, in the population's order.
    pub tasks: Vec<String>,
    /// Tasks of earlier stages that get the `replay` share, in the population's order.
    pub replayed: Vec<String>,
    /// Choice of examples for slots.
    pub draw: Draw,
    /// Settings of `draw: diverse`.
    pub diverse: Option<Diverse>,
    /// Settings of `draw: uds`.
    pub uds: Option<UdsSettings>,
    /// Order of rows by their difficulty.
    pub difficulty: Option<Difficulty>,
    /// Peak learning rate, if the stage has its own.
    pub learning_rate: Option<f64>,
    /// Settings of mSFT, if the stage ends by it. Its steps count those that are rolled back.
    pub msft: Option<MsftSettings>,
    /// Condition of an early end.
    pub early_stop: Option<EarlyStop>,
    /// Rule of weights that follow a reward.
    pub online: Option<Rule>,
    /// Training of the parts, where it differs from the recipe.
    pub train: StageParts,
    /// Loss settings, where they differ from the recipe.
    pub loss: loss_weights::StageSettings,
}

impl Stage {
    /// The stage's steps, counted from 0 over the run.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.steps
    }
}

/// A cell of a balanced or diverse stage: rows of one task and label, with or without audio, that
/// compete for the same slots.
#[derive(Clone, Debug, PartialEq)]
pub struct CellShare {
    /// The task.
    pub task: String,
    /// The label, if the rows have one.
    pub label: Option<String>,
    /// True if the rows have audio.
    pub has_audio: bool,
    /// Number of rows.
    pub num_rows: u64,
    /// Slots it gets over the planned steps of the stage.
    pub num_slots: u64,
}

impl CellShare {
    /// Name in messages, such as "`sad` of `emotion`".
    pub fn name(&self) -> String {
        let form = if self.has_audio { "" } else { " without audio" };
        match &self.label {
            Some(label) => format!("`{label}` of `{}`{form}", self.task),
            None => format!("`{}`{form}", self.task),
        }
    }

    /// Average number of draws of each row in the stage. It is far above that of other cells for a
    /// rare label.
    pub fn draws_per_row(&self) -> f64 {
        self.num_slots as f64 / self.num_rows as f64
    }
}

/// The curriculum over a population: maps a step to its rows.
///
/// A copy is cheap, because it shares rows and orders. Changes of a copy ([`Schedule::end_stage`],
/// [`Schedule::set_embeddings`]) do not change the original.
#[derive(Clone)]
pub struct Schedule {
    batch: usize,
    seed: u64,
    stages: Vec<Stage>,
    /// The stages by which rows are drawn: those above, or the original stages of a shuffled run.
    planned: Arc<[Planned]>,
    pools: Arc<[Pool]>,
    timeline: Timeline,
    /// The order of all slots, in a shuffled run.
    shuffled: Option<Arc<Orders>>,
    names: Arc<(Vec<String>, Vec<Vec<String>>)>,
    embeddings: Vec<Option<Arc<Embeddings>>>,
    rankings: Vec<Option<Arc<Ranking>>>,
    segments: Vec<Segments>,
    /// Task of each pool, by its place.
    pool_tasks: Arc<[usize]>,
    last_block: LastBlock,
    /// Rows that were chosen for a step of a stage with `draw: uds`.
    chosen: Option<(u64, Vec<Pick>)>,
    /// Slots of stages whose weights follow a reward.
    online: Vec<Option<OnlineSlots>>,
    /// Rows of each task that losses are measured on, in a seeded order.
    set_aside: Arc<BTreeMap<usize, Vec<u32>>>,
}

impl Schedule {
    /// Plans `settings` over `population`. This reads each row a few times. `seed` is that of the
    /// order of the data. The caller reads a recipe's `schedule.seed`.
    ///
    /// # Errors
    /// Settings that contradict each other or the data, naming the stage and the key.
    pub fn new(settings: &Settings, population: &Population, seed: u64) -> Result<Self> {
        check::settings(settings)?;
        let mut cells = population.cells()?;
        let set_aside = set_aside::take(settings, population, &mut cells, seed)?;
        let planner = Planner {
            batch: settings.batch,
            population,
            cells: &cells,
        };
        let mut pools = Pools::new(
            &cells,
            seed,
            if settings.shuffle {
                usize::MAX
            } else {
                CACHED_ORDERS
            },
        );
        let mut stages = Vec::new();
        let mut planned = Vec::new();
        let mut seen = Vec::new();
        let mut start = 0;
        for (index, written) in settings.stages.iter().enumerate() {
            let name = written.name_at(index);
            let found = planner
                .plan(written, &seen, &mut pools)
                .map_err(|error| error.at(format!("schedule: stage `{name}`")))?;
            seen.extend(&found.tasks);
            stages.push(stage(written, name, start, &found, &population.tasks));
            start += found.steps;
            planned.push(found);
        }
        let slots = |(stage, planned): (usize, &Planned)| {
            let key = Key::new(seed, "online slots").with(stage as u64);
            let first = planned.online.as_ref()?.first_shares();
            Some(OnlineSlots::new(first, key, settings.batch))
        };
        let mut schedule = Self {
            batch: settings.batch,
            seed,
            online: planned.iter().enumerate().map(slots).collect(),
            set_aside: Arc::new(set_aside),
            embeddings: vec![None; stages.len()],
            rankings: vec![None; stages.len()],
            segments: vec![Segments::default(); stages.len()],
            pool_tasks: pool_tasks(&pools.pools, population),
            stages,
            planned: planned.into(),
            pools: pools.pools.into(),
            timeline: Timeline::default(),
            shuffled: None,
            names: Arc::new((population.tasks.clone(), population.labels.clone())),
            last_block: LastBlock::default(),
            chosen: None,
        };
        schedule.place_stages()?;
        if settings.shuffle {
            schedule.shuffle();
        }
        Ok(schedule)
    }

    /// Sets the start of each stage to the end of the previous one, in the run and in the pools.
    fn place_stages(&mut self) -> Result<()> {
        let mut start = 0;
        for stage in &mut self.stages {
            stage.start = start;
            start += stage.steps;
        }
        let (diverse, lengths): (Vec<_>, Vec<_>) = self
            .stages
            .iter()
            .map(|stage| (stage.diverse, stage.steps))
            .unzip();
        let mut drawn = Vec::with_capacity(self.stages.len());
        for (slots, &steps) in self.online.iter().zip(&lengths) {
            // The weights of a later stage may be known while an earlier one is placed.
            let counts = |slots: &OnlineSlots| slots.counts(steps.max(slots.shares.from));
            drawn.push(slots.as_ref().map(counts).transpose()?);
        }
        self.timeline = Timeline::new(
            &self.planned,
            &diverse,
            &drawn,
            &lengths,
            &self.segments,
            self.batch as u64,
            &self.pools,
        );
        self.last_block = LastBlock::default();
        Ok(())
    }

    /// Makes one stage of all, whose slots are those of the others in a seeded order.
    fn shuffle(&mut self) {
        let steps = self.num_steps();
        let drawn = |task: &String| {
            self.stages
                .iter()
                .any(|stage| stage.tasks.contains(task) || stage.replayed.contains(task))
        };
        let tasks = self
            .names
            .0
            .iter()
            .filter(|task| drawn(task))
            .cloned()
            .collect();
        let mut whole = self.stages.swap_remove(0);
        (
            whole.name,
            whole.start,
            whole.steps,
            whole.planned_start,
            whole.planned_steps,
        ) = (SHUFFLED.to_owned(), 0, steps, 0, steps);
        (whole.tasks, whole.replayed, whole.draw) = (tasks, Vec::new(), Draw::Shuffled);
        self.shuffled = Some(Arc::new(Orders::new(
            Key::new(self.seed, "shuffled slots"),
            steps * self.batch as u64,
            1,
        )));
        self.stages = vec![whole];
        self.embeddings = vec![None];
        self.rankings = vec![None];
        self.segments = vec![Segments::default()];
        self.online = vec![None];
    }

    /// Examples per optimiser step.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Optimiser steps over all stages, without those that early ends left out.
    pub fn num_steps(&self) -> u64 {
        self.stages
            .last()
            .map_or(0, |stage| stage.start + stage.steps)
    }

    /// Optimiser steps over all stages as planned: what learning rates are shaped over.
    pub fn num_planned_steps(&self) -> u64 {
        self.stages
            .last()
            .map_or(0, |stage| stage.planned_start + stage.planned_steps)
    }

    /// The stages in order; at least one.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The stage of a step (from 0 over the run), and the step's number in that stage, from 0.
    /// Steps after the end belong to the last stage.
    pub fn stage_of(&self, step: u64) -> (usize, u64) {
        let stage = self.stages.partition_point(|stage| stage.start <= step) - 1;
        (stage, step - self.stages[stage].start)
    }

    /// The step's place among [`Schedule::num_planned_steps`], as if no earlier stage had ended
    /// early. Steps that were rolled back do not count.
    pub fn planned_step(&self, step: u64) -> u64 {
        let (stage, in_stage) = self.stage_of(step);
        self.stages[stage].planned_start + self.segments[stage].place(in_stage)
    }

    /// Ends a stage after `steps_done` of its steps: the next stage begins there. Earlier picks do
    /// not change. Pools continue after them. In a diverse stage, they continue after the whole
    /// current block, and the rest of that block is not drawn in that epoch. A resumed run calls
    /// this for every stage that had ended.
    ///
    /// # Errors
    /// A bug if there is no such stage, if it is shorter, or if the run is shuffled.
    pub fn end_stage(&mut self, stage: usize, steps_done: u64) -> Result<()> {
        let is_possible = self.shuffled.is_none()
            && self
                .stages
                .get(stage)
                .is_some_and(|stage| (1..=stage.planned_steps).contains(&steps_done));
        if !is_possible {
            return Err(Error::bug(format!(
                "stage {stage} cannot end after {steps_done} steps"
            )));
        }
        self.stages[stage].steps = steps_done;
        self.place_stages()
    }

    /// Weights that hold in a stage from some step on; `None` for a stage with fixed weights.
    pub fn shares(&self, stage: usize) -> Option<&Shares> {
        Some(&self.online.get(stage)?.as_ref()?.shares)
    }

    /// Weights of a stage's prior, which sum to 1; `None` for a stage with fixed weights.
    pub fn prior(&self, stage: usize) -> Option<&[f64]> {
        Some(&self.planned.get(stage)?.online.as_ref()?.prior)
    }

    /// Slots of each task before a step of a stage whose weights follow a reward, counted from 0 in
    /// the stage.
    ///
    /// # Errors
    /// A bug if the stage has fixed weights, or if the step lies before the present ones.
    pub fn slots_before(&self, stage: usize, step: u64) -> Result<Vec<u64>> {
        self.online_slots(stage)?.counts(step)
    }

    fn online_slots(&self, stage: usize) -> Result<&OnlineSlots> {
        let slots = self.online.get(stage).and_then(Option::as_ref);
        slots.ok_or_else(|| Error::bug(format!("the weights of stage {stage} are fixed")))
    }

    /// Sets the weights that hold in a stage from some step on. Later stages keep their places in
    /// the pools until [`Schedule::settle`].
    ///
    /// # Errors
    /// A bug if the stage has fixed weights, or another number of tasks.
    pub fn set_shares(&mut self, stage: usize, shares: Shares) -> Result<()> {
        let slots = self.online_slots(stage)?;
        let num_tasks = slots.shares.weights.len();
        if shares.weights.len() != num_tasks || shares.counts.len() != num_tasks {
            return Err(Error::bug(format!("stage {stage} has {num_tasks} tasks")));
        }
        self.online[stage] = Some(slots.with(shares));
        Ok(())
    }

    /// Places all stages in the pools anew, after weights of earlier ones have changed.
    ///
    /// # Errors
    /// None but a bug.
    pub fn settle(&mut self) -> Result<()> {
        self.place_stages()
    }

    /// True if the picks of a stage depend on training through the weights of its tasks, or through
    /// those of an earlier stage, whose rows come before its own.
    pub fn follows_reward(&self, stage: usize) -> bool {
        self.online.iter().take(stage + 1).any(Option::is_some)
    }

    /// True if the picks of a stage may depend on training: weights of its tasks follow a reward,
    /// it ends early or by mSFT, it compares embeddings of the model as it stands then, or it draws
    /// by UDS; or an earlier stage does any of that, whose rows come before its own.
    pub fn depends_on_training(&self, stage: usize) -> bool {
        let follows_model = |stage: &Stage| {
            stage.msft.is_some() || stage.early_stop.is_some() || stage.uds.is_some()
        };
        let compares = |stage| self.embeddings_of(stage) == Some(EmbeddingSource::Current);
        self.follows_reward(stage)
            || self.stages.iter().take(stage + 1).any(follows_model)
            || (0..=stage).any(compares)
    }

    /// Rows of each task of a stage that losses are measured on; none are trained on.
    pub fn held_out(&self, stage: usize) -> Vec<Vec<u32>> {
        let Some(Rule::Dynamix(dynamix)) = self.stages.get(stage).and_then(|stage| stage.online)
        else {
            return Vec::new();
        };
        let rows_of = |task: &usize| {
            let mut rows = self.set_aside.get(task).cloned().unwrap_or_default();
            rows.truncate(dynamix.held_out);
            rows
        };
        self.planned[stage].tasks.iter().map(rows_of).collect()
    }

    /// Rows of a look-ahead step for each task of a stage: a draw without replacement from the rows
    /// that the task can draw, by a hash of the number of the update. All rows if there are fewer.
    pub fn lookahead_rows(&self, stage: usize, update: u64) -> Vec<Vec<u32>> {
        let planned = self
            .planned
            .get(stage)
            .and_then(|planned| planned.online.as_ref());
        let Some((Rule::Dynamix(dynamix), planned)) =
            planned.map(|planned| (planned.rule, planned))
        else {
            return Vec::new();
        };
        let key = Key::new(self.seed, "look-ahead")
            .with(stage as u64)
            .with(update);
        let mut found = Vec::with_capacity(planned.inner.len());
        for (task, slots) in planned.inner.iter().enumerate() {
            let pools = slots.pools();
            let mut rows: Vec<u32> = pools
                .iter()
                .flat_map(|&pool| self.pools[pool].rows())
                .copied()
                .collect();
            let key = key.with(task as u64);
            rows.sort_unstable_by_key(|&row| (key.bits(u64::from(row)), row));
            rows.truncate(dynamix.lookahead);
            found.push(rows);
        }
        found
    }

    /// Excludes tasks from a stage that ends by mSFT, and rolls back after each. Picks of computed
    /// steps do not change. `excluded` has all exclusions of the stage so far.
    ///
    /// # Errors
    /// A bug if there is no such stage, or if a roll-back goes to a step that was not computed.
    pub fn exclude(&mut self, stage: usize, excluded: &[Exclusion]) -> Result<()> {
        let is_possible = self.stages.get(stage).is_some_and(|of| of.msft.is_some());
        if !is_possible {
            return Err(Error::bug(format!("stage {stage} excludes no tasks")));
        }
        self.segments[stage] = match excluded {
            [] => Segments::default(),
            _ => Segments::new(
                &self.planned[stage].slots,
                self.batch as u64,
                |pool| self.names.0[self.pool_tasks[pool]].clone(),
                excluded,
            )?,
        };
        self.place_stages()
    }

    /// Steps between two evaluations of a stage that ends by mSFT: a quarter of the steps in which
    /// the active task with the fewest rows sees `budget` epochs, at least one.
    ///
    /// # Errors
    /// A bug if the stage has no active task, or no such end.
    pub fn evaluation_interval(&self, stage: usize, excluded: &[Exclusion]) -> Result<u64> {
        let settings = self.stages.get(stage).and_then(|of| of.msft.as_ref());
        let is_excluded = |pool: usize| {
            let task = &self.names.0[self.pool_tasks[pool]];
            excluded.iter().any(|exclusion| exclusion.task == *task)
        };
        let slots = self.planned[stage].slots.without(&is_excluded);
        let (Some(settings), Some(slots)) = (settings, slots) else {
            return Err(Error::bug(format!("stage {stage} has no rounds")));
        };
        let mut shares = vec![0.0; self.pools.len()];
        slots.add_shares(1.0, &mut shares);
        let mut tasks: BTreeMap<usize, (u64, f64)> = BTreeMap::new();
        for pool in slots.pools() {
            let of_task = tasks.entry(self.pool_tasks[pool]).or_default();
            of_task.0 += self.pools[pool].num_rows();
            of_task.1 += shares[pool];
        }
        let smallest = tasks.values().min_by_key(|(rows, _)| *rows);
        let (rows, share) = smallest.copied().unwrap_or((0, 1.0));
        let round = settings.budget * rows as f64 / (share * self.batch as f64);
        Ok(((round / EVALUATIONS as f64).round() as u64).max(1))
    }

    /// Optimiser steps of a stage that count after `done` computed ones: without those that were
    /// rolled back.
    pub fn steps_that_count(&self, stage: usize, done: u64) -> u64 {
        self.segments[stage].place(done)
    }

    /// The model whose embeddings a stage compares; `None` if it needs none.
    pub fn embeddings_of(&self, stage: usize) -> Option<EmbeddingSource> {
        let diverse = self.stages.get(stage)?.diverse.filter(Diverse::chooses)?;
        (diverse.embeddings != EmbeddingSource::Random).then_some(diverse.embeddings)
    }

    /// Sets the vectors that a stage compares.
    ///
    /// # Errors
    /// A row that the stage can draw but that has no embedding, by its number.
    pub fn set_embeddings(&mut self, stage: usize, embeddings: Arc<Embeddings>) -> Result<()> {
        if self.embeddings_of(stage).is_none() {
            return Err(Error::bug(format!(
                "stage {stage} compares no embeddings of a model"
            )));
        }
        for cell in &self.planned[stage].cells {
            let rows = self.pools[cell.pool].rows();
            if let Some(row) = rows
                .iter()
                .find(|&&row| embeddings.of(row, cell.has_audio).is_none())
            {
                let form = if cell.has_audio { "audio" } else { "text" };
                return Err(Error::input(format!(
                    "row {row} (task `{}`) has no {form} embedding",
                    self.names.0[cell.task]
                ))
                .at(format!("stage `{}`", self.stages[stage].name))
                .hint("the embeddings were made of other data; make them anew"));
            }
        }
        self.embeddings[stage] = Some(embeddings);
        self.last_block = LastBlock::default();
        Ok(())
    }

    /// Measure of the difficulty by which a stage orders its rows; `None` if it does not.
    pub fn measure_of(&self, stage: usize) -> Option<&Measure> {
        let difficulty = self.stages.get(stage)?.difficulty.as_ref()?;
        Some(&difficulty.by)
    }

    /// Returns whether the picks of a stage depend on the model, through embeddings or losses.
    pub fn needs_model(&self, stage: usize) -> bool {
        self.embeddings_of(stage).is_some() || self.measure_of(stage) == Some(&Measure::BaseLoss)
    }

    /// All rows that a stage can draw, rising.
    pub fn rows_of(&self, stage: usize) -> Vec<u32> {
        let pools = self.planned[stage].slots.pools();
        let mut rows: Vec<u32> = pools
            .iter()
            .flat_map(|&pool| self.pools[pool].rows())
            .copied()
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// All rows that the schedule can draw, rising: those of every stage, and of the stages of
    /// which a shuffled run was made. Rows that are set aside are not among them.
    pub fn all_rows(&self) -> Vec<u32> {
        let stages = 0..self.planned.len();
        let mut rows: Vec<u32> = stages.flat_map(|stage| self.rows_of(stage)).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Sets the difficulty of the rows that a stage can draw.
    ///
    /// # Errors
    /// A bug if a row has no finite difficulty, or if the stage has no order by difficulty.
    pub fn set_difficulty(&mut self, stage: usize, values: HashMap<u32, f64>) -> Result<()> {
        if self.measure_of(stage).is_none() {
            return Err(Error::bug(format!("stage {stage} has no `difficulty`")));
        }
        let is_known = |row: &u32| values.get(row).is_some_and(|value| value.is_finite());
        if let Some(row) = self.rows_of(stage).iter().find(|row| !is_known(row)) {
            return Err(Error::bug(format!("row {row} has no difficulty")));
        }
        let pools = self.planned[stage].slots.pools();
        let ranking = Ranking::new(&pools, &self.pools, values, self.seed);
        self.rankings[stage] = Some(Arc::new(ranking));
        Ok(())
    }

    /// Mean difficulty of picks of a step, if its stage orders rows by difficulty.
    pub fn mean_difficulty(&self, step: u64, picks: &[Pick]) -> Option<f64> {
        let (stage, _) = self.stage_of(step);
        let ranking = self.rankings[stage].as_ref()?;
        let values = picks.iter().map(|pick| ranking.value(pick.row));
        let sum: f64 = values.sum::<Option<f64>>()?;
        Some(sum / picks.len().max(1) as f64)
    }

    /// The pick of a stage's draw from a pool, at a step of the stage.
    fn pick(&self, stage: usize, step: u64, pool: usize, in_stage: u64) -> Result<Pick> {
        let Stage {
            difficulty: Some(difficulty),
            planned_steps,
            ..
        } = &self.stages[stage]
        else {
            return Ok(self.timeline.pick(&self.pools, stage, pool, in_stage));
        };
        let draw = difficulty::Draw {
            pool,
            before: self.timeline.drawn_before(stage, pool),
            in_stage,
            key: Key::new(self.seed, "competence").with(stage as u64),
        };
        let competence = difficulty.competence(step, *planned_steps);
        self.rankings[stage]
            .as_ref()
            .and_then(|ranking| ranking.pick(difficulty.order, competence, &draw))
            .ok_or_else(|| {
                let name = &self.stages[stage].name;
                Error::bug(format!("stage `{name}` was given no difficulties"))
            })
    }

    /// The rows of a step, in slot order, exactly [`Schedule::batch`] of them. Equal calls return
    /// equal rows. After the end, the last stage continues. Under `draw: uds`, the first candidates
    /// stand for rows that were not chosen yet.
    ///
    /// # Errors
    /// A bug if the stage compares embeddings, or orders rows by a difficulty, that were not set.
    pub fn picks(&self, step: u64) -> Result<Vec<Pick>> {
        if let Some(order) = &self.shuffled {
            let first = step.saturating_mul(self.batch as u64);
            return Ok((first..first.saturating_add(self.batch as u64))
                .map(|slot| {
                    self.pick_at(if slot < order.len() {
                        order.at(0, slot)
                    } else {
                        slot
                    })
                })
                .collect());
        }
        let (stage, step_in_stage) = self.stage_of(step);
        match self.stages[stage].diverse.filter(Diverse::chooses) {
            Some(diverse) => self.chosen(stage, step_in_stage, diverse),
            None if self.online[stage].is_some() => self.weighted(stage, step_in_stage),
            None if self.stages[stage].uds.is_some() => self.best_candidates(step),
            None => {
                let (slots, first) = self.slots_of(stage, step_in_stage)?;
                let mut cursor = slots.at(first);
                let place = self.segments[stage].place(step_in_stage);
                let mut draw = || {
                    let (pool, in_stage) = cursor.next();
                    self.pick(stage, place, pool, in_stage)
                };
                (0..self.batch).map(|_| draw()).collect()
            }
        }
    }

    /// The picks of a step of a stage whose weights follow a reward.
    fn weighted(&self, stage: usize, step: u64) -> Result<Vec<Pick>> {
        let slots = self.online_slots(stage)?;
        let planned = self.planned[stage].online.as_ref();
        let planned = planned.ok_or_else(|| Error::bug("a stage with weights and no rule"))?;
        let mut counts = slots.counts(step)?;
        let mut picks = Vec::with_capacity(self.batch);
        for task in slots.tasks(step) {
            let (pool, in_stage) = planned.inner[task].at(counts[task]).next();
            counts[task] += 1;
            picks.push(self.pick(stage, step, pool, in_stage)?);
        }
        Ok(picks)
    }

    /// The rows that compete for the slots of a step of a stage with `draw: uds`, cell by cell.
    ///
    /// # Errors
    /// A bug if the step's stage draws otherwise.
    pub fn candidates(&self, step: u64) -> Result<Vec<CellCandidates>> {
        let (stage, in_stage) = self.stage_of(step);
        let planned = &self.planned[stage];
        if self.stages[stage].uds.is_none() {
            let name = &self.stages[stage].name;
            return Err(Error::bug(format!("stage `{name}` has no candidates")));
        }
        let per_slot = planned.draws_per_slot;
        let mut cursor = planned.slots.at(in_stage.saturating_mul(self.batch as u64));
        let mut cells: BTreeMap<usize, CellCandidates> = BTreeMap::new();
        for slot in 0..self.batch {
            let (pool, before) = cursor.next();
            let draws = before * per_slot..(before + 1) * per_slot;
            let picks = draws.map(|draw| self.timeline.pick(&self.pools, stage, pool, draw));
            cells.entry(pool).or_default().add(slot, picks);
        }
        Ok(cells.into_values().collect())
    }

    /// Sets the rows of a step of a stage with `draw: uds`, in the order of its slots.
    ///
    /// # Errors
    /// A bug if they are not as many as a step has.
    pub fn set_chosen(&mut self, step: u64, picks: Vec<Pick>) -> Result<()> {
        if picks.len() != self.batch {
            return Err(Error::bug(format!(
                "{} rows were chosen for {} slots",
                picks.len(),
                self.batch
            )));
        }
        self.chosen = Some((step, picks));
        Ok(())
    }

    /// The rows that were chosen for a step, or the first candidates if none were.
    fn best_candidates(&self, step: u64) -> Result<Vec<Pick>> {
        match &self.chosen {
            Some((known, picks)) if *known == step => Ok(picks.clone()),
            _ => {
                let cells = self.candidates(step)?;
                let first: Vec<Vec<Pick>> = cells.iter().map(CellCandidates::first).collect();
                uds::in_slots(&cells, &first)
            }
        }
    }

    /// The slots of a step of a stage, and the number of its first slot.
    fn slots_of(&self, stage: usize, step: u64) -> Result<(&Slots, u64)> {
        if self.segments[stage].is_empty() {
            let first = step.saturating_mul(self.batch as u64);
            return Ok((&self.planned[stage].slots, first));
        }
        self.segments[stage].slots(step).ok_or_else(|| {
            let name = &self.stages[stage].name;
            Error::bug(format!("all tasks have left stage `{name}`"))
        })
    }

    /// The pick of a slot counted over all planned stages.
    fn pick_at(&self, mut slot: u64) -> Pick {
        let mut stage = 0;
        while stage + 1 < self.planned.len()
            && slot >= self.planned[stage].steps * self.batch as u64
        {
            slot -= self.planned[stage].steps * self.batch as u64;
            stage += 1;
        }
        let (pool, in_stage) = self.planned[stage].slots.at(slot).next();
        self.timeline.pick(&self.pools, stage, pool, in_stage)
    }

    fn chosen(&self, stage: usize, step: u64, diverse: Diverse) -> Result<Vec<Pick>> {
        let source = match (diverse.embeddings, &self.embeddings[stage]) {
            (EmbeddingSource::Random, _) => {
                Source::Random(Key::new(self.seed, "random embeddings"))
            }
            (_, Some(embeddings)) => Source::Given(embeddings),
            (_, None) => {
                return Err(Error::bug(format!(
                    "stage `{}` was given no embeddings",
                    self.stages[stage].name
                )));
            }
        };
        let planned = &self.planned[stage];
        let steps = diverse.block_of(step, planned.steps);
        let origin = Origin {
            stage,
            planned,
            steps,
            batch: self.batch,
            select: diverse.select,
            seed: self.seed,
            source,
        };
        self.last_block.picks(&origin, step, |pool, in_stage| {
            self.timeline.pick(&self.pools, stage, pool, in_stage)
        })
    }

    /// The cells of a stage with equal slots, in the order of tasks and labels, with the slots
    /// of each; none for a mixture. For a shuffled run, the cells of all its original stages.
    pub fn cells(&self, stage: usize) -> Vec<CellShare> {
        let planned = if self.shuffled.is_some() {
            &self.planned[..]
        } else {
            self.planned.get(stage..=stage).unwrap_or_default()
        };
        let mut shares = BTreeMap::new();
        for planned in planned {
            let mut slots = vec![0; self.pools.len()];
            planned
                .slots
                .at(planned.steps * self.batch as u64)
                .add_counts(&mut slots);
            for cell in &planned.cells {
                *shares
                    .entry((cell.task, cell.label, !cell.has_audio, cell.pool))
                    .or_insert(0) += slots[cell.pool];
            }
        }
        let mut cells = Vec::with_capacity(shares.len());
        for ((task, label, is_text, pool), num_slots) in shares {
            let labels = self.names.1.get(task);
            cells.push(CellShare {
                task: self.names.0[task].clone(),
                label: labels
                    .and_then(|labels| labels.get(usize::from(label)))
                    .cloned(),
                has_audio: !is_text,
                num_rows: self.pools[pool].num_rows(),
                num_slots,
            });
        }
        cells
    }
}

/// Task of each pool, by its place.
fn pool_tasks(pools: &[Pool], population: &Population) -> Arc<[usize]> {
    pools
        .iter()
        .map(|pool| usize::from(population.row_task[pool.rows()[0] as usize]))
        .collect()
}

/// A stage as written and planned.
fn stage(
    written: &StageSettings,
    name: String,
    start: u64,
    planned: &Planned,
    tasks: &[String],
) -> Stage {
    let names = |places: &[usize]| places.iter().map(|&task| tasks[task].clone()).collect();
    let diverse = Diverse {
        select: written.select.unwrap_or_default(),
        embeddings: written.embeddings.unwrap_or_default(),
        block: written.block.unwrap_or(BLOCK),
    };
    Stage {
        name,
        start,
        steps: planned.steps,
        planned_start: start,
        planned_steps: planned.steps,
        tasks: names(&planned.tasks),
        replayed: names(&planned.replayed),
        draw: written.draw,
        diverse: (written.draw == Draw::Diverse).then_some(diverse),
        uds: (written.draw == Draw::Uds).then(|| written.uds.unwrap_or_default()),
        difficulty: written.difficulty.clone(),
        learning_rate: written.learning_rate,
        msft: (written.end == Some(EndRule::Msft))
            .then(|| written.msft.clone().unwrap_or_default()),
        early_stop: written.early_stop.clone(),
        online: planned.online.as_ref().map(|online| online.rule),
        train: written.train,
        loss: written.loss.clone(),
    }
}

#[cfg(test)]
mod tests;
