//! `log.jsonl` read line by line into what a report shows; a million lines take no more memory than
//! a thousand.

use std::collections::BTreeMap;
use std::path::Path;

use crate::log::AudioGapRecord;
use crate::log::EvalRecord;
use crate::log::GradientsRecord;
use crate::log::Line;
use crate::log::MixtureRecord;
use crate::log::ProbeRecord;
use crate::log::RollBackRecord;
use crate::log::RoundRecord;
use crate::log::SelectionRecord;
use crate::log::StepRecord;
use crate::log::each;
use crate::track::Track;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// What was seen of a task, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Examples.
    pub examples: f64,
    /// Audio, in seconds.
    pub seconds: f64,
    /// Tokens learned.
    pub target_tokens: f64,
}

impl Seen {
    /// Adds what else was seen.
    pub fn add(&mut self, other: &Self) {
        self.examples += other.examples;
        self.seconds += other.seconds;
        self.target_tokens += other.target_tokens;
    }
}

/// A stage as it was run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its first step, from 1.
    pub first: u64,
    /// Its last step so far.
    pub last: u64,
    /// Why it ended, where the log says so.
    pub end: Option<String>,
    /// What was seen, by task.
    pub tasks: BTreeMap<String, Seen>,
    /// Sum and number of the cosines between the gradients of two tasks.
    pub cosines: BTreeMap<(String, String), (f64, f64)>,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Number of the last step.
    pub steps: u64,
    /// Rows that could not be read.
    pub skipped: u64,
    /// Tokens, audio tokens included.
    pub tokens: f64,
    /// The stages, in their order.
    pub stages: Vec<Stage>,
    /// Loss of each step, by target tokens.
    pub loss: Track,
    /// Length of each step's gradient.
    pub grad_norm: Track,
    /// Learning rate of each step.
    pub learning_rate: Track,
    /// Mean difficulty of each step's rows, where stages order rows by it.
    pub difficulty: Track,
    /// Loss of each task, by target tokens.
    pub task_loss: BTreeMap<String, Track>,
    /// Length of each task's gradient, where it was probed.
    pub norms: BTreeMap<String, Track>,
    /// Cosine between the gradients of two tasks, where they were probed.
    pub cosines: BTreeMap<(String, String), Track>,
    /// Weight of each task, where it follows a reward.
    pub weights: BTreeMap<String, Track>,
    /// Moving average of each task's reward.
    pub rewards: BTreeMap<String, Track>,
    /// Weights of each stage that follow a reward, by stage and task.
    pub mixtures: BTreeMap<String, BTreeMap<String, Weighted>>,
    /// Share of pairs of tasks whose gradients PCGrad projected.
    pub projected: Track,
    /// Factor of each task's gradient under FAMO.
    pub factors: BTreeMap<String, Track>,
    /// What `draw: uds` chose rows by.
    pub choice: Choice,
    /// Audio gap of each task's training rows, at its steps.
    pub gaps: BTreeMap<String, Vec<(f64, f64)>>,
    /// Audio gap of each set of the suite.
    pub gaps_of_sets: BTreeMap<String, Vec<(f64, f64)>>,
    /// Scores of the rounds of mSFT.
    pub rounds: Vec<RoundRecord>,
    /// Tasks that left their stage, with their roll-backs.
    pub roll_backs: Vec<RollBackRecord>,
    /// The evaluations.
    pub evaluations: Vec<EvalRecord>,
}

/// Means over a step's rows under `draw: uds`, of all candidates and of those that were chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Nuclear norm of the candidates' logits.
    pub norm: Track,
    /// Nuclear norm of the chosen rows' logits.
    pub chosen_norm: Track,
    /// Distance of the candidates to rows chosen lately.
    pub distance: Track,
    /// Distance of the chosen rows to rows chosen lately.
    pub chosen_distance: Track,
}

/// Weights of a task over a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    /// Weight before training.
    pub first: f64,
    /// Smallest weight.
    pub least: f64,
    /// Largest weight.
    pub most: f64,
    /// Weight so far.
    pub last: f64,
    /// Slots of the stage before the last update.
    pub slots: u64,
}

