//! Names of the tensors of Qwen3-ASR, as in transformers.

use crate::models::names::Names;
use crate::nn::naming::NameForm;

/// Names in transformers, and on the Hub under `Qwen/Qwen3-ASR-*-hf`.
const TRANSFORMERS: NameForm = NameForm {
    name: "named as in transformers",
    beginnings: &[
        ("model.language_model.", "model.language_model."),
        ("model.", "model."),
        ("lm_head.", "lm_head."),
    ],
};

/// Names in the original checkpoints, `Qwen/Qwen3-ASR-*`, whose encoder holds the projector.
const ORIGINAL: NameForm = NameForm {
    name: "named as in the original checkpoint",
    beginnings: &[
        ("model.language_model.", "thinker.model."),
        (
            "model.multi_modal_projector.linear_1",
            "thinker.audio_tower.proj1",
        ),
        (
            "model.multi_modal_projector.linear_2",
            "thinker.audio_tower.proj2",
        ),
        (
            "model.multi_modal_projector.",
            "thinker.multi_modal_projector.",
        ),
        ("model.audio_tower.", "thinker.audio_tower."),
        ("lm_head.", "thinker.lm_head."),
    ],
};

/// The names.
pub static NAMES: Names = Names {
    family: "Qwen3-ASR",
    encoder: "model.audio_tower",
    positions: None,
    encoder_norm: "model.audio_tower.ln_post",
    projector: "model.multi_modal_projector.linear_2",
    projector_hidden: Some("model.multi_modal_projector.linear_1"),
    projector_norm: None,
    decoder: "model.language_model",
    head: "lm_head.weight",
    stores_tied_head: false,
    checkpoints: &[TRANSFORMERS, ORIGINAL],
    adapters: &[TRANSFORMERS, ORIGINAL],
    classes: ("Qwen3ASRProcessor", "Qwen3ASRForConditionalGeneration"),
    package: None,
};

/// The same for a checkpoint in the original layout, whose adapters are written as it is.
pub static ORIGINAL_NAMES: Names = Names {
    adapters: &[ORIGINAL, TRANSFORMERS],
    package: Some(("qwen_asr", "Qwen3ASRModel")),
    ..NAMES
};

/// The names with a speech encoder in place of the audio tower.
pub static SPEECH_NAMES: Names = Names {
    projector_norm: Some("model.multi_modal_projector.norm"),
    ..NAMES
};

/// The same for a checkpoint in the original layout.
pub static ORIGINAL_SPEECH_NAMES: Names = Names {
    projector_norm: Some("model.multi_modal_projector.norm"),
    ..ORIGINAL_NAMES
};
