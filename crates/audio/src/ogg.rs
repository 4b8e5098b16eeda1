//! Ogg: pages, and the logical streams of Vorbis, Opus or FLAC that follow each other in one file.
//!
//! Source: RFC 3533 (pages), RFC 7845 (Opus), the Vorbis I specification, section A.2, and "Ogg
//! FLAC mapping" of Xiph.

use std::collections::HashMap;
use std::ops::Range;

use crate::codec::Decoder;
use crate::resample::num_resampled;
use crate::resample::resample;
use crate::samples::Stream;
use crate::samples::check_length;
use crate::samples::ends_early;
use crate::samples::gap;
use crate::samples::packet_error;
use crate::source::Source;
use crate::source::little_endian;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Bytes of a page before its table of segments.
const HEADER_BYTES: usize = 27;

/// Samples decoded and dropped before a part of a recording, so that the decoder has the state of a
/// continuous decode. Vorbis needs one block of up to 8192 samples, Opus 80 ms.
const PREROLL_SAMPLES: i64 = 24_000;

/// Streams side by side in one recording; video has two or three.
const MOST_STREAMS: usize = 64;

/// Bits of a page's flags.
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// An Ogg file: one or more recordings, one after the other.
pub(super) struct File {
    source: Source,
    links: Vec<Link>,
    /// Rate of every link, in Hz, or 16 kHz if links differ and each is resampled separately.
    rate: u32,
}

/// One recording of the file.
struct Link {
    codec: Codec,
    decoder: Decoder,
    /// Pages that hold sound, in order.
    pages: Vec<Page>,
    /// Number of the first sample in the stream's own count, including an encoder's delay.
    start: i64,
    /// Samples per channel.
    num_samples: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Vorbis,
    Opus,
    Flac,
}

/// Place and header of a page.
#[derive(Clone, Copy)]
struct Page {
    at: u64,
    len: usize,
    /// Number of samples up to the end of the last packet that ends on the page; `None` if none
    /// does.
    granule: Option<i64>,
    serial: u32,
    flags: u8,
}

impl Page {
    fn is(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl File {
    /// Walks over all pages, and opens a decoder for each recording.
    ///
    /// # Errors
    /// Bytes between pages, no sound in a supported codec, a recording without a last page.
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let mut links = Vec::new();
        let mut group: Vec<Page> = Vec::new();
        let mut at = 0;
        while at < source.len() {
            let Some(page) = page_at(&mut source, at)? else {
                if is_trailer(&mut source, at)? {
                    break;
                }
                return Err(lost(at));
            };
            // A first page after other pages begins the next recording.
            if page.is(FIRST) && group.last().is_some_and(|last| !last.is(FIRST)) {
                links.push(Link::open(&mut source, &group, links.len())?);
                group.clear();
            }
            at += page.len as u64;
            group.push(page);
        }
        links.push(Link::open(&mut source, &group, links.len())?);

        let rate = links[0].decoder.rate;
        let is_even = links.iter().all(|link| link.decoder.rate == rate);
        Ok(Self {
            source,
            links,
            rate: if is_even { rate } else { crate::SAMPLE_RATE },
        })
    }

    /// Returns whether the links' rates differ, so that each is resampled separately.
    fn is_mixed(&self) -> bool {
        self.links.iter().any(|link| link.decoder.rate != self.rate)
    }

    /// Samples of a link at the file's rate.
    fn link_len(&self, link: &Link) -> usize {
        if self.is_mixed() {
            num_resampled(link.num_samples, link.decoder.rate)
        } else {
            link.num_samples
        }
    }
}

impl Stream for File {
    fn rate(&self) -> u32 {
        self.rate
    }

    fn channels(&self) -> Option<usize> {
        self.links.iter().map(|link| link.decoder.channels).min()
    }

