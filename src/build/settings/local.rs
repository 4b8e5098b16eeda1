//! Language models of a recipe, and the parameters of those that maqam runs itself.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::build::call::EndpointSettings;
use crate::build::keys::in_range;
use crate::error::Error;
use crate::error::Result;

/// Place of a language model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LanguageModel<'a> {
    /// A model behind an endpoint.
    Endpoint(&'a EndpointSettings),
    /// A model that maqam runs: folder, GGUF file or Hub id.
    Local(&'a str),
}

impl<'a> LanguageModel<'a> {
    /// The language model of settings that name an endpoint or a model; none if they name neither.
    ///
    /// # Errors
    /// Settings that name both; settings of the endpoint or parameters that are wrong.
    pub fn of(
        endpoint: Option<&'a EndpointSettings>,
        model: Option<&'a String>,
        parameters: &Map<String, Value>,
    ) -> Result<Option<Self>> {
        match (endpoint, model) {
            (Some(_), Some(_)) => Err(Error::input("both `endpoint` and `model` are set")
                .hint("`endpoint` asks a server, `model` is a model that maqam runs; keep one")),
            (Some(endpoint), None) => {
                endpoint.check()?;
                Ok(Some(Self::Endpoint(endpoint)))
            }
            (None, Some(model)) => {
                Sampling::of(parameters)?;
                Ok(Some(Self::Local(model)))
            }
            (None, None) => Ok(None),
        }
    }
}

/// Parameters of a language model that maqam runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Temperature of the distribution that tokens are drawn from; 0 takes the likeliest token.
    pub temperature: f64,
    /// Probability of the likeliest tokens that are drawn from, all together.
    pub top_p: f64,
    /// Number of the likeliest tokens that are drawn from; all of them if missing.
    pub top_k: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            seed: 0,
            max_tokens: 1024,
        }
    }
}

impl Sampling {
    /// Reads `parameters`.
    ///
    /// # Errors
    /// A key that is unknown or out of range.
    pub fn of(parameters: &Map<String, Value>) -> Result<Self> {
        let read = || -> Result<Self> {
            let found: Self =
                serde_json::from_value(Value::Object(parameters.clone())).map_err(|error| {
                    Error::input(&error)
                        .caused_by(error)
                        .hint("a local model takes temperature, top_p, top_k, seed and max_tokens")
                })?;
            in_range("temperature", found.temperature, 0.0, 10.0)?;
            in_range("top_p", found.top_p, 1e-6, 1.0)?;
            if found.max_tokens == 0 || found.top_k == Some(0) {
                return Err(Error::input("`max_tokens` or `top_k` is 0").hint("give 1 or more"));
            }
            Ok(found)
        };
        read().map_err(|error| error.at("parameters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sampling(parameters: Value) -> Result<Sampling> {
        Sampling::of(parameters.as_object().unwrap())
    }

    #[test]
    fn parameters_are_known_and_in_range() {
        assert_eq!(sampling(json!({})).unwrap(), Sampling::default());
        let found = sampling(json!({"temperature": 0.7, "max_tokens": 80, "seed": 3})).unwrap();
        assert_eq!(
            (found.temperature, found.max_tokens, found.seed),
            (0.7, 80, 3)
        );
        for (wrong, said) in [
            (json!({"temprature": 1}), "unknown field `temprature`"),
            (json!({"temperature": -1}), "`temperature` is -1"),
            (json!({"top_p": 0}), "`top_p` is 0"),
            (json!({"max_tokens": 0}), "is 0"),
        ] {
            let error = sampling(wrong).unwrap_err().to_string();
            assert!(
                error.contains("parameters") && error.contains(said),
                "{error}"
            );
        }
    }

    #[test]
    fn a_model_has_one_place() {
        let none = Map::new();
        let model = "models/qwen".to_owned();
        let found = LanguageModel::of(None, Some(&model), &none).unwrap();
        assert_eq!(found, Some(LanguageModel::Local("models/qwen")));
        assert_eq!(LanguageModel::of(None, None, &none).unwrap(), None);
        let endpoint: EndpointSettings =
            serde_json::from_value(json!({"url": "http://a/v1", "model": "m"})).unwrap();
        assert!(LanguageModel::of(Some(&endpoint), Some(&model), &none).is_err());
    }
}
