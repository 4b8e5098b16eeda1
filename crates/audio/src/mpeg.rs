//! MP3 frame by frame: places of the frames, the silence that the encoder added, and the samples of
//! any part.
//!
//! The general demuxer is not used, because it guesses the length of a file without an `Info`
//! frame, trims the last packets to its guess, and silently skips damaged frames.

use std::ops::Range;
use std::sync::Arc;

use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::codecs::audio::well_known::CODEC_ID_MP3;
use symphonia::core::packet::PacketRef;
use symphonia::core::units::Duration;
use symphonia::core::units::Timestamp;

use crate::append_mono;
use crate::samples;
use crate::source::Source;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Bytes in which the first frame is searched: a recording cut out of a stream begins with the rest
/// of a frame.
pub(super) const SEARCH_BYTES: usize = 8192;

/// Delay of every MP3 decoder, in samples.
const DECODER_DELAY: usize = 529;

/// Frames decoded before those of a span. A frame uses up to 511 bytes of those before it, at most
/// 24 frames at the lowest bit rate, and the filter memory of two.
const WARM_UP_FRAMES: usize = 32;

/// An MP3 file, in memory.
pub(super) struct Mpeg {
    bytes: Arc<[u8]>,
    stream: Stream,
}

impl Mpeg {
    /// Finds all frames.
    ///
    /// # Errors
    /// Those of [`Stream::find`].
    pub(super) fn open(source: Source) -> Result<Self> {
        let bytes = source.into_bytes()?;
        let stream = Stream::find(&bytes)?;
        Ok(Self { bytes, stream })
    }
}

impl samples::Stream for Mpeg {
    fn rate(&self) -> u32 {
        self.stream.rate
    }

    fn channels(&self) -> Option<usize> {
        Some(self.stream.channels)
    }

    fn num_samples(&self) -> Option<usize> {
        Some(self.stream.num_samples())
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        self.stream.decode(&self.bytes, wanted, channel)
    }
}

/// An MP3 stream as a list of frames.
struct Stream {
    /// Byte ranges of the frames in the file, without the `Info` frame.
    frames: Vec<Range<usize>>,
    /// Samples per second.
    rate: u32,
    /// Channels of the first frame.
    channels: usize,
    /// Samples of one frame, per channel.
    samples_per_frame: usize,
    /// Samples at the beginning that are the encoder's and decoder's delay.
    delay: usize,
    /// Samples at the end that only fill up the last frame.
    padding: usize,
}

/// Contents of the four bytes before a frame.
#[derive(Clone, Copy)]
struct Header {
    version: u8,
    rate: u32,
    channels: usize,
    bytes: usize,
    samples: usize,
    /// Bytes between the header and the place of an `Info` tag.
    side_info: usize,
}

/// Returns whether a file that begins with `bytes` is MP3: two frames follow each other near its
/// beginning.
pub(super) fn begins_here(bytes: &[u8]) -> bool {
    first_frame(bytes).is_some()
}

impl Stream {
    /// Walks through all frames.
    ///
    /// # Errors
    /// Bytes between frames that are neither a frame nor a known tag, a truncated last frame, fewer
    /// frames than the file announces.
    fn find(bytes: &[u8]) -> Result<Self> {
        let start = first_frame(bytes).ok_or_else(|| Error::input("no MP3 frame was found"))?;
        let first = header(&bytes[start..])
            .ok_or_else(|| Error::bug("the first MP3 frame has no header"))?;
        let info = Info::read(bytes, start, first);
        let mut position = if info.is_some() {
            start + first.bytes
        } else {
            start
        };
        let mut stream = Self {
            frames: Vec::new(),
            rate: first.rate,
            channels: first.channels,
            samples_per_frame: first.samples,
            delay: 0,
            padding: 0,
        };
        while position < bytes.len() {
            let rest = &bytes[position..];
            if let Some(tag_len) = tag_len(rest) {
                position = position.saturating_add(tag_len);
                continue;
            }
            let same_stream =
                |found: &Header| found.version == first.version && found.rate == first.rate;
            let Some(found) = header(rest).filter(same_stream) else {
                return Err(stream.damaged(position));
            };
            if found.bytes > rest.len() {
                let message = format!(
                    "truncated: the last MP3 frame, at {:.2} s, has {} of {} bytes",
                    stream.end_s(),
                    rest.len(),
                    found.bytes
                );
                return Err(
                    Error::input(message).hint("copy or download it again, or re-encode it")
                );
            }
            stream.frames.push(position..position + found.bytes);
            position += found.bytes;
        }
        stream.apply(info)?;
        Ok(stream)
    }

