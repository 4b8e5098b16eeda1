//! What every other crate uses: errors, panics of libraries, atomic files, counter-based
//! randomness, YAML and JSON lines that people write.
//!
//! The crate knows no tensor, no audio and no command-line argument. It promises no stable API.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod error;
pub mod panics;
pub mod stop;
pub mod files;
pub mod seed;
pub mod parts;
pub mod qwen2_tokenizer;
pub mod text_table;
pub mod yaml;
pub mod sniff;
pub mod json;
pub mod jsonl;
