//! Summaries graded by a model behind an endpoint: asked patiently, cached by content, counted in tokens and dollars.
//!
//! No other metric needs it. Several threads ask at once; the thread that called writes the cache and is told of progress. A failure
//! that may pass is waited out; one that will not ends the run, and what was judged until then stays in the cache, so that the next
//! run goes on from there.

pub mod answer;
pub mod cache;
pub mod endpoint;
pub mod key;
pub mod patience;
pub mod rubric;

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::eval::judge::cache::Cache;
use crate::eval::judge::cache::Judged;
use crate::eval::judge::endpoint::Endpoint;
use crate::eval::judge::endpoint::Failure;
use crate::eval::judge::endpoint::Reply;
use crate::eval::judge::endpoint::Usage;
use crate::eval::judge::patience::Patience;
use crate::eval::judge::rubric::Item;
use crate::eval::judge::rubric::Message;
use crate::eval::judge::rubric::Prices;
use crate::eval::judge::rubric::Rubric;
use crate::seed::Key as Draw;

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
    /// No answer that can be used, after as many as [`Patience::max_answers`] allows; what was wrong with the last.
    Unusable(String),
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Requests that were answered.
    pub requests: usize,
    /// Tokens asked.
    pub prompt_tokens: u64,
    /// Tokens answered.
    pub completion_tokens: u64,
    /// Requests of which the endpoint did not say the tokens.
    pub unmetered: usize,
}

impl Bill {
    fn add(&mut self, usage: Option<Usage>) {
        self.requests += 1;
        match usage {
            Some(usage) => {
                self.prompt_tokens += usage.prompt_tokens;
                self.completion_tokens += usage.completion_tokens;
            }
            None => self.unmetered += 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
            unmetered: self.unmetered + other.unmetered,
        }
    }

    /// Dollars; none where a price or a number of tokens is not known.
    pub fn cost(&self, prices: Prices) -> Option<f64> {
        const MILLION: f64 = 1e6;
        match (
            self.requests,
            self.unmetered,
            prices.prompt,
            prices.completion,
        ) {
            (0, ..) => Some(0.0),
            (_, 0, Some(prompt), Some(completion)) => Some(
                (self.prompt_tokens as f64 * prompt + self.completion_tokens as f64 * completion)
                    / MILLION,
            ),
            _ => None,
        }
    }
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
}

impl Verdicts {
    /// The mean grade on each scale over the items that have one, in the order of the rubric; none over none.
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
        bill: Bill,
    },
    Failed(Error),
}

/// What the threads of a run share.
struct Shared<'a> {
    stop: &'a AtomicBool,
    /// Set where one failed for good: the others need not begin anything new.
    is_over: AtomicBool,
    /// The endpoint asked everybody to wait until then.
    not_before: Mutex<Option<Instant>>,
}

/// How often a waiting thread looks up.
const LOOK_UP: Duration = Duration::from_millis(20);

impl Shared<'_> {
    fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until `until`, and until everybody may go on; false where the run ended meanwhile.
    fn wait_until(&self, until: Instant) -> bool {
        loop {
            let everybody = *self
                .not_before
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let left = until
                .max(everybody.unwrap_or(until))
                .saturating_duration_since(Instant::now());
            if self.has_ended() || left.is_zero() {
                return !self.has_ended();
            }
            std::thread::sleep(left.min(LOOK_UP));
        }
    }

    fn hold_everybody(&self, until: Instant) {
        let mut not_before = self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |earlier| earlier.max(until)));
    }
}

