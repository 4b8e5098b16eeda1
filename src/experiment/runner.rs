//! Runs an experiment: every recipe with every seed, each trained to its end, its last weights (or
//! the average of its last checkpoints) and its best on dev evaluated once; finished runs are left
//! as they are. Entries that merge others train nothing: the last adapters of a seed's runs become
//! one, and so do their best on dev.

use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;

use crate::data::OnBadRow;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval;
use crate::eval::suite::Suite;
use crate::experiment::Experiment;
use crate::experiment::MergedRun;
use crate::experiment::Planned;
use crate::featurise::Loader;
use crate::files;
use crate::files::Lock;
use crate::machine;
use crate::merge::Request;
use crate::merge::merge_folders;
use crate::models::AudioLlm;
use crate::models::trained;
use crate::models::trained::Trained;
use crate::recipe::Begun;
use crate::recipe::Opening;
use crate::recipe::Recipe;
use crate::records::checkpoint_state::State;
use crate::records::run_folder::CHECKPOINTS;
use crate::records::scores;
use crate::records::scores::Scores;
use crate::records::scores::ScoresFile;
use crate::stop::Stop;
use crate::train;
use crate::train::Observer;
use crate::train::average;
use crate::train::checkpoint;

/// Folder of a run's answers to the test suite, with its last weights.
pub const TEST_FOLDER: &str = "test";
/// Folder of a run's answers to the test suite, with the weights that were best on dev.
pub const BEST_FOLDER: &str = "test-best";

/// Folder of a merge of the last weights of runs.
const MERGED: &str = "adapter";
/// Folder of a merge of the weights that were best on dev.
const MERGED_BEST: &str = "adapter-best";

/// Who watches an experiment.
pub trait Watcher {
    /// Run number `place` (from 0) of `total` begins or goes on.
    fn begins(&mut self, planned: &Planned, place: usize, total: usize, begun: &Begun);
    /// Run number `place` (from 0) of `total` is a merge.
    fn merges(&mut self, planned: &Planned, place: usize, total: usize);
    /// What watches the run itself.
    fn observer(&mut self) -> &mut dyn Observer;
    /// The test suite was answered.
    fn tested(&mut self, scores: &Scores);
    /// Something the user should know.
    fn note(&mut self, text: &str);
}

/// Where models are and what they compute on.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// What computes.
    pub device: &'a Device,
    /// Finds the folder of a checkpoint by its name.
    pub model_dir: &'a dyn Fn(&str) -> Result<PathBuf>,
    /// Whether to begin although the memory of the machine is too small.
    pub ignore_memory: bool,
}

/// Trains and judges what is not done yet.
///
/// Several processes may work on one experiment: each takes runs that no other is at. Returns the
/// number of runs that others are still at.
///
/// # Errors
/// As training: what was finished stays, and the experiment goes on from there when it is started
/// again.
pub fn run(
    experiment: &Experiment,
    planned: &[Planned],
    test: Option<&Suite>,
    model: Models,
    watcher: &mut dyn Watcher,
    stop: &Stop,
) -> Result<usize> {
    // A run that another process had begun is looked at again once this one has nothing else to do:
    // the other may have been stopped.
    loop {
        let mut has_run = false;
        for (place, one) in planned.iter().enumerate() {
            let claims = experiment.folder().join(".claims").join(&one.recipe.name);
            if is_done(&one.recipe.folder(), test.is_some()) || !is_ready(one) {
                continue;
            }
            let Some(_claim) = Lock::try_take(&claims)? else {
                watcher.note(&format!(
                    "{} is being trained by another process",
                    one.recipe.name
                ));
                continue;
            };
            if is_done(&one.recipe.folder(), test.is_some()) {
                continue;
            }
            let outcome = run_one(one, (place, planned.len()), test, model, watcher, stop);
            outcome.map_err(|e| {
                if e.kind == Kind::Interrupted {
                    e.hint("start the experiment again: it continues where it stopped")
                } else {
                    e
                }
            })?;
            has_run = true;
        }
        let left = planned
            .iter()
            .filter(|one| !is_done(&one.recipe.folder(), test.is_some()))
            .count();
        if left == 0 || !has_run {
            return Ok(left);
        }
    }
}

