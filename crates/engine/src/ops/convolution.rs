//! Convolution of kernel 3 over time as unfold + matrix product, inside each window of a packed
//! batch.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;

/// Taps of the kernel; one row of zeros pads each end of a window.
pub const KERNEL: usize = 3;

/// Rows of a window of `len` after a stride.
pub fn num_outputs(len: usize, stride: usize) -> usize {
    if len == 0 { 0 } else { (len - 1) / stride + 1 }
}

/// For every output row, the three input rows it sees side by side, zeros outside its window.
///
/// A convolution is then a matrix product with weights `[out, KERNEL * in]`, taps outermost.
///
/// # Shapes
/// `x`: `[rows, dim]`, `windows`: rows of each window ->
/// `[sum of num_outputs(window), KERNEL * dim]`
pub fn unfold(x: &Tensor, windows: &[usize], stride: usize) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    check(rows, windows, stride)?;
    let centres = centres(windows, stride);
    on_cuda!(
        x.device(),
        crate::ops::cuda::convolution::unfold(x, &on_gpu(&centres))
    );
    with_real!(x, T => {
        let xs: &[T] = &slice::<T>(x)?;
        let out = new_rows(
            centres.len(),
            KERNEL * dim,
            #[inline(always)]
            |row, out: &mut [T]| {
                for (tap, out) in out.chunks_exact_mut(dim).enumerate() {
                    if let Some(from) = centres[row].tap(tap) {
                        out.copy_from_slice(&xs[from * dim..][..dim]);
                    }
                }
            },
        );
        tensor(out, (centres.len(), KERNEL * dim))
    })
}

/// Gradient of [`unfold`]'s input, `[rows, dim]`.
pub fn unfold_backward(dy: &Tensor, windows: &[usize], stride: usize) -> Result<Tensor> {
    let (outputs, width) = dy.dims2()?;
    let dim = width / KERNEL;
    let rows: usize = windows.iter().sum();
    check(rows, windows, stride)?;
    let centres = centres(windows, stride);

    if outputs != centres.len() || width != KERNEL * dim {
        candle_core::bail!(
            "windows {windows:?} at stride {stride} unfold into {} rows of three parts, found {outputs} of width {width}",
            centres.len()
        );
    }

    on_cuda!(
        dy.device(),
        crate::ops::cuda::convolution::unfold_backward(dy, &on_gpu(&centres), rows)
    );

    with_real!(dy, T => {
        let dys = slice::<T>(dy)?;

        let mut dx = vec![T::of(0.0); rows * dim];
        for (dy, centre) in dys.chunks_exact(width).zip(&centres) {
            for (tap, dy) in dy.chunks_exact(dim).enumerate() {
                if let Some(to) = centre.tap(tap) {
                    for (dx, &dy) in dx[to * dim..][..dim].iter_mut().zip(dy) {
                        *dx += dy;
                    }
                }
            }
        }

        tensor(dx, (rows, dim))
    })
}

fn check(rows: usize, windows: &[usize], stride: usize) -> Result<()> {
    if windows.iter().sum::<usize>() != rows || stride == 0 {
        candle_core::bail!("windows {windows:?} at stride {stride} do not cover {rows} rows");
    }
    Ok(())
}

/// The input row in the middle of an output's kernel, and the window's first row and end.
struct Centre {
    row: usize,
    start: usize,
    end: usize,
}

impl Centre {
    fn tap(&self, tap: usize) -> Option<usize> {
        let row = (self.row + tap).checked_sub(1)?;
        (self.start <= row && row < self.end).then_some(row)
    }
}

fn centres(windows: &[usize], stride: usize) -> Vec<Centre> {
    let mut start = 0;
    let mut centres = Vec::new();
    for &len in windows {
        centres.extend((0..num_outputs(len, stride)).map(|i| Centre {
            row: start + i * stride,
            start,
            end: start + len,
        }));
        start += len;
    }
    centres
}

#[cfg(feature = "cuda")]
fn on_gpu(centres: &[Centre]) -> Vec<[usize; 3]> {
    centres
        .iter()
        .map(|centre| [centre.row, centre.start, centre.end])
        .collect()
}
