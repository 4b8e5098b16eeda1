//! From an example to a sequence: its clips read and turned into log-mel frames, its conversation into tokens.

pub mod headers;
pub mod rows;

use std::path::Path;
use std::sync::Arc;

use crate::audio;
use crate::audio::LogMel;
use crate::audio::LogMelExtractor;
use crate::audio::SAMPLE_RATE;
use crate::audio::Span;
use crate::audio::num_audio_tokens;
use crate::audio::num_frames;
use crate::batch::Sequence;
use crate::data::AudioSource;
use crate::data::Clip;
use crate::data::Row;
use crate::error::Error;
use crate::error::Result;
use crate::load::headers::Headers;
use crate::seed::Key;
use crate::task::Example;
use crate::task::Mode;
use crate::task::TextCodec;

/// Seconds of audio above which the official processor cuts, and maqam warns.
pub const OFFICIAL_MAX_AUDIO_S: f64 = 300.0;

/// Turns examples into sequences for one model.
pub struct Loader {
    codec: TextCodec,
    extractor: LogMelExtractor,
    max_positions: usize,
    max_audio_s: Option<f64>,
    limit: Option<Limit>,
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
}

impl Loaded {
    /// What a user should know of clips that other programs would cut.
    pub fn warning(&self) -> Option<String> {
        let is_long = self.longest_s > OFFICIAL_MAX_AUDIO_S;
        is_long.then(|| format!("{:.1} s of audio; the official processor cuts clips at {OFFICIAL_MAX_AUDIO_S} s, here all of it is heard", self.longest_s))
    }
}

impl Loader {
    /// A loader for the checkpoint in `model_dir`, whose longest sequence is `max_positions` tokens.
    pub fn new(
        model_dir: &Path,
        audio_token: u32,
        max_positions: usize,
        max_audio_s: Option<f64>,
    ) -> Result<Self> {
        let codec = TextCodec::load(model_dir)?;
        let found = codec.special().audio;
        if found != audio_token {
            return Err(Error::input(format!(
                "config.json says the audio token is {audio_token}, the tokenizer {found}"
            ))
            .at_path(model_dir));
        }
        Ok(Self {
            codec,
            extractor: LogMelExtractor::new(),
            max_positions,
            max_audio_s,
            limit: None,
        })
    }

    /// Refuses sequences to learn from of more than so many tokens, with the reason and what to do.
    pub fn limit(&mut self, tokens: usize, why: String, hint: String) {
        self.limit = Some(Limit { tokens, why, hint });
    }

    /// The tokenizer and chat template.
    pub fn codec(&self) -> &TextCodec {
        &self.codec
    }

    /// The sequence of an example.
    ///
    /// # Errors
    /// Audio that cannot be read, a conversation without a target in [`Mode::Train`], or one longer than the model; in front is the row's id.
    pub fn load(&self, example: &Example, mode: Mode, key: Key) -> Result<Loaded> {
        self.load_row(example, mode, key)
            .map_err(|e| e.at(format!("row `{}`", example.id)))
    }

    /// A sequence of nothing but the audio of some clips, one after the other.
    ///
    /// # Errors
    /// Audio that cannot be read or is too short for one audio token.
    pub fn audio_of(&self, clips: &[Clip]) -> Result<Sequence> {
        let (mut tokens, mut audio, mut features) = (Vec::new(), Vec::new(), Vec::new());
        for clip in clips {
            let (clip, _) = features_of(clip, &self.extractor, None)?;
            let start = tokens.len();
            tokens.resize(
                start + num_audio_tokens(clip.frames),
                self.codec.special().audio,
            );
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
            .encode(&example.messages, &[], Mode::Generate)?
            .tokens)
    }

    fn load_row(&self, example: &Example, mode: Mode, key: Key) -> Result<Loaded> {
        let mut features = Vec::with_capacity(example.clips.len());
        let (mut seconds, mut longest_s) = (0.0, 0f64);
        for clip in &example.clips {
            let (clip, length) = features_of(clip, &self.extractor, self.max_audio_s)?;
            features.push(Arc::new(clip));
            seconds += length;
            longest_s = longest_s.max(length);
        }
        let samples = (seconds * f64::from(SAMPLE_RATE)).round() as usize;
        check_stated_sum(example.duration, &example.clips, samples)?;
        let audio_tokens: Vec<usize> = features
            .iter()
            .map(|clip| num_audio_tokens(clip.frames))
            .collect();
        let encoded = self.codec.encode(&example.messages, &audio_tokens, mode)?;
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
        })
    }
}

/// How far a length that the data states may be from the audio's, in seconds.
pub const STATED_TOLERANCE_S: f64 = 0.1;

/// Lengths of a row's clips in samples at [`SAMPLE_RATE`], equal to what [`Loader::load`] encodes, read from the headers of their files or
/// from what was read of them before.
///
/// Whatever fails here fails later too, so that a run can look at all of its rows before it begins. Audio that is damaged further in is
/// found when it is decoded. The row's place is the caller's to add.
///
/// # Errors
/// A file that cannot be read; a part or channel that it does not have; a stated `duration` that is not the audio's; a clip that is longer
/// than `max_audio_s` or too short for one audio token.
pub fn clip_lengths(row: &Row, max_audio_s: Option<f64>, headers: &Headers) -> Result<Vec<usize>> {
    let lengths = row
        .clips
        .iter()
        .map(|clip| clip_length(clip, max_audio_s, headers))
        .collect::<Result<Vec<usize>>>()?;
    check_stated_sum(row.duration, &row.clips, lengths.iter().sum())?;
    Ok(lengths)
}

