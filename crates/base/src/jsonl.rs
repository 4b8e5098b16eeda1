//! JSON lines that one command wrote and another reads: errors name file and line, and ids that do not fit together are named.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::error::Result;
use crate::files::Lines;
use crate::json;

/// What a predictions file is read for; its other fields are left alone.
#[derive(Clone, Debug, Deserialize)]
pub struct Answered {
    /// The row's id.
    pub id: String,
    /// What the model said.
    pub prediction: String,
}

/// Meaning of a last line that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLine {
    /// A row like the others, in files that people and other programs write.
    Row,
    /// What a killed process left of a row, in logs that only grow: it is passed over.
    Cut,
}

/// Calls `visit` with every line that is not blank, and with its number from 1. A byte order mark is left out. Returns the bytes of the
/// lines that were visited or blank, which is where a log ends that a killed process left.
///
/// # Errors
/// The system's; those of `visit`, at file and line.
pub fn each_line(
    path: &Path,
    last: LastLine,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<u64> {
    let mut lines = Lines::open(path)?;
    let mut num_bytes = 0;
    while lines.advance()? {
        if last == LastLine::Cut && !lines.is_ended() {
            break;
        }
        let (number, text) = lines.line();
        if !text.trim_ascii().is_empty() {
            visit(number as usize, text)
                .map_err(|e| e.at(format!("{}:{number}", path.display())))?;
        }
        num_bytes = lines.num_bytes();
    }
    Ok(num_bytes)
}

/// The rows of a file with their lines, from 1; a byte order mark and blank lines are fine. A line that does not fit is an error that
/// says `file:line: what was found`.
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

/// How many ids one error names.
const MAX_NAMED: usize = 5;

/// The predictions for `ids`, in their order.
///
/// # Errors
/// An id that is predicted twice, one that `ids` does not have, one that has no prediction; the message says how many, and names some.
pub fn in_order<'a>(
    ids: &[&str],
    predictions: &'a [(usize, Answered)],
    path: &Path,
) -> Result<Vec<&'a str>> {
    let mut by_id: HashMap<&str, (usize, &'a str)> = HashMap::with_capacity(predictions.len());
    for (line, row) in predictions {
        if let Some((first, _)) = by_id.insert(&row.id, (*line, &row.prediction)) {
            let found = Error::input(format!(
                "id `{}` was predicted before, in line {first}",
                row.id
            ))
            .at(format!("{}:{line}", path.display()));
            return Err(found.hint("each row is predicted once: two runs in one file?"));
        }
    }
    let known: std::collections::HashSet<&str> = ids.iter().copied().collect();
    let foreign: Vec<&str> = predictions
        .iter()
        .map(|(_, row)| row.id.as_str())
        .filter(|id| !known.contains(id))
        .collect();
    if !foreign.is_empty() {
        let found = format!(
            "{} of {} predictions are of other rows: {}",
            foreign.len(),
            predictions.len(),
            named(&foreign)
        );
        return Err(Error::input(found).at_path(path).hint("predictions and rows belong together: give the file that the predictions were made from"));
    }
    let missing: Vec<&str> = ids
        .iter()
        .copied()
        .filter(|id| !by_id.contains_key(id))
        .collect();
    if !missing.is_empty() {
        let found = format!(
            "{} of {} rows have no prediction: {}",
            missing.len(),
            ids.len(),
            named(&missing)
        );
        return Err(Error::input(found)
            .at_path(path)
            .hint("a score over some of the rows is not comparable: predict them all"));
    }
    Ok(ids
        .iter()
        .filter_map(|id| by_id.get(id).map(|(_, prediction)| *prediction))
        .collect())
}

fn named(ids: &[&str]) -> String {
    let shown: Vec<String> = ids
        .iter()
        .take(MAX_NAMED)
        .map(|id| format!("`{id}`"))
        .collect();
    match ids.len().checked_sub(MAX_NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(ids: &[&str]) -> Vec<(usize, Answered)> {
        ids.iter()
            .enumerate()
            .map(|(i, id)| {
                (
                    i + 1,
                    Answered {
                        id: (*id).to_owned(),
                        prediction: format!("said {id}"),
                    },
                )
            })
            .collect()
    }

    #[test]
    fn predictions_come_in_the_order_of_the_rows() {
        let predictions = predictions(&["b", "a"]);
        assert_eq!(
            in_order(&["a", "b"], &predictions, Path::new("p.jsonl")).unwrap(),
            ["said a", "said b"]
        );
    }

    #[test]
    fn ids_that_do_not_fit_are_named() {
        let many: Vec<String> = (0..9).map(|i| format!("r{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (ids, predicted, expected) in [
            (
                &["a", "b"][..],
                &["a", "b", "a"][..],
                "p.jsonl:3: id `a` was predicted before, in line 1",
            ),
            (
                &["a"],
                &["a", "c", "d"],
                "p.jsonl: 2 of 3 predictions are of other rows: `c`, `d`\n",
            ),
            (
                &["a", "b"],
                &["b"],
                "p.jsonl: 1 of 2 rows have no prediction: `a`\n",
            ),
            (
                &many,
                &["r8"],
                "8 of 9 rows have no prediction: `r0`, `r1`, `r2`, `r3`, `r4` and 3 more",
            ),
        ] {
            let error = in_order(ids, &predictions(predicted), Path::new("p.jsonl")).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{error}"
            );
        }
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
            let error = read::<Answered>(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::write(
            &path,
            "\u{feff}{\"id\": \"a\", \"prediction\": \"x\", \"tokens\": [1]}\n",
        )
        .unwrap();
        assert_eq!(read::<Answered>(&path).unwrap()[0].1.prediction, "x");
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
