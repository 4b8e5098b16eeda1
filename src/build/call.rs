//! Calls to engines, with cached answers.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::build::cache;
use crate::build::cache::Cache;
use crate::build::keys::in_range;
use crate::build::pace::Pace;
use crate::endpoint::Answer;
use crate::endpoint::Caller;
use crate::endpoint::bill::Limits;
use crate::endpoint::bill::Prices;
use crate::endpoint::key::Key;
use crate::endpoint::patience::Patience;
use crate::endpoint::request::Endpoint;
use crate::endpoint::request::Failure;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key as SeedKey;
use crate::stop::Stop;

/// Ends of the names of environment variables that hold keys of programs.
const KEY_NAMES: [&str; 4] = ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];
/// Shortest value of such a variable that is hidden: shorter ones are words such as `true`.
const SHORTEST_KEY: usize = 8;

/// Shared by the steps' engines: the cache, the stop flag, and lines for the user.
pub struct Calls<'a> {
    cache: &'a Cache,
    stop: &'a Stop,
    lines: Mutex<Vec<String>>,
    /// Keys that no message of a program may show.
    keys: Vec<Key>,
}

impl<'a> Calls<'a> {
    /// Calls with cached answers.
    pub fn new(cache: &'a Cache, stop: &'a Stop) -> Self {
        Self {
            cache,
            stop,
            lines: Mutex::default(),
            keys: Vec::new(),
        }
    }

    /// Hides the keys of the environment in messages of programs: the given variables, and those
    /// whose names end like `_KEY` or `_TOKEN`.
    #[must_use]
    pub fn hiding(mut self, variables: &[&str]) -> Self {
        let is_key = |name: &str| {
            let name = name.to_ascii_uppercase();
            KEY_NAMES.iter().any(|end| name.ends_with(end))
        };
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let value = value.to_string_lossy();
            let is_named = variables.contains(&name.as_ref());
            if is_named || (is_key(&name) && value.len() >= SHORTEST_KEY) {
                self.keys.extend(Key::new(&value).ok());
            }
        }
        self
    }

    /// A program's message without keys.
    pub fn hidden(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for key in &self.keys {
            text = key.hide(&text).into_owned();
        }
        text
    }

    /// The answer to a request, of which `question` holds everything that it depends on; none if
    /// the build ends.
    ///
    /// # Errors
    /// Those of `ask`; the disk's.
    pub fn answer(
        &self,
        question: &Value,
        ask: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>> {
        self.cache.get_or(&cache::key(question), ask)
    }

    /// The cache itself.
    pub fn cache(&self) -> &'a Cache {
        self.cache
    }

    /// Lines for the user since the last call.
    pub fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Set when the user wants to stop.
    pub fn stop(&self) -> &'a Stop {
        self.stop
    }

    /// Stores a line for the user.
    pub fn tell(&self, line: String) {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

/// An endpoint with OpenAI's interface, as in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// Address up to `/v1`.
    pub url: String,
    /// Model to ask.
    pub model: String,
    /// Environment variable with the key.
    #[serde(default = "default_key_variable")]
    pub key_variable: String,
    /// Longest that one request may take, in seconds.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: f64,
    /// First wait after a failure, in seconds; it doubles with each.
    #[serde(default = "default_first_wait_s")]
    pub first_wait_s: f64,
    /// Attempts before a failure that may pass ends the build.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// Most requests per minute of one process.
    #[serde(default)]
    pub per_minute: Option<f64>,
    /// The most that may be spent in one run of the command.
    #[serde(default)]
    pub budget: Budget,
}

fn default_key_variable() -> String {
    "OPENAI_API_KEY".to_owned()
}

fn default_timeout_s() -> f64 {
    Patience::default().timeout.as_secs_f64()
}

fn default_first_wait_s() -> f64 {
    Patience::default().first_wait.as_secs_f64()
}

fn default_max_attempts() -> u32 {
    Patience::default().max_attempts
}

/// The most that may be spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Requests, those that fail included.
    pub max_requests: Option<u64>,
    /// Tokens of prompts and responses together.
    pub max_tokens: Option<u64>,
    /// Dollars; needs both prices.
    pub max_cost: Option<f64>,
    /// Dollars per million tokens of prompts.
    pub price_in: Option<f64>,
    /// Dollars for a million tokens answered.
    pub price_out: Option<f64>,
}

