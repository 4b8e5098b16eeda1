//! What can go wrong, and whose turn it is to act: the one error type of the crate.

#[cfg(feature = "candle")]
mod candle;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

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

impl Kind {
    /// The exit code of a process that ends so.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Bug => 1,
            Self::Input => 2,
            Self::Diverged => 3,
            Self::Resource => 4,
            Self::Interrupted => 130,
        }
    }
}

/// An error a person can act on: where, what was found, what to do. [`StdError::source`] is the
/// error of a library or of the system that it stands for.
#[derive(Clone, Debug)]
pub struct Error {
    /// Who has to act.
    pub kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with its message: lower case, no full stop.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
            source: None,
        }
    }

    /// Bad input: a file, a recipe, an argument.
    pub fn input(message: impl fmt::Display) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A bug of maqam.
    pub fn bug(message: impl fmt::Display) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// A bug of maqam that a library reports: an error that its input rules out.
    pub fn bug_from(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        Self::bug(&source).caused_by(source)
    }

    /// Disk, memory or an endpoint.
    pub fn resource(message: impl fmt::Display) -> Self {
        Self::new(Kind::Resource, message)
    }

    /// The user asked to stop; `message` says what is left of the work.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// Keeps the error that this one stands for. The message stays as it is.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error, of what was read: a library calls a damaged file a fault of its own.
    #[must_use]
    pub fn in_input(mut self) -> Self {
        if self.kind == Kind::Bug {
            self.kind = Kind::Input;
        }
        self
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

    /// An operating system's error on `path`: what is missing or unreadable is the user's to mend,
    /// a full disk the machine's. An error of maqam that passed through a library's reader or
    /// writer comes back as it was.
    pub fn io(path: &Path, action: &str, error: io::Error) -> Self {
        if let Some(carried) = Self::carried(&error) {
            return carried.clone();
        }
        let found = format!("cannot {action}: {error}");
        Self::system(found, error).at_path(path)
    }

    /// The error of maqam that passes through a library inside one of the system.
    pub fn carried(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// An error of the system with its message, kind and hint.
    fn system(message: impl fmt::Display, error: io::Error) -> Self {
        let found = Self::new(kind_of_io(&error), message);
        let found = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => found.hint(FULL_DISK_HINT),
            _ => found,
        };
        found.caused_by(error)
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// The message alone, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns whether an error of this type is below the error.
    pub fn is_caused_by<T: StdError + 'static>(&self) -> bool {
        let mut below = self.source();
        while let Some(error) = below {
            if error.is::<T>() {
                return true;
            }
            below = error.source();
        }
        false
    }

    /// The hint alone.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Message and hint on one line, as a note has them.
    pub fn one_line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }
}

/// What frees a full disk.
const FULL_DISK_HINT: &str = "free some space and run the command again, a training with --resume; what was finished before is whole";

/// Who has to act on an error of the system.
fn kind_of_io(error: &io::Error) -> Kind {
    use io::ErrorKind as E;

    // What a path says can be wrong in ways that the standard library has no stable names for.
    let is_wrong_path = matches!(
        error.raw_os_error(),
        Some(libc::ELOOP | libc::ENAMETOOLONG | libc::ENODEV | libc::ENXIO)
    );
    match error.kind() {
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

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// Lets an error pass through a reader or writer of a library; [`Error::io`] takes it out again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Characters of somebody else's text that a message or the cell of a table shows.
const SHOWN: usize = 80;

/// A text as a message or the cell of a table shows it: its beginning, where it is longer than 80
/// characters.
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
            let error = Error::io(path, "read", found);
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        for code in [
            libc::ENOSPC,
            libc::EIO,
            libc::EFBIG,
            libc::EMFILE,
            libc::ENOMEM,
        ] {
            let found = std::io::Error::from_raw_os_error(code);
            let error = Error::io(&looped, "write", found);
            assert_eq!(error.exit_code(), 4, "{error}");
        }
    }

    #[test]
    fn sources_lead_to_the_systems_error() {
        let system = io::Error::from_raw_os_error(libc::ENOSPC);
        let disk = Error::io(Path::new("a"), "write", system).at("step 3");
        assert!(disk.message().starts_with("step 3: a: cannot write: "));

        let above = Error::resource("the run ends").caused_by(disk);
        let below = above.source().unwrap().downcast_ref::<Error>().unwrap();
        let system = below.source().unwrap().downcast_ref::<io::Error>().unwrap();
        assert_eq!(system.raw_os_error(), Some(libc::ENOSPC));
        assert!(above.is_caused_by::<io::Error>());
        assert!(!above.is_caused_by::<serde_json::Error>());
        assert!(Error::input("nothing below").source().is_none());
    }

    #[test]
    fn a_librarys_error_is_a_bug_with_its_source() {
        let library = serde_json::from_str::<u8>("x").unwrap_err();
        let message = library.to_string();
        let error = Error::bug_from(library).hint("send the file");
        assert_eq!((error.exit_code(), error.message()), (1, &*message));
        assert!(error.source().unwrap().is::<serde_json::Error>());
    }

    #[test]
    fn a_hint_is_a_field() {
        let bare = Error::input("the span is empty");
        assert_eq!(bare.hint_text(), None);
        assert_eq!(bare.one_line(), "the span is empty");

        let error = bare.hint("put `end_s` after `start_s`").at("a.jsonl:3");
        assert_eq!(error.message(), "a.jsonl:3: the span is empty");
        assert_eq!(error.hint_text(), Some("put `end_s` after `start_s`"));
        assert_eq!(
            error.one_line(),
            "a.jsonl:3: the span is empty; put `end_s` after `start_s`"
        );
    }

    #[test]
    fn errors_pass_through_readers_and_writers() {
        let error = Error::input("row 3 has no audio").hint("remove it");
        let passed = Error::io(Path::new("a"), "write", io::Error::from(error));
        assert_eq!(passed.to_string(), "row 3 has no audio\nhint: remove it");
        assert_eq!(passed.exit_code(), 2);
    }
}
