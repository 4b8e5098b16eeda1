//! Engines that speak, as the step knows them.

use serde_json::Value;

use crate::build::settings::speak::Voice;
use crate::error::Result;

/// What an engine made of a text.
pub(crate) enum Said {
    /// Contents of an audio file.
    File(Vec<u8>),
    /// No sound, with the reason.
    Failed(String),
    /// The build ends.
    Ended,
}

/// Somebody who speaks.
pub(crate) trait Speaker: Sync {
    /// All that a recording depends on but text and language.
    fn identity(&self, voice: &Voice) -> Value;

    /// Name and version, for the card.
    fn described(&self) -> Value;

    /// How often a text is asked for before its row is left out.
    fn num_attempts(&self) -> usize;

    /// Speaks a text.
    fn say(&self, text: &str, voice: &Voice, language: &str) -> Result<Said>;
}
