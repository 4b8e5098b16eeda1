//! Baselines: answers that take no model, for a score to be held against.

use std::sync::LazyLock;

use regex::Regex;

use crate::eval::suite::Set;
use crate::metrics::TaskKind;
use crate::records::suite_file::Baseline;

/// The answers of a baseline to a set, in the order of the rows; `None` where it does not fit.
pub fn answers(baseline: Baseline, set: &Set) -> Option<Vec<String>> {
    match (baseline, set.task.kind) {
        (Baseline::Majority, TaskKind::Classify) => {
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
        (Baseline::Lead | Baseline::Transcript, TaskKind::Generate) => {
            let answer = |text: &Option<Box<str>>| {
                let text = text.as_deref()?;
                Some(set.task.write(if baseline == Baseline::Lead {
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

/// A remark that belongs to a baseline's scores for a set.
pub fn note(baseline: Baseline, set: &Set) -> Option<String> {
    let majority = set
        .majority
        .as_ref()
        .filter(|_| baseline == Baseline::Majority)?;
    Some(format!(
        "`{}`, the commonest label of {}",
        majority.label, majority.of
    ))
}

/// The end of a sentence: its marks, with what closes a quotation behind them, before white space;
/// or a line's end.
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
}
