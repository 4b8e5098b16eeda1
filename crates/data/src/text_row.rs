//! Rows of texts, from lines of JSON straight into the cells of a table.
//!
//! The cells are those that [`RowReader`](crate::row::RowReader) would give. A line that needs more
//! than copying (audio, conversations, faults) is foreign, and the caller reads the file with that
//! reader instead.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde::de::value::MapAccessDeserializer;
use serde_json::Number;
use serde_json::Value;

use crate::Columns;
use crate::cells::Cell;
use crate::cells::Table;
use crate::language;
use crate::notes::Notes;
use crate::spelling::ordinary;

/// Fields that are read here, in the order of a row's columns.
const FIELDS: [&str; 13] = [
    "id",
    "duration",
    "task",
    "language",
    "text",
    "summary",
    "label",
    "references",
    "speaker",
    "group",
    "split",
    "instruction",
    "target",
];

const ID: usize = 0;
const DURATION: usize = 1;
const LANGUAGE: usize = 3;
const REFERENCES: usize = 7;

/// Fields whose spelling is normalised.
const FOLDED: [&str; 6] = [
    "text",
    "summary",
    "label",
    "references",
    "instruction",
    "target",
];

/// Fields that must be texts. The others of [`FIELDS`] may be whole numbers.
const TEXTS: [&str; 4] = ["text", "summary", "instruction", "target"];

/// Fields of rows that are foreign.
const FOREIGN: [&str; 17] = [
    "audio",
    "audios",
    "audio_path",
    "audio_filepath",
    "start_s",
    "end_s",
    "messages",
    "conversations",
    "system",
    "query",
    "response",
    "history",
    "output",
    "image",
    "images",
    "video",
    "videos",
];

/// Most other fields of a row.
const MOST_OTHERS: usize = 128;

/// Most columns of a table.
const MOST_COLUMNS: usize = 256;

/// Most columns that are renamed.
const MOST_RENAMED: usize = 64;

/// A line that is not read here, or has a fault.
#[derive(Debug)]
pub struct Foreign;

/// Rows of texts as cells, with the facts that reading a manifest reports.
#[derive(Default)]
pub struct TextRows<'a> {
    /// The rows.
    pub table: Table<'a>,
    /// Notes for the user.
    pub notes: Notes,
    /// Renamed columns that some row has, as a mask of their positions.
    pub seen: u64,
}

/// Returns whether rows with these columns can be read here.
pub fn can_rename(columns: &Columns) -> bool {
    columns.pairs().count() <= MOST_RENAMED
        && columns.pairs().all(|(field, _)| FIELDS.contains(&field))
}

/// Reads lines with their numbers. Blank lines are not among them.
///
/// # Errors
/// A foreign line.
pub fn read<'a>(
    lines: impl Iterator<Item = (u32, &'a [u8])>,
    columns: &Columns,
) -> Result<TextRows<'a>, Foreign> {
    let mut rows = TextRows::default();
    let mut languages = HashMap::new();
    let mut fields = Fields::default();
    for (line, text) in lines {
        fields.clear();
        let seed = Seed {
            fields: &mut fields,
            columns,
            seen: &mut rows.seen,
        };
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        seed.deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|_| Foreign)?;
        if fields.is_foreign {
            return Err(Foreign);
        }
        fields.finish(line, &mut languages, &mut rows)?;
        if rows.table.num_columns() > MOST_COLUMNS {
            return Err(Foreign);
        }
    }
    Ok(rows)
}

/// Fields of one row.
#[derive(Default)]
struct Fields<'a> {
    known: [Option<Cell<'a>>; FIELDS.len()],
    /// Known fields that the line has, null ones among them.
    is_said: [bool; FIELDS.len()],
    others: Vec<(Cow<'a, str>, Option<Cell<'a>>)>,
    is_foreign: bool,
}

impl<'a> Fields<'a> {
    fn clear(&mut self) {
        self.known = Default::default();
        self.is_said = Default::default();
        self.others.clear();
        self.is_foreign = false;
    }

    /// Adds a field by the name that it has in a manifest.
    fn add(&mut self, name: Cow<'a, str>, cell: Option<Cell<'a>>) {
        if let Some(at) = FIELDS.iter().position(|field| *field == name) {
            self.is_foreign |= std::mem::replace(&mut self.is_said[at], true);
            self.known[at] = cell;
            return;
        }
        let is_twice = self.others.iter().any(|(known, _)| *known == name);
        self.is_foreign |= is_twice || self.others.len() == MOST_OTHERS;
        self.is_foreign |= cell.is_some() && FOREIGN.contains(&&*name);
        if !self.is_foreign {
            self.others.push((name, cell));
        }
    }

