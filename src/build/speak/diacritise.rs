//! Diacritics for Arabic texts from a command, which reads a text and writes it with diacritics.

use std::time::Duration;

use serde_json::json;

use crate::build::call::Calls;
use crate::build::speak::command::is_found;
use crate::build::speak::process;
use crate::build::spoken::is_mark;
use crate::error::Error;
use crate::error::Result;

/// A command that adds diacritics.
pub(super) struct Diacritiser<'a> {
    command: Vec<String>,
    timeout: Duration,
    calls: &'a Calls<'a>,
}

impl<'a> Diacritiser<'a> {
    /// Takes the command of a recipe.
    ///
    /// # Errors
    /// A missing program.
    pub(super) fn open(command: &[String], timeout_s: f64, calls: &'a Calls<'a>) -> Result<Self> {
        let program = command.first().map_or("", String::as_str);
        if !is_found(program) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(process::not_started(program, missing).at("speak.diacritiser"));
        }
        Ok(Self {
            command: command.to_vec(),
            timeout: Duration::from_secs_f64(timeout_s),
            calls,
        })
    }

    /// A text with diacritics; none if the build ends.
    ///
    /// # Errors
    /// A command that fails, or that changes the letters of the text.
    pub(super) fn diacritise(&self, text: &str) -> Result<Option<String>> {
        let question = json!(["diacritics", self.command, text]);
        let answer = self.calls.answer(&question, || {
            let (program, arguments) = self
                .command
                .split_first()
                .ok_or_else(|| Error::bug("an empty command"))?;
            let ended = process::run(program, arguments, text, self.timeout)?;
            let failed = |what: String| {
                Error::input(what)
                    .at("speak.diacritiser")
                    .hint("try the command by hand: it reads a text and writes it with diacritics")
            };
            if !ended.is_success {
                return Err(failed(format!(
                    "the command failed: {}",
                    ended.told(self.calls)
                )));
            }
            let read = String::from_utf8_lossy(&ended.output).trim().to_owned();
            if bare(&read) != bare(text) {
                return Err(failed(
                    "the command changed letters, not only diacritics".to_owned(),
                ));
            }
            Ok(Some(read.into_bytes()))
        })?;
        Ok(answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The letters of a text without marks.
fn bare(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphabetic() && !is_mark(*c))
        .collect()
}
