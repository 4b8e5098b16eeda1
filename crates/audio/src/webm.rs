//! WebM and Matroska, as browsers record them: where the packets of the first sound track lie.
//!
//! Source: RFC 9559 (Matroska), RFC 8794 (EBML).

use std::ops::Range;

use crate::codec::Decoder;
use crate::codec::opus_packet_samples;
use crate::samples::MOST_RESERVED_SAMPLES;
use crate::samples::Stream;
use crate::samples::check_length;
use crate::samples::ends_early;
use crate::samples::gap;
use crate::samples::packet_error;
use crate::source::Source;
use crate::source::big_endian;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Identifiers of the elements that are read.
const EBML: u64 = 0x1a45_dfa3;
const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_a966;
const TIMESTAMP_SCALE: u64 = 0x2a_d7b1;
const DURATION: u64 = 0x4489;
const TRACKS: u64 = 0x1654_ae6b;
const TRACK_ENTRY: u64 = 0xae;
const TRACK_NUMBER: u64 = 0xd7;
const TRACK_TYPE: u64 = 0x83;
const CODEC_ID: u64 = 0x86;
const CODEC_PRIVATE: u64 = 0x63a2;
const CONTENT_ENCODINGS: u64 = 0x6d80;
const CLUSTER: u64 = 0x1f43_b675;
const TIMESTAMP: u64 = 0xe7;
const SIMPLE_BLOCK: u64 = 0xa3;
const BLOCK_GROUP: u64 = 0xa0;
const BLOCK: u64 = 0xa1;
const DISCARD_PADDING: u64 = 0x75a2;

/// `TRACK_TYPE` of sound.
const SOUND: u64 = 2;

/// Nanoseconds that a block may begin before or after the end of the one before it. Times are
/// rounded, and browsers' clocks jitter.
const TIME_TOLERANCE_NS: i128 = 250_000_000;

/// Seconds by which a recording may be shorter than its header announces.
const DURATION_TOLERANCE_S: f64 = 0.25;

/// Samples decoded and dropped before a part of a recording: half a second of Opus, which needs 80
/// ms.
const PREROLL_SAMPLES: usize = 24_000;

/// A WebM file's sound.
pub(super) struct WebM {
    source: Source,
    decoder: Decoder,
    packets: Vec<Packet>,
    /// Samples at the beginning that are the encoder's delay, and at the end that only fill up the
    /// last packet.
    delay: usize,
    padding: usize,
    /// Samples of all packets; `None` if only decoding gives it.
    decoded: Option<usize>,
    /// Length that the header announces, in seconds.
    announced_s: Option<f64>,
}

/// Place of a packet in the file, and the number of its first sample if packets state their length.
#[derive(Clone, Copy)]
struct Packet {
    at: u64,
    len: u32,
    first: usize,
}

/// An element's identifier, and the place of its contents; `len` is `None` if it is left open.
#[derive(Clone, Copy)]
struct Element {
    id: u64,
    start: u64,
    len: Option<u64>,
}

/// Contents of the sound track's header.
struct Track {
    number: u64,
    decoder: Decoder,
    delay: usize,
    is_opus: bool,
}

/// The walk through a file.
#[derive(Default)]
struct Walk {
    scale_ns: Option<u64>,
    duration: Option<f64>,
    track: Option<Track>,
    packets: Vec<Packet>,
    samples: usize,
    cluster_time: u64,
    /// End of the previous block, in nanoseconds.
    block_end_ns: Option<i128>,
    padding_ns: i64,
}

impl WebM {
    /// Walks over all elements.
    ///
    /// # Errors
    /// An element that is cut off, no sound, sound in a codec that is not read, blocks that do not
    /// follow each other.
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let mut walk = Walk::default();
        let mut at = 0;
        let mut end = source.len();
        while at < end {
            let Some(element) = element_at(&mut source, at)? else {
                // Zeros that fill a file up are no element.
                if is_zeros(&mut source, at)? {
                    break;
                }
                return Err(damaged(&format!("no element at byte {at}")));
            };
            let left = end.saturating_sub(element.start);
            if element.len.is_some_and(|len| len > left) {
                return Err(Error::input(format!(
                    "truncated: an element of the WebM file at byte {at} has {} bytes, the file has {left} more",
                    element.len.unwrap_or(0)
                ))
                .hint("copy or download it again"));
            }
            let next = element.start.saturating_add(element.len.unwrap_or(0));
            at = match element.id {
                EBML if at > 0 => {
                    return Err(
                        Error::input("another recording begins in the same WebM file")
                            .hint("split the file, or re-encode it as one"),
                    );
                }
                SEGMENT => {
                    end = element.len.map_or(end, |_| next.min(end));
                    element.start
                }
                CLUSTER | BLOCK_GROUP => element.start,
                _ if element.len.is_none() => {
                    return Err(damaged(&format!("an element without length at byte {at}")));
                }
                _ => {
                    walk.take(&mut source, element)?;
                    next
                }
            };
        }

