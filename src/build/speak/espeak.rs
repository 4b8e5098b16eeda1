//! espeak-ng: a formant synthesiser for many languages, found on the path. Its voices are `ar`,
//! variants such as `ar+f2`, and installed MBROLA voices such as `mb-ar1`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::build::call::Calls;
use crate::build::settings::speak::Settings;
use crate::build::settings::speak::Voice;
use crate::build::speak::process;
use crate::build::speak::process::Ended;
use crate::build::speak::speaker::Said;
use crate::build::speak::speaker::Speaker;
use crate::error::Error;
use crate::error::Result;

/// A text that a voice speaks under two names.
const COMPARED: &str = "a 1 2";

/// The installed program.
pub(super) struct Espeak<'a> {
    program: String,
    version: String,
    /// Files of voices, such as `sem/ar`, by the names that the recipe uses for them.
    files: BTreeMap<String, String>,
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
        let mut espeak = Self {
            version: number.to_owned(),
            files: BTreeMap::new(),
            program,
            timeout,
            calls,
        };
        espeak.check(voices).map_err(at)?;
        espeak.find_files(voices).map_err(at)?;
        Ok(espeak)
    }

    /// Finds the file of every voice. Under a name that is no file, espeak-ng reads all files of
    /// voices before it speaks, which takes about a third of the time for a sentence.
    ///
    /// A file is used only if the program speaks the same sound under both names.
    fn find_files(&mut self, voices: &[Voice]) -> Result<()> {
        let bases: BTreeSet<&str> = voices.iter().map(|voice| parts(&voice.voice).0).collect();
        let listed = process::run(&self.program, &["--voices".to_owned()], "", self.timeout)?;
        let listed = String::from_utf8_lossy(&listed.output);
        for base in bases {
            let Some(file) = file_of(base, &listed) else {
                continue;
            };
            let by_name = self.speak(&["-v".to_owned(), base.to_owned()], COMPARED)?;
            let by_file = self.speak(&["-v".to_owned(), file.to_owned()], COMPARED)?;
            let both_spoke = by_name.is_success && by_file.is_success;
            if both_spoke && !by_name.output.is_empty() && by_name.output == by_file.output {
                self.files.insert(base.to_owned(), file.to_owned());
            }
        }
        Ok(())
    }

    /// The name of a voice for the program: its file, if that is known.
    fn name_of(&self, voice: &str) -> String {
        let (base, variant) = parts(voice);
        let base = self.files.get(base).map_or(base, String::as_str);
        match variant {
            Some(variant) => format!("{base}+{variant}"),
            None => base.to_owned(),
        }
    }

    /// Runs the program for one text.
    fn speak(&self, arguments: &[String], text: &str) -> Result<Ended> {
        let mut arguments = arguments.to_vec();
        // No pause after the last sentence, because the step adds the pauses.
        arguments.extend(["-z", "--stdin", "--stdout"].map(str::to_owned));
        process::run(&self.program, &arguments, text, self.timeout)
    }

    fn check(&self, voices: &[Voice]) -> Result<()> {
        let listed = ["--voices=variant".to_owned()];
        let variants = process::run(&self.program, &listed, "", self.timeout)?;
        let variants = String::from_utf8_lossy(&variants.output).into_owned();
        let mut bases = BTreeSet::new();
        for voice in voices {
            let (base, variant) = parts(&voice.voice);
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
        let mut arguments = vec!["-v".to_owned(), self.name_of(&voice.voice)];
        for (flag, value) in [("-s", voice.rate), ("-p", voice.pitch)] {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value.to_string()]);
            }
        }
        // Two brackets would begin a phonetic transcription.
        let ended = self.speak(&arguments, &text.replace("[[", "["))?;
        if !ended.is_success {
            return Ok(Said::Failed(format!(
                "espeak-ng failed: {}",
                ended.told(self.calls)
            )));
        }
        Ok(Said::File(ended.output))
    }
}

