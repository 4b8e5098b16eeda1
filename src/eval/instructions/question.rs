//! What a row can ask: a task in one of its wordings, the constraints that suit it, and an answer
//! that would satisfy them.

use crate::error::Error;
use crate::error::Result;
use crate::eval::instructions::check::Check;
use crate::eval::instructions::check::Mode;
use crate::eval::instructions::clip::Clip;
use crate::eval::instructions::clip::words_of;
use crate::eval::instructions::constraint::Constraint;
use crate::eval::instructions::language::Language;
use crate::eval::instructions::settings::Settings;
use crate::eval::instructions::text;
use crate::eval::instructions::wordings::Wordings;
use crate::metrics::TaskKind;
use crate::seed::Key;
use crate::task::AnswerFormat;
use crate::task::Task;
use crate::task::Wording;

/// A task asked in one of its wordings.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The task.
    pub task: &'a Task,
    /// The language of the wording.
    pub language: Language,
    /// The set it is from.
    pub wording: Wording,
    /// Its place in the set.
    pub index: usize,
}

impl<'a> Ask<'a> {
    /// All wordings of a task in one set and language; none where the task is not worded in it.
    pub fn all(task: &'a Task, wording: Wording, language: Language) -> Vec<Self> {
        let known = task
            .instructions
            .of(wording)
            .get(language.tag())
            .map_or(0, Vec::len);
        (0..known)
            .map(|index| Self {
                task,
                language,
                wording,
                index,
            })
            .collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// A task that is not worded in the language.
    pub fn drawn(task: &'a Task, wording: Wording, language: Language, draw: Key) -> Result<Self> {
        let all = Self::all(task, wording, language);
        if all.is_empty() {
            let found = Error::input(format!(
                "task `{}` is not worded in `{}`",
                task.name,
                language.tag()
            ));
            return Err(found.hint("leave the task or the language out of the suite"));
        }
        Ok(all[draw.below(0, all.len())])
    }

    /// What is said.
    pub fn instruction(self) -> String {
        let tag = self.language.tag();
        self.task
            .instructions
            .of(self.wording)
            .get(tag)
            .map(|known| self.task.fill(&known[self.index], tag))
            .unwrap_or_default()
    }

    /// Its name in rows and tables: task, set, language, place from 1.
    pub fn name(self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.task.name,
            format!("{:?}", self.wording).to_lowercase(),
            self.language.tag(),
            self.index + 1
        )
    }
}

/// Numbers of words to draw from.
const FEWEST: [usize; 3] = [4, 6, 8];
const MOST: [usize; 3] = [6, 9, 12];
/// Words beyond those of the known answer that a bound leaves room for, so that it can be met in
/// other words.
const ROOM: usize = 4;
/// Shortest word, in letters, that is asked for or forbidden: shorter ones are rarely what a text
/// is about.
const SHORTEST_WORD: usize = 4;

/// The constraint as a check of an answer to `ask` about a clip.
pub fn check_of(
    constraint: Constraint,
    ask: Ask,
    clip: &Clip,
    wordings: &Wordings,
    draw: Key,
) -> Result<Check> {
    let language = ask.language;
    let gold = clip.answer(ask.task, language);
    let other = match language {
        Language::Arabic => Language::English,
        Language::English => Language::Arabic,
    };
    Ok(match constraint {
        Constraint::Label => Check::OneOf {
            answers: ask
                .task
                .labels
                .iter()
                .map(|label| ask.task.spoken(label, language.tag()).to_owned())
                .collect(),
        },
        Constraint::Json => Check::JsonKeys {
            keys: wordings.keys(language, draw)?,
        },
        Constraint::OtherLanguage => Check::InLanguage { language: other },
        Constraint::SameLanguage => Check::InLanguage { language },
        Constraint::AtMost => {
            let known = gold
                .filter(|_| ask.task.kind == TaskKind::Generate)
                .map(|gold| text::words(&gold).len() + ROOM);
            Check::AtMostWords {
                words: known.unwrap_or(MOST[draw.below(0, MOST.len())]),
            }
        }
        Constraint::AtLeast => Check::AtLeastWords {
            words: FEWEST[draw.below(0, FEWEST.len())],
        },
        Constraint::Contains => Check::Contains {
            word: topic(ask.task, gold.as_deref().or(clip.text))
                .map_or_else(|| wordings.word(language, draw), Ok)?,
        },
        Constraint::Avoids => Check::Avoids {
            word: topic(ask.task, clip.text).map_or_else(|| wordings.word(language, draw), Ok)?,
        },
        Constraint::Starts => Check::StartsWith {
            phrase: wordings.start(language, draw)?,
        },
        Constraint::Ends => Check::EndsWith {
            phrase: wordings.end(language, draw)?,
        },
        Constraint::NoDiacritics => Check::NoDiacritics,
        Constraint::NoPunctuation => Check::NoPunctuation,
    })
}

