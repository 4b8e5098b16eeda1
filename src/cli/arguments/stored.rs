//! `--dtype`: types of stored weights.

use clap::ValueEnum;
use safetensors::Dtype;

/// A type of stored weights.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    /// Its name in safetensors.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}