    /// Number of samples per channel, without delay and padding.
    fn num_samples(&self) -> usize {
        (self.frames.len() * self.samples_per_frame).saturating_sub(self.delay + self.padding)
    }

    /// Samples `wanted` of one channel of the stream, or of the average of all.
    ///
    /// # Errors
    /// A frame that does not decode, or not to its length, or lacks the channel.
    fn decode(&self, bytes: &[u8], wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let raw = wanted.start + self.delay..wanted.end + self.delay;
        let first_needed = raw.start / self.samples_per_frame;
        let first_fed = first_needed.saturating_sub(WARM_UP_FRAMES);
        let mut parameters = AudioCodecParameters::new();
        parameters
            .for_codec(CODEC_ID_MP3)
            .with_sample_rate(self.rate);
        let mut decoder = symphonia::default::codecs::MpaDecoder::try_new(
            &parameters,
            &AudioDecoderOptions::default().gapless(false),
        )
        .map_err(Error::bug_from)?;
        let mut samples = Vec::with_capacity(wanted.len() + 2 * self.samples_per_frame);
        let mut scratch = Vec::new();
        for index in first_fed
            ..raw
                .end
                .div_ceil(self.samples_per_frame)
                .min(self.frames.len())
        {
            let at = (index * self.samples_per_frame) as i64;
            let packet = PacketRef::new(
                0,
                Timestamp::new(at),
                Duration::new(self.samples_per_frame as u64),
                &bytes[self.frames[index].clone()],
            );
            let len_before = samples.len();
            let decoded = decoder
                .decode_ref(&packet)
                .map(|buffer| append_mono(&buffer, channel, &mut scratch, &mut samples));
            if index < first_needed {
                // The first frames of the warm-up may lack the bytes before them, so their output
                // is not used.
                samples.truncate(len_before);
                continue;
            }
            decoded.map_err(|e| self.frame_error(index, &e.to_string()).caused_by(e))??;
            if samples.len() - len_before != self.samples_per_frame {
                return Err(self.frame_error(
                    index,
                    &format!(
                        "{} samples instead of {}",
                        samples.len() - len_before,
                        self.samples_per_frame
                    ),
                ));
            }
        }
        let skipped = raw.start - first_needed * self.samples_per_frame;
        samples.drain(..skipped.min(samples.len()));
        samples.truncate(wanted.len());
        Ok(samples)
    }

    /// Takes delay and padding from the `Info` frame, and compares the number of frames with the
    /// one it announces.
    fn apply(&mut self, info: Option<Info>) -> Result<()> {
        if self.frames.is_empty() {
            return Err(Error::input("an MP3 file without a single frame of audio")
                .hint("copy or download it again"));
        }
        let Some(info) = info else { return Ok(()) };
        if let Some(announced) = info.num_frames {
            // Some encoders count the `Info` frame itself. Their files have all announced bytes.
            let found_bytes = self.frames.last().map_or(0, |last| last.end) - info.at;
            let is_whole = info
                .num_bytes
                .is_none_or(|announced| found_bytes >= announced);
            let counts_itself = !info.is_exact && is_whole && self.frames.len() + 1 == announced;
            if self.frames.len() < announced && !counts_itself {
                let announced_s =
                    (announced * self.samples_per_frame) as f64 / f64::from(self.rate);
                let message = format!(
                    "truncated: {:.2} s of MP3 frames where the file announces {announced_s:.2} s",
                    self.end_s()
                );
                return Err(Error::input(message).hint("copy or download it again"));
            }
        }
        self.delay = info.delay;
        if info
            .num_frames
            .is_none_or(|announced| announced == self.frames.len())
        {
            self.padding = info.padding;
        }
        Ok(())
    }

