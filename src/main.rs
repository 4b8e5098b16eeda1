//! The `maqam` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    maqam::ops::cpu::keep_freed_pages();
    maqam::cli::main()
}
