//! The primitives on an NVIDIA card: the functions of the rooms beside this one, as launches of our kernels and of cuBLASLt.
//!
//! Activations, frozen weights and the compute copy of trained ones are `bf16`; gradients, master values, moments, statistics
//! and rotary tables are `f32`. Everything runs on one stream, in the order in which it was asked for, whatever the thread; so
//! memory that is freed may be given out again at once. Nothing waits for the host, and the host waits for nothing but a result that it
//! reads: uploads go through page-locked memory, and what an update must know of the whole step (its loss, the gradient's norm) stays here.
//! Nothing is added up in an order that may change, so the same input gives the same bits.
//!
//! Of the driver this uses, candle's own calls included: `cuInit`, `cuDeviceGet`, `cuDeviceGetName`, `cuDeviceGetAttribute`,
//! `cuDevicePrimaryCtxRetain`, `cuCtxGetCurrent`, `cuCtxSetCurrent`, `cuCtxSynchronize`, `cuStreamCreate`, `cuStreamSynchronize`,
//! `cuDeviceGetMemPool`, `cuMemPoolGetAttribute`, `cuMemPoolSetAttribute`, `cuMemPoolTrimTo`, `cuMemGetInfo`, `cuMemAllocAsync`, `cuMemFreeAsync`,
//! `cuMemHostAlloc`, `cuMemFreeHost`, `cuEventCreate`, `cuEventRecord`, `cuEventQuery`, `cuEventSynchronize`, `cuEventElapsedTime`, `cuEventDestroy`,
//! `cuMemsetD8Async`, `cuMemcpyHtoDAsync`, `cuMemcpyDtoHAsync`, `cuMemcpyDtoDAsync`, `cuModuleLoadData`, `cuModuleGetFunction`,
//! `cuFuncSetAttribute` and `cuLaunchKernel`. Of cuBLASLt: create and destroy of the handle, of descriptions, layouts and
//! preferences, `cublasLtMatmulAlgoGetHeuristic` and `cublasLtMatmul`. cuBLAS and cuRAND are opened by candle and never used.

pub mod activation;
pub mod adamw;
pub mod attention;
mod card;
pub mod convolution;
pub mod cross_entropy;
pub mod dropout;
mod gemm;
pub mod linear;
pub mod norm;
mod pinned;
mod pool;
pub mod rotary;
pub mod rows;
pub mod scalar;
mod watch;

pub use pool::begin_profile;
pub use pool::end_profile;
pub use pool::free_of_driver;
pub use pool::host_seconds;
pub use pool::memory;
pub use pool::name;
pub use pool::open;
pub use pool::peak;
pub use pool::place;
pub use pool::poison_new_tensors;
pub use pool::reserved_peak;
pub use pool::reset_peak;
pub use pool::synchronise;
pub use pool::to_host;
pub use pool::write_stretch;
pub use pool::zeros;
