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

pub use prediction::Prediction;

use crate::error::Error;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::confidence::System;
use crate::eval::measure::measure;
use crate::eval::question::Found;
use crate::eval::question::Question;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::load::Loader;
use crate::model::AudioLlm;

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

/// Judges a model on a suite; `progress` is told how many of how many examples are done. Controls and baselines are left out.
pub fn evaluate(
    model: &AudioLlm,
    loader: &Loader,
    suite: &Suite,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Evaluation> {
    let (mut done, total) = (0, suite.num_examples());
    progress(done, total)?;
    let mut said = Vec::new();
    for set in &suite.sets {
        let questions = question::questions(set);
        let mut found: Vec<Option<Found>> = vec![None; questions.len()];
        let asker = Asker {
            model,
            loader,
            sampling: &suite.generation,
            seed: 0,
        };
        let mut take = |place: usize, what: Found| {
            done += usize::from(matches!(what, Found::Tokens(_)));
            found[place] = Some(what);
            progress(done, total)
        };
        asker
            .ask(&questions.iter().collect::<Vec<&Question>>(), &mut take)
            .map_err(|e| e.at(format!("set `{}`", set.name)))?;
        let found = found
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::bug("a question was not asked"))?;
        said.push(question::predictions(set, loader, found)?);
    }
    let system = System::new(&suite.sets.iter().collect::<Vec<_>>(), said, true)?;
    let scores = system.scores();
    Ok(Evaluation {
        scores,
        predictions: system
            .sets
            .into_iter()
            .map(|answered| (answered.set.name.clone(), answered.said))
            .collect(),
    })
}
