//! How a run came about: time, machine, speed, build, and hashes of what it read. A run that says less shows less.

use serde_json::Value;

use crate::chart::number;
use crate::chart::number::Unit;
use crate::page::Block;
use crate::page::Section;
use crate::page::table::Cell;
use crate::page::table::Column;
use crate::page::table::Table;
use maqam_records::environment::Provenance;
use maqam_records::run_folder::Run;

/// Letters of a hash that tell files apart at a glance.
const SHORT_HASH: usize = 16;

/// Time over all sessions, evaluations and checkpoints included.
pub fn wall_time(found: &Provenance) -> Option<String> {
    found.number("wall_s").map(number::duration)
}

/// Seconds of audio per second of training steps.
pub fn throughput(found: &Provenance) -> Option<String> {
    found
        .number("audio_s_per_s")
        .map(|speed| format!("{} s of audio per s", Unit::Plain.format(speed)))
}

/// Version and commit of the build.
pub fn build(found: &Provenance) -> Option<String> {
    let session = found.session()?;
    let words = ["version", "commit"].map(|name| session.get(name).and_then(Value::as_str));
    let words: Vec<&str> = words
        .into_iter()
        .flatten()
        .filter(|word| !word.is_empty())
        .collect();
    (!words.is_empty()).then(|| words.join(", commit "))
}

/// The machine, in words.
pub fn machine(found: &Provenance) -> Option<String> {
    let machine = found.session()?.get("machine")?;
    let words = words_of(machine);
    (!words.is_empty()).then(|| words.join(", "))
}

/// Everything that is known, as names and what they stand for.
pub fn facts(found: &Provenance) -> Vec<(String, String)> {
    let text = |name: &str| {
        let value = found.session()?.get(name)?;
        let words = words_of(value).join(", ");
        (!words.is_empty()).then_some(words)
    };
    let speed = |name: &str, of: &str| {
        found
            .number(name)
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
    let sessions = found.environment.get("sessions").and_then(Value::as_array);
    let sessions = sessions.filter(|sessions| sessions.len() > 1);
    let training = found.number("training_s").map(number::duration);
    let facts = [
        ("wall time", wall_time(found)),
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
        ("machine", machine(found)),
        ("computes in", text("computes")),
        ("maqam", build(found)),
        ("features of the build", text("features")),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_run_says_of_itself_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(dir.path()).unwrap(), Provenance::default());
        assert!(facts(&Provenance::default()).is_empty());
        let of_machine = json!({"cpu": "A CPU", "cores": 2, "memory_bytes": 24e9, "gpu": null});
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
        std::fs::write(
            dir.path().join("inputs.json"),
            r#"{"b.jsonl": {"hash": "11"}}"#,
        )
        .unwrap();
        let inputs = Provenance::read(dir.path()).unwrap().inputs;
        assert_eq!(inputs, [("b.jsonl".to_owned(), "11".to_owned())]);
    }
}
