//! How a run came about: time, machine, speed, build, and hashes of what it read. A run that says less shows less.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::report::number;
use crate::report::number::Unit;
use crate::report::page::Block;
use crate::report::page::Section;
use crate::report::read::Run;
use crate::report::table::Cell;
use crate::report::table::Column;
use crate::report::table::Table;

/// The file that says how long a run took, on which machine, by which build.
const ENVIRONMENT_FILE: &str = "environment.json";
/// The file that says what a run read, by path and hash.
const INPUTS_FILE: &str = "inputs.json";
/// The state of a checkpoint, which says under `inputs` what its run read.
const STATE_FILE: &str = "state.json";
/// Letters of a hash that tell files apart at a glance.
const SHORT_HASH: usize = 16;

/// What is known of how a run came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The record of its sessions; empty where there is none.
    environment: Map<String, Value>,
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
    fn session(&self) -> Option<&Map<String, Value>> {
        self.environment
            .get("sessions")?
            .as_array()?
            .last()?
            .as_object()
    }

    fn number(&self, name: &str) -> Option<f64> {
        let value = self.environment.get(name)?.as_f64()?;
        (value.is_finite() && value > 0.0).then_some(value)
    }

    /// Time over all sessions, evaluations and checkpoints included.
    pub fn wall_time(&self) -> Option<String> {
        self.number("wall_s").map(number::duration)
    }

    /// Seconds of audio per second of training steps.
    pub fn throughput(&self) -> Option<String> {
        self.number("audio_s_per_s")
            .map(|speed| format!("{} s of audio per s", Unit::Plain.format(speed)))
    }

    /// Version and commit of the build.
    pub fn build(&self) -> Option<String> {
        let session = self.session()?;
        let words = ["version", "commit"].map(|name| session.get(name).and_then(Value::as_str));
        let words: Vec<&str> = words
            .into_iter()
            .flatten()
            .filter(|word| !word.is_empty())
            .collect();
        (!words.is_empty()).then(|| words.join(", commit "))
    }

    /// The machine, in words.
    pub fn machine(&self) -> Option<String> {
        let machine = self.session()?.get("machine")?;
        let words = words_of(machine);
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Everything that is known, as names and what they stand for.
    pub fn facts(&self) -> Vec<(String, String)> {
        let text = |name: &str| {
            let value = self.session()?.get(name)?;
            let words = words_of(value).join(", ");
            (!words.is_empty()).then_some(words)
        };
        let speed = |name: &str, of: &str| {
            self.number(name)
                .map(|speed| format!("{} {of} per s", Unit::Plain.format(speed)))
        };
        let speeds: Vec<String> = [
            speed("steps_per_s", "steps"),
            speed("audio_s_per_s", "s of audio"),
            speed("tokens_per_s", "tokens"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let sessions = self.environment.get("sessions").and_then(Value::as_array);
        let sessions = sessions.filter(|sessions| sessions.len() > 1);
        let training = self.number("training_s").map(number::duration);
        let found = [
            ("wall time", self.wall_time()),
            ("of that in training steps", training),
            (
                "throughput",
                (!speeds.is_empty()).then(|| speeds.join(", ")),
            ),
            (
                "sessions",
                sessions.map(|sessions| sessions.len().to_string()),
            ),
            ("began", text("started")),
            ("machine", self.machine()),
            ("computes in", text("computes")),
            ("maqam", self.build()),
            ("features of the build", text("features")),
        ];
        found
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }
}

/// The section; empty where nothing is known.
pub fn section(run: &Run, id: &str, prefix: &str) -> Section {
    let found = &run.provenance;
    let mut blocks = Vec::new();
    let facts = found.facts();
    if !facts.is_empty() {
        blocks.push(Block::Facts(facts));
    }
    if !found.inputs.is_empty() {
        let caption = format!(
            "BLAKE3 of every manifest, task file and suite that the run read, its first {SHORT_HASH} digits."
        );
        let columns = vec![Column::text("file"), Column::text("hash")];
        let mut table = Table::new(format!("{prefix}inputs"), "What it read", caption, columns);
        for (path, hash) in &found.inputs {
            let short: String = hash.chars().take(SHORT_HASH).collect();
            table.row(false, vec![Cell::text(path), Cell::Code(short)]);
        }
        blocks.push(Block::Table(table));
    }
    Section::new(id, "How it came about", blocks)
}

/// The words of a value, one for each of its parts that says something: names before numbers and inside objects.
fn words_of(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if !text.is_empty() => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Array(parts) => parts.iter().flat_map(words_of).collect(),
        Value::Object(parts) => parts.iter().flat_map(named_words).collect(),
        _ => Vec::new(),
    }
}

/// The words of an entry: a text stands for itself, a number is told by its name with the unit that this ends in.
fn named_words((name, value): (&String, &Value)) -> Vec<String> {
    let Value::Number(number) = value else {
        return words_of(value);
    };
    let number = number.as_f64().unwrap_or(f64::NAN);
    let units = [
        ("_bytes", 1e9, "GB"),
        ("_gib", 1.0, "GiB"),
        ("_gb", 1.0, "GB"),
        ("_mib", 1024.0, "GiB"),
    ];
    let unit = units
        .iter()
        .find_map(|(end, of, unit)| Some((name.strip_suffix(end)?, of, unit)));
    let text = match unit {
        Some((name, of, unit)) => {
            format!("{} {unit} {name}", Unit::Plain.format(number / of))
        }
        None => format!("{} {name}", number::count(number)),
    };
    vec![text.replace('_', " ")]
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
        .map_err(|e| Error::input(format!("not a JSON object: {e}")).at_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_run_says_of_itself_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap(), Provenance::default());
        assert!(Provenance::default().facts().is_empty());
        let machine = json!({"cpu": "A CPU", "cores": 2, "memory_bytes": 24e9, "gpu": null});
        let session = json!({"started": "2026-11-29T01:00:00Z", "version": "0.1.0", "commit": "abc", "features": [], "computes": "cpu f32", "machine": machine});
        let environment = json!({"format": 1, "wall_s": 90.0, "training_s": 60.0, "steps_per_s": 2.0, "audio_s_per_s": 14.0, "tokens_per_s": 300.0, "sessions": [session]});
        std::fs::write(dir.path().join(ENVIRONMENT_FILE), environment.to_string()).unwrap();
        let state = dir.path().join("checkpoints/step-000010");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(
            state.join(STATE_FILE),
            r#"{"inputs": {"data/a.jsonl": "00ff"}}"#,
        )
        .unwrap();
        let found = Provenance::read(dir.path()).unwrap();
        assert_eq!(found.wall_time().as_deref(), Some("1.5 min"));
        assert_eq!(found.build().as_deref(), Some("0.1.0, commit abc"));
        assert_eq!(
            found.machine().as_deref(),
            Some("A CPU, 2 cores, 24.00 GB memory")
        );
        assert_eq!(
            found.inputs,
            [("data/a.jsonl".to_owned(), "00ff".to_owned())]
        );
        let facts = found.facts();
        let names: Vec<&str> = facts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "wall time",
                "of that in training steps",
                "throughput",
                "began",
                "machine",
                "computes in",
                "maqam"
            ]
        );
        std::fs::write(
            dir.path().join(INPUTS_FILE),
            r#"{"b.jsonl": {"hash": "11"}}"#,
        )
        .unwrap();
        let inputs = Provenance::read(dir.path()).unwrap().inputs;
        assert_eq!(inputs, [("b.jsonl".to_owned(), "11".to_owned())]);
    }
}
