//! `--dry-run`: cost of a build, before any request to an engine.

use crate::build::assign::Prepared;
use crate::build::assign::SPLITS;
use crate::build::recipe::Recipe;
use crate::build::sentences::sentences;
use crate::build::settings::listen::Transcribe;
use crate::build::settings::local::LanguageModel;
use crate::build::settings::speak;
use crate::build::settings::summarise;
use crate::build::settings::verify::Judge;
use crate::build::store::Store;
use crate::error::Result;
use crate::text_table::counted;
use crate::text_table::duration;

/// Characters per second of speech, in Arabic news read by espeak-ng at its usual speed.
const CHARS_PER_S: f64 = 14.0;
/// Characters per token of multilingual tokenizers on Arabic; the estimate is on the high side.
const CHARS_PER_TOKEN: f64 = 2.5;
/// Tokens of a summary.
const SUMMARY_TOKENS: f64 = 80.0;
/// Tokens of a judge's grade with its reason.
const GRADE_TOKENS: f64 = 50.0;
/// Bytes per second of speech in FLAC at 16 kHz.
const BYTES_PER_S: f64 = 18_000.0;

/// Counts, hours and cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Documents that are collected.
    pub collected: usize,
    /// Documents that collecting and cleaning reject.
    pub rejected: usize,
    /// Documents of train, dev and test.
    pub splits: [usize; 3],
    /// Hours of speech.
    pub hours: f64,
    /// Bytes on the disk, the cache included.
    pub bytes: f64,
    /// Requests to language models, speech and transcription endpoints.
    pub requests: [usize; 3],
    /// Tokens of prompts and of responses of language models.
    pub tokens: [f64; 2],
    /// Dollars for language models; none if a price is unknown.
    pub dollars: Option<f64>,
    /// Characters that a speech endpoint reads.
    pub spoken_chars: f64,
    /// Dollars for a speech endpoint; none if its price is unknown.
    pub speech_dollars: Option<f64>,
}

impl Estimate {
    /// The estimate in lines.
    pub fn lines(&self) -> Vec<String> {
        let remaining = self.collected - self.rejected;
        let mut lines = vec![
            format!(
                "{} collected, {} rejected so far, {remaining} to go on with",
                counted(self.collected as u64, "document"),
                self.rejected
            ),
            SPLITS
                .iter()
                .zip(self.splits)
                .map(|(name, num)| format!("{name} {num}"))
                .collect::<Vec<_>>()
                .join(", "),
            format!(
                "about {} of speech, {} with the cache",
                duration(3600.0 * self.hours),
                size(self.bytes)
            ),
        ];
        let [written, spoken, transcribed] = self.requests;
        for (num, what) in [
            (written, "language model"),
            (spoken, "speech endpoint"),
            (transcribed, "transcription endpoint"),
        ] {
            if num > 0 {
                lines.push(format!("{num} requests to the {what}, if none is cached"));
            }
        }
        let shown = |dollars: Option<f64>, prices: &str| match dollars {
            Some(dollars) => format!("{dollars:.2} dollars"),
            None => format!("an unknown price (give {prices})"),
        };
        if written > 0 {
            let [asked, answered] = self.tokens;
            let dollars = shown(self.dollars, "`price_in` and `price_out`");
            lines.push(format!(
                "about {asked:.0} tokens asked and {answered:.0} answered, {dollars}"
            ));
        }
        if spoken > 0 {
            let chars = self.spoken_chars;
            let dollars = shown(self.speech_dollars, "`price_in`");
            lines.push(format!("about {chars:.0} characters spoken, {dollars}"));
        }
        if transcribed > 0 {
            let length = duration(3600.0 * self.hours);
            lines.push(format!(
                "about {length} transcribed, at a price that is not estimated"
            ));
        }
        lines
    }
}

/// A size on the disk.
fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 99.5e6 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}

/// Use of one language model.
struct Use<'a> {
    model: LanguageModel<'a>,
    num_requests: usize,
    /// Tokens of prompts and of responses.
    tokens: [f64; 2],
}

impl<'a> Use<'a> {
    fn new(model: LanguageModel<'a>) -> Self {
        Self {
            model,
            num_requests: 0,
            tokens: [0.0; 2],
        }
    }

