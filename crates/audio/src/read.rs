//! A recording as mono samples at 16 kHz: container, codec, channels, the wanted span, sampling rate.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as CodecError;
use symphonia::core::formats::FormatOptions;
use symphonia::core::formats::FormatReader;
use symphonia::core::formats::SeekMode;
use symphonia::core::formats::SeekTo;
use symphonia::core::formats::Track;
use symphonia::core::formats::TrackType;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::units::Timestamp;
use symphonia::default::formats::FlacReader;
use symphonia::default::formats::IsoMp4Reader;
use symphonia::default::formats::OggReader;
use symphonia::default::formats::WavReader;

use crate::Span;
use crate::append_mono;
use crate::check_channel;
use crate::mp4;
use crate::mpeg;
use crate::resample::RATES;
use crate::resample::num_resampled;
use crate::resample::resample;
use crate::source::Container;
use crate::source::Source;
use maqam_base::error::Error;
use maqam_base::error::Kind;
use maqam_base::error::Result;

/// How far a span's end may lie past the recording's, in seconds: rounding in a manifest, or an encoder's last frame. More is an error.
const END_TOLERANCE_S: f64 = 0.05;

/// Samples decoded and dropped before a span in a format whose packets overlap: the longest block of Vorbis.
const PREROLL_SAMPLES: usize = 8192;

/// Mono samples of a recording, or of a part of it, at 16 kHz. Channels are averaged where the span names none; 16 kHz recordings are not resampled.
///
/// Reads WAV, FLAC, MP3, Ogg Vorbis and M4A (AAC-LC), told apart by their contents; the delay and padding of an MP3 or AAC encoder are not
/// part of the recording.
///
/// # Shapes
/// `[num_samples]`
/// # Errors
/// Each names the file: it cannot be opened, is empty, truncated or damaged, has no samples, or samples that are not finite; the span
/// is empty or ends after the recording, or its channel is not there.
pub fn read(path: &Path, span: Span) -> Result<Vec<f32>> {
    let source = Source::open(path)?;
    Recording::open(source)
        .and_then(|recording| recording.samples(span))
        .map_err(|e| e.at_path(path))
}

/// As [`read`], from bytes in memory; `name` stands for the file's in messages.
pub fn read_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<Vec<f32>> {
    Recording::open(Source::from_bytes(bytes))
        .and_then(|recording| recording.samples(span))
        .map_err(|e| e.at(name))
}

/// Length of a recording, or of a part of it, in seconds: from its headers where they say it, else by decoding.
///
/// # Errors
/// As [`read`], but for what only decoding can find.
pub fn duration_s(path: &Path, span: Span) -> Result<f64> {
    let source = Source::open(path)?;
    Recording::open(source)
        .and_then(|recording| recording.duration_s(span))
        .map_err(|e| e.at_path(path))
}

/// As [`duration_s`], from bytes in memory; `name` stands for the file's in messages.
pub fn duration_s_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<f64> {
    Recording::open(Source::from_bytes(bytes))
        .and_then(|recording| recording.duration_s(span))
        .map_err(|e| e.at(name))
}

/// Number of samples that [`read`] gives for the same part: from the headers where they say it, else by decoding.
///
/// # Errors
/// As [`duration_s`].
pub fn num_samples(path: &Path, span: Span) -> Result<usize> {
    let source = Source::open(path)?;
    Recording::open(source)
        .and_then(|recording| recording.num_resampled(span))
        .map_err(|e| e.at_path(path))
}

/// As [`num_samples`], from bytes in memory; `name` stands for the file's in messages.
pub fn num_samples_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<usize> {
    Recording::open(Source::from_bytes(bytes))
        .and_then(|recording| recording.num_resampled(span))
        .map_err(|e| e.at(name))
}

/// Room made beforehand for at most this many samples, whatever a header promises.
const MOST_RESERVED_SAMPLES: usize = 1 << 22;

/// An opened recording.
enum Recording {
    Mpeg {
        bytes: Arc<[u8]>,
        stream: mpeg::Stream,
    },
    Packets(Box<Packets>),
}

/// A recording that a demuxer takes apart into packets.
struct Packets {
    format: Box<dyn FormatReader>,
    track: Track,
    decoder: Box<dyn AudioDecoder>,
    rate: u32,
    /// Number of channels, where the container says it reliably.
    channels: Option<usize>,
    /// Samples per channel, where the container says it.
    num_samples: Option<usize>,
    /// Decoded samples before the recording, an AAC encoder's delay; `None` where packets hold the recording and nothing else.
    delay: Option<usize>,
    /// Whether sample 0 is at time 0, so that a place in the recording can be sought.
    seekable: bool,
}

