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

/// Answer of the program.
pub(super) enum Answer {
    Grade(f64),
    /// No grade, with the reason.
    Failed(String),
    /// The build ends.
    Ended,
}

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

    /// The grade of a FLAC file.
    ///
    /// # Errors
    /// A program that cannot be started; the disk's.
    pub(super) fn of(&self, file: &[u8]) -> Result<Answer> {
        let question = json!([
            "quality",
            self.settings.command,
            blake3::hash(file).to_hex().as_str()
        ]);
        let mut failed = None;
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
            let ended =
                run(program, arguments, "", timeout).map_err(|e| e.at("listen.quality.command"))?;
            let printed = String::from_utf8_lossy(&ended.output).into_owned();
            let grade = printed
                .split_whitespace()
                .rev()
                .find_map(|word| word.parse::<f64>().ok());
            let grade = grade.filter(|grade| ended.is_success && grade.is_finite());
            if grade.is_none() {
                let told = ended.told(self.calls);
                failed = Some(format!("the program printed no grade: {told}"));
            }
            Ok(grade.map(|grade| grade.to_string().into_bytes()))
        })?;
        match answer {
            None => Ok(failed.map_or(Answer::Ended, Answer::Failed)),
            Some(bytes) => String::from_utf8_lossy(&bytes)
                .parse()
                .map(Answer::Grade)
                .map_err(Error::bug_from),
        }
    }
}
