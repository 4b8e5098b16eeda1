//! From an example to a sequence: its clips read and turned into log-mel frames, its conversation
//! into tokens.

pub mod augment;
pub mod bad_rows;
pub mod embed;
pub mod log_mels;
pub mod named_tensors;
pub mod rows;

use std::path::Path;
use std::sync::Arc;

use crate::audio::ClipEnd;
use crate::audio::HOP;
use crate::audio::LogMel;
use crate::audio::LogMelExtractor;
use crate::audio::MelForm;
use crate::batch::Framing;
use crate::batch::Sequence;
use crate::data::Clip;
use crate::data::headers::Headers;
use crate::data::lengths::check_length;
use crate::data::lengths::check_stated_sum;
use crate::data::lengths::seconds_of;
use crate::error::Error;
use crate::error::Result;
use crate::featurise::augment::ExampleAugmentation;
use crate::models::config::Config;
use crate::models::hubert;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;
use crate::task::TextCodec;

/// Seconds of audio above which the official processor of Qwen2.5-Omni cuts.
const OFFICIAL_MAX_AUDIO_S: f64 = 300.0;

/// Turns examples into sequences for one model.
pub struct Loader {
    codec: TextCodec,
    extractor: Extractor,
    framing: Framing,
    official_max_s: f64,
    max_positions: usize,
    max_audio_s: Option<f64>,
    limit: Option<Limit>,
}

/// Maker of the features that a model's encoder reads.
enum Extractor {
    /// Log-mel frames.
    LogMel(LogMelExtractor),
    /// The samples themselves, as the speech encoder was trained on them.
    Samples(hubert::config::Config),
}

impl Extractor {
    fn new(config: &Config) -> Self {
        match &config.speech {
            Some(speech) => Self::Samples(speech.encoder.clone()),
            None => Self::LogMel(LogMelExtractor::new(config.mel_form())),
        }
    }

    /// Features of a clip. Samples are frames of one number.
    fn extract(&self, mut samples: Vec<f32>) -> LogMel {
        match self {
            Self::LogMel(extractor) => extractor.extract(&samples),
            Self::Samples(encoder) => {
                encoder.prepare(&mut samples);
                LogMel {
                    mels: 1,
                    frames: samples.len(),
                    tail: 0,
                    values: samples,
                }
            }
        }
    }

    /// Seconds above which the official processor cuts a clip.
    fn official_max_s(&self, config: &Config) -> f64 {
        match self {
            Self::LogMel(_) => official_max_s(config.mel_form()),
            Self::Samples(_) => f64::INFINITY,
        }
    }
}

/// Most tokens of a sequence to learn from, where that is fewer than the model has positions.
struct Limit {
    tokens: usize,
    why: String,
    hint: String,
}

/// A sequence and what it was made of.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Tokens and features.
    pub sequence: Sequence,
    /// Audio, in seconds.
    pub seconds: f64,
    /// The longest clip, in seconds.
    pub longest_s: f64,
    /// Seconds above which the official processor cuts a clip.
    pub official_max_s: f64,
}

impl Loaded {
    /// What a user should know of clips that other programs would cut.
    pub fn warning(&self) -> Option<String> {
        let is_long = self.longest_s > self.official_max_s;
        is_long.then(|| {
            format!(
                "{:.1} s of audio; the official processor cuts clips at {} s, here all of it is heard",
                self.longest_s, self.official_max_s
            )
        })
    }
}

impl Loader {
    /// A loader for the checkpoint in `model_dir`.
    pub fn new(model_dir: &Path, config: &Config, max_audio_s: Option<f64>) -> Result<Self> {
        let audio_token = config.audio_token;
        let codec = TextCodec::load(model_dir)?;
        let found = codec.special().audio;
        if found != audio_token {
            return Err(Error::input(format!(
                "config.json says the audio token is {audio_token}, the tokenizer {found}"
            ))
            .at_path(model_dir));
        }
        let extractor = Extractor::new(config);
        Ok(Self {
            codec,
            official_max_s: extractor.official_max_s(config),
            extractor,
            framing: config.framing(),
            max_positions: config.text.max_position_embeddings,
            max_audio_s,
            limit: None,
        })
    }