impl Budget {
    fn limits(self) -> Limits {
        Limits {
            max_requests: self.max_requests,
            max_tokens: self.max_tokens,
            max_cost: self.max_cost,
            prices: Prices {
                prompt: self.price_in,
                completion: self.price_out,
            },
        }
    }
}

impl EndpointSettings {
    /// Checks the settings that need no request.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("timeout_s", self.timeout_s),
            ("first_wait_s", self.first_wait_s),
        ] {
            if Duration::try_from_secs_f64(value).is_err() {
                return Err(Error::input(format!(
                    "`{name}` is {value}, no length of time"
                )));
            }
        }
        if let Some(number) = self.per_minute {
            in_range("per_minute", number, 1e-3, 1e9)?;
        }
        let limits = self.budget.limits();
        limits
            .check("`budget.max_cost`")
            .map_err(|e| e.hint("give `price_in` and `price_out` in dollars for a million tokens"))
    }

    fn patience(&self) -> Patience {
        Patience {
            timeout: Duration::from_secs_f64(self.timeout_s),
            first_wait: Duration::from_secs_f64(self.first_wait_s),
            max_attempts: self.max_attempts.max(1),
            ..Patience::default()
        }
    }

    /// Opens the endpoint with the key of the environment. `place` is its place in the recipe, such
    /// as `speak.endpoint`.
    ///
    /// # Errors
    /// An invalid address.
    pub fn open(&self, place: &'static str) -> Result<Remote> {
        let endpoint = Key::from_variable(&self.key_variable)
            .and_then(|key| {
                Endpoint::new(
                    &self.url,
                    &self.model,
                    key,
                    &self.key_variable,
                    self.patience().timeout,
                )
            })
            .map_err(|e| e.at(place))?
            .limited(self.budget.limits());
        Ok(Remote {
            place,
            endpoint,
            patience: self.patience(),
            pace: Pace::new(self.per_minute),
        })
    }
}

/// An endpoint with retries. Its rate and its budget are shared by all who use it.
pub struct Remote {
    place: &'static str,
    endpoint: Endpoint,
    patience: Patience,
    pace: Pace,
}

impl Remote {
    /// Address, for keys of the cache.
    pub fn url(&self) -> &str {
        self.endpoint.url()
    }

    /// Model.
    pub fn model(&self) -> &str {
        self.endpoint.model()
    }

    /// Sends a request until there is an answer; none if the build ends.
    ///
    /// # Errors
    /// An endpoint that refuses or fails too often, or an exhausted budget.
    pub fn ask<T>(
        &self,
        calls: &Calls,
        draw: SeedKey,
        mut send: impl FnMut(&Endpoint) -> std::result::Result<T, Failure>,
    ) -> Result<Option<T>> {
        let caller = Caller::new(&self.endpoint, self.patience, calls.stop());
        let mut report = |why: String, wait: Duration| {
            calls.tell(format!("{why}; again in {:.1} s", wait.as_secs_f64()));
        };
        let mut paced = |endpoint: &Endpoint| {
            self.pace.wait(calls.stop());
            let answer = send(endpoint);
            if let Err(Failure::Passing {
                after: Some(after), ..
            }) = &answer
                && *after <= self.patience.longest_retry_after
            {
                self.pace.hold(Instant::now() + *after);
            }
            answer
        };
        let answer = caller.request(draw, &mut report, &mut paced);
        match answer.map_err(|e| e.at(self.place))? {
            Answer::Reply(reply) => Ok(Some(reply)),
            Answer::Ended => Ok(None),
            Answer::Limit(reached) => Err(Error::resource(reached)
                .at(format!("{}.budget", self.place))
                .hint("raise the budget and run the command again: what was answered is cached and is not asked again")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_environment_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let stop = Stop::new();
        // Every test program has a path, which stands for a key here.
        let path = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let message = format!("failed with {path} as its key");
        let calls = Calls::new(&cache, &stop).hiding(&["CARGO_MANIFEST_DIR"]);
        assert!(!calls.hidden(&message).contains(&path));
        let calls = Calls::new(&cache, &stop).hiding(&[]);
        assert_eq!(calls.hidden(&message), message);
    }
}
