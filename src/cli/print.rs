//! The one door to the terminal: results on standard output, messages on standard error.
//!
//! Text may be anybody's (an id, a run's name, an endpoint's error), so control characters are
//! escaped. A message that cannot be printed is dropped. A result that nobody reads any more ends
//! quietly; one that a full device cannot take is an error.

use std::borrow::Cow;
use std::fmt::Display;
use std::fmt::Write as _;
use std::io;
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::error::Result;

/// Set once standard output was found closed: nothing more is written to it.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// How much is printed beside results and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Quiet,
    /// Messages, and progress now and then.
    Normal,
    /// Messages, and every unit of progress.
    Verbose,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Normal as u8);

/// Sets how much is printed from here on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether messages and progress are left out.
pub fn is_quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) == Level::Quiet as u8
}

/// Whether every unit of progress has a line.
pub fn is_verbose() -> bool {
    LEVEL.load(Ordering::Relaxed) == Level::Verbose as u8
}

/// Prints a part of a result, as it stands; it brings its own line ends.
///
/// # Errors
/// A device that cannot take it. A reader that has gone is none: the work goes on, and the exit
/// code is that of the work.
pub fn result(text: impl Display) -> Result<()> {
    if IS_CLOSED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let text = text.to_string();
    let mut out = io::stdout().lock();
    let outcome = out
        .write_all(printable(&text).as_bytes())
        .and_then(|()| out.flush());
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            IS_CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(e) => Err(
            Error::resource(format!("standard output: cannot print the result: {e}"))
                .caused_by(e)
                .hint("send the output to a place with space; files that were written stay"),
        ),
        Ok(()) => Ok(()),
    }
}

/// Prints a result and ends its line.
///
/// # Errors
/// As [`result`].
pub fn line(text: impl Display) -> Result<()> {
    result(format!("{text}\n"))
}

/// Prints a message on a line of its own, unless the user asked for quiet. What cannot be printed
/// is dropped: no work ends for want of a reader.
pub fn message(text: impl Display) {
    if !is_quiet() {
        error(text);
    }
}

/// Prints what went wrong, quiet or not.
pub fn error(text: impl Display) {
    let text = format!("{text}\n");
    let _ = io::stderr().lock().write_all(printable(&text).as_bytes());
}

/// The text with its control characters, line ends and tabs apart, as JSON escapes them: none
/// reaches a terminal as a command.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_command(c) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let title = "run \u{1b}]0;owned\u{7}\u{9b}2J\r\u{7f}";
        let expected = "run \\u001b]0;owned\\u0007\\u009b2J\\u000d\\u007f";
        assert_eq!(printable(title), expected);
        assert_eq!(printable("نعم\tyes\n"), "نعم\tyes\n");
    }

    #[test]
    fn escaped_json_is_still_json() {
        let object = serde_json::json!({"id": "a\u{9b}\u{7f}\u{1b}"}).to_string();
        let read: serde_json::Value = serde_json::from_str(&printable(&object)).unwrap();
        assert_eq!(read["id"], "a\u{9b}\u{7f}\u{1b}");
    }
}
