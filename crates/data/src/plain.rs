//! Rows of a file as plain fields, without the manifest's contract: JSON lines, Parquet, and tables with commas, semicolons or tabs.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::Columns;
use crate::parquet;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Input;
use maqam_base::files::Lines;
use maqam_base::files::read_text;
use maqam_base::json;

/// Calls `found` with the line (or row) number, from 1, and the fields of every row. Empty lines are passed over.
///
/// The form follows from the file's name: `.parquet`, `.csv`, `.tsv`; anything else is JSON lines.
///
/// # Errors
/// What cannot be read, with file and line; what `found` returns.
pub fn each(
    path: &Path,
    mut found: impl FnMut(u32, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("parquet") => each_of_parquet(path, found),
        Some("csv") => each_of_table(path, b",;", &mut found),
        Some("tsv") => each_of_table(path, b"\t", &mut found),
        _ => {
            let mut lines = Lines::open(path)?;
            while let Some((number, line)) = lines.next_line()? {
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let fields = json::parse_slice(line)
                    .map_err(|e| e.at(format!("{}:{number}", path.display())))?;
                found(number, fields)?;
            }
            Ok(())
        }
    }
}

fn each_of_parquet(
    path: &Path,
    mut found: impl FnMut(u32, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let file = Input::open(path)?.into_file()?;
    parquet::read(&file, path, &Columns::default(), |row| {
        found(row.line, row.fields)
    })?;
    Ok(())
}

/// Reads a table whose first row names the columns (RFC 4180); of several separators the one that the first row has most of.
fn each_of_table(
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
        let (mut record, mut field) = (Vec::new(), String::new());
        let (mut is_quoted, mut was_quoted) = (false, false);
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

    fn rows(name: &str, text: &str) -> Result<Vec<(u32, Value)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut rows = Vec::new();
        each(&path, |line, fields| {
            rows.push((line, fields.into()));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn tables_are_read_as_rfc_4180_says() {
        let found = rows(
            "a.csv",
            "\u{feff}title,text\r\n\"a, b\",\"line one\nand \"\"two\"\"\"\r\n\r\nc,d\n,e",
        )
        .unwrap();
        assert_eq!(
            found,
            [
                (
                    2,
                    serde_json::json!({"title": "a, b", "text": "line one\nand \"two\""})
                ),
                (5, serde_json::json!({"title": "c", "text": "d"})),
                (6, serde_json::json!({"title": "", "text": "e"})),
            ]
        );
        let found = rows("a.csv", "title;text\na,b;c\n").unwrap();
        assert_eq!(found[0].1["title"], "a,b");
        let found = rows("a.tsv", "title\ttext\nقال \"نعم\"\tc\n").unwrap();
        assert_eq!(found[0].1["title"], "قال \"نعم\"");
    }

    #[test]
    fn broken_rows_are_named_by_line() {
        for (name, text, expected) in [
            ("a.csv", "a,b\n1,2\n3\n", "a.csv:3: the row has 1 fields"),
            (
                "a.csv",
                "a,b\n1,\"2\n3\n",
                "a.csv:2: a field in double quotes",
            ),
            ("a.jsonl", "{\"a\": 1}\n\n{\"a\"", "a.jsonl:3: column"),
        ] {
            let error = rows(name, text).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
