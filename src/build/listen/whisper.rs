//! A Whisper as the recogniser: transcripts, and how likely it holds a text for a recording.

use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use crate::audio;
use crate::audio::SAMPLE_RATE;
use crate::audio::Span;
use crate::build::listen::transcriber::Compares;
use crate::build::listen::transcriber::Transcriber;
use crate::build::listen::windows::Window;
use crate::build::listen::windows::first_within;
use crate::build::listen::windows::windows_of;
use crate::build::local;
use crate::build::local::Models;
use crate::build::speak::Spoken;
use crate::error::Result;
use crate::stop::Stop;

/// A Whisper. It works on one stretch at a time, so its memory does not grow with the number of
/// workers.
#[derive(Clone)]
pub(super) struct Whisper<'a> {
    model: Arc<local::Whisper>,
    name: String,
    identity: Value,
    window_s: f64,
    stop: &'a Stop,
}

impl<'a> Whisper<'a> {
    /// Opens the Whisper of a name. A window is at most as long as the model takes.
    ///
    /// # Errors
    /// A model that cannot be run.
    pub(super) fn open(name: &str, models: &Models, window_s: f64, stop: &'a Stop) -> Result<Self> {
        let model = models.whisper(name).map_err(|e| e.at("listen.model"))?;
        let longest_s = model.window() as f64 / f64::from(SAMPLE_RATE);
        Ok(Self {
            model: Arc::new(model),
            name: name.to_owned(),
            identity: models.identity(name),
            window_s: window_s.min(longest_s),
            stop,
        })
    }
}

/// Samples of a window of a FLAC file.
fn samples(file: &Arc<[u8]>, window: Window) -> Result<Vec<f32>> {
    let span = Span {
        start_s: Some(window.start_s),
        end_s: Some(window.end_s),
        channel: None,
    };
    audio::read_bytes(file.clone(), "a spoken document", span)
}

impl Transcriber for Whisper<'_> {
    fn identity(&self) -> Value {
        self.depends_on()
    }

    fn described(&self) -> Value {
        json!(self.name)
    }

    fn transcribe(
        &self,
        file: &Arc<[u8]>,
        spoken: &Spoken,
        language: &str,
    ) -> Result<Option<String>> {
        let mut texts = Vec::new();
        for window in windows_of(spoken, self.window_s) {
            let samples = samples(file, window)?;
            for stretch in stretches(&samples, self.model.window()) {
                match self.model.transcribe(stretch, language, self.stop)? {
                    Some(text) => texts.push(text),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(texts.join(" ")))
    }
}

impl Compares for Whisper<'_> {
    fn depends_on(&self) -> Value {
        json!(["whisper", self.identity, self.window_s])
    }

    fn window(&self, spoken: &Spoken) -> Option<Window> {
        first_within(spoken, self.window_s)
    }

    fn likelihoods(
        &self,
        file: &Arc<[u8]>,
        window: Window,
        language: &str,
        texts: &[String],
    ) -> Result<Option<Vec<f64>>> {
        self.model
            .likelihoods(&samples(file, window)?, language, texts, self.stop)
    }
}

/// Stretches of equal length that the model takes. One sentence may be longer, and a short rest
/// would be heard without its context.
fn stretches(samples: &[f32], longest: usize) -> std::slice::Chunks<'_, f32> {
    let num = samples.len().div_ceil(longest).max(1);
    samples.chunks(samples.len().div_ceil(num).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_have_equal_stretches() {
        let lengths = |len: usize| -> Vec<usize> {
            let samples = vec![0.0; len];
            stretches(&samples, 30).map(<[f32]>::len).collect()
        };
        assert_eq!(lengths(30), [30]);
        assert_eq!(lengths(31), [16, 15]);
        assert_eq!(lengths(89), [30, 30, 29]);
        assert!(lengths(0).is_empty());
    }
}
