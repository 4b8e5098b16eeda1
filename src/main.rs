//! The `maqam` command.

#![deny(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;

use maqam::cli::allocator;
use maqam::cli::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    allocator::watch_threads();
    maqam::ops::cpu::keep_freed_pages();
    maqam::cli::main()
}
