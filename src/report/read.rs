//! A run's folder, read: recipe, log, evaluations. What is missing is left out, what is broken is an error that says where.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::report::log::Log;
use crate::report::log::Scores;
use crate::report::log::numbers;
use crate::report::predictions;
use crate::report::predictions::Prediction;
use crate::report::settings::Settings;

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
}

/// One line of a table of instructions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct InstructionRow {
    /// What the instruction asks for.
    pub kind: String,
    /// Number of answers that were checked.
    #[serde(default)]
    pub count: Option<u64>,
    /// The share of the model's answers that hold.
    pub model: Followed,
    /// The share of the untuned base's.
    #[serde(default)]
    pub base: Option<Followed>,
}

/// Shares of answers that follow an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Followed {
    /// As they are.
    pub strict: f64,
    /// Or without their first line, last line or asterisks.
    pub loose: f64,
}

impl Run {
    /// Reads a run's folder, or a folder that holds one evaluation alone.
    ///
    /// # Errors
    /// A folder with neither a log nor scores; broken files, with file and line.
    pub fn read(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input("no such folder").at_path(folder).hint("name the folder of a run, such as runs/NAME"));
        }
        let (recipe, log) = (folder.join("recipe.yaml"), folder.join("log.jsonl"));
        let settings = recipe.is_file().then(|| Settings::read(&recipe)).transpose()?;
        let log = log.is_file().then(|| Log::read(&log)).transpose()?;
        let evaluations = evaluations(folder, log.as_ref())?;
        if log.is_none() && evaluations.is_empty() {
            let found = Error::input("neither `log.jsonl` nor scores of an evaluation are here").at_path(folder);
            return Err(found.hint("name the folder of a run, such as runs/NAME"));
        }
        // `.` has a name only once it is resolved.
        let resolved = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = resolved.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        Ok(Self { folder: folder.to_owned(), name, settings, log, evaluations })
    }

    /// The last evaluation with scores.
    pub fn last(&self) -> Option<&Evaluation> {
        self.evaluations.iter().rev().find(|evaluation| !evaluation.scores.is_empty())
    }

    /// The evaluation before the first step.
    pub fn before(&self) -> Option<&Evaluation> {
        self.evaluations.first().filter(|evaluation| evaluation.step == 0 && self.last().is_some_and(|last| last.step > 0))
    }

    /// The evaluation that is best by the score that the recipe keeps by, `mean` where it does not say.
    pub fn best(&self) -> Option<&Evaluation> {
        let keep = self.settings.as_ref().and_then(|settings| settings.get("evaluate.keep_best")).unwrap_or("mean");
        let metric = crate::report::metric::Metric::of(keep);
        let values: Vec<Option<f64>> = self.evaluations.iter().map(|evaluation| evaluation.score(keep)).collect();
        metric.best(&values).map(|place| &self.evaluations[place])
    }

    /// A score by step.
    pub fn course(&self, name: &str) -> Vec<(f64, f64)> {
        self.evaluations.iter().filter_map(|evaluation| Some((evaluation.step as f64, evaluation.score(name)?))).collect()
    }
}

impl Evaluation {
    /// The score of that name.
    pub fn score(&self, name: &str) -> Option<f64> {
        score(&self.scores, name)
    }

    /// Names and files of the sets whose predictions are there, by name.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn sets(&self) -> Result<Vec<(String, PathBuf)>> {
        let Some(folder) = &self.folder else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for path in entries(folder)? {
            if path.extension().is_some_and(|extension| extension == "jsonl")
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
        let place = |set: &str| self.scores.iter().position(|(name, _)| name.starts_with(&format!("{set}."))).unwrap_or(usize::MAX);
        sets.sort_by_key(|(name, _)| (place(name), name.clone()));
        sets.into_iter().map(|(name, path)| Ok((name, predictions::read(&path)?))).collect()
    }

    /// The table of instructions, where there is one.
    ///
    /// # Errors
    /// A file of another form.
    pub fn instructions(&self) -> Result<Option<Vec<InstructionRow>>> {
        #[derive(Deserialize)]
        struct File {
            rows: Vec<InstructionRow>,
        }
        let Some(path) = self.folder.as_ref().map(|folder| folder.join("instructions.json")).filter(|path| path.is_file()) else {
            return Ok(None);
        };
        let file: File =
            serde_json::from_str(&files::read_text(&path)?).map_err(|e| Error::input(format!("not a table of instructions: {e}")).at_path(&path))?;
        Ok(Some(file.rows))
    }
}

/// The score of that name.
pub fn score(scores: &Scores, name: &str) -> Option<f64> {
    scores.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

/// The evaluations of the folder and of the log, by step; the folder's scores count where both have some.
fn evaluations(run: &Path, log: Option<&Log>) -> Result<Vec<Evaluation>> {
    let mut found: Vec<Evaluation> = Vec::new();
    for logged in log.iter().flat_map(|log| &log.evaluations) {
        let place = found.iter().position(|evaluation| evaluation.step == logged.at_step).unwrap_or_else(|| {
            found.push(Evaluation { step: logged.at_step, ..Evaluation::default() });
            found.len() - 1
        });
        match &logged.control {
            Some(control) => found[place].controls.push((control.clone(), logged.scores.clone())),
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
        return Ok(if run.join("scores.json").is_file() { vec![(0, run.to_owned())] } else { Vec::new() });
    }
    let step = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
    Ok(entries(&eval)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect())
}

fn read_evaluation(step: u64, folder: &Path) -> Result<Evaluation> {
    let scores = object(&folder.join("scores.json"))?.map(|object| numbers(&object)).unwrap_or_default();
    let controls = object(&folder.join("controls.json"))?.unwrap_or_default();
    let controls = controls.iter().filter_map(|(name, value)| Some((name.clone(), numbers(value.as_object()?))));
    Ok(Evaluation { step, folder: Some(folder.to_owned()), scores, controls: controls.collect() })
}

/// The JSON object of a file; `None` where there is no file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::input(format!("not a JSON object: {e}")).at_path(path))
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut found = read().map_err(|e| Error::io(folder, "list", &e))?;
    found.sort();
    Ok(found)
}
