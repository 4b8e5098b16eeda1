//! The log-mel spectrogram of Whisper, as the processors of Qwen2.5-Omni, Qwen2-Audio and Qwen3-ASR
//! compute it.

use std::sync::Arc;

use realfft::RealFftPlanner;
use realfft::RealToComplex;

use crate::HOP;
use crate::MELS;
use crate::SAMPLE_RATE;

/// Samples under one analysis window: 25 ms.
const WINDOW: usize = 400;
/// Frequencies of a window's spectrum, from 0 Hz to half the sampling rate.
const BINS: usize = WINDOW / 2 + 1;
/// Samples that a window reaches back from the frame's centre.
const REACH: usize = WINDOW / 2;
/// Frames that go through the mel filters together, so that every loop over them uses vector
/// instructions.
const LANES: usize = 16;
/// Power below which a value counts as silence: its log10 is -10.
const POWER_FLOOR: f32 = 1e-10;
/// Dynamic range in decades of power (80 dB): values further below the clip's maximum are raised to
/// this limit.
const DYNAMIC_RANGE: f32 = 8.0;

/// Number of log-mel frames of a clip: one per full or partial [`HOP`].
pub fn num_frames(num_samples: usize) -> usize {
    num_samples.div_ceil(HOP)
}

/// Number of decoder tokens of a clip with `frames` frames, after Whisper's convolutions and
/// pooling: 25 per second, 0 if the clip is too short for a token. Successive windows of a multiple
/// of four frames give as many tokens as the whole clip.
///
/// Source: `_get_feat_extract_output_lengths` of transformers' `modeling_qwen2_5_omni.py`: a
/// convolution with stride 2, then pooling by 2.
pub fn num_audio_tokens(frames: usize) -> usize {
    match frames {
        0..=2 => 0,
        _ => ((frames - 1) / 2 + 1 - 2) / 2 + 1,
    }
}

/// Form of the frames that the processor of a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MelForm {
    /// Mel bands of a frame.
    pub mels: usize,
    /// End of a clip.
    pub end: ClipEnd,
}

/// Samples that the transform reads after a clip's last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipEnd {
    /// Silence. A clip of any length is transformed as a whole, and every full or partial [`HOP`]
    /// is a frame.
    Silence,
    /// Silence up to the number of frames to which the processor pads every clip. A longer clip
    /// becomes several windows of this size, each transformed separately.
    Window(usize),
    /// The clip itself, mirrored. Only full hops are frames.
    Mirror {
        /// Samples of the shortest clip: a shorter one is filled up with zeros, which count as a
        /// part of it.
        min_samples: usize,
    },
}

impl Default for MelForm {
    fn default() -> Self {
        Self {
            mels: MELS,
            end: ClipEnd::Silence,
        }
    }
}

impl MelForm {
    /// Number of log-mel frames of a clip.
    pub fn num_frames(self, num_samples: usize) -> usize {
        match self.end {
            ClipEnd::Silence | ClipEnd::Window(_) => num_frames(num_samples),
            ClipEnd::Mirror { min_samples } => num_samples.max(min_samples) / HOP,
        }
    }

    /// Frames after which the processor of the model begins a new window.
    pub fn window(self) -> Option<usize> {
        match self.end {
            ClipEnd::Window(frames) => Some(frames),
            ClipEnd::Silence | ClipEnd::Mirror { .. } => None,
        }
    }
}

/// Frames after a clip's last one that the convolutions reach into: two of three frames each, the
/// second of which sees every other one.
const TAIL: usize = 2;

/// A log-mel spectrogram.
///
/// # Shapes
/// `values`: `[frames + tail, mels]`, time first.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMel {
    /// Mel bands of a frame.
    pub mels: usize,
    /// Number of frames, [`HOP`] samples apart.
    pub frames: usize,
    /// Number of frames of the padding after the last one: convolutions see them, and they give no
    /// position.
    pub tail: usize,
    /// log10 of mel power, limited to 80 dB below the loudest, shifted and scaled: `(x + 4) / 4`.
    pub values: Vec<f32>,
}

/// Turns samples into log-mel frames; made once, shared by every thread.
pub struct LogMelExtractor {
    form: MelForm,
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    filters: Vec<MelFilter>,
}

/// One triangle of the filter bank, without its zeros.
struct MelFilter {
    first_bin: usize,
    weights: Vec<f32>,
}

impl Default for LogMelExtractor {
    fn default() -> Self {
        Self::new(MelForm::default())
    }
}

