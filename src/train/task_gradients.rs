//! Steps under `gradients:` of a recipe: one gradient for each task, and the step's gradient made of
//! them.
//!
//! The step was read so that each micro-batch has rows of one task, whose weights sum to 1.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;

use crate::batch::Batch;
use crate::error::Result;
use crate::models::AudioEmbeddings;
use crate::ops::device::to_host;
use crate::ops::device::write_stretch;
use crate::ops::scalar::Scalar;
use crate::records::log::GradientsRecord;
use crate::seed::Key;
use crate::train::gradient_settings::GradientSettings;
use crate::train::gradient_settings::Method;
use crate::train::step::LoadedStep;
use crate::train::surgery::Famo;
use crate::train::surgery::add;
use crate::train::surgery::project;
use crate::train::trainer::Trainer;

/// A step's gradient, made of those of its tasks.
pub(super) struct Combined {
    /// Mean of the tasks' losses, nats.
    pub loss: Scalar,
    /// Log-probabilities of the targets of each micro-batch.
    pub log_probabilities: Vec<Tensor>,
    tasks: Vec<String>,
    /// Losses that FAMO compares with those after the update, nats.
    losses: Vec<f64>,
    /// Weights of the tasks under FAMO.
    weights: Vec<f64>,
    /// Factors of the tasks' gradients under FAMO.
    factors: Vec<f64>,
    /// Projections under PCGrad.
    conflicts: Option<u64>,
    famo: Option<Famo>,
}

/// The gradients of the mean losses of a step's tasks.
#[derive(Default)]
struct TaskGradients {
    tasks: Vec<String>,
    /// Mean losses, nats.
    losses: Vec<f64>,
    /// `[parameters]` each.
    gradients: Vec<Vec<f32>>,
    log_probabilities: Vec<Tensor>,
}

impl Trainer<'_> {
    /// Makes the gradient of a step of those of its tasks, in the parameters' gradient buffer.
    /// `ahead` is of the first micro-batch.
    pub(super) fn combine(
        &self,
        loaded: &LoadedStep,
        ahead: Option<AudioEmbeddings>,
        settings: &GradientSettings,
    ) -> Result<Combined> {
        let found = self.of_tasks(loaded, ahead)?;
        let mean = found.losses.iter().sum::<f64>() / found.losses.len().max(1) as f64;
        let mut combined = Combined {
            loss: Scalar::new(mean, &self.model.device)?,
            log_probabilities: found.log_probabilities,
            tasks: found.tasks,
            losses: found.losses,
            weights: Vec::new(),
            factors: Vec::new(),
            conflicts: None,
            famo: None,
        };
        let num_tasks = found.gradients.len();
        let sum = match settings.method {
            Method::Pcgrad => {
                let key = Key::new(self.run.seed, "order of tasks").with(self.state.step);
                let orders: Vec<Vec<u32>> = (0..num_tasks)
                    .map(|i| key.with(i as u64).permutation(num_tasks))
                    .collect();
                let (sum, conflicts) = project(&found.gradients, &orders);
                combined.conflicts = Some(conflicts);
                sum
            }
            Method::Famo => {
                let tasks: Vec<&str> = combined.tasks.iter().map(String::as_str).collect();
                combined.weights = Famo::weights(&self.state.famo, &tasks);
                combined.factors = Famo::factors(&combined.weights, &combined.losses);
                combined.famo = Some(Famo::of(settings));
                let mut sum = vec![0.0; found.gradients.first().map_or(0, Vec::len)];
                for (gradient, factor) in found.gradients.iter().zip(&combined.factors) {
                    add(&mut sum, *factor, gradient);
                }
                // Losses with dropout or noise cannot be compared with those of another pass.
                if self.run.dropout > 0.0 || self.run.noise.alpha > 0.0 {
                    let (stage, _) = self.schedule.stage_of(self.state.step);
                    combined.losses = self.losses(stage, loaded)?;
                }
                sum
            }
        };
        write_stretch(&self.model.parameters.gradients, 0..sum.len(), &sum)?;
        Ok(combined)
    }

    /// Updates FAMO's weights by the losses of the same rows after the update of the parameters.
    /// Returns the line of the log.
    pub(super) fn after_update(
        &mut self,
        loaded: &LoadedStep,
        combined: Combined,
    ) -> Result<GradientsRecord> {
        let named = |values: &[f64]| {
            let tasks = combined.tasks.iter().cloned();
            tasks
                .zip(values.iter().copied())
                .collect::<BTreeMap<_, _>>()
        };
        let num_tasks = combined.tasks.len() as u64;
        let (stage, _) = self.schedule.stage_of(self.state.step - 1);
        let record = GradientsRecord {
            at_step: self.state.step,
            stage: self.schedule.stages()[stage].name.clone(),
            conflicts: combined
                .conflicts
                .map(|conflicts| [conflicts, num_tasks * (num_tasks - 1)]),
            weights: named(&combined.weights),
            factors: named(&combined.factors),
        };
        if let Some(famo) = &combined.famo {
            let after = self.losses(stage, loaded)?;
            let tasks: Vec<&str> = combined.tasks.iter().map(String::as_str).collect();
            famo.update(&mut self.state.famo, &tasks, &combined.losses, &after);
        }
        Ok(record)
    }

    fn of_tasks(
        &self,
        loaded: &LoadedStep,
        mut ahead: Option<AudioEmbeddings>,
    ) -> Result<TaskGradients> {
        let (stage, _) = self.schedule.stage_of(self.state.step);
        let pass = self.pass(stage);
        let model = &*self.model;
        let mut found = TaskGradients::default();
        for of_task in by_task(loaded) {
            model.parameters.zero_gradients()?;
            let mut loss = 0.0;
            for (_, batch) in of_task {
                self.check_stop()?;
                let of_batch = model.train(batch, ahead.take(), pass)?;
                loss += of_batch.loss.value()?;
                found.log_probabilities.push(of_batch.log_probabilities);
            }
            found.tasks.push(task_of(loaded, of_task).to_owned());
            found.losses.push(loss);
            found.gradients.push(to_host(&model.parameters.gradients)?);
        }
        Ok(found)
    }

    /// Mean loss of each task of a step, without dropout and noise, in nats.
    fn losses(&self, stage: usize, loaded: &LoadedStep) -> Result<Vec<f64>> {
        let smoothing = self.run.loss[stage].label_smoothing;
        let mut found = Vec::new();
        for of_task in by_task(loaded) {
            let mut loss = 0.0;
            for (_, batch) in of_task {
                loss += self.model.score(batch, smoothing)?.loss;
            }
            found.push(loss);
        }
        Ok(found)
    }
}

/// Micro-batches, with the examples of each.
type Batches = [(Range<usize>, Batch)];

/// The micro-batches of each task.
fn by_task(loaded: &LoadedStep) -> impl Iterator<Item = &Batches> {
    let name = |range: &Range<usize>| &loaded.task_names[range.start];
    loaded
        .batches
        .chunk_by(move |(a, _), (b, _)| name(a) == name(b))
}

fn task_of<'a>(loaded: &'a LoadedStep, batches: &Batches) -> &'a str {
    batches
        .first()
        .map_or("", |(range, _)| loaded.task_names[range.start].as_str())
}
