//! The training engine: primitives with forward and backward on the CPU and on CUDA, packed
//! batches, the audio language model.
//!
//! The crate knows no task, manifest, schedule or metric. It promises no stable API.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod batch;
pub mod ops;
pub mod nn;
pub mod models;
pub mod objective;
