//! Summaries graded by a model behind an endpoint: asked patiently, cached by content, counted in
//! tokens and dollars.
//!
//! No other metric needs it. Several threads ask at once; the thread that called writes the cache
//! and is told of progress. A failure that may pass is waited out; one that will not ends the run,
//! and what was judged until then stays in the cache, so that the next run goes on from there.

pub mod answer;
pub mod cache;
pub mod rubric;
pub mod summaries;

pub use crate::endpoint::key;
pub use crate::endpoint::patience;
pub use crate::endpoint::request;

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use crate::endpoint::Answer;
use crate::endpoint::Caller;
pub use crate::endpoint::bill::Bill;
use crate::endpoint::patience::Patience;
use crate::endpoint::request::Endpoint;
use crate::endpoint::request::Message;
use crate::endpoint::request::Usage;
use crate::error::Error;
use crate::error::Result;
use crate::eval::judge::cache::Cache;
use crate::eval::judge::cache::Judged;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Rubric;
use crate::seed::Key as SeedKey;
use crate::stop::Stop;

/// What a run of judging asks, and whom.
pub struct Judge<'a> {
    /// What the model is told.
    pub rubric: &'a Rubric,
    /// Who is asked.
    pub endpoint: &'a Endpoint,
    /// How long and how often.
    pub patience: Patience,
    /// Requests under way at once.
    pub num_threads: usize,
}

/// What is told while a run goes on.
pub enum Progress<'a> {
    /// So many of so many items are judged.
    Done(usize, usize),
    /// A request failed and is waited for.
    Waiting {
        /// What happened.
        why: &'a str,
        /// How long.
        wait: Duration,
    },
}

/// What one item got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A verdict.
    Judged(Judged),
    /// No answer that can be used, after as many as [`Patience::max_answers`] allows; what was
    /// wrong with the last.
    Unusable(String),
}

/// What a run found.
#[derive(Debug)]
pub struct Verdicts {
    /// By item, in their order.
    pub outcomes: Vec<Outcome>,
    /// Items whose verdict was in the cache, or was that of another item.
    pub num_cached: usize,
    /// What was asked in this run.
    pub bill: Bill,
    /// The limit that ended the asking, in words; none where everything was asked.
    pub limit: Option<String>,
}

impl Verdicts {
    /// The mean grade on each scale over the items that have one, in the order of the rubric; none
    /// over none.
    pub fn means(&self) -> Option<Vec<f64>> {
        let grades: Vec<&Vec<i64>> = self
            .outcomes
            .iter()
            .filter_map(|outcome| {
                if let Outcome::Judged(judged) = outcome {
                    Some(&judged.verdict.grades)
                } else {
                    None
                }
            })
            .collect();
        let num_scales = grades.first()?.len();
        Some(
            (0..num_scales)
                .map(|scale| {
                    grades
                        .iter()
                        .map(|grades| grades[scale] as f64)
                        .sum::<f64>()
                        / grades.len() as f64
                })
                .collect(),
        )
    }

    /// Items that no usable answer was found for.
    pub fn num_unusable(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Outcome::Unusable(_)))
            .count()
    }
}

/// A question that the cache does not answer.
struct Question {
    key: String,
    messages: Vec<Message>,
}

/// What a thread tells the one that called.
enum Report {
    Waiting {
        why: String,
        wait: Duration,
    },
    Found {
        key: String,
        outcome: Outcome,
    },
    /// An answer came, whether it can be used or not.
    Answered(Option<Usage>),
    Limit(String),
    Failed(Error),
}

/// What the asking came to.
#[derive(Default)]
struct Asked {
    unusable: HashMap<String, String>,
    limit: Option<String>,
}

