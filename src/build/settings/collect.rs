//! `collect:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::build::keys::in_range;
use crate::data::language;
use crate::error::Error;
use crate::error::Result;
use crate::error::brief;

/// Sources, and which of their fields are what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Files, or patterns such as `texts/*.txt`: JSON lines, Parquet, CSV, TSV, or text files whose
    /// first line is the headline.
    pub from: Vec<PathBuf>,
    /// Field with the text.
    #[serde(default = "default_text")]
    pub text: String,
    /// Fields with summaries.
    #[serde(default)]
    pub summary: Vec<String>,
    /// Field with the headline; of text files it is the first line.
    #[serde(default)]
    pub headline: Option<String>,
    /// Field with the id; by default `id` where there is one, else file and line.
    #[serde(default)]
    pub id: Option<String>,
    /// Field with the split, which is kept.
    #[serde(default)]
    pub split: Option<String>,
    /// Field with what must not be split apart.
    #[serde(default)]
    pub group: Option<String>,
    /// Language of the texts, as a BCP 47 tag.
    #[serde(default = "default_language")]
    pub language: String,
    /// Field with a row's language; rows in another than `language` are rejected.
    #[serde(default)]
    pub language_field: Option<String>,
    /// Licence of the sources; it carries to the set and its card.
    #[serde(default)]
    pub licence: Option<String>,
    /// Field with a row's licence.
    #[serde(default)]
    pub licence_field: Option<String>,
    /// Name and address of the sources, for the card.
    #[serde(default)]
    pub credit: Option<String>,
    /// Part of each document that is used: `document`, `first_sentence`, `lead_3`.
    #[serde(default = "default_unit")]
    pub unit: String,
    /// Fewest words of a text.
    #[serde(default = "default_min_words")]
    pub min_words: usize,
    /// Most words of a text.
    #[serde(default)]
    pub max_words: Option<usize>,
    /// Least share of letters in the script of the language.
    #[serde(default = "default_min_script")]
    pub min_script: f64,
    /// Most documents that are read.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_text() -> String {
    "text".to_owned()
}

fn default_language() -> String {
    "ar".to_owned()
}

fn default_unit() -> String {
    "document".to_owned()
}

fn default_min_words() -> usize {
    5
}

fn default_min_script() -> f64 {
    0.5
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        if self.from.is_empty() {
            return Err(
                Error::input("`from` names no files").hint("give a file, or a list of them")
            );
        }
        self.num_sentences()?;
        language::tag(&self.language).map_err(|e| e.at("language"))?;
        in_range("min_script", self.min_script, 0.0, 1.0)?;
        if self.max_words.is_some_and(|most| most < self.min_words) {
            return Err(Error::input("`max_words` is below `min_words`").hint("raise `max_words`"));
        }
        Ok(())
    }

    /// Sentences of a document that are used; none for all.
    pub fn num_sentences(&self) -> Result<Option<usize>> {
        match self.unit.as_str() {
            "document" => Ok(None),
            "first_sentence" => Ok(Some(1)),
            other => other
                .strip_prefix("lead_")
                .and_then(|number| number.parse().ok())
                .filter(|number| *number > 0)
                .map(Some)
                .ok_or_else(|| {
                    Error::input(format!("`unit` is `{}`", brief(other)))
                        .hint("write document, first_sentence, or lead_3 for three sentences")
                }),
        }
    }
}