impl Judge<'_> {
    /// Judges items; what the cache knows is not asked, and what is asked is added to it at once.
    ///
    /// # Errors
    /// An endpoint that refuses, or fails more often than patience allows; a stop that was asked for, after the requests under way.
    pub fn judge(
        &self,
        items: &[Item],
        cache: &mut Cache,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
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
        let mut bill = Bill::default();
        let mut unusable = HashMap::new();
        self.ask_all(
            &questions,
            items.len(),
            cache,
            stop,
            progress,
            &mut bill,
            &mut unusable,
        )?;
        let outcome = |key: &String| match (cache.get(key), unusable.get(key)) {
            (Some(judged), _) => Ok(Outcome::Judged(judged.clone())),
            (None, Some(fault)) => Ok(Outcome::Unusable(String::clone(fault))),
            (None, None) => Err(Error::bug("a question was lost")),
        };
        Ok(Verdicts {
            outcomes: keys.iter().map(outcome).collect::<Result<_>>()?,
            num_cached: items.len() - questions.len(),
            bill,
        })
    }

    /// Asks the questions in several threads, and keeps what they find.
    fn ask_all(
        &self,
        questions: &[Question],
        num_items: usize,
        cache: &mut Cache,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
        bill: &mut Bill,
        unusable: &mut HashMap<String, String>,
    ) -> Result<()> {
        let shared = Shared {
            stop,
            is_over: AtomicBool::new(false),
            not_before: Mutex::new(None),
        };
        let next = AtomicUsize::new(0);
        let mut done = num_items - questions.len();
        progress(Progress::Done(done, num_items))?;
        std::thread::scope(|scope| {
            let (sender, reports) = mpsc::channel();
            for _ in 0..self.num_threads.clamp(1, questions.len().max(1)) {
                let (sender, shared, next) = (sender.clone(), &shared, &next);
                scope.spawn(move || self.work(questions, next, shared, &sender));
            }
            drop(sender);
            let mut failed = None;
            // Reports come until every thread has ended, so that no answer that was paid for is lost.
            for report in reports {
                let handled = match report {
                    Report::Waiting { why, wait } => {
                        progress(Progress::Waiting { why: &why, wait })
                    }
                    Report::Failed(error) => Err(error),
                    Report::Found {
                        key,
                        outcome,
                        bill: of_question,
                    } => {
                        done += 1;
                        *bill = bill.plus(of_question);
                        let kept = match outcome {
                            Outcome::Judged(judged) => cache.add(&key, judged),
                            Outcome::Unusable(fault) => {
                                unusable.insert(key, fault);
                                Ok(())
                            }
                        };
                        kept.and_then(|()| progress(Progress::Done(done, num_items)))
                    }
                };
                if let Err(error) = handled {
                    shared.is_over.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
            failed.map_or(Ok(()), Err)
        })?;
        let is_stopped = stop.load(Ordering::Relaxed) && done < num_items;
        if is_stopped {
            Err(Error::new(
                Kind::Interrupted,
                format!("stopped; {} verdicts are in the cache", cache.len()),
            ))
        } else {
            Ok(())
        }
    }

    /// One thread: question after question until there is none.
    fn work(
        &self,
        questions: &[Question],
        next: &AtomicUsize,
        shared: &Shared,
        sender: &mpsc::Sender<Report>,
    ) {
        while !shared.has_ended() {
            let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let report = match self.ask(question, shared, sender) {
                Ok(Some((outcome, bill))) => Report::Found {
                    key: question.key.clone(),
                    outcome,
                    bill,
                },
                Ok(None) => return,
                Err(error) => {
                    shared.is_over.store(true, Ordering::Relaxed);
                    Report::Failed(error)
                }
            };
            // Where nobody listens any more the run is over.
            if sender.send(report).is_err() {
                return;
            }
        }
    }

    /// Asks until an answer can be used, telling the judge each time what was wrong; none where the run ended meanwhile.
    fn ask(
        &self,
        question: &Question,
        shared: &Shared,
        sender: &mpsc::Sender<Report>,
    ) -> Result<Option<(Outcome, Bill)>> {
        let mut messages = question.messages.clone();
        let mut bill = Bill::default();
        let mut fault = String::new();
        for answer in 0..self.patience.max_answers {
            let draw = Draw::new(0, "judge")
                .with_name(&question.key)
                .with(u64::from(answer));
            let Some(reply) = self.reply(&messages, draw, shared, sender)? else {
                return Ok(None);
            };
            bill.add(reply.usage);
            match answer::read(&reply.text, self.rubric) {
                Ok(verdict) => {
                    let usage = Usage {
                        prompt_tokens: bill.prompt_tokens,
                        completion_tokens: bill.completion_tokens,
                    };
                    return Ok(Some((
                        Outcome::Judged(Judged {
                            verdict,
                            usage: (bill.unmetered == 0).then_some(usage),
                        }),
                        bill,
                    )));
                }
                Err(found) if reply.is_cut => {
                    fault = format!("{found}, and was cut off at the limit of tokens")
                }
                Err(found) => fault = found,
            }
            if !reply.text.trim().is_empty() {
                messages.push(("assistant", reply.text));
            }
            messages.push(self.rubric.repair(&fault));
        }
        Ok(Some((Outcome::Unusable(fault), bill)))
    }

    /// One answer, waited for through failures that pass; none where the run ended meanwhile.
    fn reply(
        &self,
        messages: &[Message],
        draw: Draw,
        shared: &Shared,
        sender: &mpsc::Sender<Report>,
    ) -> Result<Option<Reply>> {
        let mut attempt = 0;
        let mut until = Instant::now();
        loop {
            if !shared.wait_until(until) {
                return Ok(None);
            }
            let (why, after) = match self.endpoint.ask(messages, &self.rubric.parameters) {
                Ok(reply) => return Ok(Some(reply)),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { why, after }) => (why, after),
            };
            attempt += 1;
            if attempt >= self.patience.max_attempts {
                return Err(Error::resource(format!("{why} ({attempt} times in a row)")).hint(KEPT));
            }
            if let Some(asked) = after.filter(|asked| *asked > self.patience.longest_retry_after) {
                return Err(Error::resource(format!(
                    "{why}, and asks to wait {} s",
                    asked.as_secs()
                ))
                .hint(KEPT));
            }
            let own = self.patience.wait(attempt - 1, draw);
            // What is asked for is a least; the draw on top keeps those who wait for the same moment apart.
            let wait = after.map_or(own, |asked| asked + own.min(self.patience.first_wait));
            until = Instant::now() + wait;
            if let Some(asked) = after {
                shared.hold_everybody(Instant::now() + asked);
            }
            let _ = sender.send(Report::Waiting { why, wait });
        }
    }
}

/// What to do after a run that an endpoint ended.
const KEPT: &str =
    "run the command again later; what was judged is in the cache and is not asked again";
