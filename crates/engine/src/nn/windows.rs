//! Windows of packed audio, as the layers of an encoder see them.

use candle_core::Result;
use candle_core::Tensor;

use crate::nn::saving::Save;
use crate::ops::dropout::Dropout;
use crate::ops::linear::AdapterDropout;
use maqam_base::seed::Key;

/// Packed windows of a batch, and how a pass over them is computed.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    /// Starts of the windows, and the number of positions at the end.
    pub cu_positions: &'a [usize],
    /// Dropout of the adapters.
    pub dropout: AdapterDropout<'a>,
    /// Dropout of what attention and MLP add.
    pub hidden: HiddenDropout<'a>,
    /// Amount that layers save for their backward.
    pub save: Save,
}

/// Dropout of hidden states, before they are added to the residual.
#[derive(Clone, Copy, Debug)]
pub struct HiddenDropout<'a> {
    /// Share of the numbers that become zero, in `[0, 1)`.
    pub probability: f64,
    /// One stream for each position.
    pub positions: &'a [Key],
    /// Tells the layers apart.
    pub layer: u64,
}

impl HiddenDropout<'static> {
    /// No dropout.
    pub const NONE: Self = Self {
        probability: 0.0,
        positions: &[],
        layer: 0,
    };
}

/// Uses of dropout in a layer, at most.
const PLACES: u64 = 2;

impl HiddenDropout<'_> {
    /// Place of attention in a layer.
    pub const ATTENTION: u64 = 0;
    /// Place of the MLP in a layer.
    pub const MLP: u64 = 1;

    /// Whether something is dropped.
    pub fn is_on(self) -> bool {
        self.probability > 0.0
    }

    /// The same dropout in another layer.
    #[must_use]
    pub fn in_layer(self, layer: u64) -> Self {
        Self { layer, ..self }
    }

    /// `mask * x` at a place of the layer, for the forward and, applied to a gradient, for the
    /// backward; `x` itself where nothing is dropped.
    ///
    /// # Shapes
    /// `x`: `[positions, dim]` -> the same
    pub fn apply(self, x: &Tensor, place: u64) -> Result<Tensor> {
        if !self.is_on() {
            return Ok(x.clone());
        }
        let dropout = Dropout {
            probability: self.probability,
            tokens: self.positions,
            site: self.layer * PLACES + place,
        };
        dropout.apply(x)
    }
}
