//! Task weights that follow a reward: the settings of `mix: {online: ...}`, the two rules, and the
//! slots of a step under given weights.
//!
//! - ODM, Online Data Mixing: Albalak et al. 2023, *Efficient Online Data Mixing For Language Model
//!   Pre-Training*, section 3, with the moving average of the authors' code. The reward of a task
//!   is its training loss.
//! - DynamiX: DynamixSFT, 2025, *Dynamic Mixture Optimization of Instruction Tuning Collections*.
//!   The reward of a task is how much one optimiser step on it lowers its loss.
//!
//! The slots of a step are a systematic sample (Madow and Madow 1944): one random offset, which is
//! a hash of the step, places as many equidistant points on the weights as the step has slots. So a
//! task of weight `w` gets `w` times the slots on average, in each step rounded up or down, and
//! slots depend on no earlier draw.

use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde::Serialize;

use crate::slots::Slots;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// `mix: {online: ...}` of a stage. Keys without a value have the default of their rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Online {
    /// Rule that the weights follow.
    pub online: RuleName,
    /// Weights before the first update; `uniform` for ODM, `proportional` for DynamiX, which also
    /// stays near them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
    /// Factor of the moving average of rewards; 0.9 for ODM, 0.95 for DynamiX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// What `alpha` multiplies under DynamiX: the `past` average, the default, or the new `reward`.
    /// The source does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_of: Option<AlphaOf>,
    /// Factor of the loss in ODM's reward; 1, as in the paper. DataFlex uses 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_scale: Option<f64>,
    /// Weight that tasks under ODM are raised to before all are divided by their sum, so that the
    /// least weight can be lower; 0, as in the paper. DataFlex, whose rule this is, uses 0.03.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// Share of the stage's steps before ODM's first update; 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<f64>,
    /// Share of uniform weights in DynamiX's; 0.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Factor of the average reward in DynamiX's exponent; 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Steps from one update of DynamiX to the next; a twentieth of the stage's steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Rows of a look-ahead step of DynamiX; the schedule's `batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookahead: Option<u64>,
    /// Rows of each task that are set aside for the losses of DynamiX; the schedule's `batch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<u64>,
}

/// Rules for weights of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    /// Online Data Mixing: weights follow the training loss.
    Odm,
    /// DynamiX: weights follow the gain of a look-ahead step.
    Dynamix,
}

/// Weights of tasks before the first update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// The same for every task.
    Uniform,
    /// By number of rows, times the weight of their data entry.
    Proportional,
    /// By the weight of the data entry alone.
    Weights,
}

/// What the factor of a moving average multiplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlphaOf {
    /// The average so far; the new reward gets 1 - alpha.
    #[default]
    Past,
    /// The new reward; the average so far gets 1 - alpha.
    Reward,
}

impl Online {
    /// Weights before the first update.
    pub fn prior(&self) -> Prior {
        self.prior.unwrap_or(match self.online {
            RuleName::Odm => Prior::Uniform,
            RuleName::Dynamix => Prior::Proportional,
        })
    }

    /// Rows of each task that are set aside, in a schedule with `batch` examples in a step.
    pub(super) fn held_out(&self, batch: usize) -> usize {
        match self.online {
            RuleName::Odm => 0,
            RuleName::Dynamix => self.held_out.map_or(batch, |rows| rows as usize),
        }
    }

    /// The rule for a stage of `steps` steps of `batch` examples.
    pub(super) fn rule(&self, steps: u64, batch: usize) -> Rule {
        match self.online {
            RuleName::Odm => Rule::Odm(Odm {
                alpha: self.alpha.unwrap_or(0.9),
                reward_scale: self.reward_scale.unwrap_or(1.0),
                floor: self.floor.unwrap_or(0.0),
                warmup: (self.warmup.unwrap_or(0.01) * steps as f64).ceil() as u64,
            }),
            RuleName::Dynamix => Rule::Dynamix(Dynamix {
                gamma: self.gamma.unwrap_or(0.3),
                beta: self.beta.unwrap_or(5.0),
                alpha: self.alpha.unwrap_or(0.95),
                alpha_of: self.alpha_of.unwrap_or_default(),
                every: self.every.unwrap_or(steps / 20).max(1),
                lookahead: self.lookahead.map_or(batch, |rows| rows as usize),
                held_out: self.held_out(batch),
            }),
        }
    }

