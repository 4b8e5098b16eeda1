//! Step at which a learning curve reaches a score, and comparison of two systems by it.

use serde::Serialize;

use super::Difference;
use super::Resampling;
use super::clusters::Clusters;
use super::estimate::Note;
use super::paired_bootstrap;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Direction of better scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Accuracy, F1, recall.
    Higher,
    /// Error rates, losses.
    Lower,
}

/// The scores of one training at rising steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<(u64, f64)>);

impl Curve {
    /// Makes a curve from `(step, score)`. Errors: no evaluation, steps that do not rise, a score
    /// that is no number.
    pub fn new(evaluations: Vec<(u64, f64)>) -> Result<Self> {
        if evaluations.is_empty() {
            return Err(Error::input("a learning curve without evaluations")
                .hint("set `evaluate.every` in the recipe"));
        }
        if let Some((step, score)) = evaluations.iter().find(|(_, score)| !score.is_finite()) {
            return Err(Error::input(format!("the score at step {step} is {score}")));
        }
        if let Some(pair) = evaluations.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(Error::input(format!(
                "an evaluation at step {} follows one at step {}",
                pair[1].0, pair[0].0
            )));
        }
        Ok(Self(evaluations))
    }

    /// The first step at which the curve, straight between evaluations, is at `score` or better;
    /// `None` if it never is.
    ///
    /// If a curve begins at the score or better, this is its first step, although it may have
    /// reached the score earlier.
    pub fn first_reach(&self, score: f64, better: Better) -> Option<f64> {
        let lead = |(_, found): (u64, f64)| {
            if better == Better::Higher {
                found - score
            } else {
                score - found
            }
        };
        let reached = self
            .0
            .iter()
            .position(|&evaluation| lead(evaluation) >= 0.0)?;
        let step = self.0[reached].0 as f64;
        let ahead = lead(self.0[reached]);
        let Some(before) = reached.checked_sub(1) else {
            return Some(step);
        };
        let step_before = self.0[before].0 as f64;
        let behind = -lead(self.0[before]);
        Some(step_before + (step - step_before) * behind / (behind + ahead))
    }

    /// The step of the last evaluation.
    pub fn last_step(&self) -> u64 {
        self.0[self.0.len() - 1].0
    }
}

/// Steps to a score, of two systems with paired seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Convergence {
    /// The step at which each seed of the first and of the second system reaches its score; `None`
    /// if it does not until the horizon.
    pub steps: [Vec<Option<f64>>; 2],
    /// The last step at which all curves were evaluated; later steps are ignored.
    pub horizon: f64,
    /// Difference of restricted mean steps, second minus first: below 0, the second system is
    /// faster.
    ///
    /// A curve that does not reach its score counts as reaching it at the horizon (the restricted
    /// mean of survival analysis: Irwin 1949; Royston and Parmar 2013), so the difference is that
    /// of the steps spent below the score within the horizon.
    pub difference: Difference,
}

