//! Reading with bounds: no file, pipe or device makes the program take more memory than it says
//! here.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use flate2::bufread::MultiGzDecoder;

use crate::error::Error;
use crate::error::Result;

/// Largest text that is read as a whole, in bytes.
pub const MAX_TEXT: u64 = 1 << 30;
/// Longest line, in bytes.
pub const MAX_LINE: usize = 16 << 20;
/// Most bytes that are read from a pipe or a device, which may have no end.
pub const MAX_STREAM: u64 = 1 << 30;

/// Bytes that are read ahead.
const BUFFER: usize = 1 << 20;

/// Number of threads that wait for somebody outside: a pipe, a device, a network.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A stretch of work that waits for somebody outside and loses nothing if the process ends in it.
pub struct Waiting;

impl Waiting {
    /// Begins to wait; dropped, the wait is over.
    pub fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::SeqCst);
        Self
    }

    /// Returns whether some thread waits.
    pub fn is_any() -> bool {
        WAITING.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open file, pipe or device.
pub struct Input {
    file: File,
    path: PathBuf,
    is_stream: bool,
    /// Bytes that may still be read.
    left: u64,
}

impl Input {
    /// Opens a file to read. A pipe is waited for until somebody writes to it.
    ///
    /// # Errors
    /// A folder; what cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::io(path, "read", e);
        // Asked before it is opened: opening a pipe may wait.
        let is_stream = !fs::metadata(path).map_err(failed)?.is_file();
        let file = if is_stream {
            let _waiting = Waiting::begin();
            File::open(path).map_err(failed)?
        } else {
            File::open(path).map_err(failed)?
        };
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }

        Ok(Self {
            file,
            path: path.to_owned(),
            is_stream,
            left: if is_stream { MAX_STREAM } else { u64::MAX },
        })
    }

    /// Takes the file itself, for a reader that seeks.
    ///
    /// # Errors
    /// A pipe or a device.
    pub fn into_file(self) -> Result<File> {
        if self.is_stream {
            return Err(Error::input("is a pipe or a device, not a file")
                .at_path(&self.path)
                .hint("copy it to a file first"));
        }
        Ok(self.file)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _waiting = self.is_stream.then(Waiting::begin);
        let read = self.file.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(read)
    }
}

/// Reads a whole UTF-8 text.
///
/// # Errors
/// A text longer than [`MAX_TEXT`]; one that holds a zero byte, as no text does, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let mut input = Input::open(path)?;
    let mut bytes = Vec::new();
    let mut checked = 0;
    loop {
        let read = (&mut input)
            .take(1 << 20)
            .read_to_end(&mut bytes)
            .map_err(|e| read_error(path, e))?;
        if read == 0 {
            break;
        }
        if bytes[checked..].contains(&0) {
            return Err(not_text(path));
        }
        if bytes.len() as u64 > MAX_TEXT {
            return Err(too_long(path, MAX_TEXT));
        }
        checked = bytes.len();
    }
    String::from_utf8(bytes).map_err(|_| {
        let found = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
        Error::io(path, "read", found)
            .hint("convert the file, for example with `iconv -f WINDOWS-1256 -t UTF-8`")
    })
}

/// The lines of a file, one at a time.
pub struct Lines {
    reader: Text,
    path: PathBuf,
    line: u32,
    bytes: Vec<u8>,
    /// Bytes of all lines before the last that was read.
    before: u64,
}

/// Text as it is stored, or packed by gzip.
enum Text {
    Plain(BufReader<Input>),
    Packed(Box<BufReader<MultiGzDecoder<BufReader<Input>>>>),
}

impl Text {
    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(reader) => reader,
            Self::Packed(reader) => reader,
        }
    }
}

