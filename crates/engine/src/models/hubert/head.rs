//! Heads that are trained with an encoder: their tensors before training.

use candle_core::Device;

use crate::models::hubert::config::Config;
use crate::models::hubert::initial;
use crate::models::hubert::initial::Head;
use crate::nn::parameters::Declared;
use crate::nn::parameters::Parameters;
use crate::nn::parameters::TensorKind;
use maqam_base::error::Result;
use maqam_base::parts::Part;

/// Heads in a flat buffer of their own, beginning as [`Head`] says.
///
/// # Errors
/// None on the CPU.
pub fn head_parameters(heads: &[Head], seed: u64) -> Result<Parameters> {
    let mut declared = Declared::default();
    for head in heads {
        declared.declare(
            head.name.clone(),
            &head.shape,
            Part::Projector,
            TensorKind::Full,
        );
    }
    let parameters = declared.allocate(&Device::Cpu)?;
    for (entry, head) in parameters.entries.iter().zip(heads) {
        let config = Config::default();
        let value = initial::tensor(seed, &entry.name, &entry.shape, Some(head), &config)?;
        parameters.set_tensor(entry, &value)?;
    }
    Ok(parameters)
}