fn clip_length(clip: &Clip, max_audio_s: Option<f64>, headers: &Headers) -> Result<usize> {
    let length = length_of(clip, clip.span, headers)?;
    check_length(clip, length, max_audio_s, headers).map_err(|e| e.at(name_of(clip)))?;
    Ok(length)
}

/// Samples of a part of a clip's recording, by its headers.
fn length_of(clip: &Clip, span: Span, headers: &Headers) -> Result<usize> {
    match &clip.source {
        AudioSource::File(path) => headers.num_samples(path, span),
        AudioSource::Embedded { bytes, name } => {
            audio::num_samples_bytes(bytes.clone(), name, span)
        }
    }
}

fn name_of(clip: &Clip) -> String {
    match &clip.source {
        AudioSource::File(path) => path.display().to_string(),
        AudioSource::Embedded { name, .. } => name.to_string(),
    }
}

/// Refuses a clip of `length` samples that is too long, too short, or not as long as the data states.
fn check_length(
    clip: &Clip,
    length: usize,
    max_audio_s: Option<f64>,
    headers: &Headers,
) -> Result<()> {
    let seconds = seconds_of(length);
    if let Some(longest) = max_audio_s.filter(|&longest| seconds > longest) {
        return Err(Error::input(format!("{seconds:.1} s of audio, `max_audio_s` is {longest}"))
            .hint("nothing is cut silently: split the clip with `start_s` and `end_s`, or raise `max_audio_s`"));
    }
    if num_audio_tokens(num_frames(length)) == 0 {
        return Err(Error::input(format!(
            "{length} samples are too short for one audio token"
        ))
        .hint("remove the row; the shortest clip the model hears is 0.03 s"));
    }
    let Some(stated) = clip.stated_s.filter(|&stated| !agree(stated, seconds)) else {
        return Ok(());
    };
    // Beside a part, some data sets state the length of the whole file.
    let is_of_file = clip.span.is_part() && {
        let whole = Span {
            channel: clip.span.channel,
            ..Span::WHOLE
        };
        agree(stated, seconds_of(length_of(clip, whole, headers)?))
    };
    match is_of_file {
        true => Ok(()),
        false => Err(wrong_duration(stated, seconds)),
    }
}

/// Refuses a row of several clips whose `duration` is not that of all together.
fn check_stated_sum(stated: Option<f64>, clips: &[Clip], length: usize) -> Result<()> {
    let seconds = seconds_of(length);
    match stated {
        Some(stated) if clips.len() > 1 && !agree(stated, seconds) => Err(wrong_duration(
            stated, seconds,
        )
        .hint(format!(
            "`duration` beside {} clips is the length of all together; correct it or leave it out",
            clips.len()
        ))),
        _ => Ok(()),
    }
}

fn wrong_duration(stated: f64, found: f64) -> Error {
    Error::input(format!(
        "`duration` says {stated} s, the audio has {found:.3} s"
    ))
    .hint("correct `duration` or leave it out; to use a part of the file, write `offset` (or `start_s`) beside it")
}

fn agree(stated: f64, found: f64) -> bool {
    // A millionth of a second for sums of decimals.
    (stated - found).abs() <= STATED_TOLERANCE_S + 1e-6
}

/// Seconds of so many samples at [`SAMPLE_RATE`].
fn seconds_of(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

/// Samples of a clip, mono at [`SAMPLE_RATE`].
///
/// # Errors
/// Audio that cannot be read, naming the file.
pub fn samples_of(clip: &Clip) -> Result<Vec<f32>> {
    match &clip.source {
        AudioSource::File(path) => audio::read(path, clip.span),
        AudioSource::Embedded { bytes, name } => audio::read_bytes(bytes.clone(), name, clip.span),
    }
}

/// Log-mel frames of a clip, and its length in seconds.
///
/// # Errors
/// Audio that cannot be read, is longer than `max_audio_s`, too short for one audio token or not as long as the data states, naming the file.
pub fn features_of(
    clip: &Clip,
    extractor: &LogMelExtractor,
    max_audio_s: Option<f64>,
) -> Result<(LogMel, f64)> {
    let samples = samples_of(clip)?;
    check_length(clip, samples.len(), max_audio_s, &Headers::default())
        .map_err(|e| e.at(name_of(clip)))?;
    Ok((extractor.extract(&samples), seconds_of(samples.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::OnBadRow;
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
        let (mel, seconds) = features_of(&row.clips[0], &LogMelExtractor::new(), None)?;
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
            let decoded = features_of(&row.clips[0], &LogMelExtractor::new(), Some(1.8));
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
        // Beside a part, `duration` may be that of the whole file; a tenth of a second is no difference.
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
