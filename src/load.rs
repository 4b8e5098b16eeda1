//! From an example to a sequence: its clips read and turned into log-mel frames, its conversation into tokens.

use std::path::Path;
use std::sync::Arc;

use crate::audio;
use crate::audio::LogMel;
use crate::audio::LogMelExtractor;
use crate::audio::SAMPLE_RATE;
use crate::audio::num_audio_tokens;
use crate::batch::Sequence;
use crate::data::AudioSource;
use crate::data::Clip;
use crate::error::Error;
use crate::error::Result;
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

/// Log-mel frames of a clip, and its length in seconds.
///
/// # Errors
/// Audio that cannot be read, is longer than `max_audio_s` or too short for one audio token, naming the file.
pub fn features_of(
    clip: &Clip,
    extractor: &LogMelExtractor,
    max_audio_s: Option<f64>,
) -> Result<(LogMel, f64)> {
    let (samples, name) = match &clip.source {
        AudioSource::File(path) => (audio::read(path, clip.span)?, path.display().to_string()),
        AudioSource::Embedded { bytes, name } => (
            audio::read_bytes(bytes.clone(), name, clip.span)?,
            name.to_string(),
        ),
    };
    let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
    if let Some(longest) = max_audio_s.filter(|&longest| seconds > longest) {
        return Err(Error::input(format!("{seconds:.1} s of audio, `max_audio_s` is {longest}"))
            .at(name)
            .hint("nothing is cut silently: split the clip with `start_s` and `end_s`, or raise `max_audio_s`"));
    }
    let features = extractor.extract(&samples);
    if num_audio_tokens(features.frames) == 0 {
        return Err(Error::input(format!(
            "{} samples are too short for one audio token",
            samples.len()
        ))
        .at(name)
        .hint("remove the row; the shortest clip the model hears is 0.03 s"));
    }
    Ok((features, seconds))
}
