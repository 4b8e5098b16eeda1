//! Constraints: what can be asked of an answer beside the task.

/// Something that can be asked of an answer beside the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A label and nothing else.
    Label,
    /// JSON.
    Json,
    /// A language: the other one than that of the instruction.
    OtherLanguage,
    /// A language: that of the instruction.
    SameLanguage,
    /// A most number of words.
    AtMost,
    /// A least number of words.
    AtLeast,
    /// A word.
    Contains,
    /// A word left out.
    Avoids,
    /// A beginning.
    Starts,
    /// An end.
    Ends,
    /// No diacritics.
    NoDiacritics,
    /// No punctuation.
    NoPunctuation,
}
