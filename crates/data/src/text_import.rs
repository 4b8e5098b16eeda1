//! Import of a manifest of texts: from JSON lines to Parquet, in parallel and in bounded memory.
//!
//! Threads parse, encode and compress row groups while the next lines are read. The bytes of the
//! file depend on the rows only.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::path::Path;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::Source;
use crate::cells::Cell;
use crate::cells::Cells;
use crate::cells::Kinds;
use crate::form::Form;
use crate::formats::json_rows;
use crate::formats::meaning::Meaning;
use crate::notes::Note;
use crate::notes::Notes;
use crate::parquet_writer::Columns;
use crate::parquet_writer::Encoder;
use crate::parquet_writer::Group;
use crate::parquet_writer::TEXT_GROUP_ROWS;
use crate::parquet_writer::Writer;
use crate::text_row;
use crate::text_row::Foreign;
use crate::text_row::TextRows;
use maqam_base::error::Result;
use maqam_base::files::Draft;
use maqam_base::files::Lines;

/// Bytes of lines after which a row group ends.
const GROUP_BYTES: usize = 32 << 20;

/// Row groups per thread that are read at once.
const GROUPS_PER_THREAD: usize = 2;

/// A manifest that was imported.
#[derive(Debug)]
pub struct Imported {
    /// Number of rows.
    pub num_rows: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Writes a manifest of texts in one file of JSON lines as a Parquet file. Returns none, and writes
/// nothing, for a manifest of another kind or with a fault: then [`Source::read`] reads it or
/// reports the fault.
///
/// Memory grows by 8 bytes per row, for the comparison of ids.
///
/// # Errors
/// The disk's.
pub fn import(source: &Source, out: &Path) -> Result<Option<Imported>> {
    let is_parquet = out
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
    if !is_parquet || (out.exists() && !out.is_file()) {
        return Ok(None);
    }
    let Some(texts) = Texts::of(source) else {
        return Ok(None);
    };
    // Most files have all columns in their first rows. Otherwise, all rows are read for their
    // columns first.
    let Some(first) = texts.kinds(1) else {
        return Ok(None);
    };
    match texts.write(first, out)? {
        Outcome::Written(imported) => Ok(Some(imported)),
        Outcome::Foreign => Ok(None),
        Outcome::OtherColumns => {
            let Some(all) = texts.kinds(usize::MAX) else {
                return Ok(None);
            };
            match texts.write(all, out)? {
                Outcome::Written(imported) => Ok(Some(imported)),
                Outcome::Foreign | Outcome::OtherColumns => Ok(None),
            }
        }
    }
}

/// Outcome of writing a file.
enum Outcome {
    Written(Imported),
    Foreign,
    OtherColumns,
}

/// A file that may be a manifest of texts.
struct Texts<'a> {
    source: &'a Source,
    path: PathBuf,
    /// Notes of the interpretation of the file.
    notes: Vec<Note>,
}

impl<'a> Texts<'a> {
    /// The file of a manifest, if its first row is one of texts.
    fn of(source: &'a Source) -> Option<Self> {
        let path = source.file_of_lines().ok()??;
        if !text_row::can_rename(&source.columns) {
            return None;
        }
        let mut lines = Lines::open(&path).ok()?.unpacked().ok()?;
        while let Some((line, text)) = lines.next_line().ok()? {
            if text.trim_ascii().is_empty() {
                continue;
            }
            let mut row = json_rows::parse_object(line, text).ok()?;
            let columns = &source.columns;
            columns.apply(&mut row.fields, &mut BTreeSet::new());
            let meaning = Meaning::of(&row, source, &path, Form::JsonLines).ok()?;
            let notes = meaning.notes.iter();
            return meaning.keeps_fields().then(|| Self {
                source,
                notes: notes.map(|text| Note::new(path.display(), text)).collect(),
                path,
            });
        }
        None
    }

    /// Columns of at most so many row groups; none for foreign rows.
    fn kinds(&self, most_groups: usize) -> Option<Kinds> {
        let mut all = Kinds::default();
        let is_whole = self.each_group(
            most_groups,
            |lines| self.kinds_of(lines),
            &mut |found: Option<Kinds>| {
                let Some(found) = found else {
                    return Ok(false);
                };
                for (name, kind) in found.into_list() {
                    all.add(&name, kind);
                }
                Ok(true)
            },
        );
        is_whole.ok()?.then_some(all)
    }

    fn kinds_of(&self, lines: &GroupLines) -> Option<Kinds> {
        let mut kinds = Kinds::default();
        kinds.add_table(&self.parse(lines).ok()?.table);
        Some(kinds)
    }

