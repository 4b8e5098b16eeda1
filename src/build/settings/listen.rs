//! `listen:` of a recipe.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::build::call::EndpointSettings;
use crate::build::keys::in_range;
use crate::data::language;
use crate::error::Error;
use crate::error::Result;
use crate::metrics::Normaliser;

/// Bounds of speech, and who transcribes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who transcribes.
    pub transcribe: Transcribe,
    /// An endpoint with `/audio/transcriptions`.
    pub endpoint: Option<EndpointSettings>,
    /// Folder or Hub id of a maqam model or of a Whisper.
    pub model: Option<String>,
    /// Adapter of the model: a PEFT folder, or a checkpoint of a run.
    pub adapter: Option<PathBuf>,
    /// Longest stretch of whole sentences that the model is given at once, in seconds.
    pub window_s: f64,
    /// Texts, its own among them, of which a recording's own must be the likeliest for the model; 0
    /// for no such check.
    #[serde(rename = "match")]
    pub num_matched: usize,
    /// Rule that both texts go through before they are compared.
    pub normaliser: Option<String>,
    /// Character error rate of the same recogniser on real speech, under the same rule: no
    /// threshold means anything without it.
    pub floor_cer: Option<f64>,
    /// Most by which a row's character error rate may exceed the floor.
    pub over_floor: f64,
    /// Least and most characters of spoken text per second.
    pub chars_per_s: [f64; 2],
    /// Most by which a row may be faster or slower than its voice is with a sentence that is known:
    /// 0.5 takes from two thirds to one and a half of that speed.
    pub rate_tolerance: f64,
    /// Largest share of silent frames.
    pub max_silent: f64,
    /// Largest share of clipped samples.
    pub max_clipped: f64,
    /// Least share of frames with speech.
    pub min_active: f64,
    /// Longest pause, in seconds.
    pub max_pause_s: f64,
    /// Least and most integrated loudness (EBU R 128), in LUFS.
    pub loudness_lufs: [f64; 2],
    /// A program that grades a recording.
    pub quality: Option<Quality>,
}