/// A voice's name without its variant, and its variant.
fn parts(voice: &str) -> (&str, Option<&str>) {
    match voice.split_once('+') {
        Some((base, variant)) => (base, Some(variant)),
        None => (voice, None),
    }
}

/// The file of a voice in the program's list, such as `sem/ar` for `ar`; none if no file or more
/// than one has the name.
fn file_of<'l>(base: &str, listed: &'l str) -> Option<&'l str> {
    let files: BTreeSet<&str> = listed
        .split_whitespace()
        // Other words with a slash are ages and genders, such as `--/M`.
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|word| word.rsplit_once('/').is_some_and(|(_, name)| name == base))
        .collect();
    match files.len() {
        1 => files.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::cache::Cache;
    use crate::stop::Stop;

    /// Beginning of the list of espeak-ng 1.51.
    const LISTED: &str = "\
Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  af              --/M      Afrikaans          gmw/af
 5  ar              --/M      Arabic             sem/ar
 5  en-029          --/M      English_(Caribbean) gmw/en-029           (en 10)
 2  en-us           --/M      English_(America)  gmw/en-US            (en 3)
 1  ar              --/M      arabic-mbrola-1    mb/mb-ar1
 5  xx              --/M      One                a/xx
 5  xx              --/M      Other              b/xx
";

    #[test]
    fn files_of_voices_are_in_the_list() {
        for (base, file) in [
            ("ar", Some("sem/ar")),
            ("en-029", Some("gmw/en-029")),
            ("mb-ar1", Some("mb/mb-ar1")),
            ("en", None),
            ("xx", None),
            ("M", None),
            ("sem/ar", None),
        ] {
            assert_eq!(file_of(base, LISTED), file, "{base}");
        }
    }

    /// Opens a script as the program with the voice `ar+f2`, and returns what it speaks.
    fn spoken(script: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("espeak").display().to_string();
        // Another process writes it: a file that this one has open cannot be run by its children.
        let write = ["-c", "cat > \"$0\"; chmod +x \"$0\"", &program].map(str::to_owned);
        let script = format!("#!/bin/sh\n{script}");
        process::run("sh", &write, &script, Duration::from_secs(60)).unwrap();
        let settings = Settings {
            program: Some(program),
            ..Settings::default()
        };
        let voice = Voice {
            voice: "ar+f2".to_owned(),
            rate: Some(150),
            pitch: None,
        };
        let stop = Stop::new();
        let cache = Cache::open(dir.path()).unwrap();
        let calls = Calls::new(&cache, &stop);
        let voices = std::slice::from_ref(&voice);
        let espeak = Espeak::open(&settings, voices, &calls).unwrap();
        match espeak.say("[[x", &voice, "ar").unwrap() {
            Said::File(bytes) => bytes,
            _ => panic!("nothing was spoken"),
        }
    }

    #[test]
    fn the_file_speaks_if_it_sounds_like_the_name() {
        let head = "case $1 in\n--version) echo e 1.51; exit;;\n--voices) echo '5 ar --/M Arabic sem/ar'; exit;;\n--voices=variant) echo '5 variant --/F female2 !v/f2'; exit;;\nesac\n";
        let same = format!("{head}case $2 in sem/ar|ar) echo sound;; *) echo $*; cat;; esac");
        let other = format!("{head}case $2 in sem/ar|ar) echo $2;; *) echo $*; cat;; esac");
        let broken = format!("{head}case $2 in sem/ar) exit 1;; ar) ;; *) echo $*; cat;; esac");
        let plain = b"-v ar+f2 -s 150 -z --stdin --stdout\n[x";
        assert_eq!(
            spoken(&same),
            b"-v sem/ar+f2 -s 150 -z --stdin --stdout\n[x"
        );
        assert_eq!(spoken(&other), plain);
        assert_eq!(spoken(&broken), plain);
    }
}
