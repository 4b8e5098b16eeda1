//! Speech from an endpoint with OpenAI's `/audio/speech`.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::call::Remote;
use crate::build::settings::speak::Settings;
use crate::build::settings::speak::Voice;
use crate::build::speak::speaker::Said;
use crate::build::speak::speaker::Speaker;
use crate::error::Error;
use crate::error::Result;
use crate::seed::Key;

/// An endpoint with its parameters.
pub(super) struct Endpoint<'a> {
    remote: Remote,
    parameters: Map<String, Value>,
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
            .ok_or_else(|| Error::bug("a speech endpoint without settings"))?;
        Ok(Self {
            remote: endpoint.open("speak.endpoint")?,
            parameters: settings.parameters.clone(),
            calls,
        })
    }
}

impl Speaker for Endpoint<'_> {
    fn identity(&self, voice: &Voice) -> Value {
        json!([
            "endpoint",
            self.remote.url(),
            self.remote.model(),
            self.parameters,
            voice.voice
        ])
    }

    fn described(&self) -> Value {
        json!(self.remote.model())
    }

    fn num_attempts(&self) -> usize {
        3
    }

    fn say(&self, text: &str, voice: &Voice, _language: &str) -> Result<Said> {
        let draw = Key::new(0, "build speech").with_name(text);
        let answer = self.remote.ask(self.calls, draw, |endpoint| {
            endpoint.speak(text, &voice.voice, &self.parameters)
        })?;
        Ok(answer.map_or(Said::Ended, Said::File))
    }
}
