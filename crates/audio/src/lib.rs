//! Reads audio files as mono samples at 16 kHz, and computes the log-mel spectrogram that the audio
//! encoders take.
//!
//! The path is bytes > container ([`read()`]) > codec > mono > 16 kHz > [`LogMelExtractor`].
//! Nothing is cut silently: a file that ends early, a packet that does not decode and a span that
//! exceeds the recording are errors that name the file. A header's sizes count only up to the
//! file's bytes, and a panic of a library becomes an error of the file.

#![deny(clippy::unwrap_used, clippy::expect_used)]

pub mod augment;
mod codec;
pub mod examine;
mod flac;
pub mod flac_writer;
mod format;
pub mod levels;
mod log_mel;
pub mod loudness;
mod mfcc;
mod mp4;
mod mpeg;
mod ogg;
pub mod pcm16;
mod read;
mod resample;
mod samples;
mod source;
pub mod vad;
mod vectors;
mod wav;
mod webm;

use symphonia::core::audio::GenericAudioBufferRef;

use maqam_base::error::Error;
use maqam_base::error::Result;

pub use self::log_mel::ClipEnd;
pub use self::log_mel::LogMel;
pub use self::log_mel::LogMelExtractor;
pub use self::log_mel::MelForm;
pub use self::log_mel::num_audio_tokens;
pub use self::log_mel::num_frames;
pub use self::mfcc::MFCC_DIMS;
pub use self::mfcc::MFCC_HOP;
pub use self::mfcc::MFCC_WINDOW;
pub use self::mfcc::mfcc;
pub use self::mfcc::num_mfcc_rows;
pub use self::read::Header;
pub use self::read::duration_s;
pub use self::read::duration_s_bytes;
pub use self::read::duration_s_range;
pub use self::read::header;
pub use self::read::header_bytes;
pub use self::read::num_samples;
pub use self::read::num_samples_bytes;
pub use self::read::num_samples_range;
pub use self::read::read;
pub use self::read::read_bytes;
pub use self::read::read_range;
pub use self::read::read_vec;

/// Sampling rate of all samples that this crate returns, in Hz.
pub const SAMPLE_RATE: u32 = 16_000;

/// Mel bands of a frame, unless a model has another number.
pub const MELS: usize = 128;

/// Samples from one frame to the next: 10 ms at [`SAMPLE_RATE`].
pub const HOP: usize = 160;

/// A part of a recording: a stretch of time, and optionally one of its channels. A bound that is
/// `None` is the recording's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// Start of the part, in seconds.
    pub start_s: Option<f64>,
    /// End of the part, in seconds.
    pub end_s: Option<f64>,
    /// The channel, from 0; `None` averages all channels.
    pub channel: Option<u16>,
}

impl Span {
    /// The whole recording, its channels averaged.
    pub const WHOLE: Self = Self {
        start_s: None,
        end_s: None,
        channel: None,
    };

    /// Returns whether the part has its own start or end.
    pub fn is_part(self) -> bool {
        self.start_s.is_some() || self.end_s.is_some()
    }

    /// Returns the text for the part in keys of caches. Equal texts mean equal samples of one file.
    pub fn key(self) -> String {
        // Keys of parts without a channel must not change, or existing caches would be computed
        // again.
        let Self {
            start_s,
            end_s,
            channel,
        } = self;
        let time = format!("start_s: {start_s:?}, end_s: {end_s:?}");
        match channel {
            None => format!("Span {{ {time} }}"),
            Some(channel) => format!("Span {{ {time}, channel: {channel} }}"),
        }
    }
}

/// Appends one channel of a decoded packet, or the average of all.
///
/// # Errors
/// A channel that the packet does not have.
fn append_mono(
    buffer: &GenericAudioBufferRef<'_>,
    channel: Option<u16>,
    scratch: &mut Vec<f32>,
    mono: &mut Vec<f32>,
) -> Result<()> {
    buffer.copy_to_vec_interleaved(scratch);
    append_channel(scratch, buffer.num_planes(), channel, mono)?;
    Ok(())
}

/// Appends one of the interleaved channels, or the average of all, and returns the number of
/// samples.
///
/// # Errors
/// A channel that does not exist.
fn append_channel(
    interleaved: &[f32],
    channels: usize,
    channel: Option<u16>,
    mono: &mut Vec<f32>,
) -> Result<usize> {
    check_channel(channel, channels)?;
    match (channels, channel) {
        (0, _) => return Ok(0),
        (1, _) => mono.extend_from_slice(interleaved),
        (_, Some(channel)) => mono.extend(
            interleaved
                .chunks_exact(channels)
                .map(|frame| frame[usize::from(channel)]),
        ),
        (_, None) => mono.extend(
            interleaved
                .chunks_exact(channels)
                .map(|frame| frame.iter().sum::<f32>() / channels as f32),
        ),
    }
    Ok(interleaved.len() / channels)
}

/// Refuses a channel that a recording of so many channels does not have.
fn check_channel(channel: Option<u16>, channels: usize) -> Result<()> {
    match channel {
        Some(channel) if usize::from(channel) >= channels && channels > 0 => {
            let found = match channels {
                1 => "the recording has one channel".to_owned(),
                channels => format!("the recording has {channels} channels"),
            };
            let hint = match channels {
                1 => "channels count from 0; leave `channel` out of the row".to_owned(),
                channels => format!(
                    "channels count from 0: write 0 to {}, or leave `channel` out to average all",
                    channels - 1
                ),
            };
            Err(Error::input(format!("`channel` is {channel}, but {found}")).hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_parts_without_a_channel_stay_as_they_were() {
        let part = Span {
            start_s: Some(1.5),
            ..Span::WHOLE
        };
        assert_eq!(part.key(), "Span { start_s: Some(1.5), end_s: None }");
        let one = Span {
            channel: Some(1),
            ..part
        };
        assert_ne!(one.key(), part.key());
    }
}
