//! mSFT: tasks leave a stage one by one at the peak of their dev score, and training goes on from
//! that peak. After arXiv 2603.21606 (2026).
//!
//! A round trains all active tasks for four intervals and scores them after each; the rule over
//! those scores is [`maqam_stats::msft`]. The paper selects on test sets; here half of dev selects,
//! and the other half is reported. `Segments` maps the steps of a stage to the slots that the
//! remaining tasks get after each roll-back.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::slots::Slots;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_stats::msft::Exclusion;

/// Evaluations of a round.
pub const EVALUATIONS: u64 = 4;

/// `end:` of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndRule {
    /// Tasks leave the stage one by one at the peak of their dev score.
    Msft,
}

/// `msft:` of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MsftSettings {
    /// Length of a round, in epochs of the active task with the fewest rows.
    pub budget: f64,
    /// Score of the dev suite that decides about each task; by default the metric of the task in
    /// its first set, or the first of that set if it does not compute the task's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, String>,
}

impl Default for MsftSettings {
    fn default() -> Self {
        Self {
            budget: 1.0,
            scores: BTreeMap::new(),
        }
    }
}

/// A stage between two roll-backs.
#[derive(Clone, Debug)]
struct Segment {
    /// Computed step of the stage at which it begins.
    first: u64,
    /// Place of that step in the curriculum: the number of steps that count until then.
    place: u64,
    /// Slots of the active tasks; `None` if there are none.
    slots: Option<Slots>,
    /// Slots that those tasks had before.
    taken: u64,
}

/// The steps of a stage with its roll-backs.
///
/// A slot that would have gone to an excluded task is passed over. Webster's ranks of the others do
/// not depend on it, so the slots of the others after `n` of theirs are those of a division without
/// it.
#[derive(Clone, Debug, Default)]
pub(super) struct Segments {
    batch: u64,
    /// None for a stage without roll-backs.
    segments: Vec<Segment>,
    /// Draws from pools of excluded tasks, by pool.
    left: BTreeMap<usize, u64>,
}

impl Segments {
    /// The steps of a stage with these slots after some tasks have left. `task_of` names the task
    /// of a pool.
    ///
    /// # Errors
    /// A bug if a roll-back goes to a step that was not computed.
    pub(super) fn new(
        slots: &Slots,
        batch: u64,
        task_of: impl Fn(usize) -> String,
        excluded: &[Exclusion],
    ) -> Result<Self> {
        let mut found = Self {
            batch,
            segments: vec![Segment {
                first: 0,
                place: 0,
                slots: Some(slots.clone()),
                taken: 0,
            }],
            left: BTreeMap::new(),
        };
        for exclusion in excluded {
            let bug = || Error::bug(format!("a roll-back to step {}", exclusion.to));
            let of_peak = found.segment_after(exclusion.to).ok_or_else(bug)?;
            let place = of_peak.place + exclusion.to - of_peak.first;
            let mut counts = found.counts(of_peak, exclusion.to - of_peak.first);
            let leaves = |pool: usize| task_of(pool) == exclusion.task;
            let left: BTreeMap<usize, u64> = counts
                .iter()
                .filter(|(pool, _)| leaves(**pool))
                .map(|(pool, count)| (*pool, *count))
                .collect();
            // Of the segment of the peak, tasks that left since are still among the pools.
            let last = found.segments.last().and_then(|last| last.slots.as_ref());
            let slots = last.and_then(|slots| slots.without(&leaves));
            let active = slots.as_ref().map(Slots::pools).unwrap_or_default();
            counts.retain(|pool, _| active.contains(pool));
            found.left.extend(left);
            found.segments.push(Segment {
                first: exclusion.at,
                place,
                slots,
                taken: counts.values().sum(),
            });
        }
        Ok(found)
    }

    /// The segment whose steps lead to the state after `done` computed steps, before a roll-back
    /// there.
    fn segment_after(&self, done: u64) -> Option<&Segment> {
        let leads = |segment: &&Segment| segment.first < done || segment.first == 0;
        self.segments.iter().rev().find(leads)
    }

    /// Draws from each pool of a segment after some of its steps, those before it included.
    fn counts(&self, segment: &Segment, steps: u64) -> BTreeMap<usize, u64> {
        let Some(slots) = &segment.slots else {
            return BTreeMap::new();
        };
        let pools = slots.pools();
        let mut counts = vec![0; pools.last().map_or(0, |last| last + 1)];
        slots
            .at(segment.taken + steps * self.batch)
            .add_counts(&mut counts);
        pools.into_iter().map(|pool| (pool, counts[pool])).collect()
    }

