//! Files of runs, suites and evaluations: one type per file on disk, written and read. Nothing here
//! knows a tensor.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod adapter_recipe;
pub mod answers;
pub mod averaged;
pub mod by_name;
pub mod checkpoint_state;
pub mod codebook;
pub mod comparison;
pub mod curves;
pub mod details;
pub mod environment;
pub mod generated_answers;
pub mod grades;
pub mod head;
pub mod inputs;
pub mod instructions;
pub mod log;
pub mod merged_adapter;
mod numbers;
pub mod picks;
pub mod power;
pub mod prediction;
pub mod prompt_search;
pub mod recipe_keys;
pub mod run_folder;
pub mod scores;
pub mod suite_file;
pub mod target_scores;
pub mod track;