    fn num_samples(&self) -> Option<usize> {
        Some(self.links.iter().map(|link| self.link_len(link)).sum())
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let is_mixed = self.is_mixed();
        let mut samples = Vec::new();
        let mut first = 0;
        for index in 0..self.links.len() {
            let len = self.link_len(&self.links[index]);
            let part = wanted.start.saturating_sub(first).min(len)
                ..wanted.end.saturating_sub(first).min(len);
            first += len;
            if part.is_empty() {
                continue;
            }
            let link = &mut self.links[index];
            if is_mixed {
                let whole = link.decode(&mut self.source, 0..link.num_samples, channel)?;
                samples.extend_from_slice(&resample(whole, link.decoder.rate)?[part]);
            } else {
                samples.append(&mut link.decode(&mut self.source, part, channel)?);
            }
        }
        Ok(samples)
    }
}

impl Link {
    /// Reads the headers of the recording on `pages`, the `index`-th of its file.
    fn open(source: &mut Source, pages: &[Page], index: usize) -> Result<Self> {
        let num_first = pages.iter().take_while(|page| page.is(FIRST)).count();
        if num_first > MOST_STREAMS {
            return Err(Error::input(format!(
                "an Ogg file with {num_first} streams side by side, of which at most {MOST_STREAMS} are looked at"
            ))
            .hint("extract the sound: ffmpeg -i OLD NEW.flac"));
        }
        let mut by_serial: HashMap<u32, Vec<Page>> = HashMap::new();
        for &page in pages {
            by_serial.entry(page.serial).or_default().push(page);
        }

        let mut others = Vec::new();
        for first in &pages[..num_first] {
            // Another first page of the same stream adds nothing.
            let Some(own) = by_serial.remove(&first.serial) else {
                continue;
            };
            let mut packets = Packets::new(own, 0);
            let Some(head) = packets.next(source)? else {
                continue;
            };
            match codec_of(&head.bytes) {
                Ok(codec) => return Self::of_codec(source, codec, &head.bytes, packets, index),
                Err(name) => others.push(name),
            }
        }
        if others.is_empty() {
            return Err(
                Error::input("damaged: the Ogg file does not begin with a first page")
                    .hint("copy or download it again; a piece of a stream has to be re-encoded"),
            );
        }
        Err(Error::input(format!(
            "an Ogg file with {}, which is not read",
            others.join(" and ")
        ))
        .hint("convert it: ffmpeg -i OLD NEW.flac"))
    }

    fn of_codec(
        source: &mut Source,
        codec: Codec,
        head: &[u8],
        mut packets: Packets,
        index: usize,
    ) -> Result<Self> {
        let mut header = || -> Result<Vec<u8>> {
            let packet = packets.next(source)?.ok_or_else(|| {
                Error::input("truncated: the Ogg stream ends in its headers")
                    .hint("copy or download it again")
            })?;
            Ok(packet.bytes)
        };
        let (decoder, delay) = match codec {
            Codec::Vorbis => {
                header()?;
                (Decoder::vorbis(head, &header()?)?, 0)
            }
            Codec::Opus => {
                header()?;
                Decoder::opus(head)?
            }
            Codec::Flac => {
                // Two bytes of version, two of a count, "fLaC", four of a block's header, then the
                // block of 34 bytes.
                let info = head.get(17..51).unwrap_or_default();
                (Decoder::flac(info)?, 0)
            }
        };
        let pages = packets.rest_of_pages();
        let mut link = Self {
            codec,
            decoder,
            pages,
            start: 0,
            num_samples: 0,
        };
        link.find_ends(source, delay, index)?;
        Ok(link)
    }

    /// Finds start and end of the recording in the stream's own count of samples; `delay` samples
    /// at its beginning are the encoder's.
    fn find_ends(&mut self, source: &mut Source, delay: usize, index: usize) -> Result<()> {
        if !self.pages.last().is_some_and(|last| last.is(LAST)) {
            let which = if index == 0 {
                String::new()
            } else {
                format!(" number {}", index + 1)
            };
            return Err(Error::input(format!(
                "truncated or damaged: the Ogg stream{which} has no last page"
            ))
            .hint("copy or download it again; re-encode a piece that was cut out of a broadcast"));
        }
        let last_page = self.pages.iter().rposition(|page| page.granule.is_some());
        let last_end = last_page.and_then(|page| self.pages[page].granule);

        // The first page on which a packet ends counts its samples too.
        let mut packets = Packets::new(self.pages.clone(), 0);
        let mut found = 0;
        let mut first = None;
        while first.is_none()
            && let Some(packet) = packets.next(source)?
        {
            found += self.decode_packet(&packet, None, &mut Vec::new())?;
            first = packet.end_of_page.map(|end| (packet.page, end));
        }
        let (Some((first_page, first_end)), Some(last_end)) = (first, last_end) else {
            return Err(no_samples());
        };

        // A stream may begin later than at 0. A first page with more sound than it counts begins
        // before 0, and that part is dropped; if it is the last page as well, the part after its
        // end is dropped.
        let begin = first_end.saturating_sub(found as i64);
        let is_only = Some(first_page) == last_page;
        let begin = if is_only { begin.max(0) } else { begin };
        self.start = begin.saturating_add(delay as i64).max(0);
        self.num_samples = usize::try_from(last_end.saturating_sub(self.start)).unwrap_or(0);
        if self.num_samples == 0 {
            return Err(no_samples());
        }
        check_length(self.num_samples)
    }

