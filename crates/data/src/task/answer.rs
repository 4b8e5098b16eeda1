//! An answer read back: from the text that a model wrote to what a metric compares.

use serde::Deserialize;
use serde::Serialize;

use crate::asr_text;
use crate::spelling::is_invisible;
use crate::spelling::label_key;
use crate::spelling::ordinary;
use crate::spelling::visible;
use crate::task::AnswerFormat;
use crate::task::Label;
use crate::task::Task;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::error::brief;
use maqam_base::yaml;
use maqam_metrics::TaskKind;

/// How much an answer is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parse {
    /// The answer is what was asked for and nothing else; case and surrounding whitespace aside.
    Strict,
    /// A label may stand in a sentence, with or without diacritics, as long as no other label does;
    /// JSON may have text around it.
    Lenient,
}

impl Parse {
    /// Its name in suites and signatures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Lenient => "lenient",
        }
    }
}

impl Task {
    /// What an answer says: the inventory's name of a label, or the trimmed text; `None` when it
    /// does not say it.
    pub fn parse_answer(&self, text: &str, mode: Parse) -> Option<String> {
        let text = text.trim();
        let said = match (self.answer.format, mode) {
            (AnswerFormat::Text | AnswerFormat::Label, _) => text.to_owned(),
            (AnswerFormat::Json, Parse::Strict) => json_value(text, &self.name)?,
            (AnswerFormat::Json, Parse::Lenient) => {
                json_inside(text, &self.name).unwrap_or_else(|| text.to_owned())
            }
        };
        match (self.kind, mode) {
            (TaskKind::Transcribe, _) => {
                // Qwen3-ASR writes the language before the transcript.
                let transcript = asr_text::split(&said).map_or(said.as_str(), |(_, text)| text);
                Some(transcript.trim().to_owned())
            }
            (TaskKind::Generate, _) => Some(said.trim().to_owned()),
            (TaskKind::Classify, Parse::Strict) => {
                self.label_of(&said).map(|label| label.name.clone())
            }
            (TaskKind::Classify, Parse::Lenient) => self
                .label_of(&said)
                .or_else(|| self.label_within(&said))
                .map(|label| label.name.clone()),
        }
    }

    /// The label that `word` names: its name or one of its words; case, presentation forms, tatweel
    /// and invisible marks aside.
    pub fn label_of(&self, word: &str) -> Option<&Label> {
        let word = label_key(word);
        self.labels.iter().find(|label| {
            label_key(&label.name) == word
                || label.words.values().any(|known| label_key(known) == word)
        })
    }

    /// The label of a row, which the inventory must know.
    ///
    /// # Errors
    /// A label outside the inventory, with the inventory and the nearest label.
    pub fn row_label(&self, found: &str) -> Result<&Label> {
        self.label_of(found).ok_or_else(|| {
            let words = self.labels.iter().flat_map(|label| std::iter::once(&label.name).chain(label.words.values())).map(String::as_str);
            let nearest = yaml::nearest(found, words).and_then(|word| self.label_of(word));
            let nearest = nearest.map(|label| format!("did you mean `{}`? ", label.name)).unwrap_or_default();
            let names: Vec<&str> = self.labels.iter().map(|label| label.name.as_str()).collect();
            let hint = format!("{nearest}labels are {}; another inventory is a task file of its own in `prompts: DIR`", names.join(", "));
            Error::input(format!("label `{}` is not in the inventory of task `{}`", visible(&brief(found)), self.name)).hint(hint)
        })
    }

    /// The one label that a sentence speaks of; `None` when there are several or none.
    fn label_within(&self, text: &str) -> Option<&Label> {
        let words = words_of(text);
        let mut mentions: Vec<(usize, usize, &Label)> = Vec::new();
        for label in &self.labels {
            for known in std::iter::once(&label.name).chain(label.words.values()) {
                let known = words_of(known);
                if known.is_empty() {
                    continue;
                }
                let found = words
                    .windows(known.len())
                    .enumerate()
                    .filter(|(_, window)| *window == known.as_slice());
                mentions.extend(found.map(|(start, window)| (start, start + window.len(), label)));
            }
        }
        // "very happy" is no mention of "happy" where it is a label itself.
        let outermost = mentions.iter().filter(|(start, end, _)| {
            !mentions
                .iter()
                .any(|(s, e, _)| s <= start && end <= e && e - s > end - start)
        });
        let mut labels = outermost.map(|(_, _, label)| *label);
        let first = labels.next()?;
        labels
            .all(|label| label.name == first.name)
            .then_some(first)
    }
}

/// The text under the key `name` of an object that has no other key.
fn json_value(text: &str, name: &str) -> Option<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    match object.iter().next() {
        Some((key, serde_json::Value::String(value))) if object.len() == 1 && key == name => {
            Some(value.clone())
        }
        _ => None,
    }
}

