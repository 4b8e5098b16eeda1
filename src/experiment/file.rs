//! An experiment as written: recipes times seeds over one data set and one budget, and the
//! contrasts to test.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::experiment::merge_settings::MergeSettings;
use crate::experiment::merge_settings::check_mergeable;
use crate::experiment::power_settings;
use crate::files;
use crate::merge;
use crate::recipe::Recipe;
use crate::records::comparison::Contrast;
use crate::records::log;
use crate::records::log::Line;
use crate::records::run_folder;
use crate::train::optimiser;
use crate::yaml;

/// An experiment file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Name of its folder under `runs`.
    pub name: String,
    /// Recipes to compare.
    pub recipes: Vec<Entry>,
    /// Changes to every recipe, each `KEY.KEY=VALUE` as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
    /// Seeds; every recipe runs once for each. Recipes share a seed's initialisation and order of
    /// the data.
    pub seeds: Vec<Seed>,
    /// Suite that every finished run is evaluated on, once.
    #[serde(default)]
    pub test: Option<PathBuf>,
    /// Differences to test, declared beforehand. Their p-values are corrected together.
    #[serde(default)]
    pub contrasts: Vec<Contrast>,
    /// Level of significance of a corrected p-value.
    #[serde(default = "default_level")]
    pub level: f64,
    /// Resamples of each bootstrap.
    #[serde(default = "default_resamples")]
    pub resamples: usize,
    /// Settings of `--power`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<power_settings::Settings>,
}

fn default_level() -> f64 {
    0.05
}

fn default_resamples() -> usize {
    2000
}

/// A recipe of an experiment, or its path alone; or a merge of others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "recipe")]
pub struct Entry {
    /// Name in the comparison; by default the recipe's own.
    #[serde(default)]
    pub name: String,
    /// The recipe's file; either this or `merge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<PathBuf>,
    /// Entries whose adapters are merged into one, in place of a recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeSettings>,
    /// Changes to this recipe, after the experiment's.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether it has another budget than the rest, such as a run of one task with the exposure
    /// that the task has in a mixture.
    #[serde(default)]
    pub own_budget: bool,
}

/// Seeds of a run, or one number for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "initialisation+order")]
pub struct Seed {
    /// Seed of fresh weights, wordings and dropout: the recipe's `seed`.
    pub initialisation: u64,
    /// Seed of the order of the data: the recipe's `schedule.seed`.
    pub order: u64,
}

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.initialisation == self.order {
            true => write!(f, "{}", self.order),
            false => write!(
                f,
                "{{initialisation: {}, order: {}}}",
                self.initialisation, self.order
            ),
        }
    }
}

/// One run of an experiment.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Name of the recipe in the comparison.
    pub recipe_name: String,
    /// Its seed, by its place.
    pub seed: usize,
    /// The recipe, resolved down to its folder. Of a merge, the first one that is merged, with the
    /// folder of the merge.
    pub recipe: Recipe,
    /// Runs of the same seed whose adapters are merged, in place of training.
    pub merged: Option<MergedRun>,
}

/// Runs whose adapters become one.
#[derive(Clone, Debug)]
pub struct MergedRun {
    /// Recipes of the runs, in the order of the merge.
    pub sources: Vec<Recipe>,
    /// Settings of the merge.
    pub settings: merge::Settings,
}

impl Planned {
    /// The lines of the run's log; none of a merge.
    ///
    /// # Errors
    /// A log that is missing or damaged.
    pub fn log(&self) -> Result<Vec<Line>> {
        match self.merged {
            Some(_) => Ok(Vec::new()),
            None => log_of(&self.recipe),
        }
    }

    /// The lines of the logs of all that was trained for the run's weights: its own, or those of
    /// the runs that are merged.
    ///
    /// # Errors
    /// As [`Planned::log`].
    pub fn logs(&self) -> Result<Vec<Line>> {
        let Some(merged) = &self.merged else {
            return self.log();
        };
        let mut lines = Vec::new();
        for source in &merged.sources {
            lines.extend(log_of(source)?);
        }
        Ok(lines)
    }
}

fn log_of(recipe: &Recipe) -> Result<Vec<Line>> {
    log::read(&recipe.folder().join(run_folder::LOG_FILE))
}

impl Experiment {
    /// Reads an experiment and every recipe it names.
    ///
    /// # Errors
    /// Unknown keys, contrasts over recipes that are not there, recipes that do not share data,
    /// budget and learning rate.
    pub fn load(path: &Path) -> Result<(Self, Vec<Planned>)> {
        let text = files::read_text(path).map_err(|e| {
            e.or_hint("name the YAML file of an experiment; `maqam new experiment FILE` writes one, and relative paths start from the folder the command runs in")
        })?;
        let mut experiment: Self = yaml::parse(&text, path)?;
        let planned = experiment
            .check()
            .and_then(|()| experiment.plan())
            .map_err(|e| e.at_path(path))?;
        Ok((experiment, planned))
    }

    /// The experiment's folder.
    pub fn folder(&self) -> PathBuf {
        Path::new("runs").join(&self.name)
    }

