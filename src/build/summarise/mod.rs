//! `summarise`: the summaries of each document, as the source has them or as a language model
//! writes them.

mod chosen;
pub(crate) mod language_model;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::document::Document;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::local::Models;
use crate::build::recipe::Recipe;
use crate::build::settings::summarise::Engine;
use crate::build::settings::summarise::Settings;
use crate::build::summarise::language_model::Engine as LanguageEngine;
use crate::build::summarise::language_model::Prompts;
use crate::build::summarise::language_model::Writer;
use crate::build::summarise::language_model::Written;
use crate::build::summarise::language_model::prompts_text;
use crate::build::workers::EarlierResults;
use crate::error::Error;
use crate::error::Result;

/// What the step found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summarised {
    /// The spoken text.
    pub(crate) text: String,
    /// Summaries of the row, in their order.
    pub(crate) summaries: Vec<String>,
    /// Language of both.
    pub(crate) language: String,
}

const SUMMARISE: &str = include_str!("../../../prompts/build/summarise.yaml");
const TRANSLATE: &str = include_str!("../../../prompts/build/translate.yaml");

/// Prompts that the step's results depend on.
///
/// # Errors
/// A file of prompts that cannot be read.
pub(crate) fn prompts(recipe: &Recipe) -> Result<Vec<Value>> {
    let settings = &recipe.summarise;
    let mut found = Vec::new();
    if settings.writer()?.is_some() {
        let text = prompts_text(settings.prompt.as_deref(), SUMMARISE);
        found.push(json!(text.map_err(|e| e.at("summarise.prompt"))?));
    }
    if let Some(translate) = &settings.translate {
        let text = prompts_text(translate.prompt.as_deref(), TRANSLATE);
        found.push(json!(text.map_err(|e| e.at("summarise.translate.prompt"))?));
    }
    Ok(found)
}

/// The step, opened.
pub(crate) struct Summarising<'a> {
    settings: &'a Settings,
    writer: Option<Writer<'a>>,
    translator: Option<Writer<'a>>,
    language: String,
}

impl<'a> Summarising<'a> {
    /// Opens the language models if the step is needed.
    pub(crate) fn open(
        recipe: &'a Recipe,
        models: &Models,
        calls: &'a Calls<'a>,
        is_needed: bool,
    ) -> Result<Self> {
        let settings = &recipe.summarise;
        let mut step = Self {
            settings,
            writer: None,
            translator: None,
            language: recipe.language().to_owned(),
        };
        if !is_needed {
            return Ok(step);
        }
        if let Some(model) = settings.writer()? {
            let prompts = Prompts::load(settings.prompt.as_deref(), SUMMARISE)?;
            let engine = LanguageEngine::open(model, "summarise.endpoint", models)?;
            step.writer = Some(Writer::new(engine, &settings.parameters, prompts, calls));
        }
        if let Some((translate, model)) = settings.translate.as_ref().zip(settings.translator()?) {
            let prompts = Prompts::load(translate.prompt.as_deref(), TRANSLATE)?;
            let has_own = translate.endpoint.is_some() || translate.model.is_some();
            let engine = match &step.writer {
                // One budget and one rate for both.
                Some(writer) if !has_own => writer.engine().clone(),
                _ if has_own => {
                    LanguageEngine::open(model, "summarise.translate.endpoint", models)?
                }
                _ => LanguageEngine::open(model, "summarise.endpoint", models)?,
            };
            step.translator = Some(Writer::new(engine, &translate.parameters, prompts, calls));
        }
        Ok(step)
    }

    /// Engines and prompts, for the dataset card.
    pub(crate) fn described(&self) -> Value {
        let writer = |writer: &Option<Writer>| writer.as_ref().map(Writer::described);
        json!({
            "engine": self.settings.engine,
            "language_model": writer(&self.writer),
            "translation": writer(&self.translator),
        })
    }

    /// Summarises one document.
    pub(crate) fn work(&self, rows: &EarlierResults, row: usize) -> Result<Outcome> {
        let mut document = rows.document(row)?;
        if let Some(translator) = &self.translator {
            match self.translate(translator, &mut document)? {
                Written::Text(()) => {}
                Written::Unusable(detail) => {
                    return Ok(Outcome::rejected("translation_failed", detail));
                }
                Written::Ended => return Ok(Outcome::Ended),
            }
        }
        let chosen = match self.settings.engine {
            Engine::Existing => chosen::existing(document),
            Engine::Headline => chosen::headline(document),
            Engine::Lead => chosen::lead(document, self.settings.num_lead_sentences()),
            Engine::Endpoint | Engine::Local => return self.write(document),
        };
        match chosen {
            Ok((text, summaries)) => self.done(text, summaries),
            Err((reason, detail)) => Ok(Outcome::rejected(reason, detail)),
        }
    }

    fn done(&self, text: String, summaries: Vec<String>) -> Result<Outcome> {
        if text.split_whitespace().next().is_none() {
            return Ok(Outcome::rejected(
                "nothing_to_speak",
                "nothing is left without the summary",
            ));
        }
        Outcome::done(&Summarised {
            text,
            summaries,
            language: self.language.clone(),
        })
    }

    /// Requests summaries from a language model.
    fn write(&self, document: Document) -> Result<Outcome> {
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| Error::bug("no language model is open"))?;
        let max_words = self.settings.max_words.unwrap_or(25).to_string();
        let mut summaries: Vec<String> = Vec::new();
        for number in 0..self.settings.num.unwrap_or(1) {
            let filled = [("max_words", max_words.as_str()), ("text", &document.text)];
            match writer.write(&self.language, &filled, number)? {
                Written::Text(summary) if summaries.contains(&summary) => {}
                Written::Text(summary) => summaries.push(summary),
                Written::Unusable(detail) => {
                    return Ok(Outcome::rejected("no_summary_written", detail));
                }
                Written::Ended => return Ok(Outcome::Ended),
            }
        }
        self.done(document.text, summaries)
    }

    /// Translates text, summaries and headline.
    fn translate(&self, translator: &Writer, document: &mut Document) -> Result<Written<()>> {
        let texts = std::iter::once(&mut document.text)
            .chain(&mut document.summaries)
            .chain(&mut document.headline);
        for text in texts {
            match translator.write(&self.language, &[("text", text)], 0)? {
                Written::Text(translated) => *text = translated,
                Written::Unusable(detail) => return Ok(Written::Unusable(detail)),
                Written::Ended => return Ok(Written::Ended),
            }
        }
        Ok(Written::Text(()))
    }
}

/// The step's result of a row.
pub(crate) fn of(rows: &EarlierResults, row: usize) -> Result<Summarised> {
    rows.of(Step::Summarise, row)
}
