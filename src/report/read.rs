//! A run's folder, read: recipe, log, evaluations. What is missing is left out, what is broken is an error that says where.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::eval::record::DETAILS;
use crate::eval::table::CONTROLS_FILE;
use crate::eval::table::SCORES_FILE;
use crate::files;
use crate::json;
use crate::report::log::Log;
use crate::report::log::Scores;
use crate::report::log::numbers;
use crate::report::metric::Metric;
use crate::report::predictions;
use crate::report::predictions::Prediction;
use crate::report::provenance::Provenance;
use crate::report::settings::Settings;
use crate::report::uncertainty::Interval;
use crate::task::Task;
use crate::task::Tasks;

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name: the folder's.
    pub name: String,
    /// Its recipe.
    pub settings: Option<Settings>,
    /// Its log.
    pub log: Option<Log>,
    /// Its evaluations, by step; never empty where `log` is missing.
    pub evaluations: Vec<Evaluation>,
    /// The tasks that ship, and those of its recipe's `prompts` where that folder is still there.
    pub tasks: Tasks,
    /// Time, machine, build and inputs, as far as the folder says them.
    pub provenance: Provenance,
    /// The task of each set of its last evaluation, where predictions say it.
    pub task_of_set: Vec<(String, String)>,
}

/// An evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// After this many steps.
    pub step: u64,
    /// Its folder, where there is one.
    pub folder: Option<PathBuf>,
    /// The scores.
    pub scores: Scores,
    /// The scores under controls, by control.
    pub controls: Vec<(String, Scores)>,
    /// Intervals that the evaluation itself gave, by score.
    pub intervals: Vec<(String, Interval)>,
    /// Whether no model answered: a baseline of `maqam eval`.
    pub is_baseline: bool,
}

/// What instructions a model followed, as `maqam instructions score --json` says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Instructions {
    /// The model's.
    #[serde(flatten)]
    pub model: Followed,
    /// Those of the untuned base.
    #[serde(default)]
    pub base: Option<Followed>,
    /// What changed from the base.
    #[serde(default)]
    pub change: Option<Changed>,
    /// The best constant answer.
    #[serde(default)]
    pub constant: Option<ConstantAnswer>,
    /// Both models on the same rows in text alone.
    #[serde(default)]
    pub text: Option<Box<Instructions>>,
}

/// Rows that one of two follows and the other does not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Changed {
    /// Rows that only the first follows.
    pub lost: Vec<String>,
    /// Rows that only the second follows.
    pub gained: Vec<String>,
    /// McNemar's p-value; none in files of earlier versions.
    #[serde(default)]
    pub p: Option<f64>,
}

/// The best that one and the same answer to every row scores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ConstantAnswer {
    /// The answer.
    pub answer: String,
    /// What it scores.
    #[serde(flatten)]
    pub scores: Followed,
    /// From it to the model.
    pub change: Changed,
}

/// What instructions were followed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Followed {
    /// Of all rows.
    pub all: Rates,
    /// By what they ask for, in the order of the suite.
    #[serde(deserialize_with = "in_order")]
    pub kinds: Vec<(String, Rates)>,
}

/// Shares of rows all of whose instructions hold.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Rates {
    /// Number of rows.
    pub prompts: f64,
    /// As the answers are.
    pub prompt_strict: f64,
    /// Or without their first line, last line or asterisks.
    pub prompt_loose: f64,
    /// Number of rows of which the right answer is known.
    #[serde(default)]
    pub known: f64,
    /// Of these, the share that follow as they are and are right.
    #[serde(default)]
    pub followed_and_right: f64,
    /// The interval of `prompt_strict`.
    #[serde(default)]
    pub interval: Option<Interval>,
}

impl Followed {
    /// The rates of one kind.
    pub fn kind(&self, name: &str) -> Option<&Rates> {
        self.kinds
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, rates)| rates)
    }
}

/// An object's entries in their order.
fn in_order<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<(String, Rates)>, D::Error> {
    let object = Map::<String, Value>::deserialize(deserializer)?;
    let entry = |(name, value): (String, Value)| {
        Ok((
            name,
            Rates::deserialize(value).map_err(serde::de::Error::custom)?,
        ))
    };
    object.into_iter().map(entry).collect()
}

