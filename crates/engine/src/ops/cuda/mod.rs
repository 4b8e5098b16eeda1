//! The primitives on an NVIDIA GPU: the functions of the modules beside this one, as launches of
//! kernels and of cuBLASLt.
//!
//! Activations, frozen weights and the compute copy of trained ones are `bf16`; gradients, master
//! values, moments, statistics and rotary tables are `f32`. Everything runs on one stream, in the
//! order in which it was asked for, whatever the thread; so memory that is freed may be given out
//! again at once. Nothing waits for the host, and the host waits for nothing but a result that it
//! reads, and once for the times of a product's algorithms: uploads go through page-locked memory,
//! and what an update must know of the whole step (its loss, the gradient's norm) stays here.
//! Nothing is added up in an order that may change, and a product's algorithm does not change once
//! it is stored, so the same input gives the same bits.
//!
//! Of the driver this uses, candle's own calls included: `cuInit`, `cuDriverGetVersion`,
//! `cuDeviceGet`, `cuDeviceGetName`, `cuDeviceGetAttribute`, `cuDevicePrimaryCtxRetain`,
//! `cuCtxGetCurrent`, `cuCtxSetCurrent`, `cuCtxSynchronize`, `cuStreamCreate`,
//! `cuStreamSynchronize`, `cuDeviceGetMemPool`, `cuMemPoolGetAttribute`,
//! `cuMemPoolSetAttribute`, `cuMemPoolTrimTo`, `cuMemGetInfo`, `cuMemAllocAsync`,
//! `cuMemFreeAsync`, `cuMemHostAlloc`, `cuMemFreeHost`, `cuEventCreate`, `cuEventRecord`,
//! `cuEventQuery`, `cuEventSynchronize`, `cuEventElapsedTime`, `cuEventDestroy`,
//! `cuMemsetD8Async`, `cuMemcpyHtoDAsync`, `cuMemcpyDtoHAsync`, `cuMemcpyDtoDAsync`,
//! `cuModuleLoadData`, `cuModuleGetFunction`, `cuFuncSetAttribute` and `cuLaunchKernel`. Of
//! cuBLASLt: create and destroy of the handle, of descriptions, layouts and preferences,
//! `cublasLtGetVersion`, `cublasLtMatmulAlgoGetHeuristic`, `cublasLtMatmulAlgoCheck` and
//! `cublasLtMatmul`. cuBLAS and cuRAND are opened by candle and never used.

pub mod activation;
mod adapter;
pub mod adamw;
mod address;
mod arguments;
pub mod attention;
mod blas;
pub mod convolution;
pub mod cross_entropy;
mod device;
pub mod dropout;
mod gemm;
mod gpu;
pub mod linear;
mod matrix;
pub mod norm;
mod pinned;
mod pool;
pub mod rotary;
pub mod rows;
pub mod scalar;
mod timing;
mod watch;

pub use self::device::begin_profile;
pub use self::device::begin_run;
pub use self::device::copy_to_run;
pub use self::device::end_profile;
pub use self::device::free_of_driver;
pub use self::device::host_seconds;
pub use self::device::memory;
pub use self::device::name;
pub use self::device::open;
pub use self::device::peak;
pub use self::device::place;
pub use self::device::poison_new_tensors;
pub use self::device::reserved_peak;
pub use self::device::reset_peak;
pub use self::device::synchronise;
pub use self::device::to_host;
pub use self::device::write_stretch;
pub use self::gpu::zeros;
