//! Voice activity: the probability of speech in each 32 ms of a recording, and the stretches of
//! speech that follow from it.
//!
//! The network is Silero VAD (MIT, `assets/LICENSE.silero-MIT`) at 16 kHz: a learnt spectrum, four
//! convolutions, an LSTM cell.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use safetensors::Dtype;
use safetensors::SafeTensors;

use crate::SAMPLE_RATE;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Samples per probability: 32 ms.
pub const WINDOW: usize = 512;

/// Samples before a window that the network sees with it.
const CONTEXT: usize = 64;

/// Samples of a frame of the spectrum, and from one frame to the next.
const FRAME: usize = 256;
const FRAME_STEP: usize = 128;

/// Frames of a window: its samples with the context before and 64 mirrored samples after them.
const FRAMES: usize = (CONTEXT + WINDOW + CONTEXT - FRAME) / FRAME_STEP + 1;

/// Frequencies of the spectrum.
const BANDS: usize = FRAME / 2 + 1;

/// Numbers of the LSTM's state.
const HIDDEN: usize = 128;

static WEIGHTS: &[u8] = include_bytes!("../assets/silero_vad_16k.safetensors");

/// A convolution over time of kernel 3, padded by one frame of zeros on either side, and a ReLU.
struct Convolution {
    inputs: usize,
    stride: usize,
    /// Shape `[outputs, 3, inputs]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Values of tensors by name.
type Tensors = HashMap<String, Vec<f32>>;

/// Takes a tensor of `len` values.
fn take(tensors: &mut Tensors, name: &str, len: usize) -> Result<Vec<f32>> {
    tensors
        .remove(name)
        .filter(|values| values.len() == len)
        .ok_or_else(|| Error::bug(format!("voice activity: no `{name}` of {len} numbers")))
}

impl Convolution {
    /// Takes the weight and bias of a layer.
    fn take(
        tensors: &mut Tensors,
        name: &str,
        [inputs, outputs]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let weight = take(tensors, &format!("{name}.weight"), outputs * inputs * 3)?;
        Ok(Self {
            inputs,
            stride,
            weight: kernel_before_inputs(&weight, inputs),
            bias: take(tensors, &format!("{name}.bias"), outputs)?,
        })
    }

    /// `[frames, inputs]` -> `[ceil(frames / stride), outputs]`
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let inputs = self.inputs;
        let outputs = self.bias.len();
        let frames = x.len() / inputs;
        let mut y = Vec::with_capacity(frames.div_ceil(self.stride) * outputs);
        for centre in (0..frames).step_by(self.stride) {
            for (output, bias) in self.bias.iter().enumerate() {
                let kernel = &self.weight[output * 3 * inputs..][..3 * inputs];
                let mut sum = *bias;
                for (k, kernel) in kernel.chunks_exact(inputs).enumerate() {
                    // Frame `centre + k - 1`; what lies outside is zero.
                    if let Some(frame) = (centre + k).checked_sub(1).filter(|at| *at < frames) {
                        sum += dot(kernel, &x[frame * inputs..][..inputs]);
                    }
                }
                y.push(sum.max(0.0));
            }
        }
        y
    }
}

/// Silero VAD at 16 kHz.
pub struct Vad {
    /// Shape `[2 * BANDS, FRAME]`: real parts, then imaginary parts.
    spectrum: Vec<f32>,
    convolutions: [Convolution; 4],
    /// Shape `[4 * HIDDEN, HIDDEN]`: gates input, forget, cell, output.
    input_weight: Vec<f32>,
    state_weight: Vec<f32>,
    /// Sum of both biases.
    gate_bias: Vec<f32>,
    final_weight: Vec<f32>,
    final_bias: f32,
}

