//! A recording as mono samples at 16 kHz: container, codec, channels, the wanted span, sampling
//! rate.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::Span;
use crate::check_channel;
use crate::flac::Flac;
use crate::format;
use crate::format::Container;
use crate::mp4::Mp4;
use crate::mpeg::Mpeg;
use crate::ogg;
use crate::resample::num_resampled;
use crate::resample::resample;
use crate::samples::Stream;
use crate::samples::check_length;
use crate::samples::ends_early;
use crate::source::Source;
use crate::wav::Wav;
use crate::webm::WebM;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::panics;

/// Seconds by which a span may exceed the recording, through rounding or an encoder's last frame.
/// More is an error.
const END_TOLERANCE_S: f64 = 0.05;

/// Mono samples of a recording, or of a part of it, at 16 kHz. Without a channel in the span,
/// channels are averaged. 16 kHz recordings are not resampled.
///
/// Reads WAV, FLAC, MP3, Ogg (Vorbis, Opus, FLAC), WebM (Opus, Vorbis) and M4A (AAC-LC), by their
/// contents. The delay and padding of an encoder are not part of the recording.
///
/// # Shapes
/// `[num_samples]`
/// # Errors
/// Each names the file: it cannot be opened, is empty, truncated or damaged, has no samples, or
/// samples that are not finite; the span is empty or ends after the recording, or its channel is
/// not there.
pub fn read(path: &Path, span: Span) -> Result<Vec<f32>> {
    let source = Source::open(path)?;
    contained(|| Recording::open(source)?.samples(span)).map_err(|e| e.at_path(path))
}

/// Reads bytes in memory, as [`read`] does; `name` is the recording's name in messages.
pub fn read_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<Vec<f32>> {
    let source = Source::from_bytes(bytes);
    contained(|| Recording::open(source)?.samples(span)).map_err(|e| e.at(name))
}

/// Reads bytes in memory that nothing else needs, as [`read_bytes`] does.
pub fn read_vec(bytes: Vec<u8>, name: &str, span: Span) -> Result<Vec<f32>> {
    let source = Source::from_bytes(bytes);
    contained(|| Recording::open(source)?.samples(span)).map_err(|e| e.at(name))
}

/// Reads the bytes `range` of a file as one recording, as [`read`] does; `name` is the recording's
/// name in messages.
pub fn read_range(path: &Path, range: Range<u64>, name: &str, span: Span) -> Result<Vec<f32>> {
    let source = Source::open_range(path, range).map_err(|e| e.at(name))?;
    contained(|| Recording::open(source)?.samples(span)).map_err(|e| e.at(name))
}

/// Length of a recording, or of a part of it, in seconds: from its headers if they have it, else by
/// decoding.
///
/// # Errors
/// Those of [`read`], except those that only decoding finds.
pub fn duration_s(path: &Path, span: Span) -> Result<f64> {
    let source = Source::open(path)?;
    contained(|| Recording::open(source)?.duration_s(span)).map_err(|e| e.at_path(path))
}

/// Length of bytes in memory, as [`duration_s`] gives it; `name` is the recording's name in
/// messages.
pub fn duration_s_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<f64> {
    let source = Source::from_bytes(bytes);
    contained(|| Recording::open(source)?.duration_s(span)).map_err(|e| e.at(name))
}

/// Length of the bytes `range` of a file, as [`duration_s`] gives it; `name` is the recording's
/// name in messages.
pub fn duration_s_range(path: &Path, range: Range<u64>, name: &str, span: Span) -> Result<f64> {
    let source = Source::open_range(path, range).map_err(|e| e.at(name))?;
    contained(|| Recording::open(source)?.duration_s(span)).map_err(|e| e.at(name))
}

/// Number of samples that [`read`] returns for the same part: from the headers if they have it,
/// else by decoding.
///
/// # Errors
/// Those of [`duration_s`].
pub fn num_samples(path: &Path, span: Span) -> Result<usize> {
    let source = Source::open(path)?;
    contained(|| Recording::open(source)?.num_resampled(span)).map_err(|e| e.at_path(path))
}

