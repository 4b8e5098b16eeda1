//! The pool that a GPU's memory comes from.

use std::ffi::c_void;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::sys::CUmemoryPool;

use crate::ops::cuda::watch::late;

/// Waits for the stream, then gives all memory back to the driver that no tensor has: an allocation
/// may then find a whole piece.
pub fn trim(stream: &CudaStream) -> Result<()> {
    stream.synchronize().map_err(|error| late(&error))?;
    // SAFETY: the pool is the stream's device's.
    unsafe { result::mem_pool::trim_to(pool(stream)?, 0).w() }
}

/// The memory pool of a stream's device.
fn pool(stream: &CudaStream) -> Result<CUmemoryPool> {
    // SAFETY: the device is the one the stream's context was made for.
    unsafe { result::device::get_mem_pool(stream.context().cu_device()).w() }
}

/// An attribute of the pool.
pub fn get(stream: &CudaStream, attribute: CUmemPool_attribute) -> Result<u64> {
    let mut value = 0u64;
    // SAFETY: all attributes that are asked for here are 64 bits wide.
    unsafe {
        result::mem_pool::get_attribute(pool(stream)?, attribute, (&raw mut value).cast::<c_void>())
            .w()?
    };
    Ok(value)
}

/// Sets an attribute of the pool.
pub fn set(stream: &CudaStream, attribute: CUmemPool_attribute, mut value: u64) -> Result<()> {
    // SAFETY: as above.
    unsafe {
        result::mem_pool::set_attribute(pool(stream)?, attribute, (&raw mut value).cast::<c_void>())
            .w()
    }
}
