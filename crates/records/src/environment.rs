//! `environment.json`: how long a run took, on which machine, and by which build. The log holds nothing of this.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::inputs::INPUTS_FILE;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;

/// Name of the file in a run's folder.
pub const ENVIRONMENT_FILE: &str = "environment.json";

/// Number of the file's format.
pub const FORMAT: u32 = 1;

/// The state of a checkpoint, which says under `inputs` what its run read.
const STATE_FILE: &str = "state.json";

/// The hardware and the system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Time of these in which a step waited for its data, in seconds.
    #[serde(default)]
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

/// What is known of how a run came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The record of its sessions as it is written, empty where there is none: older and newer versions know other fields than
    /// [`Environment`].
    pub environment: Map<String, Value>,
    /// Path and hash of each file that it read.
    pub inputs: Vec<(String, String)>,
}

impl Provenance {
    /// Reads what is there.
    ///
    /// # Errors
    /// A file that is there and is no JSON object.
    pub fn read(folder: &Path) -> Result<Self> {
        let environment = object(&folder.join(ENVIRONMENT_FILE))?;
        let mut inputs = object(&folder.join(INPUTS_FILE))?;
        if inputs.is_empty() {
            inputs = of_checkpoint(folder)?;
        }
        Ok(Self {
            environment,
            inputs: hashes(&inputs),
        })
    }

    /// The last session that worked on the run.
    pub fn session(&self) -> Option<&Map<String, Value>> {
        self.environment
            .get("sessions")?
            .as_array()?
            .last()?
            .as_object()
    }

    /// A positive number of the record.
    pub fn number(&self, name: &str) -> Option<f64> {
        let value = self.environment.get(name)?.as_f64()?;
        (value.is_finite() && value > 0.0).then_some(value)
    }
}

/// The inputs that the last checkpoint of a run names.
fn of_checkpoint(folder: &Path) -> Result<Map<String, Value>> {
    let checkpoints = folder.join("checkpoints");
    let Ok(entries) = std::fs::read_dir(&checkpoints) else {
        return Ok(Map::new());
    };
    let last = entries
        .filter_map(|entry| Some(entry.ok()?.path().join(STATE_FILE)))
        .filter(|path| path.is_file())
        .max();
    let state = last
        .map(|path| object(&path))
        .transpose()?
        .unwrap_or_default();
    Ok(state
        .get("inputs")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default())
}

/// Paths and hashes of a file of inputs: a text a path, or an object that has it under `hash` or `blake3`.
fn hashes(inputs: &Map<String, Value>) -> Vec<(String, String)> {
    let entries = match inputs.get("files").or_else(|| inputs.get("inputs")) {
        Some(Value::Object(files)) => files,
        _ => inputs,
    };
    let hash = |value: &Value| {
        let of_object = || {
            ["hash", "blake3"]
                .iter()
                .find_map(|name| value.get(name)?.as_str())
        };
        Some(value.as_str().or_else(of_object)?.to_owned())
    };
    entries
        .iter()
        .filter_map(|(path, value)| Some((path.clone(), hash(value)?)))
        .collect()
}

/// The JSON object of a file; empty where there is no file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    serde_json::from_str(&files::read_text(path)?)
        .map_err(|e| Error::input(format!("not a JSON object: {e}")).caused_by(e))
        .map_err(|e| e.at_path(path))
}
