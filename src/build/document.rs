//! A document in a build: its steps, its fields, and reasons of rejection.

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;

/// A step of a build, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Reads the sources.
    Collect,
    /// Mends texts; removes repeated and contaminated ones; assigns split and voice.
    Clean,
    /// Gives each document its summaries.
    Summarise,
    /// Compares summaries with their texts.
    Verify,
    /// Turns texts into speech.
    Speak,
    /// Checks the speech.
    Listen,
    /// Compares the splits with the requested shares.
    Split,
    /// Writes the data set.
    Publish,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 8] = [
        Self::Collect,
        Self::Clean,
        Self::Summarise,
        Self::Verify,
        Self::Speak,
        Self::Listen,
        Self::Split,
        Self::Publish,
    ];

    /// Steps that process one row at a time.
    pub const ROW_BY_ROW: [Self; 4] = [Self::Summarise, Self::Verify, Self::Speak, Self::Listen];

    /// Name in recipes, files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Clean => "clean",
            Self::Summarise => "summarise",
            Self::Verify => "verify",
            Self::Speak => "speak",
            Self::Listen => "listen",
            Self::Split => "split",
            Self::Publish => "publish",
        }
    }

    /// Place among [`Step::ROW_BY_ROW`].
    pub(crate) fn place_row_by_row(self) -> Result<usize> {
        Self::ROW_BY_ROW
            .iter()
            .position(|step| *step == self)
            .ok_or_else(|| Error::bug(format!("{} does not work row by row", self.name())))
    }
}

/// Reason of a rejection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The step that left it out.
    pub step: Step,
    /// A short name, the same for all rows with this reason.
    pub reason: String,
    /// The fault of this row.
    pub detail: String,
}

impl Rejection {
    /// A rejection.
    pub fn new(step: Step, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            step,
            reason: reason.to_owned(),
            detail: detail.into(),
        }
    }
}

/// A collected document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Number, from 0, in the order of the sources.
    pub row: usize,
    /// Name, unique in the set.
    pub id: String,
    /// Text that is spoken and transcribed.
    pub text: String,
    /// Summaries that the source has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub summaries: Vec<String>,
    /// Headline that the source has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<String>,
    /// Language, as a BCP 47 tag.
    pub language: String,
    /// Split that the source states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Unit that must not be split, as the source states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// File and line.
    pub source: String,
    /// Licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Reason of the rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejection>,
}

/// Result of a step for a row.
pub enum Outcome {
    /// Result of the step; the next step takes the row.
    Done(serde_json::Value),
    /// The row is rejected.
    Rejected {
        /// A short name of the reason.
        reason: &'static str,
        /// The fault.
        detail: String,
        /// Character error rate of its transcript, if there is one.
        cer: Option<f64>,
    },
    /// An engine failed. The row counts as rejected.
    Failed {
        /// A short name of the reason.
        reason: &'static str,
        /// The fault.
        detail: String,
        /// Whether the next run tries the row again.
        is_retried: bool,
    },
    /// The build ends; the row stays in its state.
    Ended,
}

impl Outcome {
    /// The result of a step as JSON.
    ///
    /// # Errors
    /// None that input can cause.
    pub fn done(value: &impl Serialize) -> Result<Self> {
        serde_json::to_value(value)
            .map(Self::Done)
            .map_err(Error::bug_from)
    }

    /// A rejected row.
    pub fn rejected(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Rejected {
            reason,
            detail: detail.into(),
            cer: None,
        }
    }
}
