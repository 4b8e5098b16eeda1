//! The tasks of a run: those that ship, and those of a folder of one's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use crate::spelling::visible;
use crate::task::AskedIn;
use crate::task::Task;
use crate::task::file;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_base::yaml;
use yaml_serde::Value;

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
    /// The built-in tasks, and those of the folder `prompts`: each `NAME.yaml` there adds the task
    /// NAME or replaces it whole.
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
                "{nearest}known tasks: {}; `prompts: DIR` in a recipe, or `--prompts DIR`, adds DIR/{name}.yaml",
                known.join(", ")
            );
            Error::input(format!("unknown task `{}`", visible(name))).hint(hint)
        })
    }

    /// The instruction behind a wording's name, `task/set/language/number`; `None` where no task
    /// has it.
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

/// The text of a task's file with other instructions, the same for training, dev and test.
/// `prompts` is the folder that [`Tasks::load`] took.
///
/// # Errors
/// Files that cannot be read; instructions that do not fit the task.
pub fn with_instructions(
    name: &str,
    prompts: Option<&Path>,
    by_language: &BTreeMap<String, Vec<String>>,
) -> Result<String> {
    let mut found: Option<(String, PathBuf)> = None;
    for (known, path, contents) in BUILT_IN {
        if known == name {
            found = Some((contents.to_owned(), PathBuf::from(path)));
        }
    }
    for path in prompts.map(task_files).transpose()?.unwrap_or_default() {
        if path.file_stem().is_some_and(|stem| stem == name) {
            found = Some((files::read_text(&path)?, path));
        }
    }
    let Some((contents, path)) = found else {
        return Err(Error::bug(format!("no file of task `{name}`")));
    };
    let mut tree: Value = yaml::parse(&contents, &path)?;
    let instructions = yaml_serde::to_value(by_language).map_err(Error::bug_from)?;
    if let Value::Mapping(fields) = &mut tree {
        fields.insert(Value::String("instructions".to_owned()), instructions);
    }
    let text = yaml_serde::to_string(&tree).map_err(Error::bug_from)?;
    file::parse(name, &text, &path)?;
    Ok(text)
}

/// The task files of a folder, sorted.
///
/// # Errors
/// A folder that cannot be read or holds none.
pub fn task_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| {
        Error::io(folder, "read the folder", e).or_hint(
            "name a folder of task files; `maqam new task FOLDER/NAME.yaml` writes one, and relative paths start from the folder the command runs in",
        )
    })?;
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
            .hint("put a task file there: `maqam new task FOLDER/NAME.yaml` writes one"));
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::AnswerFormat;
    use crate::task::Wording;
    use maqam_metrics::TaskKind;

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
                        .all(|text| lists(text) == (task.kind == TaskKind::Classify)),
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
