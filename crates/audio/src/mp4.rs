//! What the boxes of an MP4 file say of its sound: how many of the decoder's samples come before and after the recording.
//!
//! The general demuxer does not read edit lists, so an encoder's delay (1024 or 2112 samples) would count as sound.

use maqam_base::error::Error;
use maqam_base::error::Result;

/// The part of the decoder's output that is the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// Samples before it.
    pub(super) delay: usize,
    /// Its number of samples; `None` where the file is in fragments and does not say.
    pub(super) len: Option<usize>,
}

/// Reads the first audio track of a `moov` box, of `rate` samples a second.
///
/// # Errors
/// No audio track, a box that is cut off, a clock other than the sampling rate, an edit list that rearranges the sound.
pub(super) fn edit(moov: &[u8], rate: u32) -> Result<Edit> {
    let movie_clock = clock(child(moov, b"mvhd")?.ok_or_else(|| damaged("mvhd"))?)?.0;
    for track in children(moov)?
        .into_iter()
        .filter(|(kind, _)| kind == b"trak")
        .map(|(_, contents)| contents)
    {
        let media = child(track, b"mdia")?.ok_or_else(|| damaged("mdia"))?;
        if child(media, b"hdlr")?.and_then(|handler| handler.get(8..12)) != Some(b"soun") {
            continue;
        }
        let (ticks_a_second, ticks) =
            clock(child(media, b"mdhd")?.ok_or_else(|| damaged("mdhd"))?)?;
        if ticks_a_second != u64::from(rate) {
            let message = format!(
                "the MP4 file counts {ticks_a_second} ticks a second and its sound has {rate} samples: HE-AAC, or a rare writer"
            );
            return Err(Error::input(message).hint(CONVERT));
        }
        let list = child(track, b"edts")?
            .map(|edits| child(edits, b"elst"))
            .transpose()?
            .flatten();
        let (delay, edited) = list.map_or(Ok((0, 0)), single_edit)?;
        if delay > 0 || edited > 0 {
            return Ok(Edit {
                delay: delay as usize,
                len: length(ticks, delay, edited, rate, movie_clock).map(|len| len as usize),
            });
        }
        return Ok(itunes(moov).unwrap_or(Edit {
            delay: 0,
            len: (ticks > 0).then_some(ticks as usize),
        }));
    }
    Err(Error::input("an MP4 file without a sound track").hint(CONVERT))
}

/// What to do with an MP4 file that is not read.
pub(super) const CONVERT: &str = "AAC-LC in mono or stereo is read; convert the file to FLAC";

/// Length of an edit in samples: to the end of the track where the edit list, whose clock is coarser, agrees to a tick.
fn length(ticks: u64, delay: u64, edited: u64, rate: u32, movie_clock: u64) -> Option<u64> {
    let to_end = ticks.saturating_sub(delay);
    let tick = u64::from(rate).div_ceil(movie_clock.max(1));
    let by_list = edited.saturating_mul(u64::from(rate)) / movie_clock.max(1);
    match (ticks, edited) {
        (0, _) => None,
        (_, 0) => Some(to_end),
        _ => Some(if by_list + tick >= to_end {
            to_end
        } else {
            by_list
        }),
    }
}

/// Start and duration of the one edit of a list; a pause before it, which aligns sound with pictures, is no part of the recording.
fn single_edit(list: &[u8]) -> Result<(u64, u64)> {
    let wide = list.first() == Some(&1);
    let (width, entry_len) = if wide { (8, 20) } else { (4, 12) };
    let entries: Vec<(u64, i64)> = list
        .get(8..)
        .unwrap_or_default()
        .chunks_exact(entry_len)
        .map(|entry| {
            let start = number(&entry[width..2 * width]);
            (
                number(&entry[..width]),
                if wide {
                    start as i64
                } else {
                    i64::from(start as u32 as i32)
                },
            )
        })
        .filter(|&(_, start)| start >= 0)
        .collect();
    match entries[..] {
        [] => Ok((0, 0)),
        [(duration, start)] => Ok((start as u64, duration)),
        _ => Err(Error::input(format!(
            "the MP4 file's edit list puts {} pieces together",
            entries.len()
        ))
        .hint(CONVERT)),
    }
}

/// The comment in which iTunes and Apple's encoders write delay, padding and length, in hexadecimal.
fn itunes(moov: &[u8]) -> Option<Edit> {
    let name = b"iTunSMPB";
    let at = moov.windows(name.len()).position(|bytes| bytes == name)? + name.len();
    let text = String::from_utf8_lossy(moov.get(at..(at + 200).min(moov.len()))?)
        .replace(|c: char| !c.is_ascii_graphic(), " ");
    let mut fields = text
        .split_whitespace()
        .skip_while(|field| *field != "00000000")
        .skip(1)
        .map(|field| u64::from_str_radix(field, 16));
    let (delay, _padding, len) = (
        fields.next()?.ok()?,
        fields.next()?.ok()?,
        fields.next()?.ok()?,
    );
    Some(Edit {
        delay: delay as usize,
        len: Some(len as usize),
    })
}

/// Ticks a second and number of ticks of an `mvhd` or `mdhd` box.
fn clock(header: &[u8]) -> Result<(u64, u64)> {
    let (at, width) = if header.first() == Some(&1) {
        (20, 8)
    } else {
        (12, 4)
    };
    let found = header
        .get(at..at + 4)
        .zip(header.get(at + 4..at + 4 + width))
        .ok_or_else(|| damaged("clock"))?;
    let ticks = number(found.1);
    // All ones stand for "unknown".
    Ok((
        number(found.0),
        if ticks == number(&vec![0xff; width]) {
            0
        } else {
            ticks
        },
    ))
}

