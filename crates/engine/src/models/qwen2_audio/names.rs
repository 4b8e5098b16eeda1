//! Names of Qwen2-Audio's tensors, as checkpoints on the Hub write them.

use crate::models::names::Names;
use crate::nn::naming::NameForm;

/// As on the Hub, and in adapters of transformers 4.
const HUB: NameForm = NameForm {
    name: "named as on the Hub",
    beginnings: &[
        ("language_model.model.", "language_model.model."),
        ("language_model.", "language_model."),
        ("audio_tower.", "audio_tower."),
        ("multi_modal_projector.", "multi_modal_projector."),
    ],
};

/// As `save_pretrained` of transformers 5.17 writes them: it renames the decoder twice on the way
/// out.
const SAVED: NameForm = NameForm {
    name: "named as transformers 5 saves",
    beginnings: &[
        ("language_model.model.", "language_model.model.model."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("audio_tower.", "audio_tower."),
        ("multi_modal_projector.", "multi_modal_projector."),
    ],
};

/// As the model of transformers 5 has them: in its adapters, and in checkpoints that were saved
/// without renaming.
const NESTED: NameForm = NameForm {
    name: "named as in transformers 5",
    beginnings: &[
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("audio_tower.", "model.audio_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
};

/// The names.
pub static NAMES: Names = Names {
    family: "Qwen2-Audio",
    encoder: "audio_tower",
    positions: Some("audio_tower.embed_positions.weight"),
    encoder_norm: "audio_tower.layer_norm",
    projector: "multi_modal_projector.linear",
    projector_hidden: None,
    projector_norm: None,
    decoder: "language_model.model",
    head: "language_model.lm_head.weight",
    stores_tied_head: true,
    checkpoints: &[SAVED, HUB, NESTED],
    adapters: &[NESTED, HUB],
    classes: ("Qwen2AudioProcessor", "Qwen2AudioForConditionalGeneration"),
    package: None,
};

/// The same with a speech encoder in place of the audio tower.
pub static SPEECH_NAMES: Names = Names {
    positions: None,
    projector: "multi_modal_projector.linear_2",
    projector_hidden: Some("multi_modal_projector.linear_1"),
    projector_norm: Some("multi_modal_projector.norm"),
    ..NAMES
};
