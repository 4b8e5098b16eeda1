//! Times of kernels and matrix products on a GPU.

/// Time on a GPU that launches of one kernel, or products of one shape, took together.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Name of the kernel; `product` for matrix products, `copy` and `clear` for what they say.
    pub name: String,
    /// Grid and sizes, or the product's dimensions and types.
    pub shape: String,
    /// Number of launches.
    pub count: usize,
    /// Seconds of all of them, by events before and after each.
    pub seconds: f64,
    /// Bytes that they read and wrote at least, where that is known.
    pub bytes: Option<f64>,
    /// Floating-point operations, of products and of attention.
    pub operations: f64,
}
