//! MP4: the packets of the first sound track, and the range of decoded samples that is the
//! recording.
//!
//! The general demuxer is not used, because it does not read edit lists, looks each packet up from
//! the beginning of its tables, and allocates for counts that exceed the file.
//!
//! Source: ISO/IEC 14496-12 (boxes, tables of samples, fragments), ISO/IEC 14496-1, section 7.2.6
//! (descriptors).

use std::ops::Range;

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
use maqam_base::error::Result;

/// Samples of an AAC packet.
const PACKET_SAMPLES: usize = 1024;

/// Packets decoded and dropped before a part: each overlaps with the one before it.
const PREROLL_PACKETS: usize = 2;

/// An MP4 file's sound.
pub(super) struct Mp4 {
    source: Source,
    decoder: Decoder,
    packets: Vec<Packet>,
    edit: Edit,
}

/// Place and length of a packet in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    at: u64,
    len: u32,
}

/// Packets of a track and the ticks of its clock that they fill.
#[derive(Debug, Default, PartialEq, Eq)]
struct Packets {
    found: Vec<Packet>,
    /// Bytes of all packets, which are at most the bytes of the file.
    bytes: u64,
    /// Tick at which the first packet begins.
    begin: u64,
    /// Length of all packets.
    ticks: u64,
    /// The first packet whose length is not that of AAC; only the last packet may have another.
    odd: Option<usize>,
}

/// A box at the outermost level: its kind, the place of its header, and the range of its contents.
struct Outer {
    kind: [u8; 4],
    at: u64,
    contents: Range<u64>,
}

impl Mp4 {
    /// Reads the tables of the first sound track.
    ///
    /// # Errors
    /// A box or packet that is cut off, tables that contradict each other, no sound, or sound that
    /// is not AAC-LC.
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let boxes = outer_boxes(&mut source)?;
        let Some(outer) = boxes.iter().find(|outer| &outer.kind == b"moov") else {
            return Err(Error::input(
                "truncated: an MP4 file without its `moov` box, which is often the last",
            )
            .hint("copy or download it again"));
        };
        let moov = contents(&mut source, outer)?;
        let track = sound_track(&moov)?;
        let media = required(track, b"mdia")?;
        let table = required(required(media, b"minf")?, b"stbl")?;
        let decoder = decoder(required(table, b"stsd")?)?;

        let mut packets = Packets::default();
        read_table(table, source.len(), &mut packets)?;
        let id = track_id(track)?;
        let defaults = fragment_defaults(&moov, id)?;
        for fragment in boxes.iter().filter(|outer| &outer.kind == b"moof") {
            let bytes = contents(&mut source, fragment)?;
            read_fragment(
                &bytes,
                fragment.at,
                id,
                defaults,
                source.len(),
                &mut packets,
            )?;
        }

        let edit = edit(&moov, decoder.rate, packets.ticks)?;
        if let Some(odd) = packets.odd.filter(|odd| odd + 1 < packets.found.len()) {
            let end = (odd + 1) * PACKET_SAMPLES;
            let message = format!(
                "damaged: the packet before {:.3} s is not as long as its sound",
                end as f64 / f64::from(decoder.rate)
            );
            return Err(Error::input(message).hint(CONVERT));
        }
        let decoded = packets.found.len() * PACKET_SAMPLES;
        let announced = edit.delay.saturating_add(edit.len);
        if edit.len > 0 && announced > decoded {
            return Err(ends_early(decoded as i64, announced as i64, decoder.rate));
        }
        check_length(edit.len)?;
        Ok(Self {
            source,
            decoder,
            packets: packets.found,
            edit,
        })
    }
}

impl Stream for Mp4 {
    fn rate(&self) -> u32 {
        self.decoder.rate
    }

    fn channels(&self) -> Option<usize> {
        Some(self.decoder.channels)
    }