impl Recording {
    fn open(source: Source) -> Result<Self> {
        let (container, source) = source.into_container()?;
        if container == Container::Mpeg {
            let bytes = source.into_bytes()?;
            let stream = mpeg::Stream::find(&bytes)?;
            return Ok(Self::Mpeg { bytes, stream });
        }
        Packets::open(container, source).map(|packets| Self::Packets(Box::new(packets)))
    }

    fn rate(&self) -> u32 {
        match self {
            Self::Mpeg { stream, .. } => stream.rate,
            Self::Packets(packets) => packets.rate,
        }
    }

    fn num_samples(&self) -> Option<usize> {
        match self {
            Self::Mpeg { stream, .. } => Some(stream.num_samples()),
            Self::Packets(packets) => packets.num_samples,
        }
    }

    fn samples(self, span: Span) -> Result<Vec<f32>> {
        let rate = self.rate();
        let samples = self.native_samples(span)?;
        if let Some(at) = samples.iter().position(|x| !x.is_finite()) {
            let at_s = span.start_s.unwrap_or(0.0) + at as f64 / f64::from(rate);
            return Err(Error::input(format!(
                "a sample that is not finite ({}) at {at_s:.3} s",
                samples[at]
            ))
            .hint("repair or leave out this recording"));
        }
        resample(samples, rate)
    }

    fn duration_s(self, span: Span) -> Result<f64> {
        let rate = self.rate();
        Ok(self.num_native(span)? as f64 / f64::from(rate))
    }

    /// Number of the span's samples after resampling.
    fn num_resampled(self, span: Span) -> Result<usize> {
        let rate = self.rate();
        Ok(num_resampled(self.num_native(span)?, rate))
    }

    /// Number of the span's samples at the recording's own rate.
    fn num_native(self, span: Span) -> Result<usize> {
        if let Some(channels) = self.channels() {
            check_channel(span.channel, channels)?;
        }
        match self.num_samples() {
            Some(total) => Ok(resolve(span, self.rate(), Some(total))?.len()),
            None => Ok(self.native_samples(span)?.len()),
        }
    }

    /// Number of channels, where the headers say it.
    fn channels(&self) -> Option<usize> {
        match self {
            Self::Mpeg { stream, .. } => Some(stream.channels),
            Self::Packets(packets) => packets.channels,
        }
    }

    /// The span's samples at the recording's own rate.
    fn native_samples(self, span: Span) -> Result<Vec<f32>> {
        let wanted = resolve(span, self.rate(), self.num_samples())?;
        match self {
            Self::Mpeg { bytes, stream } => stream.decode(&bytes, wanted, span.channel),
            Self::Packets(packets) => packets.decode(span, wanted),
        }
    }
}

/// A span in samples at `rate`, inside a recording of `total` samples; a recording of unknown length has no end yet.
fn resolve(span: Span, rate: u32, total: Option<usize>) -> Result<Range<usize>> {
    if total == Some(0) {
        return Err(Error::input("the recording has no samples")
            .hint("its header may never have been completed; record or convert it again"));
    }
    let rate = f64::from(rate);
    let length = || {
        total.map_or(String::from("unknown"), |total| {
            format!("{:.3} s", total as f64 / rate)
        })
    };
    for (name, bound) in [("start_s", span.start_s), ("end_s", span.end_s)] {
        if let Some(found) = bound.filter(|s| !(s.is_finite() && *s >= 0.0)) {
            return Err(Error::input(format!("`{name}` is {found}"))
                .hint("spans are in seconds from the beginning of the recording"));
        }
    }
    let start = (span.start_s.unwrap_or(0.0) * rate).round() as usize;
    let end = span
        .end_s
        .map_or(usize::MAX, |s| (s * rate).round() as usize);
    if start >= end {
        let (start_s, end_s) = (span.start_s.unwrap_or(0.0), span.end_s.unwrap_or(0.0));
        return Err(Error::input(format!(
            "`end_s` ({end_s}) is not after `start_s` ({start_s})"
        ))
        .hint("fix the row, or drop both for the whole file"));
    }
    let Some(total) = total else {
        return Ok(start..end);
    };
    if start >= total {
        return Err(Error::input(format!(
            "`start_s` ({}) is not before the end of the recording, which is {} long",
            span.start_s.unwrap_or(0.0),
            length()
        ))
        .hint("correct where the row's part begins (`start_s`, `start`, `start_ms` or `offset`)"));
    }
    if end != usize::MAX && end as f64 > total as f64 + END_TOLERANCE_S * rate {
        let message = format!(
            "`end_s` ({}) is after the end of the recording, which is {} long",
            span.end_s.unwrap_or(0.0),
            length()
        );
        return Err(Error::input(message).hint(
            "correct where the row's part ends (`end_s`, `end`, `end_ms`, or `duration` beside `offset`)",
        ));
    }
    Ok(start..end.min(total))
}

