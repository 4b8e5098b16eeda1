//! Text against text: error rates, normalisers, classification scores. Nothing here knows a tensor, a file or a task.
//!
//! - `edit`: word and character errors by alignment.
//! - `normalise`: what is taken out of a text before it is compared.
//! - `classify`: accuracy, F1 and recall over labels.
//! - `rouge`: overlap of words, for summaries.

mod classify;
mod edit;
mod normalise;
pub mod rouge;

pub use classify::Classification;
pub use classify::classify;
pub use edit::Counts;
pub use edit::char_errors;
pub use edit::word_errors;
pub use normalise::Normaliser;
