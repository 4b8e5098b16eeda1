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
use crate::build::listen::windows::windows_of;
use crate::build::local;
use crate::build::local::Models;
use crate::build::speak::Spoken;
use crate::error::Result;

/// A Whisper. It works on one stretch at a time, so its memory does not grow with the number of workers.
#[derive(Clone)]
pub(super) struct Whisper {
    model: Arc<local::Whisper>,
    name: String,
    identity: Value,
    window_s: f64,
}

impl Whisper {
    /// Opens the Whisper of a name. A window is at most as long as the model takes.
    ///
    /// # Errors
    /// A model that cannot be run.
    pub(super) fn open(name: &str, models: &Models, window_s: f64) -> Result<Self> {
        let model = models.whisper(name).map_err(|e| e.at("listen.model"))?;
        let longest_s = model.window() as f64 / f64::from(SAMPLE_RATE);
        Ok(Self {
            model: Arc::new(model),
            name: name.to_owned(),
            identity: models.identity(name),
            window_s: window_s.min(longest_s),
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

impl Transcriber for Whisper {
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
        for window in self.windows(spoken) {
            let samples = samples(file, window)?;
            // One sentence may be longer than the model takes.
            for stretch in samples.chunks(self.model.window()) {
                texts.push(self.model.transcribe(stretch, language)?);
            }
        }
        Ok(Some(texts.join(" ")))
    }
}

impl Compares for Whisper {
    fn depends_on(&self) -> Value {
        json!(["whisper", self.identity, self.window_s])
    }

    fn windows(&self, spoken: &Spoken) -> Vec<Window> {
        windows_of(spoken, self.window_s)
    }

    fn likelihoods(
        &self,
        file: &Arc<[u8]>,
        window: Window,
        language: &str,
        texts: &[String],
    ) -> Result<Vec<f64>> {
        self.model
            .likelihoods(&samples(file, window)?, language, texts)
    }
}