    /// Refuses sequences to learn from of more than so many tokens, with the reason and what to do.
    pub fn limit(&mut self, tokens: usize, why: String, hint: String) {
        self.limit = Some(Limit { tokens, why, hint });
    }

    /// Seconds above which the official processor cuts a clip; here nothing is cut.
    pub fn official_max_s(&self) -> f64 {
        self.official_max_s
    }

    /// The tokenizer and chat template.
    pub fn codec(&self) -> &TextCodec {
        &self.codec
    }

    /// The sequence of an example.
    ///
    /// # Errors
    /// Audio that cannot be read, a conversation without a target in [`Mode::Train`], or one longer
    /// than the model; in front is the row's id.
    pub fn load(&self, example: &Example, mode: Mode, key: Key) -> Result<Loaded> {
        self.load_augmented(example, mode, key, None)
    }

    /// The sequence of an example whose clips are augmented as drawn.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_augmented(
        &self,
        example: &Example,
        mode: Mode,
        key: Key,
        draw: Option<ExampleAugmentation<'_>>,
    ) -> Result<Loaded> {
        self.load_row(example, mode, key, draw)
            .map_err(|e| e.at(format!("row `{}`", example.id)))
    }

    /// A sequence of nothing but the audio of some clips, one after the other.
    ///
    /// # Errors
    /// Audio that cannot be read or is too short for one audio token.
    pub fn audio_of(&self, clips: &[Clip]) -> Result<Sequence> {
        let mut tokens = Vec::new();
        let mut audio = Vec::new();
        let mut features = Vec::new();
        for clip in clips {
            let samples = checked_samples_of(clip, None)?;
            let clip = self.extractor.extract(samples);
            let start = tokens.len();
            tokens.resize(start + self.num_tokens(&clip)?, self.codec.special().audio);
            audio.push(start..tokens.len());
            features.push(Arc::new(clip));
        }
        Ok(Sequence {
            tokens,
            targets: Vec::new(),
            audio,
            features,
            key: Key::new(0, "audio alone"),
            target_weight: 0.0,
        })
    }

    /// The tokens that an example without audio asks.
    pub fn question_tokens(&self, example: &Example) -> Result<Vec<u32>> {
        Ok(self
            .codec
            .encode_example(example, &[], Mode::Generate)?
            .tokens)
    }

    /// Audio tokens of a clip.
    ///
    /// # Errors
    /// A clip that is too short for one.
    fn num_tokens(&self, clip: &LogMel) -> Result<usize> {
        match (self.framing.tokens(clip.frames), &self.extractor) {
            (0, Extractor::Samples(encoder)) => Err(Error::input(format!(
                "{} samples are too short for one frame of the speech encoder, which sees {}",
                clip.frames,
                encoder.field()
            ))
            .hint("remove the row")),
            (tokens, _) => Ok(tokens),
        }
    }

    fn load_row(
        &self,
        example: &Example,
        mode: Mode,
        key: Key,
        draw: Option<ExampleAugmentation<'_>>,
    ) -> Result<Loaded> {
        let mut features = Vec::with_capacity(example.clips.len());
        let mut num_recorded = 0;
        let mut seconds = 0.0;
        let mut longest_s = 0f64;
        for (number, clip) in example.clips.iter().enumerate() {
            let mut samples = checked_samples_of(clip, self.max_audio_s)?;
            num_recorded += samples.len();
            if let Some(draw) = &draw {
                samples = draw.samples(number, samples)?;
            }

            let length = seconds_of(samples.len());
            let mut mel = self.extractor.extract(samples);
            if let Some(draw) = &draw {
                draw.mask(number, &mut mel);
            }
            features.push(Arc::new(mel));

            seconds += length;
            longest_s = longest_s.max(length);
        }
        check_stated_sum(example.duration, &example.clips, num_recorded)?;
        let audio_tokens = features
            .iter()
            .map(|clip| self.num_tokens(clip))
            .collect::<Result<Vec<usize>>>()?;
        let encoded = self.codec.encode_example(example, &audio_tokens, mode)?;
        if encoded.tokens.len() > self.max_positions {
            return Err(Error::input(format!(
                "{} tokens ({seconds:.1} s of audio), the model's longest sequence is {}",
                encoded.tokens.len(),
                self.max_positions
            ))
            .hint("nothing is cut silently: split the clip with `start_s` and `end_s`, or remove the row"));
        }
        if let Some(limit) = self
            .limit
            .as_ref()
            .filter(|limit| mode == Mode::Train && encoded.tokens.len() > limit.tokens)
        {
            return Err(Error::input(format!(
                "{} tokens ({seconds:.1} s of audio), {}",
                encoded.tokens.len(),
                limit.why
            ))
            .hint(&limit.hint));
        }
        if mode == Mode::Train && encoded.targets.is_empty() {
            return Err(Error::input("the conversation has no answer to learn")
                .hint("give the row a target, or an assistant turn whose `loss` is not false"));
        }
        let sequence = Sequence {
            tokens: encoded.tokens,
            targets: encoded.targets,
            audio: encoded.audio,
            features,
            key,
            target_weight: 1.0,
        };
        Ok(Loaded {
            sequence,
            seconds,
            longest_s,
            official_max_s: self.official_max_s,
        })
    }
}

