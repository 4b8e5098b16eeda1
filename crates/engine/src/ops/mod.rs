//! The primitives a model is made of, each with its forward and its backward: the only module that
//! knows how they are computed.
//!
//! A forward returns what its backward needs and nothing else; a backward adds to the gradients of
//! parameters that have one and returns the gradient of its input. Tensors are contiguous,
//! token-major: `[tokens, dim]`, sequences one after the other. The CPU computes in `f32` (or
//! `f64`, for finite differences); matrix products are candle's, element-wise passes are fused
//! here. Tensors on a GPU go to the module `cuda`, where a build has it: the same functions in
//! `bf16`, accumulated in `f32`.

/// Hands over to the kernels of a GPU where `$device` is one.
macro_rules! on_cuda {
    ($device:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        {
            if $device.is_cuda() {
                return $call;
            }
        }
        #[cfg(not(feature = "cuda"))]
        let _ = &$device;
    };
}

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod convolution;
pub mod convolution2d;
pub mod cpu;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dropout;
pub mod few_rows;
pub mod fp8;
pub mod gemm;
pub mod group_norm;
pub mod grouped_convolution;
pub mod layout;
pub mod linear;
pub mod noise;
pub mod norm;
pub mod notes;
pub mod products;
pub mod profile;
pub mod rotary;
pub mod rows;
pub mod scalar;
pub mod strided_convolution;
pub mod weight;
pub mod weight_norm;
pub mod workspace;