/// Whether all runs that an entry merges were trained to their end.
fn is_ready(one: &Planned) -> bool {
    let mut sources = one.merged.iter().flat_map(|merged| &merged.sources);
    sources.all(|source| is_done(&source.folder(), false))
}

/// Whether a run was trained to its end and evaluated.
pub fn is_done(folder: &Path, is_tested: bool) -> bool {
    folder.join(DONE_FILE).is_file()
        && (!is_tested
            || folder
                .join("eval")
                .join(BEST_FOLDER)
                .join(scores::SCORES_FILE)
                .is_file())
}

/// Written once a run is at its end; its steps.
pub const DONE_FILE: &str = "done.json";

fn run_one(
    one: &Planned,
    (place, total): (usize, usize),
    test: Option<&Suite>,
    model: Models,
    watcher: &mut dyn Watcher,
    stop: &Stop,
) -> Result<()> {
    if let Some(merged) = &one.merged {
        watcher.merges(one, place, total);
        return run_merged(one, merged, test, model, watcher, stop);
    }
    let Models {
        device,
        model_dir,
        ignore_memory,
    } = model;
    let begun = one.recipe.begin(Opening {
        resume: true,
        device,
        model_dir: &|| model_dir(&one.recipe.model.path),
        // The experiment compared its rows before its first run.
        leakage: None,
        ignore_memory,
        watch: &mut |_, _, _| train::check(stop),
    })?;
    watcher.begins(one, place, total, &begun);
    let Begun {
        run,
        schedule,
        mut model,
        mut optimiser,
        mut state,
        fit: _,
        notes: _,
        lock: _lock,
    } = begun;
    train::train(
        &run,
        schedule,
        &mut model,
        &mut optimiser,
        &mut state,
        watcher.observer(),
        stop,
    )?;
    files::write_atomic(
        &run.folder.join(DONE_FILE),
        format!("{{\"steps\": {}}}\n", state.step).as_bytes(),
    )?;
    let Some(suite) = test else { return Ok(()) };
    let is_averaged = run.checkpoint.average > 0;
    if is_averaged {
        let average = run.folder.join(average::FOLDER);
        trained::load_into(&average, &model).map_err(|e| e.at_path(&average))?;
    }
    let tested = Tested {
        folder: &run.folder,
        loader: &run.loader,
        suite,
        on_bad_row: run.on_bad_row,
    };
    tested.judge(&model, TEST_FOLDER, watcher, stop)?;
    let best = run.folder.join("best");
    if best.is_dir() && (is_averaged || !is_of_last(&State::read(&best)?, &state)) {
        checkpoint::load(&best, &model, &mut optimiser)?;
        return tested.judge(&model, BEST_FOLDER, watcher, stop);
    }
    // The last weights are the best, or no suite tells.
    copy_answers(&run.folder, suite)
}

/// Merges the adapters of runs and evaluates the merged ones. A merge that was interrupted begins
/// anew.
fn run_merged(
    one: &Planned,
    merged: &MergedRun,
    test: Option<&Suite>,
    models: Models,
    watcher: &mut dyn Watcher,
    stop: &Stop,
) -> Result<()> {
    let folder = one.recipe.folder();
    files::remove_dir(&folder)?;
    let model_dir = (models.model_dir)(&one.recipe.model.path)?;
    let mut last = Vec::with_capacity(merged.sources.len());
    let mut best = Vec::with_capacity(merged.sources.len());
    for source in &merged.sources {
        let weights = last_weights(source)?;
        let best_on_dev = source.folder().join("best");
        best.push(match best_on_dev.is_dir() {
            true => best_on_dev,
            false => weights.clone(),
        });
        last.push(weights);
    }
    for (name, adapters) in [(MERGED, &last), (MERGED_BEST, &best)] {
        let request = Request {
            model_dir: &model_dir,
            model: &one.recipe.model.path,
            adapters,
            settings: &merged.settings,
            out: &folder.join(name),
        };
        merge_folders(request, &mut |_, _| train::check(stop))?;
    }
    let count = merged.sources.len();
    files::write_atomic(
        &folder.join(DONE_FILE),
        format!("{{\"merged\": {count}}}\n").as_bytes(),
    )?;

    let Some(suite) = test else { return Ok(()) };
    let config = one.recipe.config(&model_dir)?;
    let loader = Loader::new(&model_dir, &config, one.recipe.max_audio_s)?;
    let tested = Tested {
        folder: &folder,
        loader: &loader,
        suite,
        on_bad_row: one.recipe.on_bad_row,
    };
    let precision = one.recipe.model.precision.on(models.device)?.precision;
    for (name, answers) in [(MERGED, TEST_FOLDER), (MERGED_BEST, BEST_FOLDER)] {
        if name == MERGED_BEST && last == best {
            return copy_answers(&folder, suite);
        }
        let trained = Trained::load(&folder.join(name), &config)?;
        if !models.ignore_memory {
            machine::fit::check_answering(&config, &trained.plan(), precision, models.device)?;
        }
        let model = trained.open(&model_dir, &config, models.device, Some(precision))?;
        tested.judge(&model, answers, watcher, stop)?;
    }
    Ok(())
}