impl Run {
    /// Reads a run's folder, or a folder that holds one evaluation alone.
    ///
    /// # Errors
    /// A folder with neither a log nor scores; broken files, with file and line.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input("no such folder")
                .at_path(folder)
                .hint("name the folder of a run, such as runs/NAME"));
        }
        let (recipe, log) = (folder.join("recipe.yaml"), folder.join("log.jsonl"));
        let settings = recipe
            .is_file()
            .then(|| Settings::read(&recipe))
            .transpose()?;
        let log = log.is_file().then(|| Log::read(&log)).transpose()?;
        let evaluations = evaluations(folder, log.as_ref())?;
        if log.is_none() && evaluations.is_empty() {
            let found = Error::input("neither `log.jsonl` nor scores of an evaluation are here")
                .at_path(folder);
            return Err(found.hint("name the folder of a run, such as runs/NAME"));
        }
        // `.` has a name only once it is resolved.
        let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = resolved.file_name().map_or_else(
            || folder.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let prompts = settings
            .as_ref()
            .and_then(|settings| settings.get("prompts"));
        let tasks = tasks_of(prompts)?;
        let mut run = Self {
            folder: folder.to_owned(),
            name,
            settings,
            log,
            evaluations,
            tasks,
            provenance: Provenance::read(folder)?,
            task_of_set: Vec::new(),
        };
        run.task_of_set = run
            .last()
            .map(Evaluation::task_of_set)
            .transpose()?
            .unwrap_or_default();
        Ok(run)
    }

    /// Whether no model answered: a baseline of `maqam eval`.
    pub fn is_baseline(&self) -> bool {
        self.last().is_some_and(|last| last.is_baseline)
    }

    /// The task of a set, where it is known.
    pub fn task_of(&self, set: &str) -> Option<&Task> {
        let (_, task) = self.task_of_set.iter().find(|(known, _)| known == set)?;
        self.tasks.get(task).ok()
    }

    /// Whether a score is of the metric that stands for its set's task.
    pub fn is_own(&self, metric: &Metric) -> bool {
        let task = metric.set.as_deref().and_then(|set| self.task_of(set));
        task.is_some_and(|task| task.metric == metric.name)
    }

    /// The labels of a set's task, in the inventory's order; none where it does not classify.
    pub fn inventory(&self, set: &str) -> Vec<&str> {
        let labels = self.task_of(set).map(|task| task.labels.as_slice());
        labels
            .unwrap_or_default()
            .iter()
            .map(|label| label.name.as_str())
            .collect()
    }

    /// The last evaluation with scores.
    pub fn last(&self) -> Option<&Evaluation> {
        self.evaluations
            .iter()
            .rev()
            .find(|evaluation| !evaluation.scores.is_empty())
    }

    /// The evaluation before the first step.
    pub fn before(&self) -> Option<&Evaluation> {
        self.evaluations.first().filter(|evaluation| {
            evaluation.step == 0 && self.last().is_some_and(|last| last.step > 0)
        })
    }

    /// The evaluation that is best by the score that the recipe keeps by, `mean` where it does not say.
    pub fn best(&self) -> Option<&Evaluation> {
        let keep = self
            .settings
            .as_ref()
            .and_then(|settings| settings.get("evaluate.keep_best"))
            .unwrap_or("mean");
        let metric = Metric::of(keep);
        let values: Vec<Option<f64>> = self
            .evaluations
            .iter()
            .map(|evaluation| evaluation.score(keep))
            .collect();
        metric.best(&values).map(|place| &self.evaluations[place])
    }

    /// A score by step.
    pub fn course(&self, name: &str) -> Vec<(f64, f64)> {
        self.evaluations
            .iter()
            .filter_map(|evaluation| Some((evaluation.step as f64, evaluation.score(name)?)))
            .collect()
    }
}

impl Evaluation {
    /// The score of that name.
    pub fn score(&self, name: &str) -> Option<f64> {
        score(&self.scores, name)
    }

    /// The interval of a score, where the evaluation itself gave one.
    pub fn interval(&self, name: &str) -> Option<Interval> {
        self.intervals
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, interval)| *interval)
    }

    /// Names and files of the sets whose predictions are there, by name.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn sets(&self) -> Result<Vec<(String, PathBuf)>> {
        let Some(folder) = &self.folder else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for path in entries(folder)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
                && let Some(stem) = path.file_stem()
            {
                found.push((stem.to_string_lossy().into_owned(), path));
            }
        }
        Ok(found)
    }

    /// The predictions of every set, in the order in which the scores name the sets, then by name.
    ///
    /// # Errors
    /// Broken files, with file and line.
    pub fn predictions(&self) -> Result<Vec<(String, Vec<Prediction>)>> {
        let mut sets = self.sets()?;
        let place = |set: &str| {
            self.scores
                .iter()
                .position(|(name, _)| name.starts_with(&format!("{set}.")))
                .unwrap_or(usize::MAX)
        };
        sets.sort_by_key(|(name, _)| (place(name), name.clone()));
        sets.into_iter()
            .map(|(name, path)| Ok((name, predictions::read(&path)?)))
            .collect()
    }

    /// The task of each set, as the first of its predictions says it.
    fn task_of_set(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (set, path) in self.sets()? {
            if let Some(task) = predictions::first_task(&path)? {
                found.push((set, task));
            }
        }
        Ok(found)
    }

    /// The table of instructions, where there is one.
    ///
    /// # Errors
    /// A file of another form.
    pub fn instructions(&self) -> Result<Option<Instructions>> {
        let Some(path) = self
            .folder
            .as_ref()
            .map(|folder| folder.join("instructions.json"))
            .filter(|path| path.is_file())
        else {
            return Ok(None);
        };
        json::parse(&files::read_text(&path)?)
            .map(Some)
            .map_err(|e| {
                e.at("not the scores of instructions")
                    .at_path(&path)
                    .hint("`maqam instructions score --json` writes them")
            })
    }
}

