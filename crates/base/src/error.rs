//! What can go wrong, and whose turn it is to act: the one error type of the crate.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Result of every fallible function of the crate outside the tensor code.
pub type Result<T> = std::result::Result<T, Error>;

/// Who has to act on an [`Error`]; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The program is wrong (exit code 1).
    Bug,
    /// A file, a recipe or an argument is wrong (exit code 2).
    Input,
    /// The loss or a gradient stopped being finite (exit code 3).
    Diverged,
    /// Disk, memory or an endpoint failed (exit code 4).
    Resource,
    /// The user asked to stop (exit code 130).
    Interrupted,
}

/// An error a person can act on: where, what was found, what to do.
#[derive(Clone, Debug)]
pub struct Error {
    /// Who has to act.
    pub kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error of `kind` with its message: lower case, no full stop.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }

    /// Bad input: a file, a recipe, an argument.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A fault of ours.
    pub fn bug(message: impl fmt::Display) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// Disk, memory or an endpoint.
    pub fn resource(message: impl fmt::Display) -> Self {
        Self::new(Kind::Resource, message)
    }

    /// What the person can do about it; printed on a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// As [`Error::hint`], unless the error has a hint already.
    #[must_use]
    pub fn or_hint(self, hint: impl fmt::Display) -> Self {
        if self.hint.is_some() {
            self
        } else {
            self.hint(hint)
        }
    }

    /// Adds another thing that the person can do, behind the hint that is there.
    #[must_use]
    pub fn and_hint(self, hint: impl fmt::Display) -> Self {
        match self.hint.clone() {
            Some(first) => self.hint(format!("{first}; or {hint}")),
            None => self.hint(hint),
        }
    }

    /// Puts `place` (a file, a row id, a recipe key) in front of the message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        // Where the work stood when the user stopped it is no place of a fault.
        if self.kind == Kind::Interrupted {
            return self;
        }
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Puts the path in front of the message.
    #[must_use]
    pub fn at_path(self, path: &Path) -> Self {
        self.at(path.display())
    }

    /// An operating system's error on `path`: what is missing or unreadable is the user's to mend, a full disk the machine's.
    pub fn io(path: &Path, action: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        // What a path says can be wrong in ways that the standard library has no stable names for.
        let is_wrong_path = matches!(
            error.raw_os_error(),
            Some(libc::ELOOP | libc::ENAMETOOLONG | libc::ENODEV | libc::ENXIO)
        );
        let kind = match error.kind() {
            E::NotFound
            | E::AlreadyExists
            | E::PermissionDenied
            | E::IsADirectory
            | E::NotADirectory
            | E::InvalidData
            // A zero byte in a path.
            | E::InvalidInput
            | E::UnexpectedEof
            | E::NotSeekable => Kind::Input,
            _ if is_wrong_path => Kind::Input,
            _ => Kind::Resource,
        };
        let found = Self::new(kind, format!("cannot {action}: {error}")).at_path(path);
        match error.kind() {
            E::StorageFull | E::QuotaExceeded => {
                found.hint("free some space and run the command again, a training with --resume; what was finished before is whole")
            }
            _ => found,
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Bug => 1,
            Kind::Input => 2,
            Kind::Diverged => 3,
            Kind::Resource => 4,
            Kind::Interrupted => 130,
        }
    }

    /// The message alone, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::bug(error)
    }
}

/// Characters of somebody else's text that a message or the cell of a table shows.
const SHOWN: usize = 80;

/// A text as a message or the cell of a table shows it: its beginning, where it is longer than 80 characters.
pub fn brief(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(SHOWN - 1).chain(['…']).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_shown_by_its_beginning() {
        assert_eq!(brief("نعم"), "نعم");
        assert_eq!(brief(&"ن".repeat(80)), "ن".repeat(80));
        assert_eq!(brief(&"ن".repeat(81)), format!("{}…", "ن".repeat(79)));
    }

    #[test]
    fn wrong_paths_are_the_users_to_mend() {
        let long = "n".repeat(300);
        let dir = tempfile::tempdir().unwrap();
        let looped = dir.path().join("loop");
        std::os::unix::fs::symlink("loop", &looped).unwrap();
        for path in [Path::new("a\0b"), Path::new(&long), &looped] {
            let found = std::fs::File::open(path).unwrap_err();
            assert_eq!(Error::io(path, "read", &found).exit_code(), 2, "{found}");
        }
        for code in [
            libc::ENOSPC,
            libc::EIO,
            libc::EFBIG,
            libc::EMFILE,
            libc::ENOMEM,
        ] {
            let found = std::io::Error::from_raw_os_error(code);
            assert_eq!(
                Error::io(&looped, "write", &found).exit_code(),
                4,
                "{found}"
            );
        }
    }
}
