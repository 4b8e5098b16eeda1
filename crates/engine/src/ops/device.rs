//! The device a model computes on: which one, its memory, and how numbers get there and back.
//!
//! On the CPU everything is `f32`. On a GPU what is computed with is `bf16`, what is accumulated
//! (master values, gradients, moments, statistics) is `f32`; the functions here hide the difference
//! from modules that know no kernel.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::cpu::write;
use crate::ops::profile::Timed;
#[cfg(not(feature = "cuda"))]
use maqam_base::error::Error;
use maqam_base::seed::Key;

/// Which device a person asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best there is: a GPU where this build can use one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Choice {
    /// All of them, as a person writes them.
    pub const NAMES: [&'static str; 3] = ["auto", "cpu", "cuda"];
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!(
                "`{name}` is no device; expected one of {}",
                Self::NAMES.join(", ")
            )),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// Opens a device for computing; to be called once in a process.
///
/// # Errors
/// If a GPU is asked for and this build has no kernels for one, there is no driver or no GPU, or
/// the GPU is too old.
pub fn open(choice: Choice) -> Result<Device> {
    match choice {
        Choice::Cpu => Ok(Device::Cpu),
        Choice::Auto => Ok(open_gpu().unwrap_or(Device::Cpu)),
        Choice::Cuda => open_gpu(),
    }
}

#[cfg(feature = "cuda")]
fn open_gpu() -> Result<Device> {
    crate::ops::cuda::open()
}

#[cfg(not(feature = "cuda"))]
fn open_gpu() -> Result<Device> {
    let error = Error::input("this build computes on the CPU alone")
        .hint("build with `cargo build --release --features cuda` on a machine with the CUDA 13.0 toolkit");
    Err(error.into())
}

/// Name of a device for people: the GPU's, or `CPU`.
pub fn name(device: &Device) -> Result<String> {
    on_cuda!(device, crate::ops::cuda::name(device));
    Ok("CPU".into())
}

/// The type that weights and activations have on a device.
pub fn compute_type(device: &Device) -> DType {
    if device.is_cuda() {
        DType::BF16
    } else {
        DType::F32
    }
}

/// The memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Memory that new tensors can still take, freed memory that is kept for them included.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// The memory of a GPU; `None` for the CPU, whose memory is the system's.
pub fn memory(device: &Device) -> Result<Option<Memory>> {
    on_cuda!(device, crate::ops::cuda::memory(device).map(Some));
    Ok(None)
}

/// The most bytes that tensors on a GPU have held at once since [`reset_peak`]; `None` for the CPU.
pub fn peak(device: &Device) -> Result<Option<u64>> {
    on_cuda!(device, crate::ops::cuda::peak(device).map(Some));
    Ok(None)
}

/// Lets [`peak`] begin anew, at what is held now.
pub fn reset_peak(device: &Device) -> Result<()> {
    on_cuda!(device, crate::ops::cuda::reset_peak(device));
    Ok(())
}

/// Fills new tensors of a GPU with NaN from now on, or no longer: what an operation does not write
/// is then seen in what it returns. Nothing changes on the CPU, where outputs are made of numbers
/// that were computed.
pub fn poison_new_tensors(device: &Device, is_poisoned: bool) -> Result<()> {
    let _ = is_poisoned;
    on_cuda!(
        device,
        crate::ops::cuda::poison_new_tensors(device, is_poisoned)
    );
    Ok(())
}

/// The most memory that tensors on a GPU and the gaps between them have had at once since
/// [`reset_peak`], in bytes; `None` for the CPU.
pub fn reserved_peak(device: &Device) -> Result<Option<u64>> {
    on_cuda!(device, crate::ops::cuda::reserved_peak(device).map(Some));
    Ok(None)
}

/// Bytes that the driver of a GPU has left now, without those that it keeps for new tensors; `None`
/// for the CPU.
pub fn free_of_driver(device: &Device) -> Result<Option<u64>> {
    on_cuda!(device, crate::ops::cuda::free_of_driver(device).map(Some));
    Ok(None)
}

/// Begins to take the time of every kernel and product on a GPU; the CPU has nothing that takes it.
pub fn begin_profile(device: &Device) -> Result<()> {
    on_cuda!(device, crate::ops::cuda::begin_profile(device));
    Ok(())
}

/// Waits, and returns the times since [`begin_profile`], the longest first; none on the CPU.
pub fn end_profile(device: &Device) -> Result<Vec<Timed>> {
    on_cuda!(device, crate::ops::cuda::end_profile(device));
    Ok(Vec::new())
}

/// Seconds between the first and the last thing that was asked of a GPU since this was called last:
/// the host's own time. `None` for the CPU.
pub fn host_seconds(device: &Device) -> Result<Option<f64>> {
    on_cuda!(device, crate::ops::cuda::host_seconds(device).map(Some));
    Ok(None)
}

/// Begins a training run in `folder`: a GPU's products take the algorithms of the run's copy before
/// those of the machine's file. Nothing happens on the CPU.
pub fn begin_run(device: &Device, folder: &Path) -> Result<()> {
    let _ = folder;
    on_cuda!(device, crate::ops::cuda::begin_run(device, folder));
    Ok(())
}

/// Copies the algorithms that a GPU's products have taken since [`begin_run`] into the run's folder;
/// none on the CPU.
///
/// # Errors
/// The disk's.
pub fn copy_to_run(device: &Device, folder: &Path) -> Result<()> {
    let _ = folder;
    on_cuda!(device, crate::ops::cuda::copy_to_run(device, folder));
    Ok(())
}

/// Waits until everything asked of the device is done.
pub fn synchronise(device: &Device) -> Result<()> {
    on_cuda!(device, crate::ops::cuda::synchronise(device));
    Ok(())
}

