//! Instructions of tasks, each tried on every row: the one that a model answers best.
//!
//! A base that is asked in words that it does not know scores low for another reason than that it
//! cannot do the task. What training is compared with is the base with its best instruction, found
//! on dev.

use crate::data::OnBadRow;
use crate::data::Role;
use crate::error::Error;
use crate::error::Result;
use crate::eval;
use crate::eval::suite::Set;
use crate::eval::suite::Suite;
use crate::featurise::Loader;
use crate::models::AudioLlm;
use crate::records::prompt_search::Candidate;
use crate::records::prompt_search::Searched;
use crate::records::scores::MEAN;
use crate::task::Example;
use crate::task::Task;
use crate::task::Wording;

/// Rows of a suite that are asked in one language of a task.
pub struct Asked<'a> {
    task: &'a Task,
    language: String,
    sets: Vec<Set>,
    /// Instructions to try, as the task's file has them.
    candidates: Vec<String>,
}

/// The tasks and languages of a suite whose rows are asked with an instruction of their task.
///
/// # Errors
/// A suite without such rows.
pub fn asked(suite: &Suite) -> Result<Vec<Asked<'_>>> {
    let mut found: Vec<Asked> = Vec::new();
    for set in &suite.sets {
        let with_instruction = |example: &&Example| example.wording.is_some();
        for example in set.examples.iter().filter(with_instruction) {
            let language = example.asked_in();
            let is_known =
                |known: &Asked| known.task.name == set.task.name && known.language == language;
            if !found.iter().any(is_known) {
                found.push(Asked {
                    task: &set.task,
                    language: language.to_owned(),
                    sets: sets_in(suite, &set.task.name, language),
                    candidates: candidates(&set.task, language),
                });
            }
        }
    }
    if found.is_empty() {
        return Err(
            Error::input("no row of the suite is asked with an instruction of its task").hint(
                "rows with `messages` or an `instruction` of their own have nothing to choose from",
            ),
        );
    }
    Ok(found)
}

/// The sets of a task with the rows that are asked in a language. Their headline alone is computed.
fn sets_in(suite: &Suite, task: &str, language: &str) -> Vec<Set> {
    let mut sets = Vec::new();
    for set in suite.sets.iter().filter(|set| set.task.name == task) {
        let is_asked =
            |example: &&Example| example.wording.is_some() && example.asked_in() == language;
        let examples: Vec<Example> = set.examples.iter().filter(is_asked).cloned().collect();
        if !examples.is_empty() {
            sets.push(Set {
                examples,
                metrics: Some(Vec::new()),
                likelihood: false,
                slices: Vec::new(),
                transcripts: Vec::new(),
                majority: None,
                ..set.clone()
            });
        }
    }
    sets
}

/// The instructions of training and of dev in a language, each once. Those of test stay unseen.
fn candidates(task: &Task, language: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for wording in [Wording::Train, Wording::Dev] {
        let wordings = task.instructions.of(wording).get(language);
        for text in wordings.into_iter().flatten() {
            if !found.contains(text) {
                found.push(text.clone());
            }
        }
    }
    found
}

impl Asked<'_> {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.sets.iter().map(|set| set.examples.len()).sum()
    }

    /// Number of answers that the search takes.
    pub fn num_answers(&self) -> usize {
        self.num_rows() * self.candidates.len()
    }

    /// Asks every row with every instruction; `progress` is told how many answers there are.
    ///
    /// The score is the mean over the task's sets of its metric as goodness in `[0, 1]`. Of equal
    /// ones the first is the best.
    ///
    /// # Errors
    /// Rows that cannot be read, and those of `progress`.
    pub fn search(
        &self,
        model: &AudioLlm,
        loader: &Loader,
        suite: &Suite,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Searched> {
        let mut tried: Vec<Candidate> = Vec::with_capacity(self.candidates.len());
        for (place, candidate) in self.candidates.iter().enumerate() {
            let before = place * self.num_rows();
            let instruction = self.task.fill(candidate, &self.language);
            let asked = Suite {
                sets: self.with(&instruction)?,
                controls: Vec::new(),
                baselines: Vec::new(),
                ..suite.clone()
            };
            let mut answered = |done: usize, _: usize| progress(before + done);
            let found = eval::evaluate(model, loader, &asked, OnBadRow::Error, &mut answered)?;
            let score = found.scores.get(MEAN);
            tried.push(Candidate {
                instruction: candidate.clone(),
                score: score.ok_or_else(|| Error::bug("an evaluation without a mean"))?,
            });
        }

        let mut best = 0;
        for (place, candidate) in tried.iter().enumerate() {
            if candidate.score > tried[best].score {
                best = place;
            }
        }
        Ok(Searched {
            task: self.task.name.clone(),
            language: self.language.clone(),
            rows: self.num_rows(),
            best,
            candidates: tried,
        })
    }

    /// The sets with one instruction in all rows.
    fn with(&self, instruction: &str) -> Result<Vec<Set>> {
        let mut sets = self.sets.clone();
        for set in &mut sets {
            for example in &mut set.examples {
                ask(example, self.task, instruction)?;
            }
        }
        Ok(sets)
    }
}

/// Puts an instruction in the place of the one that was drawn.
fn ask(example: &mut Example, task: &Task, instruction: &str) -> Result<()> {
    let wording = example.wording.as_deref();
    let drawn = wording.and_then(|wording| task.instruction(wording));
    let missing = || Error::bug(format!("row `{}` lacks its own instruction", example.id));
    let drawn = drawn.ok_or_else(missing)?;
    let asks = |message: &&mut crate::data::Message| {
        message.role == Role::User && message.content.contains(&drawn)
    };
    let Some(message) = example.messages.iter_mut().rev().find(asks) else {
        return Err(Error::bug("no message has the instruction that was drawn"));
    };
    message.content = message.content.replacen(&drawn, instruction, 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::task::Tasks;

    #[test]
    fn every_row_is_asked_the_same() {
        let tasks = Tasks::load(None).unwrap();
        let suite = Suite::load(Path::new("eval/first.yaml"), &tasks).unwrap();
        let found = asked(&suite).unwrap();
        let rows: usize = found.iter().map(Asked::num_rows).sum();
        assert_eq!(rows, suite.num_examples());
        for one in &found {
            assert!(one.candidates.len() > 3, "{:?}", one.candidates);
            let test = one.task.instructions.test.get(&one.language);
            let test = test.map(Vec::as_slice).unwrap_or_default();
            assert!(one.candidates.iter().all(|text| !test.contains(text)));
            for set in one.with("Say it in other words.").unwrap() {
                for example in &set.examples {
                    let users = example
                        .messages
                        .iter()
                        .filter(|message| message.role == Role::User);
                    let asked: Vec<&str> = users.map(|message| message.content.as_str()).collect();
                    assert_eq!(asked, ["<audio>Say it in other words."]);
                }
            }
        }
    }
}
