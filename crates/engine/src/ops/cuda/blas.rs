//! cuBLASLt on one stream, and the algorithms that were chosen for products of each shape.

use std::collections::HashMap;
use std::path::Path;
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
use candle_core::cuda_backend::cudarc::driver::sys::cuDriverGetVersion;

use crate::ops::cuda::matrix::Matrix;
use crate::ops::products::Algorithm;
use crate::ops::products::Choice;
use crate::ops::products::Form;
use crate::ops::products::Machine;
use crate::ops::products::Shape;
use crate::ops::products::Signature;
use crate::ops::products::Store;
use crate::ops::products::cache_folder;
use crate::ops::products::driver_release;
use crate::ops::workspace::WORKSPACE;
use maqam_base::error::Error;

/// Most algorithms that are remembered; a batch of another length needs a few dozen new ones.
const MOST_CHOSEN: usize = 4096;

/// An algorithm, and the form that it is of.
#[derive(Clone, Copy)]
pub struct ChosenAlgorithm {
    /// The library's description of it.
    pub algorithm: sys::cublasLtMatmulAlgo_t,
    /// The form that it computes.
    pub form: Form,
}

impl ChosenAlgorithm {
    /// The algorithm of a stored choice.
    pub fn of(choice: &Choice) -> Self {
        Self {
            algorithm: sys::cublasLtMatmulAlgo_t {
                data: choice.algorithm.0,
            },
            form: choice.form,
        }
    }
}

/// An algorithm as it is stored.
pub fn stored(algorithm: sys::cublasLtMatmulAlgo_t) -> Algorithm {
    Algorithm(algorithm.data)
}

/// cuBLASLt on one stream.
pub struct Blas {
    /// The library's handle.
    pub handle: sys::cublasLtHandle_t,
    /// Scratch memory of [`WORKSPACE`] bytes.
    pub workspace: CudaSlice<u8>,
    /// `None` where every form was refused.
    chosen: Mutex<HashMap<Signature, Option<ChosenAlgorithm>>>,
    /// Choices that are stored.
    store: Mutex<Store>,
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
            store: Mutex::new(Store::open(
                machine(stream)?,
                cache_folder(&|name: &str| std::env::var_os(name)),
            )),
            stream: stream.clone(),
        })
    }

    /// The stored choices.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `ops::device::begin_run`.
    pub fn begin_run(&self, folder: &Path) {
        self.store().begin_run(folder);
        // The run's own choices may be others.
        self.locked().clear();
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

/// The shape of an operand.
pub fn shape_of(matrix: Matrix) -> Shape {
    Shape {
        kind: matrix.kind,
        rows: matrix.rows,
        cols: matrix.cols,
        stride: matrix.stride,
        transposed: matrix.transposed,
        alignment: matrix.alignment(),
    }
}

/// The machine that times are of.
fn machine(stream: &CudaStream) -> Result<Machine> {
    let release = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = match driver_release(&release) {
        Some(release) => release.to_owned(),
        None => known_cuda(),
    };
    // SAFETY: the function has no argument and reads a constant.
    let cublaslt = unsafe { sys::cublasLtGetVersion() };
    Ok(Machine {
        gpu: stream.context().name().w()?,
        driver,
        cublaslt: cublaslt.to_string(),
    })
}

/// The CUDA that the driver knows, where the system does not say its release.
fn known_cuda() -> String {
    let mut version = 0;
    // SAFETY: the driver writes one number; where it does not, the number is zero.
    let _ = unsafe { cuDriverGetVersion(&raw mut version) };
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
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
