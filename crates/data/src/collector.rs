//! Collector of rows: checks them one by one, and reports all faults together.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::MAX_BAD_ROWS_NAMED;
use crate::Manifest;
use crate::OnBadRow;
use crate::Row;
use crate::ShardFile;
use crate::notes::Note;
use crate::row::RawRow;
use crate::row::RowReader;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// The cause of an error of several bad rows; a command that can leave rows out adds how to.
#[derive(Debug)]
pub struct UnusableRows;

impl fmt::Display for UnusableRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("several rows cannot be used")
    }
}

impl std::error::Error for UnusableRows {}

/// A row of a manifest that is read row by row.
pub struct Streamed {
    /// The file that the row is written in.
    pub file: Arc<Path>,
    /// Line or number of the row, from 1.
    pub line: u32,
    /// The row, or its fault.
    pub row: std::result::Result<Row, BadRow>,
}

/// A row that cannot be used.
pub struct BadRow {
    /// Id of the row, if it has one.
    pub id: Option<String>,
    /// The fault, without its place.
    pub error: Error,
}

/// Receives the rows of a manifest one by one. An error ends the reading.
pub type Sink<'a> = &'a mut dyn FnMut(Streamed) -> Result<()>;

/// Rows of one manifest, and the faults of the others.
pub struct Collector<'a> {
    path: &'a Path,
    reader: RowReader,
    on_bad_row: OnBadRow,
    shard: Option<Arc<ShardFile>>,
    /// Lines of the files before this one.
    lines_before: u32,
    last_line: u32,
    rows: Vec<Row>,
    bad: Vec<Bad>,
    /// Indices in `bad`, by fault.
    by_fault: HashMap<String, usize>,
    num_bad: usize,
    notes: Vec<Note>,
    /// Receiver of rows, in place of collecting them.
    sink: Option<Sink<'a>>,
    file: Arc<Path>,
    failed: Option<Error>,
}

/// Rows with one fault.
struct Bad {
    line: u32,
    error: Error,
    place: String,
    count: usize,
}

impl Bad {
    /// The fault with its place and hint; the first line says how many rows have it.
    fn text(&self) -> String {
        let error = self.error.clone().at(&self.place);
        let mut text = error.message().to_owned();
        if self.count > 1 {
            let end = text.find('\n').unwrap_or(text.len());
            text.insert_str(end, &format!(" ({} rows)", self.count));
        }
        match error.hint_text() {
            Some(hint) => text + "\nhint: " + hint,
            None => text,
        }
    }
}

impl<'a> Collector<'a> {
    /// Begins a manifest that is named by `path`.
    pub fn new(path: &'a Path, on_bad_row: OnBadRow) -> Self {
        Self {
            path,
            reader: RowReader::new(PathBuf::new()),
            on_bad_row,
            shard: None,
            lines_before: 0,
            last_line: 0,
            rows: Vec::new(),
            bad: Vec::new(),
            by_fault: HashMap::new(),
            num_bad: 0,
            notes: Vec::new(),
            sink: None,
            file: path.into(),
            failed: None,
        }
    }

    /// Begins a manifest whose rows go to `sink` one by one. Repeated ids are not detected.
    pub fn streaming(path: &'a Path, sink: Sink<'a>) -> Self {
        Self {
            sink: Some(sink),
            ..Self::new(path, OnBadRow::Skip)
        }
    }

    /// Takes the error with which the sink ended the reading.
    ///
    /// # Errors
    /// That error.
    pub fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Ends a manifest that was read row by row; returns its notes.
    pub fn notes(mut self) -> Vec<Note> {
        let mut notes = self.reader.notes().of_manifest(self.path);
        notes.append(&mut self.notes);
        notes
    }

    /// Passes a row to the sink, and stores the first error of the sink.
    fn hand_on(&mut self, line: u32, row: std::result::Result<Row, BadRow>) {
        if let Some(sink) = self.sink.as_mut().filter(|_| self.failed.is_none()) {
            let streamed = Streamed {
                file: self.file.clone(),
                line: line.saturating_sub(self.lines_before),
                row,
            };
            self.failed = sink(streamed).err();
        }
    }

    /// Begins a file. Relative audio paths start from `audio_folder`. `is_shard` says that the
    /// manifest has others.
    pub fn begin(&mut self, file: &Path, audio_folder: &Path, is_shard: bool) {
        self.lines_before = self.last_line;
        self.file = file.into();
        self.reader.set_audio_folder(audio_folder);
        let is_named_so = file == self.path;
        self.shard = (is_shard || !is_named_so).then(|| {
            Arc::new(ShardFile {
                path: file.into(),
                lines_before: self.lines_before,
            })
        });
    }

    /// Resolves relative audio paths of this file from another folder.
    pub fn set_audio_folder(&mut self, folder: &Path) {
        self.reader.set_audio_folder(folder);
    }