    fn end_s(&self) -> f64 {
        (self.frames.len() * self.samples_per_frame) as f64 / f64::from(self.rate)
    }

    fn damaged(&self, position: usize) -> Error {
        Error::input(format!(
            "damaged: no MP3 frame at byte {position}, {:.2} s",
            self.end_s()
        ))
        .hint("copy or download it again, or re-encode it")
    }

    fn frame_error(&self, index: usize, what: &str) -> Error {
        let at_s = (index * self.samples_per_frame) as f64 / f64::from(self.rate);
        Error::input(format!(
            "damaged: the MP3 frame at {at_s:.2} s does not decode ({what})"
        ))
        .hint("copy or download it again, or re-encode it")
    }
}

/// Contents of the first frame, which in most files describes the others.
struct Info {
    num_frames: Option<usize>,
    /// Bytes from the beginning of the `Info` frame to the end of the sound.
    num_bytes: Option<usize>,
    /// Start of the frame.
    at: usize,
    /// True if the encoder is known to leave the frame out of its count.
    is_exact: bool,
    delay: usize,
    padding: usize,
}

impl Info {
    /// Reads the frame at `at` as an `Info`, `Xing` or `VBRI` frame; `None` if it is sound.
    ///
    /// Source: the LAME project's "Mp3 Info Tag revision 1". The tag follows the side information.
    /// Flags show which of four fields follow. 21 bytes after the encoder's name are 12 bits of
    /// delay and 12 bits of padding.
    fn read(bytes: &[u8], at: usize, header: Header) -> Option<Self> {
        let frame = &bytes[at..(at + header.bytes).min(bytes.len())];
        let number = |tag: &[u8], at: usize| {
            Some(u32::from_be_bytes(tag.get(at..at + 4)?.try_into().ok()?) as usize)
        };
        let plain = Self {
            at,
            num_frames: None,
            num_bytes: None,
            is_exact: false,
            delay: 0,
            padding: 0,
        };
        if let Some(tag) = frame.get(36..).filter(|tag| tag.starts_with(b"VBRI")) {
            return Some(Self {
                num_bytes: number(tag, 10),
                num_frames: number(tag, 14),
                ..plain
            });
        }

        let tag = frame.get(4 + header.side_info..)?;
        if !matches!(tag.get(..4)?, b"Info" | b"Xing") {
            return None;
        }
        let flags = number(tag, 4)?;
        let num_frames = if flags & 1 == 0 { None } else { number(tag, 8) };
        let bytes_at = if flags & 1 == 0 { 8 } else { 12 };
        let num_bytes = if flags & 2 == 0 {
            None
        } else {
            number(tag, bytes_at)
        };
        let plain = Self {
            num_frames,
            num_bytes,
            ..plain
        };

        let lame = 8 + [(1, 4), (2, 4), (4, 100), (8, 4)]
            .iter()
            .map(|(flag, len)| if flags & flag == 0 { 0 } else { *len })
            .sum::<usize>();
        let is_known = matches!(tag.get(lame..lame + 4), Some(b"LAME" | b"Lavf" | b"Lavc"));
        let Some(&[a, b, c]) = tag.get(lame + 21..lame + 24).filter(|_| is_known) else {
            return Some(plain);
        };
        let delay = usize::from(a) << 4 | usize::from(b) >> 4;
        let padding = usize::from(b & 15) << 8 | usize::from(c);
        Some(Self {
            is_exact: true,
            delay: delay + DECODER_DELAY,
            padding: padding.saturating_sub(DECODER_DELAY),
            ..plain
        })
    }
}

