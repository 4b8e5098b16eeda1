//! Detects the format of a file from its first bytes, and names formats that are not supported.

use crate::mpeg;
use crate::source::Source;
use crate::wav;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Bytes that are read to detect the format.
const HEAD_BYTES: usize = 512;

/// Hint for every file that ffmpeg reads.
const CONVERT: &str = "convert it: ffmpeg -i OLD NEW.flac";

/// Hint for something that is no recording.
const DOWNLOAD: &str = "copy or download the recording again";

/// Hint for files that hold other files.
const UNPACK: &str = "unpack it, and name the recording inside";

/// Supported formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Wav,
    Flac,
    Ogg,
    Mpeg,
    Mp4,
    WebM,
}

/// Detects the format, and skips ID3v2 tags that some programs put before it.
///
/// # Errors
/// An empty file, or an unsupported format.
pub(super) fn recognise(source: &mut Source) -> Result<Container> {
    if source.len() == 0 {
        return Err(Error::input("the file is empty (0 bytes)").hint("copy or download it again"));
    }
    while let Some(tag_len) = mpeg::id3v2_len(source.peek(0, 10)?) {
        source.skip(tag_len as u64);
    }

    let head = source.peek(0, HEAD_BYTES)?.to_vec();
    match &head[..] {
        _ if wav::begins(&head) => return Ok(Container::Wav),
        [b'f', b'L', b'a', b'C', ..] => return Ok(Container::Flac),
        [b'O', b'g', b'g', b'S', ..] => return Ok(Container::Ogg),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => return Ok(Container::WebM),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => return Ok(Container::Mp4),
        _ => {}
    }
    if let Some((what, hint)) = named(&head) {
        return Err(Error::input(what).hint(hint));
    }
    if mpeg::begins_here(source.peek(0, mpeg::SEARCH_BYTES)?) {
        return Ok(Container::Mpeg);
    }
    let (what, hint) = unknown(&head);
    Err(Error::input(what).hint(hint))
}