    /// Refuses values outside their range, and keys of the other rule.
    pub(super) fn check(&self, batch: usize) -> Result<()> {
        let of_odm = [
            ("reward_scale", self.reward_scale.is_some()),
            ("floor", self.floor.is_some()),
            ("warmup", self.warmup.is_some()),
        ];
        let of_dynamix = [
            ("alpha_of", self.alpha_of.is_some()),
            ("gamma", self.gamma.is_some()),
            ("beta", self.beta.is_some()),
            ("every", self.every.is_some()),
            ("lookahead", self.lookahead.is_some()),
            ("held_out", self.held_out.is_some()),
        ];
        let (other, own) = match self.online {
            RuleName::Odm => (&of_dynamix[..], "odm"),
            RuleName::Dynamix => (&of_odm[..], "dynamix"),
        };
        if let Some((key, _)) = other.iter().find(|(_, is_written)| *is_written) {
            return Err(Error::input(format!(
                "`mix.{key}` beside `online: {own}`, on which it has no effect"
            ))
            .hint(format!("remove `{key}`")));
        }
        self.check_ranges()?;
        if self.online == RuleName::Dynamix {
            self.check_batches(batch)?;
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<()> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let least_zero = |value: f64| value.is_finite() && value >= 0.0;
        let ranges = [
            (
                "alpha",
                self.alpha,
                self.alpha.is_none_or(share),
                "a share in [0, 1]",
            ),
            (
                "reward_scale",
                self.reward_scale,
                self.reward_scale.is_none_or(positive),
                "a number above 0",
            ),
            (
                "floor",
                self.floor,
                self.floor.is_none_or(share),
                "a share in [0, 1]",
            ),
            (
                "warmup",
                self.warmup,
                self.warmup.is_none_or(share),
                "a share in [0, 1]",
            ),
            (
                "gamma",
                self.gamma,
                self.gamma.is_none_or(share),
                "a share in [0, 1]",
            ),
            (
                "beta",
                self.beta,
                self.beta.is_none_or(least_zero),
                "0 or more",
            ),
        ];
        match ranges.into_iter().find(|(_, _, is_right, _)| !is_right) {
            Some((key, value, _, expected)) => Err(Error::input(format!(
                "`mix.{key}` is {}, expected {expected}",
                value.unwrap_or(f64::NAN)
            ))
            .hint(format!("change `{key}`, or leave it out for its default"))),
            None => Ok(()),
        }
    }

    fn check_batches(&self, batch: usize) -> Result<()> {
        if self.every == Some(0) {
            return Err(Error::input("`mix.every` is 0")
                .hint("give the number of steps from one update of the weights to the next"));
        }
        let batches = [("lookahead", self.lookahead), ("held_out", self.held_out)];
        for (key, written) in batches {
            let rows = written.unwrap_or(batch as u64);
            if rows < 2 {
                let source = match written {
                    Some(_) => "",
                    None => ", the schedule's `batch`",
                };
                return Err(Error::input(format!(
                    "`mix.{key}` is {rows}{source}: one row says nothing of a task"
                ))
                .hint(format!(
                    "write `{key}: N` under `mix`, with at least 2 rows"
                )));
            }
        }
        Ok(())
    }
}

/// A rule with all its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Online Data Mixing.
    Odm(Odm),
    /// DynamiX.
    Dynamix(Dynamix),
}

/// Constants of Online Data Mixing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Odm {
    /// Factor of the average reward so far.
    pub alpha: f64,
    /// Factor of a loss.
    pub reward_scale: f64,
    /// Least weight of a task before all are divided by their sum.
    pub floor: f64,
    /// Steps before the first update.
    pub warmup: u64,
}

/// Constants of DynamiX.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dynamix {
    /// Share of uniform weights.
    pub gamma: f64,
    /// Factor of the average reward.
    pub beta: f64,
    /// Factor of the moving average.
    pub alpha: f64,
    /// What `alpha` multiplies.
    pub alpha_of: AlphaOf,
    /// Steps from one update to the next.
    pub every: u64,
    /// Rows of a look-ahead step.
    pub lookahead: usize,
    /// Rows of each task that losses are measured on.
    pub held_out: usize,
}

