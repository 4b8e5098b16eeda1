//! Values of stored tensors: converted, and checked for what is not finite.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use half::bf16;
use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;

use maqam_base::error::Error;

/// A tensor as it lies in its file.
pub(crate) struct StoredTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

/// A number that a tensor is stored in.
pub(crate) trait Number: Copy + Default + Send {
    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Number for f32 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u16 = 0x7f80;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

impl Number for f16 {
    #[inline(always)]
    fn is_finite(self) -> bool {
        const EXPONENT: u16 = 0x7c00;
        self.to_bits() & EXPONENT != EXPONENT
    }
}

/// The values of a tensor's bytes; `None` if one of them is not finite. Each stretch is looked at
/// while it is in the cache.
pub(crate) fn converted<const N: usize, T: Number>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> T + Sync,
) -> Option<Vec<T>> {
    let mut values = vec![T::default(); bytes.len() / N];
    let is_finite = AtomicBool::new(true);
    values
        .par_chunks_mut(1 << 16)
        .zip(bytes.par_chunks(N << 16))
        .for_each(|(values, bytes)| {
            for (out, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                let mut word = [0; N];
                word.copy_from_slice(bytes);
                *out = value(word);
            }
            if !are_finite(values) {
                is_finite.store(false, Ordering::Relaxed);
            }
        });
    is_finite.into_inner().then_some(values)
}

/// Whether all values are finite; without a branch inside, so that it is done many at a time.
pub(crate) fn are_finite<T: Number>(values: &[T]) -> bool {
    values.chunks(1 << 12).all(|chunk| {
        chunk
            .iter()
            .fold(true, |all, value| all & value.is_finite())
    })
}

impl StoredTensor<'_> {
    /// Whether it is stored in a floating-point type that maqam reads.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The values as `f32`; `None` for other types.
    pub(crate) fn values(&self) -> Option<Vec<f32>> {
        fn all<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
            let mut values = vec![0.0; bytes.len() / N];
            values
                .par_chunks_mut(1 << 16)
                .zip(bytes.par_chunks(N << 16))
                .for_each(|(values, bytes)| {
                    for (out, bytes) in values.iter_mut().zip(bytes.chunks_exact(N)) {
                        let mut word = [0; N];
                        word.copy_from_slice(bytes);
                        *out = value(word);
                    }
                });
            values
        }
        match self.dtype {
            Dtype::F32 => Some(all(self.bytes, f32::from_le_bytes)),
            Dtype::F16 => Some(all(self.bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => Some(all(self.bytes, |b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }

    /// An error that says how many values are not finite and where the first is; `None` if all are
    /// finite, or none is a float.
    pub(crate) fn not_finite(&self) -> Option<Error> {
        fn all_finite<const N: usize, T: Number>(
            bytes: &[u8],
            value: impl Fn([u8; N]) -> T + Sync,
        ) -> bool {
            bytes.par_chunks(N << 16).all(|bytes| {
                bytes.chunks_exact(N).fold(true, |all, bytes| {
                    let mut word = [0; N];
                    word.copy_from_slice(bytes);
                    all & value(word).is_finite()
                })
            })
        }
        let are_finite = match self.dtype {
            Dtype::F32 => all_finite(self.bytes, f32::from_le_bytes),
            Dtype::F16 => all_finite(self.bytes, f16::from_le_bytes),
            Dtype::BF16 => all_finite(self.bytes, bf16::from_le_bytes),
            _ => return None,
        };
        if are_finite {
            return None;
        }
        describe_not_finite(&self.values()?, &self.shape)
    }
}

/// An error that says how many of a tensor's values are not finite and where the first is; `None`
/// if all are finite.
pub fn describe_not_finite(values: &[f32], shape: &[usize]) -> Option<Error> {
    let first = values.iter().position(|value| !value.is_finite())?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    let mut place = Vec::new();
    let mut rest = first;
    for &size in shape.iter().rev() {
        place.push(rest % size.max(1));
        rest /= size.max(1);
    }
    place.reverse();
    let what = if values[first].is_nan() {
        "NaN"
    } else {
        "an infinite value"
    };
    let others = match count {
        1 => String::new(),
        _ => format!("; {count} of its {} values are not finite", values.len()),
    };
    Some(Error::input(format!("holds {what} at {place:?}{others}")))
}
