//! A manifest from its file: line by line, every bad row named at once.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::MAX_BAD_ROWS_NAMED;
use crate::OnBadRow;
use crate::Row;
use crate::fields::brief;
use crate::form;
use crate::form::Form;
use crate::parquet;
use crate::row::RawRow;
use crate::row::RowReader;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files::Input;
use maqam_base::files::Lines;
use maqam_base::json;

/// The rows of one manifest, in the file's order.
#[derive(Debug)]
pub struct Manifest {
    /// The file.
    pub path: PathBuf,
    /// The rows that can be used.
    pub rows: Vec<Row>,
    /// What is wrong with the others; empty unless they were to be skipped.
    pub skipped: Vec<Error>,
    /// The lines of those, in the same order.
    pub skipped_lines: Vec<u32>,
    /// What a user should know of the rows all the same: fields that are not read, spellings that were folded.
    pub notes: Vec<String>,
}

/// Reads a manifest: Parquet or JSONL, told by its first bytes (a byte order mark, CRLF and blank lines are fine).
///
/// Relative audio paths start from `audio_root`, else from the manifest's folder; every audio file must exist. A row has an `id` or
/// gets its line number; two rows of one id are an error. The `messages` and `conversations` of a row need one `<audio>` mark per clip.
///
/// # Errors
/// Under [`OnBadRow::Error`] every bad row, as `file:line: what was found`, up to [`MAX_BAD_ROWS_NAMED`]; under both, a file that cannot
/// be read, that is no manifest, or of which no row can be used.
pub fn read_manifest(
    path: &Path,
    audio_root: Option<&Path>,
    on_bad_row: OnBadRow,
) -> Result<Manifest> {
    let audio_folder = audio_root.or(path.parent()).unwrap_or(Path::new(""));
    if path.is_dir() {
        return Err(folder(path).at_path(path));
    }
    let input = Input::open(path).map_err(|e| {
        e.or_hint("relative paths of manifests start from the folder the command runs in")
    })?;
    let mut collector = Collector::new(path, audio_folder, on_bad_row);
    let mut lines = Lines::of(input);
    let head = lines.head()?;
    let head = &head[..head.len().min(HEAD_BYTES)];
    match form::of(head, path).map_err(|e| e.at_path(path))? {
        Form::Parquet => parquet::read(&lines.into_file()?, path, |raw| collector.add(raw))?,
        Form::JsonLines => read_jsonl(lines, path, |line, raw| match raw {
            Ok(raw) => collector.add(raw),
            Err(error) => collector.refuse(line, error),
        })?,
    }
    collector.finish()
}

/// Words in the error for several bad rows; a command that can leave rows out adds how to.
pub const CANNOT_BE_USED: &str = "rows cannot be used";

/// Bytes that tell what a file is.
const HEAD_BYTES: usize = 1 << 16;

/// Bytes up to which a file is read whole to tell a JSON list from JSON lines.
const MOST_WHOLE_BYTES: u64 = 256 << 20;

/// The error for a folder in place of a manifest, with the manifests that lie in it.
fn folder(path: &Path) -> Error {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".jsonl") || name.ends_with(".parquet"))
        .collect();
    names.sort();
    let found = Error::input("is a folder, not a manifest");
    match names.as_slice() {
        [] => found.hint("name a .jsonl or .parquet file"),
        [first, ..] => found.hint(format!(
            "name one of its files, such as {}",
            path.join(first).display()
        )),
    }
}

/// Calls `found` with every line that is not blank.
///
/// # Errors
/// A file that cannot be read, or that is one JSON value rather than lines.
fn read_jsonl(
    mut lines: Lines,
    path: &Path,
    mut found: impl FnMut(u32, Result<RawRow>),
) -> Result<()> {
    let mut is_first = true;
    while let Some((line, text)) = lines.next_line()? {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row = parse_line(line, text);
        if std::mem::take(&mut is_first)
            && row.is_err()
            && let Some(error) = one_value(path)
        {
            return Err(error.at_path(path));
        }
        found(line, row);
    }
    Ok(())
}

/// The error for a file that is one JSON value, where it is one.
fn one_value(path: &Path) -> Option<Error> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MOST_WHOLE_BYTES {
        return None;
    }
    form::whole_json(&std::fs::read(path).ok()?, path)
}

