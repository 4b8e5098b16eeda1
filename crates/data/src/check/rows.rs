//! Faults in the fields of a single row: an unknown task, no target, an unknown label or foreign
//! letters.

use crate::NoAudioFile;
use crate::Role;
use crate::Row;
use crate::arabic::is_diacritic;
use crate::check::finding::FindingKind;
use crate::check::finding::Settings;
use crate::task::Task;
use maqam_base::error::Error;
use maqam_metrics::TaskKind;

/// Letters that a message shows.
const SHOWN_LETTERS: usize = 8;

/// The kind of finding for a row that cannot be read.
pub fn kind_of(error: &Error) -> FindingKind {
    match error.is_caused_by::<NoAudioFile>() {
        true => FindingKind::Missing,
        false => FindingKind::Row,
    }
}

/// Returns the faults of a row.
pub fn check(row: &Row, settings: &Settings<'_>) -> Vec<(FindingKind, String)> {
    let mut found = Vec::new();
    let name = row.task.as_deref().or(settings.task);
    let task = match name.map(|name| settings.tasks.get(name)) {
        Some(Ok(task)) => Some(task),
        Some(Err(error)) => {
            found.push((FindingKind::Task, error.message().to_owned()));
            None
        }
        None => None,
    };
    if let (Some(task), Some(label)) = (task, row.label.as_deref())
        && task.kind == TaskKind::Classify
        && let Err(error) = task.row_label(label)
    {
        found.push((FindingKind::Label, error.message().to_owned()));
    }
    if let Some(message) = empty_target(row, task) {
        found.push((FindingKind::EmptyTarget, message));
    }
    if let Some(message) = row
        .text
        .as_deref()
        .and_then(|text| foreign_letters(text, row))
    {
        found.push((FindingKind::Script, message));
    }
    found
}

/// Describes a missing or empty target.
fn empty_target(row: &Row, task: Option<&Task>) -> Option<String> {
    let is_blank = |text: Option<&str>| text.is_none_or(|text| text.trim().is_empty());
    if !row.messages.is_empty() {
        let answers = row.messages.iter().filter(|m| m.role == Role::Assistant);
        return match answers.clone().count() {
            0 => Some("the conversation has no answer".to_owned()),
            _ => answers
                .filter(|message| message.loss)
                .any(|message| is_blank(Some(&message.content)))
                .then(|| "an answer of the conversation is empty".to_owned()),
        };
    }
    if row.target.is_some() {
        return is_blank(row.target.as_deref()).then(|| "`target` is empty".to_owned());
    }

    let (field, value) = match task.map(|task| task.kind) {
        Some(kind) => (kind.target_field(), row.answer(kind)),
        None => {
            let known = [
                row.text.as_deref(),
                row.summary.as_deref(),
                row.label.as_deref(),
            ];
            return known.into_iter().all(is_blank).then(|| {
                "none of `text`, `summary`, `label`, `target` and `messages` says anything"
                    .to_owned()
            });
        }
    };
    match value {
        None => Some(format!("no `{field}`")),
        Some(_) if is_blank(value) => Some(format!("`{field}` is empty")),
        Some(_) => None,
    }
}

/// Script of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Arabic,
    Latin,
    Other,
}

impl Script {
    /// The script of a letter; `None` for any other character.
    fn of(c: char) -> Option<Self> {
        if !c.is_alphabetic() || is_diacritic(c) {
            return None;
        }
        Some(match c {
            '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' | '\u{870}'..='\u{8ff}' => Self::Arabic,
            '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' => Self::Arabic,
            'a'..='z' | 'A'..='Z' | '\u{aa}' | '\u{ba}' | '\u{c0}'..='\u{24f}' => Self::Latin,
            '\u{1e00}'..='\u{1eff}' => Self::Latin,
            _ => Self::Other,
        })
    }

    /// The script of a language, by its tag; `None` for a language that this table lacks.
    fn of_language(tag: &str) -> Option<Self> {
        match tag.split('-').next().unwrap_or(tag) {
            "ar" | "arb" | "arz" | "apc" | "ary" | "afb" | "fa" | "ur" | "ps" | "ckb" => {
                Some(Self::Arabic)
            }
            "en" | "fr" | "de" | "es" | "it" | "pt" | "nl" | "tr" | "pl" | "sv" | "id" | "sw" => {
                Some(Self::Latin)
            }
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Arabic => "Arabic",
            Self::Latin => "Latin",
            Self::Other => "other",
        }
    }
}

