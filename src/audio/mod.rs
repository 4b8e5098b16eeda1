//! Sound from any file as mono samples at 16 kHz, then as the log-mel spectrogram that the audio encoders hear.
//!
//! The line: bytes > container and codec ([`read()`]) > mono > 16 kHz > [`LogMelExtractor`]. Nothing is cut without a word: a file that ends
//! early, a packet that does not decode and a span that runs past the end are errors that name the file.

mod log_mel;
mod mp4;
mod mpeg;
mod read;
mod resample;
mod source;

use symphonia::core::audio::GenericAudioBufferRef;

pub use self::log_mel::LogMel;
pub use self::log_mel::LogMelExtractor;
pub use self::log_mel::num_audio_tokens;
pub use self::log_mel::num_frames;
pub use self::read::duration_s;
pub use self::read::duration_s_bytes;
pub use self::read::read;
pub use self::read::read_bytes;

/// Samples a second of everything that leaves this room, in Hz.
pub const SAMPLE_RATE: u32 = 16_000;

/// Mel bands of a frame.
pub const MELS: usize = 128;

/// Samples from one frame to the next: 10 ms at [`SAMPLE_RATE`].
pub const HOP: usize = 160;

/// A part of a recording, in seconds from its beginning; a bound that is `None` is the recording's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// Where the part begins, in seconds.
    pub start_s: Option<f64>,
    /// Where the part ends, in seconds.
    pub end_s: Option<f64>,
}

/// Appends a decoded packet, its channels averaged.
fn append_mono(buffer: &GenericAudioBufferRef<'_>, scratch: &mut Vec<f32>, mono: &mut Vec<f32>) {
    buffer.copy_to_vec_interleaved(scratch);
    match buffer.num_planes() {
        0 => {}
        1 => mono.extend_from_slice(scratch),
        channels => mono.extend(
            scratch
                .chunks_exact(channels)
                .map(|frame| frame.iter().sum::<f32>() / channels as f32),
        ),
    }
}
