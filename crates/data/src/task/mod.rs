//! A task as data: what is asked and what should be answered, as text and as token ids, and an answer read back from text.
//!
//! A [`Task`] comes from a YAML file (`prompts/*.yaml`, embedded, or a folder of one's own). It turns a manifest row into an
//! [`Example`] (a conversation with its clips), and a generated answer into what a metric compares. [`TextCodec`] turns conversations
//! into the token ids of one checkpoint and back.

mod answer;
mod asked_in;
mod example;
mod file;
mod template;
mod tokenise;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

pub use answer::Parse;
pub use asked_in::AskedIn;
pub use example::Example;
pub use example::example_without_task;
pub use template::QWEN2_AUDIO_TEMPLATE;
pub use tokenise::Encoded;
pub use tokenise::Mode;
pub use tokenise::SpecialTokens;
pub use tokenise::TextCodec;

use crate::spelling::visible;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::yaml;
use maqam_metrics::Kind;

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
    pub kind: Kind,
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
    /// The instruction behind a wording's name, `task/set/language/number` with numbers from 1; `None` where this task has none such.
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

/// The tasks of a run, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tasks {
    by_name: BTreeMap<String, Task>,
}

/// The tasks that ship with the program: name, file, contents.
const BUILT_IN: [(&str, &str, &str); 4] = [
    (
        "asr",
        "prompts/asr.yaml",
        include_str!("../../../../prompts/asr.yaml"),
    ),
    (
        "summarization",
        "prompts/summarization.yaml",
        include_str!("../../../../prompts/summarization.yaml"),
    ),
    (
        "dialect",
        "prompts/dialect.yaml",
        include_str!("../../../../prompts/dialect.yaml"),
    ),
    (
        "emotion",
        "prompts/emotion.yaml",
        include_str!("../../../../prompts/emotion.yaml"),
    ),
];

impl Tasks {
    /// The built-in tasks, and those of the folder `prompts`: each `NAME.yaml` there adds the task NAME or replaces it whole.
    ///
    /// # Errors
    /// A folder without such files, or a file that is not a task; see [`Task`].
    pub fn load(prompts: Option<&Path>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, path, contents) in BUILT_IN {
            by_name.insert(
                name.to_owned(),
                file::parse(name, contents, Path::new(path))?,
            );
        }
        for path in prompts.map(task_files).transpose()?.unwrap_or_default() {
            let task = load_task(&path)?;
            by_name.insert(task.name.clone(), task);
        }
        Ok(Self { by_name })
    }

    /// The task of a name.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one and all of them.
    pub fn get(&self, name: &str) -> Result<&Task> {
        self.by_name.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            let nearest = yaml::nearest(name, known.iter().copied())
                .map(|near| format!("did you mean `{near}`? "))
                .unwrap_or_default();
            let hint = format!(
                "{nearest}known tasks: {}; `prompts: DIR` adds DIR/{name}.yaml",
                known.join(", ")
            );
            Error::input(format!("unknown task `{}`", visible(name))).hint(hint)
        })
    }

    /// The instruction behind a wording's name, `task/set/language/number`; `None` where no task has it.
    pub fn instruction(&self, wording: &str) -> Option<String> {
        let (task, _) = wording.split_once('/')?;
        self.by_name.get(task)?.instruction(wording)
    }

    /// The same tasks, asked in a language.
    #[must_use]
    pub fn asked_in(mut self, language: &AskedIn) -> Self {
        for task in self.by_name.values_mut() {
            task.asked_in = language.clone();
        }
        self
    }

    /// The names of all tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// The task of a file, named as its stem.
///
/// # Errors
/// A file that is not a task; see [`Task`].
pub fn load_task(path: &Path) -> Result<Task> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    file::parse(&name, &files::read_text(path)?, path)
}

/// The task files of a folder, sorted.
///
/// # Errors
/// A folder that cannot be read or holds none.
pub fn task_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read the folder", e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|e| Error::io(folder, "read the folder", e))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::input("holds no task file")
            .at_path(folder)
            .hint("a task is a file NAME.yaml"));
    }
    paths.sort();
    Ok(paths)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_task_names_the_nearest() {
        let error = Tasks::load(None)
            .unwrap()
            .get("emotions")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("did you mean `emotion`?")
                && error.contains("asr, dialect, emotion, summarization"),
            "{error}"
        );
    }

    #[test]
    fn built_in_tasks_are_worded_in_english_and_arabic() {
        let tasks = Tasks::load(None).unwrap();
        for name in tasks.names() {
            let task = tasks.get(name).unwrap();
            for (wording, least) in [(Wording::Train, 12), (Wording::Dev, 3), (Wording::Test, 3)] {
                let of = task.instructions.of(wording);
                assert_eq!(of.keys().collect::<Vec<_>>(), ["ar", "en"], "{name}");
                assert!(
                    of.values().all(|wordings| wordings.len() >= least),
                    "{name} {wording:?}"
                );
            }
            let arabic =
                |text: &String| text.chars().any(|c| ('\u{0600}'..='\u{06ff}').contains(&c));
            for wording in [Wording::Train, Wording::Dev, Wording::Test] {
                assert!(
                    task.instructions.of(wording)["ar"].iter().all(arabic),
                    "{name}"
                );
                assert!(
                    !task.instructions.of(wording)["en"].iter().any(arabic),
                    "{name}"
                );
                let lists = |text: &String| text.contains("{labels}");
                assert!(
                    task.instructions
                        .of(wording)
                        .values()
                        .flatten()
                        .all(|text| lists(text) == (task.kind == Kind::Classify)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn built_in_inventories_are_the_ones_of_the_contract() {
        let tasks = Tasks::load(None).unwrap();
        let names = |task: &str| {
            tasks
                .get(task)
                .unwrap()
                .labels
                .iter()
                .map(|label| label.name.clone())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(names("dialect"), "EGY GLF LAV MSA NOR");
        assert_eq!(
            names("emotion"),
            "angry disgusted fearful happy neutral sad surprised"
        );
        assert!(
            tasks
                .get("dialect")
                .unwrap()
                .labels
                .iter()
                .all(|label| label.words.len() == 2)
        );
    }

    #[test]
    fn a_folder_adds_and_replaces_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let instructions = "instructions: {train: {en: [A.]}, dev: {en: [B.]}, test: {en: [C.]}}\n";
        let two = format!(
            "kind: classify\nlabels: {{yes: {{en: affirmative}}, no: {{en: negative}}}}\n{instructions}"
        );
        std::fs::write(dir.path().join("emotion.yaml"), two).unwrap();
        std::fs::write(
            dir.path().join("translation.yaml"),
            format!("kind: generate\n{instructions}"),
        )
        .unwrap();
        let tasks = Tasks::load(Some(dir.path())).unwrap();
        assert_eq!(
            tasks.names().collect::<Vec<_>>(),
            ["asr", "dialect", "emotion", "summarization", "translation"]
        );
        let emotion = tasks.get("emotion").unwrap();
        assert_eq!(
            emotion
                .labels
                .iter()
                .map(|label| label.name.as_str())
                .collect::<Vec<_>>(),
            ["yes", "no"]
        );
        assert_eq!(
            (emotion.answer.format, emotion.metric.as_str()),
            (AnswerFormat::Label, "uar")
        );
        let empty = tempfile::tempdir().unwrap();
        assert!(
            Tasks::load(Some(empty.path()))
                .unwrap_err()
                .to_string()
                .contains("holds no task file")
        );
    }
}