/// Number of letters of a text, marks not counted.
pub fn num_letters(text: &str) -> usize {
    text.chars().filter(|&c| Script::of(c).is_some()).count()
}

/// Letters that the row's language is not written in, in words.
fn foreign_letters(text: &str, row: &Row) -> Option<String> {
    let broken = text.chars().filter(|&c| c == '\u{fffd}').count();
    if broken > 0 {
        return Some(format!(
            "{broken} characters were lost in a wrong encoding (U+FFFD)"
        ));
    }
    let script = Script::of_language(row.language.as_deref()?)?;
    let letters = text.chars().filter(|&c| Script::of(c).is_some());
    let foreign: Vec<char> = letters
        .clone()
        .filter(|&c| Script::of(c) != Some(script))
        .collect();
    if foreign.is_empty() {
        return None;
    }
    let shown: String = foreign.iter().take(SHOWN_LETTERS).collect();
    Some(format!(
        "{} of {} letters are not {}: {shown}",
        foreign.len(),
        letters.count(),
        script.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnBadRow;
    use crate::read_manifest;
    use crate::task::Tasks;

    fn findings(line: &str) -> Vec<(FindingKind, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, line).unwrap();
        let manifest = read_manifest(&path, None, OnBadRow::Error).unwrap();
        let tasks = Tasks::load(None).unwrap();
        let settings = Settings {
            tasks: &tasks,
            task: None,
            decode: false,
            letters_per_s: 1.0..=30.0,
            similarity: 0.8,
            scratch: std::path::Path::new("."),
        };
        check(&manifest.rows[0], &settings)
    }

    fn kinds(line: &str) -> Vec<FindingKind> {
        findings(line).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn targets_follow_the_task() {
        for (line, expected) in [
            (r#"{"task": "asr", "text": "قال"}"#, vec![]),
            (
                r#"{"task": "asr", "text": "  "}"#,
                vec![FindingKind::EmptyTarget],
            ),
            (
                r#"{"task": "asr", "summary": "s"}"#,
                vec![FindingKind::EmptyTarget],
            ),
            (r#"{"task": "asr", "target": "said"}"#, vec![]),
            (
                r#"{"task": "summarization", "text": "t"}"#,
                vec![FindingKind::EmptyTarget],
            ),
            (
                r#"{"task": "emotion", "text": "t", "label": "happy"}"#,
                vec![],
            ),
            (
                r#"{"task": "emotion", "text": "t"}"#,
                vec![FindingKind::EmptyTarget],
            ),
            (
                r#"{"task": "emotion", "text": "t", "label": "hapy"}"#,
                vec![FindingKind::Label],
            ),
            (r#"{"task": "asrr", "text": "t"}"#, vec![FindingKind::Task]),
            (r#"{"text": "t"}"#, vec![]),
            (r#"{"speaker": "one"}"#, vec![FindingKind::EmptyTarget]),
            (
                r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}"#,
                vec![FindingKind::EmptyTarget],
            ),
        ] {
            assert_eq!(kinds(line), expected, "{line}");
        }
    }

    #[test]
    fn letters_follow_the_language() {
        let found = findings(r#"{"language": "ar-EG", "text": "قَالَ ok 20"}"#);
        assert_eq!(
            found,
            [(
                FindingKind::Script,
                "2 of 5 letters are not Arabic: ok".to_owned()
            )]
        );
        assert!(kinds(r#"{"language": "ar", "text": "قَالَ، ٢٠!"}"#).is_empty());
        assert!(kinds(r#"{"language": "en", "text": "naïve"}"#).is_empty());
        assert_eq!(
            kinds(r#"{"language": "en", "text": "привет"}"#),
            [FindingKind::Script]
        );
        assert_eq!(kinds("{\"text\": \"a\u{fffd}b\"}"), [FindingKind::Script]);
        assert!(kinds(r#"{"language": "ja", "text": "こんにちは"}"#).is_empty());
    }
}
