//! Losses of encoders, each with its gradient: CTC, masked prediction of cluster ids, direct
//! regression of a teacher's features.

pub mod ctc;
pub mod distillation;
pub mod masked_prediction;
