//! Scratch memory of matrix products on a GPU.

/// Bytes that products on a GPU work in; cuBLAS advises 32 MiB on Hopper.
pub const WORKSPACE: usize = 64 << 20;
