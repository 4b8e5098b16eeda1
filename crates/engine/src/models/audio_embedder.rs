//! From packed audio to audio embeddings: the audio encoder, then the projector.

use std::sync::Mutex;
use std::sync::PoisonError;

use candle_core::Tensor;

use crate::batch::Audio;
use crate::batch::Reduction;
use crate::models::clip_encoder::ClipEncoder;
use crate::models::clip_encoder::ClipSaved;
use crate::models::encoded::EncodedCache;
use crate::models::pass::Pass;
use crate::models::projector::Projector;
use crate::models::projector::ProjectorSaved;
use crate::nn::saving::Save;
use crate::nn::windows::HiddenDropout;
use crate::nn::windows::Windows;
use crate::ops::cpu::tensor;
use crate::ops::linear::AdapterDropout;
use crate::ops::linear::Linear;
use crate::ops::weight::Weight;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// `e = projector(encoder(audio))`.
pub struct AudioEmbedder {
    /// The audio encoder.
    pub encoder: ClipEncoder,
    /// The projector.
    pub projector: Projector,
    /// Outputs of the encoder by clip, where it is frozen for the whole run and they are cached.
    pub cache: Option<Mutex<EncodedCache>>,
}

/// Tensors that the backward of [`AudioEmbedder`] needs.
pub struct EmbedderSaved {
    encoder: Option<ClipSaved>,
    encoded: Tensor,
    projector: ProjectorSaved,
}

impl AudioEmbedder {
    /// Whether the encoder or the projector is not frozen for now.
    pub fn is_trained(&self) -> bool {
        self.projector.is_trained() || self.encoder.is_trained()
    }

    /// Linear layers of both, in the order of the data.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = self.encoder.linears_mut();
        linears.extend(self.projector.linears_mut());
        linears
    }

    /// Everything that can be trained, in a fixed order.
    pub fn weights_mut(&mut self) -> Vec<&mut Weight> {
        let mut weights = self.encoder.weights_mut();
        weights.extend(self.projector.weights_mut());
        weights
    }

    /// `e = projector(encoder(audio))`; `training` saves what the encoder's backward needs.
    ///
    /// # Shapes
    /// -> `[audio tokens, hidden]`, clip after clip
    pub fn forward(
        &self,
        audio: &Audio,
        pass: Pass,
        training: bool,
    ) -> Result<(Tensor, EmbedderSaved)> {
        let cu_positions = audio.cu_positions();
        let windows = windows(&cu_positions, audio, pass);
        let (encoded, encoder) = self.encoder.forward(audio, &windows, training)?;
        self.project(audio, pass, encoded, encoder)
    }

    /// As [`AudioEmbedder::forward`] for a frozen encoder: each clip is encoded alone, unless the
    /// cache has its output.
    pub fn forward_cached(
        &self,
        audio: &Audio,
        pass: Pass,
        cache: &Mutex<EncodedCache>,
    ) -> Result<(Tensor, EmbedderSaved)> {
        let encoded = audio
            .clips()
            .iter()
            .map(|clip| self.encode_cached(clip, cache))
            .collect::<Result<Vec<_>>>()?;
        let encoded = Tensor::cat(&encoded, 0)?;
        self.project(audio, pass, encoded, None)
    }

    fn encode_cached(&self, clip: &Audio, cache: &Mutex<EncodedCache>) -> Result<Tensor> {
        let rows = clip.num_tokens();
        let dim = self.encoder.dim()?;
        let locked = || cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = locked().get(clip, rows, dim) {
            return Ok(tensor(values, (rows, dim))?);
        }

        let cu_positions = clip.cu_positions();
        let windows = Windows {
            cu_positions: &cu_positions,
            dropout: AdapterDropout::NONE,
            hidden: HiddenDropout::NONE,
            save: Save::Norms,
        };
        let (encoded, _) = self.encoder.forward(clip, &windows, false)?;
        locked().put(clip, &encoded)?;
        Ok(encoded)
    }

    fn project(
        &self,
        audio: &Audio,
        pass: Pass,
        encoded: Tensor,
        encoder: Option<ClipSaved>,
    ) -> Result<(Tensor, EmbedderSaved)> {
        let keys = token_keys(audio, pass.dropout);
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &keys,
        };
        let (embeddings, projector) = self.projector.forward(&encoded, dropout)?;

        let saved = EmbedderSaved {
            encoder,
            encoded,
            projector,
        };
        Ok((embeddings, saved))
    }

    /// `projector'(de)` is the gradient of the encoder's output, which goes down as far as
    /// something is trained. Adds to the gradients of what is trained.
    ///
    /// # Shapes
    /// `dy`: `[audio tokens, hidden]`
    pub fn backward(
        &self,
        dy: &Tensor,
        saved: &EmbedderSaved,
        audio: &Audio,
        pass: Pass,
    ) -> Result<()> {
        let keys = token_keys(audio, pass.dropout);
        let dropout = AdapterDropout {
            probability: pass.dropout,
            tokens: &keys,
        };
        let d_encoded = self.projector.backward(
            dy,
            &saved.encoded,
            &saved.projector,
            dropout,
            saved.encoder.is_some(),
        )?;
        if let (Some(saved), Some(d_encoded)) = (&saved.encoder, d_encoded) {
            let cu_positions = audio.cu_positions();
            let windows = windows(&cu_positions, audio, pass);
            self.encoder.backward(&d_encoded, saved, audio, &windows)?;
        }
        Ok(())
    }
}

fn windows<'a>(cu_positions: &'a [usize], audio: &'a Audio, pass: Pass) -> Windows<'a> {
    Windows {
        cu_positions,
        dropout: AdapterDropout {
            probability: pass.dropout,
            tokens: &audio.position_keys,
        },
        hidden: HiddenDropout::NONE,
        save: pass.save,
    }
}

/// Dropout stream of each audio token: that of its position, or of the first of the positions that
/// it was pooled from or stacked of.
fn token_keys(audio: &Audio, dropout: f64) -> Vec<Key> {
    if dropout == 0.0 {
        return Vec::new();
    }
    let group = match audio.framing.reduction {
        Reduction::Eighth { .. } => return audio.position_keys.clone(),
        Reduction::Quarter => 2,
        Reduction::Samples { stack, .. } => stack,
    };

    let mut start = 0;
    let mut keys = Vec::new();
    for &positions in &audio.clip_positions {
        let tokens = audio.framing.tokens_of(positions);
        keys.extend((0..tokens).map(|token| audio.position_keys[start + group * token]));
        start += positions;
    }
    keys
}
