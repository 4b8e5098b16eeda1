//! Models that maqam runs through candle-transformers: language models that write and judge
//! summaries, and Whisper.
//!
//! They compute on the CPU in f32: candle-transformers computes its rotation angles in the type of
//! the weights, and bfloat16 has no room for positions above 256. Quantised weights of GGUF files
//! stay quantised. On a GPU, a server behind an endpoint is the faster engine.

mod chat;
mod config;
mod gguf;
mod models;
mod network;
mod whisper;
mod whisper_decoder;

pub(crate) use chat::Chat;
pub use models::Model;
pub use models::Models;
pub(crate) use whisper::Whisper;
