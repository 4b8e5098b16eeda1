//! WAV in its four spellings (RIFF, RF64, BW64, Wave64): where the samples lie and how they are
//! written.
//!
//! Lengths in these headers are often wrong: programs stop before they fill them in, or cannot
//! count beyond 4 GiB. The length of the `data` chunk is trusted where the file has that many
//! bytes; all others only lead to it.

use std::ops::Range;

use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_ALAW;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_F32LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_F64LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_MULAW;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_S16LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_S24LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_S32LE;
use symphonia::core::codecs::audio::well_known::CODEC_ID_PCM_U8;

use crate::codec::Decoder;
use crate::samples::MOST_RESERVED_SAMPLES;
use crate::samples::Stream;
use crate::samples::check_length;
use crate::source::Source;
use crate::source::little_endian;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Smallest size that means "unknown" in the headers of files that were written to a pipe.
const STREAMED_SIZE: u64 = 0x7fff_0000;

/// Bytes in which a `data` chunk is searched if the lengths before it are wrong.
const SEARCH_BYTES: usize = 1 << 20;

/// Bytes that are decoded at once.
const BLOCK_BYTES: usize = 1 << 16;

/// Rest of the identifiers of Wave64's chunks, after four letters.
const WAVE64_RIFF: &[u8] = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00";
const WAVE64_REST: &[u8] = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a";

/// A WAV file.
pub(super) struct Wav {
    source: Source,
    decoder: Decoder,
    /// Bytes of one sample of every channel.
    block: usize,
    /// Bytes that hold the samples.
    data: Range<u64>,
}

/// A chunk's name, and the place and length of its contents.
#[derive(Clone, Copy)]
struct Chunk {
    id: [u8; 4],
    start: u64,
    size: u64,
    /// True if the length has 64 bits, so that no value means "unknown".
    is_long: bool,
}

/// Returns whether a file that begins with `head` is WAV.
pub(super) fn begins(head: &[u8]) -> bool {
    matches!(head.get(..4), Some(b"RIFF" | b"RF64" | b"BW64")) && head.get(8..12) == Some(b"WAVE")
        || head.starts_with(WAVE64_RIFF)
}

impl Wav {
    /// Finds the samples.
    ///
    /// # Errors
    /// No `fmt ` or `data` chunk, an unsupported coding, fewer samples than the header announces,
    /// or more bytes after them.
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let chunks = if source.peek(0, 4)? == b"riff" {
            wave64_chunks(&mut source)?
        } else {
            riff_chunks(&mut source)?
        };
        let find = |id: &[u8; 4]| chunks.iter().find(|chunk| &chunk.id == id).copied();

        let Some(data) = find(b"data") else {
            return Err(Error::input(
                "a WAV file without a `data` chunk: it holds no audio, or was cut off",
            )
            .hint("copy or convert it again"));
        };
        let Some(format) = find(b"fmt ") else {
            return Err(
                Error::input("a WAV file without a `fmt ` chunk").hint("copy or convert it again")
            );
        };
        let format = source
            .bytes(format.start, format.size.min(64) as usize)?
            .to_vec();
        let (decoder, block) = read_format(&format)?;

        let data = data_range(&mut source, data)?;
        check_length(((data.end - data.start) / block as u64) as usize)?;
        Ok(Self {
            source,
            decoder,
            block,
            data,
        })
    }
}

impl Stream for Wav {
    fn rate(&self) -> u32 {
        self.decoder.rate
    }

    fn channels(&self) -> Option<usize> {
        Some(self.decoder.channels)
    }

    fn num_samples(&self) -> Option<usize> {
        Some(((self.data.end - self.data.start) / self.block as u64) as usize)
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let per_block = (BLOCK_BYTES / self.block).max(1);
        let mut samples = Vec::with_capacity(wanted.len().min(MOST_RESERVED_SAMPLES));
        let mut first = wanted.start;
        while first < wanted.end {
            let count = per_block.min(wanted.end - first);
            let at = self.data.start + (first * self.block) as u64;
            let bytes = self.source.bytes(at, count * self.block)?;
            self.decoder
                .decode(bytes, channel, &mut samples)
                .map_err(|e| Error::input(&e).caused_by(e))?;
            first += count;
        }
        Ok(samples)
    }
}