/// Start of the first of two successive frames, at most one frame's length from the beginning, not
/// counting zeros.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    const LONGEST_FRAME: usize = 2881;
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    (zeros..bytes.len().min(zeros + LONGEST_FRAME)).find(|&start| {
        let Some(first) = header(&bytes[start..]) else {
            return false;
        };
        let next = start + first.bytes;
        match bytes.get(next..).map(header) {
            Some(Some(second)) => second.version == first.version && second.rate == first.rate,
            // A file of one frame, or one frame and a tag.
            Some(None) => {
                start == zeros && (next + 4 > bytes.len() || tag_len(&bytes[next..]).is_some())
            }
            None => start == zeros && bytes.len() < SEARCH_BYTES,
        }
    })
}

/// Length in bytes of the ID3v2 tag that begins here, header and footer included.
pub(super) fn id3v2_len(head: &[u8]) -> Option<usize> {
    let (b"ID3", [_, _, flags, a, b, c, d]) = (head.get(..3)?, head.get(3..10)?) else {
        return None;
    };
    let body = [a, b, c, d]
        .iter()
        .fold(0, |len, &&byte| len << 7 | usize::from(byte & 0x7f));
    Some(10 + body + if flags & 0x10 == 0 { 0 } else { 10 })
}

/// Length of the metadata at the beginning of `bytes`.
fn tag_len(bytes: &[u8]) -> Option<usize> {
    let whole_rest = bytes.len();
    match bytes {
        [b'T', b'A', b'G', ..] => Some(128),
        [b'I', b'D', b'3', ..] => id3v2_len(bytes),
        [
            b'A',
            b'P',
            b'E',
            b'T',
            b'A',
            b'G',
            b'E',
            b'X',
            _,
            _,
            _,
            _,
            a,
            b,
            c,
            d,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            flags,
            ..,
        ] => {
            // The size counts the items and the footer; a tag that begins here has a header too.
            let body = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            Some(if flags & 0x20 == 0 {
                32
            } else {
                body.saturating_add(32)
            })
        }
        _ if bytes.starts_with(b"LYRICSBEGIN") => Some(whole_rest),
        _ if bytes.iter().all(|&byte| byte == 0) => Some(whole_rest),
        _ => None,
    }
}

/// Reads a frame header of MPEG-1, 2 or 2.5, layer III.
///
/// Source: ISO/IEC 11172-3, 2.4.1.3 and 2.4.2.3; ISO/IEC 13818-3, 2.4.2.3.
fn header(bytes: &[u8]) -> Option<Header> {
    const KILOBITS_V1: [usize; 16] = [
        0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0,
    ];
    const KILOBITS_V2: [usize; 16] = [
        0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0,
    ];
    const RATES_V1: [u32; 4] = [44_100, 48_000, 32_000, 0];
    const V1: u8 = 3;
    let &[0xff, b, c, d] = bytes.get(..4)? else {
        return None;
    };
    let version = b >> 3 & 3;
    let layer = b >> 1 & 3;
    if b >> 5 != 7 || version == 1 || layer != 1 {
        return None;
    }
    let kilobits = if version == V1 {
        KILOBITS_V1
    } else {
        KILOBITS_V2
    }[usize::from(c >> 4)];
    let rate = RATES_V1[usize::from(c >> 2 & 3)]
        / if version == V1 {
            1
        } else if version == 2 {
            2
        } else {
            4
        };
    if kilobits == 0 || rate == 0 {
        return None;
    }
    let samples = if version == V1 { 1152 } else { 576 };
    let bytes = samples / 8 * kilobits * 1000 / rate as usize + usize::from(c >> 1 & 1);
    let mono = d >> 6 == 3;
    let side_info = match (version == V1, mono) {
        (true, false) => 32,
        (true, true) | (false, false) => 17,
        (false, true) => 9,
    };
    Some(Header {
        version,
        rate,
        channels: if mono { 1 } else { 2 },
        bytes,
        samples,
        side_info,
    })
}
