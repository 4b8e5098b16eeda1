//! maqam fine-tunes audio language models on several speech tasks at once.
//!
//! The rooms below stand in the order in which a piece of data walks through them; a room uses rooms above it, never below.

pub mod error;
pub mod files;
pub mod seed;

pub mod audio;
