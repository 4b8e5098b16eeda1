//! Windows of packed audio, as the layers of an encoder see them.

use crate::nn::saving::Save;
use crate::ops::linear::AdapterDropout;

/// Packed windows of a batch, and how a pass over them is computed.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    /// Starts of the windows, and the number of positions at the end.
    pub cu_positions: &'a [usize],
    /// Dropout of the adapters.
    pub dropout: AdapterDropout<'a>,
    /// Amount that layers save for their backward.
    pub save: Save,
}
