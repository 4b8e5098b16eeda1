//! Cells of a table of rows, and the kinds of its columns.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Number;
use serde_json::Value;

use crate::Message;
use crate::Row;
use crate::formats::huggingface::Feature;
use maqam_audio::Span;

/// A value of a row's field; a missing field has no cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// True or false.
    Boolean(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(Cow<'a, str>),
    /// A list of texts, at least one.
    Texts(Vec<Cow<'a, str>>),
    /// A conversation.
    Messages(&'a [Message]),
    /// The text of any other JSON value.
    Json(String),
}

impl<'a> Cell<'a> {
    /// The cell of a JSON value; none for null.
    pub fn of(value: Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(value) => Self::Boolean(value),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::Text(text.into()),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
                let texts = list.into_iter().filter_map(|value| match value {
                    Value::String(text) => Some(Cow::Owned(text)),
                    _ => None,
                });
                Self::Texts(texts.collect())
            }
            other => Self::Json(other.to_string()),
        })
    }

    fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    fn number(number: f64) -> Option<Self> {
        Number::from_f64(number).map(Self::Number)
    }

    /// Kind of a column with this cell alone.
    pub fn kind(&self) -> ColumnKind {
        match self {
            Self::Boolean(_) => ColumnKind::Boolean,
            Self::Number(number) if number.is_i64() => ColumnKind::Integer,
            Self::Number(_) => ColumnKind::Number,
            Self::Text(_) => ColumnKind::Text,
            Self::Texts(_) => ColumnKind::Texts,
            Self::Messages(_) => ColumnKind::Messages,
            Self::Json(_) => ColumnKind::Json,
        }
    }

    /// The text of the value in JSON.
    pub fn to_json(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => Value::from(&**text).to_string(),
            Self::Texts(texts) => {
                let texts: Vec<Value> = texts.iter().map(|text| Value::from(&**text)).collect();
                Value::from(texts).to_string()
            }
            Self::Messages(messages) => {
                let messages: Vec<Value> = messages.iter().map(crate::row_json::message).collect();
                Value::from(messages).to_string()
            }
            Self::Json(text) => text.clone(),
        }
    }
}

/// Kind of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnKind {
    /// Audio, one clip per row.
    Audio,
    /// Audio, a list of clips per row.
    Audios,
    /// Conversations.
    Messages,
    /// True or false.
    Boolean,
    /// Whole numbers of 64 bits with a sign.
    Integer,
    /// Floating-point numbers of 64 bits.
    Number,
    /// Texts.
    Text,
    /// Lists of texts.
    Texts,
    /// Texts of JSON values.
    Json,
}

impl ColumnKind {
    /// Kind of a column with values of two kinds.
    pub fn with(self, other: Self) -> Self {
        match (self, other) {
            (one, other) if one == other => one,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            _ => Self::Json,
        }
    }

    /// The type of such a column in the metadata of `datasets`.
    pub fn feature(self) -> Feature {
        match self {
            Self::Audio => Feature::Audio,
            Self::Audios => Feature::Audios,
            Self::Messages => Feature::Messages,
            Self::Boolean => Feature::Boolean,
            Self::Integer => Feature::Integer,
            Self::Number => Feature::Number,
            Self::Texts => Feature::Texts,
            Self::Text | Self::Json => Feature::Text,
        }
    }
}

/// Columns in the order in which rows have them first, with their kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kinds {
    list: Vec<(String, ColumnKind)>,
    positions: HashMap<String, usize>,
}

impl Kinds {
    /// Adds a column after the others, or widens the kind of one with its name.
    pub fn add(&mut self, name: &str, kind: ColumnKind) {
        match self.positions.get(name) {
            Some(&at) => self.list[at].1 = self.list[at].1.with(kind),
            None => {
                self.positions.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), kind));
            }
        }
    }

    /// Adds the columns of a table whose rows follow.
    pub fn add_table(&mut self, table: &Table<'_>) {
        for column in &table.columns {
            self.add(&column.name, column.kind);
        }
    }

    /// Returns whether a table has these columns only, with values of their kinds.
    pub fn cover(&self, table: &Table<'_>) -> bool {
        table.columns.iter().all(|column| {
            let known = self.positions.get(&*column.name).map(|&at| self.list[at].1);
            known.is_some_and(|kind| kind.with(column.kind) == kind)
        })
    }

    /// The columns.
    pub fn into_list(self) -> Vec<(String, ColumnKind)> {
        self.list
    }
}

/// A column of a table: its cells with their rows, which rise.
pub struct Cells<'a> {
    name: Cow<'a, str>,
    kind: ColumnKind,
    rows: Vec<u32>,
    cells: Vec<Cell<'a>>,
}

impl<'a> Cells<'a> {
    /// The cells that are there, with their rows.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Cell<'a>)> {
        self.rows.iter().map(|&row| row as usize).zip(&self.cells)
    }
}

/// Rows as columns of cells. Memory grows with the cells that are there.
#[derive(Default)]
pub struct Table<'a> {
    num_rows: usize,
    columns: Vec<Cells<'a>>,
    positions: HashMap<Cow<'a, str>, usize>,
    /// Column that is expected next: rows mostly have the same fields in the same order.
    next: usize,
}