/// Compares two systems' steps to a score by a bootstrap over seeds; `targets` holds the score for
/// each seed.
///
/// Errors: numbers of curves or scores that differ; fewer than two seeds.
pub fn steps_to_reach(
    first: &[Curve],
    second: &[Curve],
    targets: &[f64],
    better: Better,
    resampling: &Resampling,
) -> Result<Convergence> {
    if first.len() != targets.len() || second.len() != targets.len() {
        return Err(Error::input(format!(
            "{} and {} learning curves for {} scores to reach",
            first.len(),
            second.len(),
            targets.len()
        ))
        .hint("seeds are paired: a curve of each system and a score for every seed"));
    }
    if first.len() < 2 {
        return Err(Error::input(format!(
            "{} seed says nothing of the spread between seeds",
            first.len()
        ))
        .hint("train with at least two, better five"));
    }
    let horizon = first
        .iter()
        .chain(second)
        .map(Curve::last_step)
        .min()
        .unwrap_or(0) as f64;
    let reach = |curves: &[Curve]| -> Vec<Option<f64>> {
        let steps = curves.iter().zip(targets);
        let steps = steps.map(|(curve, &target)| curve.first_reach(target, better));
        steps
            .map(|step| step.filter(|&step| step <= horizon))
            .collect()
    };
    let steps = [reach(first), reach(second)];
    let restricted = |steps: &[Option<f64>]| -> Vec<Vec<f64>> {
        steps
            .iter()
            .map(|step| vec![step.unwrap_or(horizon), 1.0])
            .collect()
    };
    let mean = |sum: &[f64]| sum[0] / sum[1];
    let mut difference = paired_bootstrap(
        &restricted(&steps[0]),
        &restricted(&steps[1]),
        &Clusters::each(targets.len()),
        &mean,
        resampling,
    )?;
    let censored =
        [&steps[0], &steps[1]].map(|steps| steps.iter().filter(|step| step.is_none()).count());
    difference.estimate.notes = Note::few(targets.len(), "seeds").into_iter().collect();
    if censored != [0, 0] {
        difference.estimate.notes.push(Note::Censored {
            found: censored,
            curves: targets.len(),
            horizon,
        });
    }
    Ok(Convergence {
        steps,
        horizon,
        difference,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(evaluations: &[(u64, f64)]) -> Curve {
        Curve::new(evaluations.to_vec()).unwrap()
    }

    #[test]
    fn reaching_is_interpolated_between_evaluations() {
        let rising = curve(&[(0, 0.2), (100, 0.4), (200, 0.3), (300, 0.7)]);
        let reach = |score: f64| rising.first_reach(score, Better::Higher);
        assert_eq!(reach(0.1), Some(0.0), "it begins there");
        assert_eq!(reach(0.2), Some(0.0));
        assert!((reach(0.25).unwrap() - 25.0).abs() < 1e-9);
        assert_eq!(reach(0.4), Some(100.0));
        assert!(
            (reach(0.5).unwrap() - 250.0).abs() < 1e-9,
            "the dip at 200 counts"
        );
        assert_eq!(reach(0.71), None);
        let falling = curve(&[(10, 0.9), (20, 0.5)]);
        assert!((falling.first_reach(0.6, Better::Lower).unwrap() - 17.5).abs() < 1e-9);
        assert_eq!(falling.first_reach(0.4, Better::Lower), None);
    }

    #[test]
    fn curves_that_are_none_are_refused() {
        let refused =
            |evaluations: &[(u64, f64)]| Curve::new(evaluations.to_vec()).unwrap_err().to_string();
        assert!(refused(&[]).contains("without evaluations"));
        assert!(
            refused(&[(5, 0.1), (5, 0.2)])
                .contains("an evaluation at step 5 follows one at step 5")
        );
        assert!(refused(&[(5, f64::NAN)]).contains("the score at step 5 is NaN"));
    }

    #[test]
    fn a_faster_system_by_hand() {
        // Straight lines to 1 at step s reach 0.5 at s / 2: 50, 60, 70 and 40, 45, 50; differences
        // -10, -15, -20.
        let lines = |ends: [u64; 3]| ends.map(|end| curve(&[(0, 0.0), (end, 1.0), (200, 1.0)]));
        let found = steps_to_reach(
            &lines([100, 120, 140]),
            &lines([80, 90, 100]),
            &[0.5; 3],
            Better::Higher,
            &Resampling::default(),
        )
        .unwrap();
        let estimate = &found.difference.estimate;
        assert!((estimate.value + 15.0).abs() < 1e-9);
        assert_eq!(found.horizon, 200.0);
        assert_eq!(
            estimate.notes,
            [Note::Few {
                found: 3,
                what: "seeds"
            }]
        );
        // One chance in 27 to draw -10 three times, and as much for -20: more than 2.5 %, so the
        // interval ends there.
        assert!(
            (estimate.interval.low + 20.0).abs() < 1e-9
                && (estimate.interval.high + 10.0).abs() < 1e-9
        );
        // The paired t-test of three differences with mean -15 and deviation 5: t = -15 / (5 /
        // sqrt 3) at 2 degrees of freedom, whose two-sided tail is 1 - t / sqrt(2 + t^2).
        let t = 3.0 * 3f64.sqrt();
        assert!((estimate.student.degrees_of_freedom - 2.0).abs() < 1e-9);
        // The standard error is measured on 10000 resamples: within 3 %, which moves p by at most 6
        // %.
        assert!(
            (found.difference.student_p / (1.0 - t / (2.0 + t * t).sqrt()) - 1.0).abs() < 0.06,
            "{}",
            found.difference.student_p
        );
        assert!(
            found.difference.p < 0.001,
            "the bootstrap's own p-value believes three seeds"
        );
    }

    #[test]
    fn curves_below_the_score_count_at_the_horizon() {
        let reaching = curve(&[(0, 0.0), (100, 1.0)]);
        let never = curve(&[(0, 0.0), (100, 0.3), (400, 0.4)]);
        let late = curve(&[(0, 0.0), (100, 0.4), (300, 0.9)]);
        let found = steps_to_reach(
            &[reaching.clone(), reaching],
            &[never, late],
            &[0.5; 2],
            Better::Higher,
            &Resampling::default(),
        )
        .unwrap();
        assert_eq!(
            found.steps,
            [vec![Some(50.0), Some(50.0)], vec![None, None]],
            "140 lies past the last step that all were judged at"
        );
        assert_eq!(
            (found.horizon, found.difference.estimate.value),
            (100.0, 50.0)
        );
        assert!(found.difference.estimate.notes.contains(&Note::Censored {
            found: [0, 2],
            curves: 2,
            horizon: 100.0
        }));
    }

    #[test]
    fn seeds_that_are_not_paired_are_refused() {
        let one = [curve(&[(0, 0.0)])];
        let run = |first: &[Curve], second: &[Curve], targets: &[f64]| {
            steps_to_reach(
                first,
                second,
                targets,
                Better::Higher,
                &Resampling::default(),
            )
        };
        assert!(
            run(&one, &one, &[0.5])
                .unwrap_err()
                .to_string()
                .contains("1 seed says nothing")
        );
        assert!(
            run(&one, &one, &[0.5; 2])
                .unwrap_err()
                .to_string()
                .contains("1 and 1 learning curves for 2 scores")
        );
    }
}
