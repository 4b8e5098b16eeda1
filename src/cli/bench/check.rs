//! `maqam bench check`.

use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::bench::check::Checks;
use crate::bench::check::not_started;
use crate::cli::arguments::device::DeviceArguments;
use crate::cli::print;
use crate::error::Result;

#[derive(Args)]
pub struct Arguments {
    /// Shape of the model whose widths are checked: tiny, 0.5b, 3b, 7b, qwen3-asr-0.6b,
    /// qwen3-asr-1.7b.
    #[arg(long, default_value = "7b")]
    shape: String,
    /// Check small widths and few tokens instead, in seconds on a CPU.
    #[arg(long)]
    tiny: bool,
    /// Check these primitives alone; may be given several times.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Seconds that one check may take before its process is ended.
    #[arg(long, default_value_t = 60)]
    deadline: u64,
    /// Compute the checks from this one on, in this process.
    #[arg(long, hide = true)]
    from: Option<usize>,
    #[command(flatten)]
    device: DeviceArguments,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let checks = Checks::new(&arguments.shape, arguments.tiny, &arguments.only)?;
    let mut tell = |line: &serde_json::Value| print::line(line);
    match arguments.from {
        Some(first) => checks.compute(first, &arguments.device.open()?, &mut tell),
        None => checks.watch(
            Duration::from_secs(arguments.deadline.max(1)),
            &|first| arguments.worker(first),
            &mut tell,
        ),
    }
}

impl Arguments {
    /// This program again, to compute the checks from `first` on.
    fn worker(&self, first: usize) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().map_err(not_started)?);
        command
            .args(before_options())
            .args(["--shape", &self.shape])
            .args(["--device", &self.device.choice().to_string()])
            .args(["--from", &first.to_string()]);
        if self.tiny {
            command.arg("--tiny");
        }
        for name in &self.only {
            command.args(["--only", name]);
        }
        Ok(command)
    }
}

/// The arguments of this process up to the command's name: `bench check`, or `check` in the program
/// that has these commands alone.
fn before_options() -> Vec<OsString> {
    let mut before = Vec::new();
    for argument in std::env::args_os().skip(1) {
        let is_last = argument == "check";
        before.push(argument);
        if is_last {
            break;
        }
    }
    before
}
