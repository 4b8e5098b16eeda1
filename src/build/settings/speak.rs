//! `speak:` of a recipe.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::build::call::EndpointSettings;
use crate::build::keys::in_range;
use crate::error::Error;
use crate::error::Result;

/// Who speaks, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who speaks.
    pub engine: Engine,
    /// Voices; by default eight of espeak-ng's.
    pub voices: Vec<Voice>,
    /// Words a minute of voices that say none (espeak-ng).
    pub rate: Option<u32>,
    /// Pitch of voices that say none, 0 to 99 (espeak-ng).
    pub pitch: Option<u32>,
    /// The program, if it is not on the path (espeak-ng).
    pub program: Option<String>,
    /// A command for each sentence. `{voice}`, `{language}` and `{text}` are filled in; without
    /// `{text}` the command reads it. It writes a recording to `{out}`, or to its standard output.
    pub command: Vec<String>,
    /// An endpoint with `/audio/speech`.
    pub endpoint: Option<EndpointSettings>,
    /// Further parameters of its requests, such as `speed`.
    pub parameters: Map<String, Value>,
    /// Pause between sentences, in seconds; between paragraphs it is twice as long.
    pub pause_s: f64,
    /// Longest text that an engine is given at once, in characters; longer sentences are divided at
    /// commas.
    pub max_chars: usize,
    /// Whether numbers, abbreviations and Latin words are written out first.
    pub verbalise: bool,
    /// A command that reads a text and writes it with diacritics; texts that have them stay.
    pub diacritiser: Vec<String>,
    /// Longest that a command may take, in seconds.
    pub timeout_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: Engine::EspeakNg,
            voices: Vec::new(),
            rate: None,
            pitch: None,
            program: None,
            command: Vec::new(),
            endpoint: None,
            parameters: Map::new(),
            pause_s: 0.35,
            max_chars: 400,
            verbalise: true,
            diacritiser: Vec::new(),
            timeout_s: 120.0,
        }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// espeak-ng, found on the path.
    #[default]
    EspeakNg,
    /// An endpoint that speaks OpenAI's `/audio/speech`.
    Endpoint,
    /// Any command.
    Command,
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self) -> Result<()> {
        in_range("pause_s", self.pause_s, 0.0, 10.0)?;
        in_range("timeout_s", self.timeout_s, 0.1, 86_400.0)?;
        if self.max_chars < 20 {
            return Err(
                Error::input("`max_chars` is below 20").hint("engines are given whole phrases")
            );
        }
        let missing = |what: &str, hint: &str| Err(Error::input(what).hint(hint));
        match self.engine {
            Engine::Endpoint => {
                let Some(endpoint) = &self.endpoint else {
                    return missing(
                        "`engine: endpoint` needs an endpoint",
                        "add `endpoint: {url: https://api.openai.com/v1, model: NAME}`",
                    );
                };
                endpoint.check()?;
                if self.voices.is_empty() {
                    return missing(
                        "`engine: endpoint` needs voices",
                        "name those of the endpoint: `voices: [alloy, nova]`",
                    );
                }
            }
            Engine::Command if self.command.is_empty() => {
                return missing(
                    "`engine: command` needs a command",
                    "for example `command: [piper, --model, \"{voice}.onnx\", --output_file, \"{out}\"]`",
                );
            }
            _ => {}
        }
        self.voices.iter().try_for_each(Voice::check)
    }
}

/// One voice. In a recipe a name alone stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "voice")]
pub struct Voice {
    /// Name by which the engine knows it.
    pub voice: String,
    /// Words a minute (espeak-ng).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Pitch, 0 to 99 (espeak-ng).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitch: Option<u32>,
}

impl Voice {
    /// Checks a voice.
    ///
    /// # Errors
    /// No name; a pitch beyond 99.
    pub fn check(&self) -> Result<()> {
        if self.voice.trim().is_empty() {
            return Err(Error::input("a voice has no name").hint("write `voices: [NAME, ...]`"));
        }
        if self.pitch.is_some_and(|pitch| pitch > 99) {
            return Err(
                Error::input("a pitch is above 99").hint("give 0 to 99; 50 is the usual one")
            );
        }
        Ok(())
    }

    /// Name in the data set: that of the engine, with rate and pitch where the voice says them.
    pub fn name(&self) -> String {
        let mut name = self.voice.clone();
        for (letter, value) in [("r", self.rate), ("p", self.pitch)] {
            if let Some(value) = value {
                name.push_str(&format!("-{letter}{value}"));
            }
        }
        name
    }
}
