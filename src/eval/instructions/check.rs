//! A verifiable check of an answer: data that says what must hold, and the decision whether it
//! does, strictly or loosely.
//!
//! Source: Zhou et al. 2023, *Instruction-Following Evaluation for Large Language Models* (IFEval):
//! a check is decided by a program, and the loose decision is the strict one over eight variants of
//! the answer, so that a greeting in the first line, an offer in the last or a model's markdown is
//! not taken for disobedience.
//!
//! Differs: words are counted as people write them (`don't` is one, diacritics never divide a
//! word); a forbidden or wanted word is a whole word in folded spelling, with the Arabic article
//! and conjunctions before it; a fenced block is valid JSON in the loose decision alone.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::Visitor;

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::text;
use crate::metrics::char_errors;

/// How much an answer is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The answer as it is.
    Strict,
    /// The answer, or what is left of it without its first line, its last line or both, each also
    /// without asterisks.
    Loose,
}

/// What must hold of an answer.
///
/// In JSON and YAML an object with the check's name under `check`:
/// `{"check": "at-most-words", "words": 5}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Check {
    /// Nothing but one of `answers`; case, diacritics, tatweel and a final full stop aside.
    OneOf {
        /// What may be answered.
        answers: Vec<String>,
    },
    /// Anything but one of `answers` alone.
    NoneOf {
        /// What may not be answered.
        answers: Vec<String>,
    },
    /// Names one of `answers` and none of `others`, whatever else it says; see
    /// [`text::contains_phrase`].
    Names {
        /// What the right answer is called.
        answers: Vec<String>,
        /// What wrong answers are called.
        #[serde(default)]
        others: Vec<String>,
    },
    /// One JSON object with exactly these keys, each once, and nothing around it.
    JsonKeys {
        /// The keys, in any order.
        keys: Vec<String>,
    },
    /// In this language; see [`Language::is_that_of`].
    InLanguage {
        /// The language.
        language: Language,
    },
    /// At most this many words.
    AtMostWords {
        /// The most words.
        words: usize,
    },
    /// At least this many words.
    AtLeastWords {
        /// The fewest words.
        words: usize,
    },
    /// Holds the word (or phrase); see [`text::contains_phrase`].
    Contains {
        /// What must be said.
        word: String,
    },
    /// Does not hold the word (or phrase).
    Avoids {
        /// What must not be said.
        word: String,
    },
    /// Begins with the phrase.
    StartsWith {
        /// The first words.
        phrase: String,
    },
    /// Ends with the phrase.
    EndsWith {
        /// The last words.
        phrase: String,
    },
    /// No Arabic diacritic.
    NoDiacritics,
    /// No punctuation, in any script.
    NoPunctuation,
    /// A transcript of `text`: at most this many character errors for each of its characters,
    /// punctuation and spelling folded.
    Transcribes {
        /// What is said in the clip.
        text: String,
        /// The most errors a character.
        max_cer: f64,
    },
    /// No transcript of `text`: at least this many character errors for each of its characters, and
    /// its words do not stand in the answer one after the other.
    Differs {
        /// What is said in the clip.
        text: String,
        /// The fewest errors a character.
        min_cer: f64,
    },
}

impl Check {
    /// Whether the check asks for words beside those of the clip.
    pub fn adds_words(&self) -> bool {
        matches!(
            self,
            Self::StartsWith { .. }
                | Self::EndsWith { .. }
                | Self::Contains { .. }
                | Self::JsonKeys { .. }
        )
    }

    /// Whether an answer does what was asked; an empty one never does.
    pub fn holds(&self, answer: &str, mode: Mode) -> bool {
        match mode {
            Mode::Strict => self.holds_as_written(answer),
            Mode::Loose => variants(answer)
                .iter()
                .any(|variant| self.holds_as_written(variant)),
        }
    }

    fn holds_as_written(&self, answer: &str) -> bool {
        let answer = answer.trim();
        if answer.is_empty() {
            return false;
        }
        match self {
            Self::OneOf { answers } => is_one_of(answer, answers),
            Self::NoneOf { answers } => !is_one_of(answer, answers),
            Self::Names { answers, others } => names(answer, answers) && !names(answer, others),
            Self::JsonKeys { keys } => has_exactly_keys(answer, keys),
            Self::InLanguage { language } => language.is_that_of(answer),
            Self::AtMostWords { words } => text::words(answer).len() <= *words,
            Self::AtLeastWords { words } => text::words(answer).len() >= *words,
            Self::Contains { word } => text::contains_phrase(answer, word),
            Self::Avoids { word } => !text::contains_phrase(answer, word),
            Self::StartsWith { phrase } => text::starts_with_phrase(answer, phrase),
            Self::EndsWith { phrase } => text::ends_with_phrase(answer, phrase),
            Self::NoDiacritics => !answer.chars().any(text::is_diacritic),
            Self::NoPunctuation => !text::has_punctuation(answer),
            Self::Transcribes { text, max_cer } => errors_a_character(text, answer) <= *max_cer,
            Self::Differs { text, min_cer } => {
                errors_a_character(text, answer) >= *min_cer && !repeats(answer, text)
            }
        }
    }

