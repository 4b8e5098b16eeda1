//! Convolution of kernel 3 and stride 2 over both axes of a plane, as unfold + matrix product.
//! Computed on the CPU.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::ops::convolution::KERNEL;
use crate::ops::convolution::num_outputs;
use crate::ops::cpu::Real;
use crate::ops::cpu::new_rows;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;

/// Cells from one kernel to the next, along either axis.
pub const STRIDE: usize = 2;

/// Cells of a kernel.
pub const TAPS: usize = KERNEL * KERNEL;

/// Planes of one size, one after the other; a row of a tensor is a cell, time outside and frequency
/// inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Number of planes.
    pub count: usize,
    /// Cells along time.
    pub times: usize,
    /// Cells along frequency.
    pub bands: usize,
}

impl Planes {
    /// All cells.
    pub fn cells(self) -> usize {
        self.count * self.times * self.bands
    }

    /// Planes that a convolution makes of these.
    #[must_use]
    pub fn convolved(self) -> Self {
        Self {
            times: num_outputs(self.times, STRIDE),
            bands: num_outputs(self.bands, STRIDE),
            ..self
        }
    }

    /// The cell that a tap of an output cell sees; `None` in the padding of one cell around the
    /// plane. Taps count along time first.
    fn seen(self, output: usize, tap: usize) -> Option<usize> {
        let out = self.convolved();
        let plane = output / (out.times * out.bands);
        let cell = output % (out.times * out.bands);
        let time = (cell / out.bands * STRIDE + tap % KERNEL).checked_sub(1)?;
        let band = (cell % out.bands * STRIDE + tap / KERNEL).checked_sub(1)?;
        let is_inside = time < self.times && band < self.bands;
        is_inside.then(|| (plane * self.times + time) * self.bands + band)
    }
}

/// The nine cells that each output cell sees side by side, zeros outside the plane.
///
/// A convolution is then a matrix product with weights `[out, TAPS * in]`, taps outermost,
/// frequency before time.
///
/// # Shapes
/// `x`: `[cells, dim]` -> `[cells of planes.convolved(), TAPS * dim]`
pub fn unfold(x: &Tensor, planes: Planes) -> Result<Tensor> {
    let dim = check(x, planes.cells())?;
    let outputs = planes.convolved().cells();
    with_real!(x, T => {
        let xs = slice::<T>(x)?;
        let xs: &[T] = &xs;
        let out = new_rows(
            outputs,
            TAPS * dim,
            #[inline(always)]
            |row, out: &mut [T]| {
                for (tap, out) in out.chunks_exact_mut(dim).enumerate() {
                    if let Some(from) = planes.seen(row, tap) {
                        out.copy_from_slice(&xs[from * dim..][..dim]);
                    }
                }
            },
        );
        tensor(out, (outputs, TAPS * dim))
    })
}

/// Gradient of [`unfold`]'s input, `[cells, dim]`.
pub fn unfold_backward(dy: &Tensor, planes: Planes) -> Result<Tensor> {
    let width = check(dy, planes.convolved().cells())?;
    let dim = width / TAPS;
    if width != TAPS * dim {
        candle_core::bail!("unfolded rows are {TAPS} parts, found a width of {width}");
    }
    let of_plane = planes.convolved().cells() / planes.count.max(1);
    let cells = planes.times * planes.bands;
    with_real!(dy, T => {
        let dys = slice::<T>(dy)?;
        let dys: &[T] = &dys;
        let mut dx = vec![T::of(0.0); planes.cells() * dim];
        dx.par_chunks_exact_mut(cells * dim).enumerate().for_each(|(plane, dx)| {
            for row in plane * of_plane..(plane + 1) * of_plane {
                for (tap, dy) in dys[row * width..][..width].chunks_exact(dim).enumerate() {
                    if let Some(to) = planes.seen(row, tap) {
                        let dx = &mut dx[(to - plane * cells) * dim..][..dim];
                        dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy);
                    }
                }
            }
        });
        tensor(dx, (planes.cells(), dim))
    })
}

/// Width of a tensor with a row for each cell.
fn check(x: &Tensor, cells: usize) -> Result<usize> {
    let (rows, dim) = x.dims2()?;
    if rows != cells || dim == 0 {
        candle_core::bail!("planes of {cells} cells do not cover {rows} rows of {dim}");
    }
    Ok(dim)
}
