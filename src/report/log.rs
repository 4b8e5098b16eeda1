//! `log.jsonl` read line by line into what a report shows; a million lines take no more memory than a thousand.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files::Lines;
use crate::json;
use crate::report::track::Track;

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

/// Scores by name, in their order.
pub type Scores = Vec<(String, f64)>;

/// One evaluation of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// After this many steps.
    pub at_step: u64,
    /// The control it was asked under, if any.
    pub control: Option<String>,
    /// The scores.
    pub scores: Scores,
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
    /// Loss of each task, by target tokens.
    pub task_loss: BTreeMap<String, Track>,
    /// Length of each task's gradient, where it was probed.
    pub norms: BTreeMap<String, Track>,
    /// Cosine between the gradients of two tasks, where they were probed.
    pub cosines: BTreeMap<(String, String), Track>,
    /// The evaluations.
    pub evaluations: Vec<Logged>,
}

/// A line, of any kind.
#[derive(Deserialize)]
struct Line {
    kind: String,
    step: Option<u64>,
    at_step: Option<u64>,
    #[serde(default)]
    stage: String,
    loss: Option<f64>,
    grad_norm: Option<f64>,
    learning_rate: Option<f64>,
    #[serde(default)]
    tokens: f64,
    #[serde(default)]
    target_tokens: f64,
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    tasks: BTreeMap<String, TaskLine>,
    control: Option<String>,
    #[serde(default)]
    scores: Map<String, Value>,
    #[serde(default)]
    norms: BTreeMap<String, Option<f64>>,
    #[serde(default)]
    cosines: BTreeMap<String, Option<f64>>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct TaskLine {
    #[serde(default)]
    examples: f64,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    target_tokens: f64,
    loss: Option<f64>,
}

impl Log {
    /// Reads a log. Lines of kinds that a report does not show are passed over.
    ///
    /// # Errors
    /// A line that is no JSON, lacks what its kind has, or goes back in steps; the message names file and line.
    pub fn read(path: &Path) -> Result<Self> {
        let mut log = Self::default();
        let mut lines = Lines::open(path)?;
        while let Some((number, text)) = lines.next_line()? {
            let text = String::from_utf8_lossy(text);
            if !text.trim().is_empty() {
                log.line(&text)
                    .map_err(|e| e.at(format!("{}:{number}", path.display())))?;
            }
        }
        Ok(log)
    }

    fn line(&mut self, text: &str) -> Result<()> {
        let line: Line = json::parse(text).map_err(|e| {
            e.at("not a line of a log")
                .hint("while a run is at work its last line may be half written; try again then")
        })?;
        match line.kind.as_str() {
            "train" => self.train(&line),
            "eval" => {
                let scores = numbers(&line.scores);
                self.evaluations.push(Logged {
                    at_step: at_step(&line)?,
                    control: line.control,
                    scores,
                });
                Ok(())
            }
            "probe" => self.probe(&line),
            "stage_end" => {
                if let Some(stage) = self
                    .stages
                    .iter_mut()
                    .rev()
                    .find(|stage| stage.name == line.stage)
                {
                    stage.end = Some(line.reason);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn train(&mut self, line: &Line) -> Result<()> {
        let step = line
            .step
            .ok_or_else(|| Error::input("a line of kind `train` without `step`"))?;
        if step <= self.steps {
            return Err(
                Error::input(format!("step {step} comes after step {}", self.steps))
                    .hint("a log has every step once, in order"),
            );
        }
        self.steps = step;
        self.skipped += line.skipped;
        self.tokens += line.tokens;
        let weight = line.target_tokens.max(1.0);
        self.loss.add(step, line.loss.unwrap_or(f64::NAN), weight);
        self.grad_norm
            .add(step, line.grad_norm.unwrap_or(f64::NAN), 1.0);
        self.learning_rate
            .add(step, line.learning_rate.unwrap_or(f64::NAN), 1.0);
        if self
            .stages
            .last()
            .is_none_or(|stage| stage.name != line.stage)
        {
            self.stages.push(Stage {
                name: line.stage.clone(),
                first: step,
                ..Stage::default()
            });
        }
        for (name, task) in &line.tasks {
            match self.task_loss.get_mut(name) {
                Some(track) => track.add(step, task.loss.unwrap_or(f64::NAN), task.target_tokens),
                None => {
                    let track = self.task_loss.entry(name.clone()).or_default();
                    track.add(step, task.loss.unwrap_or(f64::NAN), task.target_tokens);
                }
            }
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.last = step;
            for (name, task) in &line.tasks {
                let seen = Seen {
                    examples: task.examples,
                    seconds: task.seconds,
                    target_tokens: task.target_tokens,
                };
                stage.tasks.entry(name.clone()).or_default().add(&seen);
            }
        }
        Ok(())
    }

    fn probe(&mut self, line: &Line) -> Result<()> {
        let at_step = at_step(line)?;
        for (task, norm) in &line.norms {
            self.norms
                .entry(task.clone())
                .or_default()
                .add(at_step, norm.unwrap_or(f64::NAN), 1.0);
        }
        for (pair, cosine) in &line.cosines {
            let (a, b) = pair.split_once('|').ok_or_else(|| {
                Error::input(format!(
                    "`{pair}` in `cosines` names no pair of tasks, such as `asr|emotion`"
                ))
            })?;
            let pair = (a.to_owned(), b.to_owned());
            let Some(cosine) = cosine.filter(|cosine| cosine.is_finite()) else {
                continue;
            };
            self.cosines
                .entry(pair.clone())
                .or_default()
                .add(at_step, cosine, 1.0);
            // A probe before a stage's first line belongs to the stage that it names.
            if let Some(stage) = self
                .stages
                .iter_mut()
                .rev()
                .find(|stage| line.stage.is_empty() || stage.name == line.stage)
            {
                let sum = stage.cosines.entry(pair).or_default();
                *sum = (sum.0 + cosine, sum.1 + 1.0);
            }
        }
        Ok(())
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

fn at_step(line: &Line) -> Result<u64> {
    line.at_step
        .ok_or_else(|| Error::input(format!("a line of kind `{}` without `at_step`", line.kind)))
}

/// The numbers among the values of an object, in their order.
pub fn numbers(object: &Map<String, Value>) -> Scores {
    object
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

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
