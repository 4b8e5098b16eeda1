//! espeak-ng: a formant synthesiser for many languages, found on the path. Its voices are `ar`,
//! variants such as `ar+f2`, and installed MBROLA voices such as `mb-ar1`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::settings::speak::Settings;
use crate::build::settings::speak::Voice;
use crate::build::speak::process;
use crate::build::speak::speaker::Said;
use crate::build::speak::speaker::Speaker;
use crate::error::Error;
use crate::error::Result;

/// The installed program.
pub(super) struct Espeak<'a> {
    program: String,
    version: String,
    timeout: Duration,
    calls: &'a Calls<'a>,
}

impl<'a> Espeak<'a> {
    /// Finds the program, and tries every voice.
    ///
    /// # Errors
    /// No program; a voice that it does not have.
    pub(super) fn open(
        settings: &Settings,
        voices: &[Voice],
        calls: &'a Calls<'a>,
    ) -> Result<Self> {
        let program = settings.program.clone().unwrap_or("espeak-ng".to_owned());
        let timeout = Duration::from_secs_f64(settings.timeout_s);
        let at = |error: Error| error.at("speak");
        let version = process::run(&program, &["--version".to_owned()], "", timeout).map_err(|e| {
            at(e.hint(
                "install espeak-ng (`apt-get install espeak-ng`, `brew install espeak-ng`), or choose another engine: `speak: {engine: endpoint}` or `{engine: command}`",
            ))
        })?;
        let text = String::from_utf8_lossy(&version.output);
        let number = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let Some(number) = number.filter(|_| version.is_success) else {
            return Err(at(Error::input(format!(
                "`{program}` does not say its version"
            ))
            .hint("is it espeak-ng? name the program: `speak: {program: PATH}`")));
        };
        let espeak = Self {
            version: number.to_owned(),
            program,
            timeout,
            calls,
        };
        espeak.check(voices).map_err(at)?;
        Ok(espeak)
    }

    fn check(&self, voices: &[Voice]) -> Result<()> {
        let listed = ["--voices=variant".to_owned()];
        let variants = process::run(&self.program, &listed, "", self.timeout)?;
        let variants = String::from_utf8_lossy(&variants.output).into_owned();
        let mut bases = BTreeSet::new();
        for voice in voices {
            let (base, variant) = match voice.voice.split_once('+') {
                Some((base, variant)) => (base, Some(variant)),
                None => (voice.voice.as_str(), None),
            };
            // Variants share the program's look at their voice.
            if bases.insert(base) {
                self.check_base(base)?;
            }
            let is_known = |variant: &str| {
                variants
                    .split_whitespace()
                    .any(|word| word.trim_start_matches("!v/") == variant)
            };
            if let Some(variant) = variant.filter(|variant| !is_known(variant)) {
                return Err(Error::input(format!(
                    "espeak-ng has no variant `{variant}` of the voice `{base}`"
                ))
                .hint("choose one of `espeak-ng --voices=variant`"));
            }
        }
        Ok(())
    }

    /// Tries a voice without its variant.
    fn check_base(&self, base: &str) -> Result<()> {
        let tried = ["-v", base, "-q", "a"].map(str::to_owned);
        let tried = process::run(&self.program, &tried, "", self.timeout)?;
        if !tried.is_success {
            let hint = if base.starts_with("mb") {
                "install the MBROLA voice (`apt-get install mbrola mbrola-ar1`), or choose one of `espeak-ng --voices`"
            } else {
                "choose one of `espeak-ng --voices`"
            };
            return Err(Error::input(format!(
                "espeak-ng has no voice `{base}`: {}",
                tried.told(self.calls)
            ))
            .hint(hint));
        }
        Ok(())
    }
}

impl Speaker for Espeak<'_> {
    fn identity(&self, voice: &Voice) -> Value {
        json!(["espeak-ng", self.version, voice])
    }

    fn described(&self) -> Value {
        json!(format!("espeak-ng {}", self.version))
    }

    fn num_attempts(&self) -> usize {
        1
    }

    fn say(&self, text: &str, voice: &Voice, _language: &str) -> Result<Said> {
        let mut arguments = vec!["-v".to_owned(), voice.voice.clone()];
        for (flag, value) in [("-s", voice.rate), ("-p", voice.pitch)] {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.to_string()]);
            }
        }
        // No pause after the last sentence, because the step adds the pauses.
        arguments.extend(["-z", "--stdin", "--stdout"].map(str::to_owned));
        // Two brackets would begin a phonetic transcription.
        let text = text.replace("[[", "[");
        let ended = process::run(&self.program, &arguments, &text, self.timeout)?;
        if !ended.is_success {
            return Ok(Said::Failed(format!(
                "espeak-ng failed: {}",
                ended.told(self.calls)
            )));
        }
        Ok(Said::File(ended.output))
    }
}
