//! One kind of input, the code that reads it, and what counts as a fault.

use std::time::Duration;
use std::time::Instant;

use maqam_base::error::Error;
use maqam_base::error::Kind;
use maqam_base::panics;

use crate::memory;

/// Seconds that one input may take. Machines are slow at times: an input that hangs takes minutes.
pub const MOST_SECONDS: u64 = 20;

/// Bytes that any input may cost, and bytes that each of its own may cost beyond that. Silence is
/// coded in a few bits a second, so that a byte of FLAC can stand for 4,000 samples.
const FREE_BYTES: usize = 256 << 20;
const BYTES_PER_BYTE: usize = 1 << 16;

/// A kind of input.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name on the command line and of the folder of its corpus.
    pub name: &'static str,
    /// Reads an input, and says what came of it.
    pub run: fn(&[u8]) -> Result<String, Error>,
    /// Makes checksums right again, so that a damaged input reaches the code behind them.
    pub repair: Option<fn(&mut [u8])>,
    /// Words that inputs are made of.
    pub words: &'static [&'static [u8]],
}

/// What one input did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Message or result without its numbers: two inputs of one kind took the same way out.
    pub kind: String,
    /// The panic of a library that was turned into an error, if there was one.
    pub contained: Option<String>,
    /// What is wrong: a panic, a bug, too much memory or time.
    pub fault: Option<String>,
    /// Most bytes that were allocated at one time.
    pub peak_bytes: usize,
    /// Time it took.
    pub time: Duration,
}

impl Target {
    /// Runs one input.
    pub fn run(&self, input: &[u8]) -> Outcome {
        memory::begin();
        let start = Instant::now();
        let result = panics::contain(|| (self.run)(input));
        let time = start.elapsed();
        let peak_bytes = memory::peak();

        let mut outcome = Outcome {
            peak_bytes,
            time,
            ..Outcome::default()
        };
        match result {
            Err(panic) => {
                outcome.kind = format!("panic at {}", panic.place);
                outcome.fault = Some(format!("panic: {} at {}", panic.message, panic.place));
            }
            Ok(Ok(kind)) => outcome.kind = without_numbers(&kind),
            Ok(Err(error)) => {
                outcome.kind = without_numbers(error.message());
                if error.kind == Kind::Bug {
                    outcome.fault = Some(format!("a bug of ours: {error}"));
                } else if error.kind != Kind::Input {
                    outcome.fault = Some(format!("exit code {}: {error}", error.exit_code()));
                } else if error.message().contains("its decoder stopped at a fault") {
                    outcome.contained = Some(outcome.kind.clone());
                }
            }
        }
        let most_bytes = FREE_BYTES + BYTES_PER_BYTE * input.len();
        if outcome.fault.is_none() && peak_bytes > most_bytes {
            outcome.fault = Some(format!("{peak_bytes} bytes for {} of input", input.len()));
        }
        if outcome.fault.is_none() && time > Duration::from_secs(MOST_SECONDS) {
            outcome.fault = Some(format!("{:.1} s", time.as_secs_f64()));
        }
        outcome
    }
}

/// The words of a message up to the first thing that is quoted from the input, without numbers.
fn without_numbers(text: &str) -> String {
    let own = text.split(['`', '"', '\\']).next().unwrap_or_default();
    own.chars()
        .filter(|c| !c.is_ascii_digit())
        .take(100)
        .collect()
}
