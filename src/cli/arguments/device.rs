//! `--device`: where a command computes.

use candle_core::Device;
use clap::Args;
use clap::ValueEnum;

use crate::cli::print;
use crate::error::Error;
use crate::error::Result;
use crate::models::AudioLlm;
use crate::nn::precision::Computes;
use crate::nn::precision::Precision;
use crate::ops::device;
use crate::ops::device::Choice;

/// The device to compute on.
#[derive(Args, Clone, Copy, Default)]
pub struct DeviceArguments {
    /// Device to compute on: `cpu` in f32, `cuda` (a GPU) in bf16, `auto` for a GPU if build and
    /// machine have one.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda")]
    device: Choice,
}

impl DeviceArguments {
    /// The device as it was named.
    pub fn choice(self) -> Choice {
        self.device
    }

    /// Opens the device, and prints its name if it is a GPU.
    ///
    /// # Errors
    /// A GPU that was requested by name and is not available.
    pub fn open(self) -> Result<Device> {
        let has_kernels = cfg!(feature = "cuda");
        match self.device {
            Choice::Cpu => Ok(Device::Cpu),
            Choice::Auto if !has_kernels => Ok(Device::Cpu),
            Choice::Auto => open_gpu().or_else(|error| {
                print::message(format_args!(
                    "note: computing on the CPU: {}",
                    error.message()
                ));
                Ok(Device::Cpu)
            }),
            Choice::Cuda => open_gpu().map_err(|e| e.at("--device cuda")),
        }
    }
}

fn open_gpu() -> Result<Device> {
    let device = device::open(Choice::Cuda).map_err(|e| {
        Error::from(e)
            .in_input()
            .or_hint("compute on the CPU with --device cpu")
    })?;
    crate::ops::notes::tell_notes(|note| print::message(format_args!("note: {note}")));
    print::message(format_args!("computing on {}", device::name(&device)?));
    Ok(device)
}

/// Precision of a command without a recipe.
#[derive(Args, Clone, Copy)]
pub struct PrecisionArguments {
    /// Type to compute in. `fp8` holds the decoder's frozen linear layers in e4m3; on the CPU it
    /// shows the effect on a loss, and is slower than f32.
    #[arg(long, value_enum, default_value_t = PrecisionName::Auto)]
    precision: PrecisionName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PrecisionName {
    Auto,
    Bf16,
    Fp8,
}

impl PrecisionArguments {
    /// Returns what the precision means on a device, and prints a note if that is not what was
    /// requested.
    ///
    /// # Errors
    /// A device that has no such precision.
    pub fn on(self, device: &Device) -> Result<Computes> {
        let precision = match self.precision {
            PrecisionName::Auto => Precision::Auto,
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::Fp8 => Precision::Fp8,
        };
        note_precision(precision, device)?;
        precision.on(device)
    }

    /// Sets the precision of a model whose weights are all frozen.
    ///
    /// # Errors
    /// As [`PrecisionArguments::on`].
    pub fn apply(self, model: &mut AudioLlm) -> Result<()> {
        model.compute_in(self.on(&model.device)?.precision)
    }
}

/// Prints what a recipe's precision means on a device, if that is not what it requests.
pub fn note_precision(precision: Precision, device: &Device) -> Result<()> {
    if let Some(note) = precision.note(precision.on(device)?) {
        print::message(format_args!("note: {note}"));
    }
    Ok(())
}