    fn num_samples(&self) -> Option<usize> {
        Some(self.edit.len)
    }

    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>> {
        let rate = self.decoder.rate;
        let wanted = wanted.start + self.edit.delay..wanted.end + self.edit.delay;
        let first = (wanted.start / PACKET_SAMPLES).saturating_sub(PREROLL_PACKETS);
        let last = wanted.end.div_ceil(PACKET_SAMPLES).min(self.packets.len());
        self.decoder.reset()?;

        let mut samples = Vec::with_capacity(wanted.len().min(MOST_RESERVED_SAMPLES));
        for index in first..last {
            let Packet { at, len } = self.packets[index];
            let position = index * PACKET_SAMPLES;
            let packet = self.source.bytes(at, len as usize)?;
            let len_before = samples.len();
            let found = self
                .decoder
                .decode(packet, channel, &mut samples)
                .map_err(|e| packet_error(e, position as i64, rate))?;
            if found != PACKET_SAMPLES {
                return Err(gap(
                    (position + found) as i64,
                    (position + PACKET_SAMPLES) as i64,
                    rate,
                ));
            }
            if position < wanted.start {
                let before = (wanted.start - position).min(found);
                samples.drain(len_before..len_before + before);
            }
        }
        samples.truncate(wanted.len());
        Ok(samples)
    }
}

/// Boxes that lie next to each other in the file.
///
/// # Errors
/// A box that ends after the file.
fn outer_boxes(source: &mut Source) -> Result<Vec<Outer>> {
    let mut boxes = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let left = source.len() - at;
        let header = source.peek(at, 16)?;
        let (header_len, len) = match box_len(header) {
            // The last box may omit its length.
            Some((header_len, 0)) => (header_len, left),
            Some((header_len, len)) if len >= header_len as u64 => (header_len, len),
            _ => {
                return Err(
                    Error::input("damaged: the MP4 file's boxes do not follow each other")
                        .hint("copy or download it again"),
                );
            }
        };
        let Some(&[a, b, c, d]) = header.get(4..8) else {
            return Err(damaged("box"));
        };
        let kind = [a, b, c, d];
        if len > left || len < header_len as u64 {
            return Err(Error::input(format!(
                "truncated: the MP4 file's `{}` box has {len} bytes, the file has {left} more",
                name(kind)
            ))
            .hint("copy or download it again"));
        }
        boxes.push(Outer {
            kind,
            at,
            contents: at + header_len as u64..at + len,
        });
        at += len;
    }
    Ok(boxes)
}

fn contents(source: &mut Source, outer: &Outer) -> Result<Vec<u8>> {
    let len = (outer.contents.end - outer.contents.start) as usize;
    Ok(source.bytes(outer.contents.start, len)?.to_vec())
}

/// Contents of the first `trak` box whose handler is sound.
fn sound_track(moov: &[u8]) -> Result<&[u8]> {
    let mut others = Vec::new();
    for (kind, track) in children(moov)? {
        if &kind != b"trak" {
            continue;
        }
        let media = required(track, b"mdia")?;
        match child(media, b"hdlr")?.and_then(|handler| handler.get(8..12)) {
            Some(b"soun") => return Ok(track),
            Some(b"vide") => others.push("video"),
            _ => others.push("another track"),
        }
    }
    let held = if others.is_empty() {
        String::new()
    } else {
        format!(", only {}", others.join(" and "))
    };
    Err(Error::input(format!("an MP4 file without sound{held}"))
        .hint("leave it out, or copy the recording again"))
}

/// Number by which fragments name the track.
fn track_id(track: &[u8]) -> Result<u64> {
    let header = required(track, b"tkhd")?;
    let at = if header.first() == Some(&1) { 20 } else { 12 };
    number_at(header, at, 4).ok_or_else(|| damaged("tkhd"))
}

