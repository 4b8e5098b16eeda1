//! Processes rows of one step with several threads; the calling thread stores their results.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use serde::de::DeserializeOwned;

use crate::build::Observer;
use crate::build::assign::Prepared;
use crate::build::call::Calls;
use crate::build::document::Document;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::shard::Shard;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::error::Error;
use crate::error::Result;
use crate::stop::Stop;

/// Failures of an engine after which a build ends whose step has accepted no row.
const MOST_FAILURES_AT_START: usize = 10;

/// Results of earlier steps for the rows.
pub(crate) struct EarlierResults<'a> {
    pub(crate) store: &'a Store,
    pub(crate) prepared: &'a Prepared,
    pub(crate) before: &'a [Journal],
}

impl EarlierResults<'_> {
    /// A cleaned document.
    pub(crate) fn document(&self, row: usize) -> Result<Document> {
        self.prepared.document(self.store, row)
    }

    /// Result of an earlier step.
    pub(crate) fn of<T: DeserializeOwned>(&self, step: Step, row: usize) -> Result<T> {
        let missing = || Error::bug(format!("row {row} has no result of {}", step.name()));
        self.before
            .get(step.place_row_by_row()?)
            .ok_or_else(missing)?
            .done(row)?
            .ok_or_else(missing)
    }
}

/// Threads for one step.
pub(crate) struct Workers<'a> {
    pub(crate) step: Step,
    pub(crate) num_threads: usize,
    pub(crate) stop: &'a Stop,
    pub(crate) calls: &'a Calls<'a>,
}

impl Workers<'_> {
    /// Processes rows, and writes each result into the journal at once. After a failure, the rows
    /// in progress are finished and stored, and no new one is started.
    ///
    /// # Errors
    /// The first error; an engine that fails at every row; a requested stop.
    pub(crate) fn run(
        &self,
        rows: Vec<usize>,
        journal: &mut Journal,
        shard: Shard,
        observer: &mut dyn Observer,
        work: &(dyn Fn(usize) -> Result<Outcome> + Sync),
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut writer = journal.writer(shard)?;
        let name = self.step.name();
        let next = AtomicUsize::new(0);
        let is_over = AtomicBool::new(false);
        let mut num_done = 0;
        let mut at_start = AtStart {
            step: self.step,
            has_passed: journal.has_passed_any(),
            num_failures: 0,
        };
        observer.tell(name, 0, rows.len())?;
        std::thread::scope(|scope| {
            let (sender, found) = mpsc::sync_channel(2 * self.num_threads.max(1));
            for _ in 0..self.num_threads.clamp(1, rows.len()) {
                let sender = sender.clone();
                let rows = &rows;
                let next = &next;
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) && !self.stop.is_requested() {
                        let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) else {
                            return;
                        };
                        if sender.send((*row, work(*row))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut failed = None;
            for (row, outcome) in found {
                self.calls
                    .lines()
                    .iter()
                    .for_each(|line| observer.line(line));
                let stored = outcome
                    .map_err(|e| e.or_hint("run the command again: what was finished is kept"))
                    .and_then(|outcome| {
                        num_done += usize::from(!matches!(outcome, Outcome::Ended));
                        let checked = at_start.check(&outcome);
                        journal.add(&mut writer, row, outcome)?;
                        checked
                    })
                    .and_then(|()| observer.tell(name, num_done, rows.len()));
                if let Err(error) = stored {
                    is_over.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
            failed.map_or(Ok(()), Err)
        })?;
        if num_done < rows.len() {
            return Err(Error::interrupted(format!(
                "stopped in {name} after {num_done} of {} rows; run the command again to go on",
                rows.len()
            )));
        }
        Ok(())
    }
}

/// Failures of an engine before the first row that the step accepts.
struct AtStart {
    step: Step,
    has_passed: bool,
    num_failures: usize,
}

impl AtStart {
    /// Counts an outcome.
    ///
    /// # Errors
    /// An engine that has failed too often and never worked.
    fn check(&mut self, outcome: &Outcome) -> Result<()> {
        match outcome {
            Outcome::Done(_) => self.has_passed = true,
            Outcome::Failed { reason, detail, .. } if !self.has_passed => {
                self.num_failures += 1;
                if self.num_failures >= MOST_FAILURES_AT_START {
                    return Err(Error::input(format!(
                        "no row succeeded, and {} failed; the last one: `{reason}`: {detail}",
                        self.num_failures
                    ))
                    .at(self.step.name())
                    .hint("try the program or the endpoint by hand with one text, and run the command again when it works"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