/// Number of samples of bytes in memory, as [`num_samples`] gives it; `name` is the recording's
/// name in messages.
pub fn num_samples_bytes(bytes: Arc<[u8]>, name: &str, span: Span) -> Result<usize> {
    let source = Source::from_bytes(bytes);
    contained(|| Recording::open(source)?.num_resampled(span)).map_err(|e| e.at(name))
}

/// Number of samples of the bytes `range` of a file, as [`num_samples`] gives it; `name` is the
/// recording's name in messages.
pub fn num_samples_range(path: &Path, range: Range<u64>, name: &str, span: Span) -> Result<usize> {
    let source = Source::open_range(path, range).map_err(|e| e.at(name))?;
    contained(|| Recording::open(source)?.num_resampled(span)).map_err(|e| e.at(name))
}

/// Contents of a recording's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sampling rate of the recording, in Hz.
    pub rate: u32,
    /// Samples of one channel at that rate.
    pub num_samples: usize,
    /// Number of channels.
    pub channels: usize,
}

/// Reads the header of a file, or of its bytes `range`, and decodes if the header is incomplete.
/// `name` is the recording's name in messages.
///
/// # Errors
/// Those of [`read`].
pub fn header(path: &Path, range: Option<Range<u64>>, name: &str) -> Result<Header> {
    let source = match range {
        Some(range) => Source::open_range(path, range),
        None => Source::open(path),
    };
    let source = source.map_err(|e| e.at(name))?;
    contained(|| Recording::open(source)?.header()).map_err(|e| e.at(name))
}

/// Reads the header of bytes in memory, as [`header`] does.
pub fn header_bytes(bytes: Arc<[u8]>, name: &str) -> Result<Header> {
    let source = Source::from_bytes(bytes);
    contained(|| Recording::open(source)?.header()).map_err(|e| e.at(name))
}

/// Runs `work`, and turns a panic of a decoder into an error of the recording. A panic in maqam's
/// own source stays a bug.
pub(super) fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::contain(work).unwrap_or_else(|panic| {
        Err(if panic.is_ours {
            Error::bug(format!("{} ({})", panic.message, panic.place))
        } else {
            Error::input(format!(
                "damaged: its decoder stopped at a fault ({})",
                panic.message
            ))
            .hint("copy or download it again, or re-encode it")
        })
    })
}

/// An opened recording.
pub(super) struct Recording(Box<dyn Stream>);

impl Recording {
    pub(super) fn open(mut source: Source) -> Result<Self> {
        let stream: Box<dyn Stream> = match format::recognise(&mut source)? {
            Container::Wav => Box::new(Wav::open(source)?),
            Container::Flac => Box::new(Flac::open(source)?),
            Container::Ogg => Box::new(ogg::File::open(source)?),
            Container::Mpeg => Box::new(Mpeg::open(source)?),
            Container::Mp4 => Box::new(Mp4::open(source)?),
            Container::WebM => Box::new(WebM::open(source)?),
        };
        Ok(Self(stream))
    }

    /// Samples per second, in Hz.
    pub(super) fn rate(&self) -> u32 {
        self.0.rate()
    }

    /// Number of channels; `None` if only decoding gives it.
    pub(super) fn channels(&self) -> Option<usize> {
        self.0.channels()
    }

    /// Samples per channel; `None` if only decoding gives it.
    pub(super) fn announced(&self) -> Option<usize> {
        self.0.num_samples()
    }

    /// Finite samples of a part at the recording's own rate.
    pub(super) fn part(&mut self, span: Span) -> Result<Vec<f32>> {
        let samples = self.native_samples(span)?;
        if !are_finite(&samples)
            && let Some(at) = samples.iter().position(|x| !x.is_finite())
        {
            let at_s = span.start_s.unwrap_or(0.0) + at as f64 / f64::from(self.rate());
            return Err(Error::input(format!(
                "a sample that is not finite ({}) at {at_s:.3} s",
                samples[at]
            ))
            .hint("repair or leave out this recording"));
        }
        Ok(samples)
    }

