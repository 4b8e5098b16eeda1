//! Source of a clip's samples: a file, a range of a file's bytes, or bytes in memory.

use std::borrow::Cow;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use maqam_audio::Span;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Most bytes of one recording that are taken into memory.
const MOST_BYTES: u64 = 1 << 31;

/// Source of a clip's samples.
#[derive(Clone, Debug, PartialEq)]
pub enum AudioSource {
    /// A file, with its path resolved.
    File(Box<Path>),
    /// A range of a file's bytes that is an audio file, such as a member of a tar file.
    Range {
        /// The file.
        file: Arc<Path>,
        /// The first byte.
        start: u64,
        /// Number of bytes.
        len: u64,
        /// Name of the member.
        member: Box<str>,
    },
    /// An audio file inside a Parquet column.
    Embedded {
        /// The file's contents.
        bytes: Arc<[u8]>,
        /// Name in messages: its own path if the data has one, else its place in the manifest.
        name: Box<str>,
    },
}

impl AudioSource {
    /// Name for messages.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => path.to_string_lossy(),
            Self::Range { file, member, .. } => format!("{}: {member}", file.display()).into(),
            Self::Embedded { name, .. } => Cow::Borrowed(name),
        }
    }

    /// Name of the audio file itself, without its container.
    pub fn member(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => path.to_string_lossy(),
            Self::Range { member, .. } => Cow::Borrowed(member),
            Self::Embedded { name, .. } => Cow::Borrowed(name),
        }
    }

    /// Header of the audio file.
    ///
    /// # Errors
    /// Those of [`maqam_audio::read`].
    pub fn header(&self) -> Result<maqam_audio::Header> {
        let (path, range) = match self {
            Self::Embedded { bytes, name } => {
                return maqam_audio::header_bytes(bytes.clone(), name);
            }
            Self::File(path) => (&**path, None),
            Self::Range {
                file, start, len, ..
            } => (&**file, Some(*start..start + len)),
        };
        maqam_audio::header(path, range, &self.name())
    }

    /// The file on disk that holds the audio, and the byte range of the audio if it is not the
    /// whole file.
    pub fn file(&self) -> Option<(&Path, Option<Range<u64>>)> {
        match self {
            Self::File(path) => Some((path, None)),
            Self::Range {
                file, start, len, ..
            } => Some((file, Some(*start..start + len))),
            Self::Embedded { .. } => None,
        }
    }

    /// Mono samples at 16 kHz: see [`maqam_audio::read`].
    ///
    /// # Shapes
    /// `[num_samples]`
    /// # Errors
    /// Those of [`maqam_audio::read`].
    pub fn samples(&self, span: Span) -> Result<Vec<f32>> {
        match self {
            Self::File(path) => maqam_audio::read(path, span),
            Self::Range {
                file, start, len, ..
            } => maqam_audio::read_range(file, *start..start + len, &self.name(), span),
            Self::Embedded { bytes, name } => maqam_audio::read_bytes(bytes.clone(), name, span),
        }
    }

    /// Number of these samples: see [`maqam_audio::num_samples`].
    ///
    /// # Errors
    /// Those of [`maqam_audio::num_samples`].
    pub fn num_samples(&self, span: Span) -> Result<usize> {
        match self {
            Self::File(path) => maqam_audio::num_samples(path, span),
            Self::Range {
                file, start, len, ..
            } => maqam_audio::num_samples_range(file, *start..start + len, &self.name(), span),
            Self::Embedded { bytes, name } => {
                maqam_audio::num_samples_bytes(bytes.clone(), name, span)
            }
        }
    }

    /// Length in seconds: see [`maqam_audio::duration_s`].
    ///
    /// # Errors
    /// Those of [`maqam_audio::duration_s`].
    pub fn duration_s(&self, span: Span) -> Result<f64> {
        match self {
            Self::File(path) => maqam_audio::duration_s(path, span),
            Self::Range {
                file, start, len, ..
            } => maqam_audio::duration_s_range(file, *start..start + len, &self.name(), span),
            Self::Embedded { bytes, name } => {
                maqam_audio::duration_s_bytes(bytes.clone(), name, span)
            }
        }
    }

    /// The bytes of the audio file, as they are stored.
    ///
    /// # Errors
    /// A file that cannot be read, or holds more than 2 GiB.
    pub fn bytes(&self) -> Result<Arc<[u8]>> {
        let (file, range) = match self {
            Self::Embedded { bytes, .. } => return Ok(bytes.clone()),
            Self::File(path) => (&**path, None),
            Self::Range {
                file, start, len, ..
            } => (&**file, Some((*start, *len))),
        };
        let failed = |e: std::io::Error| Error::io(file, "read", e);
        let open = std::fs::File::open(file).map_err(failed)?;
        let file_len = open.metadata().map_err(failed)?.len();
        let (start, len) = range.unwrap_or((0, file_len));
        if start.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(Error::input(format!(
                "{len} bytes from byte {start} on, the file has {file_len}"
            ))
            .at(self.name())
            .hint("the file has changed: import it again"));
        }
        if len > MOST_BYTES {
            return Err(Error::input(format!("{len} bytes of one recording"))
                .at(self.name())
                .hint("split it into recordings of less than 2 GiB"));
        }
        let mut bytes = vec![0; len as usize];
        open.read_exact_at(&mut bytes, start).map_err(failed)?;
        Ok(bytes.into())
    }

    /// Ending of the audio file's name, in lower case, or found from its first bytes if the name
    /// has none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn ending(&self) -> Result<String> {
        let name = self.member();
        if crate::formats::tar::is_audio(&name)
            && let Some((_, ending)) = name.rsplit_once('.')
        {
            return Ok(ending.to_lowercase());
        }
        let bytes = self.bytes()?;
        let known = [
            (&b"fLaC"[..], "flac"),
            (b"OggS", "ogg"),
            (b"RIFF", "wav"),
            (b"RIFX", "wav"),
            (b"RF64", "wav"),
            (b"ID3", "mp3"),
            (b"\x1aE\xdf\xa3", "webm"),
        ];
        let is_mp4 = bytes.get(4..8) == Some(b"ftyp");
        let ending = known
            .into_iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, ending)| ending);
        Ok(match ending {
            Some(ending) => ending,
            None if is_mp4 => "m4a",
            None => "mp3",
        }
        .to_owned())
    }
}

impl AudioSource {
    /// The audio as a manifest in `folder` names it: a path, or an object with the path and the
    /// range of bytes.
    ///
    /// # Errors
    /// Audio inside a row, because JSON cannot hold it.
    pub fn to_json(&self, folder: &Path) -> Result<serde_json::Value> {
        let written = |path: &Path| -> Result<serde_json::Value> {
            let path = maqam_base::files::relative(folder, path)?;
            Ok(path.to_string_lossy().replace('\\', "/").into())
        };
        match self {
            Self::File(path) => written(path),
            Self::Range {
                file,
                start,
                len,
                member,
            } => Ok(serde_json::json!({
                "path": written(file)?,
                "byte_offset": start,
                "num_bytes": len,
                "member": &**member,
            })),
            Self::Embedded { name, .. } => Err(Error::input(
                "the audio is inside the row, and has no place in JSON lines",
            )
            .at(name)
            .hint("write the rows as Parquet: `--out OUT.parquet`")),
        }
    }
}
