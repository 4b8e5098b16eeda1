//! `environment.json`: how long a run took, on which machine, and by which build. The log holds nothing of this.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use chrono::SecondsFormat;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::machine;
use crate::machine::Machine;
use crate::nn::precision::Computes;
use crate::train::log::StepRecord;

/// Name of the file in a run's folder.
pub const FILE: &str = "environment.json";

/// Number of the file's format.
const FORMAT: u32 = 1;

/// Where, when, how fast and by which build a run was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Format of the file.
    pub format: u32,
    /// Time over all sessions, evaluations and checkpoints included, in seconds.
    pub wall_s: f64,
    /// Work over all sessions, with speeds.
    #[serde(flatten)]
    pub work: Work,
    /// The sessions, in order: a resume begins a new one.
    pub sessions: Vec<Session>,
}

/// Training work, and its speed without evaluations and checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Time in training steps alone, in seconds.
    pub training_s: f64,
    /// Optimiser steps; those that a crash made necessary again count again.
    pub steps: u64,
    /// Audio, in seconds.
    pub audio_s: f64,
    /// Tokens, audio tokens included.
    pub tokens: u64,
    /// Optimiser steps per second.
    pub steps_per_s: f64,
    /// Seconds of audio per second.
    pub audio_s_per_s: f64,
    /// Tokens per second.
    pub tokens_per_s: f64,
}

impl Work {
    fn add(&mut self, other: &Self) {
        self.training_s += other.training_s;
        self.steps += other.steps;
        self.audio_s += other.audio_s;
        self.tokens += other.tokens;
        self.measure();
    }

    fn measure(&mut self) {
        let rate = |amount: f64| {
            if self.training_s > 0.0 {
                amount / self.training_s
            } else {
                0.0
            }
        };
        (self.steps_per_s, self.audio_s_per_s, self.tokens_per_s) = (
            rate(self.steps as f64),
            rate(self.audio_s),
            rate(self.tokens as f64),
        );
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has not ended, or was killed after the time in `ended`.
    Running,
    /// The run came to its last step.
    Done,
    /// The user stopped it.
    Interrupted,
    /// An error ended it.
    Failed,
}

/// One process that worked on a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// When it ended; while it runs, and after a kill, the time of its last checkpoint or evaluation.
    pub ended: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Time from one to the other, in seconds.
    pub wall_s: f64,
    /// Finished steps of the run as it began.
    pub from_step: u64,
    /// Finished steps of the run as it ended.
    pub to_step: u64,
    /// What it did.
    #[serde(flatten)]
    pub work: Work,
    /// Version of maqam.
    pub version: String,
    /// Commit that it was built from.
    pub commit: String,
    /// Optional features of the build.
    pub features: Vec<String>,
    /// Device and type of the computation, such as `cpu f32`.
    pub computes: String,
    /// The machine.
    pub machine: Machine,
}

/// The record of a run, with the session that goes on now.
pub struct Recorder {
    path: PathBuf,
    earlier: Vec<Session>,
    now: Session,
    begun: Instant,
}

impl Recorder {
    /// Begins a session of the run in `folder`, which stands at `step`. What earlier sessions wrote is kept; a file that cannot be read
    /// counts as none, because nothing depends on it.
    pub fn begin(folder: &Path, step: u64, computes: Computes, machine: &Machine) -> Self {
        let path = folder.join(FILE);
        let earlier = files::read_text(&path)
            .ok()
            .and_then(|text| serde_json::from_str::<Environment>(&text).ok())
            .map(|environment| environment.sessions)
            .unwrap_or_default();
        let now = Session {
            started: timestamp(),
            ended: timestamp(),
            outcome: Outcome::Running,
            wall_s: 0.0,
            from_step: step,
            to_step: step,
            work: Work::default(),
            version: machine::VERSION.to_owned(),
            commit: machine::COMMIT.to_owned(),
            features: machine::features(),
            computes: computes.to_string(),
            machine: machine.clone(),
        };
        Self {
            path,
            earlier,
            now,
            begun: Instant::now(),
        }
    }

