//! FLAC through the demuxer of `symphonia`, which gets only the stream's description and its
//! frames.
//!
//! Blocks between the two (pictures, comments, seek tables) are left out, so that they cannot cost
//! memory or cause faults.

use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::ops::Range;

use symphonia::core::errors::Error as CodecError;
use symphonia::core::formats::FormatOptions;
use symphonia::core::formats::FormatReader;
use symphonia::core::formats::SeekMode;
use symphonia::core::formats::SeekTo;
use symphonia::core::io::MediaSource;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::units::Timestamp;
use symphonia::default::formats::FlacReader;

use crate::codec::Decoder;
use crate::samples::MOST_RESERVED_SAMPLES;
use crate::samples::Stream;
use crate::samples::check_length;
use crate::samples::ends_early;
use crate::samples::gap;
use crate::samples::packet_error;
use crate::source::Source;
use crate::source::big_endian;
use maqam_base::error::Error;
use maqam_base::error::Kind;
use maqam_base::error::Result;

/// Bytes of a block's header, and of the block that describes the stream.
const BLOCK_HEADER_BYTES: u64 = 4;
const STREAM_INFO_BYTES: usize = 34;

/// A FLAC file.
pub(super) struct Flac {
    format: Box<dyn FormatReader>,
    decoder: Decoder,
    /// Samples per channel; `None` if the header leaves them out.
    num_samples: Option<usize>,
}

impl Flac {
    /// Reads the header.
    ///
    /// # Errors
    /// A header that is truncated or does not parse.
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let info = source.bytes(4, BLOCK_HEADER_BYTES as usize + STREAM_INFO_BYTES)?;
        if info[0] & 0x7f != 0 || big_endian(&info[1..4]) != STREAM_INFO_BYTES as u64 {
            return Err(Error::input(
                "damaged: the FLAC file does not begin with a description of its stream",
            )
            .hint("copy or download it again"));
        }
        let info = info.to_vec();

        // Blocks follow each other up to the one that is marked as the last.
        let mut at = 4;
        loop {
            let header = source.bytes(at, BLOCK_HEADER_BYTES as usize)?;
            let is_last = header[0] & 0x80 != 0;
            at += BLOCK_HEADER_BYTES + big_endian(&header[1..4]);
            if is_last {
                break;
            }
        }
        // Some taggers append an ID3v1 tag, which would make the last frame look damaged.
        let len = source.len();
        if len >= at + 128 && source.peek(len - 128, 3)? == b"TAG" {
            source.truncate(len - 128);
        }
        source.skip(at);

        let decoder = Decoder::flac(&info[BLOCK_HEADER_BYTES as usize..])?;
        let num_samples = big_endian(&info[17..22]) & 0xf_ffff_ffff;
        let num_samples = (num_samples > 0).then_some(num_samples as usize);
        if let Some(num_samples) = num_samples {
            check_length(num_samples)?;
        }
        let header = [b"fLaC\x80", &info[1..]].concat();
        let input = Input {
            header,
            frames: source,
            position: 0,
        };
        let stream = MediaSourceStream::new(Box::new(input), Default::default());
        let format = FlacReader::try_new(stream, FormatOptions::default())
            .map_err(|e| codec_error(e, "its header does not parse"))?;
        Ok(Self {
            format: Box::new(format),
            decoder,
            num_samples,
        })
    }
}

impl Stream for Flac {
    fn rate(&self) -> u32 {
        self.decoder.rate
    }

    fn channels(&self) -> Option<usize> {
        Some(self.decoder.channels)
    }

    fn num_samples(&self) -> Option<usize> {
        self.num_samples
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let rate = self.decoder.rate;
        if wanted.start > 0 {
            let to = SeekTo::Timestamp {
                ts: Timestamp::new(wanted.start as i64),
                track_id: self.format.tracks().first().map_or(0, |track| track.id),
            };
            self.format
                .seek(SeekMode::Accurate, to)
                .map_err(|e| codec_error(e, "damaged: cannot seek to the part"))?;
        }

        let mut samples = Vec::with_capacity(wanted.len().min(MOST_RESERVED_SAMPLES));
        // Number of the next sample, known after the first packet of a part.
        let mut next = if wanted.start == 0 { Some(0) } else { None };
        while next.is_none_or(|next| next < wanted.end) {
            let position = next.unwrap_or(wanted.start);
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(e) => return Err(codec_error(e, "damaged: a frame does not parse")),
            };
            let at = packet.pts.get();
            let follows = next.is_none_or(|next| next as i64 == at);
            if !follows || at < 0 || (next.is_none() && at > wanted.start as i64) {
                return Err(gap(position as i64, at, rate));
            }
            let len_before = samples.len();
            let found = self
                .decoder
                .decode(&packet.data, channel, &mut samples)
                .map_err(|e| packet_error(e, position as i64, rate))?;
            let at = at as usize;
            if at < wanted.start {
                samples.drain(len_before..len_before + (wanted.start - at).min(found));
            }
            next = Some(at + found);
            check_length(samples.len())?;
        }

        let found = next.unwrap_or(0);
        if let Some(announced) = self.num_samples {
            if found < announced.min(wanted.end) {
                return Err(ends_early(
                    found as i64,
                    announced.min(wanted.end) as i64,
                    rate,
                ));
            }
            if found > announced {
                return Err(Error::input(format!(
                    "damaged: more audio than the {announced} samples that are announced"
                ))
                .hint("copy or download it again"));
            }
        }
        samples.truncate(wanted.len());
        Ok(samples)
    }
}

/// A header and frames as one stream of bytes.
struct Input {
    header: Vec<u8>,
    frames: Source,
    position: u64,
}

impl Input {
    fn len(&self) -> u64 {
        self.header.len() as u64 + self.frames.len()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let header_len = self.header.len() as u64;
        let bytes = match self.position.checked_sub(header_len) {
            Some(at) => self
                .frames
                .peek(at, buffer.len())
                .map_err(io::Error::other)?,
            None => &self.header[self.position as usize..],
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for Input {
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

impl MediaSource for Input {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len())
    }
}

fn codec_error(error: CodecError, what: &str) -> Error {
    // An error of maqam inside one of the demuxer's is the system's, because `Input` gives no
    // other.
    if let CodecError::IoError(io) = &error
        && let Some(carried) = Error::carried(io)
    {
        let mut carried = carried.clone();
        carried.kind = Kind::Resource;
        return carried;
    }
    match error {
        CodecError::IoError(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
            Error::input(format!("truncated: {what}"))
                .caused_by(io)
                .hint("copy or download it again")
        }
        other => Error::input(format!("{what} ({other})"))
            .caused_by(other)
            .hint("copy or convert it again"),
    }
}
