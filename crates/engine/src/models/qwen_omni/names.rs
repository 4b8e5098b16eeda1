//! Names of Qwen2.5-Omni's tensors: as in the full checkpoint, the thinker's name in front.

use crate::models::names::Names;
use crate::nn::naming::NameForm;

/// Relative to the full model (Hugging Face, ms-swift).
const FULL: NameForm = NameForm {
    name: "relative to the full model",
    beginnings: &[("thinker.", "thinker.")],
};

/// Relative to the thinker (LLaMA-Factory, thinker-only checkpoints).
const THINKER: NameForm = NameForm {
    name: "relative to the thinker",
    beginnings: &[("thinker.", "")],
};

/// The names.
pub static NAMES: Names = Names {
    family: "Qwen2.5-Omni",
    encoder: "thinker.audio_tower",
    positions: None,
    encoder_norm: "thinker.audio_tower.ln_post",
    projector: "thinker.audio_tower.proj",
    projector_hidden: None,
    projector_norm: None,
    decoder: "thinker.model",
    head: "thinker.lm_head.weight",
    stores_tied_head: false,
    checkpoints: &[FULL, THINKER],
    adapters: &[FULL, THINKER],
    classes: (
        "Qwen2_5OmniProcessor",
        "Qwen2_5OmniThinkerForConditionalGeneration",
    ),
    package: None,
};

/// The same with a speech encoder in place of the audio tower.
pub static SPEECH_NAMES: Names = Names {
    projector: "thinker.audio_projector.linear_2",
    projector_hidden: Some("thinker.audio_projector.linear_1"),
    projector_norm: Some("thinker.audio_projector.norm"),
    ..NAMES
};
