//! `speak`: converts texts to speech sentence by sentence, with pauses between them, and stores the
//! time of each sentence.

mod command;
mod diacritise;
mod endpoint;
mod espeak;
mod process;
mod speaker;
pub(crate) mod voices;

pub(crate) use self::command::is_found;
pub(crate) use self::process::not_started;
pub(crate) use self::process::run;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::audio;
use crate::audio::SAMPLE_RATE;
use crate::audio::Span;
use crate::audio::flac_writer;
use crate::audio::flac_writer::Piece;
use crate::audio::levels::Levels;
use crate::audio::levels::levels_16;
use crate::audio::loudness::integrated_lufs_16;
use crate::audio::pcm16;
use crate::build::cache;
use crate::build::cache::Cache;
use crate::build::call::Calls;
use crate::build::document::Outcome;
use crate::build::document::Step;
use crate::build::recipe::Recipe;
use crate::build::sentences::sentences;
use crate::build::settings::speak::Engine;
use crate::build::settings::speak::Settings;
use crate::build::settings::speak::Voice;
use crate::build::speak::diacritise::Answer;
use crate::build::speak::diacritise::Diacritiser;
use crate::build::speak::speaker::Said;
use crate::build::speak::speaker::Speaker;
use crate::build::speak::voices::Voices;
use crate::build::spoken::SPOKEN_AR;
use crate::build::spoken::diacritised;
use crate::build::spoken::is_mark;
use crate::build::spoken::spoken;
use crate::build::summarise;
use crate::build::workers::EarlierResults;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key;

/// Level below which sound before and after a sentence is removed, of full scale: -50 dB.
const EDGE: f32 = 0.003_16;
/// Margin before and after a sentence, in samples: 30 ms.
const MARGIN: usize = 480;
/// Ratio of a pause between paragraphs to one between sentences.
const PARAGRAPH: f64 = 2.0;
/// Largest random change of a pause, as a share of it.
const JITTER: f64 = 0.25;
/// Version of the processing of an engine's sound; a change repeats the requests.
const FORMAT: u32 = 1;
/// Version of the use of a diacritiser's answers; a change repeats the step.
const MARKS: u32 = 1;

/// One sentence of a spoken document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sentence {
    /// Written form.
    pub(crate) text: String,
    /// Spoken form.
    pub(crate) spoken: String,
    /// Beginning, in seconds.
    pub(crate) start_s: f64,
    /// End, in seconds.
    pub(crate) end_s: f64,
}

/// A stretch of sound in the cache, and the silence after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    /// Key in the cache, as hexadecimal.
    pub(crate) key: String,
    /// CRC-32C of the record. Processes that ran at once may have cached different sound under one
    /// key.
    pub(crate) crc: u32,
    /// Silence after it, in samples.
    pub(crate) pause: usize,
}

/// Result of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spoken {
    /// Name of the voice.
    pub(crate) voice: String,
    /// Name and version of the engine that spoke.
    pub(crate) engine: Value,
    /// Sentences with their times.
    pub(crate) sentences: Vec<Sentence>,
    /// The sound, in order.
    pub(crate) stretches: Vec<Stretch>,
    /// Length, in seconds.
    pub(crate) duration_s: f64,
    /// Characters per second of the voice on the calibration sentence; none in languages without
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usual_chars_per_s: Option<f64>,
    /// Integrated loudness, in LUFS.
    pub(crate) loudness_lufs: Option<f64>,
    /// Peak, clipping, silence and activity.
    pub(crate) levels: Measured,
}

/// Levels in the form that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) peak: f64,
    pub(crate) clipped: f64,
    pub(crate) silent: f64,
    pub(crate) active: f64,
    pub(crate) longest_pause_s: f64,
}

impl From<Levels> for Measured {
    fn from(levels: Levels) -> Self {
        Self {
            peak: levels.peak,
            clipped: levels.clipped,
            silent: levels.silent,
            active: levels.active,
            longest_pause_s: levels.longest_pause_s,
        }
    }
}

