//! `--device`: where a command computes.

use candle_core::Device;
use clap::Args;

use crate::error::Error;
use crate::error::Result;
use crate::model::precision::Precision;
use crate::ops::device;
use crate::ops::device::Choice;

/// The device to compute on.
#[derive(Args, Clone, Copy)]
pub struct DeviceArguments {
    /// Where to compute: `cpu`, in f32; `cuda`, a card, in bf16; `auto`, a card where build and machine have one.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda")]
    device: Choice,
}

impl DeviceArguments {
    /// Opens the device, and says on the terminal if it is a card.
    ///
    /// # Errors
    /// A card that is asked for by name and cannot be had.
    pub fn open(self) -> Result<Device> {
        let has_kernels = cfg!(feature = "cuda");
        match self.device {
            Choice::Cpu => Ok(Device::Cpu),
            Choice::Auto if !has_kernels => Ok(Device::Cpu),
            Choice::Auto => open_card().or_else(|error| {
                eprintln!("note: computing on the CPU: {}", error.message());
                Ok(Device::Cpu)
            }),
            Choice::Cuda => open_card().map_err(|e| e.at("--device cuda")),
        }
    }
}

fn open_card() -> Result<Device> {
    let failed = |e: candle_core::Error| {
        let text = e.to_string();
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, "compute on the CPU with --device cpu"));
        Error::input(message).hint(hint)
    };
    let device = device::open(Choice::Cuda).map_err(failed)?;
    eprintln!("computing on {}", device::name(&device)?);
    Ok(device)
}

/// Says what a recipe's precision comes to on a device, where that is not what it asks for.
pub fn note_precision(precision: Precision, device: &Device) -> Result<()> {
    if let Some(note) = precision.note(precision.on(device)?) {
        eprintln!("note: {note}");
    }
    Ok(())
}
