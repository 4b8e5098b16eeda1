//! Kinds of answers, and the metrics that each kind has.

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

impl Kind {
    /// The metrics of the kind: what suites may list and tasks stand by.
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            Self::Transcribe => &[
                "wer",
                "cer",
                "substitutions",
                "deletions",
                "insertions",
                "wer_arabic",
                "wer_latin",
                "wer_digits",
                "wer_other",
                "char_substitutions",
                "char_deletions",
                "char_insertions",
                "hit_limit",
                "repetition",
                "seq_rep_4",
                "length_ratio",
                "wrong_script",
                "insertion_share",
            ],
            Self::Generate => &[
                "rouge1",
                "rouge2",
                "rougeL",
                "rougeLsum",
                "chrf",
                "chrfpp",
                "bleu",
                "hit_limit",
                "repetition",
                "seq_rep_4",
                "length_ratio",
                "wrong_script",
                "insertion_share",
            ],
            Self::Classify => &[
                "accuracy",
                "macro_f1",
                "weighted_f1",
                "uar",
                "hit_limit",
                "repetition",
                "seq_rep_4",
            ],
        }
    }

    /// Those that are computed where none is listed.
    pub fn default_metrics(self) -> &'static [&'static str] {
        match self {
            Self::Transcribe => &["wer", "cer"],
            Self::Generate => &["rouge1", "rouge2", "rougeL"],
            Self::Classify => &["accuracy", "macro_f1", "weighted_f1", "uar"],
        }
    }
}