impl Spoken {
    /// The text that was read.
    pub(crate) fn read(&self) -> String {
        let texts: Vec<&str> = self.sentences.iter().map(|s| s.spoken.as_str()).collect();
        texts.join(" ")
    }

    /// The whole recording as a FLAC file.
    ///
    /// # Errors
    /// Sound that the cache has lost.
    pub(crate) fn file(&self, cache: &Cache) -> Result<Vec<u8>> {
        let mut pieces = Vec::with_capacity(2 * self.stretches.len());
        for stretch in &self.stretches {
            let bytes = cache::parsed(&stretch.key)
                .map(|key| cache.get_exact(&key, stretch.crc))
                .transpose()?
                .flatten();
            let bytes = bytes.ok_or_else(|| {
                Error::input("the cache has lost the sound of a sentence").hint(
                    "remove the folder .work/NAME beside the data set and run the command again: rows are spoken anew",
                )
            })?;
            pieces.push(Piece::from_bytes(&bytes)?);
            pieces.push(Piece::silence(stretch.pause));
        }
        Ok(flac_writer::file(&pieces))
    }
}

/// The step, opened.
pub(crate) struct Speaking<'a> {
    settings: &'a Settings,
    seed: u64,
    calls: &'a Calls<'a>,
    engine: Option<Box<dyn Speaker + 'a>>,
    diacritiser: Option<Diacritiser<'a>>,
    list: Vec<Voice>,
    voices: OnceLock<Voices>,
}

