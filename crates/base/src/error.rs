//! What can go wrong, and whose turn it is to act: the one error type of the crate.

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
        let kind = match error.kind() {
            E::NotFound
            | E::AlreadyExists
            | E::PermissionDenied
            | E::IsADirectory
            | E::NotADirectory
            | E::InvalidData => Kind::Input,
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

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::bug(error)
    }
}
