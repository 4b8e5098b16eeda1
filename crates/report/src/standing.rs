//! Which of a run's scores and evaluations stand for it.

use crate::metric::Metric;
use maqam_records::run_folder::Evaluation;
use maqam_records::run_folder::Run;

/// Whether a score is of the metric that stands for its set's task.
pub fn is_own(run: &Run, metric: &Metric) -> bool {
    let task = metric.set.as_deref().and_then(|set| run.task_of(set));
    task.is_some_and(|task| task.metric == metric.name)
}

/// The evaluation that is best by the score that the recipe keeps by.
pub fn best(run: &Run) -> Option<&Evaluation> {
    let keep = run.keep_best();
    let values: Vec<Option<f64>> = run
        .evaluations
        .iter()
        .map(|evaluation| evaluation.score(keep))
        .collect();
    Metric::of(keep)
        .best(&values)
        .map(|place| &run.evaluations[place])
}