impl Vad {
    /// Returns the one detector of the process.
    ///
    /// # Errors
    /// Weights that are damaged, which is a fault of the build.
    pub fn get() -> Result<&'static Self> {
        static LOADED: OnceLock<std::result::Result<Vad, Error>> = OnceLock::new();
        LOADED
            .get_or_init(|| Self::load(WEIGHTS))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn load(bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(Error::bug_from)?;
        let mut tensors = Tensors::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(Error::bug(format!("voice activity: `{name}` is not f32")));
            }
            let values = view.data().as_chunks::<4>().0;
            let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
            tensors.insert(name, values.collect());
        }
        let convolutions = [
            Convolution::take(&mut tensors, "conv1", [BANDS, 128], 1)?,
            Convolution::take(&mut tensors, "conv2", [128, 64], 2)?,
            Convolution::take(&mut tensors, "conv3", [64, 64], 2)?,
            Convolution::take(&mut tensors, "conv4", [64, HIDDEN], 1)?,
        ];
        let mut tensor = |name: &str, len: usize| take(&mut tensors, name, len);
        let input_bias = tensor("lstm_cell.bias_ih", 4 * HIDDEN)?;
        let state_bias = tensor("lstm_cell.bias_hh", 4 * HIDDEN)?;
        let gate_bias = input_bias.iter().zip(&state_bias).map(|(a, b)| a + b);
        Ok(Self {
            spectrum: tensor("stft_conv.weight", 2 * BANDS * FRAME)?,
            convolutions,
            input_weight: tensor("lstm_cell.weight_ih", 4 * HIDDEN * HIDDEN)?,
            state_weight: tensor("lstm_cell.weight_hh", 4 * HIDDEN * HIDDEN)?,
            gate_bias: gate_bias.collect(),
            final_weight: tensor("final_conv.weight", HIDDEN)?,
            final_bias: tensor("final_conv.bias", 1)?[0],
        })
    }

    /// Returns the probability of speech in each window of 32 ms; the last window is filled up with
    /// zeros.
    ///
    /// # Shapes
    /// `[n]` at 16 kHz -> `[ceil(n / WINDOW)]`
    pub fn probabilities(&self, samples: &[f32]) -> Vec<f32> {
        let mut state = State {
            hidden: vec![0.0; HIDDEN],
            cell: vec![0.0; HIDDEN],
        };
        // Context, window, and the mirrored end of the window.
        let mut seen = vec![0.0; CONTEXT + WINDOW + CONTEXT];
        samples
            .chunks(WINDOW)
            .map(|chunk| {
                seen.copy_within(WINDOW..WINDOW + CONTEXT, 0);
                let window = &mut seen[CONTEXT..CONTEXT + WINDOW];
                window[..chunk.len()].copy_from_slice(chunk);
                window[chunk.len()..].fill(0.0);
                for i in 0..CONTEXT {
                    seen[CONTEXT + WINDOW + i] = seen[CONTEXT + WINDOW - 2 - i];
                }
                self.step(&seen, &mut state)
            })
            .collect()
    }

    /// Probability of speech in one window, with what surrounds it.
    fn step(&self, seen: &[f32], state: &mut State) -> f32 {
        let mut x = Vec::with_capacity(FRAMES * BANDS);
        for frame in seen.windows(FRAME).step_by(FRAME_STEP) {
            for band in 0..BANDS {
                let row = |i: usize| &self.spectrum[i * FRAME..][..FRAME];
                let re = dot(row(band), frame);
                let im = dot(row(BANDS + band), frame);
                x.push((re * re + im * im).sqrt());
            }
        }
        for convolution in &self.convolutions {
            x = convolution.forward(&x);
        }
        self.advance(&x, state);

        let activations: Vec<f32> = state.hidden.iter().map(|h| h.max(0.0)).collect();
        sigmoid(dot(&self.final_weight, &activations) + self.final_bias)
    }

    /// The LSTM cell.
    fn advance(&self, x: &[f32], state: &mut State) {
        let gates: Vec<f32> = self
            .gate_bias
            .iter()
            .enumerate()
            .map(|(i, bias)| {
                let of_input = dot(&self.input_weight[i * HIDDEN..][..HIDDEN], x);
                let of_state = dot(&self.state_weight[i * HIDDEN..][..HIDDEN], &state.hidden);
                bias + of_input + of_state
            })
            .collect();
        for i in 0..HIDDEN {
            let gate = |kind: usize| gates[kind * HIDDEN + i];
            let carried = sigmoid(gate(1)) * state.cell[i];
            state.cell[i] = carried + sigmoid(gate(0)) * gate(2).tanh();
            state.hidden[i] = sigmoid(gate(3)) * state.cell[i].tanh();
        }
    }
}

