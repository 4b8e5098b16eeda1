//! `verify`: compares summaries with their texts: length, copied spans, numbers, Latin words,
//! language, loops, and optionally a judge.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::collect::is_latin;
use crate::build::collect::script_share;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::local::Models;
use crate::build::numbers::numbers;
use crate::build::recipe::Recipe;
use crate::build::settings::summarise::Engine;
use crate::build::settings::verify::Settings;
use crate::build::summarise;
use crate::build::summarise::Summarised;
use crate::build::summarise::language_model::Engine as LanguageEngine;
use crate::build::summarise::language_model::Prompts;
use crate::build::summarise::language_model::Writer;
use crate::build::summarise::language_model::Written;
use crate::build::summarise::language_model::prompts_text;
use crate::build::workers::EarlierResults;
use crate::data::repeats::words;
use crate::error::Result;
use crate::metrics::failures::has_loop_in;

const JUDGE: &str = include_str!("../../prompts/build/judge.yaml");

/// Measures of a row's first summary, and what was found of any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Words of the text per word of the summary.
    pub(crate) compression: f64,
    /// Share of the summary's words that are one run of the text.
    pub(crate) copied: f64,
    /// Share of the summary's words that are anywhere in the text.
    pub(crate) shared: f64,
    /// Lowest grade of the judge, over all summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grade: Option<f64>,
    /// Faults that did not reject the row, as `reason: what was found`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// A reason and its details.
type Fault = (&'static str, String);

/// The step, opened.
pub(crate) struct Verifying<'a> {
    settings: &'a Settings,
    engine: Engine,
    /// Summaries that a language model was to write.
    num_written: usize,
    rejects: bool,
    judge: Option<Writer<'a>>,
}

/// Prompts that the step's results depend on.
///
/// # Errors
/// A file of prompts that cannot be read.
pub(crate) fn prompts(recipe: &Recipe) -> Result<Vec<Value>> {
    let Some(judge) = &recipe.verify.judge else {
        return Ok(Vec::new());
    };
    let text = prompts_text(judge.prompt.as_deref(), JUDGE);
    Ok(vec![json!(text.map_err(|e| e.at("verify.judge.prompt"))?)])
}

impl<'a> Verifying<'a> {
    /// Opens the judge if the step is needed.
    pub(crate) fn open(
        recipe: &'a Recipe,
        models: &Models,
        calls: &'a Calls<'a>,
        is_needed: bool,
    ) -> Result<Self> {
        let settings = &recipe.verify;
        let judge = match settings.judge.as_ref().filter(|_| is_needed) {
            None => None,
            Some(judge) => {
                let model = judge.language_model()?;
                let engine = LanguageEngine::open(model, "verify.judge.endpoint", models)?;
                let prompts = Prompts::load(judge.prompt.as_deref(), JUDGE)?;
                Some(Writer::new(engine, &judge.parameters, prompts, calls))
            }
        };
        let engine = recipe.summarise.engine;
        let num_written = match engine {
            Engine::Endpoint | Engine::Local => recipe.summarise.num.unwrap_or(1),
            Engine::Existing | Engine::Headline | Engine::Lead => 0,
        };
        Ok(Self {
            settings,
            engine,
            num_written,
            rejects: settings.reject.unwrap_or(engine != Engine::Existing),
            judge,
        })
    }

    /// The judge and its bound, for the dataset card; null without a judge.
    pub(crate) fn described(&self) -> Value {
        let (Some(writer), Some(settings)) = (&self.judge, &self.settings.judge) else {
            return Value::Null;
        };
        let mut described = writer.described();
        described["min_grade"] = json!(settings.min_grade);
        described
    }

