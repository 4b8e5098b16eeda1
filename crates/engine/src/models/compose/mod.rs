//! A model in Qwen2-Audio's layout, made of a Whisper encoder, a Qwen2 decoder and a fresh
//! projector between them.

mod decoder;
mod encoder;
mod gguf;
mod tree;

pub use self::decoder::Decoder;
pub use self::encoder::Encoder;
pub use self::tree::Composed;
pub use self::tree::Composition;
