//! Any speech program, as a command for each sentence.

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

/// A command template.
pub(super) struct Command<'a> {
    template: Vec<String>,
    timeout: Duration,
    calls: &'a Calls<'a>,
}

impl<'a> Command<'a> {
    /// Takes the template of a recipe.
    ///
    /// # Errors
    /// A missing program.
    pub(super) fn open(settings: &Settings, calls: &'a Calls<'a>) -> Result<Self> {
        let template = settings.command.clone();
        let program = template.first().map_or("", String::as_str);
        if !is_found(program) {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(process::not_started(program, missing).at("speak.command"));
        }
        Ok(Self {
            template,
            timeout: Duration::from_secs_f64(settings.timeout_s),
            calls,
        })
    }
}

/// Returns whether a program is a file, or on the path.
pub(crate) fn is_found(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

impl Speaker for Command<'_> {
    fn identity(&self, voice: &Voice) -> Value {
        json!(["command", self.template, voice])
    }

    fn described(&self) -> Value {
        json!(self.template.join(" "))
    }

    fn num_attempts(&self) -> usize {
        1
    }

    fn say(&self, text: &str, voice: &Voice, language: &str) -> Result<Said> {
        let writes_file = self.template.iter().any(|part| part.contains("{out}"));
        let folder = match writes_file {
            true => Some(
                tempfile::tempdir()
                    .map_err(|e| Error::io(&std::env::temp_dir(), "make a folder", e))?,
            ),
            false => None,
        };
        let out = folder
            .as_ref()
            .map(|folder| folder.path().join("speech.wav"));
        let out_text = out
            .as_ref()
            .map_or(String::new(), |out| out.display().to_string());
        let fill = |part: &String| {
            part.replace("{out}", &out_text)
                .replace("{voice}", &voice.voice)
                .replace("{language}", language)
                .replace("{text}", text)
        };
        let filled: Vec<String> = self.template.iter().map(fill).collect();
        let Some((program, arguments)) = filled.split_first() else {
            return Err(Error::bug("an empty command"));
        };
        let reads = !self.template.iter().any(|part| part.contains("{text}"));
        let input = if reads { text } else { "" };
        let ended = process::run(program, arguments, input, self.timeout)?;
        if !ended.is_success {
            return Ok(Said::Failed(format!(
                "the command failed: {}",
                ended.told(self.calls)
            )));
        }
        match out {
            None => Ok(Said::File(ended.output)),
            Some(out) => Ok(match std::fs::read(&out) {
                Ok(file) => Said::File(file),
                Err(e) => Said::Failed(format!("the command wrote no recording: {e}")),
            }),
        }
    }
}
