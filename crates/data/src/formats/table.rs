//! Tables in text (CSV, TSV): a line of column names, then one row per line.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::Columns;
use crate::Row;
use crate::form::Delimiter;
use crate::formats::out;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::formats::out::stream;
use crate::formats::without_column;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Lines;
use maqam_base::files::MAX_LINE;
use maqam_base::files::read_text;
use maqam_base::json;

/// Quoting of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quotes {
    /// RFC 4180: a cell in quotes may hold anything, also line breaks.
    Standard,
    /// Quotes are letters, unless a cell holds doubled quotes. Common Voice never quotes sentences,
    /// and pandas quotes them if necessary.
    WhereNeeded,
}

/// Calls `found` with every row of a table. Empty cells are fields that the row does not have.
///
/// # Errors
/// A table without column names, or without a column that `columns` names; those of `found`.
/// `found` gets the fault of a row of another width.
pub fn read(
    mut lines: Lines,
    path: &Path,
    delimiter: Delimiter,
    columns: &Columns,
    found: &mut dyn FnMut(u32, Result<RawRow>) -> Result<()>,
) -> Result<()> {
    let delimiter = delimiter.byte();
    let is_quoted = |cell: &[u8]| cell.len() >= 2 && cell[0] == b'"' && cell.ends_with(b"\"");
    let mut quotes = Quotes::Standard;
    let mut names: Option<Vec<String>> = None;
    while let Some((line, text)) = lines.next_line()? {
        if text.trim_ascii().is_empty() {
            continue;
        }
        if names.is_none() && delimiter == b'\t' {
            let first = text.strip_suffix(b"\r").unwrap_or(text);
            let is_all_quoted = first.split(|byte| *byte == delimiter).all(is_quoted);
            if !is_all_quoted {
                quotes = Quotes::WhereNeeded;
            }
        }
        let mut record = text.to_vec();
        if quotes == Quotes::Standard {
            while is_open(&record) {
                let Some((_, more)) = lines.next_line()? else {
                    let error = Error::input("a quote is opened and not closed")
                        .at(format!("{}:{line}", path.display()))
                        .hint("write a quote inside a cell twice, and the cell in quotes");
                    return Err(error);
                };
                record.push(b'\n');
                record.extend(more);
                if record.len() > MAX_LINE {
                    return Err(Error::input("a quote is opened and not closed")
                        .at(format!("{}:{line}", path.display()))
                        .hint("write a quote inside a cell twice, and the cell in quotes"));
                }
            }
        }
        let cells = match cells(&record, delimiter, quotes) {
            Ok(cells) => cells,
            Err(error) => {
                found(line, Err(error))?;
                continue;
            }
        };
        match &names {
            None => {
                let known: Vec<&str> = cells.iter().map(|cell| cell.trim()).collect();
                if let Some(column) = columns.columns().find(|column| !known.contains(column)) {
                    return Err(without_column(column, &known).at_path(path));
                }
                names = Some(known.into_iter().map(str::to_owned).collect());
            }
            Some(names) => found(line, row(line, names, cells))?,
        }
    }
    Ok(())
}

/// Returns whether a record ends inside quotes.
fn is_open(record: &[u8]) -> bool {
    record.iter().filter(|byte| **byte == b'"').count() % 2 == 1
}

fn row(line: u32, names: &[String], cells: Vec<String>) -> Result<RawRow> {
    if cells.len() != names.len() {
        return Err(Error::input(format!(
            "{} cells, but {} columns",
            cells.len(),
            names.len()
        ))
        .hint("put a cell that holds the delimiter into double quotes"));
    }
    let fields: Map<String, Value> = names
        .iter()
        .zip(cells)
        .filter(|(name, cell)| !name.is_empty() && !cell.is_empty())
        .map(|(name, cell)| (name.clone(), Value::from(cell)))
        .collect();
    Ok(RawRow::new(line, fields))
}