/// Numbers made on the host as a tensor to compute with, in the device's [`compute_type`].
pub fn place(values: &[f32], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    on_cuda!(device, crate::ops::cuda::place(values, shape, device));
    Tensor::from_vec(values.to_vec(), shape, device)
}

/// As [`place`], on the device of `like`; on the CPU in the type of `like`, which is `f64` where
/// derivatives are checked.
pub fn place_like(values: &[f32], shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    let placed = place(values, shape, like.device())?;
    if like.device().is_cuda() {
        Ok(placed)
    } else {
        placed.to_dtype(like.dtype())
    }
}

/// A flat buffer of `len` zeros to accumulate in.
pub fn zeros_f32(len: usize, device: &Device) -> Result<Tensor> {
    on_cuda!(device, crate::ops::cuda::zeros(len, DType::F32, device));
    Tensor::zeros(len, DType::F32, device)
}

/// The numbers of a tensor of any floating-point type, in the order of its shape.
pub fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    on_cuda!(tensor.device(), crate::ops::cuda::to_host(tensor));
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Sets every number of a tensor, in place.
pub fn fill(tensor: &Tensor, value: f32) -> Result<()> {
    on_cuda!(tensor.device(), crate::ops::cuda::rows::fill(tensor, value));
    match tensor.dtype() {
        DType::F64 => write::<f64>(tensor, |numbers| numbers.fill(f64::from(value))),
        _ => write::<f32>(tensor, |numbers| numbers.fill(value)),
    }
}

/// Replaces a stretch of a flat tensor, in place; on a GPU it may be of `bf16`, which rounds.
///
/// # Errors
/// If the stretch is outside the tensor, or has another length than `values`.
pub fn write_stretch(flat: &Tensor, range: Range<usize>, values: &[f32]) -> Result<()> {
    let len = flat.dims1()?;
    if range.start > range.end || range.end > len || range.len() != values.len() {
        candle_core::bail!("{} numbers cannot replace {range:?} of {len}", values.len());
    }
    on_cuda!(
        flat.device(),
        crate::ops::cuda::write_stretch(flat, range, values)
    );
    write::<f32>(flat, |numbers| numbers[range].copy_from_slice(values))
}

/// Normally distributed numbers of a given standard deviation, made on the device in its
/// [`compute_type`].
///
/// Each is made of the bits of `key` at its position (Box and Muller 1958, from the two halves of
/// 32 bits), so that a seed gives the same numbers on every device but for rounding.
pub fn random_normal(
    shape: impl Into<Shape>,
    key: Key,
    deviation: f32,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    on_cuda!(
        device,
        crate::ops::cuda::rows::random_normal(shape, key, deviation, device)
    );
    let values: Vec<f32> = (0..shape.elem_count() as u64)
        .into_par_iter()
        .map(|position| deviation * normal(key.bits(position)))
        .collect();
    Tensor::from_vec(values, shape, device)
}

/// A normally distributed number from 64 uniform bits; the upper half gives the radius, the lower
/// half the angle.
fn normal(bits: u64) -> f32 {
    /// 2^-32, the width of one of the steps that 32 bits cut [0, 1) into.
    const STEP: f32 = 1.0 / (1u64 << 32) as f32;
    let upper = (bits >> 32) as u32;
    let lower = bits as u32;
    // The middle of the step, so that the logarithm is finite.
    let radius = (-2.0 * ((upper as f32 + 0.5) * STEP).ln()).sqrt();
    radius * (std::f32::consts::TAU * (lower as f32 * STEP)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for name in Choice::NAMES {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        assert!("gpu".parse::<Choice>().unwrap_err().contains("cuda"));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_kernels_says_which_build_has_them() {
        assert!(
            open(Choice::Cuda)
                .unwrap_err()
                .to_string()
                .contains("--features cuda")
        );
        assert!(open(Choice::Auto).unwrap().is_cpu());
    }

    #[test]
    fn random_numbers_have_the_moments_of_the_normal_distribution() {
        let key = Key::new(5, "normal");
        let n = 200_000;
        let values = to_host(&random_normal(n, key, 2.0, &Device::Cpu).unwrap()).unwrap();
        let moment = |power: i32| {
            values
                .iter()
                .map(|&x| (f64::from(x) / 2.0).powi(power))
                .sum::<f64>()
                / n as f64
        };
        // Standard errors of the first, second and fourth moment are sqrt(1, 2, 96) / sqrt(n): five
        // of each.
        assert!(
            moment(1).abs() < 0.012
                && (moment(2) - 1.0).abs() < 0.016
                && (moment(4) - 3.0).abs() < 0.11
        );
        assert_eq!(values[17], 2.0 * normal(key.bits(17)));
        assert!(
            [0, u64::MAX, 1 << 32]
                .into_iter()
                .all(|bits| normal(bits).is_finite())
        );
    }

    #[test]
    fn stretches_are_written_where_they_belong() {
        let flat = zeros_f32(5, &Device::Cpu).unwrap();
        write_stretch(&flat, 1..3, &[1.0, 2.0]).unwrap();
        assert_eq!(to_host(&flat).unwrap(), [0.0, 1.0, 2.0, 0.0, 0.0]);
        fill(&flat.narrow(0, 2, 2).unwrap(), 7.0).unwrap();
        assert_eq!(to_host(&flat).unwrap(), [0.0, 1.0, 7.0, 7.0, 0.0]);
        assert!(write_stretch(&flat, 4..6, &[1.0, 2.0]).is_err());
        assert!(write_stretch(&flat, 0..2, &[1.0]).is_err());
    }
}