    /// Writes the file with columns that are known so far.
    fn write(&self, kinds: Kinds, out: &Path) -> Result<Outcome> {
        let columns = Columns::of_texts(kinds.clone());
        let mut draft = Draft::new(out)?;
        let mut writer = Writer::new(&columns, &mut draft)?;
        let encoder = writer.encoder();
        let mut facts = Facts::default();
        let mut outcome = None;
        self.each_group(
            usize::MAX,
            |lines| self.encode(lines, &kinds, &encoder),
            &mut |found: Result<Seen>| {
                match found? {
                    Seen::Encoded(group, of_group) => {
                        writer.write(&group)?;
                        facts.merge(of_group);
                    }
                    Seen::OtherColumns => outcome = Some(Outcome::OtherColumns),
                    Seen::Foreign => outcome = Some(Outcome::Foreign),
                }
                Ok(outcome.is_none())
            },
        )?;
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
        if !facts.ids_differ() || !facts.has_columns(self.source) {
            return Ok(Outcome::Foreign);
        }
        writer.finish()?;
        draft.commit()?;
        let mut notes = facts.notes.of_manifest(&self.source.path);
        notes.extend(self.notes.iter().cloned());
        Ok(Outcome::Written(Imported {
            num_rows: facts.ids.len(),
            notes: notes.iter().map(Note::to_string).collect(),
        }))
    }

    fn parse<'l>(&self, lines: &'l GroupLines) -> std::result::Result<TextRows<'l>, Foreign> {
        text_row::read(lines.iter(), &self.source.columns)
    }

    fn encode(&self, lines: &GroupLines, kinds: &Kinds, encoder: &Encoder<'_>) -> Result<Seen> {
        let Ok(rows) = self.parse(lines) else {
            return Ok(Seen::Foreign);
        };
        if !kinds.cover(&rows.table) {
            return Ok(Seen::OtherColumns);
        }
        let ids = rows.table.cells("id").into_iter().flat_map(Cells::iter);
        let facts = Facts {
            ids: ids.map(|(_, id)| hash(id)).collect(),
            seen: rows.seen,
            notes: rows.notes,
        };
        Ok(Seen::Encoded(encoder.encode_texts(&rows.table)?, facts))
    }

    /// Calls `look` in parallel with the lines of row groups, and `take` with its results in the
    /// order of the file, until it returns false. Returns whether it never did.
    fn each_group<T: Send>(
        &self,
        most_groups: usize,
        look: impl Fn(&GroupLines) -> T + Sync,
        take: &mut dyn FnMut(T) -> Result<bool>,
    ) -> Result<bool> {
        let mut lines = Lines::open(&self.path)?.unpacked()?;
        let at_once = GROUPS_PER_THREAD * rayon::current_num_threads();
        let mut left = most_groups;
        let mut groups = next_groups(&mut lines, at_once.min(left))?;
        while !groups.is_empty() {
            left -= groups.len();
            let (looked_at, next) = rayon::join(
                || groups.par_iter().map(&look).collect::<Vec<T>>(),
                || next_groups(&mut lines, at_once.min(left)),
            );
            for found in looked_at {
                if !take(found)? {
                    return Ok(false);
                }
            }
            groups = next?;
        }
        Ok(true)
    }
}

/// Result of parsing and encoding a row group.
enum Seen {
    Encoded(Group, Facts),
    OtherColumns,
    Foreign,
}

/// Facts of rows that are known only at the end of the file.
#[derive(Default)]
struct Facts {
    /// Hashes of ids.
    ids: Vec<u64>,
    notes: Notes,
    /// Renamed columns that some row has.
    seen: u64,
}

impl Facts {
    fn merge(&mut self, later: Self) {
        self.ids.extend(later.ids);
        self.notes.merge(later.notes);
        self.seen |= later.seen;
    }

    /// Returns whether certainly no id stands twice.
    fn ids_differ(&mut self) -> bool {
        self.ids.par_sort_unstable();
        self.ids.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// Returns whether every renamed column is there.
    fn has_columns(&self, source: &Source) -> bool {
        let named = source.columns.pairs().enumerate();
        let names: HashSet<&str> = named
            .filter(|(at, _)| self.seen & (1 << at) != 0)
            .map(|(_, (_, column))| column)
            .collect();
        source
            .columns
            .columns()
            .all(|column| names.contains(column))
    }
}

fn hash(id: &Cell<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Cell::Text(text) = id {
        text.hash(&mut hasher);
    }
    hasher.finish()
}

/// Lines of one row group.
struct GroupLines {
    bytes: Vec<u8>,
    /// Number of each line, and its end in `bytes`.
    lines: Vec<(u32, usize)>,
}

impl GroupLines {
    fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut start = 0;
        self.lines.iter().map(move |&(line, end)| {
            let text = &self.bytes[start..end];
            start = end;
            (line, text)
        })
    }
}

