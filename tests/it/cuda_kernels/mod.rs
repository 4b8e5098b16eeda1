//! The CUDA kernels against `f64` references, without a card: a host compiler builds them over an emulator of blocks and warps.
//!
//! `cuda_kernels/harness.rs` says how a case is written. Where there is no C++ compiler, the tests say so and check nothing.

mod compile;
mod harness;

mod adapter;
mod attention;
mod driver;
mod emulator;
mod elementwise;
mod loss;
mod norm;
mod rows;