impl Log {
    /// Reads a log. Lines of kinds that a report does not show are passed over.
    ///
    /// # Errors
    /// A line that is no JSON, lacks what its kind has, or goes back in steps; the message names
    /// file and line.
    pub fn read(path: &Path) -> Result<Self> {
        let mut log = Self::default();
        each(path, |line| log.add(line))?;
        Ok(log)
    }

    fn add(&mut self, line: Line) -> Result<()> {
        match line {
            Line::Train(record) => self.train(&record)?,
            Line::Eval(record) => self.evaluations.push(record),
            Line::Probe(record) => self.probe(&record)?,
            Line::Mixture(record) => self.mixture(&record),
            Line::Gradients(record) => self.gradients(&record),
            Line::StageEnd(end) => {
                let mut stages = self.stages.iter_mut().rev();
                if let Some(stage) = stages.find(|stage| stage.name == end.stage) {
                    stage.end = Some(end.reason);
                }
            }
            Line::AudioGap(record) => self.audio_gap(&record),
            Line::Round(record) => self.rounds.push(record),
            Line::RollBack(record) => self.roll_backs.push(record),
            Line::Selection(record) => self.selection(&record),
            Line::Device(_) => {}
        }
        Ok(())
    }

    fn train(&mut self, record: &StepRecord) -> Result<()> {
        let step = record.step;
        if step <= self.steps {
            return Err(
                Error::input(format!("step {step} comes after step {}", self.steps))
                    .hint("a log has every step once, in order"),
            );
        }
        self.steps = step;
        self.skipped += record.skipped as u64;
        self.tokens += record.tokens as f64;
        let weight = (record.target_tokens as f64).max(1.0);
        self.loss.add(step, record.loss, weight);
        self.grad_norm.add(step, record.grad_norm, 1.0);
        self.learning_rate.add(step, record.learning_rate, 1.0);
        if let Some(difficulty) = record.difficulty {
            self.difficulty.add(step, difficulty, 1.0);
        }
        if self
            .stages
            .last()
            .is_none_or(|stage| stage.name != record.stage)
        {
            self.stages.push(Stage {
                name: record.stage.clone(),
                first: step,
                ..Stage::default()
            });
        }
        for (name, task) in &record.tasks {
            match self.task_loss.get_mut(name) {
                Some(track) => track.add(step, task.loss, task.target_tokens as f64),
                None => {
                    let track = self.task_loss.entry(name.clone()).or_default();
                    track.add(step, task.loss, task.target_tokens as f64);
                }
            }
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.last = step;
            for (name, task) in &record.tasks {
                let seen = Seen {
                    examples: task.examples as f64,
                    seconds: task.seconds,
                    target_tokens: task.target_tokens as f64,
                };
                stage.tasks.entry(name.clone()).or_default().add(&seen);
            }
        }
        Ok(())
    }

    fn probe(&mut self, record: &ProbeRecord) -> Result<()> {
        let at_step = record.at_step;
        for (task, norm) in &record.norms {
            self.norms
                .entry(task.clone())
                .or_default()
                .add(at_step, *norm, 1.0);
        }
        for (pair, &cosine) in &record.cosines {
            let (a, b) = pair.split_once('|').ok_or_else(|| {
                Error::input(format!(
                    "`{pair}` in `cosines` names no pair of tasks, such as `asr|emotion`"
                ))
            })?;
            let pair = (a.to_owned(), b.to_owned());
            if !cosine.is_finite() {
                continue;
            }
            self.cosines
                .entry(pair.clone())
                .or_default()
                .add(at_step, cosine, 1.0);
            // A probe before a stage's first line belongs to the stage that it names.
            if let Some(stage) = self
                .stages
                .iter_mut()
                .rev()
                .find(|stage| record.stage.is_empty() || stage.name == record.stage)
            {
                let sum = stage.cosines.entry(pair).or_default();
                *sum = (sum.0 + cosine, sum.1 + 1.0);
            }
        }
        Ok(())
    }

    fn gradients(&mut self, record: &GradientsRecord) {
        if let Some([projected, pairs]) = record.conflicts.filter(|[_, pairs]| *pairs > 0) {
            let share = projected as f64 / pairs as f64;
            self.projected.add(record.at_step, share, 1.0);
        }
        for (task, factor) in &record.factors {
            let track = self.factors.entry(task.clone()).or_default();
            track.add(record.at_step, *factor, 1.0);
        }
    }

