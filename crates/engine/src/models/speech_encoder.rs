//! A speech encoder before the projector: samples to frames, frames to stacks; forward and
//! backward.

use candle_core::Tensor;

use crate::batch::Audio;
use crate::models::hubert;
use crate::models::hubert::Clip;
use crate::models::hubert::Hubert;
use crate::ops::linear::AdapterDropout;
use crate::ops::rows::stack_rows;
use crate::ops::rows::stack_rows_backward;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// `y = stack(encoder(samples))`: the frames of a clip, `stack` side by side; the last stack of a
/// clip is filled up with zeros.
pub struct SpeechEncoder {
    /// The encoder.
    pub hubert: Hubert,
    /// Frames of a stack.
    pub stack: usize,
}

/// Tensors that the backward of [`SpeechEncoder`] needs.
pub struct SpeechSaved {
    encoder: hubert::Saved,
    /// Frames of each clip.
    frames: Vec<usize>,
}

impl SpeechEncoder {
    /// Width of the output.
    pub fn dim(&self) -> usize {
        self.stack * self.hubert.config.hidden_size
    }

    /// Computes the formula of the type. Without `training`, or where nothing is trained, every
    /// clip is computed alone, so that its output does not depend on what it is packed with.
    ///
    /// # Shapes
    /// -> `[audio tokens, stack * hidden]`, clip after clip
    pub fn forward(
        &self,
        audio: &Audio,
        dropout: AdapterDropout,
        training: bool,
    ) -> Result<(Tensor, Option<SpeechSaved>)> {
        let clips = clips(audio)?;
        if training && self.hubert.has_trained() {
            let (y, saved) = self.encode(&clips, &audio.clip_positions, dropout, true)?;
            return Ok((y, saved));
        }

        let mut start = 0;
        let mut encoded = Vec::with_capacity(clips.len());
        for (clip, &positions) in clips.iter().zip(&audio.clip_positions) {
            let own = if dropout.probability > 0.0 {
                AdapterDropout {
                    tokens: &dropout.tokens[start..start + positions],
                    ..dropout
                }
            } else {
                AdapterDropout::NONE
            };
            let one = std::slice::from_ref(clip);
            encoded.push(self.encode(one, &[positions], own, false)?.0);
            start += positions;
        }
        Ok((Tensor::cat(&encoded, 0)?, None))
    }

    /// Stacks of the frames of clips, `positions` of each.
    fn encode(
        &self,
        clips: &[Clip],
        positions: &[usize],
        adapters: AdapterDropout,
        training: bool,
    ) -> Result<(Tensor, Option<SpeechSaved>)> {
        let layers = self.hubert.config.num_hidden_layers;
        let pass = hubert::Pass {
            adapters,
            ..hubert::Pass::plain(layers, training)
        };
        let (encoded, saved) = self.hubert.forward(clips, pass)?;
        if encoded.frames != positions {
            return Err(Error::bug(format!(
                "clips of {positions:?} positions gave {:?} frames",
                encoded.frames
            )));
        }
        let y = stack_rows(&encoded.output, positions, self.stack)?;
        let frames = encoded.frames;
        let saved = saved.map(|encoder| SpeechSaved { encoder, frames });
        Ok((y, saved))
    }

    /// `d_samples = encoder'(unstack(dy))`, as far down as something is trained. Adds to the
    /// gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: `[audio tokens, stack * hidden]`
    pub fn backward(&self, dy: &Tensor, saved: &SpeechSaved) -> Result<()> {
        let d_frames = stack_rows_backward(dy, &saved.frames, self.stack)?;
        self.hubert
            .backward(&saved.encoder, Some(d_frames), Vec::new(), 1.0)
    }
}

/// The clips of a batch whose frames are samples.
fn clips(audio: &Audio) -> Result<Vec<Clip<'_>>> {
    if audio.mels != 1 || audio.windows.len() != audio.clip_positions.len() {
        return Err(Error::bug("a speech encoder was given log-mel frames"));
    }
    let mut rest = audio.features.as_slice();
    let mut clips = Vec::with_capacity(audio.windows.len());
    for &len in &audio.windows {
        let (samples, after) = rest
            .split_at_checked(len)
            .ok_or_else(|| Error::bug("clips are longer than their samples"))?;
        clips.push(Clip::new(samples));
        rest = after;
    }
    Ok(clips)
}
