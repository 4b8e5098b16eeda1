//! A suite: the sets that a model is evaluated on.

mod load;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::majority::Majority;
use crate::featurise::Loader;
use crate::metrics;
use crate::metrics::Normaliser;
use crate::models::generate::Sampling;
use crate::records::suite_file::Baseline;
use crate::records::suite_file::ClusterBy;
use crate::records::suite_file::Control;
use crate::records::suite_file::Role;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;
use crate::task::Parse;
use crate::task::Task;
use crate::task::Wording;

/// A suite, its rows read.
#[derive(Clone)]
pub struct Suite {
    /// The stem of its file.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its sets.
    pub sets: Vec<Set>,
    /// How answers are generated.
    pub generation: Sampling,
    /// Whether answers begin with a language that the suite says.
    pub is_language_forced: bool,
    /// Other ways to ask, for comparison.
    pub controls: Vec<Control>,
    /// What takes no model, for comparison.
    pub baselines: Vec<Baseline>,
    /// The suite's own file and its manifests.
    pub files: Vec<PathBuf>,
    /// What is wrong with rows that were left out.
    pub skipped: Vec<Error>,
    /// What a user should know of the manifests: fields that are not read, spellings that were
    /// folded.
    pub notes: Vec<String>,
}

/// One set, its rows turned into examples.
#[derive(Clone)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What the model is asked.
    pub task: Task,
    /// Which of the task's instructions are asked.
    pub wording: Wording,
    /// The examples.
    pub examples: Vec<Example>,
    /// What is computed; `None` for what the registry of metrics gives the kind of task by default.
    pub metrics: Option<Vec<String>>,
    /// What is taken out of texts before they are compared.
    pub normalisers: Vec<Normaliser>,
    /// What ROUGE and BLEU leave open.
    pub settings: metrics::Settings,
    /// How answers become labels.
    pub parses: Vec<Parse>,
    /// Whether labels are also chosen by likelihood.
    pub likelihood: bool,
    /// What the scores are shown apart by.
    pub slices: Vec<String>,
    /// What is resampled as one.
    pub cluster: ClusterBy,
    /// What was said in each example, as far as the data know; empty unless a baseline takes it.
    pub transcripts: Vec<Option<Box<str>>>,
    /// The commonest label, where a baseline takes it.
    pub majority: Option<Majority>,
}

impl Suite {
    /// The examples that cannot be read, with what is wrong: place of the set, place in the set.
    /// All clips are decoded for that.
    ///
    /// # Errors
    /// Anything but bad input: a disk that fails.
    pub fn unreadable(&self, loader: &Loader) -> Result<Vec<(usize, usize, Error)>> {
        let mut found = Vec::new();
        for (place, set) in self.sets.iter().enumerate() {
            for (example, error) in set.unreadable(loader)? {
                found.push((place, example, error.at(format!("set `{}`", set.name))));
            }
        }
        Ok(found)
    }

    /// Checks that a checkpoint's answers name their language where the suite forces one.
    ///
    /// # Errors
    /// A checkpoint of another family.
    pub fn check_language(&self, loader: &Loader) -> Result<()> {
        match self.is_language_forced {
            true => loader
                .codec()
                .expect_languages()
                .map_err(|e| e.at(format!("suite `{}`: `generation.language`", self.name))),
            false => Ok(()),
        }
    }

    /// The suite without some of its examples.
    ///
    /// # Errors
    /// A set that has none left.
    pub fn without(&self, bad: &[(usize, usize, Error)]) -> Result<Self> {
        let mut suite = self.clone();
        for (place, set) in suite.sets.iter_mut().enumerate() {
            let of_set: BTreeSet<usize> = bad
                .iter()
                .filter(|(of, ..)| *of == place)
                .map(|(_, example, _)| *example)
                .collect();
            *set = set.without(&of_set)?;
        }
        Ok(suite)
    }

    /// Number of examples in all sets.
    pub fn num_examples(&self) -> usize {
        self.sets.iter().map(|set| set.examples.len()).sum()
    }
}

impl Set {
    /// The examples that cannot be read, by place, with what is wrong. All clips are decoded for
    /// that.
    ///
    /// # Errors
    /// Anything but bad input: a disk that fails.
    pub fn unreadable(&self, loader: &Loader) -> Result<Vec<(usize, Error)>> {
        let found: Vec<(usize, Result<()>)> = self
            .examples
            .par_iter()
            .enumerate()
            .map(|(place, example)| {
                let loaded = loader.load(example, Mode::Generate, Key::new(0, "readable"));
                (place, loaded.map(drop))
            })
            .collect();
        let mut bad = Vec::new();
        for (place, found) in found {
            match found {
                Ok(()) => {}
                Err(error) if error.kind == Kind::Input => bad.push((place, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(bad)
    }

    /// The set without the examples at some places.
    ///
    /// # Errors
    /// None are left.
    pub fn without(&self, places: &BTreeSet<usize>) -> Result<Self> {
        let mut set = self.clone();
        let mut kept = (0..self.examples.len()).map(|place| !places.contains(&place));
        set.examples.retain(|_| kept.next().unwrap_or(true));
        let mut kept = (0..self.transcripts.len()).map(|place| !places.contains(&place));
        set.transcripts.retain(|_| kept.next().unwrap_or(true));
        if set.examples.is_empty() {
            return Err(
                Error::input("none of its rows can be read").at(format!("set `{}`", self.name))
            );
        }
        Ok(set)
    }
}