    fn check(&mut self) -> Result<()> {
        files::check_name(&self.name).map_err(|e| e.at("`name`"))?;
        if self.recipes.is_empty() || self.seeds.is_empty() {
            return Err(Error::input("`recipes` or `seeds` is empty")
                .hint("an experiment is at least one recipe and one seed: `recipes: [a.yaml]`, `seeds: [1]`"));
        }
        if let Some(i) = (1..self.seeds.len()).find(|&i| self.seeds[..i].contains(&self.seeds[i])) {
            return Err(
                Error::input(format!("`seeds` names {} twice", self.seeds[i]))
                    .hint("the same seed gives the same run"),
            );
        }
        if !(self.level > 0.0 && self.level < 1.0) || self.resamples == 0 {
            return Err(Error::input(
                "`level` is not between 0 and 1, or `resamples` is 0",
            ));
        }
        self.recipes.iter().try_for_each(Entry::check)?;
        self.power
            .iter()
            .try_for_each(power_settings::Settings::check)
    }

    /// Every run, seed after seed: an experiment that is stopped has whole seeds to compare.
    fn plan(&mut self) -> Result<Vec<Planned>> {
        let mut planned = Vec::new();
        let seeds = self.seeds.clone();
        for (seed, &values) in seeds.iter().enumerate() {
            let mut trained = Vec::with_capacity(self.recipes.len());
            for place in 0..self.recipes.len() {
                trained.push(self.recipe(place, seed, values)?);
            }
            for (entry, recipe) in self.recipes.iter().zip(&trained) {
                let merged = match &entry.merge {
                    Some(settings) => Some(self.merged(settings, &trained)?),
                    None => None,
                };
                let sources = merged.iter().flat_map(|merged| &merged.sources);
                let Some(recipe) = recipe.iter().chain(sources).next() else {
                    return Err(Error::bug("an entry without a recipe"));
                };
                let mut recipe = recipe.clone();
                recipe.name = run_name(&entry.name, seed);
                planned.push(Planned {
                    recipe_name: entry.name.clone(),
                    seed,
                    recipe,
                    merged,
                });
            }
        }
        let first: Vec<&Planned> = planned.iter().take(self.recipes.len()).collect();
        if let Some(i) = (1..first.len()).find(|&i| {
            first[..i]
                .iter()
                .any(|other| other.recipe_name == first[i].recipe_name)
        }) {
            return Err(
                Error::input(format!("two recipes are named `{}`", first[i].recipe_name))
                    .hint("give one of them a `name`"),
            );
        }
        self.check_alike(&first)?;
        for contrast in &self.contrasts {
            for name in [&contrast.recipe, &contrast.against] {
                if !first.iter().any(|planned| planned.recipe_name == *name) {
                    let known: Vec<&str> = first
                        .iter()
                        .map(|planned| planned.recipe_name.as_str())
                        .collect();
                    return Err(Error::input(format!("`contrasts` names `{name}`"))
                        .hint(known_names(name, &known)));
                }
            }
        }
        Ok(planned)
    }

    /// The runs that an entry merges. `trained` has the recipes of a seed, none for merges.
    fn merged(&self, settings: &MergeSettings, trained: &[Option<Recipe>]) -> Result<MergedRun> {
        let with_recipe = || {
            self.recipes
                .iter()
                .zip(trained)
                .filter(|(_, of)| of.is_some())
        };
        let mut sources = Vec::with_capacity(settings.of.len());
        for name in &settings.of {
            let found = with_recipe().find(|(entry, _)| entry.name == *name);
            let Some((_, Some(recipe))) = found else {
                let known: Vec<&str> = with_recipe()
                    .map(|(entry, _)| entry.name.as_str())
                    .collect();
                return Err(Error::input(format!("`merge.of` names `{name}`"))
                    .hint(known_names(name, &known)));
            };
            check_mergeable(name, recipe)?;
            sources.push(recipe.clone());
        }
        Ok(MergedRun {
            sources,
            settings: settings.settings(),
        })
    }

    /// The recipe of an entry for a seed; none for a merge.
    fn recipe(&mut self, place: usize, seed: usize, values: Seed) -> Result<Option<Recipe>> {
        let entry = &mut self.recipes[place];
        let Some(path) = &entry.recipe else {
            return Ok(None);
        };
        let mut set = self.set.clone();
        set.extend(entry.set.iter().cloned());
        set.extend([
            format!("seed={}", values.initialisation),
            format!("schedule.seed={}", values.order),
        ]);
        let mut recipe = Recipe::load(path, &set)?;
        if entry.name.is_empty() {
            entry.name.clone_from(&recipe.name);
        }
        files::check_name(&entry.name).map_err(|e| e.at("`name` of a recipe"))?;
        recipe.name = run_name(&entry.name, seed);
        recipe.runs = Some(Path::new("runs").join(&self.name));
        Ok(Some(recipe))
    }

