//! `environment.json`: how long a run took, on which machine, and by which build. The log holds
//! nothing of this.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use chrono::SecondsFormat;
use chrono::Utc;

use crate::error::Kind;
use crate::error::Result;
use crate::machine;
use crate::nn::precision::Computes;
use crate::records::environment::Environment;
use crate::records::environment::FORMAT;
use crate::records::environment::Machine;
use crate::records::environment::Outcome;
use crate::records::environment::Session;
use crate::records::environment::Work;
use crate::records::log::StepRecord;

/// Time of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Time from its beginning to its end, without the probe of its gradients.
    pub took: Duration,
    /// Part of it in which nothing was computed, because its rows were not read yet.
    pub waited: Duration,
}

impl Pace {
    /// Share of the time that was waited; 0 for a step without time.
    pub fn waiting_share(self) -> f64 {
        match self.took.as_secs_f64() {
            0.0 => 0.0,
            took => self.waited.as_secs_f64() / took,
        }
    }
}

/// The record of a run, with the session that goes on now.
pub struct Recorder {
    folder: PathBuf,
    earlier: Vec<Session>,
    now: Session,
    begun: Instant,
}

impl Recorder {
    /// Begins a session of the run in `folder`, which stands at `step`. What earlier sessions wrote
    /// is kept; a file that cannot be read counts as none, because nothing depends on it.
    pub fn begin(folder: &Path, step: u64, computes: Computes, machine: &Machine) -> Self {
        let earlier = Environment::read(folder).ok().flatten();
        let earlier = earlier.map_or_else(Vec::new, |environment| environment.sessions);
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
            folder: folder.to_owned(),
            earlier,
            now,
            begun: Instant::now(),
        }
    }

    /// Counts a finished step and its time.
    pub fn step(&mut self, record: &StepRecord, pace: Pace) {
        let work = &mut self.now.work;
        work.training_s += pace.took.as_secs_f64();
        work.waiting_s += pace.waited.as_secs_f64();
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
        environment.write(&self.folder)
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
    use crate::error::Error;
    use crate::files;
    use crate::records::environment::ENVIRONMENT_FILE;

    fn record(step: u64) -> StepRecord {
        StepRecord {
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
            ctc: None,
            difficulty: None,
            masked_accuracy: None,
            unmasked_accuracy: None,
            cosine: None,
        }
    }

    #[test]
    fn sessions_add_up_and_speeds_are_of_steps_alone() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine::here(None);
        let read = || Environment::read(dir.path()).unwrap().unwrap();
        let pace = |took: u64, waited: u64| Pace {
            took: Duration::from_secs(took),
            waited: Duration::from_secs(waited),
        };
        let mut first = Recorder::begin(dir.path(), 0, Computes::default(), &machine);
        first.step(&record(1), pace(2, 1));
        first.step(&record(2), pace(4, 0));
        first
            .end(&Err::<(), _>(Error::interrupted("stopped")))
            .unwrap();
        let mut second = Recorder::begin(dir.path(), 2, Computes::default(), &machine);
        second.step(&record(3), pace(6, 2));
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
        assert_eq!(found.work.waiting_s, 3.0);
        assert_eq!(
            (pace(4, 1).waiting_share(), pace(0, 0).waiting_share()),
            (0.25, 0.0)
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
        files::write_atomic(&dir.path().join(ENVIRONMENT_FILE), b"{\"format\": 1, \"ses").unwrap();
        let mut recorder = Recorder::begin(dir.path(), 5, Computes::default(), &Machine::default());
        recorder.write().unwrap();
        let found = Environment::read(dir.path()).unwrap().unwrap();
        assert_eq!((found.sessions.len(), found.sessions[0].from_step), (1, 5));
    }
}