impl<'a> Speaking<'a> {
    /// Opens the engine if the step is needed.
    pub(crate) fn open(recipe: &'a Recipe, calls: &'a Calls<'a>, is_needed: bool) -> Result<Self> {
        let settings = &recipe.speak;
        let list = voices::list(settings, recipe.language());
        let engine: Option<Box<dyn Speaker + 'a>> = match settings.engine {
            _ if !is_needed => None,
            Engine::EspeakNg => Some(Box::new(espeak::Espeak::open(settings, &list, calls)?)),
            Engine::Endpoint => Some(Box::new(endpoint::Endpoint::open(settings, calls)?)),
            Engine::Command => Some(Box::new(command::Command::open(settings, calls)?)),
        };
        let diacritiser = match settings.diacritiser.as_slice() {
            [] => None,
            command if is_needed => Some(Diacritiser::open(command, settings.timeout_s, calls)?),
            _ => None,
        };
        Ok(Self {
            settings,
            seed: recipe.seed,
            calls,
            engine,
            diacritiser,
            list,
            voices: OnceLock::new(),
        })
    }

    /// Engine and voices, for the dataset card.
    pub(crate) fn described(&self) -> Value {
        let voices: Vec<String> = self.list.iter().map(Voice::name).collect();
        json!({
            "engine": self.settings.engine,
            "voices": voices,
            "verbalised": self.settings.verbalise,
            "diacritiser": self.settings.diacritiser,
            "pause_s": self.settings.pause_s,
        })
    }

    /// Synthesises one document.
    pub(crate) fn work(&self, rows: &EarlierResults, row: usize) -> Result<Outcome> {
        let found = summarise::of(rows, row)?;
        let voices = self
            .voices
            .get_or_init(|| Voices::shared_out(&self.list, rows.prepared, self.seed));
        let place = &rows.prepared.rows[row];
        let voice = voices.of(place.split, place.place);
        let pauses = Key::new(self.seed, "build pause").with(row as u64);
        let usual_chars_per_s = match self.usual_rate(voice, &found.language)? {
            Rate::Known(rate) => Some(rate),
            Rate::Unknown => None,
            Rate::Failed(detail) => {
                return Ok(self.failed(format!("the calibration sentence: {detail}")));
            }
            Rate::Ended => return Ok(Outcome::Ended),
        };

        let mut spoken = Spoken {
            voice: voice.name(),
            engine: self.engine()?.described(),
            sentences: Vec::new(),
            stretches: Vec::new(),
            duration_s: 0.0,
            usual_chars_per_s,
            loudness_lufs: None,
            levels: Measured::default(),
        };
        let mut samples: Vec<i16> = Vec::new();
        for paragraph in found.text.lines() {
            for (i, text) in sentences(paragraph).into_iter().enumerate() {
                let read = match self.read_form(text, &found.language)? {
                    ReadForm::Text(read) if read.chars().any(char::is_alphabetic) => read,
                    ReadForm::Text(_) => continue,
                    ReadForm::Without(outcome) => return Ok(outcome),
                };
                if let Some(last) = spoken.stretches.last_mut() {
                    let long = if i == 0 { PARAGRAPH } else { 1.0 };
                    let drawn =
                        1.0 + JITTER * (2.0 * pauses.uniform(spoken.sentences.len() as u64) - 1.0);
                    let pause_s = self.settings.pause_s * long * drawn;
                    last.pause =
                        Piece::silence((pause_s * f64::from(SAMPLE_RATE)) as usize).num_samples();
                    samples.resize(samples.len() + last.pause, 0);
                }
                let start_s = seconds(samples.len());
                for part in divided(&read, self.settings.max_chars) {
                    match self.stretch(part, voice, &found.language, &mut samples)? {
                        Heard::Stretch(stretch) => spoken.stretches.push(stretch),
                        Heard::Failed(detail) => return Ok(self.failed(detail)),
                        Heard::Ended => return Ok(Outcome::Ended),
                    }
                }
                spoken.sentences.push(Sentence {
                    text: text.to_owned(),
                    spoken: read,
                    start_s,
                    end_s: seconds(samples.len()),
                });
            }
        }
        if spoken.sentences.is_empty() {
            return Ok(Outcome::rejected(
                "nothing_to_speak",
                "the text has no words",
            ));
        }
        spoken.duration_s = seconds(samples.len());
        spoken.loudness_lufs = integrated_lufs_16(&samples, SAMPLE_RATE);
        spoken.levels = levels_16(&samples, SAMPLE_RATE).into();
        Outcome::done(&spoken)
    }

    fn engine(&self) -> Result<&(dyn Speaker + 'a)> {
        self.engine
            .as_deref()
            .ok_or_else(|| Error::bug("no speech engine is open"))
    }

    /// The outcome of a row at which the engine failed. A program may be repaired, and its next
    /// attempt costs nothing.
    fn failed(&self, detail: String) -> Outcome {
        Outcome::Failed {
            reason: "speech_failed",
            detail,
            is_retried: self.settings.engine != Engine::Endpoint,
        }
    }

    /// The form of a sentence that an engine reads.
    fn read_form(&self, text: &str, language: &str) -> Result<ReadForm> {
        let read = if self.settings.verbalise {
            spoken(text, language)
        } else {
            text.to_owned()
        };
        let Some(diacritiser) = self
            .diacritiser
            .as_ref()
            .filter(|_| diacritised(&read) < 0.3)
        else {
            return Ok(ReadForm::Text(read));
        };
        Ok(match diacritiser.diacritise(&read)? {
            Answer::Text(marked) => ReadForm::Text(marked),
            // The answer is cached, so the next run would have the same.
            Answer::OtherLetters(detail) => ReadForm::Without(Outcome::Failed {
                reason: "letters_changed",
                detail,
                is_retried: false,
            }),
            Answer::Failed(detail) => ReadForm::Without(Outcome::Failed {
                reason: "diacritics_failed",
                detail,
                is_retried: true,
            }),
            Answer::Ended => ReadForm::Without(Outcome::Ended),
        })
    }

    /// Characters per second of a voice on the calibration sentence of its language.
    fn usual_rate(&self, voice: &Voice, language: &str) -> Result<Rate> {
        let primary = language.split('-').next().unwrap_or_default();
        let Some(text) = CALIBRATION.get(primary) else {
            return Ok(Rate::Unknown);
        };
        let mut samples = Vec::new();
        Ok(match self.stretch(text, voice, language, &mut samples)? {
            Heard::Stretch(_) => {
                Rate::Known(num_letters(text) as f64 / seconds(samples.len()).max(1e-3))
            }
            Heard::Failed(detail) => Rate::Failed(detail),
            Heard::Ended => Rate::Ended,
        })
    }

    /// Synthesises a part of a sentence, or takes it from the cache, and appends its samples.
    fn stretch(
        &self,
        text: &str,
        voice: &Voice,
        language: &str,
        samples: &mut Vec<i16>,
    ) -> Result<Heard> {
        let engine = self.engine()?;
        let question = json!(["speech", FORMAT, engine.identity(voice), language, text]);
        let start = samples.len();
        let mut failed = None;
        let answer = self.calls.answer(&question, || {
            for attempt in 1..=engine.num_attempts() {
                let file = match engine.say(text, voice, language)? {
                    Said::File(file) => file,
                    Said::Failed(detail) => {
                        failed = Some(detail);
                        continue;
                    }
                    Said::Ended => return Ok(None),
                };
                match audible_samples(file) {
                    Ok(whole) => {
                        let piece = encoded(trimmed(&whole), samples);
                        return Ok(Some(piece.to_bytes()));
                    }
                    Err(error) => {
                        failed = Some(format!("{} (attempt {attempt})", error.message()));
                    }
                }
            }
            Ok(None)
        })?;
        let Some(bytes) = answer else {
            return Ok(failed.map_or(Heard::Ended, Heard::Failed));
        };
        if samples.len() == start {
            let file = flac_writer::file([&Piece::from_bytes(&bytes)?]);
            let cached = audio::read_vec(file, "a sentence in the cache", Span::WHOLE)?;
            pcm16::append_rounded(&cached, samples);
        }
        Ok(Heard::Stretch(Stretch {
            key: cache::shown(&cache::key(&question)),
            crc: crc32c::crc32c(&bytes),
            pause: 0,
        }))
    }
}

