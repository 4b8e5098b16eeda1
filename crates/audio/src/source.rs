//! The bytes of a recording, from a file or from memory, read at any place.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// Bytes that one look into a file reads at least, so that small packets do not cost a system call
/// each.
const WINDOW_BYTES: usize = 1 << 16;

/// Most bytes that are taken into memory at once.
const MOST_BYTES: u64 = 1 << 31;

/// A range of a file's bytes, read as if it were the whole file.
pub(super) struct Source {
    store: Store,
    start: u64,
    end: u64,
    /// Bytes of the file that were read last, and where they begin in it.
    window: Vec<u8>,
    window_at: u64,
}

enum Store {
    File(File),
    Bytes(Bytes),
}

/// Bytes in memory, which are taken over without a copy.
pub(super) enum Bytes {
    /// Bytes of one owner.
    Owned(Vec<u8>),
    /// Bytes of several owners.
    Shared(Arc<[u8]>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<Arc<[u8]>> for Bytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        Self::Shared(bytes)
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Source {
    /// Opens a file.
    ///
    /// # Errors
    /// The system's, a folder, or something else that is not a regular file; each names the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // The path is checked first, because opening a pipe waits for a writer.
        let metadata = path.metadata().map_err(|e| Error::io(path, "read", e))?;
        if metadata.is_dir() {
            return Err(Error::input("a folder where a recording was expected").at_path(path));
        }
        if !metadata.is_file() {
            return Err(
                Error::input("a pipe, socket or device where a recording was expected")
                    .at_path(path)
                    .hint("write the recording to a file first"),
            );
        }

        let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
        Ok(Self::new(Store::File(file), metadata.len()))
    }

    /// Opens a range of a file's bytes.
    ///
    /// # Errors
    /// As [`Source::open`]; a range that the file does not have.
    pub(super) fn open_range(path: &Path, range: Range<u64>) -> Result<Self> {
        let mut source = Self::open(path)?;
        if range.start > range.end || range.end > source.end {
            let message = format!(
                "the bytes {} to {} were announced, {} has {}",
                range.start,
                range.end,
                path.display(),
                source.end
            );
            return Err(Error::input(message).hint("the file has changed: name it anew"));
        }
        (source.start, source.end) = (range.start, range.end);
        Ok(source)
    }

    /// Bytes in memory.
    pub(super) fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let end = bytes.len() as u64;
        Self::new(Store::Bytes(bytes), end)
    }

    fn new(store: Store, end: u64) -> Self {
        Self {
            store,
            start: 0,
            end,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Leaves out `num_bytes` at the beginning.
    pub(super) fn skip(&mut self, num_bytes: u64) {
        self.start = self.start.saturating_add(num_bytes).min(self.end);
    }

    /// Drops everything after the first `num_bytes`.
    pub(super) fn truncate(&mut self, num_bytes: u64) {
        self.end = self.end.min(self.start.saturating_add(num_bytes));
    }

    /// Up to `len` bytes from `at` on; fewer where the source ends.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn peek(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let from = self.start.saturating_add(at).min(self.end);
        let len = usize::try_from(self.end - from)
            .unwrap_or(usize::MAX)
            .min(len);
        match &self.store {
            Store::Bytes(bytes) => Ok(&bytes[from as usize..from as usize + len]),
            Store::File(file) => {
                let is_there = from >= self.window_at
                    && from + len as u64 <= self.window_at + self.window.len() as u64;
                if !is_there {
                    let most = usize::try_from(self.end - from).unwrap_or(usize::MAX);
                    self.window.clear();
                    self.window.resize(len.max(WINDOW_BYTES).min(most), 0);
                    self.window_at = from;
                    read_all(file, &mut self.window, from)?;
                }
                let at = (from - self.window_at) as usize;
                Ok(&self.window[at..at + len])
            }
        }
    }

    /// Returns exactly `len` bytes from `at`.
    ///
    /// # Errors
    /// An error of the system, or an end before these bytes.
    pub(super) fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        if at
            .checked_add(len as u64)
            .is_none_or(|end| end > self.len())
        {
            let message = format!(
                "truncated: {len} bytes are announced at byte {at}, the file has {}",
                self.len()
            );
            return Err(Error::input(message).hint("copy or download it again"));
        }
        self.peek(at, len)
    }

    /// All bytes, in memory.
    ///
    /// # Errors
    /// The system's, or more than 2 GiB.
    pub(super) fn into_bytes(mut self) -> Result<Arc<[u8]>> {
        if self.len() > MOST_BYTES {
            let message = format!("{} bytes of one recording", self.len());
            return Err(Error::input(message).hint("split it into recordings of less than 2 GiB"));
        }
        if let Store::Bytes(Bytes::Shared(bytes)) = &self.store
            && (self.start, self.end) == (0, bytes.len() as u64)
        {
            return Ok(bytes.clone());
        }
        let len = self.len() as usize;
        Ok(self.peek(0, len)?.into())
    }
}

/// Fills `buffer` from the file, which may have become shorter since its length was read.
fn read_all(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    file.read_exact_at(buffer, at)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::input("the file was cut while it was read").hint("run the command again")
            }
            _ => Error::resource(format!("cannot read: {error}")).caused_by(error),
        })
}

/// Little-endian number of at most eight bytes.
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Big-endian number of at most eight bytes.
pub(super) fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
