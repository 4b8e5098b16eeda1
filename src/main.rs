//! The `maqam` command.

#![deny(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;

fn main() -> ExitCode {
    maqam::ops::cpu::keep_freed_pages();
    maqam::cli::main()
}
