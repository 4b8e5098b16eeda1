//! A task as data: what is asked and what should be answered, as text and as token ids, and an
//! answer read back from text.
//!
//! A [`Task`] comes from a YAML file (`prompts/*.yaml`, embedded, or a folder of one's own). It
//! turns a manifest row into an [`Example`] (a conversation with its clips), and a generated answer
//! into what a metric compares. [`TextCodec`] turns conversations into the token ids of one
//! checkpoint and back.

mod answer;
mod asked_in;
mod chat_codec;
mod example;
mod file;
mod plain_codec;
mod qwen3_asr;
mod special;
mod tasks;
mod template;
mod tokenise;
mod vocabulary;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

pub use answer::Parse;
pub use asked_in::AskedIn;
pub use chat_codec::ChatCodec;
pub use example::Example;
pub use example::example_without_task;
pub use plain_codec::PlainCodec;
pub use qwen3_asr::ForcedLanguage;
pub use tasks::Tasks;
pub use tasks::load_task;
pub use tasks::task_files;
pub use tasks::with_instructions;
pub use template::QWEN2_AUDIO_TEMPLATE;
pub use tokenise::Encoded;
pub use tokenise::Mode;
pub use tokenise::SpecialTokens;
pub use tokenise::TextCodec;

use maqam_metrics::TaskKind;

/// The language whose wordings serve where a row's own language has none.
const FALLBACK_LANGUAGE: &str = "en";

/// Which set of instructions is drawn from; no wording is in two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wording {
    /// Seen in training.
    Train,
    /// For choosing between runs.
    Dev,
    /// For the final judgement.
    Test,
}

impl Wording {
    /// Its name in task files and suites.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerFormat {
    /// The text alone.
    Text,
    /// A label's word in the language of the instruction.
    Label,
    /// One line, `{"<task>": "<answer>"}`; a label is written by its name.
    Json,
}

/// How an answer is written and how long it may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The form.
    pub format: AnswerFormat,
    /// Where generation stops at the latest, in tokens.
    pub max_new_tokens: usize,
}

/// One class of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The name in manifests and scores.
    pub name: String,
    /// The word for it in each language.
    pub words: BTreeMap<String, String>,
}

/// The instructions of a task: wordings by language, apart for training, dev and test.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instructions {
    /// For training.
    pub train: BTreeMap<String, Vec<String>>,
    /// For dev suites.
    pub dev: BTreeMap<String, Vec<String>>,
    /// For test suites.
    pub test: BTreeMap<String, Vec<String>>,
}

impl Instructions {
    /// The wordings of one set, by language.
    pub fn of(&self, wording: Wording) -> &BTreeMap<String, Vec<String>> {
        match wording {
            Wording::Train => &self.train,
            Wording::Dev => &self.dev,
            Wording::Test => &self.test,
        }
    }
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The name: the stem of its file.
    pub name: String,
    /// What kind of answer it asks for.
    pub kind: TaskKind,
    /// The inventory, in the file's order; empty unless the task classifies.
    pub labels: Vec<Label>,
    /// The system message by language; where there is none the chat template's default stands.
    pub system: BTreeMap<String, String>,
    /// What is asked.
    pub instructions: Instructions,
    /// What form the answer has.
    pub answer: Answer,
    /// The metric that stands for the task in `mean`.
    pub metric: String,
    /// The language it is asked in; no part of its file.
    pub asked_in: AskedIn,
}

impl Task {
    /// The instruction behind a wording's name, `task/set/language/number` with numbers from 1;
    /// `None` where this task has none such.
    pub fn instruction(&self, wording: &str) -> Option<String> {
        let mut parts = wording
            .strip_prefix(&self.name)?
            .strip_prefix('/')?
            .split('/');
        let set = parts.next()?;
        let set = [Wording::Train, Wording::Dev, Wording::Test]
            .into_iter()
            .find(|known| known.name() == set)?;
        let language = parts.next()?;
        let place: usize = parts.next()?.parse().ok()?;
        let known = self.instructions.of(set).get(language)?;
        Some(self.fill(known.get(place.checked_sub(1)?)?, language))
    }
}

/// The entry for `language` (`ar-EG` falls back to `ar`), else for English, else the first.
fn in_language<'a, T>(
    by_language: &'a BTreeMap<String, T>,
    language: Option<&str>,
) -> Option<(&'a str, &'a T)> {
    let primary = language.and_then(|tag| tag.split(['-', '_']).next());
    [language, primary, Some(FALLBACK_LANGUAGE)]
        .into_iter()
        .flatten()
        .find_map(|tag| by_language.get_key_value(tag))
        .or_else(|| by_language.first_key_value())
        .map(|(tag, entry)| (tag.as_str(), entry))
}
