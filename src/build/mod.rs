//! `maqam build`: speech-summarization data sets in the style of AraMega-SSum, from text to a
//! published folder.
//!
//! The steps are [`Step::ALL`]. `collect` and `clean` read the whole corpus, and determine split
//! and voice of every row. The steps between them and `split` process rows one by one: a step takes
//! a row to its next state or rejects it with a reason, and a journal stores the result (`store`).
//! Calls to models and speech engines are cached by content ([`cache`]). The result of a step for a
//! row depends only on the recipe, the row and those answers, so a build that was killed ends with
//! the same bytes.

pub mod agreement;
mod arabic;
mod assign;
pub mod cache;
pub mod call;
mod clean;
mod collect;
pub mod document;
mod estimate;
mod keys;
pub mod listen;
mod local;
mod numbers;
mod observer;
mod pace;
mod publish;
pub mod recipe;
mod sentences;
mod settings;
pub mod shard;
mod speak;
mod split;
mod spoken;
mod store;
mod summarise;
mod verify;
mod workers;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

pub use crate::build::document::Step;
pub use crate::build::estimate::Estimate;
pub use crate::build::local::Model;
pub use crate::build::local::Models;
pub use crate::build::observer::Observer;
pub use crate::build::observer::Outcome;
pub use crate::build::recipe::Recipe;
pub use crate::build::shard::Shard;

use crate::build::cache::Cache;
use crate::build::call::Calls;
use crate::build::listen::Listening;
use crate::build::listen::maqam::Recogniser;
use crate::build::publish::row::Described;
use crate::build::publish::row::Publishing;
use crate::build::speak::Speaking;
use crate::build::store::Journal;
use crate::build::store::Store;
use crate::build::summarise::Summarising;
use crate::build::verify::Verifying;
use crate::build::workers::Workers;
use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::files::Lock;
use crate::stop::Stop;
use crate::text_table::counted;

/// A build, opened.
pub struct Build<'a> {
    /// Recipe of the data set.
    pub recipe: Recipe,
    /// Folder of all data sets, `datasets`.
    pub root: PathBuf,
    /// Rows that this process works on.
    pub shard: Shard,
    /// Rows that are worked on at once.
    pub num_workers: usize,
    /// The recogniser, if the recipe names a maqam model.
    pub recogniser: Option<Recogniser>,
    /// Models of [`Recipe::local_models`].
    pub models: Models,
    /// Flag that ends the build.
    pub stop: &'a Stop,
}