impl LogMelExtractor {
    /// Plans the transform, and computes the window and the filter bank.
    pub fn new(form: MelForm) -> Self {
        Self {
            form,
            fft: RealFftPlanner::<f32>::new().plan_fft_forward(WINDOW),
            window: hann_window(),
            filters: mel_filters(form.mels),
        }
    }

    /// Log-mel spectrogram of one clip, on the calling thread.
    ///
    /// Source: `WhisperFeatureExtractor` of transformers, after Radford et al. 2022, section 2.2.
    /// The clip is mirrored before its beginning and followed by silence, as in the official
    /// processor's padding. Only the frames that it marks as valid are returned. In a form with
    /// windows, the padding frames that convolutions reach from there are returned too. Windows are
    /// transformed one by one. `Qwen3ASRFeatureExtractor` mirrors the end too, and drops the frame
    /// that is centred on it.
    ///
    /// Differs: in the form [`ClipEnd::Silence`] (Qwen2.5-Omni) a clip of 300 s or more is followed
    /// by silence too. The official processor cuts it and mirrors its end.
    ///
    /// # Shapes
    /// `samples`: `[num_samples]`, mono, at [`SAMPLE_RATE`] ->
    /// `[num_frames(num_samples) + tail, mels]`
    pub fn extract(&self, samples: &[f32]) -> LogMel {
        let mut found = LogMel {
            mels: self.form.mels,
            frames: self.form.num_frames(samples.len()),
            tail: 0,
            values: Vec::new(),
        };
        match self.form.end {
            ClipEnd::Silence => {
                found.values = self.window_of(samples, found.frames, usize::MAX, None);
            }
            ClipEnd::Window(window) => {
                for part in samples.chunks(window * HOP) {
                    let frames = num_frames(part.len());
                    found.tail = TAIL.min(window - frames);
                    let rows = frames + found.tail;
                    let values = self.window_of(part, rows, window, Some(window * HOP));
                    found.values.extend(values);
                }
            }
            ClipEnd::Mirror { min_samples } => {
                let filled = (samples.len() < min_samples).then(|| filled(samples, min_samples));
                let samples = filled.as_deref().unwrap_or(samples);
                let end = Some(samples.len());
                found.values = self.window_of(samples, found.frames, found.frames, end);
            }
        }
        found
    }

    /// The first `rows` frames of samples that are padded to `padded` frames; from the sample `end`
    /// on they are mirrored.
    fn window_of(
        &self,
        samples: &[f32],
        rows: usize,
        padded: usize,
        end: Option<usize>,
    ) -> Vec<f32> {
        let mels = self.form.mels;
        // The maximum is over all frames whose window overlaps the clip. Those include up to two
        // frames after the last valid one. Later frames are silent and cannot raise the maximum.
        let num_computed = if rows == 0 {
            0
        } else {
            (samples.len() + REACH).div_ceil(HOP).max(rows).min(padded)
        };
        let mut values = vec![0.0; rows * mels];
        let mut scratch = self.fft.make_scratch_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut windowed = vec![0.0; WINDOW];
        let mut power = vec![[0.0; LANES]; BINS];
        let mut block = vec![[0.0; LANES]; mels];
        let mut loudest = f32::NEG_INFINITY;
        let arch = pulp::Arch::new();
        for first in (0..num_computed).step_by(LANES) {
            let count = LANES.min(num_computed - first);
            for lane in 0..count {
                arch.dispatch(|| self.take_window(samples, first + lane, end, &mut windowed));
                let transformed =
                    self.fft
                        .process_with_scratch(&mut windowed, &mut spectrum, &mut scratch);
                debug_assert!(transformed.is_ok(), "the buffers have the plan's own sizes");
                for (bin, value) in power.iter_mut().zip(&spectrum) {
                    bin[lane] = value.re * value.re + value.im * value.im;
                }
            }
            // Lanes without a frame hold silence or values of an earlier block, so they cannot
            // raise the maximum.
            loudest = arch
                .dispatch(|| self.mel_block(&power, &mut block))
                .into_iter()
                .fold(loudest, f32::max);
            let valid = count.min(rows.saturating_sub(first));
            for (lane, row) in values[first.min(rows) * mels..]
                .chunks_exact_mut(mels)
                .take(valid)
                .enumerate()
            {
                for (value, mel) in row.iter_mut().zip(&block) {
                    *value = mel[lane];
                }
            }
        }
        let floor = loudest - DYNAMIC_RANGE;
        arch.dispatch(|| {
            values
                .iter_mut()
                .for_each(|value| *value = (value.max(floor) + 4.0) * 0.25)
        });
        values
    }