/// Seconds above which the official processor cuts a clip.
fn official_max_s(form: MelForm) -> f64 {
    match form.end {
        ClipEnd::Silence => OFFICIAL_MAX_AUDIO_S,
        ClipEnd::Window(frames) => seconds_of(frames * HOP),
        ClipEnd::Mirror { .. } => f64::INFINITY,
    }
}

/// Samples of a clip, mono at [`crate::audio::SAMPLE_RATE`].
///
/// # Errors
/// Audio that cannot be read, naming the file.
pub fn samples_of(clip: &Clip) -> Result<Vec<f32>> {
    clip.source.samples(clip.span)
}

/// Log-mel frames of a clip, and its length in seconds.
///
/// # Errors
/// Audio that cannot be read, is longer than `max_audio_s`, too short for one audio token or not as
/// long as the data states, naming the file.
pub fn features_of(
    clip: &Clip,
    extractor: &LogMelExtractor,
    max_audio_s: Option<f64>,
) -> Result<(LogMel, f64)> {
    let samples = checked_samples_of(clip, max_audio_s)?;
    Ok((extractor.extract(&samples), seconds_of(samples.len())))
}

/// Samples of a clip whose length is allowed and is what the data states.
fn checked_samples_of(clip: &Clip, max_audio_s: Option<f64>) -> Result<Vec<f32>> {
    let samples = samples_of(clip)?;
    check_length(clip, samples.len(), max_audio_s, &Headers::default())
        .map_err(|e| e.at(clip.source.name()))?;
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::OnBadRow;
    use crate::data::Row;
    use crate::data::lengths::clip_lengths;
    use crate::data::read_manifest;

    /// The rows of a manifest among the fixtures, by the case that each is.
    fn rows(folder: &str) -> Vec<(String, Row)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/manifest")
            .join(folder)
            .join("rows.jsonl");
        let rows = read_manifest(&path, None, OnBadRow::Skip).unwrap().rows;
        let case = |row: &Row| row.extra_fields()["case"].as_str().unwrap().to_owned();
        rows.into_iter().map(|row| (case(&row), row)).collect()
    }

    fn features(row: &Row) -> Result<Vec<f32>> {
        let (mel, seconds) = features_of(&row.clips[0], &LogMelExtractor::default(), None)?;
        let counted: Vec<f64> = clip_lengths(row, None, &Headers::default())?
            .into_iter()
            .map(seconds_of)
            .collect();
        assert_eq!(counted, [seconds], "headers tell what is encoded");
        Ok(mel.values)
    }

    #[test]
    fn parts_are_encoded_as_if_cut_by_hand() {
        let rows = rows("spans");
        let of = |case: &str| {
            let (_, row) = rows.iter().find(|(name, _)| name == case).unwrap();
            features(row)
        };
        let cut = of("0.5 to 1.5 s cut by hand").unwrap();
        assert_eq!(of("start_s end_s").unwrap(), cut);
        assert_eq!(of("NeMo offset+duration").unwrap(), cut);
        assert_eq!(
            of("channel 1").unwrap(),
            of("right channel by hand").unwrap()
        );
        assert_ne!(
            of("two channels averaged").unwrap(),
            of("channel 1").unwrap()
        );
        let error = of("duration 1 of 2 s").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains(
                "mono.wav: `duration` says 1 s, the audio has 2.000 s\nhint: correct `duration`"
            ),
            "{error}"
        );
    }

    #[test]
    fn headers_refuse_what_decoding_would() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest/spans");
        let dir = tempfile::tempdir().unwrap();
        let checked = |fields: &str| {
            let path = dir.path().join("m.jsonl");
            std::fs::write(&path, format!("{{\"audio\": \"mono.wav\", {fields}}}")).unwrap();
            let row = read_manifest(&path, Some(&folder), OnBadRow::Error)
                .unwrap()
                .rows
                .remove(0);
            let decoded = features_of(&row.clips[0], &LogMelExtractor::default(), Some(1.8));
            let counted = clip_lengths(&row, Some(1.8), &Headers::default());
            match (counted, decoded) {
                (Ok(lengths), Ok((_, seconds))) => Ok((lengths, seconds)),
                (Err(counted), Err(decoded)) => {
                    assert_eq!(counted.to_string(), decoded.to_string());
                    Err(counted.to_string())
                }
                other => panic!("{fields}: {:?}", other.0),
            }
        };
        for (fields, expected) in [
            (
                "\"start_s\": 5",
                "`start_s` (5) is not before the end of the recording, which is 2.000 s long",
            ),
            (
                "\"offset\": 1.5, \"duration\": 1",
                "`end_s` (2.5) is after the end of the recording",
            ),
            (
                "\"start\": 0.5, \"end\": 1.5, \"duration\": 1.2",
                "`duration` says 1.2 s, the audio has 1.000 s",
            ),
            (
                "\"start_ms\": 100, \"channel\": 1",
                "`channel` is 1, but the recording has one channel",
            ),
            ("\"start\": 0.1", "1.9 s of audio, `max_audio_s` is 1.8"),
            (
                "\"end_ms\": 20",
                "320 samples are too short for one audio token",
            ),
        ] {
            let error = checked(fields).unwrap_err();
            assert!(
                error.contains(expected) && error.contains("\nhint: "),
                "{fields}: {error}"
            );
        }
        assert_eq!(
            checked("\"offset\": 0.25, \"duration\": 1").unwrap(),
            (vec![16_000], 1.0)
        );
        // Beside a part, `duration` may be that of the whole file; a tenth of a second is no
        // difference.
        assert!(checked("\"start\": 0.5, \"end\": 1.5, \"duration\": 2").is_ok());
        assert!(checked("\"start\": 0.5, \"end\": 1.5, \"duration\": 1.09").is_ok());
    }

    #[test]
    fn conversations_of_every_form_hear_the_same_clip() {
        let rows = rows("conversations");
        assert_eq!(rows.len(), 4, "the row with a picture is refused");
        for (case, row) in rows {
            let said: Vec<&str> = row.messages.iter().map(|m| m.content.as_str()).collect();
            assert_eq!(said, ["<audio>what?", "yes"], "{case}");
            assert!(!features(&row).unwrap().is_empty());
        }
    }
}