    fn selection(&mut self, record: &SelectionRecord) {
        let choice = &mut self.choice;
        for (track, value) in [
            (&mut choice.norm, record.norm),
            (&mut choice.chosen_norm, record.chosen_norm),
            (&mut choice.distance, record.distance),
            (&mut choice.chosen_distance, record.chosen_distance),
        ] {
            if value.is_finite() {
                track.add(record.at_step, value, 1.0);
            }
        }
    }

    fn mixture(&mut self, record: &MixtureRecord) {
        // The weights hold from the next step on.
        let step = record.at_step + 1;
        for (values, tracks) in [
            (&record.weights, &mut self.weights),
            (&record.rewards, &mut self.rewards),
        ] {
            for (task, value) in values {
                let track = tracks.entry(task.clone()).or_default();
                track.add(step, *value, 1.0);
            }
        }
        let of_stage = self.mixtures.entry(record.stage.clone()).or_default();
        for (task, &weight) in &record.weights {
            let slots = record.counts.get(task).copied().unwrap_or_default();
            let of_task = of_stage.entry(task.clone()).or_insert(Weighted {
                first: weight,
                least: weight,
                most: weight,
                last: weight,
                slots,
            });
            of_task.least = of_task.least.min(weight);
            of_task.most = of_task.most.max(weight);
            (of_task.last, of_task.slots) = (weight, slots);
        }
    }

    fn audio_gap(&mut self, record: &AudioGapRecord) {
        let at_step = record.at_step as f64;
        for (curves, found) in [
            (&mut self.gaps, &record.tasks),
            (&mut self.gaps_of_sets, &record.sets),
        ] {
            for (name, found) in found.iter().filter(|(_, found)| found.gap.is_finite()) {
                let points = curves.entry(name.clone()).or_default();
                points.push((at_step, found.gap));
            }
        }
    }