/// The text under the key `name`, case aside, of the first object inside `text` that has it.
fn json_inside(text: &str, name: &str) -> Option<String> {
    text.match_indices('{').find_map(|(start, _)| {
        let mut objects = serde_json::Deserializer::from_str(&text[start..])
            .into_iter::<serde_json::Map<String, serde_json::Value>>();
        let object = objects.next()?.ok()?;
        object.into_iter().find_map(|(key, value)| match value {
            serde_json::Value::String(value) if key.eq_ignore_ascii_case(name) => Some(value),
            _ => None,
        })
    })
}

/// The words of a text, folded so that spellings of one word meet: lower case, no diacritics or
/// tatweel, one form of alef, yeh and teh marbuta, and no Arabic article.
fn words_of(text: &str) -> Vec<String> {
    let folded: String = ordinary(text)
        .chars()
        .filter(|&c| !is_invisible(c))
        .filter(|c| !matches!(c, '\u{064b}'..='\u{0652}' | '\u{0670}' | '\u{0640}'))
        .map(|c| match c {
            'أ' | 'إ' | 'آ' => 'ا',
            'ى' => 'ي',
            'ة' => 'ه',
            other => other,
        })
        .collect();
    let words = folded
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words
        .map(|word| {
            word.strip_prefix("ال")
                .filter(|bare| bare.chars().count() > 2)
                .unwrap_or(word)
                .to_lowercase()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Tasks;
    use proptest::prelude::*;

    fn parse(task: &str, text: &str, mode: Parse) -> Option<String> {
        Tasks::load(None)
            .unwrap()
            .get(task)
            .unwrap()
            .parse_answer(text, mode)
    }

    #[test]
    fn labels_are_read_from_answers() {
        let cases = [
            ("emotion", " Happy\n", Some("happy"), Some("happy")),
            ("emotion", "سعيد", Some("happy"), Some("happy")),
            ("emotion", "ﺳﻌﻴﺪ", Some("happy"), Some("happy")),
            ("emotion", "سعيـــد\u{200f}", Some("happy"), Some("happy")),
            ("emotion", "\u{feff}happy", Some("happy"), Some("happy")),
            ("emotion", "It is ha\u{200b}ppy.", None, Some("happy")),
            ("emotion", "The speaker is happy.", None, Some("happy")),
            ("emotion", "المتحدث سَعِيد جدًا", None, Some("happy")),
            ("emotion", "happy or sad", None, None),
            ("emotion", "happy, very happy", None, Some("happy")),
            ("emotion", "unhappy", None, None),
            ("emotion", "", None, None),
            ("dialect", "egy", Some("EGY"), Some("EGY")),
            ("dialect", "اللهجة المصرية", None, Some("EGY")),
            ("dialect", "It is Modern Standard Arabic", None, Some("MSA")),
            ("dialect", "مغاربية.", None, Some("NOR")),
            ("dialect", "مغاربية", Some("NOR"), Some("NOR")),
        ];
        for (task, text, strict, lenient) in cases {
            assert_eq!(
                parse(task, text, Parse::Strict).as_deref(),
                strict,
                "strict: {text}"
            );
            assert_eq!(
                parse(task, text, Parse::Lenient).as_deref(),
                lenient,
                "lenient: {text}"
            );
        }
    }

    #[test]
    fn a_json_answer_is_one_object_with_one_key() {
        let mut task = Tasks::load(None).unwrap().get("emotion").unwrap().clone();
        task.answer.format = AnswerFormat::Json;
        let cases = [
            (r#"{"emotion": "happy"}"#, Some("happy"), Some("happy")),
            (r#" {"emotion":"سعيد"} "#, Some("happy"), Some("happy")),
            (
                r#"```json {"Emotion": "happy", "why": "{}"} ```"#,
                None,
                Some("happy"),
            ),
            (r#"{"emotion": "happy", "why": "x"}"#, None, Some("happy")),
            (r#"{"dialect": "happy"}"#, None, Some("happy")),
            ("happy", None, Some("happy")),
            (r#"{"emotion": "bored"}"#, None, None),
        ];
        for (text, strict, lenient) in cases {
            assert_eq!(
                task.parse_answer(text, Parse::Strict).as_deref(),
                strict,
                "strict: {text}"
            );
            assert_eq!(
                task.parse_answer(text, Parse::Lenient).as_deref(),
                lenient,
                "lenient: {text}"
            );
        }
    }

    #[test]
    fn texts_are_trimmed_and_otherwise_left_alone() {
        assert_eq!(
            parse("asr", " مرحبا  بكم \n", Parse::Strict).as_deref(),
            Some("مرحبا  بكم")
        );
        assert_eq!(
            parse("asr", "language Arabic<asr_text>مرحبا\n", Parse::Strict).as_deref(),
            Some("مرحبا")
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic_and_lenient_forgives_more(text in "\\PC{0,40}") {
            let tasks = Tasks::load(None).unwrap();
            let task = tasks.get("dialect").unwrap();
            if let Some(strict) = task.parse_answer(&text, Parse::Strict) {
                prop_assert_eq!(task.parse_answer(&text, Parse::Lenient), Some(strict));
            }
        }
    }
}