    fn samples(mut self, span: Span) -> Result<Vec<f32>> {
        let rate = self.rate();
        resample(self.part(span)?, rate)
    }

    fn header(self) -> Result<Header> {
        let rate = self.0.rate();
        // A source without a number of channels is decoded and counts as mono, because parts
        // average the channels anyway.
        let channels = self.0.channels().unwrap_or(1);
        let num_samples = self.num_native(Span::WHOLE)?;
        Ok(Header {
            rate,
            num_samples,
            channels,
        })
    }

    fn duration_s(self, span: Span) -> Result<f64> {
        let rate = self.0.rate();
        Ok(self.num_native(span)? as f64 / f64::from(rate))
    }

    /// Number of the span's samples after resampling.
    fn num_resampled(self, span: Span) -> Result<usize> {
        let rate = self.0.rate();
        Ok(num_resampled(self.num_native(span)?, rate))
    }

    /// Number of the span's samples at the recording's own rate.
    fn num_native(mut self, span: Span) -> Result<usize> {
        if let Some(channels) = self.0.channels() {
            check_channel(span.channel, channels)?;
        }
        match self.0.num_samples() {
            Some(total) => Ok(resolve(span, self.0.rate(), total)?.len()),
            None => Ok(self.native_samples(span)?.len()),
        }
    }

    /// The span's samples at the recording's own rate.
    fn native_samples(&mut self, span: Span) -> Result<Vec<f32>> {
        let rate = self.0.rate();
        if let Some(channels) = self.0.channels() {
            check_channel(span.channel, channels)?;
        }
        match self.0.num_samples() {
            Some(total) => {
                let wanted = resolve(span, rate, total)?;
                check_length(wanted.len())?;
                let samples = self.0.decode(wanted.clone(), span.channel)?;
                if samples.len() != wanted.len() {
                    let end = wanted.start + samples.len();
                    return Err(ends_early(end as i64, wanted.end as i64, rate));
                }
                Ok(samples)
            }
            None => {
                let mut samples = self.0.decode(0..usize::MAX, span.channel)?;
                let wanted = resolve(span, rate, samples.len())?;
                samples.truncate(wanted.end);
                samples.drain(..wanted.start);
                Ok(samples)
            }
        }
    }
}

/// Returns whether all samples are finite. It reads all of them, because a loop that may end early
/// uses no vectors.
fn are_finite(samples: &[f32]) -> bool {
    samples
        .iter()
        .fold(true, |are_finite, x| are_finite & x.is_finite())
}

/// A span in samples at `rate`, inside a recording of `total` samples.
pub(super) fn resolve(span: Span, rate: u32, total: usize) -> Result<Range<usize>> {
    if total == 0 {
        return Err(Error::input("the recording has no samples")
            .hint("its header may never have been completed; record or convert it again"));
    }
    let rate = f64::from(rate);
    let length_s = total as f64 / rate;
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
        let start_s = span.start_s.unwrap_or(0.0);
        let end_s = span.end_s.unwrap_or(0.0);
        return Err(Error::input(format!(
            "`end_s` ({end_s}) is not after `start_s` ({start_s})"
        ))
        .hint("fix the row, or drop both for the whole file"));
    }
    if start >= total {
        return Err(Error::input(format!(
            "`start_s` ({}) is not before the end of the recording, which is {length_s:.3} s long",
            span.start_s.unwrap_or(0.0)
        ))
        .hint("correct where the row's part begins (`start_s`, `start`, `start_ms` or `offset`)"));
    }
    if end != usize::MAX && end as f64 > total as f64 + END_TOLERANCE_S * rate {
        let message = format!(
            "`end_s` ({}) is after the end of the recording, which is {length_s:.3} s long",
            span.end_s.unwrap_or(0.0)
        );
        return Err(Error::input(message).hint(
            "correct where the row's part ends (`end_s`, `end`, `end_ms`, or `duration` beside `offset`)",
        ));
    }
    Ok(start..end.min(total))
}
