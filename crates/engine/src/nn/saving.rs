//! Tensors that layers save from their forward for their backward.

use candle_core::Result;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

/// Amount that a layer saves from its forward for its backward. It changes memory and time, never
/// gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Save {
    /// Everything.
    All,
    /// Everything but the outputs of norms and activations, which are computed again.
    #[default]
    Norms,
    /// The layer's input alone; all but the last linear layer is computed again.
    Layer,
}

impl std::fmt::Display for Save {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Norms => "norms",
            Self::Layer => "layer",
        })
    }
}

/// A saved tensor, or the same computed again.
pub fn or_again(saved: &Option<Tensor>, again: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    saved
        .as_ref()
        .map_or_else(again, |tensor| Ok(tensor.clone()))
}

/// A tensor or gradient that must be there.
pub fn wanted<T>(found: Option<T>) -> Result<T> {
    found
        .ok_or_else(|| candle_core::Error::Msg("missing gradient: `backward` returned none".into()))
}
