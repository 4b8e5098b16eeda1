//! Stages with `mix: {online: ...}`: updates of the weights of tasks, and look-ahead steps.
//!
//! Weights are part of the run's state and change after a step, before its line is logged. The
//! schedule takes them over once no other thread reads it.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::error::Result;
use crate::featurise::augment::Augmentation;
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

    /// The number of finished steps at which the weights of a stage may change next, at which rows
    /// are chosen next, or at which it ends.
    pub(super) fn weights_hold_until(&self, stage: usize) -> u64 {
        let stage = &self.schedule.stages()[stage];
        let end = stage.start + stage.steps;
        match stage.online {
            Some(rule) => end.min(stage.start + rule.next_update(self.state.step - stage.start)),
            None if stage.uds.is_some() => self.state.step + 1,
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

    /// Reads the rows of the look-aheads that follow the coming step, a pair of sets for each task;
    /// none where no look-ahead follows it.
    ///
    /// # Errors
    /// Rows that cannot be read.
    pub(super) fn read_ahead(&mut self) -> Result<Vec<RowsAhead>> {
        let run = self.run;
        let (stage, before) = self.schedule.stage_of(self.state.step);
        if self.rule_due(stage, before).is_none() {
            return Ok(Vec::new());
        }
        let update = self.mixture(stage)?.updates + 1;
        let epoch = u32::try_from(update).unwrap_or(u32::MAX);
        let held_out = self.schedule.held_out(stage);
        let drawn = self.schedule.lookahead_rows(stage, update);
        let mut found = Vec::with_capacity(drawn.len());
        for (task, (held_out, drawn)) in held_out.iter().zip(&drawn).enumerate() {
            // What losses are measured on is the same at every update.
            let fixed = Key::new(run.seed, "held-out rows")
                .with(stage as u64)
                .with(task as u64);
            let key = Key::new(run.seed, "look-ahead step")
                .with(stage as u64)
                .with(update)
                .with(task as u64)
                .with(1);
            let augmentation = run.augmentation.as_ref();
            found.push(RowsAhead {
                held_out: self.read_rows(stage, held_out, 0, None, fixed)?,
                drawn: self.read_rows(stage, drawn, epoch, augmentation, key)?,
            });
        }
        Ok(found)
    }

    /// The rule of a stage, if it changes the weights after the step number `before` of the stage,
    /// from 0.
    fn rule_due(&self, stage: usize, before: u64) -> Option<Rule> {
        let of_stage = &self.schedule.stages()[stage];
        let done = before + 1;
        of_stage
            .online
            .filter(|rule| done < of_stage.steps && done == rule.next_update(before))
    }

    /// Updates the weights of the step's stage, if they are due after it. `ahead` is what
    /// [`Trainer::read_ahead`] read before the step.
    pub(super) fn update_weights(
        &mut self,
        record: &StepRecord,
        ahead: Vec<RowsAhead>,
    ) -> Result<Option<MixtureRecord>> {
        let (stage, before) = self.schedule.stage_of(record.step - 1);
        let Some(rule) = self.rule_due(stage, before) else {
            return Ok(None);
        };
        let of_stage = &self.schedule.stages()[stage];
        let done = before + 1;

        let losses: Vec<Option<f64>> = of_stage
            .tasks
            .iter()
            .map(|task| record.tasks.get(task).map(|task| task.loss))
            .collect();
        let mut mixture = self.mixture(stage)?;
        mixture.updates += 1;
        let mut measured = Vec::new();
        match rule {
            Rule::Odm(odm) => {
                odm.reward(&mut mixture.rewards, &losses, &mixture.weights);
                mixture.weights = odm.weights(&mixture.rewards, mixture.updates);
            }
            Rule::Dynamix(dynamix) => {
                measured = self.look_ahead(stage, ahead)?;
                let before: Vec<f64> = measured.iter().map(|losses| losses[0]).collect();
                let after: Vec<f64> = measured.iter().map(|losses| losses[1]).collect();
                dynamix.reward(&mut mixture.rewards, &before, &after);
                let prior = self.schedule.prior(stage).unwrap_or_default();
                mixture.weights = dynamix.weights(prior, &mixture.rewards);
            }
        }
        mixture.counts = self.schedule.slots_before(stage, done)?;
        mixture.from = done;
        let record = self.record_weights(stage, &mixture, &measured);
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
        // A loss that is not finite has no number in JSON.
        let known = |loss: f64| Some(loss).filter(|loss| loss.is_finite());
        let ahead: Vec<[Option<f64>; 2]> = ahead.iter().map(|losses| losses.map(known)).collect();
        MixtureRecord {
            at_step: self.state.step,
            stage: stage.name.clone(),
            weights: by_task(&stage.tasks, &mixture.weights),
            rewards: by_task(&stage.tasks, &mixture.rewards),
            counts: by_task(&stage.tasks, &mixture.counts),
            lookahead: by_task(&stage.tasks, &ahead),
        }
    }

    /// Losses of each task of a stage on its rows set aside, before and after one optimiser step on
    /// rows of the task alone, in nats per target token; not finite where the step diverged. The
    /// step is one of the coming step's learning rate. Parameters and moments are as before
    /// afterwards, bit for bit.
    fn look_ahead(&mut self, stage: usize, ahead: Vec<RowsAhead>) -> Result<Vec<[f64; 2]>> {
        let before = Snapshot::of(self.model, self.optimiser)?;
        let mut losses = Vec::with_capacity(ahead.len());
        for mut of_task in ahead {
            for loaded in [&mut of_task.held_out, &mut of_task.drawn] {
                let clips = std::mem::take(&mut loaded.clips);
                self.run.inputs().add(self.state.step, clips);
            }
            let loss = self.loss(&of_task.held_out)?;
            self.step_ahead(stage, &of_task.drawn)?;
            losses.push([loss, self.loss(&of_task.held_out)?]);
            before.restore(self.model, self.optimiser)?;
        }
        Ok(losses)
    }

    fn read_rows(
        &mut self,
        stage: usize,
        rows: &[u32],
        epoch: u32,
        augmentation: Option<&Augmentation>,
        key: Key,
    ) -> Result<LoadedStep> {
        let picks: Vec<Pick> = rows.iter().map(|&row| Pick { row, epoch }).collect();
        let place = format!("look-ahead after step {}", self.state.step + 1);
        let loaded = load_picks(self.run, stage, &picks, augmentation, key, &place)?;
        self.tell_skipped(&loaded.skipped);
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

/// Rows of the look-ahead of a task, read.
pub(super) struct RowsAhead {
    /// Rows that losses are measured on.
    held_out: LoadedStep,
    /// Rows of the optimiser step.
    drawn: LoadedStep,
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
