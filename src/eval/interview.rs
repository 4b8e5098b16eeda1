//! A suite put to one model: which of its questions were answered before, and the asking of the
//! others.

use std::collections::HashSet;

use blake3::Hash;
use rayon::prelude::*;

use crate::error::Error;
use crate::error::Result;
use crate::eval::answers::Asker;
use crate::eval::content::Asked;
use crate::eval::content::Contents;
use crate::eval::question;
use crate::eval::question::Question;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::records::answers::Store;
use crate::records::prediction::Prediction;

/// The questions of a suite, with what the answer of a certain model to each depends on.
pub struct Interview<'a> {
    sets: Vec<(&'a Set, Vec<(Question<'a>, Hash)>)>,
}

impl<'a> Interview<'a> {
    /// The questions of a suite to a model.
    ///
    /// # Errors
    /// Clips that cannot be read; conversations that cannot be encoded.
    pub fn new(suite: &'a Suite, asked: &Asked, contents: &Contents) -> Result<Self> {
        let mut sets = Vec::with_capacity(suite.sets.len());
        for set in &suite.sets {
            let questions = question::questions(set).into_par_iter();
            let keyed = questions.map(|question| {
                let key = asked.key(&question, contents)?;
                Ok((question, key))
            });
            let keyed = keyed.collect::<Result<Vec<_>>>();
            let keyed = keyed.map_err(|e| e.at(format!("set `{}`", set.name)))?;
            sets.push((set, keyed));
        }
        Ok(Self { sets })
    }

    /// Number of questions.
    pub fn num_questions(&self) -> usize {
        self.sets.iter().map(|(_, questions)| questions.len()).sum()
    }

    /// Number of those that a store has no answer to, however often the same one is asked.
    pub fn num_left(&self, store: &Store) -> usize {
        self.sets
            .iter()
            .flat_map(|(_, questions)| questions)
            .filter(|(_, key)| store.get(key).is_none())
            .count()
    }

    /// The keys of those that a store has no answer to.
    pub fn open(&self, store: &Store) -> HashSet<Hash> {
        let keys = self
            .sets
            .iter()
            .flat_map(|(_, questions)| questions.iter().map(|(_, key)| *key));
        keys.filter(|key| store.get(key).is_none()).collect()
    }

    /// Asks what the store has no answer to and keeps every answer at once; `kept` is called after
    /// each.
    ///
    /// # Errors
    /// Those of the asking and of the disk, and what `kept` returns; what was kept before is kept.
    pub fn ask(
        &self,
        asker: &Asker,
        store: &mut Store,
        kept: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        for (set, questions) in &self.sets {
            let mut seen = HashSet::new();
            let open: Vec<&(Question, Hash)> = questions
                .iter()
                .filter(|(_, key)| store.get(key).is_none() && seen.insert(*key))
                .collect();
            let asked: Vec<&Question> = open.iter().map(|(question, _)| question).collect();
            let mut take = |place: usize, found| {
                store.keep(open[place].1, found)?;
                kept()
            };
            asker
                .ask(&asked, &mut take)
                .map_err(|e| e.at(format!("set `{}`", set.name)))?;
        }
        Ok(())
    }

    /// The predictions of each set, all from the store.
    ///
    /// # Errors
    /// A question without an answer, which is a fault of ours.
    pub fn predictions(&self, loader: &Loader, store: &Store) -> Result<Vec<Vec<Prediction>>> {
        let mut predictions = Vec::with_capacity(self.sets.len());
        for (set, questions) in &self.sets {
            let found = questions.iter().map(|(_, key)| store.get(key).cloned());
            let found = found.collect::<Option<Vec<_>>>();
            let found = found.ok_or_else(|| Error::bug("a question was not asked"))?;
            predictions.push(question::predictions(set, loader, found)?);
        }
        Ok(predictions)
    }
}
