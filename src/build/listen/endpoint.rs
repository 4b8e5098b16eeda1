//! Transcripts from an endpoint with OpenAI's `/audio/transcriptions`.

use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::call::Remote;
use crate::build::listen::transcriber::Transcriber;
use crate::build::settings::listen::Settings;
use crate::build::speak::Spoken;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key;

/// An endpoint.
pub(super) struct Endpoint<'a> {
    remote: Remote,
    calls: &'a Calls<'a>,
}

impl<'a> Endpoint<'a> {
    /// Opens the endpoint of a recipe.
    ///
    /// # Errors
    /// An invalid address.
    pub(super) fn open(settings: &Settings, calls: &'a Calls<'a>) -> Result<Self> {
        let endpoint = settings
            .endpoint
            .as_ref()
            .ok_or_else(|| Error::bug("a transcription endpoint without settings"))?;
        Ok(Self {
            remote: endpoint.open("listen.endpoint")?,
            calls,
        })
    }
}

impl Transcriber for Endpoint<'_> {
    fn identity(&self) -> Value {
        json!(["endpoint", self.remote.url(), self.remote.model()])
    }

    fn described(&self) -> Value {
        json!(self.remote.model())
    }

    fn transcribe(&self, file: &Arc<[u8]>, _: &Spoken, language: &str) -> Result<Option<String>> {
        let primary = language.split('-').next().unwrap_or_default();
        let draw = Key::new(0, "build transcribe").with_name(&blake3::hash(file).to_hex());
        self.remote.ask(self.calls, draw, |endpoint| {
            endpoint.transcribe(file, "speech.flac", primary)
        })
    }
}
