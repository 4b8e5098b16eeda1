//! `listen`: checks of the speech: its signal, what a recogniser makes of it, and whether its own
//! text is the likeliest of several.

mod endpoint;
pub mod maqam;
mod matching;
mod quality;
mod transcriber;
mod whisper;
mod windows;

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::listen::maqam::Model;
use crate::build::listen::maqam::Recogniser;
use crate::build::listen::matching::Compared;
use crate::build::listen::matching::Matching;
use crate::build::listen::quality::Answer;
use crate::build::listen::quality::Quality;
use crate::build::listen::transcriber::Compares;
use crate::build::listen::transcriber::Transcriber;
use crate::build::listen::whisper::Whisper;
use crate::build::local::Models;
use crate::build::recipe::Recipe;
use crate::build::settings::listen::Settings;
use crate::build::settings::listen::Transcribe;
use crate::build::speak;
use crate::build::speak::Spoken;
use crate::build::summarise;
use crate::build::workers::EarlierResults;
use crate::error::Result;
use crate::metrics::Normaliser;
use crate::metrics::edit::char_errors;
use crate::metrics::failures::has_loop_in;
use crate::seed::Key;

/// What the step found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listened {
    /// Characters of spoken text per second.
    pub(crate) chars_per_s: f64,
    /// Transcript of the recogniser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transcript: Option<String>,
    /// Character error rate of the transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cer: Option<f64>,
    /// Nats per token by which the row's own text is likelier than the likeliest of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) margin: Option<f64>,
    /// Texts that were compared by their likelihood, the row's own included; 0 if there was nothing
    /// to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) num_compared: Option<usize>,
    /// Grade of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quality: Option<f64>,
}

/// A reason and its details.
type Fault = (&'static str, String);

/// The step, opened.
pub(crate) struct Listening<'a> {
    settings: &'a Settings,
    calls: &'a Calls<'a>,
    transcriber: Option<Box<dyn Transcriber + 'a>>,
    matching: Option<Matching<'a>>,
    quality: Option<Quality<'a>>,
}