    /// Checks and stores a row of the file.
    pub fn add(&mut self, mut raw: RawRow) {
        let line = raw.line.saturating_add(self.lines_before);
        self.last_line = self.last_line.max(line);
        raw.line = line;
        if self.sink.is_some() {
            let id = raw.fields.get("id").and_then(|id| match id {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
            let row = self.reader.read(raw).map_err(|error| BadRow { id, error });
            return self.hand_on(line, row);
        }
        match self.reader.read(raw) {
            Ok(row) => self.rows.push(Row {
                shard: self.shard.clone(),
                ..row
            }),
            Err(error) => self.refuse_at(line, error),
        }
    }

    /// Refuses a row of the file.
    pub fn refuse(&mut self, line: u32, error: Error) {
        let line = line.saturating_add(self.lines_before);
        self.last_line = self.last_line.max(line);
        match self.sink {
            Some(_) => self.hand_on(line, Err(BadRow { id: None, error })),
            None => self.refuse_at(line, error),
        }
    }

    /// Adds a note on the current file for the user.
    pub fn note(&mut self, text: String) {
        Note::new(self.file.display(), text).add_to(&mut self.notes);
    }

    fn refuse_at(&mut self, line: u32, error: Error) {
        let place = match &self.shard {
            Some(shard) => shard.place(line),
            None => format!("{}:{line}", self.path.display()),
        };
        self.refuse_in(line, error, place);
    }

    fn refuse_in(&mut self, line: u32, error: Error, place: String) {
        self.num_bad += 1;
        // Each skipped row has its own line in the record of the run.
        if self.on_bad_row == OnBadRow::Error {
            let fault = error.to_string();
            if let Some(known) = self.by_fault.get(&fault) {
                self.bad[*known].count += 1;
                return;
            }
            if self.bad.len() >= MAX_BAD_ROWS_NAMED {
                return;
            }
            self.by_fault.insert(fault, self.bad.len());
        }
        self.bad.push(Bad {
            line,
            error,
            place,
            count: 1,
        });
    }

    /// Ends the manifest.
    ///
    /// # Errors
    /// No rows, or rows that cannot be used. If rows are skipped, only a manifest without usable
    /// rows is an error.
    pub fn finish(mut self) -> Result<Manifest> {
        self.refuse_duplicates();
        self.bad.sort_by_key(|bad| bad.line);
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
        let mut notes = self.reader.notes().of_manifest(self.path);
        notes.append(&mut self.notes);
        Ok(Manifest {
            path: self.path.to_owned(),
            rows: self.rows,
            skipped_lines: self.bad.iter().map(|bad| bad.line).collect(),
            skipped: self
                .bad
                .into_iter()
                .map(|bad| bad.error.at(bad.place))
                .collect(),
            notes: notes.iter().map(Note::to_string).collect(),
        })
    }

    /// Takes out every row whose id was used before; the first of them stays.
    fn refuse_duplicates(&mut self) {
        // Sorting positions takes 4 bytes per row. A set of ids would hold each of them twice.
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_by(|&a, &b| self.rows[a as usize].id.cmp(&self.rows[b as usize].id));
        let mut first = 0;
        let mut repeated: Vec<(u32, u32)> = Vec::new();
        for i in 1..order.len() {
            if self.rows[order[i] as usize].id == self.rows[order[first] as usize].id {
                repeated.push((order[i], order[first]));
            } else {
                first = i;
            }
        }
        repeated.sort_unstable();

        for &(position, first) in &repeated {
            let row = &self.rows[position as usize];
            let first = &self.rows[first as usize];
            let before = match &first.shard {
                Some(shard) => shard.place(first.line),
                None => format!("line {}", first.line),
            };
            let found = Error::input(format!("id `{}` was used before, in {before}", row.id))
                .hint("ids are unique in a manifest");
            let line = row.line;
            let place = row.place(self.path);
            self.refuse_in(line, found, place);
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

    /// One error for all bad rows; equal faults are reported once.
    fn summary(self, num_rows: usize) -> Error {
        if let [only] = self.bad.as_slice()
            && self.num_bad == 1
        {
            return only.error.clone().at(&only.place);
        }

        let mut message = format!(
            "{}: {} of {num_rows} rows cannot be used",
            self.path.display(),
            self.num_bad
        );
        let mut told = 0;
        for bad in self.bad.iter().take(MAX_BAD_ROWS_NAMED) {
            let text = bad.text();
            message.push_str(&format!("\n  {}", text.replace('\n', "\n    ")));
            told += bad.count;
        }
        if self.num_bad > told {
            message.push_str(&format!("\n  and {} more", self.num_bad - told));
        }
        let found = Error::input(message).caused_by(UnusableRows);
        match self.on_bad_row {
            OnBadRow::Error => found.hint("mend these rows"),
            OnBadRow::Skip => found,
        }
    }
}
