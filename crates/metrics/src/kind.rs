//! Kinds of answers.

use serde::Deserialize;
use serde::Serialize;

/// What kind of answer a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// The words that were said: a row's `text`.
    Transcribe,
    /// A text of the model's making: a row's `summary`.
    Generate,
    /// One label of an inventory: a row's `label`.
    Classify,
}

impl TaskKind {
    /// Field of a manifest's row that has the answer.
    pub fn target_field(self) -> &'static str {
        match self {
            Self::Transcribe => "text",
            Self::Generate => "summary",
            Self::Classify => "label",
        }
    }

    /// Whether the answer is a text, not a label of an inventory.
    pub fn is_text(self) -> bool {
        match self {
            Self::Transcribe | Self::Generate => true,
            Self::Classify => false,
        }
    }
}
