//! Whether a model that answers fits the memory of the machine.

use candle_core::Device;

use crate::error::Result;
use crate::machine::memory::Available;
use crate::machine::memory::available;
use crate::models::config::Config;
use crate::models::memory::HostNeed;
use crate::models::sizes::Sizes;
use crate::nn::lora::Plan;
use crate::nn::precision::Precision;

/// Refuses a model that does not fit the memory of the machine, where the machine computes.
///
/// # Errors
/// A model that is too large.
pub fn check_answering(
    config: &Config,
    plan: &Plan,
    precision: Precision,
    device: &Device,
) -> Result<()> {
    if !device.is_cpu() {
        return Ok(());
    }
    HostNeed::answering(&Sizes::of(config, plan), precision)
        .check(available().map(Available::named))
}