/// Letters and digits of a text, for comparing its length with that of its sound. Diacritics do not
/// count: a voice reads a text as fast with them as without.
pub(crate) fn num_letters(text: &str) -> usize {
    text.chars()
        .filter(|c| c.is_alphanumeric() && !is_mark(*c))
        .count()
}

/// Files of the program that the step's results depend on.
pub(crate) fn files_read(recipe: &Recipe) -> Vec<Value> {
    let mut found = vec![json!(CALIBRATION_TEXT)];
    if recipe.speak.verbalise {
        found.push(json!(SPOKEN_AR));
    }
    if !recipe.speak.diacritiser.is_empty() {
        found.push(json!(["marks", MARKS]));
    }
    found
}

const CALIBRATION_TEXT: &str = include_str!("../../../prompts/build/calibration.yaml");

/// Calibration sentences by language, which every voice reads.
#[expect(
    clippy::expect_used,
    reason = "the file is a part of the program, read in a test of this file"
)]
static CALIBRATION: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    yaml_serde::from_str(CALIBRATION_TEXT).expect("prompts/build/calibration.yaml")
});

/// Speed of a voice.
enum Rate {
    /// Characters per second.
    Known(f64),
    /// The language has no calibration sentence.
    Unknown,
    /// The engine failed.
    Failed(String),
    /// The build ends.
    Ended,
}

/// Form of a sentence that an engine reads.
enum ReadForm {
    Text(String),
    /// No form, and the outcome of the row.
    Without(Outcome),
}

enum Heard {
    Stretch(Stretch),
    Failed(String),
    Ended,
}

/// The step's result of a row.
pub(crate) fn of(rows: &EarlierResults, row: usize) -> Result<Spoken> {
    rows.of(Step::Speak, row)
}

fn seconds(num_samples: usize) -> f64 {
    num_samples as f64 / f64::from(SAMPLE_RATE)
}

/// Samples of an engine's recording, which must not be silent.
fn audible_samples(mut file: Vec<u8>) -> Result<Vec<f32>> {
    mend_wav(&mut file);
    let samples = audio::read_vec(file, "what the engine gave", Span::WHOLE)?;
    if samples.is_empty() {
        return Err(Error::input("the engine gave a recording without samples"));
    }
    Ok(samples)
}

