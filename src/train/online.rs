//! Stages with `mix: {online: ...}`: updates of the weights of tasks, and look-ahead steps.
//!
//! Weights are part of the run's state and change after a step, before its line is logged. The
//! schedule takes them over once no other thread reads it.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::models::AudioLlm;
use crate::ops::device::to_host;
use crate::ops::device::write_stretch;
use crate::ops::scalar::Scalar;
use crate::records::checkpoint_state::Mixture;
use crate::records::log::MixtureRecord;
use crate::records::log::StepRecord;
use crate::schedule::Pick;
use crate::schedule::online::Rule;
use crate::schedule::online::Shares;
use crate::seed::Key;
use crate::train::optimiser::Optimiser;
use crate::train::optimiser::Update;
use crate::train::run::learning_rate;
use crate::train::step::LoadedStep;
use crate::train::step::load_picks;
use crate::train::trainer::Trainer;
use crate::train::trainer::unshared;
use crate::train::trainer::updates;

impl Trainer<'_> {
    /// Gives the schedule the weights of the run's state.
    pub(super) fn restore_weights(&mut self) -> Result<()> {
        if self.state.mixtures.is_empty() {
            return Ok(());
        }
        let schedule = unshared(&mut self.schedule)?;
        for (&stage, mixture) in &self.state.mixtures {
            schedule.set_shares(stage, shares(mixture))?;
        }
        schedule.settle()
    }

    /// The number of finished steps at which the weights of a stage may change next, or at which it
    /// ends.
    pub(super) fn weights_hold_until(&self, stage: usize) -> u64 {
        let stage = &self.schedule.stages()[stage];
        let end = stage.start + stage.steps;
        match stage.online {
            Some(rule) => end.min(stage.start + rule.next_update(self.state.step - stage.start)),
            None => end,
        }
    }

    /// Gives the schedule the present weights of a stage. At the stage's end, later stages move to
    /// their places behind the rows that it has drawn.
    pub(super) fn take_weights(&mut self, stage: usize) -> Result<()> {
        let Some(mixture) = self.state.mixtures.get(&stage) else {
            return Ok(());
        };
        let shares = shares(mixture);
        let schedule = unshared(&mut self.schedule)?;
        schedule.set_shares(stage, shares)?;
        match self.state.step >= schedule.stages()[stage].range().end {
            true => schedule.settle(),
            false => Ok(()),
        }
    }

    /// The weights that a stage begins with, at its first step.
    pub(super) fn first_weights(&self) -> Result<Option<MixtureRecord>> {
        let (stage, done) = self.schedule.stage_of(self.state.step);
        match self.schedule.shares(stage) {
            Some(shares) if done == 0 => {
                let mixture = Mixture {
                    weights: shares.weights.clone(),
                    rewards: vec![0.0; shares.weights.len()],
                    counts: shares.counts.clone(),
                    ..Mixture::default()
                };
                Ok(Some(self.record_weights(stage, &mixture, &[])))
            }
            _ => Ok(None),
        }
    }

    /// Updates the weights of the step's stage, if they are due after it.
    pub(super) fn update_weights(&mut self, record: &StepRecord) -> Result<Option<MixtureRecord>> {
        let (stage, before) = self.schedule.stage_of(record.step - 1);
        let of_stage = &self.schedule.stages()[stage];
        let Some(rule) = of_stage.online else {
            return Ok(None);
        };
        let done = before + 1;
        if done >= of_stage.steps || done != rule.next_update(before) {
            return Ok(None);
        }

        let losses: Vec<Option<f64>> = of_stage
            .tasks
            .iter()
            .map(|task| record.tasks.get(task).map(|task| task.loss))
            .collect();
        let mut mixture = self.mixture(stage)?;
        mixture.updates += 1;
        let mut ahead = Vec::new();
        match rule {
            Rule::Odm(odm) => {
                odm.reward(&mut mixture.rewards, &losses, &mixture.weights);
                mixture.weights = odm.weights(&mixture.rewards, mixture.updates);
            }
            Rule::Dynamix(dynamix) => {
                ahead = self.look_ahead(stage, mixture.updates)?;
                let before: Vec<f64> = ahead.iter().map(|losses| losses[0]).collect();
                let after: Vec<f64> = ahead.iter().map(|losses| losses[1]).collect();
                dynamix.reward(&mut mixture.rewards, &before, &after);
                let prior = self.schedule.prior(stage).unwrap_or_default();
                mixture.weights = dynamix.weights(prior, &mixture.rewards);
            }
        }
        mixture.counts = self.schedule.slots_before(stage, done)?;
        mixture.from = done;
        let record = self.record_weights(stage, &mixture, &ahead);
        self.state.mixtures.insert(stage, mixture);
        Ok(Some(record))
    }

    /// The weights of a stage, and what they follow from.
    fn mixture(&self, stage: usize) -> Result<Mixture> {
        if let Some(mixture) = self.state.mixtures.get(&stage) {
            return Ok(mixture.clone());
        }
        let shares = self.schedule.shares(stage);
        let shares = shares.ok_or_else(|| Error::bug("a rule without weights"))?;
        Ok(Mixture {
            weights: shares.weights.clone(),
            rewards: vec![0.0; shares.weights.len()],
            ..Mixture::default()
        })
    }

    fn record_weights(&self, stage: usize, mixture: &Mixture, ahead: &[[f64; 2]]) -> MixtureRecord {
        let stage = &self.schedule.stages()[stage];
        MixtureRecord {
            at_step: self.state.step,
            stage: stage.name.clone(),
            weights: by_task(&stage.tasks, &mixture.weights),
            rewards: by_task(&stage.tasks, &mixture.rewards),
            counts: by_task(&stage.tasks, &mixture.counts),
            lookahead: by_task(&stage.tasks, ahead),
        }
    }

    /// Losses of each task of a stage on its rows set aside, before and after one optimiser step on
    /// rows of the task alone, in nats per target token. The step is one of the coming step's
    /// learning rate. Parameters and moments are as before afterwards, bit for bit.
    ///
    /// # Errors
    /// Rows that cannot be read; a loss that is not finite.
    fn look_ahead(&mut self, stage: usize, update: u64) -> Result<Vec<[f64; 2]>> {
        let run = self.run;
        let held_out = self.schedule.held_out(stage);
        let drawn = self.schedule.lookahead_rows(stage, update);
        let before = Snapshot::of(self.model, self.optimiser)?;
        let mut losses = Vec::with_capacity(drawn.len());
        for (task, (held_out, drawn)) in held_out.iter().zip(&drawn).enumerate() {
            let key = Key::new(run.seed, "look-ahead step")
                .with(stage as u64)
                .with(update)
                .with(task as u64);
            let held_out = self.read_rows(stage, held_out, 0, key.with(0))?;
            let epoch = u32::try_from(update).unwrap_or(u32::MAX);
            let drawn = self.read_rows(stage, drawn, epoch, key.with(1))?;
            let loss = self.loss(&held_out)?;
            self.step_ahead(stage, &drawn)?;
            let loss_after = self.loss(&held_out)?;
            before.restore(self.model, self.optimiser)?;
            let is_usable = loss.is_finite() && loss > 0.0 && loss_after.is_finite();
            if !is_usable {
                let name = &self.schedule.stages()[stage].tasks[task];
                let found = format!(
                    "step {}: the loss of `{name}` is {loss} before a look-ahead step and {loss_after} after it",
                    self.state.step
                );
                return Err(Error::new(Kind::Diverged, found)
                    .hint("lower `optimiser.learning_rate` in a new run (`--set name=NAME`)"));
            }
            losses.push([loss, loss_after]);
        }
        Ok(losses)
    }

    fn read_rows(&self, stage: usize, rows: &[u32], epoch: u32, key: Key) -> Result<LoadedStep> {
        let picks: Vec<Pick> = rows.iter().map(|&row| Pick { row, epoch }).collect();
        let place = format!("look-ahead after step {}", self.state.step);
        let mut loaded = load_picks(self.run, stage, &picks, key, &place)?;
        let clips = std::mem::take(&mut loaded.clips);
        self.run.inputs().add(self.state.step, clips);
        Ok(loaded)
    }

    /// Mean loss over all target tokens, without dropout, in nats.
    fn loss(&self, loaded: &LoadedStep) -> Result<f64> {
        let mut sum = 0.0;
        let mut num_targets = 0;
        for (_, batch) in &loaded.batches {
            let found = self.model.score(batch, 0.0)?;
            sum -= found.log_probabilities.iter().sum::<f64>();
            num_targets += found.log_probabilities.len();
        }
        Ok(sum / num_targets.max(1) as f64)
    }

    /// One update on these rows, as the coming step would make it.
    fn step_ahead(&mut self, stage: usize, loaded: &LoadedStep) -> Result<()> {
        let run = self.run;
        let step = self.state.step;
        let pass = self.pass(stage);
        let model = &*self.model;
        model.parameters.zero_gradients()?;
        let loss = Scalar::new(0.0, &model.device)?;
        for (_, batch) in &loaded.batches {
            loss.add(&model.train(batch, None, pass)?.loss)?;
        }
        let grad_norm = self.optimiser.grad_norm(&model.parameters)?;
        let update = Update {
            loss: &loss,
            grad_norm: &grad_norm,
            learning_rate: learning_rate(&self.schedule, &run.optimiser, step),
            counts: updates(&self.schedule, run, step),
        };
        self.optimiser.step(&model.parameters, update)
    }
}

fn shares(mixture: &Mixture) -> Shares {
    Shares {
        from: mixture.from,
        weights: mixture.weights.clone(),
        counts: mixture.counts.clone(),
    }
}

fn by_task<T: Copy>(tasks: &[String], values: &[T]) -> BTreeMap<String, T> {
    tasks.iter().cloned().zip(values.iter().copied()).collect()
}

/// Parameters and moments, `[parameters]` each, on the host.
struct Snapshot {
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Snapshot {
    fn of(model: &AudioLlm, optimiser: &Optimiser) -> Result<Self> {
        Ok(Self {
            values: to_host(&model.parameters.values)?,
            first: to_host(&optimiser.first)?,
            second: to_host(&optimiser.second)?,
        })
    }

    fn restore(&self, model: &AudioLlm, optimiser: &Optimiser) -> Result<()> {
        let parameters = &model.parameters;
        let all = 0..self.values.len();
        for flat in [&parameters.values].into_iter().chain(&parameters.copy) {
            write_stretch(flat, all.clone(), &self.values)?;
        }
        write_stretch(&optimiser.first, all.clone(), &self.first)?;
        write_stretch(&optimiser.second, all, &self.second)?;
        parameters.renew_copies()
    }
}