/// Who transcribes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transcribe {
    /// Nobody: intelligibility is not verified.
    #[default]
    None,
    /// A maqam model.
    Maqam,
    /// A Whisper that candle-transformers runs.
    Whisper,
    /// An endpoint that speaks OpenAI's `/audio/transcriptions`.
    Endpoint,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            transcribe: Transcribe::None,
            endpoint: None,
            model: None,
            adapter: None,
            window_s: 25.0,
            num_matched: 0,
            normaliser: None,
            floor_cer: None,
            over_floor: 0.25,
            chars_per_s: [5.0, 30.0],
            rate_tolerance: 0.5,
            max_silent: 0.5,
            max_clipped: 0.01,
            min_active: 0.25,
            max_pause_s: 3.0,
            loudness_lufs: [-40.0, -5.0],
            quality: None,
        }
    }
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self, is_translated: bool) -> Result<()> {
        in_range("window_s", self.window_s, 1.0, 600.0)?;
        if self.num_matched == 1 {
            return Err(Error::input("`match: 1` compares a text with itself")
                .hint("give 8, or leave `match` out"));
        }
        if self.num_matched > 0 && is_translated {
            return Err(Error::input(
                "`match` compares with texts of the sources, which are translated here",
            )
            .hint("translate in a build of its own, or leave `match` out"));
        }
        let is_missing = self.model.is_none();
        if is_missing && self.transcribe == Transcribe::Whisper {
            return Err(Error::input("`transcribe: whisper` needs a model")
                .hint("add `model: PATH`, the folder of a Whisper checkpoint, or `model: openai/whisper-small`"));
        }
        if is_missing && self.needs_maqam_model() {
            return Err(Error::input("`transcribe: maqam` and `match` need a model")
                .hint("add `model: PATH` to `listen`"));
        }
        if self.transcribe == Transcribe::Whisper && self.adapter.is_some() {
            return Err(
                Error::input("`adapter` belongs to a maqam model, not to a Whisper")
                    .hint("remove `adapter`"),
            );
        }
        for (key, value) in [
            ("max_silent", self.max_silent),
            ("max_clipped", self.max_clipped),
            ("min_active", self.min_active),
        ] {
            in_range(key, value, 0.0, 1.0)?;
        }
        in_range("rate_tolerance", self.rate_tolerance, 0.05, 100.0)?;
        in_range("over_floor", self.over_floor, 0.0, 10.0)?;
        for (key, [low, high]) in [
            ("chars_per_s", self.chars_per_s),
            ("loudness_lufs", self.loudness_lufs),
        ] {
            if low >= high || low.is_nan() || high.is_nan() {
                return Err(Error::input(format!("`{key}` is [{low}, {high}]"))
                    .hint("give the least and the most"));
            }
        }
        self.quality.iter().try_for_each(Quality::check)?;
        if self.transcribe == Transcribe::None {
            return Ok(());
        }
        match &self.endpoint {
            Some(endpoint) => endpoint.check()?,
            None if self.transcribe == Transcribe::Endpoint => {
                return Err(Error::input("`transcribe: endpoint` needs an endpoint")
                    .hint("add `endpoint: {url: https://api.openai.com/v1, model: NAME}`"));
            }
            None => {}
        }
        self.normaliser("ar")?;
        if self.floor_cer.is_none() {
            return Err(Error::input("`transcribe` needs `floor_cer`").hint(
                "transcribe a few real recordings with the same recogniser, and give their character error rate: `maqam metrics --task asr`",
            ));
        }
        Ok(())
    }

    /// Returns whether a maqam model is needed. If a Whisper transcribes, it compares texts too.
    pub fn needs_maqam_model(&self) -> bool {
        match self.transcribe {
            Transcribe::Maqam => true,
            Transcribe::Whisper => false,
            Transcribe::None | Transcribe::Endpoint => self.num_matched > 0,
        }
    }

    /// Name of the Whisper that transcribes, if one does.
    pub fn whisper(&self) -> Option<&str> {
        match self.transcribe {
            Transcribe::Whisper => self.model.as_deref(),
            _ => None,
        }
    }

    /// The rule for texts in a language.
    ///
    /// # Errors
    /// A name that no rule has.
    pub fn normaliser(&self, language: &str) -> Result<Normaliser> {
        match &self.normaliser {
            Some(name) => name.parse(),
            // The tags of dialects, such as `apc`, are those of Arabic.
            None => match language::tag(language) {
                Ok(tag) if tag.split('-').next() == Some("ar") => Ok(Normaliser::ArabicDialect),
                _ => Ok(Normaliser::EnglishBasic),
            },
        }
    }
}

/// A program that prints a number for a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// The command; `{audio}` stands for the path of a FLAC file. The last number that it prints is
    /// the grade.
    pub command: Vec<String>,
    /// Least grade of a row that stays.
    pub min: f64,
    /// Longest that it may take, in seconds.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: f64,
}

fn default_timeout_s() -> f64 {
    300.0
}

impl Quality {
    /// Checks the settings.
    ///
    /// # Errors
    /// A command that is not given the recording.
    pub fn check(&self) -> Result<()> {
        if !self.command.iter().any(|part| part.contains("{audio}")) {
            return Err(Error::input("`quality.command` names no recording")
                .hint("write `{audio}` where the path of the recording belongs"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_have_the_normaliser_of_arabic() {
        let settings = Settings::default();
        for (language, expected) in [
            ("ar-EG", Normaliser::ArabicDialect),
            ("apc", Normaliser::ArabicDialect),
            ("acm", Normaliser::ArabicDialect),
            ("en-GB", Normaliser::EnglishBasic),
            ("arn", Normaliser::EnglishBasic),
        ] {
            assert_eq!(settings.normaliser(language).unwrap(), expected);
        }
    }
}