/// The cells of a record.
fn cells(record: &[u8], delimiter: u8, quotes: Quotes) -> Result<Vec<String>> {
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let text = std::str::from_utf8(record).map_err(|e| json::not_utf8(record, e.valid_up_to()))?;
    let delimiter = char::from(delimiter);
    if quotes == Quotes::WhereNeeded {
        return Ok(text.split(delimiter).map(bare).collect());
    }

    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let (cell, left) = match rest.strip_prefix('"') {
            Some(inside) => quoted(inside, delimiter),
            None => match rest.split_once(delimiter) {
                Some((cell, left)) => (cell.to_owned(), Some(left)),
                None => (rest.to_owned(), None),
            },
        };
        cells.push(cell);
        match left {
            Some(left) => rest = left,
            None => return Ok(cells),
        }
    }
}

/// A cell that began with a quote, and the text after its delimiter.
fn quoted(inside: &str, delimiter: char) -> (String, Option<&str>) {
    let mut cell = String::new();
    let mut rest = inside;
    while let Some((before, after)) = rest.split_once('"') {
        cell += before;
        rest = after;
        match rest.strip_prefix('"') {
            Some(after) => {
                cell.push('"');
                rest = after;
            }
            None => break,
        }
    }
    // Letters after the closing quote belong to the cell, as in other readers.
    match rest.split_once(delimiter) {
        Some((tail, left)) => (cell + tail, Some(left)),
        None => (cell + rest, None),
    }
}

/// A cell whose quotes are letters unless it could not have been written without.
fn bare(cell: &str) -> String {
    let inside = cell
        .strip_prefix('"')
        .and_then(|cell| cell.strip_suffix('"'))
        .filter(|inside| inside.contains("\"\"") && !inside.replace("\"\"", "").contains('"'));
    match inside {
        Some(inside) => inside.replace("\"\"", "\""),
        None => cell.to_owned(),
    }
}

/// A line of a table, with quotes around cells that need them.
pub fn line<'a>(cells: impl Iterator<Item = &'a str>, delimiter: Delimiter) -> String {
    let delimiter = char::from(delimiter.byte());
    let written: Vec<String> = cells
        .map(|cell| {
            // A line break has no place in the cells of a TSV that others read.
            let cell = match delimiter {
                '\t' => cell.replace(['\t', '\n', '\r'], " "),
                _ => cell.to_owned(),
            };
            let must_be_quoted = match delimiter {
                '\t' => cell.starts_with('"') && cell.ends_with('"') && cell.contains("\"\""),
                _ => cell.contains(['"', '\n', '\r', delimiter]),
            };
            match must_be_quoted {
                true => format!("\"{}\"", cell.replace('"', "\"\"")),
                false => cell,
            }
        })
        .collect();
    written.join(&delimiter.to_string())
}

/// Writes `train.csv` or `train.tsv`.
///
/// # Errors
/// The disk's.
pub fn write(out: &mut Out<'_>, rows: &[Row], delimiter: Delimiter) -> Result<()> {
    let name = match delimiter {
        Delimiter::Tab => "train.tsv",
        _ => "train.csv",
    };
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        records.push(row.to_json(|clip| Ok(out.audio(row, clip, Base::Manifest)?.into()))?);
    }
    write_records(&out.path(name), &records, delimiter)
}

/// Writes a table with the columns of all records, in the order in which they first appear. Lists
/// and objects are written as JSON.
///
/// # Errors
/// Those of the disk.
pub fn write_records(
    path: &Path,
    records: &[Map<String, Value>],
    delimiter: Delimiter,
) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    let mut known = HashSet::new();
    for name in records.iter().flat_map(Map::keys) {
        if known.insert(name.as_str()) {
            names.push(name);
        }
    }
    stream(path, |file| {
        out::line(file, &line(names.iter().copied(), delimiter), path)?;
        for record in records {
            let cells: Vec<String> = names
                .iter()
                .map(|name| match record.get(*name) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                })
                .collect();
            let text = line(cells.iter().map(String::as_str), delimiter);
            out::line(file, &text, path)?;
        }
        Ok(())
    })
}

