//! How checks are asked for: wordings in English and Arabic from a file of words, drawn by a
//! counter hash.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::text;
use crate::seed::Key;
use crate::yaml;

/// Where the words are kept; the file is embedded.
const FILE: &str = "eval/instructions/wordings.yaml";
const CONTENTS: &str = include_str!("../../../eval/instructions/wordings.yaml");

/// Something said in both languages.
type InBoth<T> = BTreeMap<Language, Vec<T>>;

/// The words that instructions are made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wordings {
    checks: BTreeMap<String, InBoth<String>>,
    turns: Turns,
    start: InBoth<String>,
    end: InBoth<String>,
    words: InBoth<String>,
    keys: InBoth<Vec<String>>,
    spoken: InBoth<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turns {
    another: InBoth<String>,
    instead: InBoth<String>,
    transcript: InBoth<String>,
}

impl Wordings {
    /// The words that ship with the program.
    ///
    /// # Errors
    /// A fault in the embedded file.
    pub fn built_in() -> Result<Self> {
        yaml::parse(CONTENTS, Path::new(FILE))
    }

    /// A further task on the clip of the conversation.
    pub fn another(&self, instruction: &str, language: Language, draw: Key) -> Result<String> {
        Ok(drawn(&self.turns.another, "turns.another", language, draw)?
            .replace("{instruction}", instruction))
    }

    /// A task under a rule that takes the place of an earlier one.
    pub fn instead(
        &self,
        instruction: &str,
        rule: &str,
        language: Language,
        draw: Key,
    ) -> Result<String> {
        Ok(drawn(&self.turns.instead, "turns.instead", language, draw)?
            .replace("{rule}", rule)
            .replace("{instruction}", instruction))
    }

    /// What was said, in writing, before an instruction about it: what takes the place of the audio
    /// in a suite in text alone.
    pub fn transcript(&self, text: &str, language: Language) -> Result<String> {
        let draw = Key::new(0, "transcript");
        Ok(
            drawn(&self.turns.transcript, "turns.transcript", language, draw)?
                .replace("{text}", text),
        )
    }

    /// What an answer can be asked to begin with.
    pub fn start(&self, language: Language, draw: Key) -> Result<String> {
        drawn(&self.start, "start", language, draw).cloned()
    }

    /// What an answer can be asked to end with.
    pub fn end(&self, language: Language, draw: Key) -> Result<String> {
        drawn(&self.end, "end", language, draw).cloned()
    }

    /// A word that an explanation can easily hold, or do without.
    pub fn word(&self, language: Language, draw: Key) -> Result<String> {
        drawn(&self.words, "words", language, draw).cloned()
    }

    /// Keys for a JSON answer.
    pub fn keys(&self, language: Language, draw: Key) -> Result<Vec<String>> {
        drawn(&self.keys, "keys", language, draw).cloned()
    }

    /// Whether a transcript begins like an instruction to the listener.
    pub fn sounds_like_an_instruction(&self, transcript: &str) -> bool {
        let said = format!("{} ", text::folded_words(transcript));
        self.spoken
            .values()
            .flatten()
            .any(|verb| said.starts_with(&format!("{} ", text::folded_words(verb))))
    }
}

impl Check {
    /// The check as an instruction: one of its wordings in `language`, drawn by `draw`.
    ///
    /// Numbers in Arabic are written in either kind of digits, by the same draw.
    ///
    /// # Errors
    /// A check that the file of words does not know, which is a fault of ours.
    pub fn describe(&self, wordings: &Wordings, language: Language, draw: Key) -> Result<String> {
        let by_language = wordings
            .checks
            .get(self.name())
            .ok_or_else(|| Error::bug(format!("{FILE} has no wording of `{}`", self.name())))?;
        let wording = drawn(by_language, self.name(), language, draw)?;
        let eastern = language == Language::Arabic && draw.bits(1).is_multiple_of(2);
        Ok(match self {
            Self::JsonKeys { keys } => wording.replace("{keys}", &listed(keys, language)),
            Self::InLanguage { language: wanted } => {
                wording.replace("{language}", wanted.name_in(language))
            }
            Self::AtMostWords { words } | Self::AtLeastWords { words } => {
                wording.replace("{words}", &number(*words, eastern))
            }
            Self::Contains { word } | Self::Avoids { word } => wording.replace("{word}", word),
            Self::StartsWith { phrase } | Self::EndsWith { phrase } => {
                wording.replace("{phrase}", phrase)
            }
            Self::OneOf { .. }
            | Self::NoneOf { .. }
            | Self::Names { .. }
            | Self::NoDiacritics
            | Self::NoPunctuation
            | Self::Transcribes { .. }
            | Self::Differs { .. } => wording.clone(),
        })
    }
}

fn drawn<'a, T>(from: &'a InBoth<T>, place: &str, language: Language, draw: Key) -> Result<&'a T> {
    let known = from.get(&language).filter(|known| !known.is_empty());
    let known = known.ok_or_else(|| {
        Error::bug(format!(
            "{FILE}: `{place}` has nothing in `{}`",
            language.tag()
        ))
    })?;
    Ok(&known[draw.below(0, known.len())])
}

