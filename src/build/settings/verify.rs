//! `verify:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::build::call::EndpointSettings;
use crate::build::keys::in_range;
use crate::build::settings::local::LanguageModel;
use crate::error::Error;
use crate::error::Result;

/// Bounds of summaries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether faults reject a row or only warn; by default they reject, except summaries that the
    /// source has.
    pub reject: Option<bool>,
    /// Fewest words of a summary.
    pub min_words: usize,
    /// Most words of a summary for each word of its text.
    pub max_ratio: f64,
    /// Largest share of a summary's words that stand in one run in the text.
    pub max_copied: f64,
    /// Least share of letters in the script of the language.
    pub min_script: f64,
    /// Whether every number of a summary must stand in its text.
    pub numbers: bool,
    /// Whether every Latin word of a summary must stand in its text.
    pub latin: bool,
    /// A language model that grades faithfulness.
    pub judge: Option<Judge>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reject: None,
            min_words: 2,
            max_ratio: 1.0,
            max_copied: 0.95,
            min_script: 0.5,
            numbers: true,
            latin: true,
            judge: None,
        }
    }
}

/// A language model that grades faithfulness from 1 to 5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// Its endpoint.
    #[serde(default)]
    pub endpoint: Option<EndpointSettings>,
    /// A language model that maqam runs: folder, GGUF file or Hub id.
    #[serde(default)]
    pub model: Option<String>,
    /// Further parameters of its requests.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Least grade of a row that stays.
    #[serde(default = "default_min_grade")]
    pub min_grade: f64,
    /// File with prompts of your own; by default prompts/build/judge.yaml.
    #[serde(default)]
    pub prompt: Option<PathBuf>,
}

fn default_min_grade() -> f64 {
    4.0
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        in_range("max_ratio", self.max_ratio, 0.0, 100.0)?;
        in_range("max_copied", self.max_copied, 0.0, 1.0)?;
        in_range("min_script", self.min_script, 0.0, 1.0)?;
        let Some(judge) = &self.judge else {
            return Ok(());
        };
        in_range("judge.min_grade", judge.min_grade, 1.0, 5.0)?;
        judge.language_model().map(drop).map_err(|e| e.at("judge"))
    }
}

impl Judge {
    /// The language model.
    ///
    /// # Errors
    /// Settings of no model, of two, or wrong ones.
    pub fn language_model(&self) -> Result<LanguageModel<'_>> {
        let found = LanguageModel::of(
            self.endpoint.as_ref(),
            self.model.as_ref(),
            &self.parameters,
        )?;
        found.ok_or_else(|| {
            Error::input("a judge needs a language model")
                .hint("add `endpoint: {url: ..., model: ...}` or `model: PATH` to it")
        })
    }
}
