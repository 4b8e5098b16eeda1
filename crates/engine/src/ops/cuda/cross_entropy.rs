//! The linear head and the cross-entropy, for as many rows at a time as there is room for logits.

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use half::bf16;

use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::cross_entropy::LOGITS_BYTES;
use crate::ops::cross_entropy::Targets;
use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::address;
use crate::ops::cuda::address::bf16_of;
use crate::ops::cuda::address::f32_of;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::matrix::Matrix;
use crate::ops::cuda::matrix::Product;
use crate::ops::scalar::Scalar;
use crate::ops::weight::Weight;

/// Blocks of rows are multiples of this, which products divide evenly.
const EVEN: usize = 128;

/// Threads of a block of the kernel.
const THREADS: u32 = 512;

/// As `ops::cross_entropy::linear_cross_entropy`.
pub fn linear_cross_entropy(
    rows: &Tensor,
    head: &Weight,
    targets: Targets,
    want_gradient: bool,
) -> Result<CrossEntropy> {
    let bytes_of_row = head.value.dim(0)? * (size_of::<f32>() + size_of::<bf16>());
    let fits = LOGITS_BYTES / bytes_of_row.max(1);
    in_blocks(
        rows,
        head,
        targets,
        want_gradient,
        (fits / EVEN * EVEN).max(EVEN),
    )
}

/// The same with logits for `block` rows at a time.
pub fn in_blocks(
    rows: &Tensor,
    head: &Weight,
    targets: Targets,
    want_gradient: bool,
    block: usize,
) -> Result<CrossEntropy> {
    let gpu = Gpu::of(rows.device())?;
    let (num_rows, dim) = rows.dims2()?;
    let vocab = head.value.dim(0)?;
    let block = block.min(num_rows).max(1);
    let logits = gpu.empty((block, vocab), DType::F32)?;

    let d_logits = if want_gradient {
        Some(gpu.empty((block, vocab), DType::BF16)?)
    } else {
        None
    };

    let d_rows = if want_gradient {
        Some(gpu.empty((num_rows, dim), DType::BF16)?)
    } else {
        None
    };

    // The losses, and after them the log-probabilities.
    let found = gpu.empty((2, num_rows), DType::F32)?;
    let losses = f32_of(&found)?;
    let log_probabilities = f32_of(&found)?.at::<f32>(num_rows);
    let ids = gpu.table(targets.ids)?;
    let weights = gpu.table(targets.weights)?;
    let x = Matrix::of(rows)?;
    let w = Matrix::of(&head.value)?;

    for first in (0..num_rows).step_by(block) {
        let len = block.min(num_rows - first);
        let x = x.rows(first..first + len);
        gpu.product(Matrix::of(&logits)?.rows(0..len), Product::new(x, w.t()))?;
        let d = d_logits.as_ref().map_or(Ok(Address::NULL), bf16_of)?;
        let loss = losses.at::<f32>(first);
        let log_probability = log_probabilities.at::<f32>(first);
        let ids = ids.address().at::<u32>(first);
        let weights = weights.address().at::<f64>(first);
        let arguments = arguments![
            loss,
            log_probability,
            d,
            f32_of(&logits)?,
            ids,
            weights,
            targets.label_smoothing as f32,
            int(vocab)?
        ];
        gpu.launch("cross_entropy", (len, 1), (THREADS, 1), 0, arguments)?;
        if let (Some(d_logits), Some(d_rows)) = (&d_logits, &d_rows) {
            let d = Matrix::of(d_logits)?.rows(0..len);
            gpu.product(
                Matrix::of(d_rows)?.rows(first..first + len),
                Product::new(d, w),
            )?;
            if let Some(gradient) = &head.gradient {
                let gradient = Matrix::of(gradient)?;
                gpu.product(gradient, Product::new(d.t(), x).plus(Some(gradient)))?;
            }
        }
    }

    let loss = gpu.empty(1, DType::F64)?;
    let arguments = arguments![
        address(&loss, DType::F64)?,
        losses,
        weights.address(),
        int(num_rows)?
    ];
    gpu.launch("weighted_sum", (1, 1), (BLOCK, 1), 0, arguments)?;

    Ok(CrossEntropy {
        loss: Scalar::of(loss)?,
        log_probabilities: found.get(1)?,
        d_rows,
    })
}

/// As `ops::cross_entropy::logits`, in `f32`.
pub fn logits(rows: &Tensor, head: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(rows.device())?;
    let num_rows = rows.dim(0)?;
    let vocab = head.dim(0)?;
    let out = gpu.empty((num_rows, vocab), DType::F32)?;
    gpu.product(
        Matrix::of(&out)?,
        Product::new(Matrix::of(rows)?, Matrix::of(head)?.t()),
    )?;
    Ok(out)
}