/// A decoder of the track's sound.
fn decoder(descriptions: &[u8]) -> Result<Decoder> {
    let entries = descriptions.get(8..).unwrap_or_default();
    let Some((kind, entry)) = children(entries)?.into_iter().next() else {
        return Err(damaged("stsd"));
    };
    if &kind != b"mp4a" {
        let what = match &kind {
            b"alac" => "Apple Lossless (ALAC)".to_owned(),
            b"Opus" => "Opus".to_owned(),
            b"fLaC" => "FLAC".to_owned(),
            b"ac-3" | b"ec-3" => "Dolby Digital".to_owned(),
            b"samr" => "AMR".to_owned(),
            b"sawb" => "AMR-WB".to_owned(),
            b".mp3" => "MP3".to_owned(),
            b"enca" | b"drms" => "encrypted sound".to_owned(),
            b"sowt" | b"twos" | b"lpcm" | b"in24" | b"fl32" => "PCM".to_owned(),
            _ => format!("sound of kind `{}`", name(kind)),
        };
        return Err(unread(&what));
    }
    // Versions 1 and 2 of QuickTime's description are longer.
    let fixed = match number_at(entry, 8, 2) {
        Some(1) => 44,
        Some(2) => 64,
        _ => 28,
    };
    let boxes = entry.get(fixed..).ok_or_else(|| damaged("mp4a"))?;
    let wave = child(boxes, b"wave")?.unwrap_or_default();
    let descriptor = match child(boxes, b"esds")? {
        Some(found) => found,
        None => required(wave, b"esds")?,
    };
    let (object, config) = descriptor
        .get(4..)
        .and_then(decoder_config)
        .ok_or_else(|| damaged("esds"))?;
    match object {
        0x40 | 0x67 => {}
        0x66 | 0x68 => return Err(unread("MPEG-2 AAC of another profile than LC")),
        0x69 | 0x6b => return Err(unread("MP3")),
        other => return Err(unread(&format!("sound of MPEG-4 type {other:#x}"))),
    }
    match config.first().map(|first| first >> 3) {
        Some(2) => {}
        Some(1) => return Err(unread("AAC of the Main profile")),
        Some(5) => return Err(unread("HE-AAC")),
        Some(29) => return Err(unread("HE-AAC v2")),
        Some(23 | 39) => return Err(unread("low-delay AAC")),
        Some(31) => return Err(unread("xHE-AAC or another extended AAC")),
        Some(other) => return Err(unread(&format!("AAC of object type {other}"))),
        None => return Err(damaged("esds")),
    }
    let channels = config.get(1).map_or(0, |second| second >> 3 & 15);
    if channels > 2 {
        return Err(unread(&format!("AAC with channel layout {channels}")));
    }
    Decoder::aac(config).map_err(|error| {
        if error.message().contains("too complex") {
            unread("HE-AAC, or AAC with another packet length")
        } else {
            error
        }
    })
}

/// Type of the sound and the decoder's own configuration, from nested descriptors.
fn decoder_config(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let stream = descriptor(bytes, 3)?;
    let flags = *stream.get(2)?;
    let mut at = 3;
    if flags & 0x80 != 0 {
        at += 2;
    }
    if flags & 0x40 != 0 {
        at += 1 + usize::from(*stream.get(at)?);
    }
    if flags & 0x20 != 0 {
        at += 2;
    }
    let decoder = descriptor(stream.get(at..)?, 4)?;
    let object = *decoder.first()?;
    Some((
        object,
        descriptor(decoder.get(13..)?, 5).unwrap_or_default(),
    ))
}

/// Contents of the descriptor of kind `tag` that begins here; its length is written in groups of
/// seven bits.
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    if bytes.first() != Some(&tag) {
        return None;
    }
    let mut len = 0;
    for at in 1..=4 {
        let byte = *bytes.get(at)?;
        len = len << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            let contents = bytes.get(at + 1..)?;
            return Some(&contents[..len.min(contents.len())]);
        }
    }
    None
}

