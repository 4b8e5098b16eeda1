//! Every primitive at the widths of a real model, some of its rows against `f64` on the host.
//!
//! A fault on a GPU ends everything that its process still wanted to do there. So one process
//! watches, and another computes: it writes a line for each check, and where it dies, fails or
//! takes too long, the rest is computed by a new one.

mod attention;
mod linear;
mod loss;
mod on;
mod rowwise;
mod sample;
mod sizes;

use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::process::parent_id;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use candle_core::Device;
use serde_json::Value;
use serde_json::json;

use crate::bench::check::on::Bench;
use crate::bench::check::sample::Finding;
use crate::bench::check::sizes::Sizes;
use crate::error::Error;
use crate::error::Result;
use crate::models::shapes;
use crate::ops::device;

/// The checks to compute.
pub struct Checks {
    sizes: Sizes,
    jobs: Vec<Job>,
}

/// Token counts that a primitive is checked at.
#[derive(Clone, Copy)]
enum At {
    /// Those of two packed batches.
    Tokens,
    /// The same and an odd one.
    OddTokens,
    /// Sequences of each length.
    Lengths,
    /// One that the check chooses itself.
    Once,
}

/// A primitive with its check, which is given a number of tokens or the length of a sequence.
struct Primitive {
    name: &'static str,
    at: At,
    check: fn(&Bench, usize) -> candle_core::Result<Finding>,
}

const fn primitive(
    name: &'static str,
    at: At,
    check: fn(&Bench, usize) -> candle_core::Result<Finding>,
) -> Primitive {
    Primitive { name, at, check }
}

/// All primitives, those of attention and matrix products first.
const PRIMITIVES: &[Primitive] = &[
    primitive("attention", At::Lengths, attention::forward),
    primitive("attention_backward", At::Lengths, attention::backward),
    primitive("attention_full", At::Once, attention::full),
    primitive("attention_step", At::Once, attention::step),
    primitive("linear_qkv", At::Tokens, linear::qkv),
    primitive("linear_qkv_backward", At::Tokens, linear::qkv_backward),
    primitive("linear_output", At::Tokens, linear::output),
    primitive(
        "linear_output_backward",
        At::Tokens,
        linear::output_backward,
    ),
    primitive("linear_gate_up", At::Tokens, linear::gate_up),
    primitive(
        "linear_gate_up_backward",
        At::Tokens,
        linear::gate_up_backward,
    ),
    primitive("linear_down", At::Tokens, linear::down),
    primitive("linear_down_backward", At::Tokens, linear::down_backward),
    primitive("linear_up_apart", At::Tokens, linear::up_apart),
    primitive(
        "linear_up_apart_backward",
        At::Tokens,
        linear::up_apart_backward,
    ),
    primitive("linear_tower", At::Once, linear::tower),
    primitive("fp8_qkv", At::OddTokens, linear::fp8_qkv),
    primitive("fp8_qkv_backward", At::OddTokens, linear::fp8_qkv_backward),
    primitive("fp8_down", At::OddTokens, linear::fp8_down),
    primitive(
        "fp8_down_backward",
        At::OddTokens,
        linear::fp8_down_backward,
    ),
    primitive("cross_entropy", At::Once, loss::cross_entropy),
    primitive("adamw", At::Once, loss::adamw),
    primitive("gradient_norm", At::Once, loss::gradient_norm),
    primitive("rms_norm", At::Tokens, rowwise::rms_norm),
    primitive("rms_norm_backward", At::Tokens, rowwise::rms_norm_backward),
    primitive("layer_norm", At::Once, rowwise::layer_norm),
    primitive(
        "layer_norm_backward",
        At::Once,
        rowwise::layer_norm_backward,
    ),
    primitive("swiglu", At::Tokens, rowwise::swiglu),
    primitive("swiglu_backward", At::Tokens, rowwise::swiglu_backward),
    primitive("gelu", At::Once, rowwise::gelu),
    primitive("gelu_backward", At::Once, rowwise::gelu_backward),
    primitive("rotary", At::Tokens, rowwise::rotary),
    primitive("dropout", At::Tokens, rowwise::dropout),
    primitive("gather", At::Tokens, rowwise::gather),
    primitive("scatter_add", At::Once, rowwise::scatter_add),
    primitive("overwrite", At::Once, rowwise::overwrite),
    primitive("copy_columns", At::Once, rowwise::copy_columns),
    primitive("add_to", At::Once, rowwise::add_to),
    primitive("pool_pairs", At::Once, rowwise::pool_pairs),
    primitive(
        "pool_pairs_backward",
        At::Once,
        rowwise::pool_pairs_backward,
    ),
    primitive("unfold", At::Once, rowwise::unfold),
    primitive("unfold_backward", At::Once, rowwise::unfold_backward),
];