impl Judge<'_> {
    /// Judges items; what the cache knows is not asked, and what is asked is added to it at once.
    ///
    /// # Errors
    /// An endpoint that refuses, or fails more often than patience allows; a stop that was asked
    /// for, after the requests under way.
    pub fn judge(
        &self,
        items: &[Item],
        cache: &mut Cache,
        stop: &Stop,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Verdicts> {
        self.judge_with_bill(items, cache, stop, progress, &mut Bill::default())
    }

    /// As [`Judge::judge`]; what was spent is added to `bill`, also where the run ends in an error.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn judge_with_bill(
        &self,
        items: &[Item],
        cache: &mut Cache,
        stop: &Stop,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
        bill: &mut Bill,
    ) -> Result<Verdicts> {
        let keys: Vec<String> = items
            .iter()
            .map(|item| cache::key(self.endpoint, self.rubric, item))
            .collect();
        let mut seen = HashSet::new();
        let new = items
            .iter()
            .zip(&keys)
            .filter(|(_, key)| cache.get(key).is_none() && seen.insert(key.as_str()));
        let questions = new
            .map(|(item, key)| {
                Ok(Question {
                    key: key.clone(),
                    messages: self.rubric.messages(item)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let Asked { unusable, limit } =
            self.ask_all(&questions, items.len(), cache, stop, progress, bill)?;
        let outcome = |key: &String| match (cache.get(key), unusable.get(key), &limit) {
            (Some(judged), ..) => Ok(Outcome::Judged(judged.clone())),
            (None, Some(fault), _) => Ok(Outcome::Unusable(fault.clone())),
            (None, None, Some(limit)) => Ok(Outcome::Unusable(format!("not asked: {limit}"))),
            (None, None, None) => Err(Error::bug("a question was lost")),
        };
        Ok(Verdicts {
            outcomes: keys.iter().map(outcome).collect::<Result<_>>()?,
            num_cached: items.len() - questions.len(),
            bill: *bill,
            limit,
        })
    }

    /// Asks the questions in several threads, and keeps what they find.
    fn ask_all(
        &self,
        questions: &[Question],
        num_items: usize,
        cache: &mut Cache,
        stop: &Stop,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
        bill: &mut Bill,
    ) -> Result<Asked> {
        let caller = Caller::new(self.endpoint, self.patience, stop);
        let next = AtomicUsize::new(0);
        let mut asked = Asked::default();
        let mut done = num_items - questions.len();
        progress(Progress::Done(done, num_items))?;
        std::thread::scope(|scope| {
            let (sender, reports) = mpsc::channel();
            for _ in 0..self.num_threads.clamp(1, questions.len().max(1)) {
                let sender = sender.clone();
                let caller = &caller;
                let next = &next;
                scope.spawn(move || self.work(questions, next, caller, &sender));
            }
            drop(sender);
            let mut failed = None;
            // Reports come until every thread has ended, so that no answer that was paid for is
            // lost.
            for report in reports {
                let handled = match report {
                    Report::Waiting { why, wait } => {
                        progress(Progress::Waiting { why: &why, wait })
                    }
                    Report::Failed(error) => Err(error),
                    Report::Answered(usage) => {
                        bill.add(usage);
                        Ok(())
                    }
                    Report::Limit(reached) => {
                        caller.end();
                        asked.limit.get_or_insert(reached);
                        Ok(())
                    }
                    Report::Found { key, outcome } => {
                        done += 1;
                        let kept = match outcome {
                            Outcome::Judged(judged) => cache.add(&key, judged),
                            Outcome::Unusable(fault) => {
                                asked.unusable.insert(key, fault);
                                Ok(())
                            }
                        };
                        kept.and_then(|()| progress(Progress::Done(done, num_items)))
                    }
                };
                if let Err(error) = handled {
                    caller.end();
                    failed.get_or_insert(error);
                }
            }
            failed.map_or(Ok(()), Err)
        })?;
        let is_stopped = stop.is_requested() && done < num_items;
        if is_stopped {
            Err(Error::interrupted(format!(
                "stopped; {} verdicts are in the cache",
                cache.len()
            )))
        } else {
            Ok(asked)
        }
    }

    /// One thread: question after question until there is none.
    fn work(
        &self,
        questions: &[Question],
        next: &AtomicUsize,
        caller: &Caller,
        sender: &mpsc::Sender<Report>,
    ) {
        while !caller.has_ended() {
            let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let report = match self.ask(question, caller, sender) {
                Ok(Some(report)) => report,
                Ok(None) => return,
                Err(error) => {
                    caller.end();
                    Report::Failed(error)
                }
            };
            // Where nobody listens any more the run is over.
            if sender.send(report).is_err() {
                return;
            }
        }
    }

    /// Asks until an answer can be used, telling the judge each time what was wrong; none where the
    /// run ended meanwhile.
    fn ask(
        &self,
        question: &Question,
        caller: &Caller,
        sender: &mpsc::Sender<Report>,
    ) -> Result<Option<Report>> {
        let mut messages = question.messages.clone();
        let mut bill = Bill::default();
        let mut fault = String::new();
        for answer in 0..self.patience.max_answers {
            let draw = SeedKey::new(0, "judge")
                .with_name(&question.key)
                .with(u64::from(answer));
            let mut told = |why, wait| {
                let _ = sender.send(Report::Waiting { why, wait });
            };
            let parameters = &self.rubric.parameters;
            let reply = match caller.ask(&messages, parameters, draw, &mut told)? {
                Answer::Reply(reply) => reply,
                Answer::Limit(reached) => return Ok(Some(Report::Limit(reached))),
                Answer::Ended => return Ok(None),
            };
            bill.add(reply.usage);
            let _ = sender.send(Report::Answered(reply.usage));
            match answer::read(&reply.text, self.rubric) {
                Ok(mut verdict) => {
                    // What the answer escaped was not seen when its text was searched for the key.
                    verdict.reason = verdict.reason.map(|reason| self.endpoint.hide(&reason));
                    let usage = Usage {
                        prompt_tokens: bill.prompt_tokens,
                        completion_tokens: bill.completion_tokens,
                    };
                    return Ok(Some(Report::Found {
                        key: question.key.clone(),
                        outcome: Outcome::Judged(Judged {
                            verdict,
                            usage: (bill.unmetered == 0).then_some(usage),
                        }),
                    }));
                }
                Err(found) if reply.is_cut => {
                    fault = format!("{found}, and was cut off at the limit of tokens")
                }
                Err(found) => fault = found,
            }
            fault = self.endpoint.hide(&fault);
            if !reply.text.trim().is_empty() {
                messages.push(("assistant", reply.text));
            }
            messages.push(self.rubric.repair(&fault));
        }
        Ok(Some(Report::Found {
            key: question.key.clone(),
            outcome: Outcome::Unusable(fault),
        }))
    }
}