/// Reads the tables of an `stbl` box; a file of fragments has empty ones.
fn read_table(table: &[u8], file_len: u64, packets: &mut Packets) -> Result<()> {
    let sizes = child(table, b"stsz")?;
    let Some(sizes) = sizes else {
        return Err(match child(table, b"stz2")? {
            Some(_) => unread("packets of compact sizes (`stz2`)"),
            None => damaged("stsz"),
        });
    };
    let fixed = number_at(sizes, 4, 4).ok_or_else(|| damaged("stsz"))?;
    let count = number_at(sizes, 8, 4).ok_or_else(|| damaged("stsz"))?;
    if count == 0 {
        return Ok(());
    }
    let listed = sizes.get(12..).unwrap_or_default().chunks_exact(4);
    let enough = if fixed == 0 {
        count <= listed.len() as u64
    } else {
        count.saturating_mul(fixed) <= file_len
    };
    if !enough {
        return Err(damaged("stsz"));
    }
    let mut sizes = listed.map(big_endian);
    let mut next_size = || {
        if fixed > 0 { Some(fixed) } else { sizes.next() }
    };

    let places: Vec<u64> = match child(table, b"stco")? {
        Some(places) => entries(places, 4).map(big_endian).collect(),
        None => entries(required(table, b"co64")?, 8)
            .map(big_endian)
            .collect(),
    };
    let runs: Vec<(u64, u64)> = entries(required(table, b"stsc")?, 12)
        .map(|entry| (big_endian(&entry[..4]), big_endian(&entry[4..8])))
        .collect();
    let mut run = 0;
    'chunks: for (chunk, &place) in places.iter().enumerate() {
        // Runs count chunks from 1.
        while runs
            .get(run + 1)
            .is_some_and(|&(first, _)| first <= chunk as u64 + 1)
        {
            run += 1;
        }
        let per_chunk = runs.get(run).ok_or_else(|| damaged("stsc"))?.1;
        let mut at = place;
        for _ in 0..per_chunk {
            if packets.found.len() as u64 == count {
                break 'chunks;
            }
            let size = next_size().ok_or_else(|| damaged("stsz"))?;
            packets.push(at, size, file_len)?;
            at += size;
        }
    }
    if (packets.found.len() as u64) < count {
        return Err(damaged("stco"));
    }

    let mut left = count;
    for entry in entries(required(table, b"stts")?, 8) {
        let num_packets = big_endian(&entry[..4]).min(left);
        packets.last(num_packets, big_endian(&entry[4..8]), count - left);
        left -= num_packets;
    }
    if left > 0 {
        return Err(damaged("stts"));
    }
    Ok(())
}

/// Defaults of a fragment's packets.
#[derive(Clone, Copy, Debug, Default)]
struct Defaults {
    ticks: u64,
    size: u64,
}

/// Defaults of the track with number `id`.
fn fragment_defaults(moov: &[u8], id: u64) -> Result<Defaults> {
    for (kind, track) in children(child(moov, b"mvex")?.unwrap_or_default())? {
        if &kind == b"trex" && number_at(track, 4, 4) == Some(id) {
            return Ok(Defaults {
                ticks: number_at(track, 12, 4).ok_or_else(|| damaged("trex"))?,
                size: number_at(track, 16, 4).ok_or_else(|| damaged("trex"))?,
            });
        }
    }
    Ok(Defaults::default())
}

