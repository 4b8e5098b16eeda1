//! Parts that every family of models shares: layers, adapters, the flat buffer of what is trained,
//! files of weights.

pub mod cache;
pub mod checkpoint;
pub mod decoder;
pub mod decoder_layer;
pub mod encoder_layer;
pub mod gelu_mlp;
pub mod head_norms;
pub mod layer_norm;
pub mod lora;
pub mod naming;
pub mod parameters;
pub mod patterns;
pub mod peft;
pub mod peft_rules;
pub mod precision;
pub mod rms_norm;
pub mod saving;
pub mod self_attention;
pub mod stack;
pub mod weights;
pub mod windows;
