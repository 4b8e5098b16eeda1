//! Kinds of answers.

use serde::Deserialize;
use serde::Serialize;

/// What kind of answer a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The words that were said: a row's `text`.
    Transcribe,
    /// A text of the model's making: a row's `summary`.
    Generate,
    /// One label of an inventory: a row's `label`.
    Classify,
}
