//! Sections of the page of a run: each says one thing.

pub mod alignment;
pub mod answers;
pub mod audio_gap;
pub mod chapter;
pub mod curves;
pub mod failures;
pub mod gradients;
pub mod header;
pub mod measure;
pub mod mixture;
pub mod online;
pub mod provenance;
pub mod scores;
pub mod selection;
pub mod slices;
pub mod utterance;
pub mod worst;