impl Rule {
    /// Number of steps of the stage after which the weights change next, if `done` are finished.
    pub fn next_update(&self, done: u64) -> u64 {
        match self {
            Self::Odm(odm) => (done + 1).max(odm.warmup + 1),
            Self::Dynamix(dynamix) => (done / dynamix.every + 1) * dynamix.every,
        }
    }

    /// Number of updates in a stage of `steps` steps. None follows its last step.
    pub fn num_updates(&self, steps: u64) -> u64 {
        let last = steps.saturating_sub(1);
        match self {
            Self::Odm(odm) => last.saturating_sub(odm.warmup),
            Self::Dynamix(dynamix) => last / dynamix.every,
        }
    }

    /// Cost of the look-aheads of a stage in its own steps, for `num_tasks` tasks and `batch`
    /// examples in a step. A forward pass counts as a third of a step. Rows count as equally long.
    pub fn lookahead_steps(&self, steps: u64, num_tasks: usize, batch: usize) -> f64 {
        match self {
            Self::Odm(_) => 0.0,
            Self::Dynamix(dynamix) => {
                let rows = dynamix.lookahead as f64 + 2.0 / 3.0 * dynamix.held_out as f64;
                self.num_updates(steps) as f64 * num_tasks as f64 * rows / batch as f64
            }
        }
    }

    /// Weights before the first update, of prior weights that sum to 1.
    pub fn first_weights(&self, prior: &[f64]) -> Vec<f64> {
        match self {
            Self::Odm(_) => prior.to_vec(),
            Self::Dynamix(dynamix) => dynamix.weights(prior, &vec![0.0; prior.len()]),
        }
    }
}

impl Odm {
    /// Averages the rewards of a step in place. `losses` are nats per target token, `None` for a
    /// task without a row in the step, which keeps its average; `weights` are those that the step
    /// was drawn by.
    ///
    /// R <- alpha R + (1 - alpha) scale loss / weight
    pub fn reward(&self, rewards: &mut [f64], losses: &[Option<f64>], weights: &[f64]) {
        for ((reward, loss), weight) in rewards.iter_mut().zip(losses).zip(weights) {
            if let Some(loss) = loss {
                let scaled = self.reward_scale * loss / weight;
                *reward = self.alpha * *reward + (1.0 - self.alpha) * scaled;
            }
        }
    }

    /// Weights after update number `update`, from 1.
    ///
    /// (1 - K e_t) softmax(e_(t-1) R) + e_t with e_t = min(1 / K, sqrt(ln K / (K t))). Weights
    /// below the floor are raised to it, and all divided by their sum, which leaves those below the
    /// floor again: 0.9, 0.05, 0.05 with a floor of 0.3 become 0.6, 0.2, 0.2.
    pub fn weights(&self, rewards: &[f64], update: u64) -> Vec<f64> {
        let num_tasks = rewards.len() as f64;
        let now = exploration(num_tasks, update);
        let before = exploration(num_tasks, update - 1);
        let exponents: Vec<f64> = rewards.iter().map(|reward| before * reward).collect();
        let weights = softmax(&exponents)
            .into_iter()
            .map(|share| ((1.0 - num_tasks * now) * share + now).max(self.floor));
        normalised(weights.collect())
    }
}

/// Exp3's rate of exploration, of update `t`.
fn exploration(num_tasks: f64, t: u64) -> f64 {
    if t == 0 {
        return 1.0 / num_tasks;
    }
    (1.0 / num_tasks).min((num_tasks.ln() / (num_tasks * t as f64)).sqrt())
}