impl Lines {
    /// Opens a file to read its lines.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::of(Input::open(path)?))
    }

    /// Reads the lines of an open file.
    pub fn of(input: Input) -> Self {
        Self {
            path: input.path.clone(),
            reader: Text::Plain(BufReader::with_capacity(BUFFER, input)),
            line: 0,
            bytes: Vec::new(),
            before: 0,
        }
    }

    /// Reads on in what a gzip archive holds, where the file is one.
    ///
    /// # Errors
    /// The system's.
    pub fn unpacked(mut self) -> Result<Self> {
        let is_packed = self.head()?.starts_with(b"\x1f\x8b");
        self.reader = match self.reader {
            Text::Plain(reader) if is_packed => Text::Packed(Box::new(BufReader::with_capacity(
                BUFFER,
                MultiGzDecoder::new(reader),
            ))),
            reader => reader,
        };
        Ok(self)
    }

    /// The first bytes of what is still to be read, without reading on.
    ///
    /// # Errors
    /// The system's.
    pub fn head(&mut self) -> Result<&[u8]> {
        self.reader
            .reader()
            .fill_buf()
            .map_err(|e| read_error(&self.path, e))
    }

    /// Takes the file itself, for a reader that seeks.
    ///
    /// # Errors
    /// As [`Input::into_file`]; what is unpacked on the way is no file.
    pub fn into_file(self) -> Result<File> {
        match self.reader {
            Text::Plain(reader) => reader.into_inner().into_file(),
            Text::Packed(_) => {
                Err(Error::input("is a gzip archive")
                    .at_path(&self.path)
                    .hint(format!(
                        "unpack it first: `gunzip -k {}`",
                        self.path.display()
                    )))
            }
        }
    }

    /// Reads all that is left.
    ///
    /// # Errors
    /// The system's; more than `most` bytes.
    pub fn rest(mut self, most: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader
            .reader()
            .take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| read_error(&self.path, e))?;
        match bytes.len() as u64 > most {
            true => Err(too_long(&self.path, most)),
            false => Ok(bytes),
        }
    }

    /// The next line and its number, from 1, without its end and without a byte order mark; none
    /// after the last.
    ///
    /// # Errors
    /// A line longer than [`MAX_LINE`] bytes; one that holds a zero byte, which no text does.
    pub fn next_line(&mut self) -> Result<Option<(u32, &[u8])>> {
        match self.advance()? {
            true => Ok(Some(self.line())),
            false => Ok(None),
        }
    }

    /// Reads the next line; false after the last.
    ///
    /// # Errors
    /// As [`Lines::next_line`].
    pub(crate) fn advance(&mut self) -> Result<bool> {
        self.before += self.bytes.len() as u64;
        self.bytes.clear();
        let read = self
            .reader
            .reader()
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut self.bytes)
            .map_err(|e| read_error(&self.path, e))?;
        if read == 0 {
            return Ok(false);
        }
        self.line = self.line.saturating_add(1);

        let place = || format!("{}:{}", self.path.display(), self.line);
        if self.bytes.contains(&0) {
            return Err(Error::input("a line holds a zero byte, which no text does")
                .at(place())
                .hint("is this a file of another kind?"));
        }
        if self.bytes.len() > MAX_LINE {
            return Err(
                Error::input(format!("the line is longer than {} MiB", MAX_LINE >> 20))
                    .at(place())
                    .hint("a row is one JSON object on a line of its own"),
            );
        }
        Ok(true)
    }

    /// The line that was read last, as [`Lines::next_line`] gives it.
    pub(crate) fn line(&self) -> (u32, &[u8]) {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let text = match self.line {
            1 => text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text),
            _ => text,
        };
        (self.line, text)
    }

    /// Bytes before the text of the line that was read last.
    pub(crate) fn start(&self) -> u64 {
        let (_, text) = self.line();
        self.num_bytes() - text.len() as u64 - u64::from(self.is_ended())
    }

    /// Returns whether the line that was read last has its end. One that a killed process was
    /// writing has none.
    pub(crate) fn is_ended(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }

    /// Bytes up to the end of the line that was read last.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }
}

fn read_error(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return too_long(path, MAX_STREAM);
    }
    Error::io(path, "read", error)
}

fn too_long(path: &Path, bytes: u64) -> Error {
    Error::input(format!("holds more than {} MiB", bytes >> 20))
        .at_path(path)
        .hint("divide it; a pipe with so much belongs into a file")
}

fn not_text(path: &Path) -> Error {
    Error::input("holds a zero byte, which no text does")
        .at_path(path)
        .hint("is this a file of another kind?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Result<Vec<(u32, String)>> {
        let mut lines = Lines::open(path)?;
        let mut found = Vec::new();
        while let Some((number, text)) = lines.next_line()? {
            found.push((number, String::from_utf8_lossy(text).into_owned()));
        }
        Ok(found)
    }

    #[test]
    fn lines_come_without_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "\u{feff}one\n\ntwo").unwrap();
        let expected = [(1, "one"), (2, ""), (3, "two")].map(|(i, text)| (i, text.to_owned()));
        assert_eq!(lines(&path).unwrap(), expected);
        assert_eq!(read_text(&path).unwrap(), "\u{feff}one\n\ntwo");
    }

    #[test]
    fn packed_lines_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl.gz");
        // `printf 'one\ntwo\n' | gzip -n`, twice: an archive of two members is one text.
        let member: Vec<u8> = ["1f8b0800000000000003cbcf4be52a29cfe70200e60bba1208000000"]
            .iter()
            .flat_map(|hex| {
                (0..hex.len())
                    .step_by(2)
                    .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            })
            .collect();
        fs::write(&path, [member.clone(), member.clone()].concat()).unwrap();
        let read = |path: &Path| -> Result<Vec<String>> {
            let mut lines = Lines::open(path)?.unpacked()?;
            let mut found = Vec::new();
            while let Some((_, text)) = lines.next_line()? {
                found.push(String::from_utf8_lossy(text).into_owned());
            }
            Ok(found)
        };
        assert_eq!(read(&path).unwrap(), ["one", "two", "one", "two"]);
        fs::write(&path, &member[..member.len() - 9]).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        for (bytes, accepted) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            fs::write(&path, [b"x\n".as_slice(), &vec![b'y'; bytes]].concat()).unwrap();
            let found = lines(&path);
            assert_eq!(found.is_ok(), accepted, "{bytes}");
            if let Err(error) = found {
                let text = error.to_string();
                assert!(
                    error.exit_code() == 2 && text.contains("a.jsonl:2: the line is longer"),
                    "{error}"
                );
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_folders_are_no_texts() {
        for path in ["/dev/zero", "/proc/self/mem", "/"] {
            let path = Path::new(path);
            for error in [read_text(path).unwrap_err(), lines(path).unwrap_err()] {
                assert!(
                    [2, 4].contains(&error.exit_code()) && !error.to_string().contains("bug"),
                    "{error}"
                );
            }
        }
        assert_eq!(lines(Path::new("/dev/zero")).unwrap_err().exit_code(), 2);
        assert_eq!(read_text(Path::new("/")).unwrap_err().exit_code(), 2);
        assert!(
            Input::open(Path::new("/dev/zero"))
                .unwrap()
                .into_file()
                .is_err()
        );
    }
}
