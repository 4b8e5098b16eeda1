//! Baselines: answers that take no model, for a score to be held against.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use serde::Serialize;

use crate::eval::suite::Set;
use crate::task::Kind;
use crate::task::Task;

/// A way to answer without a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// The commonest label for every row: of the manifest `majority_from`, or else of the set itself.
    Majority,
    /// The first sentence of what was said, as its summary.
    Lead,
    /// All that was said, as its summary.
    Transcript,
}

impl Baseline {
    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Lead => "lead",
            Self::Transcript => "transcript",
        }
    }

    /// What it fits, for messages.
    pub fn fits(self) -> &'static str {
        match self {
            Self::Majority => "sets of labels",
            Self::Lead | Self::Transcript => {
                "sets of summaries whose rows have a `text` of their own or in the set's `text_from`"
            }
        }
    }

    /// Its answers to a set, in the order of the rows; `None` where it does not fit.
    pub fn answers(self, set: &Set) -> Option<Vec<String>> {
        match (self, set.task.kind) {
            (Self::Majority, Kind::Classify) => {
                let label = set.majority.as_ref()?.label.as_str();
                let place = set
                    .task
                    .labels
                    .iter()
                    .position(|known| known.name == label)?;
                Some(
                    set.examples
                        .iter()
                        .map(|example| {
                            set.task
                                .written_labels(set.wording, example.asked_in())
                                .swap_remove(place)
                        })
                        .collect(),
                )
            }
            (Self::Lead | Self::Transcript, Kind::Generate) => {
                let answer = |text: &Option<Box<str>>| {
                    let text = text.as_deref()?;
                    Some(set.task.write(if self == Self::Lead {
                        first_sentence(text)
                    } else {
                        text.trim()
                    }))
                };
                set.transcripts.iter().map(answer).collect()
            }
            _ => None,
        }
    }

    /// What a reader of its scores for a set must know.
    pub fn note(self, set: &Set) -> Option<String> {
        let majority = set.majority.as_ref().filter(|_| self == Self::Majority)?;
        Some(format!(
            "`{}`, the commonest label of {}",
            majority.label, majority.of
        ))
    }
}

/// The commonest label of some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Majority {
    /// Its name in the inventory.
    pub label: String,
    /// Whose rows: a manifest, or the set itself.
    pub of: String,
}

impl Majority {
    /// The commonest of some labels, the first of the inventory among equals; `None` without any.
    pub fn among<'a>(
        task: &Task,
        labels: impl Iterator<Item = &'a str>,
        of: String,
    ) -> Option<Self> {
        let mut counts = vec![0usize; task.labels.len()];
        for label in labels {
            if let Some(place) = task.labels.iter().position(|known| known.name == label) {
                counts[place] += 1;
            }
        }
        let (place, _) = counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .rev()
            .max_by_key(|(_, count)| **count)?;
        Some(Self {
            label: task.labels[place].name.clone(),
            of,
        })
    }
}

/// The end of a sentence: its marks, with what closes a quotation behind them, before white space; or a line's end.
#[expect(
    clippy::unwrap_used,
    reason = "the pattern is a constant, compiled in the tests of this file"
)]
static SENTENCE_END: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"[.!?؟۔…]+[»"'”’)\]]*(?:\s|$)|\n"#).unwrap());

/// The first sentence of a text, its marks included; the whole text where nothing ends one.
fn first_sentence(text: &str) -> &str {
    let text = text.trim();
    SENTENCE_END
        .find(text)
        .map_or(text, |end| text[..end.end()].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;

    #[test]
    fn sentences_end_at_their_marks() {
        let cases = [
            ("  وصل الوفد. ثم غادر.", "وصل الوفد."),
            ("أين كان؟! لا أحد يعرف", "أين كان؟!"),
            (
                "It cost 3.5 million (or more...) in all. Yes.",
                "It cost 3.5 million (or more...)",
            ),
            ("He said «نعم.» Then left.", "He said «نعم.»"),
            ("one line\nanother", "one line"),
            ("no end", "no end"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(first_sentence(text), expected);
        }
    }

    #[test]
    fn the_majority_is_the_commonest_and_the_inventorys_first_of_equals() {
        let tasks = Tasks::load(None).unwrap();
        let among = |labels: &[&str]| {
            Majority::among(
                tasks.get("emotion").unwrap(),
                labels.iter().copied(),
                "x".to_owned(),
            )
            .map(|found| found.label)
        };
        assert_eq!(among(&["sad", "happy", "sad"]).as_deref(), Some("sad"));
        assert_eq!(
            among(&["sad", "happy", "sad", "happy"]).as_deref(),
            Some("happy"),
            "happy stands before sad in the inventory"
        );
        assert_eq!(among(&[]), None);
    }
}
