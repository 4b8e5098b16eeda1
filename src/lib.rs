//! maqam fine-tunes audio language models on several speech tasks at once.
//!
//! A module of this package uses only modules of it that stand above; the crates, under their short
//! names, are free to all.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub use maqam_audio as audio;
pub use maqam_base::error;
pub use maqam_base::files;
pub use maqam_base::json;
pub use maqam_base::jsonl;
pub use maqam_base::parts;
pub use maqam_base::seed;
pub use maqam_base::sniff;
pub use maqam_base::stop;
pub use maqam_base::text_table;
pub use maqam_base::yaml;
pub use maqam_data as data;
pub use maqam_data::leakage;
pub use maqam_data::task;
pub use maqam_engine::batch;
pub use maqam_records as records;
pub use maqam_report as report;
pub use maqam_schedule as schedule;
pub use maqam_schedule::loss_weights;
pub use maqam_stats as stats;
pub mod machine;
pub mod featurise;
pub use maqam_engine::models;
pub use maqam_engine::nn;
pub use maqam_engine::objective;
pub use maqam_engine::ops;
pub use maqam_metrics as metrics;
pub mod compose;
pub mod endpoint;
pub mod hub;
pub mod merge;
pub mod eval;
pub mod train;
pub mod recipe;
pub mod plan;
pub mod experiment;
pub mod build;
pub mod encoder;
pub mod schema;
pub mod bench;
pub mod cli;
