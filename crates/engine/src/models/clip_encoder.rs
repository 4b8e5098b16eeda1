//! The encoder of a model's clips: its family's audio tower, or a speech encoder in its place.

use candle_core::Tensor;

use crate::batch::Audio;
use crate::models::audio_encoder::AudioEncoder;
use crate::models::audio_encoder::EncoderSaved;
use crate::models::speech_encoder::SpeechEncoder;
use crate::models::speech_encoder::SpeechSaved;
use crate::nn::windows::Windows;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// One of the encoders.
pub enum ClipEncoder {
    /// The family's own: log-mel frames to audio tokens.
    Tower(Box<AudioEncoder>),
    /// A speech encoder: samples to stacks of frames.
    Speech(Box<SpeechEncoder>),
}

/// Tensors that the backward of [`ClipEncoder`] needs.
pub enum ClipSaved {
    /// Of the tower.
    Tower(EncoderSaved),
    /// Of a speech encoder.
    Speech(SpeechSaved),
}

impl ClipEncoder {
    /// Whether there is something to train.
    pub fn is_trained(&self) -> bool {
        match self {
            Self::Tower(encoder) => encoder.is_trained(),
            Self::Speech(encoder) => encoder.hubert.has_trained(),
        }
    }

    /// Width of the output.
    pub fn dim(&self) -> Result<usize> {
        match self {
            Self::Tower(encoder) => Ok(encoder.dim()?),
            Self::Speech(encoder) => Ok(encoder.dim()),
        }
    }

    /// Vectors of the positions, which are never trained; a speech encoder has none.
    pub fn positions(&self) -> Option<&Tensor> {
        match self {
            Self::Tower(encoder) => Some(&encoder.positions),
            Self::Speech(_) => None,
        }
    }

    /// Linear layers that can have adapters, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Tower(encoder) => encoder.linears_mut(),
            Self::Speech(encoder) => encoder.hubert.linears_mut(),
        }
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        match self {
            Self::Tower(encoder) => encoder.weights_mut(),
            Self::Speech(encoder) => encoder.hubert.weights_mut(),
        }
    }

    /// Outputs for the clips, and what the backward needs where `training` says so and something is
    /// trained.
    ///
    /// # Shapes
    /// -> `[audio tokens, width]`, clip after clip
    pub fn forward(
        &self,
        audio: &Audio,
        windows: &Windows,
        training: bool,
    ) -> Result<(Tensor, Option<ClipSaved>)> {
        match self {
            Self::Tower(encoder) => {
                let (y, saved) = encoder.forward(audio, windows, training)?;
                Ok((y, saved.map(ClipSaved::Tower)))
            }
            Self::Speech(encoder) => {
                let (y, saved) = encoder.forward(audio, windows.dropout, training)?;
                Ok((y, saved.map(ClipSaved::Speech)))
            }
        }
    }

    /// Adds to the gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: `[audio tokens, width]`
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &ClipSaved,
        audio: &Audio,
        windows: &Windows,
    ) -> Result<()> {
        match (self, saved) {
            (Self::Tower(encoder), ClipSaved::Tower(saved)) => {
                Ok(encoder.backward(dy, saved, audio, windows)?)
            }
            (Self::Speech(encoder), ClipSaved::Speech(saved)) => encoder.backward(dy, saved),
            _ => Err(Error::bug("an encoder was given what another one saved")),
        }
    }
}
