//! The gradient of each task apart: how long it is, and how far two tasks pull the same way. It
//! changes no parameter.
//!
//! A task's gradient is that of the mean loss over its own examples of the step, so lengths can be
//! compared whatever share of the batch a task has. A negative cosine says that a step which lowers
//! one task's loss raises the other's, to first order: negative transfer as it happens (Yu et al.
//! 2020, *Gradient surgery for multi-task learning*, section 2).

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::batch::Sequence;
use crate::batch::micro_batches;
use crate::error::Result;
use crate::loss_weights;
use crate::loss_weights::Normalise;
use crate::models::AudioLlm;
use crate::models::Pass;
use crate::ops::device::to_host;
use crate::train::step::LoadedStep;

/// Lengths and cosines of the tasks' gradients.
pub(super) struct Gradients {
    pub norms: BTreeMap<String, f64>,
    pub cosines: BTreeMap<String, f64>,
}

/// Settings of the step's loss.
#[derive(Clone, Copy)]
pub(super) struct LossSettings {
    pub pass: Pass,
    pub normalise: Normalise,
    pub pack_tokens: usize,
}

/// The gradients of a step's tasks, one after the other. What the parameters' gradient buffer held
/// is lost.
pub(super) fn gradients(
    model: &AudioLlm,
    loaded: &LoadedStep,
    settings: LossSettings,
) -> Result<Gradients> {
    let tasks: Vec<&String> = loaded
        .tasks()
        .into_keys()
        .filter_map(|task| loaded.task_names.iter().find(|name| **name == task))
        .collect();
    let gradients = tasks
        .iter()
        .map(|task| of_task(model, loaded, task, settings))
        .collect::<Result<Vec<_>>>()?;
    let norms: Vec<f64> = gradients
        .iter()
        .map(|gradient| dot(gradient, gradient).sqrt())
        .collect();

    let mut norms_by_task = BTreeMap::new();
    let mut cosines = BTreeMap::new();
    for (i, task) in tasks.iter().enumerate() {
        norms_by_task.insert((*task).clone(), norms[i]);
        for (j, other) in tasks.iter().enumerate().skip(i + 1) {
            let length = norms[i] * norms[j];
            if length > 0.0 {
                let cosine = dot(&gradients[i], &gradients[j]) / length;
                cosines.insert(format!("{task}|{other}"), cosine);
            }
        }
    }

    Ok(Gradients {
        norms: norms_by_task,
        cosines,
    })
}

fn of_task(
    model: &AudioLlm,
    loaded: &LoadedStep,
    task: &str,
    settings: LossSettings,
) -> Result<Vec<f32>> {
    let of_task: Vec<usize> = (0..loaded.examples.len())
        .filter(|&i| loaded.task_names[i] == task)
        .collect();
    let counted: Vec<loss_weights::Counted> = of_task.iter().map(|&i| loaded.counted[i]).collect();
    let weights = loss_weights::weights(&counted, settings.normalise);
    let weighed = |(&i, &target_weight): (&usize, &f64)| Sequence {
        target_weight,
        ..loaded.examples[i].sequence.clone()
    };
    let sequences: Vec<Sequence> = of_task.iter().zip(&weights).map(weighed).collect();
    let lengths: Vec<usize> = sequences
        .iter()
        .map(|sequence| sequence.tokens.len())
        .collect();
    model.parameters.zero_gradients()?;
    for range in micro_batches(&lengths, settings.pack_tokens) {
        let batch = Batch::pack(
            &sequences[range].iter().collect::<Vec<_>>(),
            model.config.framing(),
        )?;
        model.train(&batch, None, settings.pass)?;
    }
    Ok(to_host(&model.parameters.gradients)?)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}
