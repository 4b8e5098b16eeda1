//! Qwen3-ASR in the layouts of transformers and of the original checkpoints: names, configuration,
//! shapes.

mod config;
pub mod names;
pub mod shapes;

pub use self::config::from_json;
pub use self::config::is_tied;
pub use self::config::model_of;
pub use self::config::take_processor;