    /// The name under `check`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OneOf { .. } => "one-of",
            Self::NoneOf { .. } => "none-of",
            Self::Names { .. } => "names",
            Self::JsonKeys { .. } => "json-keys",
            Self::InLanguage { .. } => "in-language",
            Self::AtMostWords { .. } => "at-most-words",
            Self::AtLeastWords { .. } => "at-least-words",
            Self::Contains { .. } => "contains",
            Self::Avoids { .. } => "avoids",
            Self::StartsWith { .. } => "starts-with",
            Self::EndsWith { .. } => "ends-with",
            Self::NoDiacritics => "no-diacritics",
            Self::NoPunctuation => "no-punctuation",
            Self::Transcribes { .. } => "transcribes",
            Self::Differs { .. } => "differs",
        }
    }

    /// Refuses a check that no answer, or every answer, would pass by its form alone.
    ///
    /// # Errors
    /// An empty list, a word without letters, a bound of zero, a rate outside `(0, 1]`.
    pub fn validate(&self) -> Result<()> {
        let says_nothing = |text: &String| text::words(text).is_empty();
        let fault = match self {
            Self::OneOf { answers } | Self::NoneOf { answers } | Self::Names { answers, .. }
                if answers.is_empty() =>
            {
                "`answers` is empty"
            }
            Self::OneOf { answers } | Self::NoneOf { answers }
                if answers.iter().any(|answer| answer.trim().is_empty()) =>
            {
                "one of `answers` is empty"
            }
            Self::Names { answers, others } if answers.iter().chain(others).any(says_nothing) => {
                "one of `answers` or `others` has no letter or digit"
            }
            Self::JsonKeys { keys } if keys.is_empty() => "`keys` is empty",
            Self::JsonKeys { keys } if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() => {
                "`keys` names a key twice"
            }
            Self::AtMostWords { words: 0 } | Self::AtLeastWords { words: 0 } => "`words` is 0",
            Self::Contains { word } | Self::Avoids { word } if says_nothing(word) => {
                "`word` has no letter or digit"
            }
            Self::StartsWith { phrase } | Self::EndsWith { phrase } if says_nothing(phrase) => {
                "`phrase` has no letter or digit"
            }
            Self::Transcribes { text, .. } | Self::Differs { text, .. } if says_nothing(text) => {
                "`text` has no letter or digit"
            }
            Self::Transcribes { max_cer: rate, .. } | Self::Differs { min_cer: rate, .. }
                if !(*rate > 0.0 && *rate <= 1.0) =>
            {
                "the rate is not in (0, 1]"
            }
            _ => return Ok(()),
        };
        Err(Error::input(fault).at(format!("check `{}`", self.name())))
    }
}

/// IFEval's eight variants of an answer, itself first.
fn variants(answer: &str) -> Vec<String> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let last = lines.len() - 1;
    let first = 1.min(lines.len());
    let cut = [
        answer.to_owned(),
        lines[first..].join("\n"),
        lines[..last].join("\n"),
        lines[first..last.max(first)].join("\n"),
    ];
    cut.iter()
        .map(|text| text.trim().to_owned())
        .chain(
            cut.iter()
                .map(|text| text.replace('*', "").trim().to_owned()),
        )
        .collect()
}

fn is_one_of(answer: &str, answers: &[String]) -> bool {
    let spelt = |text: &str| text::collapsed(&text::folded(text::without_full_stop(text)));
    answers.iter().any(|known| spelt(known) == spelt(answer))
}

/// Whether an answer holds one of the phrases.
fn names(answer: &str, phrases: &[String]) -> bool {
    phrases
        .iter()
        .any(|phrase| text::contains_phrase(answer, phrase))
}

fn has_exactly_keys(answer: &str, keys: &[String]) -> bool {
    let Ok(KeysOnce(mut found)) = serde_json::from_str(answer) else {
        return false;
    };
    let mut keys = keys.to_vec();
    keys.sort();
    found.sort();
    found == keys
}

/// The keys of a JSON object, none of them written twice.
struct KeysOnce(Vec<String>);

impl<'de> Deserialize<'de> for KeysOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = KeysOnce;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<KeysOnce, A::Error> {
                // A key that comes twice is counted twice, which no list of different keys equals.
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(KeysOnce(keys))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn errors_a_character(text: &str, answer: &str) -> f64 {
    char_errors(&text::folded_words(text), &text::folded_words(answer)).rate()
}

/// Whether the words of `text` stand in the answer one after the other.
fn repeats(answer: &str, text: &str) -> bool {
    format!(" {} ", text::folded_words(answer)).contains(&format!(" {} ", text::folded_words(text)))
}

#[cfg(test)]
mod tests;