    /// Counts a finished step and the time it took.
    pub fn step(&mut self, record: &StepRecord, took: Duration) {
        let work = &mut self.now.work;
        work.training_s += took.as_secs_f64();
        work.steps += 1;
        work.audio_s += record.seconds;
        work.tokens += record.tokens as u64;
        self.now.to_step = record.step;
    }

    /// Writes the file as it stands.
    pub fn write(&mut self) -> Result<()> {
        self.now.wall_s = self.begun.elapsed().as_secs_f64();
        self.now.ended = timestamp();
        self.now.work.measure();
        let sessions: Vec<Session> = self.earlier.iter().chain([&self.now]).cloned().collect();
        let mut work = Work::default();
        sessions.iter().for_each(|session| work.add(&session.work));
        let environment = Environment {
            format: FORMAT,
            wall_s: sessions.iter().map(|session| session.wall_s).sum(),
            work,
            sessions,
        };
        let text = serde_json::to_string_pretty(&environment).map_err(Error::bug)?;

        files::write_atomic(&self.path, (text + "\n").as_bytes())
    }

    /// Writes the file for the last time.
    pub fn end<T>(&mut self, outcome: &Result<T>) -> Result<()> {
        self.now.outcome = match outcome {
            Ok(_) => Outcome::Done,
            Err(error) if error.kind == Kind::Interrupted => Outcome::Interrupted,
            Err(_) => Outcome::Failed,
        };
        self.write()
    }
}

/// The time now, RFC 3339 in UTC, to the second.
fn timestamp() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord {
            kind: "train",
            step,
            stage: "listen".into(),
            loss: 1.0,
            grad_norm: 1.0,
            learning_rate: 1e-3,
            examples: 2,
            tokens: 300,
            target_tokens: 20,
            seconds: 6.0,
            skipped: 0,
            tasks: BTreeMap::new(),
        }
    }

    #[test]
    fn sessions_add_up_and_speeds_are_of_steps_alone() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::here(None);
        let read = || -> Environment {
            serde_json::from_str(&files::read_text(&dir.path().join(FILE)).unwrap()).unwrap()
        };
        let mut first = Recorder::begin(dir.path(), 0, Computes::default(), &machine);
        first.step(&record(1), Duration::from_secs(2));
        first.step(&record(2), Duration::from_secs(4));
        first
            .end(&Err::<(), _>(Error::new(Kind::Interrupted, "stopped")))
            .unwrap();
        let mut second = Recorder::begin(dir.path(), 2, Computes::default(), &machine);
        second.step(&record(3), Duration::from_secs(6));
        second.write().unwrap();
        assert_eq!(read().sessions[1].outcome, Outcome::Running);
        second.end(&Ok(())).unwrap();

        let found = read();
        // Three steps of 6 s of audio and 300 tokens in 12 s.
        assert_eq!(
            (
                found.work.steps,
                found.work.training_s,
                found.work.steps_per_s
            ),
            (3, 12.0, 0.25)
        );
        assert_eq!(
            (found.work.audio_s_per_s, found.work.tokens_per_s),
            (1.5, 75.0)
        );
        let sessions = &found.sessions;
        assert_eq!(
            sessions
                .iter()
                .map(|session| (session.from_step, session.to_step, session.outcome))
                .collect::<Vec<_>>(),
            [(0, 2, Outcome::Interrupted), (2, 3, Outcome::Done)]
        );
        assert!((found.wall_s - sessions[0].wall_s - sessions[1].wall_s).abs() < 1e-9);
        assert_eq!(sessions[0].commit, machine::COMMIT);
        assert!(sessions[0].started.ends_with('Z') && sessions[0].started <= sessions[0].ended);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        files::write_atomic(&dir.path().join(FILE), b"{\"format\": 1, \"ses").unwrap();
        let mut recorder = Recorder::begin(dir.path(), 5, Computes::default(), &Machine::default());
        recorder.write().unwrap();
        let text = files::read_text(&dir.path().join(FILE)).unwrap();
        let found: Environment = serde_json::from_str(&text).unwrap();
        assert_eq!((found.sessions.len(), found.sessions[0].from_step), (1, 5));
    }
}
