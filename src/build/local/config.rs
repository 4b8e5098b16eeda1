//! `config.json` of a checkpoint in the form that candle-transformers reads: transformers 4 and 5
//! write it differently.

use std::path::Path;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Result;
use crate::files;
use crate::json;

/// Base of the rotation angles if a config names none, as in transformers.
const ROPE_THETA: f64 = 10_000.0;

/// Architecture of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// The architecture by its name in `config.json` and in GGUF files.
    ///
    /// # Errors
    /// Another architecture.
    pub(super) fn of(name: &str) -> Result<Self> {
        match name {
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            other => Err(Error::input(format!("a model of the architecture `{other}`"))
                .hint("local language models are Qwen2, Qwen2.5 or Qwen3 instruct models; serve others behind an endpoint")),
        }
    }
}

/// Reads a JSON object of a checkpoint.
///
/// # Errors
/// A missing file, or one that is no object.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match json::parse(&files::read_text(path)?).map_err(|e| e.at_path(path))? {
        Value::Object(object) => Ok(object),
        _ => Err(Error::input("not a JSON object").at_path(path)),
    }
}

/// Architecture, config in candle-transformers' form, and longest sequence of a language model.
///
/// # Errors
/// Another architecture; a scaled rotation or a sliding window, which candle-transformers does not
/// compute.
pub(super) fn language_model(
    mut config: Map<String, Value>,
) -> Result<(Architecture, Value, usize)> {
    let name = config.get("model_type").and_then(Value::as_str);
    let architecture = Architecture::of(name.unwrap_or("none"))?;
    if config.get("use_sliding_window") == Some(&json!(true)) {
        return Err(Error::input("the model attends to a sliding window")
            .hint("serve it behind an endpoint"));
    }
    let mut theta = config.get("rope_theta").and_then(Value::as_f64);
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = config.get(key).filter(|rope| rope.is_object()) else {
            continue;
        };
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        if kind.is_some_and(|kind| kind != "default") {
            return Err(Error::input(format!("`{key}` scales positions")).hint(
                "remove it from config.json: texts within `max_position_embeddings` need no scaling",
            ));
        }
        theta = rope.get("rope_theta").and_then(Value::as_f64).or(theta);
    }

    let whole = config
        .get("max_position_embeddings")
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::input("config.json has no `max_position_embeddings`"))?;
    config.insert("rope_theta".to_owned(), json!(theta.unwrap_or(ROPE_THETA)));
    // candle-transformers applies the window of Qwen2 whether or not it is in use.
    config.insert("sliding_window".to_owned(), json!(whole));
    let layers = config.get("num_hidden_layers").cloned();
    let defaults = [
        ("use_sliding_window", json!(false)),
        ("max_window_layers", layers.unwrap_or_default()),
        ("tie_word_embeddings", json!(false)),
        ("attention_bias", json!(false)),
        ("hidden_act", json!("silu")),
        ("rms_norm_eps", json!(1e-6)),
    ];
    for (key, value) in defaults {
        config.entry(key).or_insert(value);
    }
    Ok((architecture, Value::Object(config), whole as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(changes: Value) -> Result<(Architecture, Value, usize)> {
        let mut config =
            json!({"model_type": "qwen2", "num_hidden_layers": 2, "max_position_embeddings": 64});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        language_model(config.as_object().unwrap().clone())
    }

    #[test]
    fn both_forms_of_transformers_are_read() {
        for (changes, theta) in [
            (json!({}), ROPE_THETA),
            (json!({"rope_theta": 5.0, "rope_scaling": null}), 5.0),
            (
                json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}),
                7.0,
            ),
        ] {
            let (architecture, config, whole) = of(changes).unwrap();
            assert_eq!((architecture, whole), (Architecture::Qwen2, 64));
            assert_eq!(config["rope_theta"], theta);
            assert_eq!(config["sliding_window"], 64);
        }
        for changes in [
            json!({"model_type": "llama"}),
            json!({"use_sliding_window": true}),
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ] {
            assert_eq!(of(changes).unwrap_err().exit_code(), 2);
        }
    }
}
