//! Text against text: error rates, overlap, labels, failures. Nothing here knows a tensor, a file
//! or a task.
//!
//! A corpus is [`Texts`]: pairs of a prediction and its references under a normaliser. A metric is
//! a [`Tally`]: a vector of sums for each utterance, the score as a function of their sum, and a
//! signature that says how it was computed.
//!
//! - `registry`: one row for each metric, with all that is known of it; `score`: the tallies of
//!   answers by whatever metrics are wanted; `score_name`: the name of a score, taken apart.
//! - `tally`, `texts`, `share`: what the metrics have in common.
//! - `normalise`, `english`: what is taken out of a text before it is compared.
//! - `edit`, `levenshtein`: word and character errors; `alignment` shows them, `script` and
//!   `by_script` keep scripts apart.
//! - `rouge`, `chrf`, `bleu`, `ngrams`, `overlap`: overlap with a summary or a translation.
//! - `classify`, `average`, `confusion`: accuracy, F1 and recall over labels.
//! - `confidence`: which intervals and p-values are claimed.
//! - `kind`: kinds of answers.
//! - `failures`: answers that do not end, loop, or leave the script.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod alignment;
mod average;
pub mod bleu;
pub mod by_script;
mod characters;
pub mod chrf;
pub mod classify;
pub mod confidence;
mod confusion;
pub mod edit;
mod english;
pub mod failures;
mod kind;
mod levenshtein;
mod ngrams;
mod normalise;
mod overlap;
pub mod registry;
pub mod rouge;
pub mod script;
mod score;
mod score_name;
mod share;
mod tally;
mod texts;

pub use classify::Classification;
pub use classify::classify;
pub use confusion::Confusion;
pub use edit::Counts;
pub use edit::char_errors;
pub use edit::word_errors;
pub use kind::TaskKind;
pub use normalise::Normaliser;
pub use registry::Definition;
pub use registry::Family;
pub use registry::Place;
pub use registry::Scale;
pub use registry::Settings;
pub use registry::better;
pub use registry::range;
pub use score::Answers;
pub use score::Labels;
pub use score::Reading;
pub use score::of_texts;
pub use score_name::ScoreName;
pub use tally::Better;
pub use tally::Signature;
pub use tally::Tally;
pub use texts::Pair;
pub use texts::Texts;