    /// Checks the row and moves it to the table.
    fn finish(
        &mut self,
        line: u32,
        languages: &mut HashMap<Cow<'a, str>, String>,
        rows: &mut TextRows<'a>,
    ) -> Result<(), Foreign> {
        let has_lang =
            |(name, cell): &(Cow<'_, str>, Option<Cell<'_>>)| cell.is_some() && name == "lang";
        for (at, &field) in FIELDS.iter().enumerate() {
            let cell = match (at, self.known[at].take()) {
                (ID, None) => Some(Cell::Text(line.to_string().into())),
                (LANGUAGE, cell) => {
                    let tag = language_of(cell, languages)?;
                    // `lang` is read where there is no `language`.
                    if tag.is_none() && self.others.iter().any(has_lang) {
                        return Err(Foreign);
                    }
                    tag
                }
                (_, None) => None,
                (DURATION, Some(cell)) => Some(seconds(cell)?),
                (REFERENCES, Some(Cell::Texts(texts))) => {
                    let fold = |text| fold(text, field, line, &mut rows.notes);
                    Some(Cell::Texts(texts.into_iter().map(fold).collect()))
                }
                (REFERENCES, Some(_)) => return Err(Foreign),
                (_, Some(cell)) => {
                    let text = name(cell, field)?;
                    if at == ID && text.is_empty() {
                        return Err(Foreign);
                    }
                    let text = match FOLDED.contains(&field) {
                        true => fold(text, field, line, &mut rows.notes),
                        false => text,
                    };
                    Some(Cell::Text(text))
                }
            };
            if let Some(cell) = cell {
                rows.table.set(Cow::Borrowed(field), cell);
            }
        }
        for (name, cell) in self.others.drain(..) {
            if let Some(cell) = cell {
                rows.table.set(name, cell);
            }
        }
        rows.table.end_row();
        Ok(())
    }
}

/// The tag of a language.
fn language_of<'a>(
    cell: Option<Cell<'a>>,
    known: &mut HashMap<Cow<'a, str>, String>,
) -> Result<Option<Cell<'a>>, Foreign> {
    let Some(cell) = cell else { return Ok(None) };
    let written = name(cell, FIELDS[LANGUAGE])?;
    if written.trim().is_empty() {
        return Ok(None);
    }
    if let Some(tag) = known.get(&written) {
        return Ok(Some(Cell::Text(tag.clone().into())));
    }
    let tag = language::tag(&written).map_err(|_| Foreign)?;
    known.insert(written, tag.clone());
    Ok(Some(Cell::Text(tag.into())))
}

/// A time of zero or more.
fn seconds(cell: Cell<'_>) -> Result<Cell<'_>, Foreign> {
    let Cell::Number(number) = &cell else {
        return Err(Foreign);
    };
    let seconds = number.as_f64().filter(|seconds| *seconds >= 0.0);
    let number = seconds.and_then(Number::from_f64).ok_or(Foreign)?;
    Ok(Cell::Number(number))
}

/// A text, or a whole number where a name may be one.
fn name<'a>(cell: Cell<'a>, field: &str) -> Result<Cow<'a, str>, Foreign> {
    match cell {
        Cell::Text(text) => Ok(text),
        Cell::Number(number) if (number.is_i64() || number.is_u64()) && !TEXTS.contains(&field) => {
            Ok(number.to_string().into())
        }
        _ => Err(Foreign),
    }
}

/// A text in its ordinary spelling.
fn fold<'a>(text: Cow<'a, str>, field: &'static str, line: u32, notes: &mut Notes) -> Cow<'a, str> {
    let folded = match ordinary(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(folded) => (folded != *text).then_some(folded),
    };
    let Some(folded) = folded else { return text };
    notes.folded(field, line);
    Cow::Owned(folded)
}

/// Reads the fields of a JSON object.
struct Seed<'s, 'a> {
    fields: &'s mut Fields<'a>,
    columns: &'s Columns,
    seen: &'s mut u64,
}

impl<'a> DeserializeSeed<'a> for Seed<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Seed<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Field(found)) = map.next_key()? {
            let Some(Cell::Text(mut name)) = found else {
                self.fields.is_foreign = true;
                continue;
            };
            let Field(cell) = map.next_value()?;
            let mut pairs = self.columns.pairs().enumerate();
            let renamed = pairs.find(|(_, (_, column))| *column == name);
            if let Some((at, (field, _))) = renamed {
                *self.seen |= 1 << at;
                let field = FIELDS.into_iter().find(|known| *known == field);
                match field {
                    Some(field) => name = Cow::Borrowed(field),
                    None => self.fields.is_foreign = true,
                }
            }
            self.fields.add(name, cell);
        }
        Ok(())
    }
}

