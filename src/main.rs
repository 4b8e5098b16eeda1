//! The `maqam` command.

use std::process::ExitCode;

/// Element-wise passes allocate large buffers all the time: this allocator keeps their pages, the system's gives them back and faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    maqam::cli::main()
}
