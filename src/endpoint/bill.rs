//! What requests cost, and the limits of it.

use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::error::Result;

/// Tokens that a request was charged for; none where the endpoint does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens asked.
    pub prompt_tokens: u64,
    /// Tokens answered.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl Usage {
    /// No tokens.
    pub const NONE: Self = Self {
        prompt_tokens: 0,
        completion_tokens: 0,
    };

    /// Reads what an endpoint says, under the names of chat completions or of transcriptions; none
    /// without a number of tokens, as where seconds are charged.
    pub fn read(said: &Value) -> Option<Self> {
        let number = |names: [&str; 2]| names.iter().find_map(|name| said.get(name)?.as_u64());
        Some(Self {
            prompt_tokens: number(["prompt_tokens", "input_tokens"])?,
            completion_tokens: number(["completion_tokens", "output_tokens"]).unwrap_or(0),
        })
    }
}

/// Dollars for a million tokens; none where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Of what is asked.
    pub prompt: Option<f64>,
    /// Of what is answered.
    pub completion: Option<f64>,
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

/// Tokens of a price.
const MILLION: f64 = 1e6;

impl Bill {
    /// Adds a request that was answered.
    pub fn add(&mut self, usage: Option<Usage>) {
        self.requests += 1;
        match usage {
            Some(usage) => {
                // The numbers are the endpoint's, which may say anything.
                self.prompt_tokens = self.prompt_tokens.saturating_add(usage.prompt_tokens);
                self.completion_tokens = self
                    .completion_tokens
                    .saturating_add(usage.completion_tokens);
            }
            None => self.unmetered += 1,
        }
    }

    /// Dollars; none where a price or a number of tokens is not known.
    pub fn cost(&self, prices: Prices) -> Option<f64> {
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

/// The most that a run may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Requests that are sent, those that fail included.
    pub max_requests: Option<u64>,
    /// Tokens asked and answered together.
    pub max_tokens: Option<u64>,
    /// Dollars.
    pub max_cost: Option<f64>,
    /// What a million tokens cost.
    pub prices: Prices,
}

impl Limits {
    /// Checks that the limits can be held. `max_cost` is what the limit of dollars is written as.
    ///
    /// # Errors
    /// A limit of dollars without prices; a price or a limit that is no amount.
    pub fn check(&self, max_cost: &str) -> Result<()> {
        let is_amount = |value: Option<f64>| value.is_none_or(|v| v.is_finite() && v >= 0.0);
        if !is_amount(self.prices.prompt) || !is_amount(self.prices.completion) {
            return Err(Error::input("a price is a number of dollars, 0 or more")
                .hint("give dollars for a million tokens"));
        }
        if !is_amount(self.max_cost) {
            return Err(Error::input(format!(
                "{max_cost} is a number of dollars, 0 or more"
            )));
        }
        let is_priced = self.prices.prompt.is_some() && self.prices.completion.is_some();
        if self.max_cost.is_some() && !is_priced {
            return Err(
                Error::input(format!("{max_cost} needs the prices of tokens"))
                    .hint("add --price-in and --price-out, in dollars for a million tokens"),
            );
        }
        Ok(())
    }
}

/// What was spent so far, counted against the limits; shared by all threads that ask.
#[derive(Default)]
pub struct Meter {
    limits: Limits,
    spent: Mutex<Spent>,
}

#[derive(Clone, Copy, Default)]
struct Spent {
    requests: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Meter {
    /// A meter that nothing was spent of.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            spent: Mutex::default(),
        }
    }

