//! The CUDA kernels against `f64` references, without a GPU: a host compiler builds them for an
//! emulator of blocks and warps.
//!
//! `cuda_kernels/harness.rs` describes the form of a case. Without a C++ compiler, the tests print
//! a note and check nothing.

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