/// The longest word of what a summary is about, the first of equals; none for other tasks.
fn topic(task: &Task, about: Option<&str>) -> Option<String> {
    let about = about.filter(|_| task.kind == TaskKind::Generate)?;
    let letters = |word: &str| text::folded(word).chars().count();
    let words = text::words(about)
        .into_iter()
        .filter(|word| letters(word) >= SHORTEST_WORD);
    words
        .rev()
        .max_by_key(|word| letters(word))
        .map(str::to_owned)
}

/// What shows that an answer is one to this task and not to another: a label of the inventory, a
/// transcript, a text that is neither.
///
/// `labels` are the words of all inventories that the suite asks about.
pub fn checks_of_kind(
    task: &Task,
    clip: &Clip,
    labels: &[String],
    settings: &Settings,
) -> Vec<Check> {
    if task.answer.format == AnswerFormat::Json {
        return vec![Check::JsonKeys {
            keys: vec![task.name.clone()],
        }];
    }
    let no_label = || {
        (!labels.is_empty()).then(|| Check::NoneOf {
            answers: labels.to_vec(),
        })
    };
    let text = clip
        .text
        .filter(|text| !text::words(text).is_empty())
        .map(str::to_owned);
    match (task.kind, text) {
        (TaskKind::Classify, _) => vec![Check::OneOf {
            answers: task.labels.iter().flat_map(words_of).collect(),
        }],
        (TaskKind::Transcribe, Some(text)) => vec![Check::Transcribes {
            text,
            max_cer: settings.max_cer,
        }],
        (TaskKind::Transcribe, None) => no_label()
            .into_iter()
            .chain(
                clip.language()
                    .map(|language| Check::InLanguage { language }),
            )
            .collect(),
        (TaskKind::Generate, Some(text)) => no_label()
            .into_iter()
            .chain([Check::Differs {
                text,
                min_cer: settings.min_cer,
            }])
            .collect(),
        (TaskKind::Generate, None) => no_label().into_iter().collect(),
    }
}

/// The right answer, written so that it holds every check; none where no small change of form does
/// that.
pub fn fitted(answer: &str, checks: &[Check]) -> Option<String> {
    let fitted = checks
        .iter()
        .fold(answer.to_owned(), |answer, check| match check {
            // The first key takes the answer; what the others would say nobody knows.
            Check::JsonKeys { keys } => {
                let value = |i: usize| {
                    if i == 0 {
                        serde_json::Value::from(answer.as_str())
                    } else {
                        serde_json::Value::Null
                    }
                };
                serde_json::Value::Object(
                    keys.iter()
                        .enumerate()
                        .map(|(i, key)| (key.clone(), value(i)))
                        .collect(),
                )
                .to_string()
            }
            Check::StartsWith { phrase } => format!("{phrase} {answer}"),
            Check::EndsWith { phrase } => format!("{answer} {phrase}"),
            Check::Contains { word } if !text::contains_phrase(&answer, word) => {
                format!("{answer} {word}")
            }
            Check::NoDiacritics => answer.chars().filter(|&c| !text::is_diacritic(c)).collect(),
            Check::NoPunctuation => text::without_punctuation(&answer),
            _ => answer,
        });
    checks
        .iter()
        .all(|check| check.holds(&fitted, Mode::Strict))
        .then_some(fitted)
}
