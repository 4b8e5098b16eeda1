//! Examines a recording for faults that reading it for a model ignores: silence, cancelling
//! channels, clipping.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::Span;
use crate::loudness;
use crate::read::Recording;
use crate::read::contained;
use crate::read::resolve;
use crate::source::Source;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Smallest absolute value of a sample at full scale.
const FULL_SCALE: f32 = 0.999;

/// Number of consecutive samples at full scale that count as clipping; one or two are a peak.
const CLIPPED_RUN: usize = 3;

/// Facts about a recording or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// Sampling rate of the file, in Hz.
    pub rate: u32,
    /// Number of channels; `None` if only decoding gives it.
    pub channels: Option<usize>,
    /// Length of the part in seconds, from the header if it has it, else from decoding.
    pub duration_s: f64,
    /// Facts from decoding; `None` without `decode`.
    pub decoded: Option<Decoded>,
}

/// Facts about samples, which are those of the average of all channels unless a span names a
/// channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Largest absolute sample value; full scale is 1.
    pub peak: f32,
    /// Root mean square of the samples.
    pub rms: f64,
    /// Root mean square of the first channel, if channels are averaged.
    pub first_channel_rms: Option<f64>,
    /// Share of the samples in runs of at least three at full scale.
    pub clipped_share: f64,
    /// BLAKE3 of the samples, rounded to 16 bits, and of their rate: equal for equal sound in
    /// different lossless files.
    pub content: [u8; 16],
}

/// Reasons why a recording cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The recording has no bytes or no samples.
    Empty,
    /// The part is empty or outside the recording.
    Span,
    /// The recording cannot be opened, or is damaged.
    Damaged,
}

/// A recording that cannot be used.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The reason.
    pub kind: FaultKind,
    /// The reason in words, with the file's name.
    pub error: Error,
}

/// Examines a recording or a part of it. Without `decode`, reads only its headers if they suffice.
///
/// # Errors
/// A recording that cannot be used.
pub fn examine(path: &Path, span: Span, decode: bool) -> std::result::Result<Examined, Fault> {
    of_source(
        || Source::open(path),
        span,
        decode,
        &path.display().to_string(),
    )
}

/// Examines bytes in memory, as [`examine`] does; `name` is the recording's name in messages.
///
/// # Errors
/// A recording that cannot be used.
pub fn examine_bytes(
    bytes: &Arc<[u8]>,
    name: &str,
    span: Span,
    decode: bool,
) -> std::result::Result<Examined, Fault> {
    of_source(|| Ok(Source::from_bytes(bytes.clone())), span, decode, name)
}

/// Examines the bytes `range` of a file as one recording, as [`examine`] does; `name` is the
/// recording's name in messages.
///
/// # Errors
/// A recording that cannot be used.
pub fn examine_range(
    path: &Path,
    range: Range<u64>,
    name: &str,
    span: Span,
    decode: bool,
) -> std::result::Result<Examined, Fault> {
    let open = || Source::open_range(path, range.clone());
    of_source(open, span, decode, name)
}

fn of_source(
    open: impl Fn() -> Result<Source>,
    span: Span,
    decode: bool,
    name: &str,
) -> std::result::Result<Examined, Fault> {
    let mut kind = FaultKind::Damaged;
    contained(|| look_at(open, span, decode, &mut kind)).map_err(|error| Fault {
        kind,
        error: error.at(name),
    })
}

/// Examines a source. `kind` holds the kind of fault that an error would mean at each moment.
fn look_at(
    open: impl Fn() -> Result<Source>,
    span: Span,
    decode: bool,
    kind: &mut FaultKind,
) -> Result<Examined> {
    let source = open()?;
    if source.len() == 0 {
        *kind = FaultKind::Empty;
        return Err(Error::input("is empty (0 bytes)").hint("copy or download it again"));
    }
    let mut recording = Recording::open(source)?;
    let rate = recording.rate();
    let channels = recording.channels();
    if let Some(total) = recording.announced() {
        *kind = match total {
            0 => FaultKind::Empty,
            _ => FaultKind::Span,
        };
        let num_samples = resolve(span, rate, total)?.len();
        *kind = FaultKind::Damaged;
        if !decode {
            return Ok(Examined {
                rate,
                channels,
                duration_s: num_samples as f64 / f64::from(rate),
                decoded: None,
            });
        }
    }

    let samples = recording.part(span)?;
    // Not every container can be decoded twice, so the first channel is read from a second source.
    let is_mixed = span.channel.is_none() && channels.is_none_or(|channels| channels > 1);
    let first_channel_rms = match decode && is_mixed {
        true => {
            let first = Span {
                channel: Some(0),
                ..span
            };
            Some(loudness::rms(&Recording::open(open()?)?.part(first)?))
        }
        false => None,
    };
    Ok(Examined {
        rate,
        channels,
        duration_s: samples.len() as f64 / f64::from(rate),
        decoded: decode.then(|| Decoded {
            peak: loudness::peak_of(&samples),
            rms: loudness::rms(&samples),
            first_channel_rms,
            clipped_share: clipped_share(&samples),
            content: content(&samples, rate),
        }),
    })
}

