//! Addresses of tensors on a GPU.

use candle_core::DType;
use candle_core::Result;
use candle_core::Storage;
use candle_core::Tensor;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use half::bf16;

/// A place in the GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// Null pointer.
    pub const NULL: Self = Self(0);

    /// The place `count` numbers of type `T` further on.
    pub fn at<T>(self, count: usize) -> Self {
        Self(self.0 + (count * size_of::<T>()) as u64)
    }
}

/// Type that may be copied to a GPU byte by byte.
///
/// # Safety
/// No padding, and every pattern of bits is a value.
pub unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for bf16 {}
// SAFETY: an array has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The place of a contiguous tensor of a given type on a GPU.
///
/// # Errors
/// If the tensor is strided, elsewhere, or of another type.
pub fn address(tensor: &Tensor, kind: DType) -> Result<Address> {
    let layout = tensor.layout();
    if !layout.is_contiguous() {
        candle_core::bail!("expected a contiguous tensor, found {layout:?}");
    }
    place(tensor, kind)
}

/// The place of a matrix on a GPU, and the distance of its rows, which may be more than their
/// width.
///
/// # Errors
/// If the numbers of a row do not follow each other, or the tensor is elsewhere or of another type.
pub fn rows_of(tensor: &Tensor, kind: DType) -> Result<(Address, usize)> {
    let layout = tensor.layout();
    match (layout.dims(), layout.stride()) {
        _ if layout.is_contiguous() => Ok((
            place(tensor, kind)?,
            layout.dims().last().copied().unwrap_or(1),
        )),
        (&[_, width], &[stride, 1]) if stride >= width => Ok((place(tensor, kind)?, stride)),
        _ => {
            candle_core::bail!("expected rows of numbers that follow each other, found {layout:?}")
        }
    }
}

/// Address of a tensor's first number.
fn place(tensor: &Tensor, kind: DType) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    let start = layout.start_offset();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!(
            "expected a tensor on a GPU, found one on {:?}",
            tensor.device().location()
        )
    };
    macro_rules! place {
        ($values:expr, $T:ty) => {
            Address($values.device_ptr($values.stream()).0).at::<$T>(start)
        };
    }
    let place = match (&storage.slice, kind) {
        (CudaStorageSlice::BF16(values), DType::BF16) => place!(values, bf16),
        (CudaStorageSlice::F32(values), DType::F32) => place!(values, f32),
        (CudaStorageSlice::F64(values), DType::F64) => place!(values, f64),
        (CudaStorageSlice::F8E4M3(values), DType::F8E4M3) => place!(values, u8),
        _ => candle_core::bail!("expected {kind:?} on a GPU, found {:?}", tensor.dtype()),
    };
    Ok(place)
}

/// [`address`] of a tensor of bf16.
pub fn bf16_of(tensor: &Tensor) -> Result<Address> {
    address(tensor, DType::BF16)
}

/// [`address`] of a tensor of f32.
pub fn f32_of(tensor: &Tensor) -> Result<Address> {
    address(tensor, DType::F32)
}
