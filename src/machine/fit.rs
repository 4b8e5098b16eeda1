//! Memory of the machine for a model that answers.

use candle_core::Device;

use crate::error::Result;
use crate::machine::memory::Available;
use crate::machine::memory::available;
use crate::models::AudioLlm;
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

/// Keeps the model's matrices once more in bf16 for generation, if the machine has twice the memory
/// that this takes. The answers are the same either way ([`AudioLlm::add_halves`]).
///
/// # Errors
/// The device's.
pub fn prepare_to_generate(model: &mut AudioLlm) -> Result<()> {
    let needed = 2 * model.bytes_of_halves() as u64;
    match available() {
        Some(available) if available.bytes < needed => Ok(()),
        _ => model.add_halves(),
    }
}
