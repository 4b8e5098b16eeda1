//! Audio language models: the families, each a folder of names, configuration and shapes, and the
//! model that all of them come down to. Beside them encoders of speech alone, in [`hubert`].

mod audio_embedder;
mod audio_encoder;
mod audio_llm;
mod build;
mod clip_encoder;
pub mod compose;
pub mod config;
pub mod cost;
pub mod encoded;
pub mod export;
pub mod family;
mod fingerprint;
mod freezing;
pub mod fresh_projector;
mod front;
pub mod generate;
pub mod gguf;
mod groups;
pub mod hubert;
pub mod memory;
pub mod names;
pub mod pass;
mod projector;
pub mod qwen2_audio;
pub mod qwen3_asr;
pub mod qwen_omni;
pub mod shapes;
pub mod sizes;
pub mod speech;
mod speech_encoder;
mod token_embeddings;
pub mod trained;
mod trained_values;
mod with_speech;

pub use self::audio_encoder::sinusoids;
pub use self::audio_llm::AudioEmbeddings;
pub use self::audio_llm::AudioLlm;
pub use self::audio_llm::on_host;
pub use self::build::token_rows_on_gpu;
pub use self::fingerprint::Fingerprint;
pub use self::pass::EmbeddingNoise;
pub use self::pass::Pass;
pub use self::pass::Phase;
