//! The bytes of a recording, from a file or from memory, without the tags around them: what the demuxers read.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;

use symphonia::core::io::MediaSource;

use crate::mp4;
use crate::mpeg;
use maqam_base::error::Error;
use maqam_base::error::Kind;
use maqam_base::error::Result;

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Wav,
    Flac,
    Ogg,
    Mpeg,
    Mp4,
}

/// A range of a file's bytes, read as if it were all there is.
pub(super) struct Source {
    store: Store,
    start: u64,
    end: u64,
    position: u64,
}

enum Store {
    File(File),
    Bytes(Arc<[u8]>),
}

/// Sizes from here on stand for "unknown" in the headers of WAV files that were written to a pipe.
const STREAMED_WAV_SIZE: u32 = 0x7fff_0000;

impl Source {
    /// Opens a file.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "read", &e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, "read", &e))?;
        if metadata.is_dir() {
            return Err(Error::input("a folder where a recording was expected").at_path(path));
        }
        Ok(Self {
            store: Store::File(file),
            start: 0,
            end: metadata.len(),
            position: 0,
        })
    }

    /// Bytes in memory.
    pub(super) fn from_bytes(bytes: Arc<[u8]>) -> Self {
        let end = bytes.len() as u64;
        Self {
            store: Store::Bytes(bytes),
            start: 0,
            end,
            position: 0,
        }
    }

    /// Finds the format, past the ID3v2 tags that some programs put before it, and makes the source begin there.
    ///
    /// # Errors
    /// An empty file, a format that is not read, a WAV file that ends before its header says.
    pub(super) fn into_container(mut self) -> Result<(Container, Self)> {
        if self.len() == 0 {
            return Err(
                Error::input("the file is empty (0 bytes)").hint("copy or download it again")
            );
        }
        while let Some(tag_len) = mpeg::id3v2_len(&self.peek(0, 10)?) {
            self.start = self.start.saturating_add(tag_len as u64).min(self.end);
        }
        let head = self.peek(0, 16)?;
        let container = match head.get(..4).unwrap_or_default() {
            b"RIFF" if head.get(8..12) == Some(b"WAVE") => Container::Wav,
            b"fLaC" => Container::Flac,
            b"OggS" => Container::Ogg,
            _ if head.get(4..8) == Some(b"ftyp") => Container::Mp4,
            _ if is_adts(&head) => return Err(bare_aac()),
            _ if mpeg::begins_here(&self.peek(0, mpeg::SEARCH_BYTES)?) => Container::Mpeg,
            _ => return Err(unknown_format(&head)),
        };
        match container {
            Container::Wav => self.check_wav_size()?,
            Container::Mp4 => self.check_mp4_size()?,
            // Some taggers append an ID3v1 tag to FLAC too, where it would make the last frame look damaged.
            Container::Flac if self.len() > 128 && self.peek(self.len() - 128, 3)? == b"TAG" => {
                self.end -= 128
            }
            _ => {}
        }
        Ok((container, self))
    }

    /// All bytes, in memory.
    pub(super) fn into_bytes(mut self) -> Result<Arc<[u8]>> {
        if let Store::Bytes(bytes) = &self.store
            && (self.start, self.end) == (0, bytes.len() as u64)
        {
            return Ok(bytes.clone());
        }
        self.position = 0;
        let mut bytes = Vec::with_capacity(self.len() as usize);
        self.read_to_end(&mut bytes).map_err(read_error)?;
        Ok(bytes.into())
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Up to `len` bytes at `position`, without moving.
    fn peek(&mut self, position: u64, len: usize) -> Result<Vec<u8>> {
        self.position = position;
        let mut bytes = Vec::with_capacity(len);
        self.by_ref()
            .take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        self.position = 0;
        Ok(bytes)
    }

    /// Compares the size in a WAV header with the bytes that are there; fills it in where a pipe left it unknown.
    fn check_wav_size(&mut self) -> Result<()> {
        let mut position = 12;
        loop {
            let header = self.peek(position, 8)?;
            let (Some(id), Some(size)) = (header.get(..4), header.get(4..8)) else {
                return Err(Error::input(
                    "a WAV file without a `data` chunk: it holds no audio, or was cut off",
                )
                .hint("copy or convert it again"));
            };
            let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
            let start = position + 8;
            if id != b"data" {
                position = start + u64::from(size) + u64::from(size & 1);
                continue;
            }
            let found = self.len().saturating_sub(start);
            if u64::from(size) <= found {
                return Ok(());
            }
            return if size >= STREAMED_WAV_SIZE {
                self.fill_in_wav_size(start, found)
            } else {
                Err(cut_wav(size, found))
            };
        }
    }

    /// Walks over the outer boxes of an MP4 file, which say where each ends.
    fn check_mp4_size(&mut self) -> Result<()> {
        let mut position = 0;
        while position < self.len() {
            let header = self.peek(position, 16)?;
            let len = match mp4::box_len(&header) {
                Some((_, 0)) => return Ok(()),
                Some((header_len, len)) if len >= header_len as u64 => len,
                _ => {
                    return Err(Error::input(
                        "damaged: the MP4 file's boxes do not follow each other",
                    )
                    .hint("copy or download it again"));
                }
            };
            if len > self.len() - position {
                let (kind, found) = (
                    String::from_utf8_lossy(&header[4..8]).into_owned(),
                    self.len() - position,
                );
                let message = format!(
                    "truncated: the MP4 file's `{kind}` box has {len} bytes, the file has {found} more"
                );
                return Err(Error::input(message).hint("copy or download it again"));
            }
            position += len;
        }
        Ok(())
    }

    /// The contents of an MP4 file's `moov` box, which describes its tracks.
    pub(super) fn moov(&mut self) -> Result<Vec<u8>> {
        let mut position = 0;
        while position < self.len() {
            let header = self.peek(position, 16)?;
            let Some((header_len, len)) = mp4::box_len(&header) else {
                break;
            };
            let len = if len == 0 { self.len() - position } else { len };
            if header.get(4..8) == Some(b"moov") {
                return self.peek(
                    position + header_len as u64,
                    usize::try_from(len)
                        .unwrap_or(usize::MAX)
                        .saturating_sub(header_len),
                );
            }
            position += len;
        }
        Err(
            Error::input("truncated: an MP4 file without its `moov` box, which is often the last")
                .hint("copy or download it again"),
        )
    }

    fn fill_in_wav_size(&mut self, data_start: u64, data_len: u64) -> Result<()> {
        let Ok(size) = u32::try_from(data_len) else {
            return Err(
                Error::input("a WAV file of unknown size and more than 4 GiB")
                    .hint("convert it to FLAC"),
            );
        };
        let owned = Self {
            store: std::mem::replace(&mut self.store, Store::Bytes(Arc::from([]))),
            start: self.start,
            end: self.end,
            position: 0,
        };
        let mut bytes = owned.into_bytes()?.to_vec();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[data_start as usize - 4..data_start as usize].copy_from_slice(&size.to_le_bytes());
        *self = Self::from_bytes(bytes.into());
        Ok(())
    }
}

