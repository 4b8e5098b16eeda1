//! A client of an endpoint that speaks OpenAI's chat completions: patient, bounded in what it reads
//! and spends, silent about its key.
//!
//! [`request`] sends one request. [`Caller`] asks until there is an answer, from several threads at
//! once.

pub mod bill;
pub mod key;
pub mod patience;
pub mod request;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use serde_json::Map;
use serde_json::Value;

use crate::endpoint::patience::Patience;
use crate::endpoint::request::Endpoint;
use crate::endpoint::request::Failure;
use crate::endpoint::request::Message;
use crate::endpoint::request::Reply;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key as SeedKey;
use crate::stop::Stop;

/// How often a waiting thread looks up.
const LOOK_UP: Duration = Duration::from_millis(20);
/// Directions after a run that an endpoint ended.
const KEPT: &str = "check the address and the network, or run the command again later; what was answered is in the cache and is not asked again";

/// What a request came to.
pub enum Answer<T = Reply> {
    /// An answer.
    Reply(T),
    /// A limit of what may be spent was reached: nothing was sent.
    Limit(String),
    /// The run ended meanwhile.
    Ended,
}

/// What the threads of a run share: whom they ask, how patiently, and whether the run is over.
pub struct Caller<'a> {
    endpoint: &'a Endpoint,
    patience: Patience,
    /// Set by whoever wants the run to end.
    stop: &'a Stop,
    /// Set where one failed for good: the others need not begin anything new.
    is_over: AtomicBool,
    /// The moment until which the endpoint asked everybody to wait.
    not_before: Mutex<Option<Instant>>,
}

impl<'a> Caller<'a> {
    /// A run that has just begun; it ends once `stop` is set.
    pub fn new(endpoint: &'a Endpoint, patience: Patience, stop: &'a Stop) -> Self {
        Self {
            endpoint,
            patience,
            stop,
            is_over: AtomicBool::new(false),
            not_before: Mutex::new(None),
        }
    }

    /// Ends the run: nobody begins anything new.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether the run has ended, or is to stop.
    pub fn has_ended(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.stop.is_requested()
    }

    /// Asks until there is an answer, waiting for failures that pass; `draw` spreads the waits,
    /// `told` hears of each.
    ///
    /// # Errors
    /// An endpoint that refuses, or fails more often than patience allows.
    pub fn ask(
        &self,
        messages: &[Message],
        parameters: &Map<String, Value>,
        draw: SeedKey,
        told: &mut dyn FnMut(String, Duration),
    ) -> Result<Answer> {
        self.request(draw, told, &mut |endpoint| {
            endpoint.ask(messages, parameters)
        })
    }

    /// As [`Caller::ask`], for any request that `send` makes of the endpoint.
    ///
    /// # Errors
    /// As [`Caller::ask`].
    pub fn request<T>(
        &self,
        draw: SeedKey,
        told: &mut dyn FnMut(String, Duration),
        send: &mut dyn FnMut(&Endpoint) -> std::result::Result<T, Failure>,
    ) -> Result<Answer<T>> {
        let mut attempt = 0;
        let mut until = Instant::now();
        loop {
            if !self.wait_until(until) {
                return Ok(Answer::Ended);
            }
            let (why, after) = match send(self.endpoint) {
                Ok(reply) => return Ok(Answer::Reply(reply)),
                Err(Failure::Limit(reached)) => return Ok(Answer::Limit(reached)),
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
            // The wait that is asked for is a least; the draw on top keeps those who wait for the
            // same moment apart.
            let wait = after.map_or(own, |asked| asked + own.min(self.patience.first_wait));
            until = Instant::now() + wait;
            if let Some(asked) = after {
                self.hold_everybody(Instant::now() + asked);
            }
            told(why, wait);
        }
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