/// Adds the packets of a `moof` box whose header is at byte `moof_at` of the file.
fn read_fragment(
    moof: &[u8],
    moof_at: u64,
    id: u64,
    defaults: Defaults,
    file_len: u64,
    packets: &mut Packets,
) -> Result<()> {
    for (kind, fragment) in children(moof)? {
        if &kind != b"traf" {
            continue;
        }
        let header = required(fragment, b"tfhd")?;
        if number_at(header, 4, 4) != Some(id) {
            continue;
        }
        let flags = number_at(header, 1, 3).unwrap_or(0);
        let mut fields = Fields(header.get(8..).unwrap_or_default());
        let base = fields.take(flags & 0x1 != 0, 8, "tfhd")?.unwrap_or(moof_at);
        fields.take(flags & 0x2 != 0, 4, "tfhd")?;
        let ticks = fields.take(flags & 0x8 != 0, 4, "tfhd")?;
        let size = fields.take(flags & 0x10 != 0, 4, "tfhd")?;
        let defaults = Defaults {
            ticks: ticks.unwrap_or(defaults.ticks),
            size: size.unwrap_or(defaults.size),
        };

        if let Some(time) = child(fragment, b"tfdt")? {
            let len = if time.first() == Some(&1) { 8 } else { 4 };
            let begins = number_at(time, 4, len).ok_or_else(|| damaged("tfdt"))?;
            // A file may begin in the middle of a broadcast, but must have no gaps.
            if !packets.found.is_empty() && begins != packets.begin.wrapping_add(packets.ticks) {
                return Err(Error::input(format!(
                    "damaged: a fragment begins at tick {begins} and the one before it ends at {}",
                    packets.begin.wrapping_add(packets.ticks)
                ))
                .hint("copy or download it again, or re-encode it"));
            }
            if packets.found.is_empty() {
                packets.begin = begins;
            }
        }

        let mut at = base;
        for (kind, run) in children(fragment)? {
            if &kind == b"trun" {
                at = read_run(run, base, at, defaults, file_len, packets)?;
            }
        }
    }
    Ok(())
}

/// Adds the packets of a `trun` box, and returns where the last one ends.
fn read_run(
    run: &[u8],
    base: u64,
    at: u64,
    defaults: Defaults,
    file_len: u64,
    packets: &mut Packets,
) -> Result<u64> {
    let flags = number_at(run, 1, 3).unwrap_or(0);
    let count = number_at(run, 4, 4).ok_or_else(|| damaged("trun"))?;
    let mut fields = Fields(run.get(8..).unwrap_or_default());
    let offset = fields.take(flags & 0x1 != 0, 4, "trun")?;
    fields.take(flags & 0x4 != 0, 4, "trun")?;
    let mut at = match offset {
        Some(offset) => base.wrapping_add_signed(i64::from(offset as u32 as i32)),
        None => at,
    };
    for _ in 0..count {
        let ticks = fields.take(flags & 0x100 != 0, 4, "trun")?;
        let size = fields.take(flags & 0x200 != 0, 4, "trun")?;
        fields.take(flags & 0x400 != 0, 4, "trun")?;
        fields.take(flags & 0x800 != 0, 4, "trun")?;
        let size = size.unwrap_or(defaults.size);
        // No packet is empty, so that the file's bytes bound their number.
        packets.push(at, size, file_len)?;
        packets.last(
            1,
            ticks.unwrap_or(defaults.ticks),
            packets.found.len() as u64 - 1,
        );
        at += size;
    }
    Ok(at)
}

impl Packets {
    /// Adds a packet of `size` bytes.
    ///
    /// # Errors
    /// A packet that is empty or ends after the file, more bytes than the file has.
    fn push(&mut self, at: u64, size: u64, file_len: u64) -> Result<()> {
        let number = self.found.len() + 1;
        if size == 0 {
            return Err(Error::input(format!(
                "damaged: packet {number} of the MP4 file's sound has no bytes"
            ))
            .hint("copy or download it again"));
        }
        if at.checked_add(size).is_none_or(|end| end > file_len) {
            return Err(Error::input(format!(
                "truncated: packet {number} of the MP4 file's sound ends after the file"
            ))
            .hint("copy or download it again"));
        }
        self.bytes += size;
        if self.bytes > file_len {
            return Err(Error::input(
                "damaged: the MP4 file's packets hold more bytes than the file",
            )
            .hint("copy or download it again"));
        }
        self.found.push(Packet {
            at,
            len: size as u32,
        });
        Ok(())
    }

