//! How a run came about: time, machine, speed, build, and hashes of what it read. A run that says
//! less shows less.

use crate::chart::number;
use crate::chart::number::Unit;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use maqam_records::environment::Provenance;
use maqam_records::environment::Session;
use maqam_records::run_folder::Run;

/// Letters of a hash that tell files apart at a glance.
const SHORT_HASH: usize = 16;

/// Time over all sessions, evaluations and checkpoints included.
pub fn wall_time(found: &Provenance) -> Option<String> {
    let environment = found.environment.as_ref()?;
    positive(environment.wall_s).map(number::duration)
}

/// Seconds of audio per second of training steps.
pub fn throughput(found: &Provenance) -> Option<String> {
    let work = &found.environment.as_ref()?.work;
    speed(work.audio_s_per_s, "s of audio")
}

/// Version and commit of the build.
pub fn build(found: &Provenance) -> Option<String> {
    let session = found.session()?;
    let mut words = vec![session.version.as_str(), session.commit.as_str()];
    words.retain(|word| !word.is_empty());
    (!words.is_empty()).then(|| words.join(", commit "))
}

/// The machine, in words.
pub fn machine(found: &Provenance) -> Option<String> {
    let machine = &found.session()?.machine;
    let cores = positive(machine.cores as f64);
    let memory = machine.memory_bytes.map(|bytes| bytes as f64 / 1e9);
    let words = [
        machine.cpu.clone(),
        cores.map(|cores| format!("{} cores", number::count(cores))),
        memory.map(|memory| format!("{} GB memory", Unit::Plain.format(memory))),
        machine.gpu.clone(),
        Some(machine.system.clone()),
        Some(machine.architecture.clone()),
    ];
    let words: Vec<String> = words.into_iter().flatten().filter_map(text).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Everything that is known, as names and what they stand for.
pub fn facts(found: &Provenance) -> Vec<(String, String)> {
    let Some(environment) = &found.environment else {
        return Vec::new();
    };
    let session = found.session();
    let work = &environment.work;
    let speeds = [
        speed(work.steps_per_s, "steps"),
        speed(work.audio_s_per_s, "s of audio"),
        speed(work.tokens_per_s, "tokens"),
    ];
    let speeds: Vec<String> = speeds.into_iter().flatten().collect();
    let num_sessions = environment.sessions.len();
    let of_session = |name: fn(&Session) -> String| text(name(session?));

    let facts = [
        ("wall time", wall_time(found)),
        (
            "of that in training steps",
            positive(work.training_s).map(number::duration),
        ),
        ("throughput", text(speeds.join(", "))),
        (
            "sessions",
            (num_sessions > 1).then(|| num_sessions.to_string()),
        ),
        ("began", of_session(|session| session.started.clone())),
        ("machine", machine(found)),
        (
            "computes in",
            of_session(|session| session.computes.clone()),
        ),
        ("maqam", build(found)),
        (
            "features of the build",
            of_session(|session| session.features.join(", ")),
        ),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// A number that says something.
fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

/// A text that says something.
fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn speed(per_second: f64, what: &str) -> Option<String> {
    let speed = positive(per_second)?;
    Some(format!("{} {what} per s", Unit::Plain.format(speed)))
}

/// The section; empty where nothing is known.
pub fn section(run: &Run, id: &str, prefix: &str) -> Section {
    let found = &run.provenance;
    let mut blocks = Vec::new();
    let facts = facts(found);
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_run_says_of_itself_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap(), Provenance::default());
        assert!(facts(&Provenance::default()).is_empty());
        let of_machine =
            json!({"cpu": "A CPU", "cores": 2, "memory_bytes": 24_000_000_000_u64, "gpu": null});
        let session = json!({"started": "2026-11-29T01:00:00Z", "version": "0.1.0", "commit": "abc", "features": [], "computes": "cpu f32", "machine": of_machine});
        let environment = json!({"format": 1, "wall_s": 90.0, "training_s": 60.0, "steps_per_s": 2.0, "audio_s_per_s": 14.0, "tokens_per_s": 300.0, "sessions": [session]});
        std::fs::write(dir.path().join("environment.json"), environment.to_string()).unwrap();
        let state = dir.path().join("checkpoints/step-000010");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(
            state.join("state.json"),
            r#"{"inputs": {"data/a.jsonl": "00ff"}}"#,
        )
        .unwrap();
        let found = Provenance::read(dir.path()).unwrap();
        assert_eq!(wall_time(&found).as_deref(), Some("1.5 min"));
        assert_eq!(build(&found).as_deref(), Some("0.1.0, commit abc"));
        assert_eq!(
            machine(&found).as_deref(),
            Some("A CPU, 2 cores, 24.00 GB memory")
        );
        assert_eq!(
            found.inputs,
            [("data/a.jsonl".to_owned(), "00ff".to_owned())]
        );
        let facts = facts(&found);
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
        // The file of a model's run has other hashes; that of an encoder's has these.
        let of_model = r#"{"format": 1, "model": {"config.json": "22"}, "clips": {}}"#;
        std::fs::write(dir.path().join("inputs.json"), of_model).unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap().inputs, found.inputs);
        std::fs::write(dir.path().join("inputs.json"), r#"{"b.jsonl": "11"}"#).unwrap();
        let inputs = Provenance::read(dir.path()).unwrap().inputs;
        assert_eq!(inputs, [("b.jsonl".to_owned(), "11".to_owned())]);
    }
}