        let Some(track) = walk.track else {
            return Err(
                Error::input("truncated: a WebM file without a list of its tracks")
                    .hint("copy or download it again"),
            );
        };
        let rate = track.decoder.rate;
        let padding_s = walk.padding_ns.max(0) as f64 / 1e9;
        let scale_ns = walk.scale_ns.unwrap_or(1_000_000);
        let webm = Self {
            source,
            decoder: track.decoder,
            packets: walk.packets,
            delay: track.delay,
            padding: (padding_s * f64::from(rate)).round() as usize,
            decoded: track.is_opus.then_some(walk.samples),
            announced_s: walk
                .duration
                .map(|duration| duration * scale_ns as f64 / 1e9)
                .filter(|seconds| seconds.is_finite()),
        };
        if let Some(decoded) = webm.decoded {
            webm.check_duration(decoded)?;
            check_length(decoded)?;
        }
        Ok(webm)
    }

    /// Compares samples that were found with the length in the header.
    fn check_duration(&self, decoded: usize) -> Result<()> {
        let rate = self.decoder.rate;
        let found_s = decoded as f64 / f64::from(rate);
        match self.announced_s {
            Some(announced_s) if found_s + DURATION_TOLERANCE_S < announced_s => Err(ends_early(
                decoded as i64,
                (announced_s * f64::from(rate)) as i64,
                rate,
            )),
            _ => Ok(()),
        }
    }
}

impl Stream for WebM {
    fn rate(&self) -> u32 {
        self.decoder.rate
    }

    fn channels(&self) -> Option<usize> {
        Some(self.decoder.channels)
    }

    fn num_samples(&self) -> Option<usize> {
        self.decoded
            .map(|decoded| decoded.saturating_sub(self.delay.saturating_add(self.padding)))
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let rate = self.decoder.rate;
        let is_whole = self.decoded.is_none();
        let wanted = wanted.start + self.delay..wanted.end.saturating_add(self.delay);
        let preroll = wanted.start.saturating_sub(PREROLL_SAMPLES);
        let first = if is_whole {
            0
        } else {
            self.packets
                .partition_point(|packet| packet.first <= preroll)
                .saturating_sub(1)
        };
        self.decoder.reset()?;

        let mut samples = Vec::with_capacity(wanted.len().min(MOST_RESERVED_SAMPLES));
        let mut position = self.packets.get(first).map_or(0, |packet| packet.first);
        for index in first..self.packets.len() {
            if position >= wanted.end {
                break;
            }
            let Packet { at, len, first } = self.packets[index];
            let bytes = self.source.bytes(at, len as usize)?;
            let len_before = samples.len();
            let found = self
                .decoder
                .decode(bytes, channel, &mut samples)
                .map_err(|e| packet_error(e, position as i64, rate))?;
            if !is_whole && first != position {
                return Err(gap(position as i64, first as i64, rate));
            }
            if position < wanted.start {
                let before = (wanted.start - position).min(found);
                samples.drain(len_before..len_before + before);
            }
            position += found;
            check_length(samples.len())?;
        }

        if is_whole {
            self.check_duration(position)?;
            samples.truncate(samples.len().saturating_sub(self.padding));
        } else if position < wanted.end {
            return Err(ends_early(position as i64, wanted.end as i64, rate));
        }
        samples.truncate(wanted.len());
        Ok(samples)
    }
}

