//! Weights of an encoder before training.

use candle_core::Device;
use candle_core::Tensor;

use crate::models::hubert::config::Config;
use crate::ops::device::random_normal;
use maqam_base::error::Result;
use maqam_base::seed::Key;

/// Standard deviation of the transformer's matrices: `initializer_range` of transformers.
const DEVIATION: f64 = 0.02;

/// A tensor of a head that is trained with an encoder.
#[derive(Clone, Debug)]
pub struct Head {
    /// Name in files.
    pub name: String,
    /// Shape: matrices begin normal, vectors at zero.
    pub shape: Vec<usize>,
    /// Standard deviation of a matrix at the beginning.
    pub deviation: f64,
}

/// The first values of a tensor, by its name and shape.
///
/// As transformers and fairseq do: convolutions normal after He et al. 2015; the positional
/// convolution normal with variance 4 / (kernel * hidden), its lengths those of its directions; the
/// projection uniform; other matrices normal with 0.02; norms one, biases zero; the mask embedding
/// uniform.
pub(super) fn tensor(
    seed: u64,
    name: &str,
    shape: &[usize],
    head: Option<&Head>,
    config: &Config,
) -> Result<Tensor> {
    let key = Key::new(seed, name);
    let count: usize = shape.iter().product();
    let normal = |deviation: f64| random_normal(shape, key, deviation as f32, &Device::Cpu);
    let constant = |value: f32| Tensor::full(value, shape, &Device::Cpu);
    let uniform = |low: f64, high: f64| {
        let values: Vec<f32> = (0..count as u64)
            .map(|i| (low + (high - low) * key.uniform(i)) as f32)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    };

    if let Some(head) = head {
        return Ok(match shape.len() {
            1 => constant(0.0)?,
            _ => normal(head.deviation)?,
        });
    }

    let positions = (4.0 / (config.num_conv_pos_embeddings * config.hidden_size) as f64).sqrt();
    let is_norm = name.contains("layer_norm");

    Ok(match name {
        "masked_spec_embed" => uniform(0.0, 1.0)?,
        _ if name.ends_with("original0") => {
            let direction = name.replace("original0", "original1");
            let groups = config.positions();
            let shape = [config.hidden_size, groups.width(), groups.kernel];
            tensor(seed, &direction, &shape, None, config)?
                .sqr()?
                .sum_keepdim((0, 1))?
                .sqrt()?
        }
        _ if name.ends_with("original1") => normal(positions)?,
        "feature_projection.projection.weight" => {
            let bound = 1.0 / (shape[1] as f64).sqrt();
            uniform(-bound, bound)?
        }
        _ if is_norm && name.ends_with("weight") => constant(1.0)?,
        _ if shape.len() == 1 => constant(0.0)?,
        _ if shape.len() == 3 => normal((2.0 / (shape[1] * shape[2]) as f64).sqrt())?,
        _ => normal(DEVIATION)?,
    })
}
