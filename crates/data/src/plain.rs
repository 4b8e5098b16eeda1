//! Rows of a file as plain fields, without the manifest's contract: JSON lines, Parquet, and tables
//! with commas, semicolons or tabs. This is no format, but a way to read some of them.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::Columns;
use crate::formats::table;
use crate::parquet;
use maqam_base::error::Result;
use maqam_base::files::Input;
use maqam_base::jsonl;

/// Calls `found` with the line (or row) number, from 1, and the fields of every row. Empty lines
/// are passed over.
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
        Some("csv") => table::each_plain(path, b",;", &mut found),
        Some("tsv") => table::each_plain(path, b"\t", &mut found),
        _ => {
            for row in jsonl::rows(path)? {
                let (number, fields) = row?;
                found(number as u32, fields)?;
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