/// Name of a known unsupported format, and a hint.
fn named(head: &[u8]) -> Option<(&'static str, &'static str)> {
    // Unambiguous first bytes, each with its format.
    const KNOWN: &[(&[u8], &str, &str)] = &[
        (
            b"#!AMR-WB",
            "an AMR-WB recording, which is not read",
            CONVERT,
        ),
        (b"#!AMR", "an AMR recording, which is not read", CONVERT),
        (
            b"NIST_1A",
            "a NIST SPHERE recording, which is not read",
            "convert it: sox OLD.sph NEW.wav; for shortened files, sph2pipe",
        ),
        (b"FORM", "an AIFF recording, which is not read", CONVERT),
        (
            b"caff",
            "a Core Audio (CAF) recording, which is not read",
            CONVERT,
        ),
        (
            b".snd",
            "a Sun or NeXT (AU) recording, which is not read",
            CONVERT,
        ),
        (
            b"RIFX",
            "a big-endian WAV (RIFX), which is not read",
            CONVERT,
        ),
        (
            b"RIFF",
            "a RIFF file that is no WAV, such as AVI or WebP",
            CONVERT,
        ),
        (
            b"\x30\x26\xb2\x75",
            "Windows Media (WMA or ASF), which is not read",
            CONVERT,
        ),
        (b"FLV\x01", "Flash video, which is not read", CONVERT),
        (b"wvpk", "a WavPack recording, which is not read", CONVERT),
        (
            b"MAC ",
            "a Monkey's Audio recording, which is not read",
            CONVERT,
        ),
        (b"MPCK", "a Musepack recording, which is not read", CONVERT),
        (b"MP+", "a Musepack recording, which is not read", CONVERT),
        (
            b"TTA1",
            "a True Audio recording, which is not read",
            CONVERT,
        ),
        (b"DSD ", "a DSD recording, which is not read", CONVERT),
        (b"ajkg", "a Shorten recording, which is not read", CONVERT),
        (
            b"Creative Voice File",
            "a Creative Voice recording, which is not read",
            CONVERT,
        ),
        (b"MThd", "MIDI, which holds notes and no sound", DOWNLOAD),
        (b"\0\0\x01\xba", "MPEG video, which is not read", CONVERT),
        (
            b"ADIF",
            "AAC without a container (ADIF), which is not read",
            CONVERT,
        ),
        (
            b"version https://git-lfs",
            "a Git LFS pointer in place of the recording",
            "fetch the recording: git lfs pull",
        ),
        (
            b"/annex/objects",
            "a git-annex pointer in place of the recording",
            "fetch the recording: git annex get",
        ),
        (b"\x1f\x8b", "a gzip file", UNPACK),
        (b"PK\x03\x04", "a ZIP file", UNPACK),
        (b"BZh", "a bzip2 file", UNPACK),
        (b"\xfd7zXZ\0", "an xz file", UNPACK),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file", UNPACK),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file", UNPACK),
        (b"Rar!", "a RAR file", UNPACK),
        (
            b"PAR1",
            "a Parquet file",
            "pass it as a manifest; its rows hold the recordings",
        ),
        (
            b"\x93NUMPY",
            "a NumPy array",
            "write it as WAV: soundfile.write(\"NEW.wav\", samples, rate)",
        ),
        (
            b"\x89HDF",
            "an HDF5 file",
            "write its recordings as WAV or FLAC",
        ),
        (b"%PDF", "a PDF document", DOWNLOAD),
        (b"\x89PNG", "a PNG picture", DOWNLOAD),
        (b"\xff\xd8\xff", "a JPEG picture", DOWNLOAD),
        (b"GIF8", "a GIF picture", DOWNLOAD),
        (b"\x7fELF", "a program", DOWNLOAD),
        (
            b"#EXTM3U",
            "a playlist in place of a recording",
            "name the recordings that it lists",
        ),
    ];

    let found = KNOWN.iter().find(|(magic, ..)| head.starts_with(magic));
    if let Some(&(_, what, hint)) = found {
        return Some((what, hint));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(("a tar file", UNPACK));
    }
    // Letters of Latin or Arabic script in UTF-16, where one of two bytes is 0 or 6.
    let is_utf16 = match head {
        [0xff, 0xfe, _, second, ..] | [0xfe, 0xff, second, ..] => matches!(second, 0 | 6),
        _ => false,
    };
    if is_utf16 {
        return Some(("text (UTF-16) in place of a recording", DOWNLOAD));
    }
    // A sync word of MPEG audio: layer 0 is AAC, layer II and I are older codings.
    match head {
        [0xff, second, third, ..] if second & 0xf0 == 0xf0 && third >> 2 & 3 != 3 => {
            match (second >> 1 & 3, second >> 3 & 3) {
                (0, 2 | 3) => Some((
                    "AAC without a container (ADTS) does not say how long it is, nor whether half of its band is left out (HE-AAC)",
                    "convert it to FLAC, or encode it as M4A",
                )),
                (2, version) if version != 1 && third >> 4 != 15 => {
                    Some(("MPEG audio of layer II (MP2), which is not read", CONVERT))
                }
                (3, version) if version != 1 && third >> 4 != 15 => {
                    Some(("MPEG audio of layer I, which is not read", CONVERT))
                }
                _ => None,
            }
        }
        // 188 bytes are a packet of a transport stream.
        [0x47, ..] if head.get(188) == Some(&0x47) && head.get(376) == Some(&0x47) => {
            Some(("an MPEG transport stream, which is not read", CONVERT))
        }
        _ => None,
    }
}

/// Describes a file with an unknown beginning: a kind of text, or its first bytes.
fn unknown(head: &[u8]) -> (String, &'static str) {
    if head.iter().all(|&byte| byte == 0) {
        return (
            format!("nothing but zeros in the first {} bytes", head.len()),
            DOWNLOAD,
        );
    }
    if let Some((kind, hint)) = kind_of_text(head) {
        return (
            format!(
                "{kind} in place of a recording, which begins with `{}`",
                shown(head)
            ),
            hint,
        );
    }
    (
        format!(
            "not a format that is read: the file begins with `{}`",
            shown(head)
        ),
        "WAV, FLAC, MP3, Ogg (Vorbis, Opus, FLAC), WebM and M4A are read; convert it to one of them",
    )
}

/// Kind of a text; `None` if the bytes are no text.
fn kind_of_text(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be truncated.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) || text.len() < 4 {
        return None;
    }
    let start = text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    Some(match &start {
        s if s.starts_with("<!doctype html") || s.starts_with("<html") => (
            "an HTML page",
            "download the recording itself; the page may ask to log in or report an error",
        ),
        s if s.starts_with("<?xml") || s.starts_with('<') => (
            "XML",
            "download the recording itself; the text may report an error",
        ),
        s if s.starts_with('{') || s.starts_with('[') => (
            "JSON",
            "name the recording; JSON lines are passed as a manifest",
        ),
        _ => ("text", DOWNLOAD),
    })
}

/// The first bytes, with unprintable ones as numbers.
fn shown(head: &[u8]) -> String {
    head.iter()
        .take(8)
        .copied()
        .flat_map(std::ascii::escape_default)
        .map(char::from)
        .collect()
}