impl<'a> Table<'a> {
    /// The fields of rows without their audio, in the order of [`Row::to_json`].
    pub fn of_rows(rows: &[&'a Row]) -> Self {
        let mut table = Self::default();
        for row in rows {
            table.add_row(row);
        }
        table
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Number of columns.
    pub fn num_columns(&self) -> usize {
        self.columns.len()
    }

    /// The cells of a column; none if no row has it.
    pub fn cells(&self, name: &str) -> Option<&Cells<'a>> {
        self.positions.get(name).map(|&at| &self.columns[at])
    }

    /// Sets a field of the row that is being added.
    pub fn set(&mut self, name: Cow<'a, str>, cell: Cell<'a>) {
        let kind = cell.kind();
        let at = match self.columns.get(self.next) {
            Some(column) if column.name == name => self.next,
            _ => self.position(name, kind),
        };
        self.next = at + 1;
        let column = &mut self.columns[at];
        column.kind = column.kind.with(kind);
        let row = self.num_rows as u32;
        // The later one of two values counts.
        if column.rows.last() == Some(&row) {
            column.rows.pop();
            column.cells.pop();
        }
        column.rows.push(row);
        column.cells.push(cell);
    }

    /// Ends the row that is being added.
    pub fn end_row(&mut self) {
        self.num_rows += 1;
        self.next = 0;
    }

    fn position(&mut self, name: Cow<'a, str>, kind: ColumnKind) -> usize {
        if let Some(&at) = self.positions.get(&name) {
            return at;
        }
        let at = self.columns.len();
        self.positions.insert(name.clone(), at);
        self.columns.push(Cells {
            name,
            kind,
            rows: Vec::new(),
            cells: Vec::new(),
        });
        at
    }

    fn add_row(&mut self, row: &'a Row) {
        let span = match row.clips.as_slice() {
            [clip] => clip.span,
            _ => Span::WHOLE,
        };
        self.set_known("id", Some(Cell::text(&row.id)));
        self.set_known("start_s", span.start_s.and_then(Cell::number));
        self.set_known("end_s", span.end_s.and_then(Cell::number));
        self.set_known("channel", span.channel.map(|n| Cell::Number(n.into())));
        self.set_known("duration", row.duration.and_then(Cell::number));
        self.set_known("task", row.task.as_deref().map(Cell::text));
        self.set_known("language", row.language.as_deref().map(Cell::text));
        self.set_known("text", row.text.as_deref().map(Cell::text));
        self.set_known("summary", row.summary.as_deref().map(Cell::text));
        self.set_known("label", row.label.as_deref().map(Cell::text));
        let references = row.references.iter().map(|text| Cow::Borrowed(&**text));
        let references = (!row.references.is_empty()).then(|| Cell::Texts(references.collect()));
        self.set_known("references", references);
        self.set_known("speaker", row.speaker.as_deref().map(Cell::text));
        self.set_known("group", row.group.as_deref().map(Cell::text));
        self.set_known("split", row.split.as_deref().map(Cell::text));
        self.set_known("instruction", row.instruction.as_deref().map(Cell::text));
        self.set_known("target", row.target.as_deref().map(Cell::text));
        let messages = (!row.messages.is_empty()).then_some(Cell::Messages(&row.messages));
        self.set_known("messages", messages);
        if row.extra.is_some() {
            for (name, value) in row.extra_fields() {
                if let Some(cell) = Cell::of(value) {
                    self.set(Cow::Owned(name), cell);
                }
            }
        }
        self.end_row();
    }

    fn set_known(&mut self, name: &'static str, cell: Option<Cell<'a>>) {
        if let Some(cell) = cell {
            self.set(Cow::Borrowed(name), cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_stand_in_order_and_widen() {
        let rows = [
            json!({"a": 1, "b": "x"}),
            json!({"c": ["p", "q"], "a": 1.5, "b": null}),
            json!({"b": [1], "a": 2, "c": []}),
        ];
        let mut table = Table::default();
        for row in rows {
            let Value::Object(fields) = row else {
                unreachable!()
            };
            for (name, value) in fields {
                if let Some(cell) = Cell::of(value) {
                    table.set(name.into(), cell);
                }
            }
            table.end_row();
        }
        assert_eq!((table.num_rows(), table.num_columns()), (3, 3));
        let mut kinds = Kinds::default();
        assert!(!kinds.cover(&table));
        kinds.add_table(&table);
        assert!(kinds.cover(&table));
        let list = kinds.into_list();
        let expected = [
            ("a", ColumnKind::Number),
            ("b", ColumnKind::Json),
            ("c", ColumnKind::Json),
        ];
        assert_eq!(list, expected.map(|(name, kind)| (name.to_owned(), kind)));
        let of = |name: &str| -> Vec<(usize, String)> {
            let cells = table.cells(name).unwrap();
            cells
                .iter()
                .map(|(row, cell)| (row, cell.to_json()))
                .collect()
        };
        assert_eq!(of("b"), [(0, "\"x\"".to_owned()), (2, "[1]".to_owned())]);
        assert_eq!(
            of("c"),
            [(1, "[\"p\",\"q\"]".to_owned()), (2, "[]".to_owned())]
        );
    }
}