    /// Counts a request that is about to be sent.
    ///
    /// # Errors
    /// The limit that was reached, in words. A request is not taken back once it is sent, so each
    /// of several threads may overstep a limit of tokens or dollars by the request that it has
    /// under way.
    pub fn begin(&self) -> std::result::Result<(), String> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reached) = self.reached(*spent) {
            return Err(reached);
        }
        spent.requests += 1;
        Ok(())
    }

    /// Adds what an answer cost. Where the endpoint does not say, each byte counts as a token,
    /// which is never too few.
    pub fn add(&self, usage: Option<Usage>, bytes_asked: usize, bytes_answered: usize) {
        let usage = usage.unwrap_or(Usage {
            prompt_tokens: bytes_asked as u64,
            completion_tokens: bytes_answered as u64,
        });
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.prompt_tokens = spent.prompt_tokens.saturating_add(usage.prompt_tokens);
        spent.completion_tokens = spent
            .completion_tokens
            .saturating_add(usage.completion_tokens);
    }

    /// The limit that is reached, in words; none where there is something left.
    fn reached(&self, spent: Spent) -> Option<String> {
        let Limits {
            max_requests,
            max_tokens,
            max_cost,
            prices,
        } = self.limits;
        if let Some(most) = max_requests.filter(|most| spent.requests >= *most) {
            return Some(format!("the limit of {most} requests is reached"));
        }
        let tokens = spent.prompt_tokens.saturating_add(spent.completion_tokens);
        if let Some(most) = max_tokens.filter(|most| tokens >= *most) {
            return Some(format!("the limit of {most} tokens is reached"));
        }
        let cost = (spent.prompt_tokens as f64 * prices.prompt.unwrap_or(0.0)
            + spent.completion_tokens as f64 * prices.completion.unwrap_or(0.0))
            / MILLION;
        if let Some(most) = max_cost.filter(|most| cost >= *most) {
            return Some(format!("the limit of {most} dollars is reached"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Option<Usage> {
        Some(Usage {
            prompt_tokens,
            completion_tokens,
        })
    }

    #[test]
    fn every_limit_ends_the_asking() {
        let prices = Prices {
            prompt: Some(10.0),
            completion: Some(100.0),
        };
        for (limits, expected, sent) in [
            (
                Limits {
                    max_requests: Some(3),
                    ..Limits::default()
                },
                "3 requests",
                3,
            ),
            (
                Limits {
                    max_tokens: Some(220),
                    ..Limits::default()
                },
                "220 tokens",
                2,
            ),
            // A request of 100 and 10 tokens costs 0.002 dollars.
            (
                Limits {
                    max_cost: Some(0.007),
                    prices,
                    ..Limits::default()
                },
                "0.007 dollars",
                4,
            ),
            (
                Limits {
                    max_cost: Some(0.0),
                    prices,
                    ..Limits::default()
                },
                "0 dollars",
                0,
            ),
        ] {
            limits.check("--max-cost").unwrap();
            let meter = Meter::new(limits);
            let mut num_sent = 0;
            let reached = loop {
                match meter.begin() {
                    Ok(()) => num_sent += 1,
                    Err(reached) => break reached,
                }
                meter.add(usage(100, 10), 0, 0);
            };
            assert!(reached.contains(expected), "{reached}");
            assert_eq!(num_sent, sent, "{expected}");
        }
    }

    #[test]
    fn an_endpoint_that_lies_about_tokens_does_no_harm() {
        let meter = Meter::new(Limits {
            max_tokens: Some(1000),
            ..Limits::default()
        });
        meter.add(usage(u64::MAX, u64::MAX), 0, 0);
        assert!(meter.begin().is_err());
        let mut bill = Bill::default();
        bill.add(usage(u64::MAX, u64::MAX));
        bill.add(usage(u64::MAX, 1));
        assert_eq!((bill.requests, bill.prompt_tokens), (2, u64::MAX));
        // One that says nothing is charged by the byte.
        let meter = Meter::new(Limits {
            max_tokens: Some(1000),
            ..Limits::default()
        });
        meter.add(None, 900, 99);
        assert!(meter.begin().is_ok());
        meter.add(None, 0, 1);
        assert!(meter.begin().is_err());
    }

    #[test]
    fn usage_is_read_in_every_form() {
        let read = |text: &str| Usage::read(&serde_json::from_str(text).unwrap());
        for (text, expected) in [
            (
                r#"{"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}"#,
                usage(7, 2),
            ),
            (r#"{"prompt_tokens": 7}"#, usage(7, 0)),
            (
                r#"{"type": "tokens", "input_tokens": 14, "output_tokens": 45, "input_token_details": {"audio_tokens": 14}}"#,
                usage(14, 45),
            ),
            (r#"{"type": "duration", "seconds": 9}"#, None),
            (r#"{"prompt_tokens": "many"}"#, None),
            ("null", None),
            ("3", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn limits_that_cannot_be_held_are_refused() {
        let limits = |max_cost, prompt, completion| Limits {
            max_cost,
            prices: Prices { prompt, completion },
            ..Limits::default()
        };
        for (limits, expected) in [
            (limits(Some(1.0), Some(1.0), None), "--price-in"),
            (limits(Some(f64::NAN), Some(1.0), Some(1.0)), "--max-cost"),
            (limits(None, Some(-1.0), None), "a price"),
        ] {
            let error = limits.check("--max-cost").unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(expected),
                "{error}"
            );
        }
        limits(None, None, None).check("--max-cost").unwrap();
    }
}