/// Chunks of a RIFF file up to `data`. If a chunk's length is wrong, `data` is searched.
fn riff_chunks(source: &mut Source) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut long_size = None;
    let mut at = 12;
    while let Some(mut chunk) = chunk_at(source, at)? {
        let is_long = chunk.id == *b"data" && chunk.size == u64::from(u32::MAX);
        if chunk.id == *b"ds64" {
            long_size = Some(little_endian(source.peek(chunk.start + 8, 8)?));
        } else if is_long && let Some(size) = long_size {
            chunk.size = size;
            chunk.is_long = true;
        }
        chunks.push(chunk);
        if chunk.id == *b"data" {
            return Ok(chunks);
        }
        at = next_chunk(source, chunk)?;
    }

    let head = source.peek(0, SEARCH_BYTES)?.to_vec();
    let len = source.len();
    let is_data = |chunk: &Chunk| chunk.size > 0 && chunk.start + chunk.size <= len;
    let data = search(&head, *b"data", is_data);
    if let Some(data) = data {
        let is_format = |chunk: &Chunk| (16..=64).contains(&chunk.size) && chunk.start < data.start;
        if !chunks.iter().any(|chunk| chunk.id == *b"fmt ") {
            chunks.extend(search(&head, *b"fmt ", is_format));
        }
        chunks.push(data);
    }
    Ok(chunks)
}

/// The first chunk of an id in the head of a file for which `is_it` holds, wherever it begins.
fn search(head: &[u8], id: [u8; 4], is_it: impl Fn(&Chunk) -> bool) -> Option<Chunk> {
    for at in 12..head.len().saturating_sub(8) {
        if head[at..at + 4] == id {
            let chunk = Chunk {
                id,
                start: at as u64 + 8,
                size: little_endian(&head[at + 4..at + 8]),
                is_long: false,
            };
            if is_it(&chunk) {
                return Some(chunk);
            }
        }
    }
    None
}

/// Start of the chunk after `chunk`, after a byte of padding if its length is odd. Some programs
/// omit the padding.
fn next_chunk(source: &mut Source, chunk: Chunk) -> Result<u64> {
    let end = chunk.start.saturating_add(chunk.size);
    let padded = end.saturating_add(chunk.size & 1);
    if padded != end && chunk_at(source, padded)?.is_none() && chunk_at(source, end)?.is_some() {
        return Ok(end);
    }
    Ok(padded)
}

/// The chunk that begins at `at`; `None` if nothing looks like one.
fn chunk_at(source: &mut Source, at: u64) -> Result<Option<Chunk>> {
    let &[a, b, c, d, ref size @ ..] = source.peek(at, 8)? else {
        return Ok(None);
    };
    let id = [a, b, c, d];
    let is_name = id.iter().all(|byte| (b' '..=b'~').contains(byte));
    Ok((size.len() == 4 && is_name).then(|| Chunk {
        id,
        start: at + 8,
        size: little_endian(size),
        is_long: false,
    }))
}

/// Chunks of a Wave64 file up to `data`: identifiers of 16 bytes, lengths of 8 that count the
/// header, all on multiples of 8.
///
/// Source: Sony's "Wave64 file format", as libsndfile reads it.
fn wave64_chunks(source: &mut Source) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut at = 40;
    loop {
        let head = source.peek(at, 24)?;
        let (Some(id), Some(size)) = (head.get(..16), head.get(16..24)) else {
            return Ok(chunks);
        };
        let size = little_endian(size);
        if size < 24 {
            return Ok(chunks);
        }
        if &id[4..] == WAVE64_REST {
            chunks.push(Chunk {
                id: [id[0], id[1], id[2], id[3]],
                start: at + 24,
                size: size - 24,
                is_long: true,
            });
        }
        if id.starts_with(b"data") {
            return Ok(chunks);
        }
        at = at.saturating_add(size.checked_next_multiple_of(8).unwrap_or(u64::MAX));
    }
}