    /// Whether no task has left.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Number of steps that count after `done` computed steps.
    pub(super) fn place(&self, done: u64) -> u64 {
        match self.segments.iter().rfind(|segment| segment.first <= done) {
            Some(segment) => segment.place + done - segment.first,
            None => done,
        }
    }

    /// The slots of a computed step, and the number of the first of them; `None` if no task is
    /// active.
    pub(super) fn slots(&self, step: u64) -> Option<(&Slots, u64)> {
        let segment = self
            .segments
            .iter()
            .rfind(|segment| segment.first <= step)?;
        let first = segment.taken + (step - segment.first) * self.batch;
        Some((segment.slots.as_ref()?, first))
    }

    /// Adds the draws from each pool after `done` computed steps to `totals`.
    pub(super) fn add_counts(&self, done: u64, totals: &mut [u64]) {
        let Some(segment) = self.segments.iter().rfind(|segment| segment.first <= done) else {
            return;
        };
        for (pool, count) in self.counts(segment, done - segment.first) {
            totals[pool] += count;
        }
        for (&pool, count) in &self.left {
            totals[pool] += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exclusion(task: &str, at: u64, to: u64) -> Exclusion {
        Exclusion {
            task: task.to_owned(),
            at,
            to,
        }
    }

    proptest! {
        /// Steps against a simulation that walks the slots of all tasks one by one and copies its
        /// counters to roll back.
        #[test]
        fn segments_are_those_of_a_walk(weights in prop::collection::vec(0.1..9f64, 3), inner in 0.2..0.8f64, batch in 1u64..6, rounds in prop::collection::vec((1u64..6, 0u64..6), 2)) {
            // Pools 0 and 1 are of task a, 2 of b, 3 of c.
            let slots = Slots::split(vec![
                (weights[0], Slots::split(vec![(inner, Slots::Pool(0)), (1.0 - inner, Slots::Pool(1))])),
                (weights[1], Slots::Pool(2)),
                (weights[2], Slots::Pool(3)),
            ]);
            let task_of = |pool: usize| ["a", "a", "b", "c"][pool].to_owned();

            // The walk: slots taken of the whole division, draws by pool, and steps that count.
            let mut walked: Vec<Vec<(usize, u64)>> = Vec::new();
            let mut states = vec![(0u64, [0u64; 4], 0u64)];
            let mut state = states[0];
            let mut gone: Vec<String> = Vec::new();
            let mut excluded = Vec::new();
            let mut places = Vec::new();
            for (round, (length, back)) in rounds.iter().enumerate() {
                for _ in 0..*length {
                    places.push(state.2);
                    let mut cursor = slots.at(state.0);
                    let mut step = Vec::new();
                    while step.len() < batch as usize {
                        let (pool, _) = cursor.next();
                        state.0 += 1;
                        if gone.contains(&task_of(pool)) {
                            continue;
                        }
                        step.push((pool, state.1[pool]));
                        state.1[pool] += 1;
                    }
                    state.2 += 1;
                    walked.push(step);
                    states.push(state);
                }
                let at = walked.len() as u64;
                let to = match *back < *length {
                    true => at - back,
                    // Where the round began, as the roll-back before left it.
                    false => excluded.last().map_or(0, |last: &Exclusion| last.to),
                };
                let task = ["b", "a"][round].to_owned();
                excluded.push(exclusion(&task, at, to));
                state = states[to as usize];
                gone.push(task);
            }
            for _ in 0..4 {
                places.push(state.2);
                let mut cursor = slots.at(state.0);
                let mut step = Vec::new();
                while step.len() < batch as usize {
                    let (pool, _) = cursor.next();
                    state.0 += 1;
                    if !gone.contains(&task_of(pool)) {
                        step.push((pool, state.1[pool]));
                        state.1[pool] += 1;
                    }
                }
                state.2 += 1;
                walked.push(step);
            }

            let segments = Segments::new(&slots, batch, task_of, &excluded).unwrap();
            for (step, expected) in walked.iter().enumerate() {
                let (slots, first) = segments.slots(step as u64).unwrap();
                let mut cursor = slots.at(first);
                let found: Vec<(usize, u64)> = (0..batch).map(|_| cursor.next()).collect();
                prop_assert_eq!(&found, expected, "step {}", step);
                prop_assert_eq!(segments.place(step as u64), places[step]);
            }
            let mut totals = [0; 4];
            segments.add_counts(walked.len() as u64, &mut totals);
            prop_assert_eq!(totals, state.1);
        }
    }
}
