//! A family's model with a speech encoder in place of its audio tower.

use std::path::Path;

use crate::models::config::Config;
use crate::models::names::Names;
use crate::models::qwen_omni;
use crate::models::qwen2_audio;
use crate::models::qwen3_asr;
use crate::models::speech::Speech;
use crate::nn::weights::Weights;
use maqam_base::error::Error;
use maqam_base::error::Result;

/// Names of each family with its own tower, and with a speech encoder.
static FAMILIES: [(&Names, &Names); 4] = [
    (&qwen_omni::names::NAMES, &qwen_omni::names::SPEECH_NAMES),
    (
        &qwen2_audio::names::NAMES,
        &qwen2_audio::names::SPEECH_NAMES,
    ),
    (&qwen3_asr::names::NAMES, &qwen3_asr::names::SPEECH_NAMES),
    (
        &qwen3_asr::names::ORIGINAL_NAMES,
        &qwen3_asr::names::ORIGINAL_SPEECH_NAMES,
    ),
];

impl Config {
    /// The model with this encoder in place of its audio tower, or of the encoder that took its
    /// place before.
    #[must_use]
    pub fn with_speech(mut self, speech: Speech) -> Self {
        let own = FAMILIES.iter().find(|(own, _)| *own == self.names);
        if let Some((_, names)) = own {
            self.names = names;
        }
        self.speech = Some(Box::new(speech));
        self
    }

    /// The model with its family's audio tower.
    #[must_use]
    pub fn with_tower(&self) -> Self {
        let mut config = self.clone();
        let own = FAMILIES.iter().find(|(_, with)| *with == self.names);
        if let Some((names, _)) = own {
            config.names = names;
        }
        config.speech = None;
        config
    }

    /// Reads the shape of the model in `dir` as what was trained of it in `trained` needs it: with
    /// the speech encoder that it was trained with.
    ///
    /// # Errors
    /// As [`Config::load`]; a record of an encoder that cannot be read.
    pub fn load_with(dir: &Path, trained: Option<&Path>) -> Result<Self> {
        let config = Self::load(dir)?;
        let speech = match trained {
            Some(trained) => Speech::of_folder(trained)?,
            None => None,
        };
        Ok(match speech {
            Some(speech) => config.with_speech(speech),
            None => config,
        })
    }

    /// Weights of the rest of the model, with those of the speech encoder if they are in a folder
    /// of their own.
    ///
    /// # Errors
    /// As [`Speech::tensors`].
    pub fn add_speech(&self, weights: Weights) -> Result<Weights> {
        match &self.speech {
            Some(speech) => Ok(weights.with(speech.tensors(self.names.encoder)?)),
            None => Ok(weights),
        }
    }

    /// Refuses a model whose encoder reads samples, for work on log-mel frames.
    ///
    /// # Errors
    /// The encoder, by name.
    pub fn refuse_speech(&self) -> Result<()> {
        match &self.speech {
            Some(speech) => Err(Error::input(format!(
                "the model has a {} in place of its audio tower, which reads no log-mel frames",
                speech.description()
            ))
            .hint("name a model with its family's audio tower")),
            None => Ok(()),
        }
    }

    /// Refuses to compute this model elsewhere than on the CPU where its encoder cannot.
    ///
    /// # Errors
    /// The encoder, by name.
    pub fn refuse_gpu(&self) -> Result<()> {
        let encoder = match (&self.speech, self.audio.chunks) {
            (Some(speech), _) => format!("the {}", speech.description()),
            (None, Some(_)) => format!("the encoder of {}", self.names.family),
            (None, None) => return Ok(()),
        };
        Err(
            Error::input(format!("{encoder} has no kernels for the GPU"))
                .hint("compute on the CPU with `--device cpu`"),
        )
    }
}