fn cut_wav(size: u32, found: u64) -> Error {
    Error::input(format!(
        "truncated: the WAV header says {size} bytes of audio, the file has {found}"
    ))
    .hint("copy or download it again")
}

/// AAC frames without a container: sync word, layer 0.
fn is_adts(head: &[u8]) -> bool {
    matches!(head, [0xff, second, ..] if second & 0xf6 == 0xf0)
}

fn bare_aac() -> Error {
    let message = "AAC without a container (ADTS) does not say how long it is, nor whether half of its band is left out (HE-AAC)";
    Error::input(message).hint("convert it to FLAC, or encode it as M4A")
}

fn unknown_format(head: &[u8]) -> Error {
    let shown: String = head
        .iter()
        .take(8)
        .map(|&b| {
            if b.is_ascii_graphic() {
                char::from(b).to_string()
            } else {
                format!("\\x{b:02x}")
            }
        })
        .collect();
    Error::input(format!(
        "not a format that is read: the file begins with `{shown}`"
    ))
    .hint("WAV, FLAC, MP3, Ogg Vorbis and M4A are read; convert it to one of them")
}

/// The system could not read what it opened.
fn read_error(error: io::Error) -> Error {
    Error::new(Kind::Resource, format!("cannot read: {error}"))
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(self.position);
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let at = self.start + self.position;
        let num_read = match &mut self.store {
            Store::File(file) => {
                file.seek(SeekFrom::Start(at))?;
                file.read(&mut buffer[..wanted])?
            }
            Store::Bytes(bytes) => {
                buffer[..wanted].copy_from_slice(&bytes[at as usize..at as usize + wanted]);
                wanted
            }
        };
        self.position += num_read as u64;
        Ok(num_read)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len())
    }
}
