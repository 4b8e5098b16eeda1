//! Reader of JSON lines. Errors name file and line.

use std::marker::PhantomData;
use std::path::Path;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::error::Result;
use crate::files::Lines;
use crate::json;

/// Meaning of a last line that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLine {
    /// A row like the others, in files that people and other programs write.
    Row,
    /// What a killed process left of a row, in logs that only grow: it is passed over.
    Cut,
}

/// Calls `visit` with every line that is not blank, and with its number from 1. A byte order mark
/// is left out. Returns the bytes of the lines that were visited or blank, which is where a log
/// ends that a killed process left.
///
/// # Errors
/// The system's; those of `visit`, at file and line.
pub fn each_line(
    path: &Path,
    last: LastLine,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<u64> {
    each_placed_line(path, last, |place, text| visit(place.number, text))
}

/// Place of a line in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePlace {
    /// Number of the line, from 1.
    pub number: usize,
    /// Bytes before its text.
    pub start: u64,
}

/// As [`each_line`], with the places of lines for a reader that comes back to one of them.
///
/// # Errors
/// As [`each_line`].
pub fn each_placed_line(
    path: &Path,
    last: LastLine,
    mut visit: impl FnMut(LinePlace, &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut lines = Lines::open(path)?;
    let mut num_bytes = 0;
    while lines.advance()? {
        if last == LastLine::Cut && !lines.is_ended() {
            break;
        }
        let (number, text) = lines.line();
        if !text.trim_ascii().is_empty() {
            let place = LinePlace {
                number: number as usize,
                start: lines.start(),
            };
            visit(place, text).map_err(|e| e.at(format!("{}:{number}", path.display())))?;
        }
        num_bytes = lines.num_bytes();
    }
    Ok(num_bytes)
}

/// The rows of a file with their lines, from 1; a byte order mark and blank lines are fine. A line
/// that does not fit is an error that says `file:line: what was found`.
pub struct Rows<T> {
    lines: Lines,
    path: PathBuf,
    row: PhantomData<T>,
}

/// Opens a file to read its rows one at a time.
///
/// # Errors
/// The system's.
pub fn rows<T: DeserializeOwned>(path: &Path) -> Result<Rows<T>> {
    Ok(Rows {
        lines: Lines::open(path)?,
        path: path.to_owned(),
        row: PhantomData,
    })
}

impl<T: DeserializeOwned> Rows<T> {
    fn next_row(&mut self) -> Result<Option<(usize, T)>> {
        while let Some((number, text)) = self.lines.next_line()? {
            if text.trim_ascii().is_empty() {
                continue;
            }
            let row = json::parse_slice(text)
                .map_err(|e| e.at(format!("{}:{number}", self.path.display())))?;
            return Ok(Some((number as usize, row)));
        }
        Ok(None)
    }
}

impl<T: DeserializeOwned> Iterator for Rows<T> {
    type Item = Result<(usize, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// All rows of a file with their lines.
///
/// # Errors
/// Those of [`rows`] and of its rows; a file without rows.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let rows = rows(path)?.collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Err(Error::input("holds no rows").at_path(path));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Row {
        id: String,
        prediction: String,
    }

    #[test]
    fn lines_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        for (text, expected) in [
            (
                "{\"id\": \"a\", \"prediction\": \"x\"}\n\n{\"id\": \"b\"}\n",
                "p.jsonl:3: `prediction` is missing",
            ),
            (
                "{\"id\": 3, \"prediction\": \"x\"}",
                "p.jsonl:1: found the number 3, expected a text",
            ),
            ("{\"id\": \"a\",\n", "p.jsonl:1: column 11: not JSON"),
            ("\n", "p.jsonl: holds no rows"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read::<Row>(&path).map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(
            &path,
            "\u{feff}{\"id\": \"a\", \"prediction\": \"x\", \"tokens\": [1]}\n",
        )
        .unwrap();
        let (line, row) = read::<Row>(&path).unwrap().remove(0);
        assert_eq!(
            (line, row.id.as_str(), row.prediction.as_str()),
            (1, "a", "x")
        );
    }

    #[test]
    fn a_cut_last_line_is_a_row_or_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let visited = |text: &str, last| {
            std::fs::write(&path, text).unwrap();
            let mut found = Vec::new();
            let num_bytes = each_line(&path, last, |number, text| {
                found.push((number, String::from_utf8_lossy(text).into_owned()));
                Ok(())
            });
            (found, num_bytes.unwrap())
        };
        let first = (1, "{\"a\": 1}".to_owned());
        let third = (3, "{\"a".to_owned());

        let text = "\u{feff}{\"a\": 1}\n\n{\"a";
        assert_eq!(visited(text, LastLine::Cut), (vec![first.clone()], 13));
        let both = vec![first.clone(), third.clone()];
        assert_eq!(visited(text, LastLine::Row), (both.clone(), 16));
        let ended = format!("{text}\n");
        assert_eq!(visited(&ended, LastLine::Cut), (both, 17));

        let mut starts = Vec::new();
        each_placed_line(&path, LastLine::Row, |place, _| {
            starts.push((place.number, place.start));
            Ok(())
        })
        .unwrap();
        assert_eq!(starts, [(1, 3), (3, 13)]);

        let error = each_line(&path, LastLine::Cut, |_, text| {
            json::parse_slice::<serde_json::Value>(text).map(drop)
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("log.jsonl:3: column 3: not JSON"), "{error}");
    }

    #[test]
    fn numbers_are_read_as_they_were_written() {
        let key = crate::seed::Key::new(1, "numbers");
        let mut numbers: Vec<f64> = (0..20_000)
            .map(|i| (key.uniform(2 * i) - 0.5) * 10f64.powf(60.0 * key.uniform(2 * i + 1) - 30.0))
            .collect();
        // One of those that a fast parser rounds to its neighbour.
        numbers.push(7.660_700_845_718_384_5);
        for number in numbers {
            let text = serde_json::to_string(&number).unwrap();
            let read: f64 = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_bits(), number.to_bits(), "{text}");
        }
    }
}
