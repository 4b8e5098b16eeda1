//! Weight norm (Salimans and Kingma 2016) of a convolution, one length per tap:
//! `W[:, j, :] = g[j] v[:, j, :] / |v[:, j, :]|`.

use candle_core::Result;
use candle_core::Tensor;

use crate::ops::cpu::Real;
use crate::ops::cpu::expect_shape;
use crate::ops::cpu::slice;
use crate::ops::cpu::tensor;
use crate::ops::cpu::with_real;
use crate::ops::cpu::write;
use crate::ops::weight::Weight;

/// Direction and length of the weights.
#[derive(Clone, Debug)]
pub struct WeightNorm {
    /// v, `[out, kernel * in]`, taps outermost.
    pub direction: Weight,
    /// g, `[1, 1, kernel]`.
    pub length: Weight,
}

impl WeightNorm {
    /// The weights, `[out, kernel * in]`.
    pub fn weight(&self) -> Result<Tensor> {
        let (outputs, width, kernel) = self.sizes()?;
        with_real!(self.direction.value, T => {
            let v: &[T] = &slice::<T>(&self.direction.value)?;
            let g: &[T] = &slice::<T>(&self.length.value)?;
            let norms = norms(v, width, kernel);
            let mut w = v.to_vec();
            for row in w.chunks_exact_mut(width) {
                for ((tap, &norm), &g) in row.chunks_exact_mut(width / kernel).zip(&norms).zip(g) {
                    let factor = T::of(g.wide() / norm);
                    tap.iter_mut().for_each(|w| *w *= factor);
                }
            }
            tensor(w, (outputs, width))
        })
    }

    /// Adds to the gradients of v and g, from that of the weights.
    ///
    /// With n = |v_j| and p = dW_j v_j: dg_j = p / n, dv_j = g_j / n (dW_j - v_j p / n^2).
    ///
    /// # Shapes
    /// `d_weight`: `[out, kernel * in]`
    pub fn backward(&self, d_weight: &Tensor) -> Result<()> {
        let (outputs, width, kernel) = self.sizes()?;
        expect_shape(
            "the gradient of normed weights",
            d_weight,
            &[outputs, width],
        )?;
        let (Some(d_direction), Some(d_length)) = (&self.direction.gradient, &self.length.gradient)
        else {
            return Ok(());
        };
        let taps = width / kernel;
        with_real!(d_weight, T => {
            let dw: &[T] = &slice::<T>(d_weight)?;
            let v: &[T] = &slice::<T>(&self.direction.value)?;
            let g: &[T] = &slice::<T>(&self.length.value)?;
            let norms = norms(v, width, kernel);

            let mut along = vec![0.0f64; kernel];
            for (dw, v) in dw.chunks_exact(width).zip(v.chunks_exact(width)) {
                for ((dw, v), along) in dw.chunks_exact(taps).zip(v.chunks_exact(taps)).zip(&mut along) {
                    *along += dw.iter().zip(v).map(|(dw, v)| dw.wide() * v.wide()).sum::<f64>();
                }
            }

            write::<T>(d_length, |d| {
                for ((d, along), norm) in d.iter_mut().zip(&along).zip(&norms) {
                    *d += T::of(along / norm);
                }
            })?;
            write::<T>(d_direction, |d| {
                for ((d, dw), v) in d.chunks_exact_mut(width).zip(dw.chunks_exact(width)).zip(v.chunks_exact(width)) {
                    for j in 0..kernel {
                        let scale = T::of(g[j].wide() / norms[j]);
                        let share = T::of(along[j] / (norms[j] * norms[j]));
                        for i in j * taps..(j + 1) * taps {
                            d[i] += scale * (dw[i] - v[i] * share);
                        }
                    }
                }
            })
        })
    }

    /// Outputs, width of a row, and taps.
    fn sizes(&self) -> Result<(usize, usize, usize)> {
        let (outputs, width) = self.direction.value.dims2()?;
        let kernel = self.length.value.elem_count();
        if kernel == 0 || !width.is_multiple_of(kernel) {
            candle_core::bail!("{kernel} lengths do not divide weights of width {width}");
        }
        Ok((outputs, width, kernel))
    }
}

/// Length of each tap's weights.
fn norms<T: Real>(v: &[T], width: usize, kernel: usize) -> Vec<f64> {
    let taps = width / kernel;
    let mut squares = vec![0.0f64; kernel];
    for row in v.chunks_exact(width) {
        for (tap, square) in row.chunks_exact(taps).zip(&mut squares) {
            *square += tap.iter().map(|v| v.wide() * v.wide()).sum::<f64>();
        }
    }
    squares.into_iter().map(f64::sqrt).collect()
}
