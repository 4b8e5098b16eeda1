//! What a check computes with.

use candle_core::Device;

use crate::bench::check::sizes::Sizes;

/// What a check computes with: the device, and the widths of the model.
pub struct Bench<'a> {
    pub device: &'a Device,
    pub sizes: &'a Sizes,
}
