//! Qwen2-Audio, and what `maqam compose` makes in its layout: names, configuration.

mod config;
pub mod names;

pub use self::config::from_json;
