//! Kinds of rows of an instruction suite, and which constraints each puts on which tasks.

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::constraint::Constraint;
use crate::metrics::TaskKind;
use crate::task::AnswerFormat;
use crate::task::Task;
use crate::yaml;

/// What a row tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionKind {
    /// A label of the list and nothing else.
    Label,
    /// A JSON object with exactly these keys.
    Json,
    /// An answer in the language asked for.
    Language,
    /// A number of words.
    Length,
    /// A word said or left out.
    Keyword,
    /// A beginning or an end.
    Affix,
    /// No diacritics, no punctuation.
    Orthography,
    /// Two constraints at once.
    Combined,
    /// Each task asked of one clip, and the answer is one to that task.
    Switch,
    /// One question in every unseen wording.
    Wording,
    /// A second turn with another task and a constraint.
    TwoTurns,
    /// A third turn whose rule replaces that of the first two.
    ThreeTurns,
    /// A clip in which an instruction is spoken: the task is done, the voice not obeyed.
    Spoken,
}

impl InstructionKind {
    /// All kinds, in the order of suites and tables.
    pub const ALL: [Self; 13] = [
        Self::Label,
        Self::Json,
        Self::Language,
        Self::Length,
        Self::Keyword,
        Self::Affix,
        Self::Orthography,
        Self::Combined,
        Self::Switch,
        Self::Wording,
        Self::TwoTurns,
        Self::ThreeTurns,
        Self::Spoken,
    ];

    /// Its name in rows, arguments and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Json => "json",
            Self::Language => "language",
            Self::Length => "length",
            Self::Keyword => "keyword",
            Self::Affix => "affix",
            Self::Orthography => "orthography",
            Self::Combined => "combined",
            Self::Switch => "switch",
            Self::Wording => "wording",
            Self::TwoTurns => "two-turns",
            Self::ThreeTurns => "three-turns",
            Self::Spoken => "spoken",
        }
    }

    /// The kind of a name.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one and all of them.
    pub fn of_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name);
                let near = yaml::nearest(name, names.into_iter())
                    .map(|near| format!("did you mean `{near}`? "))
                    .unwrap_or_default();
                Error::input(format!("unknown kind `{name}`"))
                    .hint(format!("{near}kinds: {}", names.join(", ")))
            })
    }

    /// Whether rows of this kind can be about a task.
    pub fn fits(self, task: &Task) -> bool {
        match self {
            Self::Switch | Self::Wording | Self::Spoken => true,
            // A task that answers in JSON by itself leaves its form to nobody.
            _ if task.answer.format == AnswerFormat::Json => false,
            Self::TwoTurns | Self::ThreeTurns => true,
            _ => !self.constraints(task.kind).is_empty(),
        }
    }

    /// The constraints that rows of this kind take in turn for a task; those of one entry come
    /// together.
    pub fn constraints(self, task: TaskKind) -> &'static [&'static [Constraint]] {
        use Constraint::*;
        use TaskKind::*;
        match (self, task) {
            (Self::Label, Classify) => &[&[Label]],
            (Self::Json, _) => &[&[Json]],
            (Self::Language, Classify) => &[&[OtherLanguage]],
            (Self::Language, Generate) => &[&[OtherLanguage], &[SameLanguage]],
            (Self::Length, Classify) => &[&[AtLeast]],
            (Self::Length, Generate) => &[&[AtMost], &[AtLeast]],
            (Self::Keyword, Classify) => &[&[Contains]],
            (Self::Keyword, Generate) => &[&[Contains], &[Avoids]],
            (Self::Affix, _) => &[&[Starts], &[Ends]],
            (Self::Orthography, Transcribe | Generate) => &[&[NoPunctuation], &[NoDiacritics]],
            (Self::Combined, Classify) => {
                &[&[Starts, Ends], &[AtLeast, Contains], &[Contains, Ends]]
            }
            (Self::Combined, Transcribe) => &[
                &[NoPunctuation, Ends],
                &[NoDiacritics, Starts],
                &[Starts, Ends],
            ],
            (Self::Combined, Generate) => &[
                &[AtMost, NoPunctuation],
                &[OtherLanguage, AtMost],
                &[Contains, AtMost],
            ],
            (Self::TwoTurns, Classify) => &[&[Label], &[Json], &[Starts], &[OtherLanguage]],
            (Self::TwoTurns, Transcribe) => &[&[Json], &[Ends], &[NoPunctuation]],
            (Self::TwoTurns, Generate) => &[&[AtMost], &[Json], &[Avoids], &[OtherLanguage]],
            (Self::ThreeTurns, Classify) => &[&[Label], &[Starts], &[Ends], &[Json]],
            (Self::ThreeTurns, Transcribe) => &[&[NoPunctuation], &[Ends], &[Starts], &[Json]],
            (Self::ThreeTurns, Generate) => &[&[NoPunctuation], &[Starts], &[Json], &[Ends]],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_rows_and_slips_are_pointed_out() {
        for kind in InstructionKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(InstructionKind::of_name(kind.name()).unwrap(), kind);
        }
        let error = InstructionKind::of_name("two_turn")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("did you mean `two-turns`?") && error.contains("label, json"),
            "{error}"
        );
    }
}
