//! How good a model is: its loss on a suite's sets, its answers, and what the metrics say of them.
//!
//! - `suite`: the sets as written and read; `control` asks them without their audio, `baseline`
//!   answers them without a model.
//! - `question`, `answers`: what a model is asked, and the asking.
//! - `content`, `interview`: what an answer depends on, and the asking of those that were not given
//!   before.
//! - `prediction`, `measure`: answers beside what was due, and their tallies.
//! - `prompts`: the instruction of each task that a model answers best.
//! - `halves`: one half of each set selects, the other is reported.
//! - `slices`, `confidence`: rows put together, and how sure the scores are.
//! - `instructions`: whether a model does as it is told; `judge`: summaries graded by a model
//!   behind an endpoint.
//! - `record`, `table`, `comparison`: scores to keep and to read.
//! - `systems`, `suite_run`, `outcome`, `results`: a base and its adapters on a suite, side by
//!   side.
//! - `rows`: a model on the rows of a manifest, without a suite; `scoring`: the scores of
//!   predictions, whoever made them.

pub mod answers;
pub mod baseline;
pub mod comparison;
pub mod confidence;
pub mod content;
pub mod control;
pub mod halves;
pub mod instructions;
pub mod interview;
pub mod judge;
pub mod majority;
pub mod measure;
pub mod outcome;
pub mod prediction;
pub mod prompts;
pub mod question;
pub mod results;
pub mod rows;
pub mod scores_file;
pub mod scoring;
pub mod slices;
pub mod suite;
pub mod suite_run;
pub mod systems;
pub mod table;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use crate::data::MAX_BAD_ROWS_NAMED;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::confidence::System;
use crate::eval::measure::measure;
use crate::eval::question::Question;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::records::answers::Found;
use crate::records::prediction::Prediction;
use crate::records::prediction::write;
use crate::records::scores::MEAN;
use crate::records::scores::Scores;

/// Scores of a suite, and the predictions of each set.
pub struct Evaluation {
    /// The scores.
    pub scores: Scores,
    /// By set name.
    pub predictions: Vec<(String, Vec<Prediction>)>,
    /// What is wrong with rows that were left out.
    pub skipped: Vec<Error>,
    /// Places of those rows: of the set in the suite, and of the example in the set.
    pub skipped_places: BTreeSet<(usize, usize)>,
}

impl Evaluation {
    /// Writes the predictions of each set to `SET.jsonl` in a folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_predictions(&self, folder: &Path) -> Result<()> {
        for (set, rows) in &self.predictions {
            write(&folder.join(format!("{set}.jsonl")), rows)?;
        }
        Ok(())
    }
}

/// The names of the scores that [`evaluate`] gives for a suite, in their order.
pub fn score_names(suite: &Suite) -> Vec<String> {
    // Which tallies there are does not depend on the predictions, so none will do.
    let mut names = Vec::new();
    for set in &suite.sets {
        let measured = measure(set, &[]).ok();
        let tallies = measured.map(|measured| measured.tallies);
        for tally in tallies.unwrap_or_default() {
            names.push(format!("{}.{}", set.name, tally.name));
        }
    }
    names.push(MEAN.to_owned());
    names
}

/// Evaluates a model on a suite; `progress` is told how many of how many examples are done.
/// Controls and baselines are left out. Rows that turn out to be unreadable are left out under
/// [`OnBadRow::Skip`].
///
/// # Errors
/// Under [`OnBadRow::Error`] all rows of a set that cannot be read.
pub fn evaluate(
    model: &AudioLlm,
    loader: &Loader,
    suite: &Suite,
    on_bad_row: OnBadRow,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let mut done = 0;
    let total = suite.num_examples();
    progress(done, total)?;
    let asker = Asker {
        model,
        loader,
        sampling: &suite.generation,
        seed: 0,
    };
    let mut sets = Vec::new();
    let mut said = Vec::new();
    let mut skipped = Vec::new();
    let mut skipped_places = BTreeSet::new();
    for (of_suite, set) in suite.sets.iter().enumerate() {
        let mut progress = |of_set: usize| progress(done + of_set, total);
        let place = |e: Error| e.at(format!("set `{}`", set.name));
        let (set, predictions) = match ask_set(&asker, set, &mut progress) {
            Ok(predictions) => (Cow::Borrowed(set), predictions),
            Err(error) if error.kind == Kind::Input => {
                let bad = set.unreadable(loader)?;
                if bad.is_empty() {
                    return Err(place(error));
                }
                if on_bad_row == OnBadRow::Error {
                    return Err(place(all_of(
                        bad.into_iter().map(|(_, error)| error).collect(),
                        set.examples.len(),
                    )));
                }
                let places: BTreeSet<usize> = bad.iter().map(|(place, _)| *place).collect();
                let left = set.without(&places)?;
                skipped_places.extend(places.iter().map(|place| (of_suite, *place)));
                skipped.extend(bad.into_iter().map(|(_, error)| place(error)));
                let predictions = ask_set(&asker, &left, &mut progress).map_err(place)?;
                (Cow::Owned(left), predictions)
            }
            Err(error) => return Err(place(error)),
        };
        done += set.examples.len();
        sets.push(set);
        said.push(predictions);
    }
    let sets: Vec<&Set> = sets.iter().map(|set| &**set).collect();
    let system = System::new(&sets, said, true)?;
    let scores = system.scores();
    Ok(Evaluation {
        skipped,
        skipped_places,
        scores,
        predictions: system
            .sets
            .into_iter()
            .map(|answered| (answered.set.name.clone(), answered.said))
            .collect(),
    })
}

/// Asks all questions of a set; `progress` is told how many examples are done.
fn ask_set(
    asker: &Asker,
    set: &Set,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Prediction>> {
    let questions = question::questions(set);
    let mut found: Vec<Option<Found>> = vec![None; questions.len()];
    let mut done = 0;
    let mut take = |place: usize, what: Found| {
        done += usize::from(matches!(what, Found::Tokens(_)));
        found[place] = Some(what);
        progress(done)
    };
    asker.ask(&questions.iter().collect::<Vec<&Question>>(), &mut take)?;
    let found = found
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::bug("a question was not asked"))?;
    question::predictions(set, asker.loader, found)
}

/// One error for all rows that cannot be read, of so many.
pub fn all_of(bad: Vec<Error>, num_rows: usize) -> Error {
    if let [only] = bad.as_slice() {
        return only.clone();
    }
    let mut message = format!("{} of {num_rows} rows cannot be read:", bad.len());
    for error in bad.iter().take(MAX_BAD_ROWS_NAMED) {
        message += &format!("\n  {}", error.message());
    }
    if bad.len() > MAX_BAD_ROWS_NAMED {
        message += &format!("\n  and {} more", bad.len() - MAX_BAD_ROWS_NAMED);
    }
    Error::input(message)
}