struct State {
    hidden: Vec<f32>,
    cell: Vec<f32>,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The scalar product, in sixteen sums so that the compiler uses vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_blocks, a_rest) = a.as_chunks::<16>();
    let (b_blocks, b_rest) = b.as_chunks::<16>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `[outputs, inputs, 3]` -> `[outputs, 3, inputs]`
fn kernel_before_inputs(weight: &[f32], inputs: usize) -> Vec<f32> {
    weight
        .chunks_exact(inputs * 3)
        .flat_map(|of_output| {
            (0..3).flat_map(move |k| (0..inputs).map(move |i| of_output[i * 3 + k]))
        })
        .collect()
}

/// Rules by which probabilities become stretches of speech. The defaults are those of Silero's own
/// program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speech {
    /// Probability from which a window is speech. Speech ends below this less 0.15.
    pub threshold: f32,
    /// Shorter stretches are dropped, in seconds.
    pub min_speech_s: f64,
    /// Longer stretches are divided in their longest silence of at least 0.098 s, or where they
    /// reach this length, in seconds.
    pub max_speech_s: f64,
    /// Silence that ends a stretch, in seconds.
    pub min_silence_s: f64,
    /// Time that is added before and after each stretch, in seconds.
    pub pad_s: f64,
}

impl Default for Speech {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            min_speech_s: 0.25,
            max_speech_s: f64::INFINITY,
            min_silence_s: 0.1,
            pad_s: 0.03,
        }
    }
}

/// Distance below the threshold at which speech ends.
const HYSTERESIS: f32 = 0.15;

/// Silence in which a stretch that is too long may be divided, in seconds.
const DIVIDING_SILENCE_S: f64 = 0.098;

/// Seconds as samples, which may be a fraction.
fn samples_of(seconds: f64) -> f64 {
    seconds * f64::from(SAMPLE_RATE)
}

/// A stretch of speech that has not ended yet.
#[derive(Default)]
struct Open {
    start: Option<usize>,
    /// Possible start of silence.
    silent_since: Option<usize>,
    /// Silences inside it that were long enough to divide it: their beginning and length.
    silences: Vec<(usize, usize)>,
}

impl Speech {
    /// Returns the stretches of speech in samples, in order and without overlap.
    ///
    /// `probabilities` are those of [`Vad::probabilities`] for `num_samples` samples.
    ///
    /// Source: `get_speech_timestamps_from_probs` of silero-vad 6.2.3.
    pub fn segments(&self, probabilities: &[f32], num_samples: usize) -> Vec<Range<usize>> {
        let min_speech = samples_of(self.min_speech_s);
        let max_speech =
            samples_of(self.max_speech_s) - WINDOW as f64 - 2.0 * samples_of(self.pad_s);
        let end_threshold = (self.threshold - HYSTERESIS).max(0.01);

        let mut found: Vec<Range<usize>> = Vec::new();
        let mut open = Open::default();
        for (i, &probability) in probabilities.iter().enumerate() {
            let at = i * WINDOW;
            if probability >= self.threshold {
                if let Some(since) = open.silent_since.take()
                    && (at - since) as f64 > samples_of(DIVIDING_SILENCE_S)
                {
                    open.silences.push((since, at - since));
                }
                if open.start.is_none() {
                    open.start = Some(at);
                    continue;
                }
            }
            let Some(start) = open.start else { continue };

            if (at - start) as f64 > max_speech {
                let longest = open.silences.iter().rev().max_by_key(|(_, length)| *length);
                match longest.copied() {
                    Some((since, length)) => {
                        found.push(start..since);
                        open = Open {
                            start: Some(since + length),
                            ..Open::default()
                        };
                    }
                    None => {
                        found.push(start..at);
                        open = Open::default();
                        continue;
                    }
                }
            }
            if probability < end_threshold {
                let since = *open.silent_since.get_or_insert(at);
                if (at - since) as f64 >= samples_of(self.min_silence_s) {
                    let start = open.start.unwrap_or(since);
                    if since.saturating_sub(start) as f64 > min_speech {
                        found.push(start..since);
                    }
                    open = Open::default();
                }
            }
        }
        if let Some(start) = open.start
            && num_samples.saturating_sub(start) as f64 > min_speech
        {
            found.push(start..num_samples);
        }
        self.pad(&mut found, num_samples);
        found
    }

