//! Checks of an experiment before its first run: rows, leakage and lengths of every recipe, and the
//! test suite.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;

use crate::data::headers::Headers;
use crate::error::Error;
use crate::error::Result;
use crate::eval;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::Planned;
use crate::featurise::rows::Pool;
use crate::featurise::rows::RowCheck;
use crate::featurise::rows::Watch;
use crate::leakage::Allowed;
use crate::recipe::Recipe;
use crate::yaml;

/// What the runs of an experiment begin with.
pub struct Prepared {
    /// The suite that every run is evaluated on.
    pub test: Option<Suite>,
    /// Number of steps of each recipe; of a merge, of all runs that are merged.
    pub num_steps: Vec<u64>,
    /// What the user should know, each once.
    pub notes: Vec<String>,
    /// What is wrong with rows that are left out, each once.
    pub skipped: Vec<String>,
}

/// Checks the rows of every recipe and of the test suite. Recipes often share manifests: a row or a
/// note of several is named once.
///
/// # Errors
/// Rows that cannot be used, and leakage that is not allowed; those of `watch`.
pub fn prepare(
    experiment: &Experiment,
    planned: &[Planned],
    allowed: &Allowed,
    headers: &Headers,
    watch: Watch,
) -> Result<Prepared> {
    let Some(first) = planned.first() else {
        return Err(Error::bug("an experiment without runs"));
    };
    let tasks = first.recipe.tasks()?;
    let test = match experiment.test.as_deref() {
        Some(path) => Some(test_suite(path, first, headers, watch)?),
        None => None,
    };
    let mut told = Told::default();
    if let Some(suite) = &test {
        told.notes.extend(suite.notes.iter().cloned());
        told.skip(suite.skipped.iter());
    }

    let entries = &planned[..experiment.recipes.len().min(planned.len())];
    let mut steps = BTreeMap::new();
    for one in entries.iter().filter(|one| one.merged.is_none()) {
        let rows = one.recipe.rows(&tasks, headers, Pool::Fresh, watch);
        let rows = rows.map_err(|e| e.at(format!("recipe `{}`", one.recipe_name)))?;
        steps.insert(one.recipe.name.as_str(), rows.schedule.num_steps());
        told.skip(rows.skipped());
        told.note(rows.notes().cloned());
        let test = experiment.test.as_slice();
        told.note(rows.check_leakage(test, allowed, headers)?);
    }
    // What is merged was trained for the steps of all its runs.
    let mut num_steps = Vec::with_capacity(entries.len());
    for one in entries {
        let trained: Vec<&Recipe> = match &one.merged {
            Some(merged) => merged.sources.iter().collect(),
            None => vec![&one.recipe],
        };
        let of_each = trained.iter().map(|recipe| steps.get(recipe.name.as_str()));
        num_steps.push(
            of_each
                .map(|steps| steps.copied().unwrap_or(0))
                .sum::<u64>(),
        );
    }
    Ok(Prepared {
        test,
        num_steps,
        notes: told.notes,
        skipped: told.skipped,
    })
}

/// Notes and skipped rows, each once.
#[derive(Default)]
struct Told {
    notes: Vec<String>,
    skipped: Vec<String>,
    is_skipped: HashSet<String>,
}

impl Told {
    fn note(&mut self, notes: impl IntoIterator<Item = String>) {
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }

    fn skip<'a>(&mut self, errors: impl IntoIterator<Item = &'a Error>) {
        for error in errors {
            if self.is_skipped.insert(error.message().to_owned()) {
                self.skipped.push(error.message().to_owned());
            }
        }
    }
}

/// Checks that the test suite gives the score of every contrast: they are compared after hours.
///
/// # Errors
/// A score that the suite does not give.
pub fn check_contrasts(experiment: &Experiment, test: &Suite) -> Result<()> {
    let known = eval::score_names(test);
    for contrast in &experiment.contrasts {
        let score = &contrast.score;
        if !known.contains(score) {
            let near = yaml::nearest(score, known.iter().map(String::as_str))
                .map(|near| format!("did you mean `{near}`? "))
                .unwrap_or_default();
            return Err(Error::input(format!(
                "`contrasts`: the test suite gives no score `{score}`"
            ))
            .hint(format!("{near}it gives {}", known.join(", "))));
        }
    }
    Ok(())
}

/// The suite that every run is evaluated on, with the headers of its audio read: an experiment
/// evaluates on it after hours.
///
/// # Errors
/// A suite that cannot be read, and rows that cannot be used.
pub fn test_suite(path: &Path, first: &Planned, headers: &Headers, watch: Watch) -> Result<Suite> {
    let recipe = &first.recipe;
    let mut check = RowCheck::new(
        headers,
        recipe.max_audio_s,
        recipe.on_bad_row,
        "`on_bad_row: skip` in every recipe",
        watch,
    );
    let suite = Suite::load_checked(path, &recipe.tasks()?, &mut check)?;
    check.finish()?;
    Ok(suite)
}
