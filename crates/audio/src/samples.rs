//! Interface of all containers: samples at a position, and shared errors.

use std::ops::Range;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// Most samples of one recording at its own rate: 3 hours at 48 kHz, 2 GiB in memory.
pub(super) const MOST_SAMPLES: usize = 1 << 29;

/// Most samples for which memory is reserved in advance, whatever a header announces.
pub(super) const MOST_RESERVED_SAMPLES: usize = 1 << 22;

/// A recording that gives the samples of any part of it.
pub(super) trait Stream {
    /// Samples per second, in Hz.
    fn rate(&self) -> u32;

    /// Number of channels; `None` if only decoding gives it.
    fn channels(&self) -> Option<usize>;

    /// Samples per channel; `None` if only decoding gives it.
    fn num_samples(&self) -> Option<usize>;

    /// Samples `wanted` of one channel, or of the average of all. Where the number of samples is
    /// unknown, `wanted` is everything.
    ///
    /// # Errors
    /// Damage, an end before the announced one, a channel that is not there.
    fn decode(&mut self, wanted: Range<usize>, channel: Option<u16>) -> Result<Vec<f32>>;
}

/// Refuses more samples at once than fit in memory, because a few bytes of some formats can encode
/// hours of silence.
pub(super) fn check_length(num_samples: usize) -> Result<()> {
    if num_samples <= MOST_SAMPLES {
        return Ok(());
    }
    Err(Error::input(format!(
        "more than {MOST_SAMPLES} samples at once, which are 3 hours at 48 kHz"
    ))
    .hint("give parts of the recording, or split it"))
}

/// Error for audio that does not continue at the previous end; both places are in samples.
pub(super) fn gap(after: i64, found: i64, rate: u32) -> Error {
    let after_s = seconds(after, rate);
    let found_s = seconds(found, rate);
    Error::input(format!(
        "damaged: after {after_s:.3} s comes audio that belongs at {found_s:.3} s"
    ))
    .hint("copy or download it again, or re-encode it")
}

/// Error for audio that ends before the announced end; both places are in samples.
pub(super) fn ends_early(found: i64, announced: i64, rate: u32) -> Error {
    let found_s = seconds(found, rate);
    let announced_s = seconds(announced, rate);
    Error::input(format!(
        "truncated: the audio ends at {found_s:.3} s, but {announced_s:.3} s are announced"
    ))
    .hint("copy or download it again")
}

/// A packet that does not decode, at a place in samples.
pub(super) fn packet_error(
    source: Box<dyn std::error::Error + Send + Sync>,
    at: i64,
    rate: u32,
) -> Error {
    let at_s = seconds(at, rate);
    Error::input(format!(
        "damaged: the packet after {at_s:.3} s does not decode ({source})"
    ))
    .caused_by(source)
    .hint("copy or download it again, or re-encode it")
}

fn seconds(samples: i64, rate: u32) -> f64 {
    samples as f64 / f64::from(rate)
}