    /// Counts `num_packets` packets, the first of them number `first`, as `ticks` long each.
    fn last(&mut self, num_packets: u64, ticks: u64, first: u64) {
        self.ticks = self.ticks.saturating_add(num_packets.saturating_mul(ticks));
        if ticks != PACKET_SAMPLES as u64 && num_packets > 0 && self.odd.is_none() {
            self.odd = Some(first as usize);
        }
    }
}

/// Successive numbers, each present only if its flag is set.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, is_there: bool, len: usize, place: &str) -> Result<Option<u64>> {
        if !is_there {
            return Ok(None);
        }
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(|| damaged(place))?;
        self.0 = rest;
        Ok(Some(big_endian(bytes)))
    }
}

/// Entries of `width` bytes of a table that begins with its version and their number.
fn entries(table: &[u8], width: usize) -> impl Iterator<Item = &[u8]> {
    let count = number_at(table, 4, 4).unwrap_or(0);
    table
        .get(8..)
        .unwrap_or_default()
        .chunks_exact(width)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
}

/// The part of the decoder's output that is the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    /// Samples before it.
    delay: usize,
    /// Number of samples.
    len: usize,
}

/// Reads the edit list of the first sound track of a `moov` box, whose packets have `rate` samples
/// per second and fill `ticks` of them.
///
/// # Errors
/// No sound track, a box that is cut off, a clock other than the sampling rate, an edit list that
/// rearranges the sound.
fn edit(moov: &[u8], rate: u32, ticks: u64) -> Result<Edit> {
    let movie_clock = clock(required(moov, b"mvhd")?)?;
    let track = sound_track(moov)?;
    let ticks_a_second = clock(required(required(track, b"mdia")?, b"mdhd")?)?;
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
            len: length(ticks, delay, edited, rate, movie_clock) as usize,
        });
    }
    Ok(itunes(moov).unwrap_or(Edit {
        delay: 0,
        len: ticks as usize,
    }))
}

/// Hint for an MP4 file that cannot be read.
const CONVERT: &str =
    "AAC-LC in mono or stereo is read; convert the file to FLAC: ffmpeg -i OLD NEW.flac";

/// Length of an edit in samples: to the end of the track if the edit list, whose clock is coarser,
/// agrees within a tick.
fn length(ticks: u64, delay: u64, edited: u64, rate: u32, movie_clock: u64) -> u64 {
    let to_end = ticks.saturating_sub(delay);
    let tick = u64::from(rate).div_ceil(movie_clock.max(1));
    let by_list = edited.saturating_mul(u64::from(rate)) / movie_clock.max(1);
    if edited == 0 || by_list.saturating_add(tick) >= to_end {
        to_end
    } else {
        by_list
    }
}

/// Start and duration of the only edit of a list; a pause before it, which aligns sound with
/// pictures, is not part of the recording.
fn single_edit(list: &[u8]) -> Result<(u64, u64)> {
    let wide = list.first() == Some(&1);
    let (width, entry_len) = if wide { (8, 20) } else { (4, 12) };
    let entries: Vec<(u64, i64)> = list
        .get(8..)
        .unwrap_or_default()
        .chunks_exact(entry_len)
        .map(|entry| {
            let start = big_endian(&entry[width..2 * width]);
            (
                big_endian(&entry[..width]),
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

/// The comment in which iTunes and Apple's encoders write delay, padding and length, in
/// hexadecimal.
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
    let delay = fields.next()?.ok()?;
    let _padding = fields.next()?.ok()?;
    let len = fields.next()?.ok()?;
    Some(Edit {
        delay: delay as usize,
        len: len as usize,
    })
}

/// Ticks per second of an `mvhd` or `mdhd` box.
fn clock(header: &[u8]) -> Result<u64> {
    let at = if header.first() == Some(&1) { 20 } else { 12 };
    number_at(header, at, 4).ok_or_else(|| damaged("clock"))
}

fn required<'a>(contents: &'a [u8], wanted: &[u8; 4]) -> Result<&'a [u8]> {
    child(contents, wanted)?.ok_or_else(|| damaged(&name(*wanted)))
}

fn child<'a>(contents: &'a [u8], wanted: &[u8; 4]) -> Result<Option<&'a [u8]>> {
    Ok(children(contents)?
        .into_iter()
        .find(|(kind, _)| kind == wanted)
        .map(|(_, contents)| contents))
}