/// A value or a key; none for null.
struct Field<'a>(Option<Cell<'a>>);

impl<'a> Deserialize<'a> for Field<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor).map(Self)
    }
}

struct FieldVisitor;

impl<'a> Visitor<'a> for FieldVisitor {
    type Value = Option<Cell<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Some(Cell::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cell::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(Cell::Number(number.into())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Cell::Number(number.into())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(number).map(Cell::Number))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cell::Boolean(value)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut cells = Vec::new();
        while let Some(Field(cell)) = list.next_element()? {
            cells.push(cell);
        }
        let is_text = |cell: &Option<Cell<'_>>| matches!(cell, Some(Cell::Text(_)));
        if !cells.is_empty() && cells.iter().all(is_text) {
            let texts = cells.into_iter().filter_map(|cell| match cell {
                Some(Cell::Text(text)) => Some(text),
                _ => None,
            });
            return Ok(Some(Cell::Texts(texts.collect())));
        }
        let values = cells.iter().map(|cell| match cell {
            Some(cell) => cell.to_json(),
            None => "null".to_owned(),
        });
        let values: Vec<String> = values.collect();
        Ok(Some(Cell::Json(format!("[{}]", values.join(",")))))
    }

    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Self::Value, A::Error> {
        let value = Value::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Some(Cell::Json(value.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Kinds;

    /// The columns with their cells of lines, as text.
    fn read_text(text: &str, columns: &str) -> Result<Vec<String>, Foreign> {
        let columns = match columns {
            "" => Columns::default(),
            columns => columns.parse().unwrap(),
        };
        let lines = (1..).zip(text.lines().map(str::as_bytes));
        let rows = read(lines, &columns)?;
        let mut kinds = Kinds::default();
        kinds.add_table(&rows.table);
        let column = |(name, kind): (String, _)| {
            let cells = rows.table.cells(&name).unwrap();
            let cells: Vec<String> = cells
                .iter()
                .map(|(row, cell)| format!("{row} {}", cell.to_json()))
                .collect();
            format!("{name} {kind:?}: {}", cells.join(", "))
        };
        Ok(kinds.into_list().into_iter().map(column).collect())
    }

    #[test]
    fn texts_and_other_fields_become_cells() {
        let text = "{\"text\": \"\\u0041b\", \"z\": {\"a\": 1.0,  \"a\": [null]}, \"id\": 7}\n\
            {\"start\": -1, \"language\": \"Arabic\", \"references\": [\"x\"], \"text\": null, \"duration\": 2}";
        assert_eq!(
            read_text(text, "").unwrap(),
            [
                "id Text: 0 \"7\", 1 \"2\"",
                "text Text: 0 \"Ab\"",
                "z Json: 0 {\"a\":[null]}",
                "duration Number: 1 2.0",
                "language Text: 1 \"ar\"",
                "references Texts: 1 [\"x\"]",
                "start Integer: 1 -1",
            ]
        );
        let renamed = read_text("{\"sentence\": \"x\"}", "text=sentence").unwrap();
        assert_eq!(renamed, ["id Text: 0 \"1\"", "text Text: 0 \"x\""]);
    }

    #[test]
    fn lines_that_need_the_reader_are_foreign() {
        for line in [
            r#"{"text": "x", "audio": "a.wav"}"#,
            r#"{"text": 3}"#,
            r#"{"text": "x", "id": ""}"#,
            r#"{"text": "x", "id": 1.5}"#,
            r#"{"text": "x", "text": "y"}"#,
            r#"{"text": "x", "a": null, "a": 1}"#,
            r#"{"text": "x", "duration": -1}"#,
            r#"{"text": "x", "duration": "1"}"#,
            r#"{"text": "x", "language": "nowhere"}"#,
            r#"{"text": "x", "lang": "ar"}"#,
            r#"{"text": "x", "references": "y"}"#,
            r#"{"messages": []}"#,
            r#"{"text": "x"} 1"#,
            r#"{"text": "x""#,
            "[]",
        ] {
            assert!(read_text(line, "").is_err(), "{line}");
        }
        let both = r#"{"sentence": null, "text": "x"}"#;
        assert!(read_text(both, "text=sentence").is_err());
    }
}
