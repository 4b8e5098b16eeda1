//! A suite: the sets a model is judged on, as written in YAML.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::data::OnBadRow;
use crate::data::read_manifest;
use crate::error::Error;
use crate::error::Result;
use crate::eval::control::Control;
use crate::files;
use crate::metrics::Normaliser;
use crate::model::generate::Sampling;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Kind;
use crate::task::Task;
use crate::task::Tasks;
use crate::task::Wording;
use crate::yaml;

/// What a suite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looked at while developing: training may evaluate on it.
    Dev,
    /// Looked at once: training refuses it.
    Test,
}

/// A suite file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// What it is for.
    pub role: Role,
    /// What is judged.
    pub sets: Vec<SetFile>,
    /// How answers are generated.
    #[serde(default)]
    pub generation: Sampling,
    /// Other ways to ask, for comparison; asked once, after the last step of a training.
    #[serde(default)]
    pub controls: Vec<Control>,
}

/// One set of a suite file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFile {
    /// Its name in the scores: `<name>.<metric>`.
    pub name: String,
    /// Its rows.
    pub manifest: PathBuf,
    /// The task the model is asked; where it is missing the rows say it.
    #[serde(default)]
    pub task: Option<String>,
    /// Which of the task's instructions are used; by default those of the suite's role.
    #[serde(default)]
    pub wording: Option<Wording>,
    /// What is computed; by default the loss and [`Kind::default_metrics`].
    #[serde(default)]
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared.
    #[serde(default = "no_normaliser")]
    pub normaliser: Vec<Normaliser>,
    /// Where relative audio paths start; by default the manifest's folder.
    #[serde(default)]
    pub audio_root: Option<PathBuf>,
    /// Number of rows from the top that are used; by default all.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn no_normaliser() -> Vec<Normaliser> {
    vec![Normaliser::None]
}

/// A suite, its rows read.
#[derive(Clone)]
pub struct Suite {
    /// What it is for.
    pub role: Role,
    /// Its sets.
    pub sets: Vec<Set>,
    /// How answers are generated.
    pub generation: Sampling,
    /// Other ways to ask, for comparison.
    pub controls: Vec<Control>,
    /// The suite's own file and its manifests.
    pub files: Vec<PathBuf>,
}

/// One set, its rows turned into examples.
#[derive(Clone)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What the model is asked.
    pub task: Task,
    /// The examples.
    pub examples: Vec<Example>,
    /// What is computed; `None` for the loss and [`Kind::default_metrics`].
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared.
    pub normalisers: Vec<Normaliser>,
}

impl Suite {
    /// Reads a suite file and its manifests.
    ///
    /// # Errors
    /// Unknown keys, tasks or metrics; rows without the task's target; the message names the file and the set.
    pub fn load(path: &Path, tasks: &Tasks) -> Result<Self> {
        let file: SuiteFile = yaml::parse(&files::read_text(path)?, path)?;
        file.generation.check().map_err(|e| e.at_path(path))?;
        if file.sets.is_empty() {
            return Err(Error::input("`sets` is empty").at_path(path));
        }
        let mut sets: Vec<Set> = Vec::new();
        for written in &file.sets {
            let place = format!("{}: set `{}`", path.display(), written.name);
            if sets.iter().any(|set| set.name == written.name) {
                return Err(Error::input("another set has this name").at(place));
            }
            sets.push(Set::load(written, file.role, tasks).map_err(|e| e.at(place))?);
        }
        let files = std::iter::once(path.to_owned()).chain(file.sets.into_iter().map(|set| set.manifest)).collect();
        Ok(Self { role: file.role, sets, generation: file.generation, controls: file.controls, files })
    }
}

impl Set {
    fn load(written: &SetFile, role: Role, tasks: &Tasks) -> Result<Self> {
        let manifest = read_manifest(&written.manifest, written.audio_root.as_deref(), OnBadRow::Error)?;
        let row_task = manifest.rows.iter().find_map(|row| row.task.as_deref());
        let name = written.task.as_deref().or(row_task).ok_or_else(|| Error::input("neither the set nor its rows name a `task`"))?;
        let task = tasks.get(name)?.clone();
        let wording = written.wording.unwrap_or(match role {
            Role::Dev => Wording::Dev,
            Role::Test => Wording::Test,
        });
        check_metrics(written.metrics.as_deref(), task.kind)?;
        if written.normaliser.is_empty() {
            return Err(Error::input("`normaliser` is an empty list").hint("leave it out, or write `normaliser: [none]`"));
        }
        if written.limit == Some(0) {
            return Err(Error::input("`limit` is 0").hint("leave it out for all rows"));
        }
        let instruction = Key::new(0, "evaluation instruction");
        let examples = manifest
            .rows
            .iter()
            .take(written.limit.unwrap_or(usize::MAX))
            .enumerate()
            .map(|(i, row)| {
                let place = || row.place(&manifest.path);
                if let Some(other) = row.task.as_deref().filter(|other| *other != task.name) {
                    return Err(Error::input(format!("row of task `{other}` in a set of task `{}`", task.name)).at(place()));
                }
                let example = task.example(row, wording, instruction.with(i as u64)).map_err(|e| e.at(place()))?;
                if example.reference.is_none() {
                    return Err(Error::input("the row has nothing to compare an answer with").at(place()));
                }
                if task.kind == Kind::Classify && example.label.is_none() {
                    return Err(Error::input("the row has no label of the task's inventory").hint("give it a `label`").at(place()));
                }
                Ok(example)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { name: written.name.clone(), task, examples, metrics: written.metrics.clone(), normalisers: written.normaliser.clone() })
    }
}

fn check_metrics(written: Option<&[String]>, kind: Kind) -> Result<()> {
    let known = || std::iter::once("loss").chain(kind.metrics().iter().copied());
    for name in written.unwrap_or_default() {
        if !known().any(|known| known == name) {
            let found = Error::input(format!("unknown metric `{name}`; this task has {}", known().collect::<Vec<_>>().join(", ")));
            return Err(match yaml::nearest(name, known()) {
                Some(near) => found.hint(format!("did you mean `{near}`?")),
                None => found,
            });
        }
    }
    Ok(())
}