/// The folder of the weights that a finished run ended with: of its last checkpoint, or of its
/// average where it has one.
fn last_weights(recipe: &Recipe) -> Result<PathBuf> {
    let folder = recipe.folder();
    if recipe.checkpoint.average > 0 {
        return Ok(folder.join(average::FOLDER));
    }
    let checkpoints = folder.join(CHECKPOINTS);
    match checkpoint::list(&checkpoints)?.pop() {
        Some((_, last)) => Ok(last),
        None => Err(Error::input("no checkpoint of a finished run is left")
            .at_path(&checkpoints)
            .hint(
                "put its last checkpoint back, or remove the folder of the run to train it again",
            )),
    }
}

/// Copies the answers of the last weights to the place of those that were best on dev.
fn copy_answers(folder: &Path, suite: &Suite) -> Result<()> {
    let from = folder.join("eval").join(TEST_FOLDER);
    let to = folder.join("eval").join(BEST_FOLDER);
    let sets = suite.sets.iter().map(|set| format!("{}.jsonl", set.name));
    sets.chain([scores::SCORES_FILE.to_owned()])
        .try_for_each(|name| files::copy(&from.join(&name), &to.join(&name)))
}

/// Whether a best checkpoint has the weights that a run ended with. Before a roll-back at the last
/// step it has others.
fn is_of_last(best: &State, last: &State) -> bool {
    best.step == last.step && !best.is_roll_back_pending()
}

/// A run that is evaluated on the test suite.
struct Tested<'a> {
    /// Folder of the run.
    folder: &'a Path,
    loader: &'a Loader,
    suite: &'a Suite,
    on_bad_row: OnBadRow,
}

impl Tested<'_> {
    /// Answers the test suite, if these weights have not answered it before.
    fn judge(
        &self,
        model: &AudioLlm,
        name: &str,
        watcher: &mut dyn Watcher,
        stop: &Stop,
    ) -> Result<()> {
        let folder = self.folder.join("eval").join(name);
        if folder.join(scores::SCORES_FILE).is_file() {
            return Ok(());
        }
        let observer = watcher.observer();
        let found = eval::evaluate(
            model,
            self.loader,
            self.suite,
            self.on_bad_row,
            &mut |done, total| {
                observer.evaluating(done, total);
                train::check(stop)
            },
        )?;
        for error in &found.skipped {
            watcher.note(&format!("row left out: {}", error.message()));
        }
        found.write_predictions(&folder)?;
        ScoresFile::of(found.scores.clone()).write(&folder)?;
        watcher.tested(&found.scores);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stats::msft::Progress;

    #[test]
    fn the_best_before_a_roll_back_is_not_the_last() {
        let at = |step: u64, pending: Option<u64>| {
            let progress = Progress {
                pending,
                ..Progress::default()
            };
            State {
                step,
                msft: BTreeMap::from([(0, progress)]),
                ..State::new(BTreeMap::new())
            }
        };
        let last = at(4, None);
        assert!(is_of_last(&at(4, None), &last));
        assert!(!is_of_last(&at(2, None), &last));
        assert!(!is_of_last(&at(4, Some(2)), &last));
    }
}
