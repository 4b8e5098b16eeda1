//! The three parts of an audio language model, and how each is trained: what recipes, stages and
//! the model all name.

use serde::Deserialize;
use serde::Serialize;

/// One of the three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Convolutions and transformer layers that encode audio.
    AudioEncoder,
    /// The linear layer from audio to decoder width.
    Projector,
    /// The language model.
    Decoder,
}

impl Part {
    /// The parts, in the order in which data walks through them.
    pub const ALL: [Self; 3] = [Self::AudioEncoder, Self::Projector, Self::Decoder];

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::AudioEncoder => "audio_encoder",
            Self::Projector => "projector",
            Self::Decoder => "decoder",
        }
    }
}

/// How a part of the model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Training {
    /// Not at all.
    Frozen,
    /// Through adapters.
    Lora,
    /// Every weight of it: convolutions, norms, biases, and the decoder's embeddings and head with
    /// them.
    Full,
}

/// Something for each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerPart<T> {
    /// For the convolutions and transformer layers that encode audio.
    pub audio_encoder: T,
    /// For the linear layer from audio to decoder width.
    pub projector: T,
    /// For the language model.
    pub decoder: T,
}

impl<T: Copy> PerPart<T> {
    /// What one part has.
    pub fn of(&self, part: Part) -> T {
        match part {
            Part::AudioEncoder => self.audio_encoder,
            Part::Projector => self.projector,
            Part::Decoder => self.decoder,
        }
    }

    /// What `value` says of each part.
    pub fn from_fn(value: impl Fn(Part) -> T) -> Self {
        Self {
            audio_encoder: value(Part::AudioEncoder),
            projector: value(Part::Projector),
            decoder: value(Part::Decoder),
        }
    }
}

/// How the embeddings of the tokens that open and close a clip are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenTraining {
    /// Not at all, unless the decoder is in full fine-tuning.
    #[default]
    Frozen,
    /// Both embeddings, in the stages that train the projector.
    Full,
}

/// `train:` of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Convolutions and transformer layers that encode audio.
    pub audio_encoder: Training,
    /// The linear layer from audio to decoder width.
    pub projector: Training,
    /// The language model.
    pub decoder: Training,
    /// Embeddings of the tokens that open and close a clip.
    pub audio_tokens: TokenTraining,
}

impl Default for TrainSettings {
    fn default() -> Self {
        let parts = Parts::default();
        Self {
            audio_encoder: parts.audio_encoder,
            projector: parts.projector,
            decoder: parts.decoder,
            audio_tokens: TokenTraining::default(),
        }
    }
}

impl TrainSettings {
    /// How each part is trained.
    pub fn parts(&self) -> Parts {
        Parts {
            audio_encoder: self.audio_encoder,
            projector: self.projector,
            decoder: self.decoder,
        }
    }
}

/// How each part is trained: of a recipe, or of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Convolutions and transformer layers that encode audio.
    pub audio_encoder: Training,
    /// The linear layer from audio to decoder width.
    pub projector: Training,
    /// The language model.
    pub decoder: Training,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            audio_encoder: Training::Frozen,
            projector: Training::Frozen,
            decoder: Training::Lora,
        }
    }
}

impl Parts {
    /// How a part is trained.
    pub fn of(&self, part: Part) -> Training {
        PerPart {
            audio_encoder: self.audio_encoder,
            projector: self.projector,
            decoder: self.decoder,
        }
        .of(part)
    }

    /// A part's place.
    pub fn of_mut(&mut self, part: Part) -> &mut Training {
        match part {
            Part::AudioEncoder => &mut self.audio_encoder,
            Part::Projector => &mut self.projector,
            Part::Decoder => &mut self.decoder,
        }
    }
}

/// `train:` of a stage: what it says in place of the recipe's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageParts {
    /// Convolutions and transformer layers that encode audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_encoder: Option<Training>,
    /// The linear layer from audio to decoder width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector: Option<Training>,
    /// The language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder: Option<Training>,
}

impl StageParts {
    /// How the stage trains each part, where the recipe trains it as `otherwise` says.
    pub fn or(&self, otherwise: &Parts) -> Parts {
        Parts {
            audio_encoder: self.audio_encoder.unwrap_or(otherwise.audio_encoder),
            projector: self.projector.unwrap_or(otherwise.projector),
            decoder: self.decoder.unwrap_or(otherwise.decoder),
        }
    }
}