    /// Samples `wanted` of the recording.
    ///
    /// # Errors
    /// A packet that does not decode, pages that do not follow each other, an end before the
    /// announced one.
    fn decode(
        &mut self,
        source: &mut Source,
        wanted: Range<usize>,
        channel: Option<u16>,
    ) -> Result<Vec<f32>> {
        let wanted = self.start + wanted.start as i64..self.start + wanted.end as i64;
        let preroll = wanted.start.saturating_sub(PREROLL_SAMPLES);
        let first = self
            .pages
            .iter()
            .rposition(|page| page.granule.is_some_and(|end| end <= preroll))
            .unwrap_or(0);
        let last_end = self.pages.iter().rposition(|page| page.granule.is_some());
        self.decoder.reset()?;

        let mut packets = Packets::new(self.pages.clone(), first);
        let mut samples = Vec::new();
        // Number of the first of `samples`, known at the end of the first page, and of the sample
        // after the last.
        let mut origin = None;
        let mut position = 0;
        while origin.is_none() || position < wanted.end {
            let Some(packet) = packets.next(source)? else {
                break;
            };
            position += self.decode_packet(&packet, channel, &mut samples)? as i64;
            check_length(samples.len())?;

            let Some(end) = packet.end_of_page else {
                continue;
            };
            let is_last = Some(packet.page) == last_end;
            if origin.is_none() {
                let begin = end.saturating_sub(position);
                let begin = if is_last && first == 0 {
                    begin.max(0)
                } else {
                    begin
                };
                origin = Some(begin);
                position = position.saturating_add(begin);
            }
            if position != end && !(is_last && position > end) {
                return Err(gap(
                    position.saturating_sub(self.start),
                    end.saturating_sub(self.start),
                    self.decoder.rate,
                ));
            }
            // Samples before the part are dropped.
            if position < wanted.start {
                samples.clear();
                origin = Some(position);
            }
        }

        if origin.is_none() || position < wanted.end {
            let found = position - self.start;
            let announced = wanted.end - self.start;
            return Err(ends_early(found, announced, self.decoder.rate));
        }
        let skipped = usize::try_from(wanted.start - origin.unwrap_or(0)).unwrap_or(0);
        samples.drain(..skipped.min(samples.len()));
        samples.truncate((wanted.end - wanted.start) as usize);
        Ok(samples)
    }

    /// Appends a packet's samples, and returns their number.
    fn decode_packet(
        &mut self,
        packet: &Packet,
        channel: Option<u16>,
        samples: &mut Vec<f32>,
    ) -> Result<usize> {
        // The first packets of FLAC are its metadata.
        if self.codec == Codec::Flac && packet.bytes.first() != Some(&0xff) {
            return Ok(0);
        }
        self.decoder
            .decode(&packet.bytes, channel, samples)
            .map_err(|e| {
                let before = self.pages[..packet.page].iter().rev();
                let at = before.filter_map(|page| page.granule).next().unwrap_or(0);
                packet_error(e, at.saturating_sub(self.start), self.decoder.rate)
            })
    }
}

/// Packets of one stream, put together from its pages.
struct Packets {
    pages: Vec<Page>,
    /// The page that is read next.
    next_page: usize,
    /// Sizes of the segments of the page that was read last, and its bytes.
    segments: Vec<u8>,
    body: Vec<u8>,
    /// The segment that is taken next, and where it begins.
    segment: usize,
    offset: usize,
    /// Beginning of an unfinished packet.
    partial: Vec<u8>,
    /// True if the unfinished packet began before the first page.
    is_cut: bool,
}

/// A packet and the page on which it ends.
struct Packet {
    bytes: Vec<u8>,
    page: usize,
    /// The page's count of samples, where the packet is the last that ends on it.
    end_of_page: Option<i64>,
}

impl Packets {
    fn new(pages: Vec<Page>, first: usize) -> Self {
        Self {
            pages,
            next_page: first,
            segments: Vec::new(),
            body: Vec::new(),
            segment: 0,
            offset: 0,
            partial: Vec::new(),
            is_cut: false,
        }
    }

    fn next(&mut self, source: &mut Source) -> Result<Option<Packet>> {
        loop {
            while let Some(&size) = self.segments.get(self.segment) {
                let end = self.offset + usize::from(size);
                self.partial.extend_from_slice(&self.body[self.offset..end]);
                self.offset = end;
                self.segment += 1;
                if size == u8::MAX {
                    continue;
                }
                let bytes = std::mem::take(&mut self.partial);
                if std::mem::take(&mut self.is_cut) {
                    continue;
                }
                let page = self.next_page - 1;
                let is_last = self.segments[self.segment..].iter().all(|&s| s == u8::MAX);
                return Ok(Some(Packet {
                    bytes,
                    page,
                    end_of_page: self.pages[page].granule.filter(|_| is_last),
                }));
            }
            let Some(&page) = self.pages.get(self.next_page) else {
                return Ok(None);
            };
            self.load(source, page)?;
            self.next_page += 1;
        }
    }

