//! Encoders of the HuBERT and wav2vec 2.0 family (Hsu et al. 2021; Baevski et al. 2020): forward,
//! backward, files of Hugging Face.
//!
//! Clips are packed: their frames follow each other and nothing is padded, so no result depends on
//! what a clip was batched with. Where a caller pads a clip itself ([`Clip::valid`]), the group
//! norm of HuBERT-base sees the padding, as in transformers. Encoders compute on the CPU.

mod build;
pub mod config;
mod encoder;
mod files;
mod front;
mod head;
mod initial;
mod layer;
mod part;
mod source;

use std::path::Path;

pub use self::encoder::Clip;
pub use self::encoder::Encoded;
pub use self::encoder::Hubert;
pub use self::encoder::Pass;
pub use self::encoder::Saved;
pub use self::encoder::Scope;
pub use self::files::Class;
pub use self::files::save;
pub use self::head::head_parameters;
pub use self::initial::Head;
pub use self::part::build_part;
pub use self::part::declare_others;
pub use self::part::linear_groups;
pub use self::part::tensors;
pub use self::source::Source;
use crate::nn::checkpoint::read_json;

/// Whether a folder's `config.json` is that of a speech encoder. One that cannot be read is not;
/// who opens it says why.
pub fn is_encoder(dir: &Path) -> bool {
    read_json(&dir.join(config::CONFIG_FILE)).is_ok_and(|value| value.get("conv_kernel").is_some())
}