    /// Writes the windowed samples around `frame`'s centre, mirrored at the end of the padding
    /// `end`.
    #[inline(always)]
    fn take_window(&self, samples: &[f32], frame: usize, end: Option<usize>, windowed: &mut [f32]) {
        let centre = frame * HOP;
        if let Some(inside) = centre
            .checked_sub(REACH)
            .and_then(|start| samples.get(start..start + WINDOW))
        {
            for ((out, x), w) in windowed.iter_mut().zip(inside).zip(&self.window) {
                *out = x * w;
            }
        } else {
            for (i, (out, w)) in windowed.iter_mut().zip(&self.window).enumerate() {
                let mut at = (centre + i).abs_diff(REACH);
                if let Some(end) = end.filter(|&end| at >= end) {
                    at = (2 * end - 2).saturating_sub(at);
                }
                let x = samples.get(at).copied().unwrap_or(0.0);
                *out = x * w;
            }
        }
    }

    /// log10 of mel power for a block of frames, and the maximum of each lane.
    ///
    /// # Shapes
    /// `power`: `[BINS, LANES]` -> `mels`: `[mels, LANES]`
    #[inline(always)]
    fn mel_block(&self, power: &[[f32; LANES]], mels: &mut [[f32; LANES]]) -> [f32; LANES] {
        let mut loudest = [f32::NEG_INFINITY; LANES];
        for (out, filter) in mels.iter_mut().zip(&self.filters) {
            let mut sums = [0.0; LANES];
            for (weight, bin) in filter.weights.iter().zip(&power[filter.first_bin..]) {
                for (sum, p) in sums.iter_mut().zip(bin) {
                    *sum += weight * p;
                }
            }
            for ((out, loudest), sum) in out.iter_mut().zip(&mut loudest).zip(sums) {
                *out = log10(sum.max(POWER_FLOOR));
                *loudest = loudest.max(*out);
            }
        }
        loudest
    }
}

/// Samples with zeros behind them.
fn filled(samples: &[f32], len: usize) -> Vec<f32> {
    let mut filled = samples.to_vec();
    filled.resize(len, 0.0);
    filled
}

/// log10 of a positive normal number to within an ulp or two, free of branches so that a loop of it
/// becomes vector code.
///
/// The number is `2^e m` with m in `[sqrt(1/2), sqrt(2))`, and
/// `ln m = 2 artanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...)` with `s = (m - 1) / (m + 1)`;
/// |s| < 0.172, so the first term left out is below 3e-9 of the whole.
#[inline(always)]
fn log10(x: f32) -> f32 {
    const SQRT_HALF_BITS: i32 = 0x3f35_04f3;
    let offset = (x.to_bits() as i32).wrapping_sub(SQRT_HALF_BITS);
    let exponent = offset >> 23;
    let mantissa = f32::from_bits(((offset & 0x007f_ffff) + SQRT_HALF_BITS) as u32);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = 1.0
        + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0 + square * (1.0 / 9.0))));
    exponent as f32 * std::f32::consts::LOG10_2 + 2.0 * std::f32::consts::LOG10_E * s * series
}

/// The periodic Hann window.
fn hann_window() -> Vec<f32> {
    (0..WINDOW)
        .map(|i| (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / WINDOW as f64).cos()) as f32)
        .collect()
}

/// The filter bank: triangles evenly spaced on Slaney's mel scale from 0 Hz to half the sampling
/// rate, each of unit area in Hz.
///
/// Source: Slaney 1998, Auditory Toolbox; `mel_filter_bank` of transformers with
/// `norm="slaney", mel_scale="slaney"`.
fn mel_filters(mels: usize) -> Vec<MelFilter> {
    let nyquist = f64::from(SAMPLE_RATE) / 2.0;
    let top = hertz_to_mel(nyquist);
    let corners: Vec<f64> = (0..mels + 2)
        .map(|i| mel_to_hertz(top * i as f64 / (mels + 1) as f64))
        .collect();
    let triangle = |corners: &[f64]| {
        let low = corners[0];
        let centre = corners[1];
        let high = corners[2];
        let weight = |bin: usize| {
            let hertz = nyquist * bin as f64 / (BINS - 1) as f64;
            let height = ((hertz - low) / (centre - low)).min((high - hertz) / (high - centre));
            (height.max(0.0) * 2.0 / (high - low)) as f32
        };
        let first_bin = (0..BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(BINS);
        MelFilter {
            first_bin,
            weights: (first_bin..BINS)
                .map(weight)
                .take_while(|&w| w > 0.0)
                .collect(),
        }
    };
    corners.windows(3).map(triangle).collect()
}

/// Below this frequency Slaney's scale is linear, above it logarithmic, in Hz.
const LINEAR_UP_TO: f64 = 1000.0;
/// Mels per hertz in the linear part.
const MELS_PER_HERTZ: f64 = 3.0 / 200.0;

/// Mels of one natural logarithm in the upper part: 27 from 1000 Hz to 6400 Hz.
fn mels_per_log() -> f64 {
    27.0 / 6.4f64.ln()
}

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < LINEAR_UP_TO {
        hertz * MELS_PER_HERTZ
    } else {
        LINEAR_UP_TO * MELS_PER_HERTZ + (hertz / LINEAR_UP_TO).ln() * mels_per_log()
    }
}