    /// Adds a request by its tokens.
    fn add(&mut self, asked: f64, answered: f64) {
        self.num_requests += 1;
        self.tokens[0] += asked;
        self.tokens[1] += answered;
    }

    /// Dollars; none if a price is unknown. A local model costs nothing.
    fn dollars(&self) -> Option<f64> {
        let LanguageModel::Endpoint(endpoint) = self.model else {
            return Some(0.0);
        };
        let price_in = endpoint.budget.price_in?;
        let price_out = endpoint.budget.price_out?;
        Some((self.tokens[0] * price_in + self.tokens[1] * price_out) / 1e6)
    }
}

/// Estimates a build from its cleaned documents.
///
/// # Errors
/// The disk's.
pub(crate) fn estimate(recipe: &Recipe, store: &Store, prepared: &Prepared) -> Result<Estimate> {
    let mut estimate = Estimate {
        collected: prepared.rows.len(),
        ..Estimate::default()
    };
    let num_summaries = recipe.summarise.num.unwrap_or(1);
    let mut writer = recipe.summarise.writer()?.map(Use::new);
    let mut translator = recipe.summarise.translator()?.map(Use::new);
    let judge = recipe.verify.judge.as_ref();
    let mut judge = judge.map(Judge::language_model).transpose()?.map(Use::new);
    let mut chars = 0.0;
    for (row, place) in prepared.rows.iter().enumerate() {
        if place.rejected.is_some() {
            estimate.rejected += 1;
            continue;
        }
        let document = prepared.document(store, row)?;
        let len = document.text.chars().count() as f64;
        chars += len;
        estimate.splits[usize::from(place.split)] += 1;
        let tokens = len / CHARS_PER_TOKEN;
        if let Some(translator) = &mut translator {
            let further = document.summaries.iter().chain(&document.headline);
            for text in std::iter::once(&document.text).chain(further) {
                let tokens = text.chars().count() as f64 / CHARS_PER_TOKEN;
                translator.add(tokens, tokens);
            }
        }
        if let Some(writer) = &mut writer {
            for _ in 0..num_summaries {
                writer.add(tokens, SUMMARY_TOKENS);
            }
        }
        if let Some(judge) = &mut judge {
            let num_judged = match recipe.summarise.engine {
                summarise::Engine::Existing => document.summaries.len(),
                summarise::Engine::Headline | summarise::Engine::Lead => 1,
                summarise::Engine::Endpoint | summarise::Engine::Local => num_summaries,
            };
            for _ in 0..num_judged {
                judge.add(tokens + SUMMARY_TOKENS, GRADE_TOKENS);
            }
        }
        if recipe.speak.engine == speak::Engine::Endpoint {
            for sentence in sentences(&document.text) {
                let len = sentence.chars().count();
                estimate.requests[1] += len.div_ceil(recipe.speak.max_chars).max(1);
            }
        }
        if recipe.listen.transcribe == Transcribe::Endpoint {
            estimate.requests[2] += 1;
        }
    }
    if estimate.requests[1] > 0 {
        // Every voice reads the calibration sentence.
        estimate.requests[1] += recipe.speak.voices.len();
        estimate.spoken_chars = chars;
        let endpoint = recipe.speak.endpoint.as_ref();
        let price = endpoint.and_then(|endpoint| endpoint.budget.price_in);
        estimate.speech_dollars = price.map(|price| chars * price / 1e6);
    }
    let seconds = chars / CHARS_PER_S;
    estimate.hours = seconds / 3600.0;
    // In the cache, in Parquet and next to the manifest.
    estimate.bytes = 3.0 * seconds * BYTES_PER_S;
    estimate.dollars = Some(0.0);
    for used in [translator, writer, judge].into_iter().flatten() {
        estimate.requests[0] += used.num_requests;
        estimate.tokens[0] += used.tokens[0];
        estimate.tokens[1] += used.tokens[1];
        let dollars = estimate.dollars.zip(used.dollars());
        estimate.dollars = dollars.map(|(sum, more)| sum + more);
    }
    Ok(estimate)
}
