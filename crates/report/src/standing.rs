//! Which of a run's scores and evaluations stand for it.

use crate::metric::Metric;
use maqam_records::run_folder::Evaluation;
use maqam_records::run_folder::Run;

/// Whether a score is of the metric that stands for its set's task.
pub fn is_own(run: &Run, metric: &Metric) -> bool {
    let task = metric.set.as_deref().and_then(|set| run.task_of(set));
    task.is_some_and(|task| task.metric == metric.name)
}

/// The evaluation that is best by the score that the recipe keeps by: on the half of dev that
/// selects, where the log has that.
pub fn best(run: &Run) -> Option<&Evaluation> {
    let keep = run.keep_best();
    let mut all: Vec<&Evaluation> = run.rolled_back.iter().chain(&run.evaluations).collect();
    all.sort_by_key(|evaluation| evaluation.step);
    let is_by_half = all.iter().any(|evaluation| evaluation.selecting.is_some());
    if is_by_half {
        // A run that ends by a roll-back evaluates the peak twice. Training keeps the first of
        // equal evaluations, and `Metric::best` returns the last.
        all.reverse();
    }
    let score = |evaluation: &&Evaluation| match is_by_half {
        true => evaluation.selecting,
        false => evaluation.score(keep),
    };
    let values: Vec<Option<f64>> = all.iter().map(score).collect();
    let place = Metric::of(keep).best(&values)?;
    Some(all[place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::files;

    /// The best evaluation of a run with these lines: its step, its `mean` and whether it was
    /// rolled back.
    fn best_of(lines: &[&str]) -> Option<(u64, f64, bool)> {
        let dir = tempfile::tempdir().unwrap();
        let text = lines.join("\n") + "\n";
        files::write_atomic(&dir.path().join("log.jsonl"), text.as_bytes()).unwrap();
        let run = Run::read(dir.path()).unwrap();
        let best = best(&run)?;
        Some((best.step, best.score("mean")?, best.is_rolled_back))
    }

    #[test]
    fn the_best_is_that_of_the_selecting_half() {
        let first = r#"{"kind":"eval","at_step":2,"selecting":0.5,"scores":{"mean":0.25}}"#;
        let second = r#"{"kind":"eval","at_step":4,"selecting":0.25,"scores":{"mean":0.75}}"#;
        assert_eq!(best_of(&[first, second]), Some((2, 0.25, false)));
        let first = first.replace("\"selecting\":0.5,", "");
        let second = second.replace("\"selecting\":0.25,", "");
        assert_eq!(best_of(&[&first, &second]), Some((4, 0.75, false)));
    }

    #[test]
    fn an_evaluation_before_a_roll_back_may_be_the_best() {
        let peak = r#"{"kind":"eval","at_step":2,"selecting":0.5,"scores":{"mean":0.5}}"#;
        let again = r#"{"kind":"eval","at_step":4,"selecting":0.5,"scores":{"mean":0.5}}"#;
        let last = |selecting: f64| {
            format!(
                r#"{{"kind":"eval","at_step":4,"selecting":{selecting},"scores":{{"mean":0.125}}}}"#
            )
        };
        let found = best_of(&[peak, &last(0.75), again]);
        assert_eq!(found, Some((4, 0.125, true)));
        let found = best_of(&[peak, &last(0.25), again]);
        assert_eq!(found, Some((2, 0.5, false)), "the first of equals");
    }
}
