//! A grade of a recording's quality from any program, such as an estimator of mean opinion scores.

use std::time::Duration;

use serde_json::json;

use crate::build::call::Calls;
use crate::build::listen::transcriber::temporary;
use crate::build::settings::listen;
use crate::build::speak::is_found;
use crate::build::speak::not_started;
use crate::build::speak::run;
use crate::error::Error;
use crate::error::Result;

/// The program, found.
pub(super) struct Quality<'a> {
    settings: &'a listen::Quality,
    calls: &'a Calls<'a>,
}

impl<'a> Quality<'a> {
    /// Finds the program.
    ///
    /// # Errors
    /// A program that is not there.
    pub(super) fn open(settings: &'a listen::Quality, calls: &'a Calls<'a>) -> Result<Self> {
        let program = settings.command.first().map_or("", String::as_str);
        if !is_found(program) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(not_started(program, missing).at("listen.quality.command"));
        }
        Ok(Self { settings, calls })
    }

    /// Lowest grade of an accepted row.
    pub(super) fn least(&self) -> f64 {
        self.settings.min
    }

    /// The grade of a FLAC file; none if the build ends.
    ///
    /// # Errors
    /// A program that fails or prints no number.
    pub(super) fn of(&self, file: &[u8]) -> Result<Option<f64>> {
        let question = json!([
            "quality",
            self.settings.command,
            blake3::hash(file).to_hex().as_str()
        ]);
        let answer = self.calls.answer(&question, || {
            let (_folder, path) = temporary(file)?;
            let path = path.display().to_string();
            let filled: Vec<String> = self
                .settings
                .command
                .iter()
                .map(|part| part.replace("{audio}", &path))
                .collect();
            let (program, arguments) = filled
                .split_first()
                .ok_or_else(|| Error::bug("an empty command"))?;
            let timeout = Duration::from_secs_f64(self.settings.timeout_s);
            let ended = run(program, arguments, "", timeout)?;
            let printed = String::from_utf8_lossy(&ended.output).into_owned();
            let grade = printed
                .split_whitespace()
                .rev()
                .find_map(|word| word.parse::<f64>().ok());
            match grade.filter(|grade| ended.is_success && grade.is_finite()) {
                Some(grade) => Ok(Some(grade.to_string().into_bytes())),
                None => Err(Error::input(format!(
                    "the program printed no grade: {}",
                    ended.told(self.calls)
                ))
                .at("listen.quality.command")
                .hint("try the command by hand: it prints one number for a recording")),
            }
        })?;
        match answer {
            None => Ok(None),
            Some(bytes) => String::from_utf8_lossy(&bytes)
                .parse()
                .map(Some)
                .map_err(Error::bug_from),
        }
    }
}
