//! The rule of mSFT over scores: which task leaves, and the step of its peak. After arXiv 2603.21606
//! (2026).
//!
//! A round trains all active tasks and scores them at equal intervals. At its end, the task whose
//! score peaked first is excluded, and training rolls back to the step of the peak. A round in which
//! no score peaked is continued by the next.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// State of a stage: steps count the computed steps of the stage, those that were rolled back among
/// them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Step after which the round began.
    pub began: u64,
    /// Scores of the round, from its start if that was scored.
    pub scored: Vec<Scored>,
    /// Excluded tasks with their roll-backs, in order.
    pub excluded: Vec<Exclusion>,
    /// Step whose parameters and moments are to be restored before the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
}

/// Scores after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The step.
    pub step: u64,
    /// Score of each active task; higher is better.
    pub scores: BTreeMap<String, f64>,
}

/// A task that left the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusion {
    /// The task.
    pub task: String,
    /// Step after which it left.
    pub at: u64,
    /// Step of its peak, from which training continued.
    pub to: u64,
}

impl Progress {
    /// Adds the scores of the active tasks after a step; higher ones are better. Returns the task
    /// that leaves here, if the round of `round` steps is over and a score peaked.
    pub fn add(
        &mut self,
        step: u64,
        scores: BTreeMap<String, f64>,
        round: u64,
    ) -> Option<Exclusion> {
        self.scored.push(Scored { step, scores });
        if step < self.began + round {
            return None;
        }
        self.began = step;
        let Some((task, place)) = first_peak(&self.scored) else {
            self.scored.drain(..self.scored.len() - 1);
            return None;
        };

        let mut start = self.scored.swap_remove(place);
        start.scores.remove(&task);
        let exclusion = Exclusion {
            task,
            at: step,
            to: start.step,
        };
        self.pending = Some(start.step);
        self.scored = vec![start];
        self.excluded.push(exclusion.clone());
        Some(exclusion)
    }
}

/// The task whose score peaks first, with the place of its peak. A peak is a best score that is
/// followed by a worse one. The earlier of equal scores is the best. Among peaks at one place, the
/// task's name decides.
pub fn first_peak(curve: &[Scored]) -> Option<(String, usize)> {
    let tasks = curve.last()?.scores.keys();
    tasks
        .filter_map(|task| Some((peak(curve, task)?, task)))
        .min()
        .map(|(place, task)| (task.clone(), place))
}

/// Place of the peak of a task's score.
fn peak(curve: &[Scored], task: &str) -> Option<usize> {
    let scores: Vec<f64> = curve
        .iter()
        .map(|scored| scored.scores.get(task).copied())
        .collect::<Option<_>>()?;
    let best = (1..scores.len()).fold(0, |best, place| {
        if scores[place] > scores[best] {
            place
        } else {
            best
        }
    });
    scores[best + 1..]
        .iter()
        .any(|score| *score < scores[best])
        .then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scores(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        let pair = |(task, value): &(&str, f64)| ((*task).to_owned(), *value);
        values.iter().map(pair).collect()
    }

    fn exclusion(task: &str, at: u64, to: u64) -> Exclusion {
        Exclusion {
            task: task.to_owned(),
            at,
            to,
        }
    }

    /// Three tasks, rounds of four steps, scored at every step; worked by hand.
    ///
    /// | step | asr | emotion | dialect | |
    /// |---|---|---|---|---|
    /// | 1 to 4 | 1 2 3 4 | 5 7 6 6 | 2 3 3 1 | emotion and dialect peak at 2, dialect by name |
    /// | 5 to 8, from 2 | 3 4 5 6 | 8 9 9 9 | | emotion's last score is no worse: no peak |
    /// | 9 to 12, from 8 | 7 5 5 5 | 8 7 7 7 | | emotion peaks at 8, where the round began |
    /// | 13 to 16, from 8 | 7 8 8 8 | | | no peak |
    /// | 17 to 20, from 16 | 8 8 7 9 | | | best at the end: no peak |
    /// | 21 to 24, from 20 | 8 8 8 8 | | | peaked at 20 |
    #[test]
    fn exclusions_are_those_by_hand() {
        let rounds: [&[(&str, [f64; 4])]; 6] = [
            &[
                ("asr", [1., 2., 3., 4.]),
                ("emotion", [5., 7., 6., 6.]),
                ("dialect", [2., 3., 3., 1.]),
            ],
            &[("asr", [3., 4., 5., 6.]), ("emotion", [8., 9., 9., 9.])],
            &[("asr", [7., 5., 5., 5.]), ("emotion", [8., 7., 7., 7.])],
            &[("asr", [7., 8., 8., 8.])],
            &[("asr", [8., 8., 7., 9.])],
            &[("asr", [8., 8., 8., 8.])],
        ];
        let expected = [
            Some(exclusion("dialect", 4, 2)),
            None,
            Some(exclusion("emotion", 12, 8)),
            None,
            None,
            Some(exclusion("asr", 24, 20)),
        ];
        let mut progress = Progress::default();
        for (round, (curves, expected)) in rounds.iter().zip(expected).enumerate() {
            for step in 0..4 {
                let values: Vec<(&str, f64)> = curves
                    .iter()
                    .map(|(task, curve)| (*task, curve[step]))
                    .collect();
                let found = progress.add((4 * round + step) as u64 + 1, scores(&values), 4);
                let due = if step == 3 { expected.clone() } else { None };
                assert_eq!(found, due, "round {round}, step {step}");
            }
            assert_eq!(progress.scored.len(), 1);
        }
        assert_eq!(progress.pending, Some(20));
        assert!(progress.scored[0].scores.is_empty());
        let text = serde_json::to_string(&progress).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
    }

    proptest! {
        /// All pairs of a task and a place, tested by the definition.
        #[test]
        fn first_peaks_are_those_of_the_definition(curves in prop::collection::vec(prop::collection::vec(0u8..4, 5), 1..5)) {
            let curve: Vec<Scored> = (0..5)
                .map(|place| Scored {
                    step: place as u64,
                    scores: curves.iter().enumerate().map(|(task, curve)| (format!("t{task}"), f64::from(curve[place]))).collect(),
                })
                .collect();
            let mut expected = None;
            'search: for place in 0..5 {
                for (task, curve) in curves.iter().enumerate() {
                    let is_best = curve.iter().all(|score| *score <= curve[place]);
                    let is_first = curve[..place].iter().all(|score| *score < curve[place]);
                    let is_followed = curve[place + 1..].iter().any(|score| *score < curve[place]);
                    if is_best && is_first && is_followed {
                        expected = Some((format!("t{task}"), place));
                        break 'search;
                    }
                }
            }
            prop_assert_eq!(first_peak(&curve), expected);
        }
    }
}