impl Build<'_> {
    /// Folder of the data set.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.recipe.name)
    }

    /// Runs all steps up to and including `until`. Finished work is not repeated.
    ///
    /// # Errors
    /// A recipe or source that cannot be used; an engine that is missing or keeps failing; those of
    /// the disk. All finished work is stored, and the same command continues from there.
    pub fn run(&self, until: Step, observer: &mut dyn Observer) -> Result<Outcome> {
        self.recipe.check()?;
        let store = Store::open(&self.root, &self.recipe, &self.inputs()?)?;
        let cache = Cache::open(&self.root.join(".cache"))?;
        let calls = Calls::new(&cache, self.stop).hiding(&self.recipe.key_variables());
        let engines = Engines::open(self, &calls, until)?;

        let prepared = self.prepare(&store, until, observer)?;
        let Some(prepared) = prepared else {
            return store.outcome_of_collecting(self.stop);
        };
        // Claimed before the journals are read, so that no other process adds rows to them.
        let _claims = store.claim(self.shard)?;
        let mut journals = store.journals()?;
        for step in Step::ROW_BY_ROW.into_iter().filter(|step| *step <= until) {
            self.work(step, &store, &prepared, &mut journals, &engines, observer)?;
        }
        cache.sync()?;
        let mut outcome = prepared.outcome(&journals);
        let failed: Vec<String> = journals
            .iter()
            .flat_map(Journal::num_failed)
            .map(|(reason, num)| {
                let rows = counted(num as u64, "row");
                format!("rejected as `{reason}`: {rows}, which the same command tries again")
            })
            .collect();
        if !self.shard.is_whole() {
            outcome.notes.extend(failed);
            return Ok(outcome);
        }

        let folder = self.folder();
        files::create_dir(&folder)?;
        self.recipe.write_resolved(&folder.join("recipe.yaml"))?;
        let described = engines.described();
        let mut hashes = None;
        if until >= Step::Split {
            let rows = split::accepted(&prepared, &journals);
            outcome.notes = split::notes(&self.recipe, &prepared, &rows);
            let publishing = Publishing {
                recipe: &self.recipe,
                folder: &folder,
                store: &store,
                prepared: &prepared,
                journals: &journals,
                cache: &cache,
                engines: &described,
                rows: &rows,
                notes: &outcome.notes,
            };
            if until == Step::Publish {
                // If no row is left to publish, the user needs the reasons.
                if rows.is_empty() {
                    let reasons = publish::account::accounts(
                        &folder, &store, &prepared, &journals, None, &described,
                    )?;
                    if let Some(line) = rejections(&reasons, &folder) {
                        observer.line(&line);
                    }
                }
                hashes = Some(publishing.publish(self.stop, observer)?);
                outcome.published = Some(rows.len());
                outcome.pending = 0;
            }
        }
        let reasons = publish::account::accounts(
            &folder,
            &store,
            &prepared,
            &journals,
            hashes.as_ref(),
            &described,
        )?;
        outcome.notes.extend(rejections(&reasons, &folder));
        outcome.notes.extend(failed);
        Ok(outcome)
    }

    /// Estimates a build: collects and cleans, but sends no request to an engine.
    ///
    /// # Errors
    /// Those of [`Build::run`].
    pub fn estimate(&self, observer: &mut dyn Observer) -> Result<Estimate> {
        self.recipe.check()?;
        let store = Store::open(&self.root, &self.recipe, &self.inputs()?)?;
        let prepared = self
            .prepare(&store, Step::Publish, observer)?
            .ok_or_else(|| Error::bug("a dry run that cleans nothing"))?;
        estimate::estimate(&self.recipe, &store, &prepared)
    }

    /// What the results of each step depend on besides the recipe and the sources: prompts, files
    /// of the program, and hashes of the models on this machine.
    fn inputs(&self) -> Result<BTreeMap<Step, Vec<Value>>> {
        let recipe = &self.recipe;
        let mut found = BTreeMap::from([
            (Step::Summarise, summarise::prompts(recipe)?),
            (Step::Verify, verify::prompts(recipe)?),
            (Step::Speak, speak::files_read(recipe)),
        ]);
        for (step, _, name) in recipe.local_models() {
            let identity = self.models.identity(name);
            found.entry(step).or_default().push(identity);
        }
        if let Some(recogniser) = &self.recogniser {
            let files = recogniser.files.clone();
            found.entry(Step::Listen).or_default().push(files);
        }
        Ok(found)
    }

    /// Collects and cleans under a lock, so that shards which start together do it once; none if
    /// only `collect` was requested.
    fn prepare(
        &self,
        store: &Store,
        until: Step,
        observer: &mut dyn Observer,
    ) -> Result<Option<assign::Prepared>> {
        let _lock = Lock::wait(&store.folder().join("prepare"), |process| {
            observer.line(&format!("waiting for process {process}, which collects"));
        })?;
        if !store.collected().is_file() {
            collect::collect(&self.recipe, &store.collected(), observer)?;
        }
        if until == Step::Collect {
            return Ok(None);
        }
        if !store.cleaned().is_file() || !store.assigned().is_file() {
            clean::clean(&self.recipe, store, observer)?;
        }
        assign::Prepared::read(store).map(Some)
    }

    /// Takes the rows of this shard through one step.
    fn work(
        &self,
        step: Step,
        store: &Store,
        prepared: &assign::Prepared,
        journals: &mut [Journal],
        engines: &Engines,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let place = step.place_row_by_row()?;
        let (before, current) = journals.split_at_mut(place);
        let journal = current
            .first_mut()
            .ok_or_else(|| Error::bug("a step without a journal"))?;
        let rows = prepared.alive_before(before);
        let rows: Vec<usize> = rows
            .into_iter()
            .filter(|row| self.shard.has(*row) && !journal.has(*row))
            .collect();
        let view = workers::EarlierResults {
            store,
            prepared,
            before,
        };
        let workers = Workers {
            step,
            num_threads: self.num_workers,
            stop: self.stop,
            calls: engines.calls,
        };
        match step {
            Step::Summarise => workers.run(rows, journal, self.shard, observer, &|row| {
                engines.summarising.work(&view, row)
            }),
            Step::Verify => workers.run(rows, journal, self.shard, observer, &|row| {
                engines.verifying.work(&view, row)
            }),
            Step::Speak => workers.run(rows, journal, self.shard, observer, &|row| {
                engines.speaking.work(&view, row)
            }),
            _ => workers.run(rows, journal, self.shard, observer, &|row| {
                engines.listening.work(&view, row)
            }),
        }
    }
}

/// Numbers of rejected rows by reason, the most frequent first; none if no row was rejected.
fn rejections(reasons: &BTreeMap<String, usize>, folder: &Path) -> Option<String> {
    let mut listed: Vec<(&String, &usize)> = reasons.iter().collect();
    listed.sort_by_key(|(_, num)| std::cmp::Reverse(**num));
    let listed: Vec<String> = listed
        .into_iter()
        .map(|(reason, num)| format!("{num} as `{reason}`"))
        .collect();
    (!listed.is_empty()).then(|| {
        let file = folder.join("rejected.jsonl");
        format!(
            "rejected: {}; {} says why",
            listed.join(", "),
            file.display()
        )
    })
}

/// Engines of the steps between `clean` and `split`.
struct Engines<'a> {
    calls: &'a Calls<'a>,
    summarising: Summarising<'a>,
    verifying: Verifying<'a>,
    speaking: Speaking<'a>,
    listening: Listening<'a>,
}

impl<'a> Engines<'a> {
    /// Opens the engines of the steps up to `until`, so that a missing engine is reported before
    /// any work begins.
    fn open(build: &'a Build, calls: &'a Calls<'a>, until: Step) -> Result<Self> {
        let recipe = &build.recipe;
        let models = &build.models;
        let recogniser = build.recogniser.as_ref();
        Ok(Self {
            calls,
            summarising: Summarising::open(recipe, models, calls, until >= Step::Summarise)?,
            verifying: Verifying::open(recipe, models, calls, until >= Step::Verify)?,
            speaking: Speaking::open(recipe, calls, until >= Step::Speak)?,
            listening: Listening::open(recipe, calls, recogniser, models, until >= Step::Listen)?,
        })
    }

    /// Engines of each role, for the dataset card and the rows.
    fn described(&self) -> Described {
        Described {
            summaries: self.summarising.described(),
            judge: self.verifying.described(),
            speech: self.speaking.described(),
            transcription: self.listening.described(),
        }
    }
}

/// Reads ratings that `review.html` exported, and computes the agreement of raters.
///
/// # Errors
/// A file that holds no ratings.
pub fn agreement(paths: &[PathBuf]) -> Result<agreement::Agreement> {
    let read =
        |path: &PathBuf| -> Result<Vec<agreement::Rating>> { agreement::read(Path::new(path)) };
    let ratings = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
    agreement::agreement(&ratings.concat())
}