/// One check: a primitive at one of its sizes.
struct Job {
    primitive: &'static Primitive,
    tokens: usize,
}

impl Job {
    /// What is printed of a check that found nothing.
    fn failed(&self, why: &str, seconds: f64) -> Value {
        json!({
            "primitive": self.primitive.name, "shape": self.tokens.to_string(), "rows_checked": 0,
            "largest_error": null, "bar": null, "passes": false, "seconds": seconds, "error": why,
        })
    }
}

impl Checks {
    /// Every primitive, or those of these names, at the widths of a shape or at small ones.
    ///
    /// # Errors
    /// An unknown shape or name.
    pub fn new(shape: &str, is_tiny: bool, only: &[String]) -> Result<Self> {
        let config = shapes::by_name(shape, None)?;
        let sizes = match is_tiny {
            true => Sizes::tiny(),
            false => Sizes::of(&config),
        };
        let jobs = jobs(only, &sizes)?;
        Ok(Self { sizes, jobs })
    }

    /// Computes the checks from `first` on, one after the other, and tells a line of each. It ends
    /// with one that fails to compute, since a GPU may do nothing after it.
    ///
    /// # Errors
    /// Those of `tell`; the device's before the first check.
    pub fn compute(
        &self,
        first: usize,
        device: &Device,
        tell: &mut dyn FnMut(&Value) -> Result<()>,
    ) -> Result<()> {
        device::poison_new_tensors(device, true)?;
        let bench = Bench {
            device,
            sizes: &self.sizes,
        };
        let watcher = parent_id();
        for job in self.jobs.get(first..).unwrap_or_default() {
            // Nobody reads any more, and the GPU may be somebody else's by now.
            if parent_id() != watcher {
                return Ok(());
            }
            let started = Instant::now();
            // An error of a launch is often seen by the wait alone.
            let found = (job.primitive.check)(&bench, job.tokens)
                .and_then(|found| device::synchronise(device).map(|()| found));
            let seconds = started.elapsed().as_secs_f64();
            match found {
                Ok(found) => tell(&found.json(job.primitive.name, seconds))?,
                Err(error) => return tell(&job.failed(&without_backtrace(&error), seconds)),
            }
        }
        Ok(())
    }

    /// Has the checks computed by other processes, and tells what they find. `worker` is the
    /// command of a process that computes the checks from a number on.
    ///
    /// # Errors
    /// Primitives that fail, once all were checked; processes that cannot be started or cannot
    /// begin; those of `tell`.
    pub fn watch(
        &self,
        deadline: Duration,
        worker: &dyn Fn(usize) -> Result<Command>,
        tell: &mut dyn FnMut(&Value) -> Result<()>,
    ) -> Result<()> {
        let mut failed = Vec::new();
        let mut next = 0;
        while next < self.jobs.len() {
            let mut process = Worker::start(worker(next)?)?;
            next += self.follow(&mut process, next, deadline, &mut failed, tell)?;
            process.end();
        }
        if failed.is_empty() {
            return Ok(());
        }
        let count = failed.len();
        failed.dedup();
        Err(Error::bug(format!(
            "{count} of {} checks fail: {}",
            self.jobs.len(),
            failed.join(", ")
        )))
    }