fn child<'a>(contents: &'a [u8], wanted: &[u8; 4]) -> Result<Option<&'a [u8]>> {
    Ok(children(contents)?
        .into_iter()
        .find(|(kind, _)| kind == wanted)
        .map(|(_, contents)| contents))
}

/// Kind and contents of the boxes inside one.
fn children(contents: &[u8]) -> Result<Vec<([u8; 4], &[u8])>> {
    let (mut rest, mut found) = (contents, Vec::new());
    while rest.len() >= 8 {
        let (header_len, len) = box_len(rest).ok_or_else(|| damaged("box"))?;
        let kind = [rest[4], rest[5], rest[6], rest[7]];
        let len = usize::try_from(len)
            .ok()
            .filter(|len| (header_len..=rest.len()).contains(len))
            .ok_or_else(|| damaged(&String::from_utf8_lossy(&kind)))?;
        found.push((kind, &rest[header_len..len]));
        rest = &rest[len..];
    }
    Ok(found)
}

/// Length of the header and of the whole of the box that begins with `bytes` (16 of them, if there are); 0 for one that ends with the file.
pub(super) fn box_len(bytes: &[u8]) -> Option<(usize, u64)> {
    match number(bytes.get(..4)?) {
        1 => Some((16, number(bytes.get(8..16)?))),
        len => Some((8, len)),
    }
}

/// A big-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn damaged(what: &str) -> Error {
    Error::input(format!(
        "damaged: the MP4 file's `{what}` box is missing or does not fit"
    ))
    .hint("copy or download it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(kind: &[u8; 4], contents: &[u8]) -> Vec<u8> {
        [
            &(contents.len() as u32 + 8).to_be_bytes()[..],
            kind,
            contents,
        ]
        .concat()
    }

    fn header(ticks_a_second: u32, ticks: u32) -> Vec<u8> {
        [0, 0, 0, ticks_a_second, ticks]
            .iter()
            .flat_map(|value: &u32| value.to_be_bytes())
            .collect()
    }

    /// A `moov` with one sound track of 16 kHz and `ticks` samples; edits are (duration in ms, start).
    fn moov(ticks: u32, edits: &[(u32, i32)], extra: &[u8]) -> Vec<u8> {
        let list: Vec<u8> = [0u32, edits.len() as u32]
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect();
        let entry = |&(duration, start): &(u32, i32)| {
            [
                &duration.to_be_bytes()[..],
                &start.to_be_bytes(),
                &0x0001_0000u32.to_be_bytes(),
            ]
            .concat()
        };
        let list = [list, edits.iter().flat_map(entry).collect()].concat();
        let media = wrap(
            b"mdia",
            &[
                wrap(b"hdlr", b"\0\0\0\0\0\0\0\0soun"),
                wrap(b"mdhd", &header(16_000, ticks)),
            ]
            .concat(),
        );
        let track = wrap(
            b"trak",
            &[wrap(b"edts", &wrap(b"elst", &list)), media].concat(),
        );
        [wrap(b"mvhd", &header(1000, 0)), track, extra.to_vec()].concat()
    }

    fn found(ticks: u32, edits: &[(u32, i32)]) -> (usize, Option<usize>) {
        let edit = edit(&moov(ticks, edits, b""), 16_000).unwrap();
        (edit.delay, edit.len)
    }

    #[test]
    fn edits_are_delay_and_length() {
        assert_eq!(found(30_957, &[]), (0, Some(30_957)));
        assert_eq!(
            found(30_957, &[(1871, 1024)]),
            (1024, Some(29_933)),
            "the list's millisecond is coarser than a sample"
        );
        assert_eq!(
            found(30_957, &[(40, -1), (1871, 1024)]),
            (1024, Some(29_933)),
            "a pause before"
        );
        assert_eq!(
            found(30_957, &[(1000, 1024)]),
            (1024, Some(16_000)),
            "a file cut short without encoding it again"
        );
        assert_eq!(found(0, &[(0, 1024)]), (1024, None), "fragments");
        let two = edit(&moov(30_957, &[(500, 1024), (500, 9000)], b""), 16_000).unwrap_err();
        assert!(two.to_string().contains("2 pieces"), "{two}");
    }

    #[test]
    fn a_comment_of_apples_encoders_counts_where_there_is_no_edit() {
        let comment = b"....iTunSMPB\0\0\0\x84data\0\0\0\x01\0\0\0\0 00000000 00000840 000001CA 00000000000074ED 00000000 00000000";
        assert_eq!(
            edit(&moov(32_768, &[], &wrap(b"udta", comment)), 16_000).unwrap(),
            Edit {
                delay: 2112,
                len: Some(29_933)
            }
        );
        assert_eq!(
            edit(
                &moov(30_957, &[(1871, 1024)], &wrap(b"udta", comment)),
                16_000
            )
            .unwrap()
            .delay,
            1024
        );
    }

    #[test]
    fn a_clock_that_is_not_the_sampling_rate_is_refused() {
        let error = edit(&moov(30_957, &[], b""), 8000).unwrap_err().to_string();
        assert!(
            error.contains("16000 ticks a second") && error.contains("HE-AAC"),
            "{error}"
        );
    }
}