impl Packets {
    fn open(container: Container, mut source: Source) -> Result<Self> {
        let moov = if container == Container::Mp4 {
            Some(source.moov()?)
        } else {
            None
        };
        let stream = MediaSourceStream::new(Box::new(source), Default::default());
        let options = FormatOptions::default();
        let opened: std::result::Result<Box<dyn FormatReader>, CodecError> = match container {
            Container::Wav => WavReader::try_new(stream, options).map(|r| Box::new(r) as _),
            Container::Flac => FlacReader::try_new(stream, options).map(|r| Box::new(r) as _),
            Container::Mp4 => IsoMp4Reader::try_new(stream, options).map(|r| Box::new(r) as _),
            Container::Ogg | Container::Mpeg => {
                OggReader::try_new(stream, options).map(|r| Box::new(r) as _)
            }
        };
        let format = opened.map_err(|e| codec_error(&e, "its header does not parse"))?;
        let Some(track) = format.default_track(TrackType::Audio).cloned() else {
            return Err(Error::input("no audio in a codec that is read")
                .hint("WAV, FLAC, MP3, Ogg Vorbis and M4A are read; convert it to one of them"));
        };
        let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
            return Err(Error::input(
                "the audio track does not say how it is encoded",
            ));
        };
        let rate = parameters.sample_rate.unwrap_or(0);
        if !RATES.contains(&rate) {
            return Err(
                Error::input(format!("the header says {rate} samples a second"))
                    .hint("copy or convert it again"),
            );
        }
        let channels = parameters
            .channels
            .as_ref()
            .map(|channels| channels.count());
        if channels == Some(0) {
            return Err(Error::input("the header says 0 channels").hint("copy or convert it again"));
        }
        let options = AudioDecoderOptions::default();
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &options)
            .map_err(|e| match container {
                Container::Mp4 => Error::input(format!(
                    "sound other than AAC-LC in mono or stereo, such as HE-AAC or ALAC ({e})"
                ))
                .hint(mp4::CONVERT),
                _ => codec_error(&e, "no decoder for its codec"),
            })?;
        if container == Container::Ogg && track.num_frames.is_none() {
            let message = "truncated or damaged: the Ogg stream has no last page";
            return Err(Error::input(message).hint(
                "copy or download it again; re-encode a piece that was cut out of a broadcast",
            ));
        }
        let delay = i64::from(track.delay.unwrap_or(0));
        let seekable = container != Container::Ogg || track.start_ts.get() + delay == 0;
        // An Ogg file says when it ends rather than how long it is.
        let num_samples = track
            .num_frames
            .map(|n| n as usize)
            .filter(|&n| seekable && !(n == 0 && container == Container::Flac));
        let edit = moov.map(|moov| mp4::edit(&moov, rate)).transpose()?;
        let num_samples = edit.map_or(num_samples, |edit| edit.len);
        Ok(Self {
            format,
            track,
            decoder,
            rate,
            // The box of an MP4 file often says 2 of a mono recording. The packets know better.
            channels: channels.filter(|_| container != Container::Mp4),
            num_samples,
            delay: edit.map(|edit| edit.delay),
            seekable,
        })
    }

    /// Samples `wanted` of the span's channel, or of the average of all; for a recording of unknown length `span` is compared with what was
    /// found.
    ///
    /// # Errors
    /// A packet that does not decode, packets that do not follow each other, an end before the announced one.
    fn decode(mut self, span: Span, wanted: Range<usize>) -> Result<Vec<f32>> {
        let delay = self.delay.unwrap_or(0);
        let wanted = wanted.start + delay..wanted.end.saturating_add(delay);
        let sought = self.seekable && wanted.start > PREROLL_SAMPLES && self.num_samples.is_some();
        if sought {
            let ts = Timestamp::new((wanted.start - PREROLL_SAMPLES) as i64);
            self.format
                .seek(
                    SeekMode::Accurate,
                    SeekTo::Timestamp {
                        ts,
                        track_id: self.track.id,
                    },
                )
                .map_err(|e| codec_error(&e, "cannot seek to the span"))?;
            self.decoder.reset();
        }
        let mut samples = Vec::with_capacity(wanted.len().min(MOST_RESERVED_SAMPLES));
        let mut scratch = Vec::new();
        // The timestamp of sample 0, and the number of the next sample.
        let mut origin = if self.seekable { Some(0) } else { None };
        let mut next: Option<usize> = None;
        while next.is_none_or(|next| next < wanted.end) {
            let at_s = next.unwrap_or(0) as f64 / f64::from(self.rate);
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(e) => return Err(packet_error(&e, at_s)),
            };
            if packet.track_id != self.track.id {
                continue;
            }
            let buffer = self
                .decoder
                .decode(&packet)
                .map_err(|e| packet_error(&e, at_s))?;
            if buffer.frames() == 0 {
                continue;
            }
            let timestamp = packet.pts.get() + packet.trim_start.get() as i64;
            let at = usize::try_from(timestamp - *origin.get_or_insert(timestamp))
                .map_err(|_| gap(at_s, timestamp, self.rate))?;
            if next.is_some_and(|next| next != at) || (next.is_none() && at > wanted.start) {
                return Err(gap(at_s, timestamp, self.rate));
            }
            let len_before = samples.len();
            append_mono(&buffer, span.channel, &mut scratch, &mut samples)?;
            let end = at + samples.len() - len_before;
            if at < wanted.start {
                samples.drain(len_before..len_before + (wanted.start - at).min(end - at));
            }
            next = Some(end);
        }
        let found = next.unwrap_or(0);
        let announced = self
            .track
            .num_frames
            .filter(|&n| n > 0)
            .map_or(0, |end| (end as i64 - origin.unwrap_or(0)).max(0) as usize);
        if found < announced.min(wanted.end) {
            return Err(ends_early(found, announced.min(wanted.end), self.rate));
        }
        if self.delay.is_none() && self.num_samples.is_some_and(|total| found > total) {
            return Err(Error::input(format!(
                "damaged: more audio than the {announced} samples that are announced"
            ))
            .hint("copy or download it again"));
        }
        if self.num_samples.is_none() {
            resolve(span, self.rate, Some(found.saturating_sub(delay)))?;
        }
        samples.truncate(wanted.len());
        Ok(samples)
    }
}