fn parse_line(line: u32, text: &[u8]) -> Result<RawRow> {
    match json::parse_slice(text)? {
        Value::Object(fields) => Ok(RawRow {
            line,
            fields,
            embedded: Vec::new(),
        }),
        other => Err(
            Error::input(format!("found {}, not a JSON object", brief(&other)))
                .hint("a manifest holds one JSON object a line"),
        ),
    }
}

/// Rows as they come in, and what was wrong with the others.
struct Collector<'a> {
    path: &'a Path,
    reader: RowReader<'a>,
    on_bad_row: OnBadRow,
    rows: Vec<Row>,
    bad: Vec<(u32, Error)>,
    num_bad: usize,
}

impl<'a> Collector<'a> {
    fn new(path: &'a Path, audio_folder: &'a Path, on_bad_row: OnBadRow) -> Self {
        Self {
            path,
            reader: RowReader::new(audio_folder),
            on_bad_row,
            rows: Vec::new(),
            bad: Vec::new(),
            num_bad: 0,
        }
    }

    fn add(&mut self, raw: RawRow) {
        let line = raw.line;
        match self.reader.read(raw) {
            Ok(row) => self.rows.push(row),
            Err(error) => self.refuse(line, error),
        }
    }

    fn refuse(&mut self, line: u32, error: Error) {
        self.num_bad += 1;
        if self.on_bad_row == OnBadRow::Skip || self.bad.len() < MAX_BAD_ROWS_NAMED {
            self.bad
                .push((line, error.at(format!("{}:{line}", self.path.display()))));
        }
    }

    fn finish(mut self) -> Result<Manifest> {
        self.refuse_duplicates();
        self.bad.sort_by_key(|(line, _)| *line);
        let num_rows = self.rows.len() + self.num_bad;
        let usable =
            self.num_bad == 0 || (self.on_bad_row == OnBadRow::Skip && !self.rows.is_empty());
        if num_rows == 0 {
            return Err(Error::input("holds no rows").at_path(self.path));
        }
        if !usable {
            return Err(self.summary(num_rows));
        }
        self.rows.shrink_to_fit();
        Ok(Manifest {
            path: self.path.to_owned(),
            rows: self.rows,
            skipped_lines: self.bad.iter().map(|(line, _)| *line).collect(),
            skipped: self.bad.into_iter().map(|(_, error)| error).collect(),
            notes: self.reader.notes().lines(self.path),
        })
    }

    /// Takes out every row whose id was used before; the first of them stays.
    fn refuse_duplicates(&mut self) {
        // Sorting positions takes 4 bytes a row, where a set of ids would hold each of them twice.
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_by(|&a, &b| self.rows[a as usize].id.cmp(&self.rows[b as usize].id));
        let mut first = 0;
        let mut repeated: Vec<(u32, u32)> = Vec::new();
        for i in 1..order.len() {
            if self.rows[order[i] as usize].id == self.rows[order[first] as usize].id {
                repeated.push((order[i], self.rows[order[first] as usize].line));
            } else {
                first = i;
            }
        }
        repeated.sort_unstable();
        for &(position, first_line) in &repeated {
            let row = &self.rows[position as usize];
            let found = Error::input(format!(
                "id `{}` was used before, in line {first_line}",
                row.id
            ))
            .hint("ids are unique in a manifest");
            self.refuse(row.line, found);
        }
        let mut next = repeated
            .into_iter()
            .map(|(position, _)| position)
            .peekable();
        let mut position = 0;
        self.rows.retain(|_| {
            let drop = next.next_if_eq(&position).is_some();
            position += 1;
            !drop
        });
    }

    /// One error for all bad rows.
    fn summary(self, num_rows: usize) -> Error {
        let mut message = match (self.num_bad, self.bad.as_slice()) {
            (1, [(_, only)]) => return only.clone(),
            (num_bad, _) => format!(
                "{}: {num_bad} of {num_rows} {CANNOT_BE_USED}",
                self.path.display()
            ),
        };
        for (_, error) in self.bad.iter().take(MAX_BAD_ROWS_NAMED) {
            message.push_str(&format!(
                "\n  {}",
                error.to_string().replace('\n', "\n    ")
            ));
        }
        if self.num_bad > MAX_BAD_ROWS_NAMED {
            message.push_str(&format!(
                "\n  and {} more",
                self.num_bad - MAX_BAD_ROWS_NAMED
            ));
        }
        let found = Error::input(message);
        match self.on_bad_row {
            OnBadRow::Error => found.hint("mend these rows"),
            OnBadRow::Skip => found,
        }
    }
}

#[cfg(test)]
mod tests;