/// Writes the true length into a streamed WAV file, because programs that write to a pipe do not
/// know it.
fn mend_wav(file: &mut [u8]) {
    if !file.starts_with(b"RIFF") || file.get(8..12) != Some(b"WAVE") {
        return;
    }
    let mut at = 12;
    while let Some(head) = file.get(at..at + 8) {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let left = file.len() - at - 8;
        if head.starts_with(b"data") {
            if size > left {
                let all = (file.len() - 8) as u32;
                file[4..8].copy_from_slice(&all.to_le_bytes());
                file[at + 4..at + 8].copy_from_slice(&(left as u32).to_le_bytes());
            }
            return;
        }
        at = at.saturating_add(8 + size + size % 2);
    }
}

/// Samples without the silence before and after them, except for a margin; all samples if all are
/// silent.
fn trimmed(samples: &[f32]) -> &[f32] {
    let is_sound = |x: &f32| x.abs() > EDGE;
    match (
        samples.iter().position(is_sound),
        samples.iter().rposition(is_sound),
    ) {
        (Some(first), Some(last)) => {
            &samples[first.saturating_sub(MARGIN)..(last + 1 + MARGIN).min(samples.len())]
        }
        _ => samples,
    }
}

/// Rounds samples to 16 bits, encodes them, and appends them as they will be decoded.
fn encoded(samples: &[f32], document: &mut Vec<i16>) -> Piece {
    let start = document.len();
    pcm16::append_rounded(samples, document);
    let piece = Piece::encode(&document[start..]);
    document.resize(start + piece.num_samples(), 0);
    piece
}

/// A text in parts of at most this many characters, divided at commas, else at spaces.
fn divided(text: &str, max_chars: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((limit, _)) = rest.char_indices().nth(max_chars) {
        let head = &rest[..limit];
        let at = head
            .rfind(['،', '؛', ',', ';', ':'])
            .map(|at| at + rest[at..].chars().next().map_or(1, char::len_utf8))
            .filter(|at| 4 * at > limit)
            .or_else(|| head.rfind(' '))
            .filter(|at| *at > 0)
            .unwrap_or(limit);
        parts.push(rest[..at].trim());
        rest = rest[at..].trim_start();
    }
    parts.push(rest.trim());
    parts.retain(|part| part.chars().any(char::is_alphabetic));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_divided_at_commas() {
        assert_eq!(divided("واحد، اثنان ثلاثة", 8), ["واحد،", "اثنان", "ثلاثة"]);
        assert_eq!(divided("قصير", 20), ["قصير"]);
        let long = "كلمة ".repeat(100);
        let parts = divided(&long, 30);
        assert!(parts.iter().all(|part| part.chars().count() <= 30));
        assert_eq!(parts.join(" "), long.trim());
        assert_eq!(divided(&"ن".repeat(50), 20).len(), 3);
    }

    #[test]
    fn every_language_of_the_prompts_has_its_sentence() {
        assert!(CALIBRATION.len() == 2 && CALIBRATION.values().all(|text| num_letters(text) > 50));
    }

    #[test]
    fn diacritics_are_no_letters() {
        assert_eq!(num_letters("قَالَ الْوَزِيرُ 25."), num_letters("قال الوزير 25."));
        assert_eq!(num_letters("قال 25."), 5);
    }

    #[test]
    fn a_streamed_wav_gets_its_length() {
        let mut file = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\xff\xff\xff\x7f".to_vec();
        file.extend([0x10, 0x20, 0x30, 0x40]);
        assert_eq!(audible_samples(file).unwrap().len(), 2);
    }

    #[test]
    fn edges_are_trimmed_and_silence_stays() {
        let mut samples = vec![0.0; 16_000];
        samples[8000] = 0.5;
        assert_eq!(trimmed(&samples).len(), 2 * MARGIN + 1);
        assert_eq!(trimmed(&samples[..4000]).len(), 4000);
    }
}