    /// Adds time around each stretch; where two are too near for it they share the silence between
    /// them.
    fn pad(&self, segments: &mut [Range<usize>], num_samples: usize) {
        let pad = samples_of(self.pad_s) as usize;
        if let Some(first) = segments.first_mut() {
            first.start = first.start.saturating_sub(pad);
        }
        for i in 1..segments.len() {
            let silence = segments[i].start - segments[i - 1].end;
            let added = match silence < 2 * pad {
                true => silence / 2,
                false => pad,
            };
            segments[i - 1].end += added;
            segments[i].start -= added;
        }
        if let Some(last) = segments.last_mut() {
            last.end = (last.end + pad).min(num_samples);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Span;
    use crate::read;

    fn noise(num_samples: usize) -> Vec<f32> {
        let mut state: u32 = 1;
        (0..num_samples)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((f64::from(state) / f64::from(1u32 << 31) - 1.0) * 0.01) as f32
            })
            .collect()
    }

    /// The recording of `tests/reference/make_vad_goldens.py`.
    fn recording() -> Vec<f32> {
        let clip = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/audio");
            read(&folder.join(format!("{name}.wav")), Span::WHOLE).unwrap()
        };
        [
            vec![0.0; 8_000],
            clip("a1"),
            vec![0.0; 24_000],
            clip("a2"),
            noise(16_000),
            clip("a3"),
            vec![0.0; 5_000],
        ]
        .concat()
    }

    fn goldens() -> serde_json::Value {
        serde_json::from_str(include_str!("../tests/fixtures/vad.json")).unwrap()
    }

    fn golden_probabilities() -> Vec<f32> {
        serde_json::from_value(goldens()["probabilities"].clone()).unwrap()
    }

    #[test]
    fn probabilities_are_those_of_silero() {
        let samples = recording();
        let expected = golden_probabilities();
        let found = Vad::get().unwrap().probabilities(&samples);
        assert_eq!(found.len(), expected.len());
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // Both compute in f32, in other orders; the LSTM carries the difference on.
        assert!(worst < 1e-4, "{worst}");
    }

    #[test]
    fn segments_are_those_of_silero() {
        let probabilities = golden_probabilities();
        let num_samples = recording().len();
        let goldens = goldens();
        let cases = goldens["segments"].as_array().unwrap();
        assert_eq!(cases.len(), 5);
        for case in cases {
            let number = |name: &str| case["settings"][name].as_f64();
            let default = Speech::default();
            let speech = Speech {
                threshold: number("threshold").map_or(default.threshold, |t| t as f32),
                min_speech_s: number("min_speech_duration_ms")
                    .map_or(default.min_speech_s, |ms| ms / 1000.0),
                max_speech_s: number("max_speech_duration_s").unwrap_or(default.max_speech_s),
                min_silence_s: number("min_silence_duration_ms")
                    .map_or(default.min_silence_s, |ms| ms / 1000.0),
                pad_s: number("speech_pad_ms").map_or(default.pad_s, |ms| ms / 1000.0),
            };
            let found: Vec<[usize; 2]> = speech
                .segments(&probabilities, num_samples)
                .into_iter()
                .map(|segment| [segment.start, segment.end])
                .collect();
            let expected: Vec<[usize; 2]> =
                serde_json::from_value(case["segments"].clone()).unwrap();
            assert_eq!(found, expected, "{}", case["settings"]);
        }
    }

    #[test]
    fn nothing_and_silence_hold_no_speech() {
        let vad = Vad::get().unwrap();
        assert!(vad.probabilities(&[]).is_empty());
        let probabilities = vad.probabilities(&[0.0; 16_000]);
        assert_eq!(probabilities.len(), 32);
        assert!(
            Speech::default()
                .segments(&probabilities, 16_000)
                .is_empty()
        );
    }
}