    /// Verifies the summaries of one row.
    pub(crate) fn work(&self, rows: &EarlierResults, row: usize) -> Result<Outcome> {
        let found = summarise::of(rows, row)?;
        let text_words = words(&found.text);
        let mut faults: Vec<Fault> = Vec::new();
        for summary in &found.summaries {
            faults.extend(self.faults(&found, &text_words, summary));
        }
        let mut verified = found
            .summaries
            .first()
            .map(|summary| measured(&text_words, &words(summary)))
            .unwrap_or_default();
        if let Some(judge) = &self.judge {
            let min_grade = self.settings.judge.as_ref().map_or(1.0, |j| j.min_grade);
            for summary in &found.summaries {
                match grade(judge, &found, summary)? {
                    Written::Text(grade) => {
                        verified.grade = Some(verified.grade.map_or(grade, |low| low.min(grade)));
                        if grade < min_grade {
                            faults.push(("unfaithful", format!("the judge's grade is {grade}")));
                        }
                    }
                    Written::Unusable(detail) => faults.push(("not_judged", detail)),
                    Written::Ended => return Ok(Outcome::Ended),
                }
            }
        }
        let spoken = matches!(self.engine, Engine::Headline | Engine::Lead)
            .then(|| faults.iter().find(|(reason, _)| *reason == SPOKEN))
            .flatten();
        let rejecting = spoken.or_else(|| faults.first().filter(|_| self.rejects));
        if let Some((reason, detail)) = rejecting {
            return Ok(Outcome::rejected(reason, detail));
        }
        verified.warnings = faults
            .into_iter()
            .map(|(reason, detail)| format!("{reason}: {detail}"))
            .collect();
        // Equal answers of a language model are one summary.
        if found.summaries.len() < self.num_written {
            let num = found.summaries.len();
            let wanted = self.num_written;
            let warning = format!("fewer_summaries: {num} different ones of {wanted}");
            verified.warnings.push(warning);
        }
        Outcome::done(&verified)
    }

    /// All faults of one summary.
    fn faults(&self, found: &Summarised, text_words: &[String], summary: &str) -> Vec<Fault> {
        let settings = self.settings;
        let summary_words = words(summary);
        let measured = measured(text_words, &summary_words);
        let mut faults = Vec::new();
        let num = summary_words.len();
        if num < settings.min_words {
            faults.push(("summary_short", format!("{num} words")));
            return faults;
        }
        if measured.copied >= 1.0 && is_taken_out(self.engine) {
            faults.push((SPOKEN, "the text says the summary word for word".to_owned()));
        }
        let ratio = num as f64 / text_words.len().max(1) as f64;
        if ratio > settings.max_ratio {
            let detail = format!("{ratio:.2} words for each word of the text");
            faults.push(("summary_long", detail));
        }
        if measured.copied > settings.max_copied && !is_taken_out(self.engine) {
            let detail = format!(
                "{:.0} % of its words are one run of the text",
                100.0 * measured.copied
            );
            faults.push(("summary_copied", detail));
        }
        if let Some(share) =
            script_share(summary, &found.language).filter(|share| *share < settings.min_script)
        {
            let detail = format!(
                "{:.0} % of its letters are in the language's script",
                100.0 * share
            );
            faults.push(("summary_language", detail));
        }
        if has_loop_in(summary) {
            faults.push(("summary_loop", "it repeats a phrase three times".to_owned()));
        }
        if settings.numbers {
            let known = numbers(&found.text);
            if let Some(number) = numbers(summary).difference(&known).next() {
                faults.push((
                    "number_not_in_text",
                    format!("{number} does not stand in the text"),
                ));
            }
        }
        if settings.latin && !is_mostly_latin(&found.text) {
            let unknown = summary_words
                .iter()
                .filter(|word| word.chars().count() > 1 && word.chars().all(is_latin))
                .find(|word| !text_words.contains(word));
            if let Some(word) = unknown {
                let detail = format!("`{word}` does not stand in the text");
                faults.push(("latin_not_in_text", detail));
            }
        }
        faults
    }
}

/// The judge's grade of a summary.
fn grade(judge: &Writer, found: &Summarised, summary: &str) -> Result<Written<f64>> {
    #[derive(Deserialize)]
    struct Grade {
        faithfulness: f64,
    }
    let filled = [("text", found.text.as_str()), ("summary", summary)];
    let mut fault = String::new();
    for attempt in 0..3 {
        let answer = match judge.write(&found.language, &filled, attempt)? {
            Written::Text(answer) => answer,
            Written::Unusable(detail) => return Ok(Written::Unusable(detail)),
            Written::Ended => return Ok(Written::Ended),
        };
        let object = answer
            .find('{')
            .zip(answer.rfind('}'))
            .and_then(|(start, end)| answer.get(start..=end));
        match object.and_then(|object| serde_json::from_str::<Grade>(object).ok()) {
            Some(grade) if (1.0..=5.0).contains(&grade.faithfulness) => {
                return Ok(Written::Text(grade.faithfulness));
            }
            _ => fault = "the judge gave no grade from 1 to 5".to_owned(),
        }
    }
    Ok(Written::Unusable(fault))
}

