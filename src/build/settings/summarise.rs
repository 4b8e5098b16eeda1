//! `summarise:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::build::call::EndpointSettings;
use crate::build::settings::collect;
use crate::build::settings::local::LanguageModel;
use crate::data::language;
use crate::error::Error;
use crate::error::Result;

/// Where summaries come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who gives the summaries.
    pub engine: Engine,
    /// Sentences of a lead.
    pub sentences: Option<usize>,
    /// Summaries that a language model writes of each document; by default one.
    pub num: Option<usize>,
    /// Most words that a language model is asked for; by default 25.
    pub max_words: Option<usize>,
    /// The endpoint of a language model.
    pub endpoint: Option<EndpointSettings>,
    /// A language model that maqam runs: folder, GGUF file or Hub id.
    pub model: Option<String>,
    /// Further parameters of its requests, such as `temperature`.
    pub parameters: Map<String, Value>,
    /// File with prompts of your own; by default prompts/build/summarise.yaml.
    pub prompt: Option<PathBuf>,
    /// Translates texts and the summaries of the source first.
    pub translate: Option<Translate>,
}

/// Who gives the summaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The source: fields named by `collect.summary`.
    #[default]
    Existing,
    /// The source's headline.
    Headline,
    /// The first sentences of the text, which are taken out of it.
    Lead,
    /// A language model behind an endpoint.
    Endpoint,
    /// A language model that maqam runs.
    Local,
}

/// Translation by a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translate {
    /// Language to translate into.
    pub to: String,
    /// Its endpoint; by default the language model of the summaries.
    #[serde(default)]
    pub endpoint: Option<EndpointSettings>,
    /// A language model that maqam runs: folder, GGUF file or Hub id.
    #[serde(default)]
    pub model: Option<String>,
    /// Further parameters of its requests.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// File with prompts of your own; by default prompts/build/translate.yaml.
    #[serde(default)]
    pub prompt: Option<PathBuf>,
}

impl Settings {
    /// Checks the settings against the sources.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self, sources: &collect::Settings) -> Result<()> {
        let missing = |what: &str, hint: &str| Err(Error::input(what).hint(hint));
        match self.engine {
            Engine::Existing if sources.summary.is_empty() => {
                return missing(
                    "`engine: existing` needs the summaries of the sources",
                    "name their field, `collect: {summary: NAME}`, or choose headline, lead, endpoint or local",
                );
            }
            Engine::Lead if sources.num_sentences()? == Some(self.num_lead_sentences()) => {
                return missing(
                    "`engine: lead` leaves nothing to speak: the document is its lead",
                    "use `collect: {unit: document}`",
                );
            }
            Engine::Endpoint if self.endpoint.is_none() => {
                return missing(
                    "`engine: endpoint` needs an endpoint",
                    "add `endpoint: {url: https://api.openai.com/v1, model: NAME}`",
                );
            }
            Engine::Local if self.model.is_none() => {
                return missing(
                    "`engine: local` needs a model",
                    "add `model: PATH`, the folder or GGUF file of a Qwen2.5 or Qwen3 instruct model",
                );
            }
            _ => {}
        }
        for (name, value) in [
            ("sentences", self.sentences),
            ("num", self.num),
            ("max_words", self.max_words),
        ] {
            if value == Some(0) {
                return missing(&format!("`{name}` is 0"), "give 1 or more");
            }
        }
        self.language_model()?;
        let Some(translate) = &self.translate else {
            return Ok(());
        };
        language::tag(&translate.to).map_err(|e| e.at("translate.to"))?;
        match self.translator().map_err(|e| e.at("translate"))? {
            Some(_) => Ok(()),
            None => missing(
                "`translate` needs a language model",
                "add `endpoint: {url: ..., model: ...}` or `model: PATH` to it",
            ),
        }
    }

    /// The language model of the summaries, if the settings name one.
    ///
    /// # Errors
    /// Settings of two models, or wrong ones.
    pub fn language_model(&self) -> Result<Option<LanguageModel<'_>>> {
        LanguageModel::of(
            self.endpoint.as_ref(),
            self.model.as_ref(),
            &self.parameters,
        )
    }

    /// The language model that writes summaries, if the engine is one.
    ///
    /// # Errors
    /// Settings of two models, or wrong ones.
    pub fn writer(&self) -> Result<Option<LanguageModel<'_>>> {
        match self.engine {
            Engine::Endpoint | Engine::Local => self.language_model(),
            Engine::Existing | Engine::Headline | Engine::Lead => Ok(None),
        }
    }

    /// The language model that translates, if the settings request a translation.
    ///
    /// # Errors
    /// Settings of two models, or wrong ones.
    pub fn translator(&self) -> Result<Option<LanguageModel<'_>>> {
        let Some(translate) = &self.translate else {
            return Ok(None);
        };
        let mut endpoint = &translate.endpoint;
        let mut model = &translate.model;
        if endpoint.is_none() && model.is_none() {
            endpoint = &self.endpoint;
            model = &self.model;
        }
        LanguageModel::of(endpoint.as_ref(), model.as_ref(), &translate.parameters)
    }

    /// Sentences of a lead.
    pub fn num_lead_sentences(&self) -> usize {
        self.sentences.unwrap_or(1)
    }
}