/// Keys as a program writes them, one after the other.
fn listed(keys: &[String], language: Language) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    quoted.join(if language == Language::Arabic {
        "، "
    } else {
        ", "
    })
}

fn number(value: usize, is_eastern: bool) -> String {
    let eastern = |c: char| {
        c.to_digit(10)
            .and_then(|digit| char::from_u32('٠' as u32 + digit))
            .unwrap_or(c)
    };
    let western = value.to_string();
    if is_eastern {
        western.chars().map(eastern).collect()
    } else {
        western
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Language; 2] = [Language::Arabic, Language::English];

    fn one_of_each() -> Vec<Check> {
        let text = || "w1".to_owned();
        vec![
            Check::OneOf {
                answers: vec![text()],
            },
            Check::NoneOf {
                answers: vec![text()],
            },
            Check::JsonKeys {
                keys: vec![text(), "w2".into()],
            },
            Check::InLanguage {
                language: Language::Arabic,
            },
            Check::AtMostWords { words: 12 },
            Check::AtLeastWords { words: 12 },
            Check::Contains { word: text() },
            Check::Avoids { word: text() },
            Check::StartsWith { phrase: text() },
            Check::EndsWith { phrase: text() },
            Check::NoDiacritics,
            Check::NoPunctuation,
            Check::Transcribes {
                text: text(),
                max_cer: 0.5,
            },
            Check::Differs {
                text: text(),
                min_cer: 0.5,
            },
        ]
    }

    #[test]
    fn every_check_is_worded_three_ways_in_its_language_and_says_what_it_checks() {
        let wordings = Wordings::built_in().unwrap();
        assert_eq!(wordings.checks.len(), one_of_each().len());
        for check in one_of_each() {
            for language in BOTH {
                let said: std::collections::BTreeSet<String> = (0..200)
                    .map(|draw| {
                        check
                            .describe(&wordings, language, Key::new(draw, "test"))
                            .unwrap()
                    })
                    .collect();
                assert!(
                    wordings.checks[check.name()][&language].len() >= 3 && said.len() >= 3,
                    "{check:?} {language:?}"
                );
                for text in &said {
                    assert!(!text.contains('{') && !text.contains('}'), "{text}");
                    let value = match &check {
                        Check::AtMostWords { .. } | Check::AtLeastWords { .. } => {
                            ["12", "١٢"].iter().any(|number| text.contains(number))
                        }
                        Check::InLanguage { language: wanted } => {
                            text.contains(wanted.name_in(language))
                        }
                        Check::JsonKeys { .. } => {
                            text.contains("\"w1\"")
                                && text.contains("\"w2\"")
                                && text.contains("JSON")
                        }
                        Check::Contains { .. }
                        | Check::Avoids { .. }
                        | Check::StartsWith { .. }
                        | Check::EndsWith { .. } => text.contains("w1"),
                        _ => true,
                    };
                    assert!(
                        value
                            && text.chars().any(|c| ('ا'..='ي').contains(&c))
                                == (language == Language::Arabic),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn arabic_counts_come_in_both_kinds_of_digits() {
        let wordings = Wordings::built_in().unwrap();
        let said: Vec<String> = (0..40)
            .map(|draw| {
                Check::AtMostWords { words: 12 }
                    .describe(&wordings, Language::Arabic, Key::new(draw, "x"))
                    .unwrap()
            })
            .collect();
        assert!(
            said.iter().any(|text| text.contains("12"))
                && said.iter().any(|text| text.contains("١٢"))
        );
    }

    #[test]
    fn words_that_answers_are_asked_for_can_be_checked() {
        let wordings = Wordings::built_in().unwrap();
        for language in BOTH {
            for phrase in wordings.start[&language]
                .iter()
                .chain(&wordings.end[&language])
            {
                Check::StartsWith {
                    phrase: phrase.clone(),
                }
                .validate()
                .unwrap();
                assert!(language.is_that_of(phrase), "{phrase}");
            }
            for keys in &wordings.keys[&language] {
                Check::JsonKeys { keys: keys.clone() }.validate().unwrap();
            }
            for draw in 0..20 {
                let draw = Key::new(draw, "turns");
                assert!(
                    wordings
                        .another("I1", language, draw)
                        .unwrap()
                        .contains("I1")
                );
                let said = wordings.instead("I1", "R1", language, draw).unwrap();
                assert!(
                    said.contains("I1") && said.contains("R1") && !said.contains('{'),
                    "{said}"
                );
                assert!(wordings.word(language, draw).is_ok());
            }
        }
    }

    #[test]
    fn what_tells_the_listener_to_do_something() {
        let wordings = Wordings::built_in().unwrap();
        for said in [
            "Say hello in French",
            "tell me a joke",
            "قُل مرحبا",
            "أجب بكلمة واحدة",
            "اكتب رسالة",
        ] {
            assert!(wordings.sounds_like_an_instruction(said), "{said}");
        }
        for said in [
            "Saying hello is easy",
            "they tell me a lot",
            "قلت له مرحبا",
            "كتاب جديد",
            "الآن أريد حصان",
            "",
        ] {
            assert!(!wordings.sounds_like_an_instruction(said), "{said}");
        }
    }
}