/// Returns whether more than half of a text's letters are Latin.
fn is_mostly_latin(text: &str) -> bool {
    let letters = || text.chars().filter(|c| c.is_alphabetic());
    2 * letters().filter(|c| is_latin(*c)).count() > letters().count()
}

/// Reason for rejecting rows whose text contains the summary.
const SPOKEN: &str = "summary_spoken";

fn is_taken_out(engine: Engine) -> bool {
    matches!(engine, Engine::Headline | Engine::Lead)
}

/// Measures of a summary against its text, in words.
pub(crate) fn measured(text: &[String], summary: &[String]) -> Verified {
    let num = summary.len().max(1) as f64;
    let known: std::collections::HashSet<&String> = text.iter().collect();
    Verified {
        compression: text.len() as f64 / num,
        copied: longest_run(text, summary) as f64 / num,
        shared: summary.iter().filter(|word| known.contains(word)).count() as f64 / num,
        ..Verified::default()
    }
}

/// Words of the longest run that both have.
fn longest_run(a: &[String], b: &[String]) -> usize {
    let mut before = vec![0usize; b.len() + 1];
    let mut longest = 0;
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let run = if word == other { diagonal + 1 } else { 0 };
            diagonal = before[j + 1];
            before[j + 1] = run;
            longest = longest.max(run);
        }
    }
    longest
}

/// The step's result of a row.
pub(crate) fn of(rows: &EarlierResults, row: usize) -> Result<Verified> {
    rows.of(Step::Verify, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(engine: Engine, text: &str, summary: &str) -> Vec<&'static str> {
        faults_in("ar", engine, text, summary)
    }

    fn faults_in(language: &str, engine: Engine, text: &str, summary: &str) -> Vec<&'static str> {
        let settings = Settings::default();
        let verifying = Verifying {
            settings: &settings,
            engine,
            num_written: 0,
            rejects: true,
            judge: None,
        };
        let found = Summarised {
            text: text.into(),
            summaries: vec![summary.into()],
            language: language.into(),
        };
        verifying
            .faults(&found, &words(text), summary)
            .into_iter()
            .map(|(reason, _)| reason)
            .collect()
    }

    #[test]
    fn faults_are_named() {
        let text = "قال الوزير إن خمسة وعشرين شخصا قتلوا يوم الأحد في العاصمة حسب شبكة CNN الإخبارية";
        let endpoint = Engine::Endpoint;
        for (summary, expected) in [
            ("مقتل 25 شخصا في العاصمة", &[][..]),
            ("مقتل 26 شخصا في العاصمة", &["number_not_in_text"]),
            ("وزير يتحدث إلى cnn عن قتلى", &[]),
            ("وزير يتحدث إلى BBC عن قتلى", &["latin_not_in_text"]),
            ("نعم", &["summary_short"]),
            (
                "minister says people died on CNN",
                &["summary_language", "latin_not_in_text"],
            ),
            ("قال الوزير إن خمسة وعشرين شخصا قتلوا", &["summary_copied"]),
            ("قتلى في بلد قتلى في بلد قتلى في بلد", &["summary_loop"]),
        ] {
            assert_eq!(faults(endpoint, text, summary), expected, "{summary}");
        }
        let long = format!("{text} {text} كلمة أخرى");
        assert_eq!(faults(endpoint, text, &long), ["summary_long"]);
        assert_eq!(
            faults(Engine::Headline, text, "يَوم الأحد في العاصمة"),
            [SPOKEN]
        );
    }

    #[test]
    fn english_summaries_may_have_words_of_their_own() {
        let text = "The minister said on Sunday that schools will open again in the spring";
        let summary = "Officials announce reopening of schools";
        for language in ["en", "en-GB", "sv"] {
            let found = faults_in(language, Engine::Endpoint, text, summary);
            assert!(found.is_empty(), "{language}: {found:?}");
        }
    }

    #[test]
    fn measures_are_counted_by_hand() {
        let found = measured(&words("a b c d e f"), &words("x b c y f"));
        assert_eq!(
            (found.compression, found.copied, found.shared),
            (1.2, 0.4, 0.6)
        );
    }
}
