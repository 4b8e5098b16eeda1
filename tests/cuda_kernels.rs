//! The CUDA kernels against `f64` references, without a card: a host compiler builds them over an emulator of blocks and warps.
//!
//! `cuda_kernels/harness.rs` says how a case is written. Where there is no C++ compiler, the tests say so and check nothing.

mod support;

#[path = "cuda_kernels/compile.rs"]
mod compile;
#[path = "cuda_kernels/harness.rs"]
mod harness;

#[path = "cuda_kernels/adapter.rs"]
mod adapter;
#[path = "cuda_kernels/attention.rs"]
mod attention;
#[path = "cuda_kernels/driver.rs"]
mod driver;
#[path = "cuda_kernels/emulator.rs"]
mod emulator;
#[path = "cuda_kernels/elementwise.rs"]
mod elementwise;
#[path = "cuda_kernels/loss.rs"]
mod loss;
#[path = "cuda_kernels/norm.rs"]
mod norm;
#[path = "cuda_kernels/rows.rs"]
mod rows;