    /// All recipes learn from the same rows, and plan the same learning rate for the same step.
    /// Stages that end by mSFT may go back in the plan and end early. Lengths are compared once
    /// schedules are planned.
    fn check_alike(&self, planned: &[&Planned]) -> Result<()> {
        let Some(first) = planned.iter().find(|one| one.merged.is_none()) else {
            return Err(Error::bug("an experiment of merges alone"));
        };
        let differ = |what: &str, other: &Planned| {
            Error::input(format!("`{what}` of `{}` is not that of `{}`", other.recipe_name, first.recipe_name))
                .hint("an experiment compares recipes over one data set, one model and one budget; change it for all with the experiment's `set`")
        };
        for (entry, other) in self.recipes.iter().zip(planned) {
            let a = &first.recipe;
            let b = &other.recipe;
            // The runs that are merged were compared as entries of their own.
            if let Some(merged) = &other.merged {
                let batch = |recipe: &Recipe| recipe.schedule.batch;
                let is_same = merged.sources.iter().all(|of| batch(of) == batch(a));
                if !entry.own_budget && !is_same {
                    return Err(differ("schedule.batch", other));
                }
                continue;
            }
            let same = [
                // What it computes in may be what is compared.
                (
                    "model",
                    a.model.path == b.model.path && a.model.weights == b.model.weights,
                ),
                ("train", a.train == b.train),
                ("lora", a.lora == b.lora),
                ("prompts", a.prompts == b.prompts),
                ("optimiser", optimiser(a) == optimiser(b)),
                ("evaluate", a.evaluate == b.evaluate),
                ("data", entry.own_budget || rows(a) == rows(b)),
                (
                    "schedule.batch",
                    entry.own_budget || a.schedule.batch == b.schedule.batch,
                ),
            ];
            if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
                return Err(differ(what, other));
            }
            for stage in &other.recipe.schedule.stages {
                let key = [
                    ("learning_rate", stage.learning_rate.is_some()),
                    ("early_stop", stage.early_stop.is_some()),
                ];
                if let Some((key, _)) = key.iter().find(|(_, is_there)| *is_there) {
                    return Err(Error::input(format!("a stage of `{}` has `{key}`", other.recipe_name))
                        .hint("remove it: all recipes of an experiment plan the same learning rate for the same step, and only stages with `end: msft` may end early"));
                }
            }
        }
        Ok(())
    }

    /// Compares the lengths of the planned schedules, in recipes' order: steps times examples are
    /// the budget.
    pub fn check_budget(&self, lengths: &[u64]) -> Result<()> {
        let common = self
            .recipes
            .iter()
            .zip(lengths)
            .find(|(entry, _)| !entry.own_budget);
        let Some((first, steps)) = common else {
            return Ok(());
        };
        match self.recipes.iter().zip(lengths).find(|(entry, other)| !entry.own_budget && *other != steps) {
            Some((other, found)) => Err(Error::input(format!("`{}` has {found} steps, `{}` {steps}", other.name, first.name))
                .hint("give them the same budget, or write `own_budget: true` beside a recipe that is there for another reason")),
            None => Ok(()),
        }
    }
}

impl Entry {
    /// Refuses an entry that is both a recipe and a merge, or neither, and keys that a merge does
    /// not follow.
    fn check(&self) -> Result<()> {
        let Some(merge) = &self.merge else {
            return match self.recipe {
                Some(_) => Ok(()),
                None => Err(
                    Error::input("an entry of `recipes` has neither `recipe` nor `merge`")
                        .hint("write `recipe: FILE`, or `merge: {of: [NAME, NAME]}`"),
                ),
            };
        };
        if self.recipe.is_some() {
            return Err(
                Error::input("an entry of `recipes` has both `recipe` and `merge`")
                    .hint("keep one of them: a merge trains nothing itself"),
            );
        }
        if self.name.is_empty() {
            return Err(Error::input("an entry with `merge` has no `name`")
                .hint("write `name: merged`, the name of the merge in the comparison"));
        }
        files::check_name(&self.name).map_err(|e| e.at("`name` of a merge"))?;
        if !self.set.is_empty() {
            return Err(
                Error::input(format!("`set` beside `merge` in `{}`", self.name))
                    .hint("write `set` in the entries that are merged"),
            );
        }
        merge.check().map_err(|e| e.at(format!("`{}`", self.name)))
    }
}

/// Name of the run of an entry for a seed.
fn run_name(name: &str, seed: usize) -> String {
    format!("{name}-seed{}", seed + 1)
}

/// A hint that names the recipes, the one that is nearest to an unknown name first.
fn known_names(name: &str, known: &[&str]) -> String {
    let near = yaml::nearest(name, known.iter().copied())
        .map(|near| format!("did you mean `{near}`? "))
        .unwrap_or_default();
    format!("{near}the recipes are {}", known.join(", "))
}

/// The optimiser of a recipe, but for `lora_plus`, which may be what is compared.
/// So may `restart`.
fn optimiser(recipe: &Recipe) -> optimiser::Settings {
    optimiser::Settings {
        lora_plus: 1.0,
        restart: false,
        ..recipe.optimiser.clone()
    }
}

/// The rows of a recipe; weights say how they are mixed, which is what is compared.
fn rows(recipe: &Recipe) -> Vec<(&Path, Option<&str>)> {
    recipe
        .data
        .iter()
        .map(|entry| (entry.manifest.as_path(), entry.task.as_deref()))
        .collect()
}