/// Share of the samples in runs of at least [`CLIPPED_RUN`] at full scale and of one sign; 0 for no
/// samples.
fn clipped_share(samples: &[f32]) -> f64 {
    let is_clipped = |sample: f32| sample.abs() >= FULL_SCALE;
    let same_run = |a: &f32, b: &f32| is_clipped(*a) && is_clipped(*b) && (*a > 0.0) == (*b > 0.0);
    let clipped: usize = samples
        .chunk_by(same_run)
        .filter(|run| run.len() >= CLIPPED_RUN)
        .map(<[f32]>::len)
        .sum();
    clipped as f64 / samples.len().max(1) as f64
}

fn content(samples: &[f32], rate: u32) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rate.to_le_bytes());
    let mut bytes = Vec::with_capacity(1 << 16);
    for block in samples.chunks(1 << 15) {
        bytes.clear();
        for sample in block {
            let rounded = (sample * 32768.0).round().clamp(-32768.0, 32767.0) as i16;
            bytes.extend(rounded.to_le_bytes());
        }
        hasher.update(&bytes);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAV file of 16-bit samples, channels interleaved.
    fn wav(samples: &[i16], channels: u16, rate: u32) -> Arc<[u8]> {
        let data = (samples.len() * 2) as u32;
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((36 + data).to_le_bytes());
        bytes.extend(b"WAVEfmt ");
        bytes.extend(16u32.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(channels.to_le_bytes());
        bytes.extend(rate.to_le_bytes());
        bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
        bytes.extend((channels * 2).to_le_bytes());
        bytes.extend(16u16.to_le_bytes());
        bytes.extend(b"data");
        bytes.extend(data.to_le_bytes());
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        bytes.into()
    }

    fn tone(num_samples: usize, peak: f64) -> Vec<i16> {
        (0..num_samples)
            .map(|i| ((i as f64 * 0.1).sin() * peak) as i16)
            .collect()
    }

    fn examined(bytes: Arc<[u8]>) -> Examined {
        examine_bytes(&bytes, "clip", Span::WHOLE, true).unwrap()
    }

    #[test]
    fn levels_of_a_tone() {
        let found = examined(wav(&tone(16_000, 16_384.0), 1, 8_000));
        assert_eq!((found.rate, found.channels), (8_000, Some(1)));
        assert_eq!(found.duration_s, 2.0);
        let decoded = found.decoded.unwrap();
        assert!((decoded.peak - 0.5).abs() < 1e-3);
        assert!((decoded.rms - 0.5 / 2f64.sqrt()).abs() < 1e-3);
        assert_eq!(decoded.clipped_share, 0.0);
        assert_eq!(decoded.first_channel_rms, None);
    }

    #[test]
    fn opposite_channels_cancel() {
        let stereo: Vec<i16> = tone(8_000, 8_000.0)
            .into_iter()
            .flat_map(|sample| [sample, -sample])
            .collect();
        let decoded = examined(wav(&stereo, 2, 16_000)).decoded.unwrap();
        assert!(decoded.rms < 1e-6 && decoded.first_channel_rms.unwrap() > 0.1);
    }

    #[test]
    fn runs_at_full_scale_are_clipping() {
        assert_eq!(
            clipped_share(&[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.2, 0.1]),
            0.375
        );
        // A square wave with two samples per half period never has three in a row.
        assert_eq!(clipped_share(&[1.0, 1.0, -1.0, -1.0]), 0.0);
        let loud: Vec<i16> = tone(8_000, 65_000.0);
        let share = examined(wav(&loud, 1, 16_000))
            .decoded
            .unwrap()
            .clipped_share;
        // |sin| >= 32767/65000 holds for 66 % of the time.
        assert!((share - 0.66).abs() < 0.02, "{share}");
    }

    #[test]
    fn faults_have_their_kind() {
        let fault = |bytes: Arc<[u8]>, span| examine_bytes(&bytes, "clip", span, true).unwrap_err();
        assert_eq!(fault(Arc::new([]), Span::WHOLE).kind, FaultKind::Empty);
        assert_eq!(
            fault(wav(&[], 1, 8_000), Span::WHOLE).kind,
            FaultKind::Empty
        );
        let text: Arc<[u8]> = b"<html>not found</html>".as_slice().into();
        assert_eq!(fault(text, Span::WHOLE).kind, FaultKind::Damaged);
        let late = Span {
            start_s: Some(5.0),
            ..Span::WHOLE
        };
        let found = fault(wav(&tone(8_000, 100.0), 1, 8_000), late);
        assert_eq!(found.kind, FaultKind::Span);
        assert!(found.error.message().starts_with("clip: "));
    }

    #[test]
    fn equal_sound_has_equal_content() {
        let samples = tone(8_000, 8_000.0);
        let one = examined(wav(&samples, 1, 16_000)).decoded.unwrap();
        let twice: Vec<i16> = samples
            .iter()
            .flat_map(|&sample| [sample, sample])
            .collect();
        let two = examined(wav(&twice, 2, 16_000)).decoded.unwrap();
        assert_eq!(one.content, two.content);
        let slower = examined(wav(&samples, 1, 8_000)).decoded.unwrap();
        assert_ne!(one.content, slower.content);
    }
}