impl Dynamix {
    /// Averages rewards in place, given each task's loss before and after its look-ahead step.
    /// Returns the rewards: relative gains, scaled so that the smallest is 0 and the largest 1. If
    /// all gains are equal, all rewards are 0. A gain that is not finite, as that of a step that
    /// diverged, counts as the smallest.
    pub fn reward(&self, averages: &mut [f64], before: &[f64], after: &[f64]) -> Vec<f64> {
        let gains: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(before, after)| (before - after) / before)
            .collect();
        let finite = || gains.iter().copied().filter(|gain| gain.is_finite());
        let low = finite().fold(f64::INFINITY, f64::min);
        let high = finite().fold(f64::NEG_INFINITY, f64::max);
        let rewards: Vec<f64> = gains
            .iter()
            .map(|gain| match high > low && gain.is_finite() {
                true => (gain - low) / (high - low),
                false => 0.0,
            })
            .collect();
        let of_past = match self.alpha_of {
            AlphaOf::Past => self.alpha,
            AlphaOf::Reward => 1.0 - self.alpha,
        };
        for (average, reward) in averages.iter_mut().zip(&rewards) {
            *average = of_past * *average + (1.0 - of_past) * reward;
        }
        rewards
    }

    /// Weights of average rewards Q and prior weights p0 that sum to 1:
    /// (1 - gamma) p0 exp(beta Q) / sum + gamma / K.
    pub fn weights(&self, prior: &[f64], averages: &[f64]) -> Vec<f64> {
        let top = averages.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let raised = prior
            .iter()
            .zip(averages)
            .map(|(prior, average)| prior * (self.beta * (average - top)).exp());
        let uniform = self.gamma / prior.len() as f64;
        let weights = normalised(raised.collect())
            .into_iter()
            .map(|weight| (1.0 - self.gamma) * weight + uniform);
        weights.collect()
    }
}

fn softmax(exponents: &[f64]) -> Vec<f64> {
    let top = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    normalised(exponents.iter().map(|x| (x - top).exp()).collect())
}

pub(super) fn normalised(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Weights that hold from a step of a stage on, and the slots that were drawn before it. Tasks are
/// in the order of the stage's.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// The first step that they hold for, counted from 0 in the stage.
    pub from: u64,
    /// Weight of each task; they sum to 1.
    pub weights: Vec<f64>,
    /// Slots of each task before `from`.
    pub counts: Vec<u64>,
}

/// A stage whose weights follow a reward, as planned.
#[derive(Clone, Debug)]
pub(super) struct OnlinePlan {
    /// The rule.
    pub(super) rule: Rule,
    /// Weights of the prior, which sum to 1.
    pub(super) prior: Vec<f64>,
    /// Assignment of each task's slots to its pools.
    pub(super) inner: Vec<Slots>,
}

impl OnlinePlan {
    pub(super) fn first_shares(&self) -> Shares {
        Shares {
            from: 0,
            weights: self.rule.first_weights(&self.prior),
            counts: vec![0; self.inner.len()],
        }
    }
}

/// The slots of a stage under some weights.
#[derive(Debug)]
pub(super) struct OnlineSlots {
    pub(super) shares: Shares,
    key: Key,
    batch: usize,
    /// Counts that were asked for last, with their step. Results do not depend on them.
    walked: Mutex<(u64, Vec<u64>)>,
}

impl Clone for OnlineSlots {
    fn clone(&self) -> Self {
        Self::new(self.shares.clone(), self.key, self.batch)
    }
}

impl OnlineSlots {
    /// `key` is the stage's stream of random numbers.
    pub(super) fn new(shares: Shares, key: Key, batch: usize) -> Self {
        let walked = Mutex::new((shares.from, shares.counts.clone()));
        Self {
            shares,
            key,
            batch,
            walked,
        }
    }

    pub(super) fn with(&self, shares: Shares) -> Self {
        Self::new(shares, self.key, self.batch)
    }

    /// The task of each slot of a step of the stage, by its place among the stage's tasks.
    pub(super) fn tasks(&self, step: u64) -> Vec<usize> {
        let offset = self.key.uniform(step);
        let weights = &self.shares.weights;
        let mut task = 0;
        let mut end = weights[0];
        let mut tasks = Vec::with_capacity(self.batch);
        for slot in 0..self.batch {
            let point = (slot as f64 + offset) / self.batch as f64;
            while point >= end && task + 1 < weights.len() {
                task += 1;
                end += weights[task];
            }
            tasks.push(task);
        }
        tasks
    }

    /// Slots of each task before a step of the stage.
    ///
    /// # Errors
    /// A bug if the step lies before the weights.
    pub(super) fn counts(&self, step: u64) -> Result<Vec<u64>> {
        if step < self.shares.from {
            return Err(Error::bug(format!(
                "step {step} of a stage was drawn by other weights than those from step {} on",
                self.shares.from
            )));
        }
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut counts) = match walked.0 <= step {
            true => walked.clone(),
            false => (self.shares.from, self.shares.counts.clone()),
        };
        while at < step {
            self.tasks(at)
                .into_iter()
                .for_each(|task| counts[task] += 1);
            at += 1;
        }
        *walked = (at, counts.clone());
        Ok(counts)
    }
}