    /// Everything seen, by task.
    pub fn tasks(&self) -> BTreeMap<String, Seen> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        for (name, seen) in self.stages.iter().flat_map(|stage| &stage.tasks) {
            all.entry(name.clone()).or_default().add(seen);
        }
        all
    }

    /// Everything seen.
    pub fn seen(&self) -> Seen {
        let mut all = Seen::default();
        self.tasks().values().for_each(|seen| all.add(seen));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::files;

    fn read(text: &str) -> Result<Log> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        files::write_atomic(&path, text.as_bytes()).unwrap();
        Log::read(&path)
    }

    const TRAIN: &str = r#"{"kind":"train","step":1,"stage":"listen","loss":2.0,"grad_norm":1.0,"learning_rate":0.1,"examples":3,"tokens":9,"target_tokens":4,"seconds":2.5,"skipped":1,"tasks":{"asr":{"examples":2,"seconds":1.5,"target_tokens":3,"loss":1.0},"emotion":{"examples":1,"seconds":1.0,"target_tokens":1,"loss":5.0}}}"#;

    #[test]
    fn shares_stages_and_probes_are_added_up() {
        let second = TRAIN
            .replace("\"step\":1", "\"step\":2")
            .replace("listen", "discern");
        let probe = r#"{"kind":"probe","at_step":2,"stage":"discern","norms":{"asr":1.5,"emotion":null},"cosines":{"asr|emotion":-0.25}}"#;
        let end = r#"{"kind":"stage_end","at_step":2,"stage":"discern","reason":"no better for 3 evaluations"}"#;
        let eval =
            r#"{"kind":"eval","at_step":2,"control":"no-audio","scores":{"a.wer":1.5,"mean":0.0}}"#;
        let log = read(
            &[
                TRAIN,
                &second,
                probe,
                end,
                eval,
                r#"{"kind":"weather"}"#,
                "",
            ]
            .join("\n"),
        )
        .unwrap();
        assert_eq!(
            (
                log.steps,
                log.skipped,
                log.stages.len(),
                log.stages[1].first
            ),
            (2, 2, 2, 2)
        );
        assert_eq!(
            log.seen(),
            Seen {
                examples: 6.0,
                seconds: 5.0,
                target_tokens: 8.0
            }
        );
        assert_eq!(
            log.tasks()["asr"],
            Seen {
                examples: 4.0,
                seconds: 3.0,
                target_tokens: 6.0
            }
        );
        assert_eq!(
            log.stages[1].cosines[&("asr".to_owned(), "emotion".to_owned())],
            (-0.25, 1.0)
        );
        assert_eq!(
            (log.norms["asr"].mean(), log.norms["emotion"].mean()),
            (Some(1.5), None)
        );
        assert_eq!(
            log.stages[1].end.as_deref(),
            Some("no better for 3 evaluations")
        );
        assert_eq!(
            (
                log.evaluations[0].control.as_deref(),
                log.evaluations[0].scores[0].1
            ),
            (Some("no-audio"), 1.5)
        );
    }

    #[test]
    fn weights_are_followed_with_their_range() {
        let line = |at_step: u64, asr: f64, slots: u64| {
            format!(
                r#"{{"kind":"mixture","at_step":{at_step},"stage":"listen","weights":{{"asr":{asr},"emotion":{}}},"rewards":{{"asr":2.0}},"counts":{{"asr":{slots}}}}}"#,
                1.0 - asr
            )
        };
        let lines = [line(0, 0.5, 0), line(1, 0.75, 3), line(2, 0.625, 5)];
        let log = read(&lines.join("\n")).unwrap();
        assert_eq!(
            log.mixtures["listen"]["asr"],
            Weighted {
                first: 0.5,
                least: 0.5,
                most: 0.75,
                last: 0.625,
                slots: 5
            }
        );
        assert_eq!(
            log.weights["emotion"].points(),
            [(1.0, 0.5), (2.0, 0.25), (3.0, 0.375)]
        );
        assert_eq!(log.rewards["asr"].mean(), Some(2.0));
    }

    #[test]
    fn candidates_and_chosen_rows_are_followed() {
        let line = |at_step: u64, chosen: &str| {
            format!(
                r#"{{"kind":"selection","at_step":{at_step},"stage":"listen","candidates":8,"norm":20.5,"chosen_norm":{chosen},"distance":0.0,"chosen_distance":3.0}}"#
            )
        };
        let log = read(&[line(1, "22.5"), line(2, "null")].join("\n")).unwrap();
        assert_eq!(log.choice.norm.points(), [(1.0, 20.5), (2.0, 20.5)]);
        assert_eq!(log.choice.chosen_norm.points(), [(1.0, 22.5)]);
        assert_eq!(log.choice.distance.mean(), Some(0.0));
        assert_eq!(log.choice.chosen_distance.mean(), Some(3.0));
    }

    #[test]
    fn projections_and_factors_are_followed() {
        let lines = [
            r#"{"kind":"gradients","at_step":1,"conflicts":[3,6]}"#,
            r#"{"kind":"gradients","at_step":2,"conflicts":[0,0]}"#,
            r#"{"kind":"gradients","at_step":3,"factors":{"asr":0.75,"emotion":0.25}}"#,
        ];
        let log = read(&lines.join("\n")).unwrap();
        assert_eq!(log.projected.points(), [(1.0, 0.5)]);
        assert_eq!(log.factors["emotion"].points(), [(3.0, 0.25)]);
    }

    #[test]
    fn a_loss_that_is_no_number_is_left_out() {
        let log = read(&TRAIN.replace("\"loss\":2.0", "\"loss\":null")).unwrap();
        assert_eq!((log.loss.mean(), log.steps), (None, 1));
    }

    #[test]
    fn a_broken_line_is_named() {
        for (text, expected) in [
            (
                format!("{TRAIN}\n{{\"kind\":\"tr"),
                "log.jsonl:2: not a line of a log",
            ),
            (
                format!("{TRAIN}\n{TRAIN}"),
                "log.jsonl:2: step 1 comes after step 1",
            ),
            (
                r#"{"kind":"eval","scores":{}}"#.to_owned(),
                "log.jsonl:1: a line of kind `eval` without `at_step`",
            ),
            (
                r#"{"kind":"probe","at_step":1,"cosines":{"asr":1}}"#.to_owned(),
                "names no pair of tasks",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{error}"
            );
        }
    }
}