/// Bytes of the samples.
///
/// # Errors
/// Fewer bytes than the header announces, or unknown bytes after them.
fn data_range(source: &mut Source, data: Chunk) -> Result<Range<u64>> {
    let Chunk { start, size, .. } = data;
    let found = source.len().saturating_sub(start);
    if size > found {
        if size >= STREAMED_SIZE && !data.is_long {
            return Ok(start..start + found);
        }
        return Err(Error::input(format!(
            "truncated: the WAV header says {size} bytes of audio, the file has {found}"
        ))
        .hint("copy or download it again"));
    }
    if let Some(rest) = unknown_rest(source, data)? {
        // A program that stopped before it knew the length left 0.
        if size == 0 {
            return Ok(start..start + found);
        }
        return Err(Error::input(format!(
            "the WAV header says {size} bytes of audio, but {rest} more follow that belong to no chunk"
        ))
        .hint("if they are audio, write the header anew: sox --ignore-length OLD.wav NEW.wav"));
    }
    Ok(start..start + size)
}

/// Number of unknown bytes after the samples: neither chunks nor a tag nor padding.
fn unknown_rest(source: &mut Source, data: Chunk) -> Result<Option<u64>> {
    let mut at = next_chunk(source, data)?;
    while at < source.len() {
        let rest = source.peek(at, BLOCK_BYTES)?;
        let is_tag = [&b"TAG"[..], b"ID3", b"APETAGEX", b"LYRICSBEGIN"]
            .iter()
            .any(|tag| rest.starts_with(tag));
        if is_tag || rest.len() < 8 || rest.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let left = source.len() - at;
        match chunk_at(source, at)? {
            Some(chunk) if chunk.id == *b"data" && chunk.size > 0 => return Ok(Some(left)),
            Some(chunk) if chunk.size <= left => at = next_chunk(source, chunk)?,
            // A last chunk that is cut off is no audio.
            Some(chunk) if chunk.id.iter().all(u8::is_ascii_alphanumeric) => return Ok(None),
            _ => return Ok(Some(left)),
        }
    }
    Ok(None)
}

/// Decoder of the coding that a `fmt ` chunk describes, and the bytes of one sample of every
/// channel.
fn read_format(format: &[u8]) -> Result<(Decoder, usize)> {
    let number = |at: usize, len: usize| {
        format
            .get(at..at + len)
            .map(little_endian)
            .ok_or_else(|| Error::input("truncated: the WAV header's `fmt ` chunk is too short"))
    };
    let channels = number(2, 2)?;
    let rate = number(4, 4)? as u32;
    let block = number(12, 2)? as usize;
    let bits = number(14, 2)?;
    let tag = match number(0, 2)? {
        0xfffe => number(24, 2)?,
        tag => tag,
    };

    if channels == 0 {
        return Err(Error::input("the header says 0 channels").hint("copy or convert it again"));
    }
    let bytes = block / channels as usize;
    let codec: AudioCodecId = match (tag, bytes) {
        (1, 1) => CODEC_ID_PCM_U8,
        (1, 2) => CODEC_ID_PCM_S16LE,
        (1, 3) => CODEC_ID_PCM_S24LE,
        (1, 4) => CODEC_ID_PCM_S32LE,
        (3, 4) => CODEC_ID_PCM_F32LE,
        (3, 8) => CODEC_ID_PCM_F64LE,
        (6, 1) => CODEC_ID_PCM_ALAW,
        (7, 1) => CODEC_ID_PCM_MULAW,
        _ => return Err(unread_coding(tag, bits)),
    };
    let fits = block == bytes * channels as usize && bits.div_ceil(8) == bytes as u64;
    if !fits {
        let message = format!(
            "the WAV header contradicts itself: {channels} channels of {bits} bits in {block} bytes"
        );
        return Err(Error::input(message).hint("copy or convert it again"));
    }
    Ok((Decoder::pcm(codec, rate, channels as u16)?, block))
}

fn unread_coding(tag: u64, bits: u64) -> Error {
    let name = match tag {
        1 => format!("PCM of {bits} bits"),
        3 => format!("floating point of {bits} bits"),
        0x02 => "Microsoft ADPCM".to_owned(),
        0x11 => "IMA ADPCM".to_owned(),
        0x31 => "GSM 6.10".to_owned(),
        0x50 | 0x55 => "MP3".to_owned(),
        0xff | 0x1600..=0x1610 => "AAC".to_owned(),
        0x160..=0x163 => "Windows Media Audio".to_owned(),
        tag => format!("a coding of number {tag:#x}"),
    };
    Error::input(format!("a WAV file that holds {name}, which is not read"))
        .hint("convert it: ffmpeg -i OLD.wav -c:a pcm_s16le NEW.wav")
}