/// Kind and contents of the boxes inside one.
fn children(contents: &[u8]) -> Result<Vec<([u8; 4], &[u8])>> {
    let mut rest = contents;
    let mut found = Vec::new();
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

/// Length of the header and of the whole of the box that begins with `bytes` (16 of them, if there
/// are); 0 for one that ends with the file.
fn box_len(bytes: &[u8]) -> Option<(usize, u64)> {
    match big_endian(bytes.get(..4)?) {
        1 => Some((16, big_endian(bytes.get(8..16)?))),
        len => Some((8, len)),
    }
}

/// The big-endian number of `len` bytes at `at`.
fn number_at(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    bytes.get(at..at + len).map(big_endian)
}

/// Kind of a box as text.
fn name(kind: [u8; 4]) -> String {
    kind.escape_ascii().to_string()
}

fn unread(what: &str) -> Error {
    Error::input(format!("an MP4 file with {what}, which is not read")).hint(CONVERT)
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

    /// A `moov` with one sound track of 16 kHz and `ticks` samples; edits are (duration in ms,
    /// start).
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

    fn found(ticks: u32, edits: &[(u32, i32)]) -> (usize, usize) {
        let edit = edit(&moov(ticks, edits, b""), 16_000, u64::from(ticks)).unwrap();
        (edit.delay, edit.len)
    }

    #[test]
    fn edits_are_delay_and_length() {
        assert_eq!(found(30_957, &[]), (0, 30_957));
        assert_eq!(
            found(30_957, &[(1871, 1024)]),
            (1024, 29_933),
            "the list's millisecond is coarser than a sample"
        );
        assert_eq!(
            found(30_957, &[(40, -1), (1871, 1024)]),
            (1024, 29_933),
            "a pause before"
        );
        assert_eq!(
            found(30_957, &[(1000, 1024)]),
            (1024, 16_000),
            "a file cut short without encoding it again"
        );
        assert_eq!(found(30_957, &[(0, 1024)]), (1024, 29_933), "fragments");
        let two = edit(
            &moov(30_957, &[(500, 1024), (500, 9000)], b""),
            16_000,
            30_957,
        )
        .unwrap_err();
        assert!(two.to_string().contains("2 pieces"), "{two}");
    }

    #[test]
    fn apples_comment_counts_without_an_edit_list() {
        let comment = b"....iTunSMPB\0\0\0\x84data\0\0\0\x01\0\0\0\0 00000000 00000840 000001CA 00000000000074ED 00000000 00000000";
        assert_eq!(
            edit(&moov(32_768, &[], &wrap(b"udta", comment)), 16_000, 32_768).unwrap(),
            Edit {
                delay: 2112,
                len: 29_933
            }
        );
        assert_eq!(
            edit(
                &moov(30_957, &[(1871, 1024)], &wrap(b"udta", comment)),
                16_000,
                30_957
            )
            .unwrap()
            .delay,
            1024
        );
    }

    #[test]
    fn a_clock_that_is_not_the_sampling_rate_is_refused() {
        let error = edit(&moov(30_957, &[], b""), 8000, 30_957)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("16000 ticks a second") && error.contains("HE-AAC"),
            "{error}"
        );
    }
}