/// The tasks that ship, and those of the folder `prompts` where it is there.
///
/// # Errors
/// A file in that folder that is no task.
pub fn tasks_of(prompts: Option<&str>) -> Result<Tasks> {
    let folder = prompts.map(Path::new).filter(|folder| folder.is_dir());
    Tasks::load(folder)
}

/// The score of that name.
pub fn score(scores: &Scores, name: &str) -> Option<f64> {
    scores
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| *value)
}

/// The evaluations of the folder and of the log, by step; the folder's scores count where both have some.
fn evaluations(run: &Path, log: Option<&Log>) -> Result<Vec<Evaluation>> {
    let mut found: Vec<Evaluation> = Vec::new();
    for logged in log.iter().flat_map(|log| &log.evaluations) {
        let place = found
            .iter()
            .position(|evaluation| evaluation.step == logged.at_step)
            .unwrap_or_else(|| {
                found.push(Evaluation {
                    step: logged.at_step,
                    ..Evaluation::default()
                });
                found.len() - 1
            });
        match &logged.control {
            Some(control) => found[place]
                .controls
                .push((control.clone(), logged.scores.clone())),
            None => found[place].scores.clone_from(&logged.scores),
        }
    }
    for (step, folder) in steps(run)? {
        let evaluation = read_evaluation(step, &folder)?;
        match found.iter_mut().find(|known| known.step == step) {
            Some(known) => known.take_over(evaluation),
            None => found.push(evaluation),
        }
    }
    found.sort_by_key(|evaluation| evaluation.step);
    Ok(found)
}

impl Evaluation {
    fn take_over(&mut self, other: Self) {
        self.folder = other.folder;
        self.intervals = other.intervals;
        if !other.scores.is_empty() {
            self.scores = other.scores;
        }
        if !other.controls.is_empty() {
            self.controls = other.controls;
        }
    }
}

/// Steps and folders of a run's evaluations; a folder with scores of its own is one evaluation.
fn steps(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let eval = run.join("eval");
    if !eval.is_dir() {
        return Ok(if run.join(SCORES_FILE).is_file() {
            vec![(0, run.to_owned())]
        } else {
            Vec::new()
        });
    }
    let step = |path: &PathBuf| {
        path.file_name()?
            .to_str()?
            .strip_prefix("step-")?
            .parse()
            .ok()
    };
    Ok(entries(&eval)?
        .into_iter()
        .filter_map(|path| Some((step(&path)?, path)))
        .collect())
}

fn read_evaluation(step: u64, folder: &Path) -> Result<Evaluation> {
    let written = object(&folder.join(SCORES_FILE))?.unwrap_or_default();
    let controls = object(&folder.join(CONTROLS_FILE))?.unwrap_or_default();
    let controls = controls
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), numbers(value.as_object()?))));
    let kind = written.get(DETAILS).and_then(|details| details.get("kind"));
    Ok(Evaluation {
        step,
        folder: Some(folder.to_owned()),
        scores: numbers(&written),
        controls: controls.collect(),
        intervals: intervals(&written),
        is_baseline: kind.and_then(Value::as_str) == Some("baseline"),
    })
}

/// The intervals among the details of `scores.json`.
fn intervals(written: &Map<String, Value>) -> Vec<(String, Interval)> {
    let of_score = |(name, score): (&String, &Value)| {
        let end = |which: &str| score.get("interval")?.get(which)?.as_f64();
        Some((name.clone(), Interval::new(end("low")?, end("high")?)?))
    };
    let scores = written
        .get(DETAILS)
        .and_then(|details| details.get("scores")?.as_object());
    scores.into_iter().flatten().filter_map(of_score).collect()
}

/// The JSON object of a file; `None` where there is no file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    json::parse(&text).map(Some).map_err(|e| e.at_path(path))
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || {
        std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let mut found = read().map_err(|e| Error::io(folder, "list", &e))?;
    found.sort();
    Ok(found)
}
