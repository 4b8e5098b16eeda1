//! Arguments and block sizes of kernels.

use std::ffi::c_void;

use candle_core::Result;

use crate::ops::cuda::address::Address;

/// Threads of a block in all kernels that do not say otherwise.
pub const BLOCK: u32 = 256;

/// Numbers that a block of such threads handles where a kernel sees no rows: 8 a thread.
pub const STRETCH: usize = 8 * BLOCK as usize;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A pointer.
    Pointer(u64),
    /// An `int`.
    Int(i32),
    /// A `long long`, or unsigned.
    Long(u64),
    /// A `float`.
    Float(f32),
    /// A `double`.
    Double(f64),
}

impl Argument {
    /// Where the value lies, as the driver takes it.
    pub fn pointer(&self) -> *mut c_void {
        match self {
            Self::Pointer(value) | Self::Long(value) => {
                std::ptr::from_ref(value).cast::<c_void>().cast_mut()
            }
            Self::Int(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
            Self::Float(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
            Self::Double(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
        }
    }
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Pointer(address.0)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::Long(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// A list of arguments for `Gpu::launch`, each of the type that the kernel has.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::ops::cuda::arguments::Argument::from($argument)),*]
    };
}
pub(crate) use arguments;

/// A count as a kernel's `int`.
pub fn int(count: usize) -> Result<i32> {
    i32::try_from(count)
        .map_err(|_| candle_core::Error::Msg(format!("{count} is more than a kernel can count")))
}
