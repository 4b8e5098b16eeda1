//! Targets that read recordings.

use std::sync::Arc;

use maqam::audio::Span;
use maqam::audio::num_samples_bytes;
use maqam::audio::read_bytes;
use maqam_base::error::Error;

use crate::target::Target;

/// One target for each container.
pub fn targets() -> Vec<Target> {
    let target = |name, words| Target {
        name,
        run: read,
        repair: None,
        words,
    };
    vec![
        target(
            "wav",
            &[
                b"RIFF",
                b"RF64",
                b"BW64",
                b"WAVE",
                b"fmt ",
                b"data",
                b"LIST",
                b"ds64",
                b"fact",
                b"id3 ",
                b"\xfe\xff",
                b"\x03\0",
                b"\x06\0",
            ],
        ),
        target(
            "flac",
            &[
                b"fLaC",
                b"\xff\xf8",
                b"\xff\xf9",
                b"ID3\x04\0\0\0\0\0\x05",
                b"TAG",
            ],
        ),
        target(
            "mp3",
            &[
                b"\xff\xfb",
                b"\xff\xf3",
                b"Xing",
                b"Info",
                b"LAME",
                b"VBRI",
                b"TAG",
                b"ID3",
                b"APETAGEX",
            ],
        ),
        target(
            "mp4",
            &[
                b"ftyp",
                b"moov",
                b"trak",
                b"mdia",
                b"minf",
                b"stbl",
                b"stsd",
                b"mp4a",
                b"esds",
                b"stsz",
                b"stsc",
                b"stco",
                b"co64",
                b"stts",
                b"edts",
                b"elst",
                b"moof",
                b"traf",
                b"tfhd",
                b"tfdt",
                b"trun",
                b"mvex",
                b"trex",
                b"mdat",
                b"iTunSMPB",
                b"soun",
                b"\0\0\0\x01",
            ],
        ),
        target(
            "webm",
            &[
                b"\x1a\x45\xdf\xa3",
                b"\x18\x53\x80\x67",
                b"\x15\x49\xa9\x66",
                b"\x16\x54\xae\x6b",
                b"\xae",
                b"\x1f\x43\xb6\x75",
                b"\xa3",
                b"\xa0",
                b"\xa1",
                b"\x75\xa2",
                b"A_OPUS",
                b"A_VORBIS",
                b"OpusHead",
                b"\x01\xff\xff\xff\xff\xff\xff\xff",
            ],
        ),
        Target {
            name: "ogg_vorbis",
            run: read,
            repair: Some(repair_ogg),
            words: &[
                b"OggS\0",
                b"\x01vorbis",
                b"\x03vorbis",
                b"\x05vorbis",
                b"BCV",
            ],
        },
        Target {
            name: "ogg_opus",
            run: read,
            repair: Some(repair_ogg),
            words: &[
                b"OggS\0",
                b"OpusHead",
                b"OpusTags",
                b"\x7fFLAC\x01\0",
                b"fLaC",
            ],
        },
    ]
}

/// Reads all of a recording, a part of it, and its length, which have to agree.
fn read(bytes: &[u8]) -> Result<String, Error> {
    let bytes: Arc<[u8]> = Arc::from(bytes);
    let announced = num_samples_bytes(bytes.clone(), "clip", Span::WHOLE);
    let samples = read_bytes(bytes.clone(), "clip", Span::WHOLE)?;
    let announced = announced?;
    if announced != samples.len() {
        return Err(Error::bug(format!(
            "{announced} samples announced, {} read",
            samples.len()
        )));
    }

    let part = Span {
        start_s: Some(samples.len() as f64 / 32_000.0),
        end_s: None,
        channel: Some(0),
    };
    let of_part = read_bytes(bytes, "clip", part)?;
    if of_part.len().abs_diff(samples.len().div_ceil(2)) > 1 + samples.len() / 100 {
        return Err(Error::bug(format!(
            "{} samples in the second half of {}",
            of_part.len(),
            samples.len()
        )));
    }
    Ok("read".to_owned())
}

/// Writes the checksum of every Ogg page.
fn repair_ogg(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..]
        .windows(5)
        .position(|window| window == b"OggS\0")
    {
        at += found;
        let Some(&count) = bytes.get(at + 26) else {
            return;
        };
        let table = at + 27..at + 27 + usize::from(count);
        let Some(body) = bytes.get(table.clone()) else {
            return;
        };
        let end = table.end + body.iter().map(|&len| usize::from(len)).sum::<usize>();
        if end > bytes.len() {
            at += 4;
            continue;
        }
        bytes[at + 22..at + 26].fill(0);
        let sum = bytes[at..end].iter().fold(0u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte) << 24, |sum, _| {
                sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 }
            })
        });
        bytes[at + 22..at + 26].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}