fn mel_to_hertz(mel: f64) -> f64 {
    let corner = LINEAR_UP_TO * MELS_PER_HERTZ;
    if mel < corner {
        mel / MELS_PER_HERTZ
    } else {
        LINEAR_UP_TO * ((mel - corner) / mels_per_log()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maqam_base::seed::Key;

    /// The definition in f64: a plain Fourier sum for each frame, over `padded_frames` frames.
    fn by_definition(samples: &[f32], padded_frames: usize) -> Vec<f64> {
        let at = |i: i64| {
            samples
                .get(i.unsigned_abs() as usize)
                .map_or(0.0, |&x| f64::from(x))
        };
        let mut logs = Vec::new();
        for frame in 0..padded_frames {
            let x: Vec<f64> = (0..400)
                .map(|i| {
                    at(160 * frame as i64 + i - 200)
                        * (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / 400.0).cos())
                })
                .collect();
            let power: Vec<f64> = (0..201)
                .map(|bin| {
                    let turn = |i: usize| -std::f64::consts::TAU * (bin * i % 400) as f64 / 400.0;
                    let re: f64 = x.iter().enumerate().map(|(i, x)| x * turn(i).cos()).sum();
                    let im: f64 = x.iter().enumerate().map(|(i, x)| x * turn(i).sin()).sum();
                    re * re + im * im
                })
                .collect();
            for filter in mel_filters(MELS) {
                let sum: f64 = filter
                    .weights
                    .iter()
                    .zip(&power[filter.first_bin.min(201)..])
                    .map(|(w, p)| f64::from(*w) * p)
                    .sum();
                logs.push(sum.max(1e-10).log10());
            }
        }
        let floor = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 8.0;
        logs.truncate(samples.len().div_ceil(160) * 128);
        logs.iter()
            .map(|log| (log.max(floor) + 4.0) / 4.0)
            .collect()
    }

    fn worst(samples: &[f32]) -> f64 {
        let ours = LogMelExtractor::default().extract(samples);
        let expected = by_definition(samples, samples.len().div_ceil(160) + 4);
        assert_eq!(ours.values.len(), expected.len());
        ours.values
            .iter()
            .zip(expected)
            .map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max)
    }

    fn noise(len: usize, gain: impl Fn(usize) -> f32) -> Vec<f32> {
        let key = Key::new(5, "noise");
        (0..len)
            .map(|i| gain(i) * (key.uniform(i as u64) as f32 - 0.5))
            .collect()
    }

    #[test]
    fn any_length_equals_the_definition() {
        for len in [
            1, 2, 100, 159, 160, 161, 200, 201, 399, 400, 401, 2559, 2560, 2600, 2601, 5000,
        ] {
            let worst = worst(&noise(len, |_| 0.5));
            assert!(worst < 2e-5, "{len} samples: {worst}");
        }
    }

    #[test]
    fn a_burst_at_the_end_reaches_the_padding_frames() {
        // 1600 samples: frame 9 is the last valid one, and its window ends at 1640. Frame 10,
        // centred on the clip's end, has the most of the burst, so the floor of all other frames
        // depends on it.
        let samples = noise(1600, |i| if i < 1590 { 1e-5 } else { 0.9 });
        let worst = worst(&samples);
        assert!(worst < 2e-5, "{worst}");
        let valid_only = {
            let logs = by_definition(&samples, 10);
            let ours = LogMelExtractor::default().extract(&samples);
            ours.values
                .iter()
                .zip(logs)
                .map(|(a, b)| (f64::from(*a) - b).abs())
                .fold(0.0, f64::max)
        };
        assert!(
            valid_only > 1e-3,
            "the test would not notice a floor taken from the valid frames alone: {valid_only}"
        );
    }

    #[test]
    fn a_pure_tone_keeps_its_precision_80_db_down() {
        let tone: Vec<f32> = (0..4000)
            .map(|i| (std::f64::consts::TAU * 440.0 * f64::from(i) / 16000.0).sin() as f32)
            .collect();
        let worst = worst(&tone);
        assert!(worst < 5e-5, "{worst}");
    }

    #[test]
    fn silence_is_even_and_nothing_is_nothing() {
        let silent = LogMelExtractor::default().extract(&[0.0; 1000]);
        assert_eq!(silent.frames, 7);
        assert!(
            silent
                .values
                .iter()
                .all(|v| (v - (-10.0 + 4.0) / 4.0).abs() < 1e-6)
        );
        assert_eq!(
            LogMelExtractor::default().extract(&[]),
            LogMel {
                mels: MELS,
                frames: 0,
                tail: 0,
                values: Vec::new()
            }
        );
    }

    #[test]
    fn the_logarithm_is_that_of_f64() {
        for step in 0..200_000 {
            let x = 10f64.powf(-10.0 + 16.0 * f64::from(step) / 200_000.0) as f32;
            let error = (f64::from(log10(x)) - f64::from(x).log10()).abs();
            assert!(error < 1.5e-6, "{x}: {error}");
        }
        assert_eq!(log10(1.0), 0.0);
    }

    #[test]
    fn tokens_of_known_lengths() {
        // 30 s and 300 s by the paper's 25 per second; the short ones computed by hand from the two
        // strides.
        for (frames, tokens) in [
            (0, 0),
            (2, 0),
            (3, 1),
            (4, 1),
            (5, 1),
            (6, 1),
            (7, 2),
            (188, 47),
            (401, 100),
            (3000, 750),
            (30000, 7500),
        ] {
            assert_eq!(num_audio_tokens(frames), tokens, "{frames} frames");
        }
        assert_eq!(
            (
                num_frames(0),
                num_frames(1),
                num_frames(160),
                num_frames(161)
            ),
            (0, 1, 1, 2)
        );
    }

    #[test]
    fn windows_depend_only_on_their_samples() {
        let form = MelForm {
            mels: 80,
            end: ClipEnd::Window(20),
        };
        let extractor = LogMelExtractor::new(form);
        let samples = noise(2 * 20 * HOP + 1000, |i| if i < 4000 { 1.0 } else { 1e-3 });
        let whole = extractor.extract(&samples);
        let parts: Vec<LogMel> = samples
            .chunks(20 * HOP)
            .map(|part| extractor.extract(part))
            .collect();
        assert_eq!((whole.frames, whole.tail), (47, TAIL));
        let joined: Vec<f32> = parts.iter().flat_map(|part| part.values.clone()).collect();
        assert_eq!(whole.values, joined);
        assert_eq!(
            parts.iter().map(|part| part.tail).collect::<Vec<_>>(),
            [0, 0, 2]
        );
        // One frame before the end of the window, one frame of padding remains, and at the end
        // none.
        let tails =
            [18, 19, 20].map(|frames| extractor.extract(&noise(frames * HOP, |_| 0.1)).tail);
        assert_eq!(tails, [2, 1, 0]);
    }

    #[test]
    fn a_mirrored_end_is_that_of_the_clip_written_twice() {
        let extractor = LogMelExtractor::new(MelForm {
            mels: MELS,
            end: ClipEnd::Mirror { min_samples: 800 },
        });
        let samples = noise(1700, |_| 0.5);
        let found = extractor.extract(&samples);
        assert_eq!(found.frames, 10, "the begun hop is no frame");
        let mirrored = samples.iter().rev().skip(1).copied();
        let written: Vec<f32> = samples.iter().copied().chain(mirrored).collect();
        let expected = LogMelExtractor::default().extract(&written);
        let floor = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - 2.0;
        let expected = &expected.values[..10 * MELS];
        assert!(floor(expected) < expected.iter().copied().fold(0.0, f32::min));
        assert_eq!(found.values, expected);
        // A short clip is as long as the shortest, zeros and all.
        let short = extractor.extract(&samples[..300]);
        let by_hand: Vec<f32> = samples[..300].iter().copied().chain([0.0; 500]).collect();
        assert_eq!((short.frames, &short), (5, &extractor.extract(&by_hand)));
    }

    #[test]
    fn one_extractor_serves_all_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<LogMelExtractor>();
    }
}