/// Calls `found` with the line and the fields of every row of a table whose first row names the
/// columns (RFC 4180), empty cells included. Of several separators it takes the one that the first
/// row has most of.
///
/// # Errors
/// A file that cannot be read; a row of another width; a quote that does not end; those of `found`.
pub fn each_plain(
    path: &Path,
    separators: &[u8],
    found: &mut dyn FnMut(u32, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let text = read_text(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let first = text.lines().next().unwrap_or_default();
    let count = |separator: u8| first.bytes().filter(|byte| *byte == separator).count();
    let separator = separators
        .iter()
        .copied()
        .rev()
        .max_by_key(|separator| count(*separator))
        .unwrap_or(b',');
    let mut records = Records {
        rest: text,
        separator: char::from(separator),
        line: 1,
    };
    let Some((_, names)) = records.next_record(path)? else {
        return Ok(());
    };
    while let Some((line, record)) = records.next_record(path)? {
        if record.iter().all(String::is_empty) {
            continue;
        }
        if record.len() != names.len() {
            return Err(Error::input(format!(
                "the row has {} fields, the first row names {}",
                record.len(),
                names.len()
            ))
            .at(format!("{}:{line}", path.display()))
            .hint("put texts with separators or line breaks into double quotes"));
        }
        let fields = names
            .iter()
            .map(|name| name.trim().to_owned())
            .zip(record.into_iter().map(Value::String));
        found(line, fields.collect())?;
    }
    Ok(())
}

/// The records of a table.
struct Records<'a> {
    rest: &'a str,
    separator: char,
    line: u32,
}

impl Records<'_> {
    /// The next record with the line at which it begins.
    fn next_record(&mut self, path: &Path) -> Result<Option<(u32, Vec<String>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let began = self.line;
        let mut record = Vec::new();
        let mut field = String::new();
        let mut is_quoted = false;
        let mut was_quoted = false;
        let mut chars = self.rest.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c == '\n' {
                self.line = self.line.saturating_add(1);
            }
            match c {
                '"' if is_quoted && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                    chars.next();
                    field.push('"');
                }
                '"' if is_quoted => is_quoted = false,
                _ if is_quoted => field.push(c),
                '"' if field.is_empty() && !was_quoted => (is_quoted, was_quoted) = (true, true),
                '\r' if chars.peek().is_some_and(|(_, next)| *next == '\n') => {}
                '\n' => {
                    record.push(field);
                    self.rest = &self.rest[at + 1..];
                    return Ok(Some((began, record)));
                }
                _ if c == self.separator => {
                    record.push(std::mem::take(&mut field));
                    was_quoted = false;
                }
                _ => field.push(c),
            }
        }
        if is_quoted {
            return Err(
                Error::input("a field in double quotes does not end before the file does")
                    .at(format!("{}:{began}", path.display()))
                    .hint("write a double quote inside a field twice"),
            );
        }
        self.rest = "";
        record.push(field);
        Ok(Some((began, record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(text: &str) -> Vec<String> {
        cells(text.as_bytes(), b',', Quotes::Standard).unwrap()
    }

    // What Python's `csv` reads of these lines.
    #[test]
    fn cells_are_those_that_python_reads() {
        assert_eq!(standard("a,b,"), ["a", "b", ""]);
        assert_eq!(
            standard("\"a,b\",\"he said \"\"x\"\"\""),
            ["a,b", "he said \"x\""]
        );
        assert_eq!(standard("\"line\nbreak\",2\r"), ["line\nbreak", "2"]);
        assert_eq!(standard("a\"b,\"\""), ["a\"b", ""]);
        assert_eq!(standard("\"ab\"c,d"), ["abc", "d"]);
    }

    #[test]
    fn quotes_of_a_tsv_are_letters_where_they_can_be() {
        let of = |text: &str| cells(text.as_bytes(), b'\t', Quotes::WhereNeeded).unwrap();
        assert_eq!(
            of("a.mp3\t\"Hello,\" he said."),
            ["a.mp3", "\"Hello,\" he said."]
        );
        assert_eq!(of("a.mp3\t\"Hello.\""), ["a.mp3", "\"Hello.\""]);
        assert_eq!(of("\"he said \"\"x\"\"\"\t1"), ["he said \"x\"", "1"]);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for delimiter in [Delimiter::Comma, Delimiter::Tab] {
            let written = ["a", "b, c", "\"x\"", "\"a\"\"b\"", "\"", "", "say \"no\""];
            let quotes = match delimiter {
                Delimiter::Comma => Quotes::Standard,
                _ => Quotes::WhereNeeded,
            };
            let text = line(written.into_iter(), delimiter);
            let read = cells(text.as_bytes(), delimiter.byte(), quotes).unwrap();
            assert_eq!(read, written, "{text}");
        }
    }
}
