//! `maqam bench` as a program of its own, small enough to be carried to a machine with a GPU:
//! benches/gpu/pack.sh does.
//!
//!     cargo bench --bench train -- train --shape tiny

use std::process::ExitCode;

fn main() -> ExitCode {
    maqam::ops::cpu::keep_freed_pages();
    maqam::cli::bench_main()
}
