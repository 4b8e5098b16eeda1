//! `environment.json`: how long a run took, on which machine, and by which build. The log holds
//! nothing of this.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::checkpoint_state;
use crate::checkpoint_state::STATE_FILE;
use crate::inputs;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::json;

/// Name of the file in a run's folder.
pub const ENVIRONMENT_FILE: &str = "environment.json";

/// Number of the file's format.
pub const FORMAT: u32 = 1;

/// The hardware and the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Model of the processor, as the system names it.
    pub cpu: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory of the machine, in bytes.
    pub memory_bytes: Option<u64>,
    /// Name of the GPU that computes; `None` on the CPU.
    pub gpu: Option<String>,
    /// Operating system, such as `linux`.
    pub system: String,
    /// Instruction set, such as `x86_64`.
    pub architecture: String,
}

/// Where, when, how fast and by which build a run was computed. Files of other versions may lack
/// fields, and have others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
#[serde(default)]
pub struct Work {
    /// Time in training steps alone, in seconds.
    pub training_s: f64,
    /// Time of these in which a step waited for its data, in seconds.
    pub waiting_s: f64,
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
    /// Adds the work of another session.
    pub fn add(&mut self, other: &Self) {
        self.training_s += other.training_s;
        self.waiting_s += other.waiting_s;
        self.steps += other.steps;
        self.audio_s += other.audio_s;
        self.tokens += other.tokens;
        self.measure();
    }

    /// Computes the speeds anew.
    pub fn measure(&mut self) {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It has not ended, or was killed after the time in `ended`.
    #[default]
    Running,
    /// The run came to its last step.
    Done,
    /// The user stopped it.
    Interrupted,
    /// An error ended it.
    Failed,
}

/// One process that worked on a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// When it ended; while it runs, and after a kill, the time of its last checkpoint or
    /// evaluation.
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

/// What is known of how a run came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The record of its sessions.
    pub environment: Option<Environment>,
    /// Path and hash of each file that it read.
    pub inputs: Vec<(String, String)>,
}

impl Provenance {
    /// Reads what is there.
    ///
    /// # Errors
    /// A file that is there and is of another form.
    pub fn read(folder: &Path) -> Result<Self> {
        let inputs = match inputs::hashes(folder)? {
            None => of_checkpoint(folder)?,
            Some(hashes) => hashes,
        };
        Ok(Self {
            environment: Environment::read(folder)?,
            inputs: inputs.into_iter().collect(),
        })
    }

    /// The last session that worked on the run.
    pub fn session(&self) -> Option<&Session> {
        self.environment.as_ref()?.sessions.last()
    }
}

impl Environment {
    /// Reads the file in a run's folder; `None` where there is none.
    ///
    /// # Errors
    /// A file of another form.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(ENVIRONMENT_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        json::parse(&files::read_text(&path)?)
            .map(Some)
            .map_err(|e| e.at("not the record of a run's sessions").at_path(&path))
    }

    /// Writes the file into a run's folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(Error::bug_from)?;
        files::write_atomic(&folder.join(ENVIRONMENT_FILE), (text + "\n").as_bytes())
    }
}

/// The inputs that the last checkpoint of a run names.
fn of_checkpoint(folder: &Path) -> Result<BTreeMap<String, String>> {
    let Ok(entries) = std::fs::read_dir(folder.join("checkpoints")) else {
        return Ok(BTreeMap::new());
    };
    let last = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|checkpoint| checkpoint.join(STATE_FILE).is_file())
        .max();
    let inputs = last.map(|checkpoint| checkpoint_state::inputs(&checkpoint));
    Ok(inputs.transpose()?.unwrap_or_default())
}