fn gap(at_s: f64, timestamp: i64, rate: u32) -> Error {
    let found_s = timestamp as f64 / f64::from(rate);
    Error::input(format!(
        "damaged: after {at_s:.3} s comes audio that belongs at {found_s:.3} s"
    ))
    .hint("copy or download it again, or re-encode it")
}

fn ends_early(found: usize, promised: usize, rate: u32) -> Error {
    let (found_s, promised_s) = (
        found as f64 / f64::from(rate),
        promised as f64 / f64::from(rate),
    );
    Error::input(format!(
        "truncated: the audio ends at {found_s:.3} s, but {promised_s:.3} s are announced"
    ))
    .hint("copy or download it again")
}

fn codec_error(error: &CodecError, what: &str) -> Error {
    match error {
        CodecError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            Error::input(format!("truncated: {what}")).hint("copy or download it again")
        }
        CodecError::IoError(io) => Error::new(Kind::Resource, format!("cannot read: {io}")),
        other => Error::input(format!("{what} ({other})")).hint("copy or convert it again"),
    }
}

fn packet_error(error: &CodecError, at_s: f64) -> Error {
    match error {
        CodecError::ResetRequired => Error::input(format!(
            "another recording begins in the same file at {at_s:.3} s"
        ))
        .hint("split the file, or re-encode it as one"),
        CodecError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Error::input(format!(
            "truncated: the file ends in the middle of a packet, at {at_s:.3} s"
        ))
        .hint("copy or download it again"),
        other => codec_error(
            other,
            &format!("damaged: the packet at {at_s:.3} s does not decode"),
        ),
    }
}