impl Walk {
    fn take(&mut self, source: &mut Source, element: Element) -> Result<()> {
        let len = element.len.unwrap_or(0) as usize;
        match element.id {
            INFO => {
                let info = source.bytes(element.start, len)?;
                for (id, contents) in children(info)? {
                    match id {
                        TIMESTAMP_SCALE => self.scale_ns = Some(number(contents)),
                        DURATION => self.duration = float(contents),
                        _ => {}
                    }
                }
            }
            TRACKS if self.track.is_none() => {
                let tracks = source.bytes(element.start, len)?;
                self.track = Some(Track::find(tracks)?);
            }
            TIMESTAMP => self.cluster_time = number(source.bytes(element.start, len.min(8))?),
            SIMPLE_BLOCK | BLOCK => self.block(source, element.start, len)?,
            DISCARD_PADDING => {
                let bytes = source.bytes(element.start, len.min(8))?;
                let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
                self.padding_ns = ((number(bytes) << unused) as i64) >> unused;
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the packets of a block: its track, its time, flags, and how it is divided.
    fn block(&mut self, source: &mut Source, start: u64, len: usize) -> Result<()> {
        let bytes = source.bytes(start, len)?;
        let (number, header_len) = vint(bytes).ok_or_else(|| damaged("an empty block"))?;
        let &[time_high, time_low, flags, ..] = bytes.get(header_len..).unwrap_or_default() else {
            return Err(damaged("a block without a time"));
        };
        let Some(track) = self.track.as_ref() else {
            return Err(damaged("a block before the list of tracks"));
        };
        if number != track.number {
            return Ok(());
        }

        let mut new = Vec::new();
        let mut samples = 0;
        for range in laced(bytes, header_len + 3, flags >> 1 & 3)? {
            let packet = &bytes[range.clone()];
            new.push(Packet {
                at: start + range.start as u64,
                len: packet.len() as u32,
                first: self.samples + samples,
            });
            if packet.is_empty() {
                return Err(damaged("an empty packet"));
            }
            if track.is_opus {
                samples += opus_packet_samples(packet)
                    .ok_or_else(|| damaged("a packet that is no Opus"))?;
            }
        }

        let scale_ns = i128::from(self.scale_ns.unwrap_or(1_000_000));
        let relative = i128::from(i16::from_be_bytes([time_high, time_low]));
        let begin_ns = (i128::from(self.cluster_time) + relative) * scale_ns;
        let samples_ns =
            |samples: usize| samples as i128 * 1_000_000_000 / i128::from(track.decoder.rate);
        if track.is_opus {
            if let Some(end_ns) = self.block_end_ns
                && (begin_ns - end_ns).abs() > TIME_TOLERANCE_NS
            {
                return Err(Error::input(format!(
                    "damaged: after {:.3} s comes audio that belongs at {:.3} s",
                    end_ns as f64 / 1e9,
                    begin_ns as f64 / 1e9
                ))
                .hint("copy or download it again, or re-encode it: ffmpeg -i OLD -af aresample=async=1 NEW.flac"));
            }
            self.block_end_ns = Some(begin_ns + samples_ns(samples));
        }
        self.samples += samples;
        self.packets.append(&mut new);
        // The last block's padding counts.
        self.padding_ns = 0;
        Ok(())
    }
}

impl Track {
    /// Finds the first sound track.
    fn find(tracks: &[u8]) -> Result<Self> {
        let mut others = 0;
        for (id, entry) in children(tracks)? {
            if id != TRACK_ENTRY {
                continue;
            }
            let fields = children(entry)?;
            let field = |id: u64| {
                fields
                    .iter()
                    .find(|field| field.0 == id)
                    .map(|field| field.1)
            };
            if field(TRACK_TYPE).map(number) != Some(SOUND) {
                others += 1;
                continue;
            }
            if field(CONTENT_ENCODINGS).is_some() {
                return Err(unread("compressed or encrypted tracks"));
            }
            let private = field(CODEC_PRIVATE).unwrap_or_default();
            let codec = String::from_utf8_lossy(field(CODEC_ID).unwrap_or_default());
            let codec = codec.trim_end_matches('\0');
            let (decoder, delay) = match codec {
                "A_OPUS" => Decoder::opus(private)?,
                "A_VORBIS" => {
                    let (identification, setup) =
                        vorbis_headers(private).ok_or_else(|| damaged("no Vorbis headers"))?;
                    (Decoder::vorbis(identification, setup)?, 0)
                }
                codec => return Err(unread(&format!("sound of kind `{}`", codec.escape_debug()))),
            };
            return Ok(Self {
                number: field(TRACK_NUMBER).map_or(0, number),
                decoder,
                delay,
                is_opus: codec == "A_OPUS",
            });
        }
        let held = if others > 0 {
            ", only video or text"
        } else {
            ""
        };
        Err(Error::input(format!("a WebM file without sound{held}"))
            .hint("leave it out, or copy the recording again"))
    }
}

/// The first and third packet of a Vorbis stream: two lengths in bytes of 255 and a rest, then
/// three packets.
fn vorbis_headers(private: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 1;
    let mut lens = [0; 2];
    if private.first() != Some(&2) {
        return None;
    }
    for len in &mut lens {
        loop {
            let byte = *private.get(at)?;
            at += 1;
            *len += usize::from(byte);
            if byte < u8::MAX {
                break;
            }
        }
    }
    let rest = private.get(at..)?;
    Some((rest.get(..lens[0])?, rest.get(lens[0] + lens[1]..)?))
}

/// Ranges of a block's packets, the first of which, or their lengths, begin at `at`.
fn laced(bytes: &[u8], mut at: usize, lacing: u8) -> Result<Vec<Range<usize>>> {
    let broken = || damaged("a block that is not divided as it says");
    if lacing == 0 {
        return Ok(vec![at..bytes.len()]);
    }
    let count = usize::from(*bytes.get(at).ok_or_else(broken)?) + 1;
    at += 1;
    let mut lens = Vec::with_capacity(count);
    match lacing {
        // Xiph: every length but the last, in bytes of 255 and a rest.
        1 => {
            while lens.len() + 1 < count {
                let mut len = 0;
                loop {
                    let byte = *bytes.get(at).ok_or_else(broken)?;
                    at += 1;
                    len += usize::from(byte);
                    if byte < u8::MAX {
                        break;
                    }
                }
                lens.push(len);
            }
        }
        // EBML: the first length, then differences.
        3 => {
            let mut len = 0i64;
            while lens.len() + 1 < count {
                let (value, width) = bytes.get(at..).and_then(vint).ok_or_else(broken)?;
                at += width;
                len = if lens.is_empty() {
                    value as i64
                } else {
                    let bias = (1i64 << (7 * width - 1)) - 1;
                    len.saturating_add(value as i64 - bias)
                };
                lens.push(usize::try_from(len).map_err(|_| broken())?);
            }
        }
        // Equal parts.
        _ => {
            let each = bytes.len().saturating_sub(at) / count;
            lens.resize(count - 1, each);
        }
    }

    let mut ranges = Vec::with_capacity(count);
    for len in lens {
        let end = at.checked_add(len).filter(|&end| end <= bytes.len());
        let end = end.ok_or_else(broken)?;
        ranges.push(at..end);
        at = end;
    }
    if at > bytes.len() {
        return Err(broken());
    }
    ranges.push(at..bytes.len());
    Ok(ranges)
}

/// Returns whether all bytes from `at` are zero.
fn is_zeros(source: &mut Source, at: u64) -> Result<bool> {
    let mut from = at;
    while from < source.len() {
        let bytes = source.peek(from, 1 << 16)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        from += bytes.len().max(1) as u64;
    }
    Ok(true)
}

/// The element whose header is at `at`; `None` if there is none.
fn element_at(source: &mut Source, at: u64) -> Result<Option<Element>> {
    let bytes = source.peek(at, 12)?;
    Ok(header(bytes).map(|(id, len, header_len)| Element {
        id,
        start: at + header_len as u64,
        len,
    }))
}

/// Identifiers and contents of the elements inside one.
fn children(mut bytes: &[u8]) -> Result<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (id, len, header_len) = header(bytes).ok_or_else(|| damaged("a broken header"))?;
        let end = len
            .and_then(|len| usize::try_from(len).ok())
            .and_then(|len| len.checked_add(header_len))
            .filter(|&end| end <= bytes.len())
            .ok_or_else(|| damaged("a header that ends after what holds it"))?;
        found.push((id, &bytes[header_len..end]));
        bytes = &bytes[end..];
    }
    Ok(found)
}

/// Identifier, length and number of bytes of the header of the element that begins here.
fn header(bytes: &[u8]) -> Option<(u64, Option<u64>, usize)> {
    let id_len = bytes.first()?.leading_zeros() as usize + 1;
    if id_len > 4 {
        return None;
    }
    let id = big_endian(bytes.get(..id_len)?);
    let (len, len_len) = vint(bytes.get(id_len..)?)?;
    // All ones mean "unknown".
    let is_open = len == (1 << (7 * len_len)) - 1;
    Some((id, (!is_open).then_some(len), id_len + len_len))
}

/// Reads a number whose leading zeros give its length in bytes.
fn vint(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = bytes.first()?.leading_zeros() as usize + 1;
    let value = big_endian(bytes.get(..len.min(9))?);
    (len <= 8).then(|| (value & ((1 << (7 * len)) - 1), len))
}

/// A big-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    big_endian(&bytes[..bytes.len().min(8)])
}

fn float(bytes: &[u8]) -> Option<f64> {
    match bytes.len() {
        4 => Some(f64::from(f32::from_bits(number(bytes) as u32))),
        8 => Some(f64::from_bits(number(bytes))),
        _ => None,
    }
}

fn damaged(what: &str) -> Error {
    Error::input(format!("damaged WebM file: {what}")).hint("copy or download it again")
}

fn unread(what: &str) -> Error {
    Error::input(format!(
        "a WebM or Matroska file with {what}, which is not read"
    ))
    .hint("convert it: ffmpeg -i OLD NEW.flac")
}
