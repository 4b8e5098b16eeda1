//! Text against text: error rates, overlap, labels, failures. Nothing here knows a tensor, a file or a task.
//!
//! A corpus is [`Texts`]: pairs of a prediction and its references under a normaliser. A metric is a [`Tally`]: a vector of sums for each
//! utterance, the score as a function of their sum, and a signature that says how it was computed.
//!
//! - `tally`, `texts`, `by_name`, `share`: what the metrics have in common.
//! - `normalise`, `english`: what is taken out of a text before it is compared.
//! - `edit`, `levenshtein`: word and character errors; `alignment` shows them, `script` and `by_script` keep scripts apart.
//! - `rouge`, `chrf`, `bleu`, `ngrams`, `overlap`: overlap with a summary or a translation.
//! - `classify`, `average`, `confusion`: accuracy, F1 and recall over labels.
//! - `confidence`: which intervals and p-values are claimed.
//! - `kind`: kinds of answers, and the metrics of each.
//! - `failures`: answers that do not end, loop, or leave the script.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod alignment;
mod average;
pub mod bleu;
mod by_name;
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
pub mod rouge;
pub mod script;
mod share;
mod tally;
mod texts;

pub use by_name::Settings;
pub use by_name::better;
pub use by_name::is_normalised;
pub use by_name::of_texts;
pub use by_name::range;
pub use classify::Classification;
pub use classify::classify;
pub use confusion::Confusion;
pub use edit::Counts;
pub use edit::char_errors;
pub use edit::word_errors;
pub use kind::Kind;
pub use normalise::Normaliser;
pub use share::share;
pub use tally::Better;
pub use tally::Signature;
pub use tally::Tally;
pub use texts::Pair;
pub use texts::Texts;
