//! How good a model is: its loss on a suite's sets, its answers, and what the metrics say of them.
//!
//! - `suite`: the sets as written and read; `control` asks them without their audio, `baseline` answers them without a model.
//! - `question`, `answers`: what a model is asked, and the asking.
//! - `content`, `store`, `interview`: what an answer depends on, those that were given before, and the asking of the others.
//! - `prediction`, `measure`: answers beside what was due, and their tallies.
//! - `slices`, `confidence`, `significance`: rows put together, and how sure the scores are.
//! - `instructions`: whether a model does as it is told; `judge`: summaries graded by a model behind an endpoint.
//! - `jsonl`: lines that one command wrote and another reads.
//! - `record`, `table`, `comparison`: scores to keep and to read.

pub mod answers;
pub mod baseline;
pub mod comparison;
pub mod confidence;
pub mod content;
pub mod control;
pub mod instructions;
pub mod interview;
pub use maqam_base::jsonl;
pub mod judge;
pub mod measure;
pub mod prediction;
pub mod question;
pub mod record;
pub use maqam_stats::significance;
pub mod slices;
pub mod store;
pub mod suite;
pub mod table;

use std::borrow::Cow;
use std::collections::BTreeSet;

pub use prediction::Prediction;

use crate::data::MAX_BAD_ROWS_NAMED;
use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::confidence::System;
use crate::eval::measure::measure;
use crate::eval::question::Found;
use crate::eval::question::Question;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::load::Loader;
use crate::models::AudioLlm;

/// Scores by name, in the order of the suite: `<set>.<metric>`, and `mean` at the end.
///
/// Rates, shares and F1 are fractions, chrF and BLEU run from 0 to 100, losses are nats a token. `mean` is the mean over sets of the
/// metric of their tasks, each brought to `[0, 1]`, higher better: see [`crate::metrics::Tally::goodness`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(pub Vec<(String, f64)>);

impl Scores {
    /// The score of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
    }

    /// The scores as a JSON object in their order.
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0
            .iter()
            .map(|(name, value)| (name.clone(), (*value).into()))
            .collect()
    }
}

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

/// The name of the mean over sets.
pub const MEAN: &str = "mean";

/// The names of the scores that [`evaluate`] gives for a suite, in their order.
pub fn score_names(suite: &Suite) -> Vec<String> {
    // Which tallies there are does not depend on the predictions, so none will do.
    let of_set = |set: &Set| {
        let measured = measure(set, &[])
            .map(|measured| measured.tallies)
            .unwrap_or_default();
        measured
            .into_iter()
            .map(|tally| format!("{}.{}", set.name, tally.name))
            .collect::<Vec<_>>()
    };
    suite
        .sets
        .iter()
        .flat_map(of_set)
        .chain([MEAN.to_owned()])
        .collect()
}

/// Evaluates a model on a suite; `progress` is told how many of how many examples are done. Controls and baselines are left out. Rows that
/// turn out to be unreadable are left out under [`OnBadRow::Skip`].
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
    let (mut done, total) = (0, suite.num_examples());
    progress(done, total)?;
    let asker = Asker {
        model,
        loader,
        sampling: &suite.generation,
        seed: 0,
    };
    let (mut sets, mut said, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
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