/// Reads the lines of the next row groups, without blank ones.
fn next_groups(lines: &mut Lines, most: usize) -> Result<Vec<GroupLines>> {
    let mut groups = Vec::new();
    while groups.len() < most {
        let mut group = GroupLines {
            bytes: Vec::new(),
            lines: Vec::new(),
        };
        while group.lines.len() < TEXT_GROUP_ROWS && group.bytes.len() < GROUP_BYTES {
            let Some((line, text)) = lines.next_line()? else {
                break;
            };
            if !text.trim_ascii().is_empty() {
                group.bytes.extend_from_slice(text);
                group.lines.push((line, group.bytes.len()));
            }
        }
        if group.lines.is_empty() {
            break;
        }
        groups.push(group);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::OnBadRow;
    use crate::write_manifest;

    /// The file and the notes of an import, against those of reading all rows and writing them.
    fn import_both(text: &str, columns: &str) -> Option<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, text).unwrap();
        let mut source = Source::new(&path);
        if !columns.is_empty() {
            source.columns = columns.parse().unwrap();
        }
        let fast = dir.path().join("fast.parquet");
        let Some(imported) = import(&source, &fast).unwrap() else {
            assert!(!fast.exists());
            return None;
        };
        let slow = dir.path().join("slow.parquet");
        let manifest = source.read(OnBadRow::Error).unwrap();
        write_manifest(&manifest.rows, &slow).unwrap();
        assert_eq!(imported.num_rows, manifest.rows.len());
        assert_eq!(imported.notes, manifest.notes);
        assert!(fs::read(fast).unwrap() == fs::read(slow).unwrap(), "{text}");
        Some(())
    }

    #[test]
    fn texts_become_the_file_that_all_rows_become() {
        let text = [
            r#"{"id": "a", "text": "\ufeffنعم", "language": "Arabic", "n": 1, "tags": ["x"]}"#,
            "",
            r#"{"text": "x", "duration": 2, "label": 3, "speaker": "s", "n": 1.5, "start": 0.5}"#,
            r#" {"references": ["cafe\u0301", "x"], "tags": [1], "big": 18446744073709551615, "e": -0.0}"#,
            r#"{"text": "", "summary": null, "meta": {"b": [ 1.0 ], "a": null}, "group": "g", "task": "asr"}"#,
            r#"{"target": "t", "instruction": "i", "split": "dev", "flag": true, "tags": []}"#,
        ];
        let text = text.join("\n");
        assert!(import_both(&text, "").is_some());
        assert!(import_both(&format!("\u{feff}{text}\n\n"), "").is_some());
        let named = text.replace("\"text\"", "\"sentence\"");
        assert!(import_both(&named, "text=sentence").is_some());
    }

    #[test]
    fn columns_of_later_row_groups_are_found() {
        let num_rows = 2 * TEXT_GROUP_ROWS + 10;
        let line = |i: usize| match i {
            i if i == num_rows - 5 => "{\"summary\": \"s\", \"n\": \"text\", \"late\": 1}\n".into(),
            i => format!("{{\"text\": \"row {i}\", \"n\": {i}}}\n"),
        };
        let text: String = (0..num_rows).map(line).collect();
        assert!(import_both(&text, "").is_some());
    }

    #[test]
    fn other_manifests_and_faults_are_left_to_the_reader() {
        for text in [
            "",
            "{\"text\": \"x\"}\n{\"text\": \"x\", \"audio\": \"a.wav\"}",
            "{\"text\": \"x\"}\n{\"text\": ",
            "{\"text\": \"x\", \"id\": 1}\n{\"text\": \"y\", \"id\": \"1\"}",
            "{\"text\": \"x\", \"id\": 2}\n{\"text\": \"y\"}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
            "[{\"text\": \"x\"}]",
            "text\nx",
        ] {
            assert!(import_both(text, "").is_none(), "{text}");
        }
        let text = "{\"text\": \"x\"}\n";
        assert!(import_both(text, "summary=abstract").is_none());
        assert!(import_both(text, "text=sentence").is_none());
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::json;
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<u64>().prop_map(|value| json!(value)),
            (-1e3..1e3).prop_map(|value: f64| json!(value)),
            "[a-cé\u{301}\u{fb01}س \"\\\\]{0,6}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|list| json!(list)),
                prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    /// A field of a row, mostly with a value of the right type.
    fn field() -> impl Strategy<Value = (&'static str, serde_json::Value)> {
        use serde_json::json;
        let text = "[a-cé\u{301}\u{fb01}س \"\\\\]{0,6}";
        let texts = vec!["text", "summary", "label", "target", "speaker", "x"];
        let others = vec!["x", "y", "start", "channel", "input", "duration_ms"];
        let rare = vec!["id", "lang", "system", "text", "duration", "references"];
        let tags = prop::sample::select(vec!["ar", "Arabic", ""]);
        let list = prop::collection::vec(text, 1..3);
        prop_oneof![
            8 => (prop::sample::select(texts), text.prop_map(|text| json!(text))),
            8 => (prop::sample::select(others), value()),
            2 => (Just("duration"), (0.0..1e3).prop_map(|seconds: f64| json!(seconds))),
            2 => (Just("references"), list.prop_map(|list| json!(list))),
            2 => (Just("language"), tags.prop_map(|tag| json!(tag))),
            1 => (prop::sample::select(rare), value()),
        ]
    }

    fn line() -> impl Strategy<Value = String> {
        prop::collection::vec(field(), 0..5).prop_map(|fields| {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("\"{name}\": {value}"));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        })
    }

    proptest! {
        #[test]
        fn any_rows_become_what_the_reader_makes_of_them(
            lines in prop::collection::vec(line(), 1..4),
            first in "\\{\"text\": \"[a-c]{1,3}\"\\}",
        ) {
            import_both(&format!("{first}\n{}", lines.join("\n")), "");
        }
    }
}
