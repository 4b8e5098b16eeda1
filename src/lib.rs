//! maqam fine-tunes audio language models on several speech tasks at once.
//!
//! The rooms below stand in the order in which a piece of data walks through them; a room uses rooms above it, never below.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod error;
pub mod files;
pub mod machine;
pub mod seed;
pub mod parts;
pub mod loss;
pub mod yaml;
pub mod audio;
pub mod data;
pub mod task;
pub mod schedule;
pub mod batch;
pub mod load;
pub mod ops;
pub mod model;
pub mod metrics;
pub mod eval;
pub mod train;
pub mod report;
pub mod recipe;
pub mod plan;
pub mod experiment;
pub mod cli;
