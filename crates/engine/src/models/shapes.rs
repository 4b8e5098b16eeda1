//! Shapes of all families by name, for benchmarks with random weights and for plans of models that
//! are not downloaded.

use crate::models::config::Config;
use crate::models::qwen_omni;
use crate::models::qwen3_asr;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// A shape by name, with the first `layers` of its decoder if a number is given.
///
/// # Errors
/// An unknown name; the message has all names.
pub fn by_name(name: &str, layers: Option<usize>) -> Result<Config> {
    if let Some(mut config) = qwen3_asr::shapes::by_name(name) {
        config.text.num_hidden_layers = layers.unwrap_or(config.text.num_hidden_layers);
        return Ok(config);
    }
    if qwen_omni::shapes::NAMES.contains(&name) {
        return qwen_omni::shapes::by_name(name, layers);
    }
    let known = [
        qwen_omni::shapes::NAMES.as_slice(),
        qwen3_asr::shapes::NAMES.as_slice(),
    ];
    Err(Error::input(format!(
        "no shape `{name}`; there are {}",
        known.concat().join(", ")
    )))
}

/// The shape that a Hub id names; `None` for models that are not known by their name.
pub fn of_hub_id(id: &str) -> Option<Config> {
    qwen_omni::shapes::of_hub_id(id).or_else(|| qwen3_asr::shapes::of_hub_id(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_all_families_are_found_by_name() {
        assert_eq!(by_name("7b", Some(2)).unwrap().text.num_hidden_layers, 2);
        let found = by_name("qwen3-asr-0.6b", Some(3)).unwrap();
        assert_eq!(
            (found.text.num_hidden_layers, found.text.hidden_size),
            (3, 1024)
        );
        let error = by_name("8b", None).unwrap_err().to_string();
        assert!(error.contains("7b, qwen3-asr-0.6b"), "{error}");
    }
}
