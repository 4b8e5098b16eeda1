//! The rows of a command checked by their headers before any of them is used: which leave the pool,
//! and which stop the command.

use crate::data::MAX_BAD_ROWS_NAMED;
use crate::data::Manifest;
use crate::data::OnBadRow;
use crate::data::Row;
use crate::data::Source;
use crate::data::UnusableRows;
use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::records::inputs::LeftOut;

/// Told what goes on (its name, how much of how much is done); an error ends it.
pub type Watch<'a> = &'a mut dyn FnMut(&'static str, usize, usize) -> Result<()>;

/// Origin of the decision about rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pool {
    /// A decision that is made now.
    Fresh,
    /// A run made it when it began, and is bound to it: the pool decides which rows every step
    /// draws.
    Recorded(LeftOut),
    /// A run that began before such decisions were recorded: rows stay in the pool, and are left
    /// out where they are drawn.
    Unrecorded,
}

/// Checks rows, and collects what is wrong with them.
pub struct RowCheck<'a> {
    headers: &'a Headers,
    max_audio_s: Option<f64>,
    on_bad_row: OnBadRow,
    pool: Pool,
    /// Option by which a user skips bad rows.
    skip: &'static str,
    watch: Watch<'a>,
    left_out: LeftOut,
    refused: Vec<Error>,
    num_refused: usize,
    num_rows: usize,
}

/// Rows of a manifest that can be used, and what is wrong with the others.
pub struct Checked {
    /// The rows.
    pub rows: Vec<Row>,
    /// Errors of rows that are left out.
    pub skipped: Vec<Error>,
    /// Fields that are not read and spellings that were folded, for the user to know.
    pub notes: Vec<String>,
}

impl<'a> RowCheck<'a> {
    /// A check of rows whose clips may be up to `max_audio_s` long. `skip` is how a user says that
    /// bad rows are to be skipped.
    pub fn new(
        headers: &'a Headers,
        max_audio_s: Option<f64>,
        on_bad_row: OnBadRow,
        skip: &'static str,
        watch: Watch<'a>,
    ) -> Self {
        Self {
            headers,
            max_audio_s,
            on_bad_row,
            pool: Pool::Fresh,
            skip,
            watch,
            left_out: LeftOut::new(),
            refused: Vec::new(),
            num_refused: 0,
            num_rows: 0,
        }
    }

    /// Takes the decision from a run that has begun.
    pub fn of_run(mut self, pool: Pool) -> Self {
        self.pool = pool;
        self
    }

    /// Treatment of a row that cannot be used.
    pub fn on_bad_row(&self) -> OnBadRow {
        self.on_bad_row
    }

    /// The headers that are known by now.
    pub fn headers(&self) -> &'a Headers {
        self.headers
    }

    /// The rows of a manifest that can be used, by what is written and by their headers. `name` is
    /// what the decision is recorded under, and is unique in a recipe: the entry of `data:`, or the
    /// suite and set that the manifest belongs to. `limit` takes the first rows alone.
    ///
    /// # Errors
    /// A manifest that cannot be read; a row that could be used when the run began and cannot be
    /// read now.
    pub fn read(&mut self, name: &str, source: &Source, limit: usize) -> Result<Checked> {
        let reading = match self.pool {
            // What the run left out when it began is left out still, whatever is asked for now.
            Pool::Recorded(_) => OnBadRow::Skip,
            Pool::Fresh | Pool::Unrecorded => self.on_bad_row,
        };

        let skip = self.skip;
        let Manifest {
            mut rows,
            skipped: errors,
            skipped_lines,
            notes,
            ..
        } = source.read(reading).map_err(|error| {
            let can_skip = reading == OnBadRow::Error && error.is_caused_by::<UnusableRows>();
            match can_skip {
                true => error.and_hint(format!("set {skip} to go on without them")),
                false => error,
            }
        })?;
        let manifest = &source.path;
        rows.truncate(limit);

        let recorded = match &self.pool {
            Pool::Recorded(left_out) => Some(left_out.get(name).cloned().unwrap_or_default()),
            Pool::Fresh | Pool::Unrecorded => None,
        };

        let mut skipped = Vec::new();
        for (line, error) in skipped_lines.into_iter().zip(errors) {
            if recorded
                .as_ref()
                .is_some_and(|lines| !lines.contains(&line))
            {
                return Err(error
                    .hint("the row could be used when the run began: put back what was there, or start another run with `--set name=NAME`"));
            }
            self.leave_out(name, line);
            skipped.push(error);
        }

        let watch = &mut *self.watch;
        let found = self
            .headers
            .check(&rows, self.max_audio_s, &mut |done, total| {
                watch("headers", done, total)
            })?;
        self.num_rows += rows.len();

        let mut kept = Vec::with_capacity(rows.len());
        for (row, found) in rows.into_iter().zip(found) {
            let error = match found {
                Ok(_) => None,
                Err(error) if error.kind == Kind::Input => Some(error.at(row.place(manifest))),
                Err(error) => return Err(error.at(row.place(manifest))),
            };
            let is_left_out = match (&recorded, &error) {
                (Some(lines), _) => lines.contains(&row.line),
                (None, Some(_)) => self.pool == Pool::Fresh,
                (None, None) => false,
            };
            let line = row.line;
            if !is_left_out {
                kept.push(row);
            }
            match error {
                Some(error)
                    if self.on_bad_row == OnBadRow::Error
                        && !(is_left_out && recorded.is_some()) =>
                {
                    self.refuse(error)
                }
                Some(error) => skipped.push(error),
                None => {}
            }
            if is_left_out {
                self.leave_out(name, line);
            }
        }

        Ok(Checked {
            rows: kept,
            skipped,
            notes,
        })
    }

    /// Records that a row is not used.
    pub fn leave_out(&mut self, name: &str, line: u32) {
        self.left_out
            .entry(name.to_owned())
            .or_default()
            .insert(line);
    }

    fn refuse(&mut self, error: Error) {
        self.num_refused += 1;
        if self.refused.len() < MAX_BAD_ROWS_NAMED {
            self.refused.push(error);
        }
    }

    /// The rows that were left out of everything that was read.
    ///
    /// # Errors
    /// As [`RowCheck::expect_none_refused`].
    pub fn finish(self) -> Result<LeftOut> {
        self.expect_none_refused()?;
        Ok(self.left_out)
    }

    /// Checks that no row stops the command.
    ///
    /// # Errors
    /// All rows that do: their number and the first of them.
    pub fn expect_none_refused(&self) -> Result<()> {
        let Self {
            refused,
            num_refused,
            num_rows,
            skip,
            ..
        } = self;
        if let [only] = refused.as_slice() {
            return Err(only
                .clone()
                .and_hint(format!("set {skip} to go on without such rows")));
        }
        if refused.is_empty() {
            return Ok(());
        }
        let mut message =
            format!("{num_refused} of {num_rows} rows have audio that cannot be used:");
        for error in refused {
            message += &format!("\n  {}", error.to_string().replace('\n', "\n    "));
        }
        if *num_refused > refused.len() {
            message += &format!("\n  and {} more", num_refused - refused.len());
        }
        Err(Error::input(message).hint(format!(
            "mend these rows, or set {skip} to go on without them"
        )))
    }
}
