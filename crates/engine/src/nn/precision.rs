//! Precision of a model: the one that a recipe asks for, and the one that a device computes in.

use std::fmt;

use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;

use maqam_base::error::Error;
use maqam_base::error::Result;

/// The type of a model's frozen weights and activations, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The device's own: `f32` on the CPU, `bf16` on a GPU.
    #[default]
    Auto,
    /// Single precision; the CPU's alone.
    F32,
    /// Brain floating point; the CPU computes in `f32` all the same, and says so.
    Bf16,
    /// As `bf16`, with the frozen linear layers of the decoder in fp8 (e4m3, Micikevicius et al.
    /// 2022); the CPU rounds to the same numbers and computes in `f32`.
    Fp8,
}

impl Precision {
    /// Type that a device computes in under this setting.
    ///
    /// # Errors
    /// `f32` on a GPU.
    pub fn on(self, device: &Device) -> Result<Computes> {
        match (device.is_cuda(), self) {
            (false, Self::Fp8) => Ok(Computes {
                device: Place::Cpu,
                precision: Self::Fp8,
            }),
            (false, _) => Ok(Computes::default()),
            (true, Self::Auto | Self::Bf16) => Ok(Computes {
                device: Place::Cuda,
                precision: Self::Bf16,
            }),
            (true, Self::Fp8) => Ok(Computes {
                device: Place::Cuda,
                precision: Self::Fp8,
            }),
            (true, Self::F32) => Err(Error::input(
                "`model.precision` is f32, and a GPU computes in bf16 or fp8",
            )
            .hint("leave it out, or compute on the CPU with --device cpu")),
        }
    }

    /// Note for a device that computes in another precision than the recipe asks for.
    pub fn note(self, computes: Computes) -> Option<String> {
        match (computes.device, self) {
            (Place::Cpu, Self::Bf16) => Some("the CPU computes in f32; `model.precision: bf16` takes effect on a GPU".into()),
            (Place::Cpu, Self::Fp8) => Some("the CPU computes in f32 over values rounded to fp8: it shows the effect of fp8 on a loss and is slower than f32".into()),
            _ => None,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        })
    }
}

/// A kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's.
    Cuda,
}

/// Device and precision that computed something, as logs, states and stored answers name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computes {
    /// Device.
    pub device: Place,
    /// In which type; never [`Precision::Auto`].
    pub precision: Precision,
}

impl Default for Computes {
    fn default() -> Self {
        Self {
            device: Place::Cpu,
            precision: Precision::F32,
        }
    }
}

impl fmt::Display for Computes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let device = match self.device {
            Place::Cpu => "cpu",
            Place::Cuda => "cuda",
        };
        write!(f, "{device} {}", self.precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_in_single_precision_or_in_what_fp8_leaves_of_it_and_says_so() {
        let expected = [
            (Precision::Auto, "cpu f32", ""),
            (Precision::F32, "cpu f32", ""),
            (Precision::Bf16, "cpu f32", "GPU"),
            (Precision::Fp8, "cpu fp8", "slower"),
        ];
        for (asked, computed, says) in expected {
            let computes = asked.on(&Device::Cpu).unwrap();
            let note = asked.note(computes).unwrap_or_default();
            assert_eq!(
                (computes.to_string().as_str(), note.is_empty()),
                (computed, says.is_empty())
            );
            assert!(note.contains(says), "{note}");
        }
    }
}
