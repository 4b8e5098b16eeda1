//! cuBLASLt on one stream, and the algorithms that were chosen for products of each shape.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use candle_core::DType;
use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublaslt::result;
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::driver::CudaStream;

use crate::ops::cuda::matrix::Matrix;
use crate::ops::workspace::WORKSPACE;
use maqam_base::error::Error;

/// Most algorithms that are remembered; a batch of another length needs a few dozen new ones.
const MOST_CHOSEN: usize = 4096;

/// Dimensions, type and place of an operand, as far as they decide which algorithms fit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The library's number of the type.
    pub kind: u32,
    /// Rows as they lie in memory.
    pub rows: usize,
    /// Columns as they lie in memory.
    pub cols: usize,
    /// Distance of two rows.
    pub stride: usize,
    /// Whether its transpose is meant.
    pub transposed: bool,
    /// Alignment of its first number, in bytes.
    pub alignment: u32,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// `[m, k]`.
    pub a: Shape,
    /// `[k, n]`.
    pub b: Shape,
    /// `[m, n]`, what is added.
    pub c: Option<Shape>,
    /// `[m, n]`, the destination.
    pub d: Shape,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether rows and columns have scales.
    pub scales: bool,
    /// As in `Product`.
    pub is_fast: bool,
}

/// Form of a call of the library: whole, or without what a pass of its own then adds, and with
/// restrictions on the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether the product adds the bias.
    pub adds_bias: bool,
    /// Whether the product adds `c`.
    pub adds_c: bool,
    /// Whether parts of a sum are added in f32 alone, and the operands' alignment is told.
    pub is_restricted: bool,
}

/// All forms of a product with a bias and something that it is added to, the best first.
pub const FORMS: [Form; 8] = {
    const fn form(adds_bias: bool, adds_c: bool, is_restricted: bool) -> Form {
        Form {
            adds_bias,
            adds_c,
            is_restricted,
        }
    }
    [
        form(true, true, true),
        form(false, true, true),
        form(true, false, true),
        form(false, false, true),
        form(true, true, false),
        form(false, true, false),
        form(true, false, false),
        form(false, false, false),
    ]
};

/// An algorithm, and the form that it is of.
#[derive(Clone, Copy)]
pub struct ChosenAlgorithm {
    /// The library's description of it.
    pub algorithm: sys::cublasLtMatmulAlgo_t,
    /// The form that it computes.
    pub form: Form,
}

/// cuBLASLt on one stream.
pub struct Blas {
    /// The library's handle.
    pub handle: sys::cublasLtHandle_t,
    /// Scratch memory of [`WORKSPACE`] bytes.
    pub workspace: CudaSlice<u8>,
    /// `None` where every form was refused.
    chosen: Mutex<HashMap<Signature, Option<ChosenAlgorithm>>>,
    /// The stream that products run on.
    pub stream: Arc<CudaStream>,
}

// SAFETY: the handle may be used by all threads (cuBLAS manual, section 1.3.1), the workspace is
// used in the stream's order.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// Opens the library.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().w()?;
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: scratch memory, which nobody reads before it was written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE).w()? };
        Ok(Self {
            handle,
            workspace,
            chosen: Mutex::default(),
            stream: stream.clone(),
        })
    }

    /// The algorithm that was chosen for products of this signature: `Some(None)` where every form
    /// was refused.
    pub fn chosen(&self, signature: &Signature) -> Option<Option<ChosenAlgorithm>> {
        self.locked().get(signature).copied()
    }

    /// Remembers what was chosen.
    pub fn remember(&self, signature: Signature, algorithm: Option<ChosenAlgorithm>) {
        let mut chosen = self.locked();
        if chosen.len() >= MOST_CHOSEN {
            chosen.clear();
        }
        chosen.insert(signature, algorithm);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Signature, Option<ChosenAlgorithm>>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shape {
    /// The shape of an operand.
    pub fn of(matrix: Matrix) -> Self {
        Self {
            kind: cuda_kind(matrix.kind).map_or(u32::MAX, |kind| kind as u32),
            rows: matrix.rows,
            cols: matrix.cols,
            stride: matrix.stride,
            transposed: matrix.transposed,
            alignment: matrix.alignment(),
        }
    }
}

/// The library's name of a type.
pub fn cuda_kind(kind: DType) -> Result<sys::cudaDataType_t> {
    match kind {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        DType::F8E4M3 => Ok(sys::cudaDataType_t::CUDA_R_8F_E4M3),
        _ => candle_core::bail!("GPUs multiply bf16, f32 and fp8 here, found {kind:?}"),
    }
}

/// An error of the library.
pub fn failed(error: result::CublasError) -> candle_core::Error {
    let found = Error::of_library(error).at("cuBLASLt");
    let found = match error.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED
        | sys::cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR => found.hint(
            "run again with MAQAM_CUDA_CHECK=1, which names the kernel or product that failed",
        ),
        _ => found,
    };
    found.into()
}
