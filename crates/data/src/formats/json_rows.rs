//! JSON lines, and the JSON list that other tools read in their place.

use std::path::Path;

use serde_json::Value;

use crate::AudioSource;
use crate::Row;
use crate::fields::brief;
use crate::form;
use crate::formats::out::Base;
use crate::formats::out::Out;
use crate::row::RawRow;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Lines;
use maqam_base::json;

/// Largest file that is read as a whole to distinguish multi-line JSON objects from JSON lines.
const MOST_WHOLE_BYTES: u64 = 256 << 20;

/// Most bytes of a JSON list.
const MOST_LIST_BYTES: u64 = 4 << 30;

/// Receives a row or its fault, with its line; an error ends the reading.
pub type Sink<'a> = &'a mut dyn FnMut(u32, Result<RawRow>) -> Result<()>;

/// Calls `found` with every line that is not blank.
///
/// # Errors
/// A file that cannot be read, or that is one JSON value instead of lines; those of `found`.
pub fn read_lines(mut lines: Lines, path: &Path, found: Sink<'_>) -> Result<()> {
    let mut is_first = true;
    while let Some((line, text)) = lines.next_line()? {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row = parse_object(line, text);
        if std::mem::take(&mut is_first)
            && row.is_err()
            && let Some(error) = one_value(path)
        {
            return Err(error.at_path(path));
        }
        found(line, row)?;
    }
    Ok(())
}

/// Reads lines that are certainly JSON lines, as [`read_lines`] does.
///
/// # Errors
/// A file that cannot be read; those of `found`.
pub fn read_lines_of(lines: &mut Lines, found: Sink<'_>) -> Result<()> {
    while let Some((line, text)) = lines.next_line()? {
        if !text.trim_ascii().is_empty() {
            let row = parse_object(line, text);
            found(line, row)?;
        }
    }
    Ok(())
}

/// Calls `found` with every object of a JSON list, counted from 1 like lines.
///
/// # Errors
/// A file that cannot be read, or with a list that does not end; those of `found`.
pub fn read_list(lines: Lines, path: &Path, found: Sink<'_>) -> Result<()> {
    let bytes = lines.rest(MOST_LIST_BYTES)?;
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let mut rest = text.trim_ascii_start();
    rest = rest.strip_prefix(b"[").unwrap_or(rest);
    let mut number = 0;
    loop {
        let trimmed = rest.trim_ascii_start();
        let trimmed = match number {
            0 => trimmed,
            _ => trimmed
                .strip_prefix(b",")
                .unwrap_or(trimmed)
                .trim_ascii_start(),
        };
        match trimmed.first() {
            None => {
                return Err(Error::input(format!(
                    "the list ends without `]`, behind {number} rows"
                ))
                .at_path(path)
                .hint("the file may be cut off: copy or write it again"));
            }
            Some(b']') => {
                let after = trimmed[1..].trim_ascii();
                return match after.is_empty() {
                    true => Ok(()),
                    false => Err(Error::input("something stands behind the list's end")
                        .at_path(path)
                        .hint("write one list, or one object a line")),
                };
            }
            // A bracket that nothing opened has no length: the reader would stay at it for ever.
            Some(b'}') => {
                return Err(Error::input(format!(
                    "the list has `}}` in place of a row, behind {number} rows"
                ))
                .at_path(path)
                .hint("the file may be damaged: write one list of objects, or one object a line"));
            }
            Some(_) => {}
        }
        number += 1;
        let len = value_len(trimmed);
        found(number, parse_object(number, &trimmed[..len]))?;
        rest = &trimmed[len..];
    }
}

/// Number of bytes of the JSON value at the start of a text, up to the comma or bracket after it.
fn value_len(text: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut is_text = false;
    let mut is_escaped = false;
    for (i, byte) in text.iter().enumerate() {
        if is_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return i,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            b',' if depth == 0 => return i,
            _ => {}
        }
    }
    text.len()
}

/// The error for a file of JSON objects over several lines, if it is one.
fn one_value(path: &Path) -> Option<Error> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MOST_WHOLE_BYTES {
        return None;
    }
    form::whole_json(&std::fs::read(path).ok()?, path)
}

/// The fields of one JSON object.
///
/// # Errors
/// What is no JSON, or no object.
pub fn parse_object(line: u32, text: &[u8]) -> Result<RawRow> {
    match json::parse_slice(text)? {
        Value::Object(fields) => Ok(RawRow::new(line, fields)),
        other => Err(
            Error::input(format!("found {}, not a JSON object", brief(&other)))
                .hint("a manifest holds one JSON object a line"),
        ),
    }
}

/// Writes `manifest.jsonl`.
///
/// # Errors
/// The disk's.
pub fn write(out: &mut Out<'_>, rows: &[Row]) -> Result<()> {
    out.lines("manifest.jsonl", rows, |out, row| {
        let fields = row.to_json(|clip| match clip.source {
            // A range of a file is named in place, unless the audio is to be copied.
            AudioSource::Range { .. } if !out.settings.copy_audio => {
                clip.source.to_json(Path::new("/"))
            }
            _ => Ok(out.audio(row, clip, Base::Manifest)?.into()),
        })?;
        Ok(Value::Object(fields).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        std::fs::write(&path, text).unwrap();
        let mut rows = Vec::new();
        read_list(Lines::open(&path)?, &path, &mut |line, row| {
            rows.push(match row {
                Ok(row) => format!("{line} {}", Value::Object(row.fields)),
                Err(error) => format!("{line} {}", error.message()),
            });
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn a_list_is_read_object_by_object() {
        assert_eq!(
            list("\u{feff} [\n {\"a\": \"x]},\\\"\"},\n {\"b\": [1, {}]} ]\n").unwrap(),
            ["1 {\"a\":\"x]},\\\"\"}", "2 {\"b\":[1,{}]}"]
        );
        assert_eq!(
            list("[{\"a\": 1}, 2, {\"b\": nope}, {\"c\": 3}]").unwrap(),
            [
                "1 {\"a\":1}",
                "2 found the number 2, not a JSON object",
                "3 column 8: not JSON: `nope` is no value",
                "4 {\"c\":3}"
            ]
        );
        for (text, expected) in [
            ("[{\"a\": 1}", "ends without `]`, behind 1 rows"),
            ("[{\"a\": 1}] x", "something stands behind"),
            ("[{\"a\": 1} b} c", "`}` in place of a row, behind 2 rows"),
            ("[}", "`}` in place of a row, behind 0 rows"),
        ] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