impl<'a> Listening<'a> {
    /// Opens recogniser and program if the step is needed.
    pub(crate) fn open(
        recipe: &'a Recipe,
        calls: &'a Calls<'a>,
        recogniser: Option<&'a Recogniser>,
        models: &Models,
        is_needed: bool,
    ) -> Result<Self> {
        let settings = &recipe.listen;
        let whisper = match settings.whisper() {
            Some(name) if is_needed => Some(Whisper::open(
                name,
                models,
                settings.window_s,
                calls.stop(),
            )?),
            _ => None,
        };
        let transcriber: Option<Box<dyn Transcriber + 'a>> = match settings.transcribe {
            Transcribe::Endpoint if is_needed => {
                Some(Box::new(endpoint::Endpoint::open(settings, calls)?))
            }
            Transcribe::Maqam if is_needed => {
                let model = Model::new(recogniser, settings.window_s)?;
                Some(Box::new(model))
            }
            _ => match &whisper {
                Some(whisper) => Some(Box::new(whisper.clone())),
                None => None,
            },
        };
        let compares = || -> Result<Box<dyn Compares + 'a>> {
            match &whisper {
                Some(whisper) => Ok(Box::new(whisper.clone())),
                None => Ok(Box::new(Model::new(recogniser, settings.window_s)?)),
            }
        };
        let matching = match settings.num_matched {
            0 => None,
            _ if !is_needed => None,
            num => Some(Matching {
                model: compares()?,
                num,
                key: Key::new(recipe.seed, "build match"),
            }),
        };
        let quality = match settings.quality.as_ref().filter(|_| is_needed) {
            Some(quality) => Some(Quality::open(quality, calls)?),
            None => None,
        };
        Ok(Self {
            settings,
            calls,
            transcriber,
            matching,
            quality,
        })
    }

    /// Recogniser, normaliser and bounds, for the dataset card.
    pub(crate) fn described(&self) -> Value {
        json!({
            "engine": self.settings.transcribe,
            "recogniser": self.transcriber.as_ref().map(|transcriber| transcriber.described()),
            "floor_cer": self.settings.floor_cer,
            "over_floor": self.settings.over_floor,
        })
    }

    /// Checks the speech of one row.
    pub(crate) fn work(&self, rows: &EarlierResults, row: usize) -> Result<Outcome> {
        let spoken = speak::of(rows, row)?;
        let mut listened = Listened {
            chars_per_s: chars_per_s(&spoken),
            ..Listened::default()
        };
        if let Some((reason, detail)) = self.signal_fault(&spoken, listened.chars_per_s) {
            return Ok(Outcome::rejected(reason, detail));
        }
        if self.transcriber.is_none() && self.quality.is_none() && self.matching.is_none() {
            return Outcome::done(&listened);
        }

        let found = summarise::of(rows, row)?;
        let file: Arc<[u8]> = spoken.file(self.calls.cache())?.into();
        if let Some(quality) = &self.quality {
            match quality.of(&file)? {
                Answer::Grade(grade) if grade < quality.least() => {
                    let detail = format!("its grade is {grade}, below {}", quality.least());
                    return Ok(Outcome::rejected("low_quality", detail));
                }
                Answer::Grade(grade) => listened.quality = Some(grade),
                Answer::Failed(detail) => {
                    return Ok(Outcome::Failed {
                        reason: "quality_failed",
                        detail,
                        is_retried: true,
                    });
                }
                Answer::Ended => return Ok(Outcome::Ended),
            }
        }
        if let Some(transcriber) = &self.transcriber {
            let question = json!([
                "transcribe",
                transcriber.identity(),
                found.language,
                blake3::hash(&file).to_hex().as_str()
            ]);
            let answer = self.calls.answer(&question, || {
                let text = transcriber.transcribe(&file, &spoken, &found.language)?;
                Ok(text.map(String::into_bytes))
            })?;
            let Some(answer) = answer else {
                return Ok(Outcome::Ended);
            };
            let transcript = String::from_utf8_lossy(&answer).into_owned();
            let normaliser = self.settings.normaliser(&found.language)?;
            let cer = cer(&[&found.text, &spoken.read()], &transcript, normaliser);
            if let Some((reason, detail)) = self.transcript_fault(&found.text, &transcript, cer) {
                let cer = Some(cer);
                return Ok(Outcome::Rejected {
                    reason,
                    detail,
                    cer,
                });
            }
            (listened.transcript, listened.cer) = (Some(transcript), Some(cer));
        }
        if let Some(matching) = &self.matching {
            match matching.compare(self.calls, rows, row, &file, &spoken, &found.language)? {
                Compared::Ended => return Ok(Outcome::Ended),
                Compared::Skipped => listened.num_compared = Some(0),
                Compared::With { margin, .. } if margin <= 0.0 => {
                    return Ok(Outcome::Rejected {
                        reason: "not_its_text",
                        detail: format!(
                            "another text is likelier by {:.3} nats per token",
                            -margin
                        ),
                        cer: listened.cer,
                    });
                }
                Compared::With { margin, num } => {
                    (listened.margin, listened.num_compared) = (Some(margin), Some(num));
                }
            }
        }
        Outcome::done(&listened)
    }

    /// The first fault of a recording, independent of its text.
    fn signal_fault(&self, spoken: &Spoken, chars_per_s: f64) -> Option<Fault> {
        let settings = self.settings;
        let levels = spoken.levels;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        if levels.silent > settings.max_silent {
            let detail = format!("{} of it is silent", percent(levels.silent));
            return Some(("silent", detail));
        }
        if levels.active < settings.min_active {
            let detail = format!("{} of it is speech", percent(levels.active));
            return Some(("little_speech", detail));
        }
        if levels.longest_pause_s > settings.max_pause_s {
            let detail = format!("a pause of {:.1} s", levels.longest_pause_s);
            return Some(("long_pause", detail));
        }
        if levels.clipped > settings.max_clipped {
            let detail = format!("{} of its samples are clipped", percent(levels.clipped));
            return Some(("clipped", detail));
        }
        let [low, high] = settings.loudness_lufs;
        match spoken.loudness_lufs {
            None => return Some(("too_soft", "nothing is above -70 LUFS".to_owned())),
            Some(found) if found < low => {
                return Some(("too_soft", format!("{found:.1} LUFS")));
            }
            Some(found) if found > high => {
                return Some(("too_loud", format!("{found:.1} LUFS")));
            }
            Some(_) => {}
        }
        let [mut slow, mut fast] = settings.chars_per_s;
        if let Some(usual) = spoken.usual_chars_per_s {
            slow = slow.max(usual / (1.0 + settings.rate_tolerance));
            fast = fast.min(usual * (1.0 + settings.rate_tolerance));
        }
        let detail =
            || format!("{chars_per_s:.1} characters per second, not {slow:.1} to {fast:.1}");
        if chars_per_s < slow {
            return Some(("too_long_for_its_text", detail()));
        }
        (chars_per_s > fast).then(|| ("too_short_for_its_text", detail()))
    }

    /// The first thing that a transcript shows.
    fn transcript_fault(&self, text: &str, transcript: &str, cer: f64) -> Option<Fault> {
        if has_loop_in(transcript) && !has_loop_in(text) {
            return Some((
                "transcript_loop",
                "the recogniser repeats a phrase three times".to_owned(),
            ));
        }
        let most = self.settings.floor_cer.unwrap_or(0.0) + self.settings.over_floor;
        (cer > most).then(|| {
            (
                "unintelligible",
                format!("character error rate {cer:.2}, above {most:.2}"),
            )
        })
    }
}

