//! A suite put to a base and its adapters: questions asked, answers measured, results written.

use std::path::Path;

use serde_json::Value;

use crate::data::MAX_BAD_ROWS_NAMED;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval;
use crate::eval::control;
use crate::eval::outcome;
use crate::eval::results::Folder;
use crate::eval::suite::Suite;
use crate::eval::systems::Respondent;
use crate::eval::systems::Systems;
use crate::records::suite_file::Control;
use crate::stats::significance::Resampling;
use crate::stop::Stop;

/// The evaluation of systems on a suite.
pub struct SuiteRun<'a> {
    /// Who answers.
    pub systems: &'a Systems,
    /// Where the results go.
    pub folder: &'a Folder,
    /// Folder of the cache of answers.
    pub answers: &'a Path,
    /// Resamples of intervals and tests.
    pub resampling: Resampling,
    /// What happens to rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Whether the memory of the machine is not looked at.
    pub ignore_memory: bool,
}

/// Told how an evaluation goes on.
pub trait Observer {
    /// A line for the user.
    fn message(&mut self, text: &str);
    /// Questions are asked now, so many.
    fn begin(&mut self, num_open: u64);
    /// The weights of a system are loaded.
    fn loading(&mut self, system: &str);
    /// So many questions have answers, the last one of this system.
    fn answered(&mut self, done: u64, system: &str);
    /// No more questions are asked.
    fn end(&mut self);
}

/// Results of an evaluation, which are in its folder too.
pub struct Evaluated {
    /// The table to read.
    pub table: String,
    /// Scores of every system as one object.
    pub summary: Value,
    /// Names of the systems.
    pub names: Vec<String>,
}

impl SuiteRun<'_> {
    /// Evaluates. Rows that cannot be read are left out once all others are answered.
    ///
    /// # Errors
    /// Rows that cannot be read, unless they are skipped; the device's and the disk's; the user
    /// asked to stop.
    pub fn run(
        &self,
        mut suite: Suite,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<Evaluated> {
        suite.check_language(&self.systems.loader)?;
        let num_rows = suite.num_examples();
        let mut bad: Vec<Error> = Vec::new();
        loop {
            let suites = with_controls(&suite)?;
            let respondents = match self.answered(&suites, &suite, observer, stop) {
                Ok(respondents) => respondents,
                Err(error) if error.kind == Kind::Input => {
                    // Some rows cannot be read: the others are asked without them, and every answer
                    // is cached.
                    let found = suite.unreadable(&self.systems.loader)?;
                    if found.is_empty() {
                        return Err(error);
                    }
                    suite = suite.without(&found)?;
                    bad.extend(found.into_iter().map(|(.., error)| error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !bad.is_empty() && self.on_bad_row == OnBadRow::Error {
                return Err(eval::all_of(bad, num_rows).hint("the answers to all other rows are kept: mend these rows and evaluate again, or leave them out with --on-bad-row skip"));
            }
            tell_skipped(&bad, &suite, observer);
            return self.conclude(&respondents, &suite);
        }
    }

    /// The systems with an answer to every question.
    fn answered<'s>(
        &self,
        suites: &'s [(Option<Control>, Suite)],
        suite: &Suite,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<Vec<Respondent<'s>>> {
        let mut respondents = self.systems.interviews(suites, self.answers)?;
        tell_questions(&respondents, suite, observer);
        let num_open: usize = respondents.iter().map(Respondent::num_open).sum();
        if num_open == 0 {
            return Ok(respondents);
        }

        self.systems.check_adapters(&respondents)?;
        if !self.ignore_memory {
            self.systems.check_memory()?;
        }
        observer.begin(num_open as u64);
        let outcome = self.ask(&mut respondents, observer, stop);
        observer.end();
        outcome.map(|()| respondents)
    }

    /// Asks every system what it was not asked before.
    fn ask(
        &self,
        respondents: &mut [Respondent],
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<()> {
        let mut done = 0;
        for respondent in respondents.iter_mut().filter(|one| one.num_open() > 0) {
            observer.loading(&respondent.name);
            let mut note = |text: &str| observer.message(&format!("note: {text}"));
            let model = self.systems.open(respondent, &mut note)?;
            let name = respondent.name.clone();
            respondent.ask(self.systems, &model, &mut || {
                done += 1;
                observer.answered(done, &name);
                stop.check(format_args!(
                    "stopped; {done} new answers are cached, and the same command continues from there"
                ))
            })?;
        }
        Ok(())
    }

    /// Measures the answers and writes the results.
    fn conclude(&self, respondents: &[Respondent], suite: &Suite) -> Result<Evaluated> {
        let outcomes = outcome::outcomes(self.systems, respondents, suite, &self.resampling)?;
        let table = outcome::tables(&outcomes, suite, &self.resampling);
        self.folder.write(&outcomes, &table)?;
        Ok(Evaluated {
            summary: self.folder.summary(&outcomes),
            names: outcomes.iter().map(|one| one.name.clone()).collect(),
            table,
        })
    }
}

/// The suite, and the suite under each of its controls.
fn with_controls(suite: &Suite) -> Result<Vec<(Option<Control>, Suite)>> {
    let controlled = suite
        .controls
        .iter()
        .map(|control| Ok((Some(*control), control::asked(*control, suite)?)));
    std::iter::once(Ok((None, suite.clone())))
        .chain(controlled)
        .collect()
}

fn tell_questions(respondents: &[Respondent], suite: &Suite, observer: &mut dyn Observer) {
    let total: usize = respondents.iter().map(Respondent::num_questions).sum();
    let open: usize = respondents.iter().map(Respondent::num_open).sum();
    let left: usize = respondents.iter().map(Respondent::num_left).sum();
    observer.message(&format!(
        "suite {}: {} sets, {} rows, {} systems",
        suite.name,
        suite.sets.len(),
        suite.num_examples(),
        respondents.len()
    ));
    observer.message(&format!(
        "{total} questions: {} answers from the store, {open} to ask",
        total - left
    ));
}

fn tell_skipped(bad: &[Error], suite: &Suite, observer: &mut dyn Observer) {
    for error in bad.iter().chain(&suite.skipped).take(MAX_BAD_ROWS_NAMED) {
        observer.message(&format!("skipped: {}", error.message()));
    }
    let num_skipped = bad.len() + suite.skipped.len();
    if num_skipped > 0 {
        observer.message(&format!(
            "note: scored without {num_skipped} rows that cannot be used"
        ));
    }
}