    /// Follows one process until it ends or all is checked; returns the number of checks that are
    /// done.
    fn follow(
        &self,
        process: &mut Worker,
        first: usize,
        deadline: Duration,
        failed: &mut Vec<&'static str>,
        tell: &mut dyn FnMut(&Value) -> Result<()>,
    ) -> Result<usize> {
        for (done, job) in self.jobs[first..].iter().enumerate() {
            let started = Instant::now();
            let line = match process.line(deadline) {
                Ok(line) => line,
                Err(end) if end.is_refused && done == 0 => {
                    return Err(Error::input("the checks could not begin")
                        .hint("mend what the message above says"));
                }
                Err(end) => job.failed(&end.why, started.elapsed().as_secs_f64()),
            };
            tell(&line)?;
            if line["passes"] != Value::Bool(true) {
                failed.push(job.primitive.name);
            }
            if line.get("error").is_some() {
                return Ok(done + 1);
            }
        }
        Ok(self.jobs.len() - first)
    }
}

fn jobs(only: &[String], sizes: &Sizes) -> Result<Vec<Job>> {
    let names: Vec<&str> = PRIMITIVES.iter().map(|primitive| primitive.name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::input(format!("--only: no primitive `{unknown}`"))
            .hint(format!("use some of {}", names.join(", "))));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    Ok(PRIMITIVES
        .iter()
        .filter(|primitive| wanted(primitive.name))
        .flat_map(|primitive| {
            let at = match primitive.at {
                At::Tokens => sizes.tokens.to_vec(),
                At::OddTokens => vec![sizes.tokens[0], sizes.tokens[0] + 1],
                At::Lengths => sizes.lengths.to_vec(),
                At::Once => vec![sizes.tokens[0]],
            };
            at.into_iter().map(move |tokens| Job { primitive, tokens })
        })
        .collect())
}

/// An error in a line, without the backtrace that candle appends where one is asked for.
fn without_backtrace(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("0: "))
        .collect();
    lines.join("; ")
}

/// A process that computes checks.
struct Worker {
    process: Child,
    lines: Receiver<String>,
}

/// The end of a worker before its next line.
struct End {
    why: String,
    /// Whether the worker refused its arguments or found no device.
    is_refused: bool,
}

impl Worker {
    /// Starts a process.
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(not_started)?;
        let Some(out) = process.stdout.take() else {
            return Err(Error::bug("a process without its output"));
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, lines })
    }

    /// The next result.
    fn line(&mut self, deadline: Duration) -> std::result::Result<Value, End> {
        let end = |why: String| End {
            why,
            is_refused: false,
        };
        match self.lines.recv_timeout(deadline) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| end(format!("the process wrote no result: {error}"))),
            Err(RecvTimeoutError::Timeout) => Err(end(format!(
                "nothing was found within {} s, and the process was ended",
                deadline.as_secs()
            ))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait();
                Err(End {
                    why: status.as_ref().map_or_else(
                        |error| format!("the process is lost: {error}"),
                        |status| format!("the process ended: {status}"),
                    ),
                    is_refused: status.is_ok_and(|status| status.code() == Some(2)),
                })
            }
        }
    }

    /// Ends the process. One that hangs in a driver cannot be ended; it is left behind after a
    /// short wait.
    fn end(mut self) {
        /// Waits of 20 ms: two seconds.
        const WAITS: usize = 100;
        let _ = self.process.kill();
        for _ in 0..WAITS {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The error of a process for the checks that cannot be started.
pub fn not_started(error: std::io::Error) -> Error {
    Error::resource(format!("cannot start a process for the checks: {error}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_cover_sizes_and_refuse_unknown_names() {
        let sizes = Sizes::of(&shapes::by_name("7b", None).unwrap());
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            jobs(&names, &sizes)
        };
        let tokens = |name: &str| -> Vec<usize> {
            named(&[name])
                .unwrap()
                .iter()
                .map(|job| job.tokens)
                .collect()
        };
        assert_eq!(tokens("swiglu"), [5440, 8100]);
        assert_eq!(tokens("fp8_down"), [5440, 5441]);
        assert_eq!(tokens("attention"), [340, 1620, 15_000]);
        assert!(named(&["gemm"]).is_err_and(|error| error.to_string().contains("swiglu")));
        assert!(named(&[]).unwrap().len() > PRIMITIVES.len());
    }
}
