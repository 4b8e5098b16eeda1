//! Qwen2.5-Omni's thinker without its eyes: names, configuration, shapes.

mod config;
pub mod names;
pub mod shapes;

pub use self::config::from_json;
pub use self::config::thinker_of;