/// Characters of spoken text per second, without spaces, marks and pauses between sentences.
fn chars_per_s(spoken: &Spoken) -> f64 {
    let num: usize = spoken
        .sentences
        .iter()
        .map(|sentence| speak::num_letters(&sentence.spoken))
        .sum();
    let seconds: f64 = spoken.sentences.iter().map(|s| s.end_s - s.start_s).sum();
    num as f64 / seconds.max(1e-3)
}

/// Character error rate of a transcript against the nearer of several forms of the text.
pub(crate) fn cer(texts: &[&str], transcript: &str, normaliser: Normaliser) -> f64 {
    let transcript = normaliser.apply(transcript);
    texts
        .iter()
        .map(|text| char_errors(&normaliser.apply(text), &transcript).rate())
        .fold(f64::INFINITY, f64::min)
}

/// The step's result of a row.
pub(crate) fn of(rows: &EarlierResults, row: usize) -> Result<Listened> {
    rows.of(Step::Listen, row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::speak::Measured;
    use crate::build::speak::Sentence;

    fn spoken(chars: usize, seconds: f64, change: impl Fn(&mut Spoken)) -> Spoken {
        let mut spoken = Spoken {
            voice: "v".into(),
            sentences: vec![Sentence {
                text: "x".repeat(chars),
                spoken: "x".repeat(chars),
                start_s: 0.0,
                end_s: seconds,
            }],
            stretches: vec![],
            engine: Value::Null,
            duration_s: seconds,
            usual_chars_per_s: None,
            loudness_lufs: Some(-20.0),
            levels: Measured {
                peak: 0.5,
                clipped: 0.0,
                silent: 0.1,
                active: 0.7,
                longest_pause_s: 0.4,
            },
        };
        change(&mut spoken);
        spoken
    }

    #[test]
    fn every_bound_rejects_by_its_name() {
        let settings = Settings::default();
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::build::cache::Cache::open(dir.path()).unwrap();
        let stop = crate::stop::Stop::new();
        let calls = Calls::new(&cache, &stop);
        let listening = Listening {
            settings: &settings,
            calls: &calls,
            transcriber: None,
            matching: None,
            quality: None,
        };
        let fault = |spoken: Spoken| {
            listening
                .signal_fault(&spoken, chars_per_s(&spoken))
                .map(|(reason, _)| reason)
        };
        assert_eq!(fault(spoken(150, 10.0, |_| {})), None);
        for (expected, spoken) in [
            ("silent", spoken(150, 10.0, |s| s.levels.silent = 0.6)),
            (
                "little_speech",
                spoken(150, 10.0, |s| s.levels.active = 0.1),
            ),
            (
                "long_pause",
                spoken(150, 10.0, |s| s.levels.longest_pause_s = 4.0),
            ),
            ("clipped", spoken(150, 10.0, |s| s.levels.clipped = 0.02)),
            ("too_soft", spoken(150, 10.0, |s| s.loudness_lufs = None)),
            (
                "too_soft",
                spoken(150, 10.0, |s| s.loudness_lufs = Some(-50.0)),
            ),
            (
                "too_loud",
                spoken(150, 10.0, |s| s.loudness_lufs = Some(-2.0)),
            ),
            ("too_long_for_its_text", spoken(40, 10.0, |_| {})),
            ("too_short_for_its_text", spoken(400, 10.0, |_| {})),
            // Doubled and halved, by a voice that reads 15 characters per second.
            (
                "too_long_for_its_text",
                spoken(75, 10.0, |s| s.usual_chars_per_s = Some(15.0)),
            ),
            (
                "too_short_for_its_text",
                spoken(290, 10.0, |s| s.usual_chars_per_s = Some(15.0)),
            ),
        ] {
            assert_eq!(fault(spoken), Some(expected));
        }
    }

    #[test]
    fn the_nearer_form_of_a_text_counts() {
        let texts = ["في عام 2017", "في عام ألفين وسبعة عشر"];
        let rule = Normaliser::ArabicDialect;
        assert_eq!(cer(&texts, "في عام 2017", rule), 0.0);
        assert_eq!(cer(&texts, "في عام الفين وسبعه عشر", rule), 0.0);
        assert!(cer(&texts, "شيء آخر تماما", rule) > 0.5);
    }
}