    /// Reads a page.
    ///
    /// # Errors
    /// A checksum that does not fit.
    fn load(&mut self, source: &mut Source, page: Page) -> Result<()> {
        let bytes = source.bytes(page.at, page.len)?;
        let announced = little_endian(&bytes[22..26]) as u32;
        let found = [&bytes[..22], &[0; 4], &bytes[26..]]
            .iter()
            .fold(0, |sum, part| checksum(sum, part));
        if found != announced {
            return Err(Error::input(format!(
                "damaged: the Ogg page at byte {} has a wrong checksum",
                page.at
            ))
            .hint("copy or download it again"));
        }

        let table_end = HEADER_BYTES + usize::from(bytes[26]);
        self.segments = bytes[HEADER_BYTES..table_end].to_vec();
        self.body = bytes[table_end..].to_vec();
        self.segment = 0;
        self.offset = 0;
        if page.is(CONTINUED) {
            self.is_cut = self.partial.is_empty();
        } else {
            self.partial.clear();
        }
        Ok(())
    }

    /// Pages after the one that was read last.
    fn rest_of_pages(self) -> Vec<Page> {
        self.pages[self.next_page..].to_vec()
    }
}

/// The page that begins at `at`; `None` if none begins.
///
/// # Errors
/// A page that is cut off.
fn page_at(source: &mut Source, at: u64) -> Result<Option<Page>> {
    let left = source.len() - at;
    let head = source.peek(at, HEADER_BYTES + usize::from(u8::MAX))?;
    if head.get(..5) != Some(b"OggS\0") {
        return Ok(None);
    }
    let segments = head
        .get(HEADER_BYTES - 1)
        .and_then(|&n| head.get(HEADER_BYTES..HEADER_BYTES + usize::from(n)));
    let len = segments.map(|segments| {
        HEADER_BYTES + segments.len() + segments.iter().map(|&s| usize::from(s)).sum::<usize>()
    });
    let Some(len) = len.filter(|&len| len as u64 <= left) else {
        return Err(Error::input(format!(
            "truncated: the last Ogg page, at byte {at}, is cut off after {left} bytes"
        ))
        .hint("copy or download it again"));
    };
    let granule = little_endian(&head[6..14]);
    Ok(Some(Page {
        at,
        len,
        granule: (granule != u64::MAX).then_some(granule as i64),
        serial: little_endian(&head[14..18]) as u32,
        flags: head[5],
    }))
}

/// Returns whether no page follows `at`, so that the rest is a tag or padding.
fn is_trailer(source: &mut Source, at: u64) -> Result<bool> {
    let mut from = at;
    while from < source.len() {
        let bytes = source.peek(from, 1 << 16)?;
        if bytes.windows(4).any(|window| window == b"OggS") {
            return Ok(false);
        }
        // The next look begins with the last three bytes of this one.
        from += bytes.len().saturating_sub(3).max(1) as u64;
    }
    Ok(true)
}

/// Codec of a stream by its first packet, or the name of one that is not read.
fn codec_of(head: &[u8]) -> std::result::Result<Codec, &'static str> {
    match head {
        _ if head.starts_with(b"\x01vorbis") => Ok(Codec::Vorbis),
        _ if head.starts_with(b"OpusHead") => Ok(Codec::Opus),
        _ if head.starts_with(b"\x7fFLAC") => Ok(Codec::Flac),
        _ if head.starts_with(b"Speex   ") => Err("Speex"),
        _ if head.starts_with(b"CELT    ") => Err("CELT"),
        _ if head.starts_with(b"PCM     ") => Err("OggPCM"),
        _ if head.starts_with(b"\x80theora") => Err("Theora video"),
        _ if head.starts_with(b"fishead") => Err("a skeleton"),
        _ => Err("an unknown codec"),
    }
}

/// Continues the checksum of a page over `bytes`.
///
/// Source: RFC 3533, section 6: polynomial 0x04c11db7, no reflection, initial value and final
/// XOR 0.
fn checksum(sum: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();

    bytes.iter().fold(sum, |sum, &byte| {
        sum << 8 ^ TABLE[usize::from((sum >> 24) as u8 ^ byte)]
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

fn lost(at: u64) -> Error {
    Error::input(format!("damaged: no Ogg page at byte {at}")).hint("copy or download it again")
}

fn no_samples() -> Error {
    Error::input("the recording has no samples").hint("record or convert it again")
}
