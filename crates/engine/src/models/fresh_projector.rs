//! The projector between a speech encoder and the decoder, before it is trained.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;

use crate::models::config::Config;
use crate::nn::weights::Weights;
use crate::ops::cpu::slice;
use crate::ops::device::random_normal;
use maqam_base::error::Error;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Mean square of `gelu(x)` for a standard normal `x`, by numerical integration.
const GELU_SQUARE: f64 = 0.425_221;

/// Tensors of a fresh projector by their names in the model: a norm of ones, two normal matrices
/// and biases of zeros.
///
/// The norm gives numbers of mean square 1. The first matrix has deviation `1 / sqrt(inputs)`, so
/// that its outputs have it too. The second one has the deviation that makes outputs as large as
/// token embeddings, whose mean square comes from `weights`.
///
/// # Errors
/// A model without a speech encoder; embeddings that cannot be read.
pub fn tensors(config: &Config, weights: &Weights, seed: u64) -> Result<HashMap<String, Tensor>> {
    let names = config.names;
    let (Some(norm), Some(first)) = (names.projector_norm, names.projector_hidden) else {
        return Err(Error::bug("a fresh projector for a model that has its own"));
    };
    let inputs = config.projector_inputs();
    let outputs = config.text.hidden_size;
    let table = [config.text.vocab_size, outputs];
    let embeddings = weights.get(&names.embeddings(), &table, DType::F32)?;
    let square = mean_square(&slice::<f32>(&embeddings)?);

    let matrix = |name: &str, inputs: usize, deviation: f64| {
        let key = Key::new(seed, "projector").with_name(name);
        random_normal((outputs, inputs), key, deviation as f32, &Device::Cpu)
    };
    let constant = |value: f32, len: usize| Tensor::full(value, len, &Device::Cpu);
    let second = names.projector;
    let spread = (square / (GELU_SQUARE * outputs as f64)).sqrt();
    Ok(HashMap::from([
        (format!("{norm}.weight"), constant(1.0, inputs)?),
        (format!("{norm}.bias"), constant(0.0, inputs)?),
        (
            format!("{first}.weight"),
            matrix(first, inputs, (1.0 / inputs as f64).sqrt())?,
        ),
        (format!("{first}.bias"), constant(0.0, outputs)?),
        (format!("{second}.weight"), matrix(second, outputs, spread)?),
        (format!("{second}.bias"), constant(0.0, outputs)?),
    ]))
}

fn mean_square(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    sum / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_square_of_gelu_is_that_of_the_integral() {
        // Simpson's rule over [-12, 12]; erf by its power series in the middle, 1 outside.
        let erf = |x: f64| {
            let mut term = x;
            let mut sum = x;
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            match x.abs() > 5.0 {
                true => x.signum(),
                false => sum * 2.0 / std::f64::consts::PI.sqrt(),
            }
        };
        let value = |x: f64| {
            let gelu = 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
            gelu * gelu * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
        };
        let steps = 4000;
        let width = 24.0 / f64::from(steps);
        let sum: f64 = (0..=steps)
            .map(|i| {
                let weight = match i {
                    0 => 1.0,
                    i if i == steps => 1.0,
                    i if i % 2 == 1 => 4.0,
                    _ => 2.0,
                };
                weight * value(-12.0 + f64::from(i) * width)
            })
            .sum();
        let found = sum * width / 3.0;
        assert!((found - GELU_SQUARE).abs() < 1e-5, "{found}");
    }
}
