//! A run's folder: the names of its files, and all of it read. What is missing is left out, what is
//! broken is an error that says where.

use std::path::Path;
use std::path::PathBuf;

use crate::curves::Log;
use crate::details::SystemKind;
use crate::environment::Provenance;
use crate::instructions::Instructions;
use crate::prediction;
use crate::prediction::Prediction;
use crate::recipe_keys::RecipeKeys;
use crate::scores;
use crate::scores::MEAN;
use crate::scores::SCORES_FILE;
use crate::scores::Scores;
use crate::scores::ScoresFile;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::files;
use maqam_data::task::Task;
use maqam_data::task::Tasks;
use maqam_stats::significance::Interval;

/// The recipe with every default written out.
pub const RECIPE_FILE: &str = "recipe.yaml";
/// One line per step, evaluation and probe: see [`crate::log`].
pub const LOG_FILE: &str = "log.jsonl";
/// Rows of every step whose picks depend on training: see [`crate::picks`].
pub const PICKS_FILE: &str = "picks.jsonl";
/// Folder of the evaluations, one folder per step in it.
pub const EVALUATIONS: &str = "eval";
/// Folder of the checkpoints, one folder per step in it.
pub const CHECKPOINTS: &str = "checkpoints";

/// The folder of the evaluation after `step` steps.
pub fn evaluation(run: &Path, step: u64) -> PathBuf {
    step_folder(&run.join(EVALUATIONS), step)
}

/// The folder of a step, among those of other steps.
pub fn step_folder(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:06}"))
}

/// The step whose folder it is.
pub fn step_of(folder: &Path) -> Option<u64> {
    folder
        .file_name()?
        .to_str()?
        .strip_prefix("step-")?
        .parse()
        .ok()
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name: the folder's.
    pub name: String,
    /// Its recipe.
    pub recipe: Option<RecipeKeys>,
    /// Its log.
    pub log: Option<Log>,
    /// Its evaluations, by step; never empty where `log` is missing.
    pub evaluations: Vec<Evaluation>,
    /// Evaluations that a later one at the same step stands for, because a roll-back of mSFT
    /// restored another model.
    pub rolled_back: Vec<Evaluation>,
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
    /// The score that chooses the best checkpoint, where it is not among the scores: see
    /// [`EvalRecord::selecting`](crate::log::EvalRecord::selecting).
    pub selecting: Option<f64>,
    /// Whether its model was rolled back at this step.
    pub is_rolled_back: bool,
    /// The scores under controls, by control.
    pub controls: Vec<(String, Scores)>,
    /// Intervals that the evaluation itself gave, by score.
    pub intervals: Vec<(String, Interval)>,
    /// Whether no model answered: a baseline of `maqam eval`.
    pub is_baseline: bool,
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
        let recipe = folder.join(RECIPE_FILE);
        let log = folder.join(LOG_FILE);
        let recipe = recipe
            .is_file()
            .then(|| RecipeKeys::read(&recipe))
            .transpose()?;
        let log = log.is_file().then(|| Log::read(&log)).transpose()?;
        let (evaluations, rolled_back) = evaluations(folder, log.as_ref())?;
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
        let prompts = recipe.as_ref().and_then(|recipe| recipe.get("prompts"));
        let tasks = tasks_of(prompts)?;
        let mut run = Self {
            folder: folder.to_owned(),
            name,
            recipe,
            log,
            evaluations,
            rolled_back,
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

    /// The score that the recipe keeps the best checkpoint by, `mean` where it does not say.
    pub fn keep_best(&self) -> &str {
        self.recipe
            .as_ref()
            .and_then(|recipe| recipe.get("evaluate.keep_best"))
            .unwrap_or(MEAN)
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
        self.scores.get(name)
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
        for path in files::list_dir(folder)? {
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
            .map(|(name, path)| Ok((name, prediction::read(&path)?)))
            .collect()
    }

    /// The task of each set, as the first of its predictions says it.
    fn task_of_set(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (set, path) in self.sets()? {
            if let Some(task) = prediction::first_task(&path)? {
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
        match &self.folder {
            Some(folder) => Instructions::read(folder),
            None => Ok(None),
        }
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

/// The evaluations of the folder and of the log, by step; the folder's scores count where both have
/// some. The second list has those that were followed by another at the same step.
fn evaluations(run: &Path, log: Option<&Log>) -> Result<(Vec<Evaluation>, Vec<Evaluation>)> {
    let mut found: Vec<Evaluation> = Vec::new();
    let mut rolled_back = Vec::new();
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
            None => {
                if !found[place].scores.is_empty() {
                    rolled_back.push(Evaluation {
                        is_rolled_back: true,
                        ..found[place].clone()
                    });
                }
                found[place].scores.clone_from(&logged.scores);
                found[place].selecting = logged.selecting;
            }
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
    Ok((found, rolled_back))
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
    let eval = run.join(EVALUATIONS);
    if !eval.is_dir() {
        return Ok(if run.join(SCORES_FILE).is_file() {
            vec![(0, run.to_owned())]
        } else {
            Vec::new()
        });
    }
    Ok(files::list_dir(&eval)?
        .into_iter()
        .filter_map(|path| Some((step_of(&path)?, path)))
        .collect())
}

fn read_evaluation(step: u64, folder: &Path) -> Result<Evaluation> {
    let written = ScoresFile::read(folder)?.unwrap_or_default();
    let details = written.details.as_ref();
    Ok(Evaluation {
        step,
        folder: Some(folder.to_owned()),
        controls: scores::read_controls(folder)?.to_vec(),
        intervals: written.intervals(),
        is_baseline: details.is_some_and(|details| details.system.kind == SystemKind::Baseline),
        scores: written.scores,
        ..Evaluation::default()
    })
}
