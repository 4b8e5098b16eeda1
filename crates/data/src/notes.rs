//! Notes on a manifest that is read without an error: unread fields, normalised spellings.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::Path;

use serde_json::Value;

/// Words in the names of fields that may select a part of a recording.
const CORE: [&str; 35] = [
    "begin",
    "begins",
    "beginning",
    "start",
    "starts",
    "end",
    "ends",
    "stop",
    "from",
    "to",
    "onset",
    "offset",
    "offsets",
    "segment",
    "segments",
    "seg",
    "span",
    "spans",
    "region",
    "interval",
    "trim",
    "crop",
    "cut",
    "window",
    "t0",
    "t1",
    "tmin",
    "tmax",
    "xmin",
    "xmax",
    "timestamp",
    "timestamps",
    "channel",
    "channels",
    "chan",
];

/// Further words in such names.
const BESIDE: [&str; 24] = [
    "time",
    "times",
    "s",
    "sec",
    "secs",
    "second",
    "seconds",
    "ms",
    "sample",
    "samples",
    "frame",
    "frames",
    "clip",
    "audio",
    "speech",
    "utt",
    "utterance",
    "range",
    "position",
    "pos",
    "id",
    "index",
    "idx",
    "duration",
];

/// A remark on files of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The first file, or the first line of a file.
    pub place: String,
    /// The remark.
    pub text: String,
    /// Number of files that it holds for.
    pub num_files: usize,
}

impl Note {
    /// A remark on one file.
    pub fn new(place: impl fmt::Display, text: impl Into<String>) -> Self {
        Self {
            place: place.to_string(),
            text: text.into(),
            num_files: 1,
        }
    }

    /// Adds a remark to others. Equal remarks on several files become one with their number.
    pub fn add_to(self, notes: &mut Vec<Self>) {
        match notes.iter_mut().find(|note| note.text == self.text) {
            Some(note) => note.num_files += self.num_files,
            None => notes.push(self),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)?;
        match self.num_files {
            1 => Ok(()),
            number => write!(f, " (in {number} files)"),
        }
    }
}

/// Count of a remark over rows, with its first line.
#[derive(Default)]
pub struct Notes {
    narrowing: BTreeMap<String, Found>,
    folded: BTreeMap<&'static str, Found>,
    others: BTreeMap<&'static str, Found>,
}

struct Found {
    rows: usize,
    line: u32,
}

impl Notes {
    /// Examines an unread field of a row whose audio is used as a whole.
    pub fn unread(&mut self, name: &str, value: &Value, line: u32) {
        if looks_like_a_part(name, value) {
            count(&mut self.narrowing, name.to_owned(), line);
        }
    }

    /// Counts a row with a normalised spelling in a field.
    pub fn folded(&mut self, field: &'static str, line: u32) {
        count(&mut self.folded, field, line);
    }

    /// Counts a row to which a remark applies.
    pub fn remark(&mut self, what: &'static str, line: u32) {
        count(&mut self.others, what, line);
    }

    /// Adds the counts of other rows.
    pub fn merge(&mut self, other: Self) {
        for (name, found) in other.narrowing {
            add(&mut self.narrowing, name, found);
        }
        for (field, found) in other.folded {
            add(&mut self.folded, field, found);
        }
        for (what, found) in other.others {
            add(&mut self.others, what, found);
        }
    }

    /// The notes as sentences, each with its place.
    pub fn of_manifest(&self, path: &Path) -> Vec<Note> {
        let mut notes = Vec::new();
        let place = |line: u32| format!("{}:{line}", path.display());
        if let Some(first) = self.narrowing.values().map(|found| found.line).min() {
            let names: Vec<String> = self
                .narrowing
                .keys()
                .map(|name| format!("`{name}`"))
                .collect();
            let (verb, these) = match names.len() {
                1 => ("looks", "it"),
                _ => ("look", "them"),
            };
            let text = format!(
                "{} {verb} like a part of the audio; maqam does not read {these}, and the whole file is used (the part is said by `start_s` and `end_s`, `offset` and `duration`, `channel`)",
                names.join(", ")
            );
            notes.push(Note::new(place(first), text));
        }
        for (field, found) in &self.folded {
            let text = format!(
                "`{field}` of {} holds presentation forms, decomposed letters or byte order marks; they are read as ordinary letters",
                rows(found.rows)
            );
            notes.push(Note::new(place(found.line), text));
        }
        for (what, found) in &self.others {
            let text = format!("{what} ({})", rows(found.rows));
            notes.push(Note::new(place(found.line), text));
        }
        notes
    }
}

fn rows(count: usize) -> String {
    match count {
        1 => "one row".to_owned(),
        count => format!("{count} rows"),
    }
}

fn count<K: Ord>(of: &mut BTreeMap<K, Found>, key: K, line: u32) {
    add(of, key, Found { rows: 1, line });
}

fn add<K: Ord>(of: &mut BTreeMap<K, Found>, key: K, more: Found) {
    match of.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(more);
        }
        Entry::Occupied(mut entry) => {
            let found = entry.get_mut();
            found.rows += more.rows;
            found.line = found.line.min(more.line);
        }
    }
}

/// Returns whether a field's name and value may select a part of a recording.
fn looks_like_a_part(name: &str, value: &Value) -> bool {
    let words = words_of(name);
    let is_core = |word: &String| CORE.contains(&word.as_str());
    let is_known = |word: &String| is_core(word) || BESIDE.contains(&word.as_str());
    words.iter().any(is_core) && words.iter().all(is_known) && is_quantity(value)
}

/// Returns whether a value has numbers: a number, a text of a number or time, a list or object with
/// them.
fn is_quantity(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::String(text) => {
            let is_of_time = |c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | ',');
            !text.is_empty() && text.chars().all(is_of_time)
        }
        Value::Array(list) => list.iter().any(is_quantity),
        Value::Object(map) => map.values().any(is_quantity),
        Value::Null | Value::Bool(_) => false,
    }
}

/// The words of a name such as `from_s`, `startTime` or `begin-ms`, in lower case.
fn words_of(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut after_small = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            words.push(String::new());
        } else if words.is_empty() || (c.is_uppercase() && after_small) {
            words.push(c.to_lowercase().collect());
        } else if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        after_small = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_look_like_a_part_are_found() {
        for (name, value) in [
            ("begin", json!(1.0)),
            ("segment", json!([0.5, 1.5])),
            ("onset", json!(3)),
            ("channels", json!(2)),
            ("from_s", json!(0.5)),
            ("to_s", json!("1.5")),
            ("t0", json!(0)),
            ("startTime", json!(12)),
            ("end_time", json!("00:00:12.5")),
            ("start_sample", json!(16000)),
            ("segments", json!([{"start": 0.5, "end": 1.0}])),
            ("span", json!({"from": 1, "to": 2})),
        ] {
            assert!(looks_like_a_part(name, &value), "{name} {value}");
        }
        for (name, value) in [
            ("start_year", json!(1999)),
            ("num_samples", json!(16000)),
            ("sampling_rate", json!(16000)),
            ("age", json!(30)),
            ("segment", json!("news")),
            ("channel", json!("Al Jazeera")),
            ("gender", json!(1)),
            ("time", json!(12)),
            ("id", json!(3)),
            ("duration", json!(3)),
        ] {
            assert!(!looks_like_a_part(name, &value), "{name} {value}");
        }
    }
}
