//! What every family of models shares: layers, adapters, the flat buffer of what is trained, files of weights.

pub mod checkpoint;
pub mod decoder_layer;
pub mod encoder_layer;
pub mod head_norms;
pub mod layer_norm;
pub mod lora;
pub mod naming;
pub mod parameters;
pub mod patterns;
pub mod peft;
pub mod peft_rules;
pub mod precision;
pub mod saving;
pub mod stack;
pub mod weights;
